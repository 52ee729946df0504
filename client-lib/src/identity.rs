//! The living identity: starts with a first good snapshot, then a task follows the files.
//!
//! Configs and acceptors hold the identity, so it lives, and reloads, as long as anything made from it.

use crate::authorize::Authorizer;
use crate::client::ClientBuilder;
use crate::connections::Connections;
use crate::files::{Disk, FileSource};
use crate::health::{self, Health, Problem, WatchMode};
use crate::load::{LoadError, Loader, Seen};
use crate::meter;
use crate::rotation::Rotations;
use crate::server::ServerBuilder;
use crate::snapshot::{self, EmptyTrust, Fault, OwnChain, Rules, Snapshot, Step};
use crate::source::Source;
use crate::spiffe::TrustDomain;
use crate::tls;
use crate::verify::Moment;
use crate::watch;
use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls_pki_types::UnixTime;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::{AbortHandle, JoinHandle};

/// The identity of this pod: credential and trust that follow their files.
///
/// Cheap to clone. The task that follows the files ends with the last clone and the last config, acceptor, connector or stream made from it.
#[derive(Debug, Clone)]
pub struct PodIdentity {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the task, the handshakes and the application share.
#[derive(Debug)]
pub(crate) struct Shared {
    current: ArcSwap<Snapshot>,
    pub(crate) changes: tokio::sync::watch::Sender<Arc<Snapshot>>,
    pub(crate) loader: Arc<Loader>,
    pub(crate) clock: Arc<dyn TimeProvider>,
    skew: Duration,
    pub(crate) poll: Duration,
    pub(crate) connections: Arc<Connections>,
    /// One reading at a time; holds what the last one found.
    latest: Mutex<Latest>,
}

#[derive(Debug)]
struct Latest {
    problems: Vec<Problem>,
    own_chain: OwnChain,
    seen: Seen,
    watch: WatchMode,
    loads: u64,
    failed: u64,
    /// The last reading on behalf of a peer with an unknown issuer.
    asked: Option<Instant>,
}

/// At most one reading a second on behalf of strangers.
const ASKED_PAUSE: Duration = Duration::from_secs(1);

impl PodIdentity {
    /// What new handshakes use now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.running.shared.snapshot()
    }

    /// How well it is.
    pub fn health(&self) -> Health {
        self.running.shared.health()
    }

    /// What changes from now on.
    pub fn rotations(&self) -> Rotations {
        Rotations::new(self.running.shared.changes.subscribe())
    }

    /// The changes since a generation that is current or was so a moment ago: the first comes at once if it was left already.
    #[cfg(feature = "hyper")]
    pub(crate) fn rotations_since(&self, generation: u64) -> Rotations {
        Rotations::since(self.running.shared.changes.subscribe(), generation)
    }

    /// Reads the files now, as the watch and the poll would.
    pub async fn reload(&self) -> Health {
        watch::reload(&self.running.shared).await;
        self.health()
    }

    /// A server that lets in whom the authorizer allows.
    pub fn server(&self, authorizer: Authorizer) -> ServerBuilder {
        ServerBuilder::new(self.clone(), authorizer)
    }

    /// A client that talks to whom the authorizer allows.
    pub fn client(&self, authorizer: Authorizer) -> ClientBuilder {
        ClientBuilder::new(self.clone(), authorizer)
    }

    /// A rustls config for servers that are no SPIFFE workloads, such as a database: whoever answers must have a certificate for the **DNS name or IP address that was dialled**
    /// (RFC 9525), under the anchors of the bundle that [`Source::trust`] named for `domain`, and no other bundle's. Our own credential is shown if the server asks for one.
    ///
    /// No SPIFFE ID is looked at and no authorizer asked. Give such an authority a bundle of its own, under a name of your choosing: `db.internal`, say. The config follows the files
    /// in each handshake; nothing is resumed. Its CAs must say that they sign certificates (keyCertSign), which `openssl req -x509` leaves out unless told. `tls12` speaks TLS 1.2, too. Connections made with it are not closed when trust ends.
    ///
    /// # Errors
    /// No bundle was named for `domain`, or the crypto provider has no TLS 1.3.
    pub fn dns_client_config(&self, domain: TrustDomain, tls12: bool) -> Result<rustls::ClientConfig, rustls::Error> {
        if self.snapshot().anchors(&domain).is_none() {
            return Err(rustls::Error::General(format!("no trust bundle was named for {domain}")));
        }
        tls::by_name(self, domain, tls12)
    }

    /// Reads the files now, for programs without tokio; it blocks for as long as that takes.
    pub fn reload_blocking(&self) -> Health {
        self.running.shared.reload();
        self.health()
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.running.shared.loader.provider
    }

    pub(crate) fn clock(&self) -> &Arc<dyn TimeProvider> {
        &self.running.shared.clock
    }

    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.running.shared.connections
    }

    pub(crate) fn moment(&self) -> Moment {
        self.running.shared.moment()
    }

    /// A reading on behalf of a peer whose issuer or trust domain is unknown; a newer snapshot if there is one.
    pub(crate) fn newer_than(&self, generation: u64) -> Option<Arc<Snapshot>> {
        self.running.shared.reload_if_rested();
        let now = self.snapshot();
        (now.generation() > generation).then_some(now)
    }
}

impl Shared {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    fn moment(&self) -> Moment {
        Moment { now: now(&*self.clock), skew: self.skew }
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        // Only plain assignments happen under this lock: what a panic left behind is whole.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_watch(&self, watch: WatchMode) {
        self.latest().watch = watch;
    }

    /// Reads the files and publishes what is new. True if it would be worth trying again soon.
    pub(crate) fn reload(&self) -> bool {
        let mut latest = self.latest();
        self.reload_locked(&mut latest)
    }

    fn reload_if_rested(&self) {
        // Whoever reads already reads for us, too.
        let Ok(mut latest) = self.latest.try_lock() else { return };
        let rested = latest.asked.is_none_or(|last| last.elapsed() >= ASKED_PAUSE);
        if rested {
            latest.asked = Some(Instant::now());
            self.reload_locked(&mut latest);
        }
    }

    fn reload_locked(&self, latest: &mut Latest) -> bool {
        let loaded = self.loader.load();
        let seen = loaded.seen;
        let before = self.snapshot();
        let moment = self.moment();
        let rules = Rules { loader: &self.loader, moment };
        let Step { next, faults, own_chain } = snapshot::advance(Some(&before), loaded, rules);
        let again = faults.iter().any(|fault| fault.error.is_passing());

        latest.loads = latest.loads.saturating_add(1);
        if !faults.is_empty() {
            latest.failed = latest.failed.saturating_add(1);
        }
        if own_chain != latest.own_chain && matches!(own_chain, OwnChain::Untrusted(_)) {
            tracing::warn!(id = %before.id(), "our own certificate does not verify against our own trust bundle");
        }
        // A volume that cannot be read now was written when it was last seen.
        latest.seen = Seen { written: seen.written.or(latest.seen.written), ..seen };
        latest.own_chain = own_chain;
        latest.problems = problems(&faults, &latest.problems, moment.now);
        meter::loaded(&latest.problems);
        if let Some(next) = next {
            tracing::info!(
                generation = next.generation(),
                id = %next.id(),
                serial = next.credential().serial(),
                not_after = next.credential().not_after().as_secs(),
                "credentials reloaded"
            );
            let shrinks = shrinks(&before, &next);
            self.current.store(Arc::clone(&next));
            // Only now: the task may be awake on another thread, and must look with what is current.
            if shrinks {
                self.connections.recheck_soon();
            }
            self.changes.send_replace(next);
        }
        meter::health(&self.health_of(latest), &self.snapshot());
        again
    }

    /// Ends the connections whose time is over.
    pub(crate) fn end_what_is_over(&self) {
        self.connections.end_due();
        self.connections.end_expired(self.moment().now);
    }

    /// Looks at every open connection: who still passes. Thousands of them take most of a second.
    pub(crate) fn recheck(&self) {
        let ended = self.connections.recheck(&self.snapshot(), self.moment(), &self.loader.provider);
        tracing::info!(ended, open = self.connections.len(), "looked at every open connection again");
    }

    fn health(&self) -> Health {
        self.health_of(&self.latest())
    }

    fn health_of(&self, latest: &Latest) -> Health {
        let snapshot = self.snapshot();
        let now = self.moment().now;
        let credential = snapshot.credential();
        Health {
            id: snapshot.id().clone(),
            generation: snapshot.generation(),
            loaded_at: snapshot.loaded_at(),
            serial: credential.serial().to_owned(),
            not_after: credential.not_after(),
            age: health::age(credential, now),
            updates: health::updates(&snapshot, &latest.seen, now),
            own_chain: latest.own_chain.clone(),
            problems: latest.problems.clone(),
            loads: latest.loads,
            failed_loads: latest.failed,
            watch: latest.watch,
            connections: self.connections.len(),
            key_is_world_readable: latest.seen.world_readable,
        }
    }
}

/// Whether somebody who was believed before may be believed no more. Growth asks for no second look.
fn shrinks(before: &Snapshot, after: &Snapshot) -> bool {
    before.trust().any(|(domain, anchors)| {
        let left = after.anchors(domain);
        anchors.iter().any(|anchor| left.is_none_or(|left| !left.iter().any(|one| one == anchor)))
    })
}

/// A problem keeps its first time while its reason stays; a new one is logged once.
fn problems(faults: &[Fault], before: &[Problem], now: UnixTime) -> Vec<Problem> {
    faults
        .iter()
        .map(|fault| {
            let (domain, reason) = (fault.domain.clone(), fault.error.reason());
            let known = before.iter().find(|old| old.domain == domain && old.reason == reason);
            let message = describe(&fault.error);
            if known.is_none() {
                tracing::warn!(reason, "kept the last good credentials: {message}");
            }
            Problem { domain, reason, message, since: known.map_or(now, |old| old.since) }
        })
        .collect()
}

/// The message with the system's word, where there is one. Our own causes are in the message already.
pub(crate) fn describe(error: &LoadError) -> String {
    if let LoadError::Read { source, .. } = error { format!("{error}: {source}") } else { error.to_string() }
}

/// An unknown time is the beginning of time: nothing is valid then, so nothing is let in.
pub(crate) fn now(clock: &dyn TimeProvider) -> UnixTime {
    clock.current_time().unwrap_or(UnixTime::since_unix_epoch(Duration::ZERO))
}

/// Chooses how an identity starts and follows its files. Made by [`Source::builder`].
#[derive(Debug)]
pub struct Builder {
    source: Source,
    provider: Option<Arc<CryptoProvider>>,
    clock: Arc<dyn TimeProvider>,
    files: Arc<dyn FileSource>,
    poll: Duration,
    timeout: Duration,
    skew: Duration,
    empty: EmptyTrust,
    post_quantum: bool,
}

/// Why an identity could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No crypto provider was passed in and none is compiled in.
    #[error("no crypto provider: turn on the feature `aws-lc-rs` or `ring`, or pass one in")]
    NoProvider,
    /// [`Builder::require_post_quantum`], and the crypto provider has no such key exchange.
    #[error("the crypto provider has no post-quantum key exchange: aws-lc-rs has one, ring does not")]
    NoPostQuantum,
    /// The thread of [`Builder::start_blocking`] could not be had.
    #[error("could not start the thread that follows the files")]
    Thread(#[source] io::Error),
    /// No trust bundle was named.
    #[error("no trust bundle was named: nobody could be let in")]
    NoTrust,
    /// A trust domain was named twice.
    #[error("two trust bundles were named for {0}: each trust domain has one")]
    AmbiguousTrust(TrustDomain),
    /// Nothing good came within the time-out.
    #[error("no usable credentials after {waited:?}: {problems}\n{hint}")]
    Unready {
        /// How long it waited.
        waited: Duration,
        /// What was wrong at the end.
        problems: String,
        /// What to look at.
        hint: &'static str,
        /// The stable name of each problem.
        reasons: Vec<&'static str>,
    },
}

impl Builder {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            provider: None,
            clock: Arc::new(DefaultTimeProvider),
            files: Arc::new(Disk),
            poll: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            skew: Duration::from_secs(60),
            empty: EmptyTrust::KeepLast,
            post_quantum: false,
        }
    }

    /// The crypto provider; by default `aws-lc-rs` if that feature is on, else `ring`. A process-wide default is neither read nor set.
    #[must_use]
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// The clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn TimeProvider>) -> Self {
        self.clock = clock;
        self
    }

    /// What reads the files.
    #[must_use]
    pub fn files(mut self, files: Arc<dyn FileSource>) -> Self {
        self.files = files;
        self
    }

    /// How often the files are read even if no event came (10 s).
    #[must_use]
    pub fn poll_interval(mut self, every: Duration) -> Self {
        self.poll = every.clamp(Duration::from_millis(10), DAY);
        self
    }

    /// How long to wait for a first good snapshot (30 s). Files are there before a container starts, so a long wait helps nobody.
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How much our clock may be behind the signer's at a certificate's `notBefore` (60 s). At `notAfter` there is no allowance.
    #[must_use]
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.skew = skew;
        self
    }

    /// What an emptied trust bundle means.
    #[must_use]
    pub fn empty_trust(mut self, empty: EmptyTrust) -> Self {
        self.empty = empty;
        self
    }

    /// Refuses every key exchange that a quantum computer could undo later: only those with ML-KEM (FIPS 203) are left, so peers without one are not talked to.
    #[must_use]
    pub fn require_post_quantum(mut self) -> Self {
        self.post_quantum = true;
        self
    }

    /// Reads everything, waits for the first good snapshot, and then follows the files. Needs a tokio runtime; see [`Builder::start_blocking`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self) -> Result<PodIdentity, StartError> {
        self.run().await.map(|(identity, _task)| identity)
    }

    async fn run(self) -> Result<(PodIdentity, JoinHandle<()>), StartError> {
        let shared = self.first().await?;
        let following = tokio::spawn(watch::follow(Arc::clone(&shared)));
        let running = Running { shared, task: following.abort_handle() };
        Ok((PodIdentity { running: Arc::new(running) }, following))
    }

    /// The same for programs without tokio: one thread of its own follows the files until the identity, and all that was made from it, is gone.
    ///
    /// Use it with [`ServerBuilder::config`] and [`ClientBuilder::config`], which need no runtime. Do not call it on a thread of a runtime: it blocks.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_blocking(self) -> Result<PodIdentity, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("podmint".into());
        let follow = move || {
            runtime.block_on(async {
                match self.run().await {
                    Ok((identity, task)) => {
                        // Whoever waits below has it, or it is dropped here and ends the task.
                        drop(tell.send(Ok(identity)));
                        drop(task.await); // aborted with the last clone, wherever that is dropped
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            });
        };
        drop(thread.spawn(follow).map_err(StartError::Thread)?);
        told.recv().unwrap_or_else(|_gone| Err(StartError::Thread(io::ErrorKind::BrokenPipe.into())))
    }

    /// Everything but the task.
    async fn first(self) -> Result<Arc<Shared>, StartError> {
        if let Some(domain) = self.source.ambiguous {
            return Err(StartError::AmbiguousTrust(domain));
        }
        if self.source.names_no_trust() {
            return Err(StartError::NoTrust);
        }
        let mut provider = self.provider.or_else(default_provider).ok_or(StartError::NoProvider)?;
        if self.post_quantum {
            Arc::make_mut(&mut provider).kx_groups.retain(|group| tls::is_post_quantum(group.name()));
            if provider.kx_groups.is_empty() {
                return Err(StartError::NoPostQuantum);
            }
        }
        let loader = Arc::new(Loader { source: self.source, files: self.files, provider, empty: self.empty });

        let started = tokio::time::Instant::now();
        let (first, seen, own_chain) = loop {
            let moment = Moment { now: now(&*self.clock), skew: self.skew };
            let (step, seen) = first_step(Arc::clone(&loader), moment).await;
            if let Some(first) = step.next {
                break (first, seen, step.own_chain);
            }
            if started.elapsed() >= self.timeout {
                return Err(unready(started.elapsed(), &step.faults));
            }
            tokio::time::sleep(START_PAUSE.min(self.timeout)).await;
        };
        tracing::info!(
            generation = first.generation(),
            id = %first.id(),
            serial = first.credential().serial(),
            "credentials loaded"
        );
        if seen.world_readable {
            tracing::warn!("the private key may be read by every user in the pod: set fsGroup in its securityContext");
        }
        if let OwnChain::Untrusted(detail) = &own_chain {
            tracing::warn!(%detail, "our own certificate does not verify against our own trust bundle");
        }

        let latest =
            Latest { problems: Vec::new(), own_chain, seen, watch: WatchMode::Poll, loads: 1, failed: 0, asked: None };
        let shared = Arc::new(Shared {
            current: ArcSwap::new(Arc::clone(&first)),
            changes: tokio::sync::watch::Sender::new(first),
            loader,
            clock: self.clock,
            skew: self.skew,
            poll: self.poll,
            connections: Arc::default(),
            latest: Mutex::new(latest),
        });
        meter::describe();
        meter::loaded(&[]);
        meter::health(&shared.health(), &shared.snapshot());
        Ok(shared)
    }
}

/// One reading off the runtime's threads, and what it would make of a first snapshot.
async fn first_step(loader: Arc<Loader>, moment: Moment) -> (Step, Seen) {
    let reader = Arc::clone(&loader);
    match tokio::task::spawn_blocking(move || reader.load()).await {
        Ok(loaded) => {
            let seen = loaded.seen;
            (snapshot::advance(None, loaded, Rules { loader: &loader, moment }), seen)
        }
        // The runtime is shutting down: nothing was read, and the next await ends this task.
        Err(_stopping) => (Step { next: None, faults: Vec::new(), own_chain: OwnChain::Unchecked }, Seen::default()),
    }
}

fn unready(waited: Duration, faults: &[Fault]) -> StartError {
    let hint = if faults.iter().any(|fault| matches!(fault.error, LoadError::Missing { .. })) {
        "hint: a podCertificate or clusterTrustBundle volume source is dropped silently where its feature is off: it needs Kubernetes 1.37, \
         or the gates PodCertificateRequest and ClusterTrustBundleProjection (and the API certificates.k8s.io/v1beta1) before; \
         check also that the paths are those of the pod's volumes and volumeMounts"
    } else if faults.iter().any(|fault| matches!(fault.error, LoadError::Read { .. })) {
        "hint: this user may not read the files: set fsGroup in the pod's securityContext"
    } else {
        "hint: look at the pod's events and at its PodCertificateRequests (`kubectl get podcertificaterequests`)"
    };
    StartError::Unready {
        waited,
        problems: faults.iter().map(|fault| describe(&fault.error)).collect::<Vec<_>>().join("; "),
        hint,
        reasons: faults.iter().map(|fault| fault.error.reason()).collect(),
    }
}

/// The longest pause between two readings that nothing else has called for.
const DAY: Duration = Duration::from_hours(24);
/// While waiting for the first good snapshot.
const START_PAUSE: Duration = Duration::from_millis(50);

/// The provider of the feature that is on. Never the process-wide default, which belongs to the application.
pub fn default_provider() -> Option<Arc<CryptoProvider>> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = Some(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let provider = Some(rustls::crypto::ring::default_provider());
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    let provider = None;
    provider.map(Arc::new)
}
