//! Whose certificate is this? Every issued status comes by on our watch, and those that we did not sign are an alarm.

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

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

/// Follows a chain in PEM up to one of these roots (in PEM, too), as of the first second at which all of the chain is valid: a CA that
/// is brought may have been made a moment ago, and leaves are backdated.
pub fn trace(chain_pem: &str, roots_pem: &str) -> Origin {
    let (chain, roots) = (blocks(chain_pem), blocks(roots_pem));
    let Some((leaf, between)) = chain.split_first() else { return Origin::Unreadable };
    if begins(leaf).is_none() {
        return Origin::Unreadable;
    }
    let hash = Sha256::of(leaf);
    let begins = chain.iter().filter_map(|der| begins(der)).max().unwrap_or(0);
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(begins));
    if verify(leaf, between, &roots, at).is_some() {
        Origin::Ours { leaf: hash }
    } else {
        Origin::Foreign { leaf: hash }
    }
}

fn begins(der: &[u8]) -> Option<u64> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0))
}

fn verify(
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    at: UnixTime,
) -> Option<()> {
    let anchors: Vec<_> = roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
    let leaf = EndEntityCert::try_from(leaf).ok()?;
    leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, between, at, KeyUsage::client_auth(), None, None)
        .ok()
        .map(|_path| ())
}

fn blocks(pem: &str) -> Vec<CertificateDer<'static>> {
    let blocks = pem::parse_many(pem).unwrap_or_default();
    blocks.into_iter().map(|block| block.into_contents().into()).collect()
}
