//! Makes roots and issuing CAs. Every field of their certificates is set here, since rcgen's defaults are not ours; each is then
//! read back through the same checks as one from a Secret.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, GeneralSubtree, IsCa, KeyIdMethod, KeyUsagePurpose,
    NameConstraints, PublicKeyData, SerialNumber as RcgenSerial,
};
use time::{Duration, OffsetDateTime};

use super::{
    certificate::{CaCertificate, from_pem},
    issuing::Issuing,
    key::CaKey,
    load::{Generation, LoadError, Means, Root, Roots},
    plan::Plan,
    source::Source,
    state::Put,
};
use crate::{
    config::Domains,
    names::{SerialNumber, Sha256, TrustDomain},
};

/// Why a CA could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// rcgen or ring refused.
    #[error("could not sign the certificate of a new CA")]
    Sign(#[from] rcgen::Error),
    /// What was made does not pass the checks of what is loaded.
    #[error("a new CA does not pass its own checks")]
    Check(#[from] LoadError),
    /// The root ends too soon to make anything under it.
    #[error("the root ends at {0}")]
    RootEnds(OffsetDateTime),
    /// A step spoke of what was not there. Asked again after another look, it will not.
    #[error("the root {0} is in neither Secret")]
    NoSuchRoot(Sha256),
    /// As above.
    #[error("there is no issuing CA to go on with")]
    Nothing,
    /// As above.
    #[error("nothing is brought that could be used")]
    NotBrought,
}

/// What a CA is made of.
#[derive(Clone, Copy, Debug)]
pub struct Makings<'a> {
    /// The trust domain, for its name.
    pub trust_domain: &'a TrustDomain,
    /// The cluster domain, for the DNS names that it may issue.
    pub domains: &'a Domains,
    /// The API server's time.
    pub now: OffsetDateTime,
    /// A fresh serial number.
    pub serial: SerialNumber,
    /// Where roots and issuing CAs come from.
    pub source: &'a dyn Source,
    /// The trust bundle as it was read: the certificate of a root whose key is lost is nowhere else.
    pub trusted: &'a str,
}

/// A root of ten years.
pub fn root(makings: &Makings<'_>) -> Result<Root, MakeError> {
    let key = CaKey::generate()?;
    let mut params = params(makings, "root", &key, ROOT_LIFE, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    let certificate = params.self_signed(&key)?;
    Ok(Root::new(key, CaCertificate::check("tls.crt", certificate.der())?)?)
}

/// What is to be written into the signing Secret. It holds `before`; the root's Secret holds `roots`, where a key of it is wanted.
pub fn signing(
    put: &Put,
    before: Option<&Generation>,
    roots: Option<&Roots>,
    makings: &Makings<'_>,
) -> Result<Generation, MakeError> {
    let other = put.plan.rotation.map(|rotation| {
        let found = before.and_then(|before| before.root_of(rotation.other()));
        let held = || Some(&roots?.find(rotation.other())?.certificate);
        let found = found.or_else(held).cloned().or_else(|| published(rotation.other(), makings.trusted));
        found.ok_or(MakeError::NoSuchRoot(rotation.other()))
    });
    let other = other.transpose()?;
    match (put.below, before) {
        (Some(below), _) => {
            // What is brought now is newer than what was put by when its root was new.
            let brought = makings.source.brings().filter(|root| root.fingerprint() == below);
            let root = brought.or_else(|| roots?.find(below)).ok_or(MakeError::NoSuchRoot(below))?;
            generation(root, put.plan.clone(), other, makings)
        }
        (None, Some(before)) => Ok(before.under(put.plan.clone(), other)?),
        (None, None) => Err(MakeError::Nothing),
    }
}

fn published(root: Sha256, bundle: &str) -> Option<CaCertificate> {
    let all = from_pem(bundle.as_bytes()).unwrap_or_default();
    let checked = all.iter().filter_map(|der| CaCertificate::check("the trust bundle", der).ok());
    checked.into_iter().find(|certificate| certificate.fingerprint == root)
}

/// An issuing CA of thirty days under this root, or the one that was brought with it.
pub(crate) fn generation(
    root: &Root,
    plan: Plan,
    other: Option<CaCertificate>,
    makings: &Makings<'_>,
) -> Result<Generation, MakeError> {
    let other = other.map(|other| ("the other root", other));
    let above = CaCertificate::check("ca.crt", &root.certificate.der)?;
    let root_key = match &root.means {
        Means::Key(key) => key,
        Means::Brought(issuing) => return Ok(Generation::new(plan, true, issuing.again()?, above, other)?),
    };
    let key = CaKey::generate()?;
    let mut params = params(makings, "issuing", &key, INTERMEDIATE_LIFE, Some(root.not_after()));
    if params.not_after.saturating_sub(LEAST_LEFT) < makings.now {
        return Err(MakeError::RootEnds(root.not_after()));
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    // Below `svc` and the cluster domain; URIs are not constrained, for webpki refuses whatever is below such a CA.
    let permitted = ["svc", makings.domains.cluster.as_str()];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted.map(|name| GeneralSubtree::DnsName(name.to_owned())).into(),
        excluded_subtrees: Vec::new(),
    });
    let der = root.certificate.der.as_slice().into();
    let issuer = rcgen::Issuer::from_ca_cert_der(&der, root_key)?;
    let certificate = CaCertificate::check("tls.crt", params.signed_by(&key, &issuer)?.der())?;
    let issuing = Issuing::new(key, vec![certificate], &above)?;
    Ok(Generation::new(plan, false, issuing, above, other)?)
}

/// The fields that both have in common. Subject and key identifier are derived from the key, so that no two generations share one.
fn params(
    makings: &Makings<'_>,
    role: &str,
    key: &CaKey,
    life: Duration,
    before: Option<OffsetDateTime>,
) -> CertificateParams {
    let hash = Sha256::of(&key.subject_public_key_info());
    let identifier: Vec<u8> = hash.as_bytes().iter().copied().take(KEY_IDENTIFIER).collect();
    let now = makings.now.replace_nanosecond(0).unwrap_or(makings.now);
    let ends = now.saturating_add(life);

    let mut params = CertificateParams::default();
    params.serial_number = Some(RcgenSerial::from_slice(makings.serial.as_bytes()));
    params.not_before = now.saturating_sub(BACKDATE);
    params.not_after = before.map_or(ends, |before| ends.min(before));
    params.distinguished_name = subject(makings.trust_domain, role, &hash);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
    params
}

/// Both parts may have 64 letters by RFC 5280; a longer trust domain is left out.
fn subject(trust_domain: &TrustDomain, role: &str, key: &Sha256) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if trust_domain.as_str().len() <= 64 {
        subject.push(DnType::OrganizationName, trust_domain.as_str());
    }
    let key: String = key.to_string().chars().take(16).collect();
    subject.push(DnType::CommonName, format!("Podmint {role} {key}"));
    subject
}

pub(super) const ROOT_LIFE: Duration = Duration::days(3652);

const INTERMEDIATE_LIFE: Duration = Duration::days(30);

/// Less than this is not worth a CA, for it could issue nothing.
pub(super) const LEAST_LEFT: Duration = Duration::hours(2);

/// Clocks of peers may be this far behind: a CA that is "not yet valid" stops everything.
const BACKDATE: Duration = Duration::hours(1);

/// 160 bits of a SHA-256 of the key, as RFC 7093 has it.
const KEY_IDENTIFIER: usize = 20;
