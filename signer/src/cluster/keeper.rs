//! Keeps one CA and the trust in it: looks at the Secrets and at the trust bundle, takes the next step, and hands out the right
//! to sign only while the root was just read back. What to do is decided by [`authority`](crate::authority); here it is done.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};

use super::{
    bundle::{self, Bundles},
    calls::{CallError, Calls},
    secrets::{Secrets, Written},
    versions::{Served, Versions},
};
use crate::{
    authority::{
        Before, Generation, Issuer, MakeError, Makings, NotPublished, Published, Root, SecretData, Seen, Sight, Step,
        Trouble, Write, fingerprints, make, next_step,
    },
    chain::Chain,
    config::{Domains, PodSigner},
    health::Token,
    names::{SerialNumber, Sha256},
    pace::{Backoff, Pace, chance},
    pipeline::Hold,
    vitals::{Vital, Vitals},
};

/// What a walk may know of a CA.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    /// The right to sign, or why there is none.
    pub(crate) issuer: Result<Arc<Issuer>, Hold>,
    /// The roots that our certificates chain to, in PEM; none before the first look.
    pub(crate) roots: Option<Arc<str>>,
}

impl Authority {
    /// Before anything was looked at.
    pub(crate) fn unknown() -> Self {
        Self { issuer: Err(Hold::AuthorityUnusable), roots: None }
    }
}

/// Keeps one CA.
pub(crate) struct Keeper {
    calls: Calls,
    versions: Versions,
    secrets: Secrets,
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
    /// What was last signed with.
    before: Option<Before>,
    generation: Option<Arc<Generation>>,
    /// The signing Secret as last read, and when.
    signing: Option<(Option<Secret>, Instant)>,
    /// When the bundle was last read back with our root in it.
    published: Option<Instant>,
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
    pub(crate) signer: Arc<PodSigner>,
    pub(crate) domains: Domains,
    pub(crate) pace: Pace,
    pub(crate) out: watch::Sender<Authority>,
    pub(crate) changes: watch::Sender<()>,
    pub(crate) vitals: Vitals,
    pub(crate) number: usize,
    pub(crate) token: Token,
}

impl Keeper {
    pub(crate) fn new(makeup: Makeup) -> Self {
        let Makeup { calls, versions, namespace, signer, domains, pace, out, changes, vitals, number, token } = makeup;
        let secrets = Secrets { calls: calls.clone(), namespace };
        let memory = Memory::default();
        let token = Some(token);
        Self {
            calls,
            versions,
            secrets,
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
            let wait = match self.look().await {
                Ok(()) => {
                    attempt = 0;
                    POLL
                }
                Err(error) => {
                    self.complain(&error).await;
                    attempt = attempt.saturating_add(1);
                    RETRY.wait(attempt, chance())
                }
            };
            self.pace.pause(wait).await;
        }
    }

    /// Looks, and steps until there is nothing more to do for now.
    async fn look(&mut self) -> Result<(), KeeperError> {
        let mut root = None;
        for _ in 0..MOST_STEPS {
            let signing = self.signing().await?;
            let bundles = self.bundles().await?;
            let now = self.calls.clock().now().ok_or(KeeperError::NoTime)?;
            let trusted = bundles.ours.as_ref().map(|bundle| fingerprints(bundle.text()));
            let loaded = signing.as_ref().map(|secret| self.load(secret));
            let sight = Sight {
                signing: match &loaded {
                    None => Seen::Absent,
                    Some(Ok(generation)) => Seen::Found(&**generation),
                    Some(Err(error)) => Seen::Broken(error.clone()),
                },
                root: match &root {
                    None => Seen::Unread,
                    Some((_, Seen::Found(root))) => Seen::Found(root),
                    Some((_, Seen::Broken(error))) => Seen::Broken(error.clone()),
                    Some((_, Seen::Absent | Seen::Unread)) => Seen::Absent,
                },
                bundle: trusted.as_deref(),
                before: self.memory.before,
            };
            let step = next_step(&sight, now);
            match (step, loaded) {
                (Step::ReadRoot, _) => root = Some(self.read_root().await?),
                (Step::MakeRoot(write), _) => {
                    let before = root.take().and_then(|(secret, _)| secret);
                    self.make_root(write, before.as_ref(), now).await?;
                }
                (Step::MakeGeneration(number, write), _) => {
                    if let Some((_, Seen::Found(found))) = &root {
                        self.make_generation(found, number, write, signing.as_ref(), now).await?;
                    }
                    root = None;
                }
                (Step::Sign { until, alarm }, Some(Ok(generation))) => {
                    if self.sign_with(&generation, &bundles, now).await? {
                        self.alarm(alarm.as_ref());
                        self.memory.signing = self.memory.signing.take().filter(|_| now < until);
                        return Ok(());
                    }
                }
                (Step::Hold(trouble), _) => {
                    self.hold(&trouble, &bundles, now);
                    return Ok(());
                }
                // `next_step` signs only with what was found.
                (Step::Sign { .. }, None | Some(Err(_))) => return Err(KeeperError::Restless),
            }
        }
        Err(KeeperError::Restless)
    }

    /// The signing Secret; read anew when the last look is some time ago or something was written since.
    async fn signing(&mut self) -> Result<Option<Secret>, KeeperError> {
        if let Some((secret, read)) = &self.memory.signing
            && read.elapsed() < self.pace.of(SECRET_EVERY)
        {
            return Ok(secret.clone());
        }
        let name = &self.signer.authority.secret_name;
        let read = self.secrets.read(name).await.map_err(|error| KeeperError::ReadSecret(name.to_string(), error))?;
        self.memory.signing = Some((read.clone(), Instant::now()));
        Ok(read)
    }

    /// Loads the Secret, unless it is the one that is in use.
    fn load(&self, secret: &Secret) -> Result<Arc<Generation>, crate::authority::LoadError> {
        let empty = SecretData::new();
        Generation::load(secret.data.as_ref().unwrap_or(&empty)).map(Arc::new)
    }

    async fn bundles(&self) -> Result<Bundles, KeeperError> {
        let Served { bundles, .. } = self.versions.served();
        let version = bundles.ok_or(KeeperError::NotServed)?;
        let name = || self.signer.signer_name.to_string();
        bundle::read(&self.calls, version, &self.signer).await.map_err(|error| KeeperError::ReadBundle(name(), error))
    }

    async fn read_root(&self) -> Result<(Option<Secret>, Seen<Root>), KeeperError> {
        let name = &self.signer.authority.root_secret_name;
        let read = self.secrets.read(name).await.map_err(|error| KeeperError::ReadSecret(name.to_string(), error))?;
        let empty = SecretData::new();
        let seen = match &read {
            None => Seen::Absent,
            Some(secret) => Seen::from(Root::load(secret.data.as_ref().unwrap_or(&empty))),
        };
        Ok((read, seen))
    }

    async fn make_root(&self, write: Write, before: Option<&Secret>, now: OffsetDateTime) -> Result<(), KeeperError> {
        let name = &self.signer.authority.root_secret_name;
        let root = make::root(&self.makings(now)?).map_err(KeeperError::Make)?;
        let written = self.secrets.write(name, root.data(), write, before).await;
        let written = written.map_err(|error| KeeperError::WriteSecret(name.to_string(), error))?;
        if written == Written::Done {
            tracing::info!(signer = %self.signer.signer_name, secret = %name, root = %root.fingerprint(), "made a root");
        }
        Ok(())
    }

    async fn make_generation(
        &mut self,
        root: &Root,
        number: u64,
        write: Write,
        before: Option<&Secret>,
        now: OffsetDateTime,
    ) -> Result<(), KeeperError> {
        let name = &self.signer.authority.secret_name;
        let generation = make::generation(root, number, &self.makings(now)?).map_err(KeeperError::Make)?;
        let data = generation.data().map_err(KeeperError::State)?;
        let written = self.secrets.write(name, data, write, before).await;
        let written = written.map_err(|error| KeeperError::WriteSecret(name.to_string(), error))?;
        self.memory.signing = None;
        if written == Written::Done {
            tracing::info!(
                signer = %self.signer.signer_name, secret = %name, number, ends = %generation.not_after(),
                "made an issuing CA"
            );
        }
        Ok(())
    }

    fn makings(&self, now: OffsetDateTime) -> Result<Makings<'_>, KeeperError> {
        let serial = serial().ok_or(KeeperError::NoChance)?;
        Ok(Makings { trust_domain: &self.signer.trust_domain, domains: &self.domains, now, serial })
    }

    /// Hands out the right to sign if the bundle is as it should be; else repairs it. True if there is nothing more to do.
    async fn sign_with(
        &mut self,
        generation: &Arc<Generation>,
        bundles: &Bundles,
        now: OffsetDateTime,
    ) -> Result<bool, KeeperError> {
        let wanted = generation.trust_bundle();
        let found = bundles.ours.as_ref().map_or("", |bundle| bundle.text());
        let is_labelled = bundles.ours.as_ref().is_some_and(bundle::Bundle::is_labelled);
        if same_roots(found, &wanted)
            && is_labelled
            && let Ok(issuer) = issuer(generation, found)
        {
            self.hand_out(generation, issuer, bundles);
            return Ok(true);
        }
        // Nothing is signed from here until the bundle was read back.
        let roots = Some(Arc::from(wanted.as_str()));
        self.show(Authority { issuer: Err(Hold::TrustNotPublished), roots }, Vital::out_of_sync(bundles.foreign));
        self.memory.published = None;
        let version = self.versions.served().bundles.ok_or(KeeperError::NotServed)?;
        let published = bundle::publish(&self.calls, version, &self.signer, bundles.ours.as_ref(), &wanted).await;
        match published {
            Ok(()) => {
                self.vitals.repaired();
                tracing::info!(
                    signer = %self.signer.signer_name, root = %generation.root_fingerprint(), at = %now,
                    edited = bundles.ours.is_some(), "published the trust bundle"
                );
                Ok(false)
            }
            // Another replica did it.
            Err(error) if error.is_conflict() || error.is_absent() => Ok(false),
            Err(error) => Err(KeeperError::WriteBundle(self.signer.signer_name.to_string(), error)),
        }
    }

    fn hand_out(&mut self, generation: &Arc<Generation>, issuer: Issuer, bundles: &Bundles) {
        self.memory.before = Some(Before::of(generation));
        self.memory.generation = Some(Arc::clone(generation));
        self.memory.published = Some(Instant::now());
        let vital = Vital::signing(generation.usable_until(), bundles.foreign);
        let roots = Some(Arc::from(generation.trust_bundle()));
        self.show(Authority { issuer: Ok(Arc::new(issuer)), roots }, vital);
        drop(self.token.take());
    }

    /// The Secrets are not as they should be. What was loaded before goes on while it can and its root is published.
    fn hold(&mut self, trouble: &Trouble, bundles: &Bundles, now: OffsetDateTime) {
        self.alarm(Some(trouble));
        let found = bundles.ours.as_ref().map_or("", |bundle| bundle.text());
        let before = self.memory.generation.clone().filter(|generation| now < generation.usable_until());
        if let Some(generation) = before
            && let Ok(issuer) = issuer(&generation, found)
        {
            self.hand_out(&generation, issuer, bundles);
            return;
        }
        let roots = self.memory.generation.as_ref().map(|generation| Arc::from(generation.trust_bundle()));
        self.show(Authority { issuer: Err(Hold::AuthorityUnusable), roots }, Vital::unusable(bundles.foreign));
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
            self.show(Authority { issuer: Err(hold), roots }, Vital::out_of_sync(0));
        }
        if matches!(error, KeeperError::NotServed) || error.is_unserved() {
            drop(self.versions.discover().await);
        }
    }

    /// Said once for each trouble.
    fn alarm(&mut self, trouble: Option<&Trouble>) {
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
    }

    fn show(&self, authority: Authority, vital: Vital) {
        self.vitals.set(self.number, vital);
        let same = |before: &Authority| match (&before.issuer, &authority.issuer) {
            (Ok(before), Ok(now)) => before.generation().fingerprint() == now.generation().fingerprint(),
            (Err(before), Err(now)) => before == now,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        let changed = !same(&self.out.borrow());
        self.out.send_replace(authority);
        if changed {
            self.changes.send_replace(());
        }
    }
}

impl KeeperError {
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

fn issuer(generation: &Arc<Generation>, read_back: &str) -> Result<Issuer, NotPublished> {
    Issuer::new(Arc::clone(generation), Published::witness(generation, read_back)?)
}

fn same_roots(found: &str, wanted: &str) -> bool {
    let sorted = |text: &str| {
        let mut roots: Vec<Sha256> = fingerprints(text);
        roots.sort_unstable();
        roots
    };
    sorted(found) == sorted(wanted)
}

/// 128 random bits.
pub(crate) fn serial() -> Option<SerialNumber> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(SerialNumber::from_random(bytes))
}

/// How long a bundle may be wrong before it is repaired.
const POLL: Duration = Duration::from_secs(3);
const SECRET_EVERY: Duration = Duration::from_secs(15);
/// How long the trust that was read back counts while it cannot be read again.
const READ_BACK_LASTS: Duration = Duration::from_secs(30);
const RETRY: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(5) };
/// Root, issuing CA, bundle, and a few lost races.
const MOST_STEPS: u32 = 16;

#[cfg(test)]
mod tests;
