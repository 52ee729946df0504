//! Whose certificate is this? Every issued status comes by on our watch, and those that we did not sign are an alarm.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::remember::Remembering;
use crate::names::Sha256;

/// What an issued chain shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It chains to one of the roots.
    Ours {
        /// The SHA-256 of the leaf: whether we have signed that one is in the audit log.
        leaf: Sha256,
    },
    /// It does not.
    Foreign {
        /// The SHA-256 of the leaf.
        leaf: Sha256,
    },
    /// It is no chain of certificates.
    Unreadable,
}

/// Follows chains up to some roots.
#[derive(Debug)]
pub(crate) struct Tracer {
    roots: Arc<str>,
    anchors: Vec<TrustAnchor<'static>>,
    /// The CA's signature is the same in every chain.
    signatures: Remembering,
}

impl Tracer {
    /// The roots in PEM.
    pub(crate) fn new(roots: Arc<str>) -> Self {
        let anchors =
            blocks(&roots).iter().filter_map(|root| Some(anchor_from_trusted_cert(root).ok()?.to_owned())).collect();
        Self { roots, anchors, signatures: Remembering::default() }
    }

    /// Whether these are its roots.
    pub(crate) fn is_of(&self, roots: &str) -> bool {
        *self.roots == *roots
    }

    /// Follows a chain in PEM, as of the first second at which all of it is valid: a CA that is brought may have been made a moment ago,
    /// and leaves are backdated.
    pub(crate) fn trace(&self, chain_pem: &str) -> Origin {
        let chain = blocks(chain_pem);
        let Some((leaf, between)) = chain.split_first() else { return Origin::Unreadable };
        if begins(leaf).is_none() {
            return Origin::Unreadable;
        }
        let hash = Sha256::of(leaf);
        let begins = chain.iter().filter_map(|der| begins(der)).max().unwrap_or(0);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(begins));
        if self.is_above(leaf, between, at) { Origin::Ours { leaf: hash } } else { Origin::Foreign { leaf: hash } }
    }

    /// Whatever it may be used for: some are servers' alone.
    fn is_above(&self, leaf: &CertificateDer<'_>, between: &[CertificateDer<'_>], at: UnixTime) -> bool {
        let Ok(leaf) = EndEntityCert::try_from(leaf) else { return false };
        let algorithms = self.signatures.and_all_others();
        let chains = |usage| leaf.verify_for_usage(&algorithms, &self.anchors, between, at, usage, None, None).is_ok();
        [KeyUsage::client_auth(), KeyUsage::server_auth()].into_iter().any(chains)
    }
}

/// Follows one chain in PEM up to one of these roots (in PEM, too).
pub fn trace(chain_pem: &str, roots_pem: &str) -> Origin {
    Tracer::new(roots_pem.into()).trace(chain_pem)
}

fn begins(der: &[u8]) -> Option<u64> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0))
}

fn blocks(pem: &str) -> Vec<CertificateDer<'static>> {
    let blocks = pem::parse_many(pem).unwrap_or_default();
    blocks.into_iter().map(|block| block.into_contents().into()).collect()
}
