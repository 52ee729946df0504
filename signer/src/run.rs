//! Joins the parts, runs them until told to stop, and stops them in order: no new request is begun, what is in flight is
//! finished, the Lease is given back.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

pub use crate::cluster::{calls::client, guard::Guard};
use crate::{
    audit::{AuditError, Clerk, Log, Sink},
    chain::Chain,
    cluster::{
        calls::Calls,
        clock::ServerClock,
        events::Notices,
        guard::{GuardState, Lookout},
        lease::{Standing, Turn},
        lookup::Lookup,
        podsigners::PodSigners,
        services::{SeenServices, ServiceWatch},
        status::StatusWriter,
        versions::Versions,
    },
    config::{Config, Domains},
    controller::{Controller, live::Live, walk::Parts},
    crew::Crew,
    health::{self, Health},
    metrics::Metrics,
    pace::Pace,
    roster::Roster,
    vitals::Vitals,
};

/// Everything that a signer is made of.
pub struct Options {
    /// The way to the API server, with the rights of `deploy/kustomize/rbac.yaml`: what [`client`] gives, or another whose own retries are
    /// off, for the signer knows better when to come back.
    pub client: kube::Client,
    /// Where the PodSigners are: which signer names there are, and who gets certificates by them.
    pub source: Source,
    /// Where the Secrets of the CA and the Lease are.
    pub namespace: String,
    /// The name of this replica.
    pub identity: String,
    /// Where the audit log goes.
    pub audit: Sink,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    pub listen: Option<TcpListener>,
    /// Whether the admission guard has to be there.
    pub guard: Guard,
    /// How long waits are.
    pub pace: Pace,
}

/// Where the PodSigners are. A change is taken up while the signer runs.
pub enum Source {
    /// In documents. Whoever reads them sends others when they change.
    Documents(watch::Receiver<Config>),
    /// In the cluster, as objects.
    Objects(Domains),
}

impl Source {
    fn domains(&self) -> Domains {
        match self {
            Self::Documents(config) => config.borrow().domains().clone(),
            Self::Objects(domains) => domains.clone(),
        }
    }
}

impl From<Config> for Source {
    /// Documents that never change.
    fn from(config: Config) -> Self {
        Self::Documents(watch::channel(config).1)
    }
}

/// Why a signer could not run, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The audit log cannot be opened.
    #[error("could not open the audit log: nothing is signed without it")]
    Audit(#[source] AuditError),
    /// The listener cannot be used.
    #[error("could not serve metrics and health")]
    Listen(#[source] std::io::Error),
    /// A part of the signer panicked.
    #[error("a part of the signer failed")]
    Part(#[source] JoinError),
    /// A part of the signer ended although nobody told it to.
    #[error("the {0} ended by itself")]
    Ended(&'static str),
}

/// Answers requests until `stop` is cancelled.
///
/// # Errors
/// When it cannot begin, or when a part of it breaks. Trouble with the cluster is none: the signer waits for it to pass.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), RunError> {
    let Options { client, source, namespace, identity, audit, listen, guard, pace } = options;
    let (metrics, health) = (Metrics::new(), Health::new());
    let log = Log::open(audit).map_err(RunError::Audit)?;
    let mut tasks = JoinSet::new();
    // Until the parts hold tokens of their own: a signer that never saw an API server is not ready.
    let starting = health.token("API server seen");
    if let Some(listener) = listen {
        listener.set_nonblocking(true).map_err(RunError::Listen)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(RunError::Listen)?;
        let serve = health::serve(listener, health.clone(), metrics.clone(), stop.clone());
        tasks.spawn(named("health server", serve));
    }

    let calls = Calls::new(client, ServerClock::new(&metrics));
    let versions = Versions::new(calls.clone(), pace);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = first_discovery(&versions) => {}
    }

    let guard_state = watch::Sender::new(GuardState::Unknown);
    let standing = watch::Sender::new(Standing::behind());
    let changes = watch::Sender::new(());
    let room = watch::Sender::new(true);
    let (news_in, news) = mpsc::channel(NEWS);
    let (notices, writer) = Notices::new(calls.clone(), identity.clone(), metrics.clone(), pace);
    let vitals = Vitals::new(metrics.clone());
    let roster = Roster::new();
    let domains = source.domains();
    let (config, is_known) = match source {
        Source::Documents(config) => (config, true),
        Source::Objects(domains) => {
            let token = health.token("PodSigners listed");
            let podsigners = PodSigners::new(calls.clone(), domains, metrics.clone(), pace, token);
            let config = podsigners.config();
            let status = StatusWriter {
                calls: calls.clone(),
                judgement: podsigners.judgement(),
                roster: roster.clone(),
                authority_changes: changes.subscribe(),
                guard: guard_state.subscribe(),
                standing: standing.subscribe(),
                notices: notices.clone(),
                pace,
                written: BTreeMap::new(),
            };
            tasks.spawn(named("watch of PodSigners", podsigners.run()));
            tasks.spawn(named("writer of their status", status.run()));
            (config, false)
        }
    };
    let services = SeenServices::new();
    // Of objects it is not known yet.
    let asked = is_known && config.borrow().signers().iter().any(|signer| signer.wants_services());
    let service_watch = ServiceWatch {
        calls: calls.clone(),
        seen: services.clone(),
        metrics: metrics.clone(),
        pace,
        token: asked.then(|| health.token("Services listed")),
    };
    tasks.spawn(named("watch of Services", service_watch.run()));

    let crew = Crew {
        calls: calls.clone(),
        versions: versions.clone(),
        namespace: namespace.clone(),
        pace,
        config,
        is_known,
        roster: roster.clone(),
        authority_changes: changes.clone(),
        news: news_in,
        room: room.subscribe(),
        services: services.clone(),
        vitals,
        metrics: metrics.clone(),
        health: health.clone(),
    };
    tasks.spawn(crew.run());

    let lookout = Lookout {
        calls: calls.clone(),
        guard,
        domain: domains.signer.clone(),
        state: guard_state.clone(),
        metrics: metrics.clone(),
        pace,
        token: Some(health.token("admission guard seen")),
    };
    tasks.spawn(named(MAY_END, lookout.run()));
    tasks.spawn(named(MAY_END, writer.run()));
    let (turn, desk) = Turn::new(calls.clone(), &namespace, &identity, pace, standing.clone(), stop.clone());
    let turn = tokio::spawn(turn.run());

    let parts = Arc::new(Parts {
        calls: calls.clone(),
        versions,
        lookup: Lookup::new(calls, &namespace),
        services,
        roster: roster.clone(),
        authority_changes: changes,
        guard: guard_state.subscribe(),
        clerk: Clerk::new(log, &identity),
        notices,
        metrics,
        pace,
        desk,
        live: Mutex::new(Live::default()),
        holds: Mutex::default(),
        tracers: Mutex::default(),
    });
    tasks.spawn(named(MAY_END, look_at_holds(Arc::clone(&parts))));
    drop(starting);
    // What would be held for the very first moment need not be looked at twice.
    let settled = tokio::time::timeout(pace.of(SETTLE), settle(guard_state.subscribe(), roster));
    tokio::select! {
        () = stop.cancelled() => {}
        _ = settled => {}
    }

    let controller = Controller::new(parts, health, news, standing.subscribe(), room);
    let mut controller = tokio::spawn(controller.run(stop.clone()));
    let ended = tokio::select! {
        ended = &mut controller => ended.map_err(RunError::Part),
        error = broken(&mut tasks, &stop) => Err(error),
    };
    controller.abort();
    stop.cancel();
    if tokio::time::timeout(GIVE_BACK, turn).await.is_err() {
        tracing::debug!("the lease was not given back in time; it will run out");
    }
    tasks.shutdown().await;
    ended
}

async fn first_discovery(versions: &Versions) {
    match tokio::time::timeout(SETTLE, versions.discover()).await {
        Ok(Ok(served)) => tracing::info!(?served, "the API server"),
        Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "the API server cannot be asked yet; trying on"),
        Err(_) => tracing::warn!("the API server does not answer yet; trying on"),
    }
}

/// So that the metrics show what is on hold where no request comes by, as with a replica that is not first.
async fn look_at_holds(parts: Arc<Parts>) {
    loop {
        tokio::time::sleep(parts.pace.of(LOOK_AT_HOLDS)).await;
        match parts.lookup.holds(tokio::time::Instant::now()).await {
            Ok(holds) => parts.note_holds(&holds.unwrap_or_default()),
            Err(error) => tracing::debug!(error = %Chain(&error), "could not look at what is on hold"),
        }
    }
}

/// Until the guard is known and every CA can sign.
async fn settle(mut guard: watch::Receiver<GuardState>, roster: Roster) {
    drop(guard.wait_for(|state| *state != GuardState::Unknown).await);
    drop(roster.changes().wait_for(|changes| *changes > 0).await);
    for mut authority in roster.authorities() {
        drop(authority.wait_for(|authority| authority.issuer.is_ok()).await);
    }
}

/// Until a part breaks. When all is well, for ever.
async fn broken(tasks: &mut JoinSet<&'static str>, stop: &CancellationToken) -> RunError {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Err(error) => return RunError::Part(error),
            Ok(MAY_END) => {}
            Ok(_) if stop.is_cancelled() => {}
            Ok(name) => return RunError::Ended(name),
        }
    }
    std::future::pending().await
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

/// The name of parts that may end while the others go on.
const MAY_END: &str = "";
/// News on their way to the controller; a watch that brings more waits.
const NEWS: usize = 256;
/// How long a start waits for what it can do without.
const SETTLE: Duration = Duration::from_secs(2);
const LOOK_AT_HOLDS: Duration = Duration::from_secs(15);
/// With the 3.5 s that the controller may take for what is in flight: five seconds in all.
const GIVE_BACK: Duration = Duration::from_secs(1);
