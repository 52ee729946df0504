//! Keeps one CA and the trust in it: looks at the Secrets and at the trust bundle, takes the next step, and hands out the right
//! to sign only while the root was just read back. What to do is decided by [`authority`](crate::authority); here it is done.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};

use super::{
    bundle::{self, Bundles},
    calls::{CallError, Calls, stay_away},
    secrets::Secrets,
    versions::{Served, Versions},
};
use crate::{
    authority::{
        Before, Bundle as Standing, Clock, Confirmed, Generation, Issuer, LoadError, MakeError, NotPublished,
        Published, Roots, SecretData, Seen, Sight, Source, Step, Timing, Trouble, View, Wish, awaited, fingerprints,
        may_go_on, next_step,
    },
    chain::Chain,
    config::{Domains, PodSigner},
    health::Token,
    names::Sha256,
    pace::{Backoff, Pace, chance},
    pipeline::Hold,
    vitals::{Vital, Vitals},
};

mod root;
mod source;
mod write;

use self::write::RootSecret;
pub(crate) use self::write::serial;

/// What a walk may know of a CA.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    /// The right to sign, or why there is none.
    pub(crate) issuer: Result<Arc<Issuer>, Hold>,
    /// The roots that our certificates chain to, in PEM; none before the first look.
    pub(crate) roots: Option<Arc<str>>,
    /// Its parts, and what happens next; none while no Secret can be used.
    pub(crate) view: Option<Arc<View>>,
    /// What somebody should see to, in the words of the log.
    pub(crate) trouble: Option<Arc<str>>,
}

impl Authority {
    /// Before anything was looked at.
    pub(crate) fn unknown() -> Self {
        Self { issuer: Err(Hold::AuthorityUnusable), roots: None, view: None, trouble: None }
    }
}

/// Keeps one CA.
pub(crate) struct Keeper {
    calls: Calls,
    versions: Versions,
    secrets: Secrets,
    /// As it is now; another policy is taken over with the next look.
    policy: watch::Receiver<Arc<PodSigner>>,
    signer: Arc<PodSigner>,
    domains: Domains,
    pace: Pace,
    out: watch::Sender<Authority>,
    /// Told after every change of `out`.
    changes: watch::Sender<()>,
    vitals: Vitals,
    number: usize,
    token: Option<Token>,
    memory: Memory,
    said: Option<String>,
}

/// What is remembered from one look to the next.
#[derive(Default)]
struct Memory {
    /// What was last signed with, or could have been; none where that was confirmed too long ago.
    generation: Option<Arc<Generation>>,
    /// What that was when it was confirmed too long ago. Nobody signs with it. But where an older one is found, somebody has put that there.
    last: Option<Before>,
    /// The highest number that was seen.
    highest: u64,
    /// When it was last confirmed by the API server: the moment of a read of the signing Secret.
    confirmed: Option<Confirmed>,
    /// The signing Secret as last read.
    signing: Option<Read>,
    /// The root's Secret when it was last looked at.
    root: Option<root::RootSeen>,
    /// When the bundle was last read back with our root in it.
    published: Option<Instant>,
    /// How long the root that a rotation waits for has been there to read.
    watched: Option<Watched>,
    /// The API server's time as it was first told, and when.
    first: Option<(OffsetDateTime, Instant)>,
}

impl Memory {
    /// Whoever slept, or was cut off, signs no sooner than one that starts.
    fn put_by(&mut self) {
        self.confirmed = None;
        self.last = self.generation.take().map(|generation| Before::of(generation.signing())).or(self.last);
    }

    /// What was signed with, as far as that counts beside what was found. Others may have moved on from what was put by; back they cannot
    /// have gone.
    fn before(&mut self, found: Option<&Generation>, is_fresh: bool) -> Option<Before> {
        let last = self.last.filter(|last| found.is_some_and(|found| found.number() < last.number));
        if is_fresh {
            self.last = last;
        }
        self.generation.as_ref().map(|generation| Before::of(generation.signing())).or(last)
    }
}

/// The root that a rotation waits for, in a bundle that nobody wrote all the while.
struct Watched {
    root: Sha256,
    version: String,
    /// When it was read back first.
    since: Instant,
    /// When the last look began.
    last: Instant,
}

/// A read of the signing Secret, and of where the CA comes from behind it: so what is brought is never older than what signs.
#[derive(Clone)]
struct Read {
    secret: Option<Secret>,
    source: Arc<dyn Source>,
    /// By this process's own clock.
    heard: Instant,
    /// By the API server's: before it was asked.
    at: OffsetDateTime,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    #[error(
        "the API server serves no clustertrustbundles: is the feature gate ClusterTrustBundle on, and certificates.k8s.io/v1 or v1beta1 enabled?"
    )]
    NotServed,
    #[error("could not read the Secret {0}")]
    ReadSecret(String, #[source] CallError),
    #[error("could not write the Secret {0}")]
    WriteSecret(String, #[source] CallError),
    #[error("could not read the trust bundles of {0}")]
    ReadBundle(String, #[source] CallError),
    #[error("could not publish the trust bundle of {0}")]
    WriteBundle(String, #[source] CallError),
    #[error("could not make a CA")]
    Make(#[source] MakeError),
    #[error("could not write down the state of the CA")]
    State(#[source] serde_json::Error),
    #[error("the API server has not told the time")]
    NoTime,
    #[error("the source of random numbers failed")]
    NoChance,
    #[error("the CA did not settle: somebody else keeps changing its Secrets")]
    Restless,
}

/// Everything a keeper is made of.
pub(crate) struct Makeup {
    pub(crate) calls: Calls,
    pub(crate) versions: Versions,
    pub(crate) namespace: String,
    pub(crate) signer: watch::Receiver<Arc<PodSigner>>,
    pub(crate) domains: Domains,
    pub(crate) pace: Pace,
    pub(crate) out: watch::Sender<Authority>,
    pub(crate) changes: watch::Sender<()>,
    pub(crate) vitals: Vitals,
    pub(crate) number: usize,
    /// Held until it may sign for the first time.
    pub(crate) token: Option<Token>,
}

impl Keeper {
    pub(crate) fn new(makeup: Makeup) -> Self {
        let Makeup { calls, versions, namespace, signer: policy, domains, pace, out, changes, vitals, number, token } =
            makeup;
        let signer = Arc::clone(&policy.borrow());
        let secrets = Secrets { calls: calls.clone(), namespace };
        let memory = Memory::default();
        Self {
            calls,
            versions,
            secrets,
            policy,
            signer,
            domains,
            pace,
            out,
            changes,
            vitals,
            number,
            token,
            memory,
            said: None,
        }
    }

    /// For as long as the signer runs.
    pub(crate) async fn run(mut self) {
        let mut attempt = 0_u32;
        loop {
            self.signer = Arc::clone(&self.policy.borrow_and_update());
            match self.look().await {
                Ok(()) => {
                    attempt = 0;
                    self.pace.pause(POLL).await;
                }
                Err(error) => {
                    attempt = attempt.saturating_add(1);
                    let wait = stay_away(error.retry_after(), self.pace.of(RETRY.wait(attempt, chance())));
                    self.sit_out(&error, wait).await;
                }
            }
        }
    }

    /// The API server may ask us to stay away for longer than what was read back counts. That ends in time all the same.
    async fn sit_out(&mut self, error: &KeeperError, wait: Duration) {
        self.complain(error).await;
        let begun = Instant::now();
        let counts = self.memory.published.and_then(|read| read.checked_add(self.pace.of(READ_BACK_LASTS)));
        let left = counts.map(|until| until.saturating_duration_since(begun)).filter(|left| *left < wait);
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            tokio::time::sleep(left).await;
            self.complain(error).await;
        }
        tokio::time::sleep(wait.saturating_sub(begun.elapsed())).await;
    }

    /// Looks, and steps until there is nothing more to do for now.
    async fn look(&mut self) -> Result<(), KeeperError> {
        for _ in 0..MOST_STEPS {
            let asked = Instant::now();
            let bundles = self.bundles().await?;
            let heard = Instant::now();
            let (read, is_fresh) = self.signing().await?;
            let clock = self.clock()?;
            if !self.memory.confirmed.is_some_and(|confirmed| confirmed.counts(clock.now)) {
                self.memory.put_by();
            }
            let loaded = read.secret.as_ref().map(load);
            let before = self.memory.before(loaded.as_ref().and_then(|loaded| loaded.as_deref().ok()), is_fresh);
            let wish = read.source.heeds(self.wish(read.secret.as_ref()));
            let looked = Looked { read, is_fresh, loaded, before, wish, bundles, asked, heard, clock };
            let (step, root) = self.decide(&looked).await?;
            let is_write = !matches!(step, Step::Sign { .. } | Step::Hold(_));
            if is_write && !looked.is_fresh {
                // What is written rests on what was read just now.
                self.memory.signing = None;
                continue;
            }
            if let (true, Some(Ok(generation))) = (is_write, &looked.loaded) {
                self.accept(generation, &looked);
            }
            match (step, &looked.loaded) {
                (Step::Sign { until, alarm }, Some(Ok(generation))) => {
                    if self.sign_with(generation, &looked).await? {
                        if looked.is_fresh {
                            self.look_at_root(generation, &looked).await?;
                        }
                        self.alarm(alarm.or_else(|| self.root_trouble(generation, &looked.wish)).as_ref());
                        self.memory.signing = self.memory.signing.take().filter(|_| clock.now < until);
                        return Ok(());
                    }
                }
                (Step::Hold(trouble), _) => {
                    self.hold(&trouble, &looked);
                    return Ok(());
                }
                (Step::MakeRoot(write), _) => self.make_root(write, root.as_ref(), &looked).await?,
                (Step::MakeNext, _) => self.make_next(root, &looked).await?,
                (Step::Forget, _) => self.forget(root).await?,
                (Step::Promote, _) => self.promote(root).await?,
                (Step::Put(put), _) => self.put(&put, &looked, root.as_ref()).await?,
                // `decide` has read it, and `next_step` signs only with what was found.
                (Step::ReadRoot, _) | (Step::Sign { .. }, None | Some(Err(_))) => return Err(KeeperError::Restless),
            }
        }
        Err(KeeperError::Restless)
    }

    /// What its administrator asks for. Where there is no PodSigner object he writes it on the signing Secret; whatever replaces the
    /// data of that leaves it as it is.
    fn wish(&self, signing: Option<&Secret>) -> Wish {
        let annotations = || signing?.metadata.annotations.as_ref();
        self.signer.wish.clone().unwrap_or_else(|| annotations().map(Wish::read).unwrap_or_default())
    }

    /// What the next step goes on from is no stranger's, though it never came to sign with it.
    fn accept(&mut self, generation: &Arc<Generation>, looked: &Looked) {
        self.memory.highest = self.memory.highest.max(generation.number());
        if looked.before.is_none_or(|before| before.number <= generation.number()) {
            self.memory.generation = Some(Arc::clone(generation));
            self.memory.confirmed = Some(self.confirmed(looked));
        }
    }

    /// Asks what to do; reads the root's Secret if that has to be known. It is the last to be read: a root is in there before it
    /// is anywhere else.
    async fn decide(&mut self, looked: &Looked) -> Result<(Step, Option<RootSecret>), KeeperError> {
        let trusted = looked.bundles.ours.as_ref().map(|bundle| fingerprints(bundle.text()));
        let timing = Timing::at(self.pace);
        let watched = self.watch(looked, trusted.as_deref().unwrap_or_default());
        let mut root: Option<RootSecret> = None;
        loop {
            let sight = Sight {
                signing: match &looked.loaded {
                    None => Seen::Absent,
                    Some(Ok(generation)) => Seen::Found(generation.signing()),
                    Some(Err(error)) => Seen::Broken(error.clone()),
                },
                root: root.as_ref().map_or(Seen::Unread, |root| root.seen.map(Roots::held)),
                bundle: trusted.as_deref(),
                marked: looked.bundles.ours.as_ref().and_then(bundle::Bundle::marked),
                before: looked.before,
                highest: self.memory.highest,
                watched,
                longest: self.signer.lifetime.max_seconds,
                source: &*looked.read.source,
                wish: &looked.wish,
                timing,
            };
            let step = next_step(&sight, looked.clock);
            if step != Step::ReadRoot || root.is_some() {
                return Ok((step, root));
            }
            root = Some(self.read_root().await?);
        }
    }

    /// For how long the awaited root was there to read, by this process's own clock. A gap, in which nobody may have been able to
    /// read it, or a write, by whomever, begins it anew.
    fn watch(&mut self, looked: &Looked, trusted: &[Sha256]) -> time::Duration {
        let rotation = match &looked.loaded {
            Some(Ok(generation)) => generation.signing().plan.rotation,
            Some(Err(_)) | None => None,
        };
        let awaited = awaited(rotation, Timing::at(self.pace), looked.clock).filter(|root| trusted.contains(root));
        let Some((root, bundle)) = awaited.zip(looked.bundles.ours.as_ref()) else {
            self.memory.watched = None;
            return time::Duration::ZERO;
        };
        let gap = self.pace.of(CONFIRMED_LASTS);
        let same = self.memory.watched.as_ref().filter(|watched| {
            watched.root == root
                && watched.version == bundle.version()
                && looked.asked.saturating_duration_since(watched.last) < gap
        });
        let since = same.map_or(looked.heard, |watched| watched.since);
        self.memory.watched = Some(Watched { root, version: bundle.version().to_owned(), since, last: looked.asked });
        time::Duration::try_from(looked.asked.saturating_duration_since(since)).unwrap_or_default()
    }

    fn clock(&mut self) -> Result<Clock, KeeperError> {
        let now = self.calls.clock().now().ok_or(KeeperError::NoTime)?;
        let (first, heard) = *self.memory.first.get_or_insert_with(|| (now, Instant::now()));
        let passed = time::Duration::try_from(heard.elapsed()).unwrap_or_default();
        Ok(Clock::new(now, first.saturating_add(passed)))
    }

    /// The signing Secret, and whether it was read just now: read anew when the last read is some time ago or something was
    /// written since.
    async fn signing(&mut self) -> Result<(Read, bool), KeeperError> {
        if let Some(read) = &self.memory.signing
            && read.heard.elapsed() < self.pace.of(SECRET_EVERY)
        {
            return Ok((read.clone(), false));
        }
        let name = &self.signer.authority.secret_name;
        let (heard, at) = (Instant::now(), self.calls.clock().now().ok_or(KeeperError::NoTime)?);
        let secret = self.secrets.read(name).await.map_err(|error| KeeperError::ReadSecret(name.to_string(), error))?;
        let read = Read { secret, source: self.source(at).await, heard, at };
        self.memory.signing = Some(read.clone());
        Ok((read, true))
    }

    async fn bundles(&self) -> Result<Bundles, KeeperError> {
        let Served { bundles, .. } = self.versions.served();
        let version = bundles.ok_or(KeeperError::NotServed)?;
        let name = || self.signer.signer_name.to_string();
        bundle::read(&self.calls, version, &self.signer).await.map_err(|error| KeeperError::ReadBundle(name(), error))
    }

    fn view(&self, generation: &Generation, looked: &Looked) -> View {
        View::of(generation, &*looked.read.source, &looked.wish, Timing::at(self.pace))
    }

    /// Hands out the right to sign if the bundle is as it should be; else repairs it. True if there is nothing more to do.
    async fn sign_with(&mut self, generation: &Arc<Generation>, looked: &Looked) -> Result<bool, KeeperError> {
        let bundles = &looked.bundles;
        let wanted = generation.trust_bundle();
        let found = looked.published();
        let is_labelled = bundles.ours.as_ref().is_some_and(bundle::Bundle::is_labelled);
        let marked = bundles.ours.as_ref().and_then(bundle::Bundle::marked);
        let state = Standing::compare(&fingerprints(found), marked, generation.signing());
        let is_enough = is_labelled && state != Standing::Wrong;
        let confirmed = self.confirmed(looked);
        match issuer(generation, found, confirmed).ok().filter(|_| is_enough) {
            Some(issuer) => {
                self.hand_out(generation, issuer, looked);
                if state == Standing::InOrder {
                    return Ok(true);
                }
            }
            None => {
                // Nothing is signed from here until the bundle was read back.
                let roots = Some(Arc::from(wanted.as_str()));
                let view = Some(Arc::new(self.view(generation, looked)));
                let issuer = Err(Hold::TrustNotPublished);
                self.show(Authority { issuer, roots, view, trouble: None }, Vital::out_of_sync(bundles.foreign));
                self.memory.published = None;
            }
        }
        if !looked.is_fresh {
            // An old plan must not be published over a newer one.
            self.memory.signing = None;
            return Ok(false);
        }
        let version = self.versions.served().bundles.ok_or(KeeperError::NotServed)?;
        let published = bundle::publish(
            &self.calls,
            version,
            &self.signer,
            bundles.ours.as_ref(),
            &wanted,
            generation.root_fingerprint(),
        );
        let published = published.await;
        match published {
            Ok(()) => {
                self.vitals.repaired();
                tracing::info!(
                    signer = %self.signer.signer_name, root = %generation.root_fingerprint(), at = %looked.clock.now,
                    edited = bundles.ours.is_some(), roots = fingerprints(&wanted).len(), "published the trust bundle"
                );
                Ok(false)
            }
            // Another replica did it.
            Err(error) if error.is_conflict() || error.is_absent() => Ok(false),
            Err(error) => Err(KeeperError::WriteBundle(self.signer.signer_name.to_string(), error)),
        }
    }

    fn confirmed(&self, looked: &Looked) -> Confirmed {
        let lasts = time::Duration::try_from(self.pace.of(CONFIRMED_LASTS)).unwrap_or_default();
        Confirmed { at: looked.read.at, lasts }
    }

    fn hand_out(&mut self, generation: &Arc<Generation>, issuer: Issuer, looked: &Looked) {
        self.memory.highest = self.memory.highest.max(generation.number());
        self.memory.generation = Some(Arc::clone(generation));
        self.memory.confirmed = Some(self.confirmed(looked));
        self.memory.published = Some(Instant::now());
        let vital = Vital::signing(generation, looked.bundles.foreign);
        let roots = Some(Arc::from(generation.trust_bundle()));
        let view = Some(Arc::new(self.view(generation, looked)));
        // The CA is as it should be, and nobody may use it.
        let is_stolen = looked.wish.stolen == Some(generation.root_fingerprint());
        let issuer = if is_stolen { Err(Hold::KeyStolen) } else { Ok(Arc::new(issuer)) };
        self.show(Authority { issuer, roots, view, trouble: None }, vital);
        drop(self.token.take());
    }

    /// The Secrets are not as they should be. What was loaded before goes on while it can and its root is published.
    fn hold(&mut self, trouble: &Trouble, looked: &Looked) {
        self.alarm(Some(trouble));
        let found = looked.published();
        let timing = Timing::at(self.pace);
        let remembered = self.memory.generation.clone();
        let marked = looked.bundles.ours.as_ref().and_then(bundle::Bundle::marked);
        let usable = remembered.clone().filter(|it| may_go_on(it.signing(), marked, timing, looked.clock));
        if let Some(generation) = usable
            && let Ok(issuer) = issuer(&generation, found, self.confirmed(looked))
        {
            self.hand_out(&generation, issuer, looked);
            return;
        }
        // So that it is known, when the Secrets are in order again, what was signed with.
        self.memory.confirmed = self.memory.confirmed.map(|_| self.confirmed(looked));
        let roots = remembered.as_ref().map(|generation| Arc::from(generation.trust_bundle()));
        let (issuer, view) = (Err(Hold::AuthorityUnusable), None);
        self.show(Authority { issuer, roots, view, trouble: None }, Vital::unusable(looked.bundles.foreign));
    }

    /// A look failed. What was read back a moment ago still counts; not for long.
    async fn complain(&mut self, error: &KeeperError) {
        let text = Chain(error).to_string();
        if self.said.as_ref() != Some(&text) {
            tracing::warn!(signer = %self.signer.signer_name, error = text, "cannot look after the CA; trying again");
            self.said = Some(text);
        }
        let recent = self.memory.published.is_some_and(|read| read.elapsed() < self.pace.of(READ_BACK_LASTS));
        if !recent {
            let roots: Option<Arc<str>> =
                self.memory.generation.as_ref().map(|generation| Arc::from(generation.trust_bundle()));
            let hold = if roots.is_some() { Hold::TrustNotPublished } else { Hold::AuthorityUnusable };
            self.show(Authority { issuer: Err(hold), roots, view: None, trouble: None }, Vital::out_of_sync(0));
        }
        if matches!(error, KeeperError::NotServed) || error.is_unserved() {
            drop(self.versions.discover().await);
        }
    }

    /// Said once for each trouble.
    fn alarm(&mut self, trouble: Option<&Trouble>) {
        self.vitals.trouble(self.number, trouble.map(Trouble::label));
        let text = trouble.map(ToString::to_string);
        if text == self.said {
            return;
        }
        match (&text, trouble) {
            (Some(text), Some(trouble)) => {
                tracing::error!(signer = %self.signer.signer_name, trouble = trouble.label(), "{text}");
            }
            (None, _) | (_, None) => {
                if self.said.is_some() {
                    tracing::info!(signer = %self.signer.signer_name, "the CA is in order again");
                }
            }
        }
        self.said = text;
        self.share_trouble();
    }

    fn share_trouble(&self) {
        let trouble = self.said.as_deref();
        let other = |known: &mut Authority| {
            let other = known.trouble.as_deref() != trouble;
            if other {
                known.trouble = trouble.map(Arc::from);
            }
            other
        };
        if self.out.send_if_modified(other) {
            self.changes.send_replace(());
        }
    }

    fn show(&self, authority: Authority, vital: Vital) {
        self.vitals.set(self.number, vital, authority.view.as_deref());
        let same = |before: &Authority| match (&before.issuer, &authority.issuer) {
            (Ok(before), Ok(now)) => before.generation().fingerprint() == now.generation().fingerprint(),
            (Err(before), Err(now)) => before == now,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        let step =
            |authority: &Authority| authority.view.as_ref().map(|view| (view.phase, view.number, view.wish.clone()));
        let changed = {
            let before = self.out.borrow();
            !same(&before) || step(&before) != step(&authority)
        };
        self.out.send_replace(authority);
        if changed {
            self.changes.send_replace(());
        }
        self.share_trouble();
    }
}

impl KeeperError {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ReadSecret(_, error)
            | Self::WriteSecret(_, error)
            | Self::ReadBundle(_, error)
            | Self::WriteBundle(_, error) => error.retry_after(),
            Self::NotServed | Self::Make(_) | Self::State(_) | Self::NoTime | Self::NoChance | Self::Restless => None,
        }
    }

    fn is_unserved(&self) -> bool {
        match self {
            Self::ReadBundle(_, error) | Self::WriteBundle(_, error) => error.is_unserved(),
            Self::NotServed
            | Self::ReadSecret(..)
            | Self::WriteSecret(..)
            | Self::Make(_)
            | Self::State(_)
            | Self::NoTime
            | Self::NoChance
            | Self::Restless => false,
        }
    }
}

/// What one look has shown, the root's Secret aside.
struct Looked {
    read: Read,
    is_fresh: bool,
    loaded: Option<Result<Arc<Generation>, LoadError>>,
    /// What was signed with before.
    before: Option<Before>,
    wish: Wish,
    bundles: Bundles,
    /// Before and after the bundle was read.
    asked: Instant,
    heard: Instant,
    clock: Clock,
}

impl Looked {
    /// Our trust bundle.
    fn published(&self) -> &str {
        self.bundles.ours.as_ref().map_or("", |bundle| bundle.text())
    }
}

fn load(secret: &Secret) -> Result<Arc<Generation>, LoadError> {
    let empty = SecretData::new();
    Generation::load(secret.data.as_ref().unwrap_or(&empty)).map(Arc::new)
}

fn issuer(generation: &Arc<Generation>, read_back: &str, confirmed: Confirmed) -> Result<Issuer, NotPublished> {
    Issuer::new(Arc::clone(generation), Published::witness(generation, read_back)?, confirmed)
}

/// How long a bundle may be wrong before it is repaired.
const POLL: Duration = Duration::from_secs(3);
const SECRET_EVERY: Duration = Duration::from_secs(15);
/// How long a replica signs after it last read which CA signs: the previous root drains for as much longer.
const CONFIRMED_LASTS: Duration = Duration::from_mins(1);
/// How long the trust that was read back counts while it cannot be read again.
const READ_BACK_LASTS: Duration = Duration::from_secs(30);
const RETRY: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(5) };
/// Root, issuing CA, bundle, and a few lost races.
const MOST_STEPS: u32 = 16;

#[cfg(test)]
mod tests;
