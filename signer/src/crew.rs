//! Keeps a keeper of the CA and a watch of requests at work for each signer that is in force, while signers come, change and go.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{
        calls::Calls,
        keeper::{Authority, Keeper, Makeup},
        services::SeenServices,
        versions::Versions,
        watch::{News, Watch},
    },
    config::{Config, PodSigner},
    health::Health,
    metrics::Metrics,
    pace::Pace,
    roster::{Member, Roster},
    vitals::Vitals,
};

/// Everything that it gives to those at work.
pub(crate) struct Crew {
    pub(crate) calls: Calls,
    pub(crate) versions: Versions,
    pub(crate) namespace: String,
    pub(crate) pace: Pace,
    pub(crate) config: watch::Receiver<Config>,
    /// Whether that is what is in force, and not only what will be once it is known.
    pub(crate) is_known: bool,
    pub(crate) roster: Roster,
    pub(crate) authority_changes: watch::Sender<()>,
    pub(crate) news: mpsc::Sender<(usize, News)>,
    pub(crate) room: watch::Receiver<bool>,
    pub(crate) services: SeenServices,
    pub(crate) vitals: Vitals,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
}

impl Crew {
    /// For as long as the signer runs; else the name of the one who stopped working. What is in force at first counts for
    /// readiness; a signer that is added later does not, for the others go on whatever becomes of it.
    pub(crate) async fn run(mut self) -> &'static str {
        if !self.is_known {
            drop(self.config.changed().await);
        }
        let mut at_work = JoinSet::new();
        let (mut next, mut counts) = (0, true);
        loop {
            let config = self.config.borrow_and_update().clone();
            self.bring_up_to_date(&config, &mut next, counts, &mut at_work);
            counts = false;
            tokio::select! {
                changed = self.config.changed() => match changed {
                    Ok(()) => {}
                    // There will never be another one.
                    Err(_gone) => return supervise(&mut at_work).await,
                },
                name = supervise(&mut at_work) => return name,
            }
        }
    }

    fn bring_up_to_date(&self, config: &Config, next: &mut usize, counts: bool, at_work: &mut JoinSet<&'static str>) {
        let mut known: BTreeMap<_, _> = self
            .roster
            .policies()
            .into_iter()
            .map(|(number, signer)| (signer.name.clone(), (number, signer)))
            .collect();
        for signer in config.signers() {
            match known.remove(&signer.name) {
                Some((_, before)) if before == *signer => {}
                Some((number, before)) if is_same_signer(&before, signer) => {
                    tracing::info!(podsigner = %signer.name, signer = %signer.signer_name, "the PodSigner has changed");
                    self.roster.change(number, Arc::clone(signer));
                }
                before => {
                    if let Some((number, _)) = before {
                        self.dismiss(number);
                    }
                    tracing::info!(podsigner = %signer.name, signer = %signer.signer_name, "the PodSigner is in force");
                    self.engage(*next, config, signer, counts, at_work);
                    *next = next.saturating_add(1);
                }
            }
        }
        for (name, (number, signer)) in known {
            tracing::info!(
                podsigner = %name, signer = %signer.signer_name,
                "the PodSigner is gone: nothing more is issued under its name; its Secrets and its trust bundle stay"
            );
            self.dismiss(number);
        }
        if config.signers().iter().any(|signer| signer.wants_services()) {
            self.services.want();
        }
        self.roster.settled();
    }

    fn engage(
        &self,
        number: usize,
        config: &Config,
        signer: &Arc<PodSigner>,
        counts: bool,
        at_work: &mut JoinSet<&'static str>,
    ) {
        let authority = watch::Sender::new(Authority::unknown());
        let policy = watch::Sender::new(Arc::clone(signer));
        let listed = counts.then(|| self.health.token("certificate requests listed"));
        let signer_now = policy.subscribe();
        let (member, stop) = Member::new(policy, authority.subscribe(), listed);
        self.vitals.add(number);
        self.roster.add(number, member);
        let makeup = Makeup {
            calls: self.calls.clone(),
            versions: self.versions.clone(),
            namespace: self.namespace.clone(),
            signer: signer_now,
            domains: config.domains().clone(),
            pace: self.pace,
            out: authority,
            changes: self.authority_changes.clone(),
            vitals: self.vitals.clone(),
            number,
            token: counts.then(|| self.health.token("CA usable and its root published")),
        };
        at_work.spawn(until(stop.clone(), "keeper of the CA", Keeper::new(makeup).run()));
        let watch = Watch {
            calls: self.calls.clone(),
            versions: self.versions.clone(),
            signer: signer.signer_name.clone(),
            number,
            out: self.news.clone(),
            room: self.room.clone(),
            metrics: self.metrics.clone(),
            pace: self.pace,
        };
        at_work.spawn(until(stop, "watch of certificate requests", watch.run()));
    }

    fn dismiss(&self, number: usize) {
        self.roster.remove(number);
        self.vitals.remove(number);
    }
}

/// Whether keeper and watch can go on: what they depend on is the same, and only the policy is another. Longer lives are granted only
/// once the CA's plan says so, so that a keeper that starts anew writes it there before it hands out the right to sign.
fn is_same_signer(before: &PodSigner, after: &PodSigner) -> bool {
    after.lifetime.max_seconds <= before.lifetime.max_seconds
        && before.signer_name == after.signer_name
        && before.trust_domain == after.trust_domain
        && before.authority == after.authority
}

async fn until(stop: CancellationToken, name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    tokio::select! {
        () = stop.cancelled() => DISMISSED,
        () = part => name,
    }
}

/// Until somebody at work breaks or stops by himself. While there is nobody, for ever.
async fn supervise(at_work: &mut JoinSet<&'static str>) -> &'static str {
    while let Some(ended) = at_work.join_next().await {
        match ended {
            Ok(DISMISSED) => {}
            Ok(name) => return name,
            // As if it had happened here: whoever runs us is told.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => {}
            },
        }
    }
    std::future::pending().await
}

const DISMISSED: &str = "";
