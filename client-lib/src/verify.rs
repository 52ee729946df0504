//! Who is on the other end: the peer's certificates in, its identity out, or the rule that was broken.
//!
//! Order: the leaf's facts and its SPIFFE ID; the anchors of that trust domain and no other; the chain (webpki, and what webpki does not look
//! at); the authorizer. Nothing here reads a clock or a file.

use crate::authorize::Authorizer;
use crate::handshake::HandshakeError;
use crate::peer::PeerIdentity;
use crate::snapshot::Snapshot;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::svid::{self, NotAnSvid};
use crate::trust::Anchors;
use crate::x509::{self, Facts};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::cell::RefCell;
use std::fmt;
use std::time::Duration;
use webpki::{EndEntityCert, VerifiedPath};

/// More than a leaf's issuers can be; webpki itself stops at six in a path.
const MOST_INTERMEDIATES: usize = 10;

/// As many anchors are named in a message: a stranger must not make us write kilobytes for each of his attempts.
const MOST_NAMED: usize = 8;

/// Which side the certificate speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Now, and by how much a clock may be behind the signer's at `notBefore`. At `notAfter` there is no allowance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now: UnixTime,
    pub(crate) skew: Duration,
}

/// Why a peer was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The leaf cannot be read.
    #[error("its certificate is malformed at: {0}")]
    Malformed(&'static str),
    /// The leaf is no X.509-SVID.
    #[error("its certificate is no X.509-SVID: {0}")]
    NotAnSvid(#[source] NotAnSvid),
    /// No bundle was named for its trust domain.
    #[error("there is no trust bundle for its trust domain")]
    UnknownTrustDomain,
    /// Its trust domain has no anchors left.
    #[error("the trust bundle of its trust domain is empty")]
    EmptyTrust,
    /// No anchor of its trust domain signed its chain.
    #[error("its issuer is not in the trust bundle of its trust domain")]
    UnknownIssuer,
    /// A signature does not verify, though the issuer is known.
    #[error("a signature in its chain is wrong")]
    BadSignature,
    /// A certificate of the chain is expired.
    #[error("a certificate in its chain expired {0} s ago")]
    Expired(u64),
    /// A certificate of the chain is not valid yet.
    #[error("a certificate in its chain becomes valid only in {0} s")]
    NotYetValid(u64),
    /// The anchor itself is expired or not valid yet.
    #[error("the anchor of its chain is not valid now")]
    AnchorNotValid,
    /// An issuer in the chain is no CA, or may not sign certificates.
    #[error("an issuer in its chain may not sign certificates")]
    IssuerMayNotSign,
    /// An issuer in the chain claims a workload's SPIFFE ID (X.509-SVID section 3.2).
    #[error("an issuer in its chain has the SPIFFE ID of a workload")]
    IssuerIsWorkload,
    /// More issuers than one of them allows below it.
    #[error("its chain is longer than an issuer allows")]
    PathTooLong,
    /// The certificate is not for this side of a connection.
    #[error("its certificate is not for this purpose (extended key usage)")]
    WrongPurpose,
    /// A name constraint on URIs, which webpki rejects whatever it says.
    #[error("an issuer limits which URIs it may certify, which this library cannot check yet; such chains are refused")]
    UriConstraint,
    /// A name constraint forbids the leaf's names.
    #[error("an issuer may not certify its names (name constraints)")]
    NameConstraint,
    /// A signature algorithm that the crypto provider lacks.
    #[error("its chain uses a signature algorithm that the crypto provider lacks")]
    UnsupportedAlgorithm,
    /// Anything else webpki refuses; its word for it.
    #[error("its chain is refused: {0}")]
    Chain(String),
    /// The chain is good, but the certificate is not for the name that was dialled.
    #[error("its certificate is not for the name {0}")]
    WrongName(String),
    /// The chain is good, but this identity is not the one expected here.
    #[error("it is not allowed here; allowed is {0}")]
    NotAllowed(String),
}

impl Reason {
    /// A stable name, for metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::NotAnSvid(rule) => rule.reason(),
            Self::UnknownTrustDomain => "unknown_trust_domain",
            Self::EmptyTrust => "empty_trust",
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadSignature => "bad_signature",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::AnchorNotValid => "anchor_not_valid",
            Self::IssuerMayNotSign => "issuer_may_not_sign",
            Self::IssuerIsWorkload => "issuer_is_workload",
            Self::PathTooLong => "path_too_long",
            Self::WrongPurpose => "wrong_purpose",
            Self::UriConstraint => "uri_constraint",
            Self::NameConstraint => "name_constraint",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::Chain(_) => "chain",
            Self::WrongName(_) => "wrong_name",
            Self::NotAllowed(_) => "not_allowed",
        }
    }
}

/// A peer was refused: why, and what an on-call engineer needs to see at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    reason: Reason,
    peer: Option<SpiffeId>,
    authority_key_id: Option<String>,
    anchors: Vec<String>,
    generation: u64,
}

impl Refusal {
    /// The refusal behind an error of something that was given one of our rustls configs, wherever in the chain of causes it is.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(handshake) = error.downcast_ref::<HandshakeError>() {
                return if let HandshakeError::Refused(refusal) = handshake { Some(refusal) } else { None };
            }
            if let Some(refusal) = error.downcast_ref::<rustls::Error>().and_then(crate::tls::refusal_in) {
                return Some(refusal);
            }
            // An I/O error keeps what it wraps apart from its source.
            next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }

    /// Why.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The identity that the peer claimed, if it can be read. It is not proven.
    pub fn claimed_id(&self) -> Option<&SpiffeId> {
        self.peer.as_ref()
    }

    /// The key identifier of the issuer that the peer's leaf names.
    pub fn authority_key_id(&self) -> Option<&str> {
        self.authority_key_id.as_deref()
    }

    /// The key identifiers of our anchors for its trust domain.
    pub fn anchors(&self) -> &[String] {
        &self.anchors
    }

    /// The generation of the snapshot that refused it.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl Refusal {
    /// With what there is to say of the leaf. It is put together only once a peer is refused: handshakes that succeed need none of it.
    fn of_leaf(reason: Reason, leaf: &CertificateDer<'_>, snapshot: &Snapshot) -> Self {
        let facts = Facts::read(leaf).ok();
        let peer = facts.as_ref().and_then(|facts| svid::name(facts).ok());
        let anchors = peer.as_ref().and_then(|peer| snapshot.anchors(peer.trust_domain()));
        Self {
            reason,
            authority_key_id: facts.and_then(|facts| facts.authority_key_id.map(shown)),
            anchors: anchors.map(|anchors| anchors.key_ids()).unwrap_or_default(),
            peer,
            generation: snapshot.generation(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.peer {
            Some(id) => write!(f, "the peer that calls itself {id} was refused: {}", self.reason)?,
            None => write!(f, "the peer was refused: {}", self.reason)?,
        }
        let issuer = self.authority_key_id.as_deref().unwrap_or("none");
        write!(f, " (issuer key {issuer}; our anchors in generation {}: ", self.generation)?;
        let (named, more) = self.anchors.split_at_checked(MOST_NAMED).unwrap_or((&self.anchors, &[]));
        f.write_str(if named.is_empty() { "none" } else { "" })?;
        f.write_str(&named.join(", "))?;
        if more.is_empty() { f.write_str(")") } else { write!(f, " and {} more)", more.len()) }
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        None // the reason is part of the message
    }
}

/// A key identifier from a stranger, for a message: no longer than the longest digest that names a key.
fn shown(key_id: &[u8]) -> String {
    x509::hex(key_id.get(..64).unwrap_or(key_id))
}

/// Verifies a peer and asks the authorizer.
pub(crate) fn peer(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    side: Side,
    snapshot: &Snapshot,
    authorizer: &Authorizer,
    moment: Moment,
    provider: &CryptoProvider,
) -> Result<PeerIdentity, Box<Refusal>> {
    let outcome = (|| {
        let facts = Facts::read(leaf).map_err(|bad| Reason::Malformed(bad.0))?;
        let id = svid::identity(&facts).map_err(Reason::NotAnSvid)?;
        let anchors = snapshot.anchors(id.trust_domain()).ok_or(Reason::UnknownTrustDomain)?;
        chain(leaf, intermediates, anchors, side, moment, provider)?;
        let identity = PeerIdentity::new(id, &facts);
        if authorizer.allows(&identity) { Ok(identity) } else { Err(Reason::NotAllowed(authorizer.to_string())) }
    })();
    outcome.map_err(|reason| Box::new(Refusal::of_leaf(reason, leaf, snapshot)))
}

/// Verifies a server that is no SPIFFE workload: its chain to the anchors of this one bundle, and the name that was dialled (RFC 9525).
pub(crate) fn by_name(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    snapshot: &Snapshot,
    domain: &TrustDomain,
    moment: Moment,
    provider: &CryptoProvider,
) -> Result<(), Box<Refusal>> {
    let anchors = snapshot.anchors(domain);
    let outcome = (|| {
        Facts::read(leaf).map_err(|bad| Reason::Malformed(bad.0))?;
        chain(leaf, intermediates, anchors.ok_or(Reason::UnknownTrustDomain)?, Side::Server, moment, provider)?;
        let end = EndEntityCert::try_from(leaf).map_err(|error| reason_for(&error, moment))?;
        end.verify_is_valid_for_subject_name(name).map_err(|_which| Reason::WrongName(name.to_str().into_owned()))
    })();
    outcome.map_err(|reason| {
        let anchors = anchors.map(|anchors| anchors.key_ids()).unwrap_or_default();
        Box::new(Refusal { anchors, peer: None, ..Refusal::of_leaf(reason, leaf, snapshot) })
    })
}

/// Verifies the chain of a connection that is open already, as [`peer`] would now.
pub(crate) fn again(
    shown: &[CertificateDer<'_>],
    side: Side,
    snapshot: &Snapshot,
    moment: Moment,
    provider: &CryptoProvider,
) -> Result<PeerIdentity, Reason> {
    let (leaf, intermediates) = shown.split_first().ok_or(Reason::Malformed("certificate"))?;
    let facts = Facts::read(leaf).map_err(|bad| Reason::Malformed(bad.0))?;
    let id = svid::identity(&facts).map_err(Reason::NotAnSvid)?;
    let anchors = snapshot.anchors(id.trust_domain()).ok_or(Reason::UnknownTrustDomain)?;
    chain(leaf, intermediates, anchors, side, moment, provider)?;
    Ok(PeerIdentity::new(id, &facts))
}

/// Verifies a chain to the anchors of one trust domain, names aside.
pub(crate) fn chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &Anchors,
    side: Side,
    moment: Moment,
    provider: &CryptoProvider,
) -> Result<(), Reason> {
    if anchors.is_empty() {
        return Err(Reason::EmptyTrust);
    }
    if intermediates.len() > MOST_INTERMEDIATES {
        return Err(Reason::PathTooLong);
    }
    let end = EndEntityCert::try_from(leaf).map_err(|error| reason_for(&error, moment))?;
    let ours: RefCell<Option<Reason>> = RefCell::new(None);
    let on_path = |path: &VerifiedPath<'_>| {
        check_path(path, anchors, moment).map_err(|reason| {
            ours.replace(Some(reason));
            webpki::Error::UnknownIssuer // so that webpki looks for another path
        })
    };
    let at = |time| {
        let usage = match side {
            Side::Client => webpki::KeyUsage::client_auth(),
            Side::Server => webpki::KeyUsage::server_auth(),
        };
        let algorithms = provider.signature_verification_algorithms.all;
        let on_path: &dyn Fn(&VerifiedPath<'_>) -> Result<(), webpki::Error> = &on_path;
        end.verify_for_usage(algorithms, anchors.webpki(), intermediates, time, usage, None, Some(on_path))
            .map(|_path| ())
    };
    let verified = match at(moment.now) {
        // webpki knows one time only. A look a little into the future forgives notBefore and is stricter at notAfter.
        Err(webpki::Error::CertNotValidYet { not_before, .. })
            if not_before.as_secs() <= moment.now.as_secs().saturating_add(moment.skew.as_secs()) =>
        {
            at(UnixTime::since_unix_epoch(Duration::from_secs(
                moment.now.as_secs().saturating_add(moment.skew.as_secs()),
            )))
        }
        other => other,
    };
    verified.map_err(|error| {
        let uri_limits = intermediates.iter().any(|one| Facts::read(one).is_ok_and(|facts| facts.limits_uris))
            || anchors.iter().any(super::trust::Anchor::limits_uris);
        match (ours.take(), reason_for(&error, moment)) {
            (Some(reason), _) => reason,
            (None, Reason::NameConstraint) if uri_limits => Reason::UriConstraint,
            (None, Reason::BadSignature) if !names_an_anchor(leaf, intermediates, anchors) => Reason::UnknownIssuer,
            (None, reason) => reason,
        }
    })
}

/// What webpki does not look at, on a path it would accept.
fn check_path(path: &VerifiedPath<'_>, anchors: &Anchors, moment: Moment) -> Result<(), Reason> {
    let mut issuers = 0_u32;
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let facts = Facts::read(&der).map_err(|bad| Reason::Malformed(bad.0))?;
        if !facts.basic.ca || !facts.usage.is_some_and(|usage| usage.cert_sign) {
            return Err(Reason::IssuerMayNotSign);
        }
        if has_workload_name(&facts) {
            return Err(Reason::IssuerIsWorkload);
        }
        issuers = issuers.saturating_add(1);
    }
    let (now, skew) = (moment.now.as_secs(), moment.skew.as_secs());
    let mut fault = Reason::UnknownIssuer;
    for anchor in anchors.behind(path.anchor()) {
        if now > anchor.not_after().as_secs() || now.saturating_add(skew) < anchor.not_before().as_secs() {
            fault = Reason::AnchorNotValid;
        } else if anchor.path_len().is_some_and(|most| issuers > most) {
            fault = Reason::PathTooLong;
        } else {
            return Ok(());
        }
    }
    Err(fault)
}

/// An issuer may be named by a trust domain, not by a workload.
fn has_workload_name(issuer: &Facts<'_>) -> bool {
    issuer.names.as_ref().is_some_and(|names| {
        let uri = names.first_uri.unwrap_or_default();
        let is_spiffe = uri.starts_with(b"spiffe://");
        is_spiffe && (names.uris > 1 || SpiffeId::from_bytes(uri).map_or(true, |id| !id.path().is_empty()))
    })
}

/// With two roots of one name and different keys, webpki says "bad signature" for an unknown issuer. The key identifiers tell.
fn names_an_anchor(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], anchors: &Anchors) -> bool {
    let known = anchors.key_ids();
    [leaf]
        .into_iter()
        .chain(intermediates)
        .filter_map(|one| Facts::read(one).ok())
        .any(|one| one.authority_key_id.is_none_or(|id| known.contains(&x509::hex(id))))
}

fn reason_for(error: &webpki::Error, moment: Moment) -> Reason {
    use webpki::Error as E;
    let now = moment.now.as_secs();
    #[expect(clippy::wildcard_enum_match_arm, reason = "webpki's errors are its own and grow")]
    match error {
        E::CertExpired { not_after, .. } => Reason::Expired(now.saturating_sub(not_after.as_secs())),
        E::CertNotValidYet { not_before, .. } => Reason::NotYetValid(not_before.as_secs().saturating_sub(now)),
        E::UnknownIssuer => Reason::UnknownIssuer,
        E::InvalidSignatureForPublicKey => Reason::BadSignature,
        E::CaUsedAsEndEntity => Reason::NotAnSvid(NotAnSvid::IsCa),
        E::EndEntityUsedAsCa => Reason::IssuerMayNotSign,
        E::PathLenConstraintViolated | E::MaximumPathDepthExceeded => Reason::PathTooLong,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Reason::WrongPurpose,
        E::NameConstraintViolation => Reason::NameConstraint,
        E::UnsupportedSignatureAlgorithmContext(_) | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            Reason::UnsupportedAlgorithm
        }
        E::BadDer | E::BadDerTime | E::MalformedExtensions => Reason::Malformed("certificate"),
        other => Reason::Chain(format!("{other:?}")),
    }
}

/// Whose anchors a refusal is about, for a second look after a reload.
pub(crate) fn may_be_cured_by_reload(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::UnknownTrustDomain
            | Reason::UnknownIssuer
            | Reason::BadSignature
            | Reason::EmptyTrust
            | Reason::AnchorNotValid
    )
}
