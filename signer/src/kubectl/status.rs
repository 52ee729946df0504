//! `kubectl podmint status`: how an installation is, in a few lines: its signer, its PodSigners, what is pending and what is on hold.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::{
    Installation,
    doctor::{list, text, time_of},
    shown::{Shown, age, plain, table},
    view::{CannotSee, calls, not_allowed, unread},
};
use crate::{
    cluster::{
        podsigners::PATH as PODSIGNERS,
        versions::Versions,
        wire::{RequestObject, State},
    },
    pace::Pace,
    pipeline::{Holds, holds::CONFIG_MAP},
};

/// How it is.
#[derive(Debug)]
pub struct Status {
    /// The replica that answers first, and how many seconds ago it was heard.
    first: Option<(String, i64)>,
    signers: Vec<Signer>,
    held: usize,
    malformed: usize,
}

#[derive(Debug)]
struct Signer {
    name: String,
    signer_name: String,
    state: String,
    usable_until: String,
    phase: String,
    pending: usize,
    /// What is wrong, where something is.
    message: String,
}

/// Looks.
///
/// # Errors
/// When something cannot be read.
pub async fn status(config: kube::Config, installation: &Installation) -> Result<Status, CannotSee> {
    let calls = calls(config)?;
    let namespace = &installation.namespace;
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/podmint-signer");
    let lease = match calls.get::<Value>(&lease).await {
        Err(error) if error.is_absent() => Value::Null,
        read => read.map_err(|error| unread("the signer's Lease", &error))?,
    };
    let map = match calls.get::<ConfigMap>(&format!("/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}")).await {
        Err(error) if error.is_absent() => ConfigMap::default(),
        Err(error) if error.is_forbidden() => return Err(not_allowed(namespace)),
        read => read.map_err(|error| unread("what is on hold", &error))?,
    };
    let holds = Holds::read(&map.data.unwrap_or_default());
    let objects: Vec<Value> = match list(&calls, PODSIGNERS).await {
        Err(error) if error.is_unserved() => Vec::new(),
        read => read.map_err(|error| unread("PodSigners", &error))?,
    };
    let served = Versions::new(calls.clone(), Pace::real()).discover().await;
    let mut pending: BTreeMap<String, usize> = BTreeMap::new();
    if let Some(version) = served.map_err(|error| unread("the served API versions", &error))?.requests {
        let path = format!("/apis/certificates.k8s.io/{}/podcertificaterequests", version.as_str());
        let requests: Vec<RequestObject> =
            list(&calls, &path).await.map_err(|error| unread("certificate requests", &error))?;
        for request in requests.iter().filter(|request| request.state() == State::Pending) {
            let count = pending.entry(request.signer_name().unwrap_or_default().to_owned()).or_default();
            *count = count.saturating_add(1);
        }
    }
    let now = calls.clock().now().ok_or(CannotSee::NoTime)?;
    let heard = lease.pointer("/spec/renewTime").and_then(Value::as_str).and_then(time_of);
    let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str).filter(|holder| !holder.is_empty());
    let first = holder
        .zip(heard)
        .map(|(holder, heard)| (holder.to_owned(), now.unix_timestamp().saturating_sub(heard.unix_timestamp()).max(0)));
    let signers = objects.iter().map(|object| Signer::read(object, &pending)).collect();
    Ok(Status { first, signers, held: holds.all().len(), malformed: holds.malformed().len() })
}

impl Signer {
    fn read(object: &Value, pending: &BTreeMap<String, usize>) -> Self {
        let word = |at: &str| text(object, at).to_owned();
        let mut conditions = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        let trouble = conditions.find(|one| {
            matches!((text(one, "/type"), text(one, "/status")), ("Ready", "False") | ("Degraded", "True"))
        });
        let message = trouble.map(|one| text(one, "/message").to_owned()).unwrap_or_default();
        let signer_name = word("/spec/signerName");
        let pending = pending.get(&signer_name).copied().unwrap_or_default();
        Self {
            name: word("/metadata/name"),
            signer_name,
            state: word("/status/state"),
            usable_until: word("/status/authority/usableUntil"),
            phase: word("/status/authority/phase"),
            pending,
            message,
        }
    }
}

impl Shown for Status {
    /// 0: every PodSigner issues, and every hold is understood. 1: not so.
    fn exit_status(&self) -> u8 {
        let well = self.signers.iter().all(|signer| signer.message.is_empty()) && !self.signers.is_empty();
        u8::from(!well || self.malformed > 0 || self.first.is_none())
    }

    fn to_json(&self) -> Value {
        let Self { first, signers, held, malformed } = self;
        let one = |signer: &Signer| {
            let Signer { name, signer_name, state, usable_until, phase, pending, message } = signer;
            json!({
                "name": name, "signerName": signer_name, "state": state, "usableUntil": usable_until, "rotation": phase,
                "pending": pending, "message": message,
            })
        };
        json!({
            "first": first.as_ref().map(|(holder, seconds)| json!({"replica": holder, "heardSecondsAgo": seconds})),
            "podSigners": signers.iter().map(one).collect::<Value>(),
            "holds": {"inForce": held, "malformed": malformed},
        })
    }

    /// Wide: with what is wrong beside each.
    fn text(&self, wide: bool) -> String {
        let Self { first, signers, held, malformed } = self;
        let row = |signer: &Signer| {
            let Signer { name, signer_name, state, usable_until, phase, pending, message } = signer;
            let mut row = vec![
                name.clone(),
                signer_name.clone(),
                state.clone(),
                pending.to_string(),
                usable_until.clone(),
                phase.clone(),
            ];
            row.extend(wide.then(|| message.clone()));
            row
        };
        let rows: Vec<Vec<String>> = signers.iter().map(row).collect();
        let head: &[&str] = &["PODSIGNER", "SIGNER", "STATE", "PENDING", "CA USABLE UNTIL", "ROTATION", "MESSAGE"];
        let mut out = if rows.is_empty() {
            "there is no PodSigner: nobody gets a certificate\n".to_owned()
        } else {
            table(if wide { head } else { head.split_last().map_or(head, |(_, others)| others) }, &rows)
        };
        for signer in signers.iter().filter(|signer| !wide && !signer.message.is_empty()) {
            out.push_str(&format!("{}: {}\n", plain(&signer.name), plain(&signer.message)));
        }
        out.push_str(&match first {
            Some((holder, seconds)) => format!("first replica: {}, heard {} ago\n", plain(holder), age(*seconds)),
            None => "no signer runs, or none ever did: nobody holds its Lease\n".to_owned(),
        });
        out.push_str(&match (held, malformed) {
            (held, 0) => format!("on hold: {held}\n"),
            (held, malformed) => {
                format!("on hold: {held}; {malformed} entries HOLD NOBODY, see `kubectl podmint hold`\n")
            }
        });
        out
    }
}
