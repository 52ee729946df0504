//! `kubectl podmint requests`: what is pending, and why. Each request is decided by the signer's own function, over facts read with the
//! user's rights; where neither facts nor rules hold it, its PodSigner's status says what does.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{
    Installation,
    doctor::{list, text},
    shown::{Shown, age, table},
    view::{CannotSee, View, unread},
};
use crate::{
    cluster::{
        podsigners::PATH as PODSIGNERS,
        services,
        versions::{Version, Versions},
        wire::{RequestObject, State},
    },
    names::Namespace,
    pace::Pace,
    pipeline::{Claim, Services, Unclaimed},
};

/// What is pending.
#[derive(Debug)]
pub struct Pending(Vec<Request>);

#[derive(Debug)]
struct Request {
    namespace: String,
    name: String,
    pod: String,
    node: String,
    signer: String,
    seconds: i64,
    /// What the signer will say: `held`, `denied`, or `issued` where nothing of the request's own holds it.
    answer: &'static str,
    reason: &'static str,
    message: String,
}

/// Looks at all requests of one namespace, or of all.
///
/// # Errors
/// When something that they depend on cannot be read.
pub async fn pending(
    config: kube::Config,
    installation: Installation,
    namespace: Option<&Namespace>,
) -> Result<Pending, CannotSee> {
    let view = View::open(config, installation, None).await?;
    let versions = Versions::new(view.calls.clone(), Pace::real());
    let served = versions.discover().await.map_err(|error| unread(WHAT, &error))?;
    let Some(version) = served.requests else {
        return Err(CannotSee::Unread(
            WHAT.to_owned(),
            "the API server serves none: `kubectl podmint doctor` says why".to_owned(),
        ));
    };
    let within = namespace.map(|namespace| format!("namespaces/{namespace}/")).unwrap_or_default();
    let path = format!("/apis/certificates.k8s.io/{}/{within}podcertificaterequests", version.as_str());
    let all: Vec<RequestObject> = list(&view.calls, &path).await.map_err(|error| unread(WHAT, &error))?;
    let pending: Vec<RequestObject> = all
        .into_iter()
        .filter(|object| {
            object.state() == State::Pending && object.signer_name().is_some_and(|name| view.is_ours(name))
        })
        .collect();
    let mut services = BTreeMap::new();
    for object in &pending {
        if let Ok(target) = object.target()
            && !services.contains_key(&target.namespace)
        {
            let read = services::of_namespace(&view.calls, &target.namespace).await;
            services.insert(target.namespace, read.map_err(|error| unread("Services", &error))?);
        }
    }
    let states = states(&view).await;
    let (view, services, states) = (&view, &services, &states);
    let requests = stream::iter(pending.into_iter().map(|object| look(view, object, version, services, states)));
    let requests: Vec<Option<Request>> = requests.buffered(AT_A_TIME).try_collect().await?;
    let mut requests: Vec<Request> = requests.into_iter().flatten().collect();
    requests.sort_by_key(|request| Reverse(request.seconds));
    Ok(Pending(requests))
}

/// Why each PodSigner issues nothing, by its name.
async fn states(view: &View) -> BTreeMap<String, String> {
    let objects: Vec<Value> = list(&view.calls, PODSIGNERS).await.unwrap_or_default();
    let read = |object: &Value| {
        let conditions = object.pointer("/status/conditions")?.as_array()?;
        let ready = conditions.iter().find(|one| text(one, "/type") == "Ready")?;
        let waits = text(object, "/status/state") != "Issuing";
        waits.then(|| (text(object, "/spec/signerName").to_owned(), text(ready, "/message").to_owned()))
    };
    objects.iter().filter_map(read).collect()
}

async fn look(
    view: &View,
    object: RequestObject,
    version: Version,
    services: &BTreeMap<Namespace, Services>,
    states: &BTreeMap<String, String>,
) -> Result<Option<Request>, CannotSee> {
    let (answer, reason, message) = match Claim::parse(&object, version) {
        Ok(claim) => {
            let none = Services::default();
            let services = services.get(&claim.target.namespace).unwrap_or(&none);
            let signer = claim.signer.clone();
            match view.decide(view.observe(Arc::new(claim), services).await?)? {
                Err(answer) => (answer.kind(), answer.label(), answer.message()),
                Ok(_) => match states.get(signer.as_str()) {
                    Some(message) => ("held", "signer_waits", message.clone()),
                    None => ("issued", "soon", SOON.to_owned()),
                },
            }
        }
        // It cannot be addressed; the signer skips it.
        Err(Unclaimed::Unaddressable(_)) => return Ok(None),
        Err(Unclaimed::Denied(_, denial)) => ("denied", denial.label(), denial.to_string()),
        Err(Unclaimed::KeyNotVisible(_, hold)) => ("held", hold.label(), hold.to_string()),
    };
    let Ok(target) = object.target() else { return Ok(None) };
    let created = object.created().map_or(0, jiff::Timestamp::as_second);
    let word = |word: Option<&str>| word.unwrap_or_default().to_owned();
    Ok(Some(Request {
        namespace: target.namespace.to_string(),
        name: target.name.to_string(),
        pod: word(object.spec.pod_name.text()),
        node: word(object.spec.node_name.text()),
        signer: word(object.signer_name()),
        seconds: view.now()?.unix_timestamp().saturating_sub(created).max(0),
        answer,
        reason,
        message,
    }))
}

impl Shown for Pending {
    /// 0: nothing waits. 1: something does.
    fn exit_status(&self) -> u8 {
        u8::from(!self.0.is_empty())
    }

    fn to_json(&self) -> Value {
        let one = |request: &Request| {
            let Request { namespace, name, pod, node, signer, seconds, answer, reason, message } = request;
            json!({
                "namespace": namespace, "name": name, "pod": pod, "node": node, "signerName": signer, "ageSeconds": seconds,
                "answer": answer, "reason": reason, "message": message,
            })
        };
        json!({"requests": self.0.iter().map(one).collect::<Value>()})
    }

    fn text(&self, wide: bool) -> String {
        if self.0.is_empty() {
            return "nothing is pending\n".to_owned();
        }
        let row = |request: &Request| {
            let Request { namespace, name, pod, node, signer, seconds, answer, reason, message } = request;
            let mut row = vec![namespace.clone(), pod.clone(), age(*seconds), format!("{answer}: {reason}")];
            if wide {
                row.extend([name.clone(), node.clone(), signer.clone()]);
            }
            row.push(message.clone());
            row
        };
        let rows: Vec<Vec<String>> = self.0.iter().map(row).collect();
        let head: &[&str] = if wide {
            &["NAMESPACE", "POD", "AGE", "ANSWER", "REQUEST", "NODE", "SIGNER", "WHY"]
        } else {
            &["NAMESPACE", "POD", "AGE", "ANSWER", "WHY"]
        };
        table(head, &rows)
    }
}

const WHAT: &str = "certificate requests";
const SOON: &str = "nothing of its own holds it: the signer answers in a moment; if not, `kubectl podmint status` and `doctor` say more";
/// Requests looked at at a time, so that many do not take minutes and the API server does not notice.
const AT_A_TIME: usize = 16;
