//! Trust bundles: file contents in, the anchors of one trust domain out.
//!
//! webpki takes whatever it is given for an anchor. So what is no CA, or may not sign certificates, is left out here, and whether an anchor is
//! valid now is asked again in each handshake. Bundles of different domains are never merged.

use crate::load::LoadError;
use crate::pem::{self, Block};
use crate::spiffe::TrustDomain;
use crate::x509::{self, Facts};
use rustls::DistinguishedName;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::path::Path;

/// A kubelet's whole projected volume is limited to about a thousand certificates of this size.
const MOST_ANCHORS: usize = 1000;

/// The certificates that vouch for one trust domain. Part of a [`Snapshot`](crate::Snapshot).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anchors {
    /// Sorted by their DER and without repetition: the kubelet shuffles the file.
    anchors: Vec<Anchor>,
    /// The same, as webpki wants them.
    webpki: Vec<TrustAnchor<'static>>,
    ignored: usize,
}

/// One certificate that vouches for a trust domain.
#[derive(Debug, Clone)]
pub struct Anchor {
    der: CertificateDer<'static>,
    subject_key_id: Option<String>,
    subject: DistinguishedName,
    not_before: UnixTime,
    not_after: UnixTime,
    path_len: Option<u32>,
    limits_uris: bool,
}

/// The certificate says everything else.
impl PartialEq for Anchor {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Anchor {}

impl Anchors {
    /// Each anchor once, in an order that does not depend on the file's.
    pub fn iter(&self) -> impl Iterator<Item = &Anchor> {
        self.anchors.iter()
    }

    /// How many anchors there are.
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// No anchors: nobody of this domain is believed.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// How many certificates of the file were left out, because they are no CA or may not sign certificates.
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// The anchors' subject key identifiers, to compare with a peer's authority key identifier.
    pub fn key_ids(&self) -> Vec<String> {
        self.anchors.iter().filter_map(|anchor| anchor.subject_key_id.clone()).collect()
    }

    /// These and those.
    pub(crate) fn and(self, other: Self) -> Self {
        let Self { anchors, webpki, ignored } = self;
        let both = anchors.into_iter().chain(other.anchors).zip(webpki.into_iter().chain(other.webpki));
        Self { ignored: ignored.saturating_add(other.ignored), ..Self::sorted(both.collect()) }
    }

    fn sorted(mut found: Vec<(Anchor, TrustAnchor<'static>)>) -> Self {
        found.sort_by(|(one, _), (other, _)| one.der.cmp(&other.der));
        found.dedup_by(|(one, _), (other, _)| one.der == other.der);
        let (anchors, webpki) = found.into_iter().unzip();
        Self { anchors, webpki, ignored: 0 }
    }

    pub(crate) fn webpki(&self) -> &[TrustAnchor<'static>] {
        &self.webpki
    }

    /// The certificates behind what webpki calls an anchor: several may share name, key and name constraints.
    pub(crate) fn behind<'a>(&'a self, found: &'a TrustAnchor<'_>) -> impl Iterator<Item = &'a Anchor> {
        self.webpki.iter().zip(&self.anchors).filter_map(move |(one, anchor)| (one == found).then_some(anchor))
    }
}

impl Anchor {
    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The subject key identifier in hexadecimal, if it has one.
    pub fn key_id(&self) -> Option<&str> {
        self.subject_key_id.as_deref()
    }

    /// When it expires.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    pub(crate) fn not_before(&self) -> UnixTime {
        self.not_before
    }

    pub(crate) fn subject(&self) -> &DistinguishedName {
        &self.subject
    }

    /// How many issuers may stand between this anchor and a leaf.
    pub(crate) fn path_len(&self) -> Option<u32> {
        self.path_len
    }

    pub(crate) fn limits_uris(&self) -> bool {
        self.limits_uris
    }
}

/// Reads the bundle of one trust domain.
///
/// # Errors
/// An empty file is [`LoadError::EmptyTrust`]: it is never a reason to trust somebody else, such as the system's roots.
pub(crate) fn parse(bytes: &[u8], path: &Path, domain: &TrustDomain) -> Result<Anchors, LoadError> {
    let blocks = pem::blocks(bytes, MOST_ANCHORS).map_err(|source| LoadError::Pem { path: path.into(), source })?;
    if blocks.is_empty() {
        return Err(LoadError::EmptyTrust { path: path.into(), domain: domain.clone() });
    }
    let mut found = Vec::with_capacity(blocks.len());
    let mut ignored = 0_usize;
    for (index, block) in (1_usize..).zip(blocks) {
        let Block::Certificate(der) = block else {
            return Err(LoadError::StrayKey { path: path.into() });
        };
        match anchor(der.into()) {
            Ok(Some(pair)) => found.push(pair),
            Ok(None) => ignored = ignored.saturating_add(1),
            Err(place) => return Err(LoadError::Certificate { path: path.into(), index, place }),
        }
    }
    if found.is_empty() {
        return Err(LoadError::NoAnchor { path: path.into(), domain: domain.clone(), ignored });
    }
    Ok(Anchors { ignored, ..Anchors::sorted(found) })
}

/// The certificate as an anchor; nothing if it is none.
fn anchor(der: CertificateDer<'static>) -> Result<Option<(Anchor, TrustAnchor<'static>)>, &'static str> {
    let facts = Facts::read(&der).map_err(|bad| bad.0)?;
    // X.509-SVID section 4.3: whoever signs certificates has keyCertSign.
    if !facts.basic.ca || !facts.usage.is_some_and(|usage| usage.cert_sign) {
        return Ok(None);
    }
    let trusted = webpki::anchor_from_trusted_cert(&der).map_err(|_same_place| "trust anchor")?.to_owned();
    let anchor = Anchor {
        subject_key_id: facts.subject_key_id.map(x509::hex),
        subject: DistinguishedName::in_sequence(facts.subject),
        not_before: facts.not_before,
        not_after: facts.not_after,
        path_len: facts.basic.path_len,
        limits_uris: facts.limits_uris,
        der: der.clone(),
    };
    Ok(Some((anchor, trusted)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    };

    /// One root in two certificates, one of which limits names: a path found through the other must not pass for it.
    #[test]
    fn an_anchor_with_other_name_constraints_is_another_anchor() {
        let key = KeyPair::generate().unwrap();
        let root = |limit: Option<&str>| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "root");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.name_constraints = limit.map(|name| NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DnsName(name.into())],
                excluded_subtrees: Vec::new(),
            });
            crate::testkit::pem("CERTIFICATE", params.self_signed(&key).unwrap().der())
        };
        let file = format!("{}{}", root(None), root(Some("svc")));
        let anchors = parse(file.as_bytes(), Path::new("trust.pem"), &"prod".parse().unwrap()).unwrap();
        assert_eq!(anchors.len(), 2);
        for found in anchors.webpki() {
            assert_eq!(anchors.behind(found).count(), 1);
        }
    }
}
