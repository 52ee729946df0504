//! Says which replica answers first. Only tidiness rests on it: two replicas that both believe to be first lose races, nothing
//! else, for an answer is final once it is written.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::calls::{CallError, Calls};
use crate::{chain::Chain, pace::Pace};

/// Who answers first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// This replica does.
    First,
    /// Another one does, or we do not know yet.
    #[default]
    Behind,
}

/// Takes, renews and gives back the Lease.
pub(crate) struct Turn {
    pub(crate) calls: Calls,
    pub(crate) namespace: String,
    pub(crate) identity: String,
    pub(crate) pace: Pace,
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) stop: CancellationToken,
}

/// What we saw of another holder, and when it last changed. Its own times are not compared with ours.
struct Seen {
    lease: LeaseSpec,
    since: Instant,
}

impl Turn {
    pub(crate) async fn run(self) {
        let mut seen: Option<Seen> = None;
        let mut last_good = Instant::now();
        loop {
            match self.look(&mut seen).await {
                Ok(standing) => {
                    last_good = Instant::now();
                    self.stand(standing);
                }
                // Where there are no Leases for us, there is no order to keep; then we simply answer.
                Err(error) if error.is_forbidden() || error.is_unserved() => {
                    tracing::debug!(error = %Chain(&error), "no lease: answering without waiting for a turn");
                    self.stand(Standing::First);
                }
                Err(error) => {
                    tracing::debug!(error = %Chain(&error), "could not renew the lease");
                    if last_good.elapsed() > self.pace.of(LASTS) {
                        self.stand(Standing::Behind);
                    }
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.pace.pause(RENEW) => {}
            }
        }
        if *self.standing.borrow() == Standing::First
            && let Err(error) = self.give_back().await
        {
            tracing::debug!(error = %Chain(&error), "could not give the lease back; it will run out");
        }
    }

    fn stand(&self, standing: Standing) {
        let changed = self.standing.send_if_modified(|before| std::mem::replace(before, standing) != standing);
        if changed {
            tracing::info!(
                identity = self.identity,
                first = standing == Standing::First,
                "who answers first has changed"
            );
        }
    }

    async fn look(&self, seen: &mut Option<Seen>) -> Result<Standing, CallError> {
        let lease: Lease = match self.calls.get(&self.path(NAME)).await {
            Err(error) if error.is_absent() => return self.create().await,
            other => other?,
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder != self.identity && !holder.is_empty() && !self.has_run_out(&spec, seen) {
            return Ok(Standing::Behind);
        }
        let changes = spec.lease_transitions.unwrap_or(0);
        let changes = if holder == self.identity { changes } else { changes.saturating_add(1) };
        let taken = Lease { spec: Some(self.claim(&self.identity, changes)), ..lease };
        standing(self.calls.replace::<Lease>(&self.path(NAME), &taken).await)
    }

    /// A holder that has not renewed for as long as the Lease lasts, by our own watch.
    fn has_run_out(&self, spec: &LeaseSpec, seen: &mut Option<Seen>) -> bool {
        match seen {
            Some(seen) if seen.lease == *spec => seen.since.elapsed() > self.pace.of(LASTS),
            _ => {
                *seen = Some(Seen { lease: spec.clone(), since: Instant::now() });
                false
            }
        }
    }

    async fn create(&self) -> Result<Standing, CallError> {
        let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(self.claim(&self.identity, 0)) };
        standing(self.calls.create::<Lease>(&self.path(""), &lease).await)
    }

    async fn give_back(&self) -> Result<(), CallError> {
        let lease: Lease = self.calls.get(&self.path(NAME)).await?;
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            let changes = spec.lease_transitions.unwrap_or(0);
            let empty = Lease { spec: Some(self.claim("", changes)), ..lease };
            self.calls.replace::<Lease>(&self.path(NAME), &empty).await?;
        }
        Ok(())
    }

    fn claim(&self, holder: &str, changes: i32) -> LeaseSpec {
        let now = self.calls.clock().now();
        let stamp = now.and_then(|now| jiff::Timestamp::from_second(now.unix_timestamp()).ok()).map(MicroTime);
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: stamp.clone(),
            renew_time: stamp,
            lease_transitions: Some(changes),
            ..LeaseSpec::default()
        }
    }

    fn path(&self, name: &str) -> String {
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace);
        if name.is_empty() { leases } else { format!("{leases}/{name}") }
    }
}

/// A conflict means that another replica was quicker.
fn standing(written: Result<Lease, CallError>) -> Result<Standing, CallError> {
    match written {
        Ok(_) => Ok(Standing::First),
        Err(error) if error.is_conflict() => Ok(Standing::Behind),
        Err(error) => Err(error),
    }
}

const NAME: &str = "podmint-signer";
const LASTS: Duration = Duration::from_secs(15);
/// Two renewals may be lost.
const RENEW: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::{Fake, Instead, refusal};

    fn turn(fake: &Fake, identity: &str) -> Turn {
        Turn {
            calls: fake.calls(),
            namespace: "mint".to_owned(),
            identity: identity.to_owned(),
            pace: Pace::compressed(1000),
            standing: watch::Sender::default(),
            stop: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn one_is_first_until_it_gives_back_or_falls_silent() {
        let fake = Fake::new();
        let (one, two) = (turn(&fake, "one"), turn(&fake, "two"));
        let mut seen = None;
        assert_eq!(one.look(&mut None).await.unwrap(), Standing::First);
        assert_eq!(two.look(&mut seen).await.unwrap(), Standing::Behind);
        one.give_back().await.unwrap();
        assert_eq!(two.look(&mut seen).await.unwrap(), Standing::First);
        let mut seen = None;
        assert_eq!(one.look(&mut seen).await.unwrap(), Standing::Behind);
        tokio::time::sleep(one.pace.of(LASTS.saturating_add(RENEW))).await;
        assert_eq!(one.look(&mut seen).await.unwrap(), Standing::First);
    }

    #[tokio::test]
    async fn whoever_loses_the_race_for_it_is_behind() {
        let fake = Fake::new();
        fake.instead(|method, _, _| {
            let (code, status) = refusal(409, "AlreadyExists", "podmint-signer");
            (method == http::Method::POST).then_some(Instead::Json(code, status))
        });
        assert_eq!(turn(&fake, "one").look(&mut None).await.unwrap(), Standing::Behind);
    }

    #[tokio::test]
    async fn without_leases_everyone_answers() {
        let fake = Fake::new();
        fake.instead(|_, _, _| {
            let (code, status) = refusal(403, "Forbidden", "podmint-signer");
            Some(Instead::Json(code, status))
        });
        let turn = turn(&fake, "one");
        let (mut standing, stop) = (turn.standing.subscribe(), turn.stop.clone());
        tokio::spawn(turn.run());
        standing.wait_for(|standing| *standing == Standing::First).await.unwrap();
        stop.cancel();
    }
}
