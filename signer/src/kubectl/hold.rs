//! `kubectl podmint hold` and `release`: nothing new for a pod, a ServiceAccount, a node or a namespace, from now on and until it is
//! released. Holds are entries of one ConfigMap of the signer's namespace, which every replica reads for each request. What was issued
//! before stays good until its end: it is listed.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Installation,
    shown::{Shown, plain},
    view::{CannotSee, View, not_allowed, unread},
};
use crate::{
    chain::Chain,
    cluster::calls::{CallError, Calls},
    names::nearest,
    pipeline::{
        HeldBy, Holds, Scope,
        holds::{CONFIG_MAP, MalformedHold},
    },
};

mod valid;

use self::valid::Valid;

/// What is to be done.
#[derive(Debug)]
pub enum Order {
    /// List what is on hold.
    List,
    /// Hold this.
    Hold {
        /// Whose pods.
        scope: Scope,
        /// Why.
        reason: Option<String>,
        /// Also when it is not there.
        absent: bool,
    },
    /// Release this.
    Release(Scope),
    /// Release the entry of this key, which cannot be understood.
    ReleaseKey(String),
    /// Release everything.
    ReleaseAll,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotHold {
    /// Something could not be read.
    #[error(transparent)]
    Unseen(#[from] CannotSee),
    /// It is not there.
    #[error("there is no {0}: nothing was held. To hold what is not there (yet), add --absent")]
    NotThere(String),
    /// It is not on hold.
    #[error("{what} is not on hold{}", .meant.as_ref().map(|meant| format!("; did you mean {meant}?")).unwrap_or_default())]
    NotHeld {
        /// What was to be released.
        what: String,
        /// What is on hold and may have been meant.
        meant: Option<String>,
    },
    /// The ConfigMap could not be written.
    #[error("could not write ConfigMap {CONFIG_MAP} of the signer's namespace, so that nothing has changed: {0}")]
    Unwritten(String),
}

/// What is on hold now, as far as it was asked for.
#[derive(Debug)]
pub struct Standing {
    done: &'static str,
    holds: Vec<(HeldBy, Result<Valid, String>)>,
    malformed: Vec<MalformedHold>,
}

/// Does it.
///
/// # Errors
/// When it could not be done. What is only not seen, of what is still valid, stands in the result.
pub async fn hold(config: kube::Config, installation: Installation, order: Order) -> Result<Standing, CannotHold> {
    let calls = super::view::calls(config.clone())?;
    let map = Map { calls: calls.clone(), installation: installation.clone() };
    let (done, wanted) = match order {
        Order::List => ("", None),
        Order::Hold { scope, reason, absent } => {
            if !absent {
                is_there(&calls, &scope).await?;
            }
            // Its reply sets the clock.
            map.read().await?;
            let since = calls.clock().now().and_then(|now| now.replace_nanosecond(0).ok()?.format(&Rfc3339).ok());
            let hold = HeldBy { key: scope.key(), scope, reason, since };
            map.change(|entries| {
                entries.insert(hold.key.clone(), hold.text());
                Ok(())
            })
            .await?;
            ("", Some(hold.scope))
        }
        Order::Release(scope) => {
            map.change(|entries| {
                let held = Holds::read(entries);
                let keys = held.all().iter().filter(|hold| hold.scope == scope).map(|hold| &hold.key);
                let keys: Vec<String> = keys.cloned().collect();
                if keys.is_empty() {
                    let others: Vec<String> = held.all().iter().map(|hold| hold.scope.to_string()).collect();
                    let meant = nearest(&scope.to_string(), others.iter().map(String::as_str)).map(str::to_owned);
                    return Err(CannotHold::NotHeld { what: scope.to_string(), meant });
                }
                entries.retain(|key, _| !keys.contains(key));
                Ok(())
            })
            .await?;
            (RELEASED, None)
        }
        Order::ReleaseKey(key) => {
            map.change(|entries| match entries.remove(&key) {
                Some(_) => Ok(()),
                None => Err(CannotHold::NotHeld { what: format!("an entry {key:?}"), meant: None }),
            })
            .await?;
            (RELEASED, None)
        }
        Order::ReleaseAll => {
            map.change(|entries| {
                entries.clear();
                Ok(())
            })
            .await?;
            (RELEASED, None)
        }
    };
    let now = Holds::read(&map.read().await?);
    let mut holds = Vec::new();
    let shown = now.all().iter().filter(|hold| wanted.as_ref().is_none_or(|wanted| *wanted == hold.scope));
    let view = View::open(config, installation, None).await;
    for hold in shown {
        let valid = match &view {
            Ok(view) => valid::under(view, &hold.scope).await.map_err(|error| Chain(&error).to_string()),
            Err(error) => Err(Chain(error).to_string()),
        };
        holds.push((hold.clone(), valid));
    }
    Ok(Standing { done, holds, malformed: now.malformed().to_vec() })
}

/// A name that is spelt wrongly would hold nobody. Whoever may not look is not kept from holding.
async fn is_there(calls: &Calls, scope: &Scope) -> Result<(), CannotHold> {
    let name = scope.name();
    let path = match (scope, scope.namespace()) {
        (Scope::Pod(..), Some(namespace)) => format!("/api/v1/namespaces/{namespace}/pods/{name}"),
        (Scope::ServiceAccount(..), Some(namespace)) => {
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}")
        }
        (Scope::Node(_), _) => format!("/api/v1/nodes/{name}"),
        (Scope::Pod(..) | Scope::ServiceAccount(..) | Scope::Namespace(_), _) => format!("/api/v1/namespaces/{name}"),
    };
    match calls.get::<Value>(&path).await {
        Err(error) if error.is_absent() => Err(CannotHold::NotThere(scope.to_string())),
        Err(error) if error.is_forbidden() => Ok(()),
        Err(error) => Err(unread(&scope.to_string(), &error).into()),
        Ok(_) => Ok(()),
    }
}

/// The ConfigMap.
struct Map {
    calls: Calls,
    installation: Installation,
}

impl Map {
    async fn read(&self) -> Result<BTreeMap<String, String>, CannotHold> {
        Ok(self.get().await?.and_then(|map| map.data).unwrap_or_default())
    }

    async fn get(&self) -> Result<Option<ConfigMap>, CannotHold> {
        match self.calls.get(&format!("{}/{CONFIG_MAP}", self.path())).await {
            Ok(map) => Ok(Some(map)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) if error.is_forbidden() => Err(not_allowed(&self.installation.namespace).into()),
            Err(error) => Err(unread("what is on hold", &error).into()),
        }
    }

    /// Replaces only what was read, and reads again when somebody was faster.
    async fn change(
        &self,
        mut edit: impl FnMut(&mut BTreeMap<String, String>) -> Result<(), CannotHold>,
    ) -> Result<(), CannotHold> {
        let mut last = String::new();
        for _ in 0..TRIES {
            let before = self.get().await?;
            let is_new = before.is_none();
            let mut map = before.unwrap_or_else(|| ConfigMap {
                metadata: ObjectMeta {
                    name: Some(CONFIG_MAP.to_owned()),
                    labels: Some([("app.kubernetes.io/name".to_owned(), "podmint".to_owned())].into()),
                    ..ObjectMeta::default()
                },
                ..ConfigMap::default()
            });
            edit(map.data.get_or_insert_default())?;
            let written: Result<ConfigMap, CallError> = if is_new {
                self.calls.create(&self.path(), &map).await
            } else {
                self.calls.replace(&format!("{}/{CONFIG_MAP}", self.path()), &map).await
            };
            match written {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() || error.is_absent() => last = Chain(&error).to_string(),
                Err(error) => return Err(CannotHold::Unwritten(Chain(&error).to_string())),
            }
        }
        Err(CannotHold::Unwritten(last))
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.installation.namespace)
    }
}

impl Shown for Standing {
    /// 0: all of it is in force and was seen. 1: an entry holds nobody. 2: what is still valid could not be read.
    fn exit_status(&self) -> u8 {
        match (self.malformed.is_empty(), self.holds.iter().all(|(_, valid)| valid.is_ok())) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 0,
        }
    }

    fn to_json(&self) -> Value {
        let holds = self.holds.iter().map(|(hold, valid)| {
            let (key, value) = match valid {
                Ok(valid) => ("stillValid", valid.to_json()),
                Err(why) => ("notSeen", json!(why)),
            };
            let mut object = hold.to_json();
            if let Some(fields) = object.as_object_mut() {
                fields.insert(key.to_owned(), value);
            }
            object
        });
        let malformed =
            self.malformed.iter().map(|MalformedHold { key, problem }| json!({"key": key, "problem": problem}));
        json!({"holds": holds.collect::<Value>(), "malformed": malformed.collect::<Value>()})
    }

    fn text(&self, wide: bool) -> String {
        let mut out = self.done.to_owned();
        for MalformedHold { key, problem } in &self.malformed {
            let line = format!(
                "HOLDS NOBODY: entry {key:?} of ConfigMap {CONFIG_MAP}: {problem}; mend it, or `kubectl podmint release --entry {key}`"
            );
            out.push_str(&plain(&line));
            out.push('\n');
        }
        if self.done.is_empty() && self.holds.is_empty() && self.malformed.is_empty() {
            out.push_str("nothing is on hold\n");
        }
        for (hold, valid) in if self.done.is_empty() { self.holds.as_slice() } else { &[] } {
            out.push_str(&format!("{}: nothing is issued or renewed\n", plain(&hold.to_string())));
            match valid {
                Ok(valid) => out.push_str(&valid.text(wide)),
                Err(why) => out.push_str(&format!("  NOT SEEN, what is still valid: {}\n", plain(why))),
            }
        }
        out
    }
}

const RELEASED: &str = "released: what waits is answered within a quarter of a minute\n";
/// Two people who hold something at the same moment are a busy day.
const TRIES: usize = 8;

/// To the second, as Kubernetes writes it.
fn text(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}
