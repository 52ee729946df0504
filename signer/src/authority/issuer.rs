//! The right to sign: an issuing CA together with the proof that its root is published, for as long as it is known to be the one
//! that signs.

use std::{fmt, sync::Arc};

use rustls_pki_types::{CertificateDer, TrustAnchor};
use time::{Duration, OffsetDateTime};

use super::{load::Generation, remember::Remembering};
use crate::names::Sha256;

/// The proof that a ClusterTrustBundle, as just read back from the API server, holds a root.
///
/// It cannot be made but by [`Published::witness`]:
/// ```
/// # use podmint_signer::authority::{Generation, NotPublished, Published};
/// fn witness(generation: &Generation, read_back: &str) -> Result<Published, NotPublished> {
///     Published::witness(generation, read_back)
/// }
/// ```
/// ```compile_fail
/// # use podmint_signer::authority::{Generation, NotPublished, Published};
/// fn witness(generation: &Generation, read_back: &str) -> Result<Published, NotPublished> {
///     Ok(Published { root: generation.root_fingerprint(), anchors: Vec::new() })
/// }
/// ```
pub struct Published {
    root: Sha256,
    anchors: Vec<TrustAnchor<'static>>,
}

/// The bundle does not hold the root: it must be published, and read back, before anything is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the trust bundle does not hold the root {0}")]
pub struct NotPublished(pub Sha256);

impl Published {
    /// Looks for the generation's root in the text of a bundle.
    pub fn witness(generation: &Generation, trust_bundle: &str) -> Result<Self, NotPublished> {
        let root = generation.root_fingerprint();
        let roots: Vec<CertificateDer<'static>> = roots(trust_bundle);
        if !roots.iter().any(|der| Sha256::of(der) == root) {
            return Err(NotPublished(root));
        }
        let anchors = roots
            .iter()
            .filter_map(|der| webpki::anchor_from_trusted_cert(der).ok().map(|anchor| anchor.to_owned()))
            .collect();
        Ok(Self { root, anchors })
    }

    /// The root whose publication was seen.
    pub fn root(&self) -> Sha256 {
        self.root
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { root, anchors } = self;
        write!(out, "Published({root} among {})", anchors.len())
    }
}

/// When the API server last said which CA signs, and for how long its word counts: others may have moved on since. A replica
/// that slept must not wake up signing with a CA that they left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// When, by the API server's clock. A process's own stands still while its machine is suspended.
    pub at: OffsetDateTime,
    /// How long.
    pub lasts: Duration,
}

impl Confirmed {
    /// Whether it counts. A clock that went back says nothing about what has passed.
    pub fn counts(self, now: OffsetDateTime) -> bool {
        let until = self.at.saturating_add(self.lasts).saturating_add(WHOLE_SECOND);
        self.at.saturating_sub(WHOLE_SECOND) <= now && now <= until
    }
}

/// Why a CA may not sign this before its keeper has looked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// Too long ago: the signing Secret must be read again before anything is signed.
    #[error("it was last confirmed at {} that this CA signs", .0.at)]
    Unconfirmed(Confirmed),
    /// A rotation waits for the longest life that stands in the signing Secret: what outlives it must stand there first.
    #[error("a life of {0} s does not stand in the signing Secret yet")]
    Unrecorded(i64),
}

/// An issuing CA that may sign.
///
/// It cannot be made without [`Published`]:
/// ```
/// # use std::sync::Arc;
/// # use podmint_signer::authority::{Confirmed, Generation, Issuer, NotPublished, Published};
/// fn issuer(generation: Arc<Generation>, published: Published, confirmed: Confirmed) -> Result<Issuer, NotPublished> {
///     Issuer::new(generation, published, confirmed)
/// }
/// ```
/// ```compile_fail
/// # use std::sync::Arc;
/// # use podmint_signer::authority::{Confirmed, Generation, Issuer, NotPublished, Published};
/// fn issuer(generation: Arc<Generation>, published: Published, confirmed: Confirmed) -> Result<Issuer, NotPublished> {
///     Ok(Issuer { generation, published, confirmed, signatures: Default::default() })
/// }
/// ```
pub struct Issuer {
    generation: Arc<Generation>,
    published: Published,
    confirmed: Confirmed,
    signatures: Remembering,
}

impl Issuer {
    /// Joins them. A proof for another root is none.
    pub fn new(generation: Arc<Generation>, published: Published, confirmed: Confirmed) -> Result<Self, NotPublished> {
        if generation.root_fingerprint() == published.root {
            Ok(Self { generation, published, confirmed, signatures: Remembering::default() })
        } else {
            Err(NotPublished(generation.root_fingerprint()))
        }
    }

    /// By the CA's key. There is no other way to a signature, so this is where it is asked whether the CA is
    /// still the one that signs, and whether a rotation would wait for what lives as long as this.
    pub(crate) fn sign(
        &self,
        message: &[u8],
        now: OffsetDateTime,
        life_seconds: i64,
    ) -> Result<Result<Vec<u8>, rcgen::Error>, NotYet> {
        if !self.confirmed.counts(now) {
            return Err(NotYet::Unconfirmed(self.confirmed));
        }
        if life_seconds > i64::from(self.generation.signing().plan.longest) {
            return Err(NotYet::Unrecorded(life_seconds));
        }
        Ok(self.generation.sign(message))
    }

    /// The issuing CA.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Until when it can issue.
    pub fn usable_until(&self) -> OffsetDateTime {
        self.generation.usable_until()
    }

    /// All roots that are published: what our leaves are verified to.
    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.published.anchors
    }

    /// How the signatures of our chains are verified.
    pub(crate) fn signatures(&self) -> &Remembering {
        &self.signatures
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, published, confirmed, signatures: _ } = self;
        write!(out, "Issuer({generation:?}, {published:?}, {})", confirmed.at)
    }
}

/// The fingerprints of all certificates in the text of a bundle: what [`Sight`](super::Sight) wants to know of it.
pub fn fingerprints(trust_bundle: &str) -> Vec<Sha256> {
    roots(trust_bundle).iter().map(|der| Sha256::of(der)).collect()
}

/// Anything but certificates is passed over: others may have written there, and what counts is what is found.
fn roots(trust_bundle: &str) -> Vec<CertificateDer<'static>> {
    let blocks = pem::parse_many(trust_bundle).unwrap_or_default();
    blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE").map(|block| block.into_contents().into()).collect()
}

/// How exact the API server's clock is as HTTP tells it.
const WHOLE_SECOND: Duration = Duration::SECOND;
