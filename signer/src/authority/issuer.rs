//! The right to sign: an issuing CA together with the proof that its root is published.

use std::{fmt, sync::Arc};

use rustls_pki_types::{CertificateDer, TrustAnchor};
use time::OffsetDateTime;

use super::load::Generation;
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

/// An issuing CA that may sign.
///
/// It cannot be made without [`Published`]:
/// ```
/// # use std::sync::Arc;
/// # use podmint_signer::authority::{Generation, Issuer, NotPublished, Published};
/// fn issuer(generation: Arc<Generation>, published: Published) -> Result<Issuer, NotPublished> {
///     Issuer::new(generation, published)
/// }
/// ```
/// ```compile_fail
/// # use std::sync::Arc;
/// # use podmint_signer::authority::{Generation, Issuer, NotPublished, Published};
/// fn issuer(generation: Arc<Generation>, published: Published) -> Result<Issuer, NotPublished> {
///     Ok(Issuer { generation, published })
/// }
/// ```
pub struct Issuer {
    generation: Arc<Generation>,
    published: Published,
}

impl Issuer {
    /// Joins the two. A proof for another root is none.
    pub fn new(generation: Arc<Generation>, published: Published) -> Result<Self, NotPublished> {
        if generation.root_fingerprint() == published.root {
            Ok(Self { generation, published })
        } else {
            Err(NotPublished(generation.root_fingerprint()))
        }
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
}

impl fmt::Debug for Issuer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, published } = self;
        write!(out, "Issuer({generation:?}, {published:?})")
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
