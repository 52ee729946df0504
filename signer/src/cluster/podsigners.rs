//! The PodSigner objects: listed, watched, and listed again when one has changed. What is in force goes out as a [`Config`], what
//! became of each object as [`Judged`]. While they cannot be read, what was in force stays.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use super::{
    calls::{CallError, Calls, stay_away},
    following::{SILENCE, STREAM, encode},
    lines::{Line, Lines},
};
use crate::{
    chain::Chain,
    config::{
        Config, Domains,
        object::{InForce, Judged, Object, judge},
    },
    health::Token,
    metrics::{JUDGEMENTS, Metrics, StateLabels},
    pace::{Backoff, Pace, chance},
};

/// What became of all objects, the oldest first.
pub(crate) type Judgement = Arc<[Judged]>;

/// Watches the objects.
pub(crate) struct PodSigners {
    calls: Calls,
    domains: Domains,
    metrics: Metrics,
    pace: Pace,
    in_force: InForce,
    config: watch::Sender<Config>,
    judgement: watch::Sender<Judgement>,
    /// Held until they have been listed once.
    token: Option<Token>,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    items: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(default)]
    resource_version: String,
}

#[derive(Debug, thiserror::Error)]
enum PodSignersError {
    #[error("there is no CRD podsigners.podmint.dev: apply deploy/helm/podmint/crds, or name a file with --config")]
    NotServed,
    #[error("could not list podsigners")]
    List(#[source] CallError),
    #[error("could not watch podsigners")]
    Open(#[source] CallError),
    #[error("the watch of podsigners broke off: {0}")]
    Broken(String),
}

impl PodSignersError {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::List(error) | Self::Open(error) => error.retry_after(),
            Self::NotServed | Self::Broken(_) => None,
        }
    }
}

impl PodSigners {
    pub(crate) fn new(calls: Calls, domains: Domains, metrics: Metrics, pace: Pace, token: Token) -> Self {
        let config = watch::Sender::new(Config::of(Vec::new(), &domains));
        let (in_force, judgement, token) = (InForce::new(), watch::Sender::new(Arc::from([])), Some(token));
        Self { calls, domains, metrics, pace, in_force, config, judgement, token }
    }

    /// What is in force. It changes for the first time when they have been listed.
    pub(crate) fn config(&self) -> watch::Receiver<Config> {
        self.config.subscribe()
    }

    pub(crate) fn judgement(&self) -> watch::Receiver<Judgement> {
        self.judgement.subscribe()
    }

    /// For as long as the signer runs.
    pub(crate) async fn run(mut self) {
        let (mut attempt, mut said) = (0_u32, None);
        loop {
            let begun = Instant::now();
            let error = match self.look().await {
                Ok(()) => {
                    (attempt, said) = (0, None);
                    // Many changes at once are one to us.
                    tokio::time::sleep(self.pace.of(AT_MOST_EVERY).saturating_sub(begun.elapsed())).await;
                    continue;
                }
                Err(error) => error,
            };
            self.metrics.watch_restarted("error");
            let text = Chain(&error).to_string();
            if said.as_ref() != Some(&text) {
                tracing::warn!(error = text, "cannot see PodSigners; what was in force stays");
                said = Some(text);
            }
            tokio::time::sleep(stay_away(error.retry_after(), self.pace.of(RETRY.wait(attempt, chance())))).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Lists, and waits until there is a reason to list again.
    async fn look(&mut self) -> Result<(), PodSignersError> {
        let list: List = self.calls.get(PATH).await.map_err(|error| {
            if error.is_unserved() { PodSignersError::NotServed } else { PodSignersError::List(error) }
        })?;
        let objects = list.items.unwrap_or_default().into_iter().filter_map(|item| self.read(item)).collect();
        self.take_up(objects);
        self.wait_for_change(&list.metadata.resource_version).await
    }

    fn read(&self, item: Value) -> Option<Object> {
        match serde_json::from_value(item) {
            Ok(object) => Some(object),
            Err(error) => {
                self.metrics.malformed_objects.inc();
                tracing::warn!(%error, "skipped a PodSigner that cannot be read");
                None
            }
        }
    }

    fn take_up(&mut self, objects: Vec<Object>) {
        let judged = judge(objects, &self.in_force, &self.domains);
        for one in &judged {
            let before =
                self.judgement.borrow().iter().find(|before| before.is_of(one)).and_then(|it| it.refused.clone());
            if let Some(refused) = one.refused.as_ref().filter(|refused| Some(*refused) != before.as_ref()) {
                tracing::error!(
                    podsigner = one.object.metadata.name,
                    reason = refused.reason,
                    last_good_stays = one.in_force.is_some(),
                    "a PodSigner is not in force as it stands: {}",
                    refused.message
                );
            }
        }
        for (state, count) in counted(&judged) {
            self.metrics.podsigners.get_or_create(&StateLabels { state }).set(count);
        }
        let in_force = judged.iter().filter_map(|one| Some((one.object.metadata.uid.clone(), one.in_force.clone()?)));
        self.in_force = in_force.collect();
        let signers: Vec<_> = judged.iter().filter_map(|one| one.in_force.clone()).collect();
        self.judgement.send_replace(judged.into());
        self.config.send_replace(Config::of(signers, &self.domains));
        drop(self.token.take());
    }

    async fn wait_for_change(&self, from: &str) -> Result<(), PodSignersError> {
        let path = format!("{PATH}?watch=true&timeoutSeconds={}&resourceVersion={}", STREAM.as_secs(), encode(from));
        let mut lines = match self.calls.open(&path).await {
            Ok(body) => Lines::new(body),
            // Too old by now: what is listed next is not.
            Err(error) if error.is_expired() => return Ok(()),
            Err(error) => return Err(PodSignersError::Open(error)),
        };
        match lines.next(SILENCE).await {
            // Whatever it says, it is a reason to list.
            Line::Whole(_) | Line::TooLong | Line::End(None) => Ok(()),
            Line::Silence => Err(PodSignersError::Broken("it was silent".to_owned())),
            Line::End(Some(error)) => Err(PodSignersError::Broken(error)),
        }
    }
}

/// How many are in force as they stand, how many in an older form, and how many not at all.
fn counted(judged: &[Judged]) -> [(&'static str, i64); 3] {
    let count = |is_in_force: bool, is_refused: bool| {
        let is_so = |one: &&Judged| one.in_force.is_some() == is_in_force && one.refused.is_some() == is_refused;
        i64::try_from(judged.iter().filter(is_so).count()).unwrap_or(i64::MAX)
    };
    let [in_force, last_good, refused] = JUDGEMENTS;
    [(in_force, count(true, false)), (last_good, count(true, true)), (refused, count(false, true))]
}

pub(crate) const PATH: &str = "/apis/podmint.dev/v1alpha1/podsigners";

const AT_MOST_EVERY: Duration = Duration::from_millis(200);
const RETRY: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) };

#[cfg(test)]
mod tests;
