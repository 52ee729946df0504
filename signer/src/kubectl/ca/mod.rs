//! `kubectl podmint rotate|pause|resume|withdraw` and `kubectl podmint ca reset|backup|restore`: what the administrator of a CA asks of
//! the signer, and what he does to its Secrets himself.
//!
//! What is asked is an annotation of the PodSigner, written with the user's own rights; GitOps leaves it alone, for it is in no
//! manifest. The signer answers in the status. Nothing here signs, makes a key or decides what a CA does next.

pub mod args;
pub mod backup;
mod depends;
pub mod order;
pub mod reset;
pub mod restore;

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Installation, doctor::list};
use crate::{
    authority::SecretData,
    chain::Chain,
    cluster::{
        bundle::{self, Bundle},
        calls::{CallError, Calls},
        clock::ServerClock,
        podsigners::PATH,
        secrets::Secrets,
        versions::{Served, Versions},
    },
    config::{
        PodSigner,
        object::{InForce, Judged, Object, judge},
    },
    names::{DnsName, NameError, clip, nearest},
    pace::Pace,
    resource::{AuthorityStatus, CommandStatus},
};

/// What came of a command.
#[derive(Debug)]
pub struct Outcome {
    /// For people.
    pub text: String,
    /// Whether what was asked for is done, or has begun.
    pub is_done: bool,
}

impl Outcome {
    /// 0: it is done, or has begun. 1: it is not, and the text says why.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        u8::from(!self.is_done)
    }
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The kubeconfig makes no client.
    #[error("could not make a client for the API server")]
    Client(#[source] kube::Error),
    /// The user lacks a right.
    #[error(
        "you may not {what} ({why}). The ClusterRole podmint-ca-administrator gives that right, or, where it is about the CA's Secrets, \
         the Role of that name in the signer's namespace; docs/podsigner.md says how to bind them"
    )]
    Forbidden {
        /// What the user may not.
        what: String,
        /// The API server's words.
        why: String,
    },
    /// Something could not be read or written.
    #[error("could not {what}: {why}")]
    Failed {
        /// What.
        what: String,
        /// Why not.
        why: String,
    },
    /// There is no PodSigner at all.
    #[error(
        "there are no PodSigners in this cluster. Does its signer read a file (--config)? Then write what you ask for on the signing \
         Secret: kubectl --namespace {namespace} annotate secret podmint-ca podmint.dev/…; docs/runbooks.md tells them all"
    )]
    NoPodSigners {
        /// Where the signer runs.
        namespace: String,
    },
    /// There is no such PodSigner.
    #[error("there is no PodSigner {name}{}; there are {}", meant(.nearest.as_deref()), .all.join(", "))]
    NoSuchPodSigner {
        /// The one that was asked for.
        name: String,
        /// The one that was meant, perhaps.
        nearest: Option<String>,
        /// Those that there are.
        all: Vec<String>,
    },
    /// What was asked for makes no sense as the CA is now.
    #[error("{0}")]
    Unfit(String),
    /// A name is none.
    #[error("the signer domain is none")]
    Name(#[from] NameError),
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

/// The cluster as its user reaches it, and the PodSigner that he named.
struct Desk {
    calls: Calls,
    served: Served,
    installation: Installation,
    judged: Judged,
}

impl Desk {
    /// Finds the PodSigner, by its own name or by its signer name.
    async fn open(mut config: kube::Config, installation: Installation, name: &str) -> Result<Self, CaError> {
        // A refusal is an answer here; nothing is gained by asking again.
        config.default_retry = false;
        let client = kube::Client::try_from(config).map_err(CaError::Client)?;
        Self::over(Calls::new(client, ServerClock::default()), installation, name).await
    }

    async fn over(calls: Calls, installation: Installation, name: &str) -> Result<Self, CaError> {
        let served = Versions::new(calls.clone(), Pace::real()).discover().await;
        let served = served.map_err(|error| failed("find the served API versions", &error))?;
        let all: Vec<Object> = match list(&calls, PATH).await {
            Err(error) if error.is_unserved() => Vec::new(),
            all => all.map_err(|error| failed("list podsigners", &error))?,
        };
        let names: Vec<String> = all.iter().map(|object| object.metadata.name.clone()).collect();
        let mut judged = judge(all, &InForce::new(), &installation.domains());
        let signer_name = |one: &Judged| one.in_force.as_ref().map(|signer| signer.signer_name.to_string());
        let is_it = |one: &Judged| one.object.metadata.name == name || signer_name(one).as_deref() == Some(name);
        match judged.iter().position(is_it) {
            Some(place) => Ok(Self { calls, served, installation, judged: judged.swap_remove(place) }),
            None if names.is_empty() => {
                Err(CaError::NoPodSigners { namespace: installation.namespace.as_str().to_owned() })
            }
            None => {
                let nearest = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
                Err(CaError::NoSuchPodSigner { name: clip(name), nearest, all: names })
            }
        }
    }

    fn name(&self) -> &str {
        &self.judged.object.metadata.name
    }

    /// What is in force of it, as far as its spec alone tells.
    fn signer(&self) -> Result<&PodSigner, CaError> {
        self.judged.in_force.as_deref().ok_or_else(|| {
            let why = self.judged.refused.as_ref().map_or("", |refused| refused.message.as_str());
            CaError::Unfit(format!("PodSigner {} is refused, and has no CA: {why}", self.name()))
        })
    }

    /// What the signer says of its CA.
    fn authority(&self) -> Result<&AuthorityStatus, CaError> {
        let status = &self.judged.object.status;
        status.authority.as_ref().ok_or_else(|| {
            let bad = status.conditions.iter().find(|it| it.kind == "Degraded" && it.status == "True");
            let why = bad.or_else(|| status.conditions.iter().find(|it| it.kind == "Ready"));
            let why = why.map_or("no signer has written its status: is one running?", |it| it.message.as_str());
            CaError::Unfit(format!("no CA of PodSigner {} can be seen: {why}", self.name()))
        })
    }

    /// One of its CA's certificates.
    fn part(&self, phase: &str) -> Result<Option<&crate::resource::GenerationStatus>, CaError> {
        Ok(self.authority()?.generations.iter().find(|part| part.phase == phase))
    }

    /// Its trust bundle, as just read.
    async fn bundle(&self) -> Result<Option<Bundle>, CaError> {
        let Some(version) = self.served.bundles else {
            return Err(CaError::Unfit("the API server serves no clustertrustbundles".to_owned()));
        };
        let read = bundle::ours(&self.calls, version, self.signer()?).await;
        read.map_err(|error| failed("get clustertrustbundles", &error))
    }

    fn secrets(&self) -> Secrets {
        Secrets { calls: self.calls.clone(), namespace: self.installation.namespace.as_str().to_owned() }
    }

    async fn secret(&self, name: &DnsName) -> Result<Option<Secret>, CaError> {
        let read = self.secrets().read(name).await;
        read.map_err(|error| failed(&format!("read the Secret {name} of {}", self.installation.namespace), &error))
    }

    /// The API server's time, as Kubernetes writes it.
    fn now(&self) -> Result<String, CaError> {
        let now = self.calls.clock().now().and_then(|now| jiff::Timestamp::from_second(now.unix_timestamp()).ok());
        now.map(|now| now.to_string()).ok_or_else(|| CaError::Unfit("the API server does not tell the time".to_owned()))
    }

    /// Writes annotations, and waits for what the signer says of them.
    async fn ask(&self, annotations: &[(&str, Option<String>)]) -> Result<Outcome, CaError> {
        let wanted: serde_json::Map<String, Value> =
            annotations.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let body = json!({"metadata": {"annotations": wanted}});
        let path = format!("{PATH}/{}", self.name());
        let written: Result<Value, _> = self.calls.merge(&path, &body).await;
        written.map_err(|error| failed(&format!("annotate PodSigner {}", self.name()), &error))?;
        let asked: Vec<(&str, &str)> =
            annotations.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        let begun = Instant::now();
        loop {
            let object: Object =
                self.calls.get(&path).await.map_err(|error| failed("read the PodSigner back", &error))?;
            let of = |(name, value): &(&str, &str)| {
                let commands = &object.status.commands;
                commands.iter().find(|it| it.annotation == *name && it.value == clip(value)).cloned()
            };
            let answers: Vec<CommandStatus> = asked.iter().filter_map(of).collect();
            let is_paused = object.status.authority.as_ref().is_some_and(|authority| authority.paused);
            let heard = answers.len() == asked.len() && (!asked.is_empty() || !is_paused);
            let late = begun.elapsed() > ANSWER;
            if late || heard && answers.iter().all(|it| it.progress != "Waiting") {
                return Ok(told(heard, &answers));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn told(heard: bool, answers: &[CommandStatus]) -> Outcome {
    let mut text = String::new();
    for CommandStatus { annotation, progress, message, .. } in answers {
        text.push_str(&format!("{annotation}: {progress}, {message}\n"));
    }
    if !heard {
        text.push_str(
            "it is written, and no signer has answered yet: is one running? `kubectl podmint doctor` tells\n",
        );
    }
    Outcome { text, is_done: heard && answers.iter().all(|it| it.progress != "Refused") }
}

/// An error of a call, in the words of whoever may help.
fn failed(what: &str, error: &CallError) -> CaError {
    let (what, why) = (what.to_owned(), Chain(error).to_string());
    if error.is_forbidden() { CaError::Forbidden { what, why } } else { CaError::Failed { what, why } }
}

fn data(secret: &Secret) -> SecretData {
    secret.data.clone().unwrap_or_default()
}

/// The signer looks every few seconds, and writes a status each second at most.
const ANSWER: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests;
