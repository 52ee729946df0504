//! A CA's certificate, read as far as we depend on it.

use pem::{LineEnding, Pem};
use time::OffsetDateTime;
use x509_parser::{
    extensions::{GeneralName, NameConstraints, ParsedExtension},
    oid_registry::{OID_SIG_ED25519, OID_X509_EXT_NAME_CONSTRAINTS},
    prelude::{FromDer, X509Certificate, X509Name},
    public_key::PublicKey,
};

use super::{
    load::LoadError,
    view::{Role, Shown},
};
use crate::names::Sha256;

/// A certificate that may sign others.
#[derive(Clone, Debug)]
pub(crate) struct CaCertificate {
    pub(super) der: Vec<u8>,
    pub(super) spki: Vec<u8>,
    pub(super) subject: Vec<u8>,
    pub(super) subject_key: Vec<u8>,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    pub(super) fingerprint: Sha256,
}

impl CaCertificate {
    /// Reads one, and checks that it may sign, and nothing in it stands against the leaves that we sign.
    pub(super) fn check(field: &'static str, der: &[u8]) -> Result<Self, LoadError> {
        let certificate = parse(field, der)?;
        let constraints = certificate.basic_constraints().ok().flatten();
        let usage = certificate.key_usage().ok().flatten();
        if !constraints.is_some_and(|constraints| constraints.critical && constraints.value.ca) {
            return Err(LoadError::NoCa(field));
        }
        if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(LoadError::NoCertSign(field));
        }
        if name_constraints(&certificate).is_some_and(|constraints| names_uri(constraints)) {
            return Err(LoadError::UriConstraints(field));
        }
        let extended = certificate.extended_key_usage().map_err(|_garbage| LoadError::Unreadable(field))?;
        if extended.is_some_and(|usage| !(usage.value.any || usage.value.client_auth && usage.value.server_auth)) {
            return Err(LoadError::Usage(field));
        }
        Ok(Self {
            der: der.to_vec(),
            spki: certificate.public_key().raw.to_vec(),
            subject: certificate.subject().as_raw().to_vec(),
            subject_key: subject_key(&certificate).ok_or(LoadError::NoKeyIdentifier(field))?.to_vec(),
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
            fingerprint: Sha256::of(der),
        })
    }

    /// What its key is, where it is none that we could sign with.
    pub(super) fn unfit_key(&self) -> Option<String> {
        let (_, certificate) = X509Certificate::from_der(&self.der).ok()?;
        match certificate.public_key().parsed() {
            Ok(PublicKey::RSA(key)) if (2048..=4096).contains(&key.key_size()) => None,
            Ok(PublicKey::RSA(key)) => Some(format!("RSA of {} bits", key.key_size())),
            // The length in bits of a point, which is two coordinates and a byte.
            Ok(PublicKey::EC(point)) if matches!(point.key_size(), 256 | 384) => None,
            Ok(PublicKey::EC(_)) => Some("of another curve".to_owned()),
            _ if certificate.public_key().algorithm.algorithm == OID_SIG_ED25519 => None,
            _ => Some("of another kind".to_owned()),
        }
    }

    /// How many CAs may follow below; none where it is not limited.
    pub(super) fn path_length(&self, field: &'static str) -> Result<Option<u32>, LoadError> {
        let certificate = parse(field, &self.der)?;
        let constraints = certificate.basic_constraints().ok().flatten();
        Ok(constraints.and_then(|constraints| constraints.value.path_len_constraint))
    }

    /// Whether `issuer` signed this one: by name, by key identifier where it names one, and by signature.
    pub(super) fn is_signed_by(&self, field: &'static str, issuer: &Self) -> Result<bool, LoadError> {
        let (lower, upper) = (parse(field, &self.der)?, parse(field, &issuer.der)?);
        let named = lower.issuer().as_raw() == upper.subject().as_raw();
        let identified = match (authority_key(&lower), subject_key(&upper)) {
            (Some(authority), Some(subject)) => authority == subject,
            // A root need not say who signed it, and some tools never do.
            (None, _) | (_, None) => true,
        };
        Ok(named && identified && lower.verify_signature(Some(upper.public_key())).is_ok())
    }

    pub(super) fn to_pem(&self) -> String {
        to_pem(&self.der)
    }

    /// What people know it by.
    pub(super) fn shown(&self, role: Role, usable_until: OffsetDateTime) -> Shown {
        let subject = X509Name::from_der(&self.subject).map_or_else(|_| String::new(), |(_, name)| name.to_string());
        let key_identifier: Vec<String> = self.subject_key.iter().map(|byte| format!("{byte:02x}")).collect();
        Shown {
            role,
            subject,
            key_identifier: key_identifier.join(":"),
            fingerprint: self.fingerprint,
            not_after: self.not_after,
            usable_until,
        }
    }
}

/// One `CERTIFICATE` block.
pub(crate) fn to_pem(der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new("CERTIFICATE", der), config)
}

/// All blocks of a text, each of which must be a `CERTIFICATE`, and of which there must be one.
pub(crate) fn from_pem(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    // A CA's Secret is small. What is large was not written by us, and is not worth the time.
    const MOST: usize = 64 * 1024;
    if pem.len() > MOST {
        return None;
    }
    let blocks = pem::parse_many(pem).ok()?;
    if blocks.is_empty() || blocks.iter().any(|block| block.tag() != "CERTIFICATE") {
        return None;
    }
    Some(blocks.into_iter().map(Pem::into_contents).collect())
}

fn parse<'d>(field: &'static str, der: &'d [u8]) -> Result<X509Certificate<'d>, LoadError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(LoadError::Unreadable(field)),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum, of which one counts")]
fn name_constraints<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c NameConstraints<'c>> {
    let extension = certificate.get_extension_unique(&OID_X509_EXT_NAME_CONSTRAINTS).ok().flatten()?;
    match extension.parsed_extension() {
        ParsedExtension::NameConstraints(constraints) => Some(constraints),
        _ => None,
    }
}

/// webpki refuses every certificate below a CA that has a constraint on URIs, of whatever kind.
fn names_uri(constraints: &NameConstraints<'_>) -> bool {
    let lists = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
    lists.into_iter().flatten().flatten().any(|subtree| matches!(subtree.base, GeneralName::URI(_)))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum, of which one counts")]
fn authority_key<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => identifier.key_identifier.as_ref().map(|key| key.0),
        _ => None,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum, of which one counts")]
fn subject_key<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    })
}
