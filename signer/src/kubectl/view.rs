//! What the signer would decide, over facts read with the user's own rights: by the very function that the signer decides by.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use super::{
    Installation,
    doctor::{Unseen, configs},
};
use crate::{
    chain::Chain,
    cluster::{
        calls::{CallError, Calls},
        clock::ServerClock,
        lookup::{Lookup, Wants},
    },
    config::{Config, ConfigError, PodSigner},
    names::{NameError, Namespace, SerialNumber, SignerName},
    pipeline::{
        Answer, Claim, Decision, Fact, Freshness, Hold, Observed, Profile, Services, answer::words, holds::CONFIG_MAP,
    },
};

/// Why there is nothing to say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotSee {
    /// The kubeconfig makes no client.
    #[error("could not make a client for the API server")]
    Client(#[source] kube::Error),
    /// Something could not be read.
    #[error("could not read {0}: {1}")]
    Unread(String, String),
    /// The configuration is not good.
    #[error("the configuration is not good")]
    Config(#[from] ConfigError),
    /// A name is none.
    #[error("a name is not good")]
    Name(#[from] NameError),
    /// The API server has not told the time.
    #[error("the API server does not tell the time")]
    NoTime,
}

/// An installation, seen with its user's rights.
pub(super) struct View {
    pub(super) calls: Calls,
    pub(super) installation: Installation,
    signers: Vec<Arc<PodSigner>>,
    lookup: Lookup,
}

pub(super) fn calls(config: kube::Config) -> Result<Calls, CannotSee> {
    Ok(Calls::new(kube::Client::try_from(config).map_err(CannotSee::Client)?, ServerClock::default()))
}

pub(super) fn unread(what: &str, error: &CallError) -> CannotSee {
    CannotSee::Unread(what.to_owned(), Chain(error).to_string())
}

impl View {
    /// `yaml` is a configuration to go by in place of the one in the cluster.
    pub(super) async fn open(
        config: kube::Config,
        installation: Installation,
        yaml: Option<String>,
    ) -> Result<Self, CannotSee> {
        let calls = calls(config)?;
        let configs = match yaml {
            Some(yaml) => vec![Config::parse(&yaml, &installation.domains())?],
            None => {
                configs(&calls, &installation).await.map_err(|Unseen { what, why, .. }| CannotSee::Unread(what, why))?
            }
        };
        let signers = configs.iter().flat_map(Config::signers).cloned().collect();
        let lookup = Lookup::new(calls.clone(), installation.namespace.as_str());
        Ok(Self { calls, installation, signers, lookup })
    }

    pub(super) fn is_ours(&self, signer_name: &str) -> bool {
        signer_name.split_once('/').is_some_and(|(domain, _)| domain == self.installation.domain.as_str())
    }

    pub(super) fn signers(&self) -> impl Iterator<Item = &Arc<PodSigner>> {
        self.signers.iter()
    }

    pub(super) fn signer(&self, name: &SignerName) -> Option<&Arc<PodSigner>> {
        self.signers.iter().find(|signer| signer.signer_name == *name)
    }

    pub(super) fn now(&self) -> Result<OffsetDateTime, CannotSee> {
        self.calls.clock().now().ok_or(CannotSee::NoTime)
    }

    /// The facts, as the signer reads them when it is in doubt.
    pub(super) async fn observe(&self, claim: Arc<Claim>, services: &Services) -> Result<Observed, CannotSee> {
        let begun = tokio::time::Instant::now();
        let seen = self.lookup.observe(claim, Freshness::Quorum, begun, Wants::ALL);
        let (mut seen, holds) = tokio::try_join!(seen, self.lookup.holds(begun))
            .map_err(|error| CannotSee::Unread(error.to_string(), Chain(&*error.source).to_string()))?;
        seen.holds = Some(holds.ok_or_else(|| not_allowed(&self.installation.namespace))?);
        seen.services = match &seen.pod {
            Fact::Found(pod, _) => Some(services.selecting(&seen.claim.target.namespace, &pod.labels)),
            Fact::Absent(_) => None,
        };
        Ok(seen)
    }

    /// As the signer decides, with a CA that never ends.
    pub(super) fn decide(&self, seen: Observed) -> Result<Result<Profile, Answer>, CannotSee> {
        let now = self.now()?;
        let far = now.saturating_add(Duration::days(30));
        let signer = self.signer(&seen.claim.signer);
        Ok(match words(seen, signer, Some(far), now, SerialNumber::from_random([0; 16])) {
            Ok(profile) => Ok(profile),
            Err(Decision::Answer(answer)) => Err(answer),
            // Everything was read by quorum, so that there is nothing to read again.
            Err(Decision::LookAgain(_)) => Err(Answer::Hold(Hold::PodNotFound)),
        })
    }
}

pub(super) fn not_allowed(namespace: &Namespace) -> CannotSee {
    let what = format!("what is on hold, ConfigMap {CONFIG_MAP} of namespace {namespace}");
    CannotSee::Unread(what, "you lack the right to `get` it: see the role podmint-user".to_owned())
}
