//! Certificates and certification requests, held to what Go's strict parser takes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::key::{KeyFault, PublicKey};

/// What the API server's rules look at.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) key: Option<PublicKey>,
    pub(crate) dns_names: Vec<String>,
    pub(crate) email_addresses: Vec<String>,
    pub(crate) is_ca: bool,
    pub(crate) basic_constraints_valid: bool,
}

/// Reads one DER certificate; nothing if Go would not.
pub(crate) fn certificate(der: &[u8]) -> Option<Certificate> {
    let (rest, parsed) = X509Certificate::from_der(der).ok()?;
    let tbs = &parsed.tbs_certificate;
    let negative = parsed.raw_serial().first().is_none_or(|first| first & 0x80 != 0);
    if !rest.is_empty() || tbs.version.0 > 2 || negative || parsed.signature_algorithm != tbs.signature {
        return None;
    }
    let key = match PublicKey::from_spki(&tbs.subject_pki) {
        Ok(key) => Some(key),
        Err(KeyFault::Unknown) => None,
        Err(KeyFault::Malformed) => return None,
    };
    let mut out = Certificate {
        not_before: Timestamp::from_second(tbs.validity.not_before.timestamp()).ok()?,
        not_after: Timestamp::from_second(tbs.validity.not_after.timestamp()).ok()?,
        key,
        dns_names: Vec::new(),
        email_addresses: Vec::new(),
        is_ca: false,
        basic_constraints_valid: false,
    };
    // Go reads extensions of version 3 only.
    if tbs.version.0 == 2 {
        extensions(&parsed, &mut out)?;
    }
    Some(out)
}

fn extensions(parsed: &X509Certificate<'_>, out: &mut Certificate) -> Option<()> {
    let mut seen = BTreeSet::new();
    for extension in parsed.tbs_certificate.extensions() {
        if !seen.insert(extension.oid.to_id_string()) {
            return None;
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "an extension Go does not look into; the enum is foreign")]
        match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => return None,
            ParsedExtension::AuthorityKeyIdentifier(_)
            | ParsedExtension::SubjectKeyIdentifier(_)
            | ParsedExtension::AuthorityInfoAccess(_)
                if extension.critical =>
            {
                return None;
            }
            ParsedExtension::BasicConstraints(constraints) => {
                out.is_ca = constraints.ca;
                out.basic_constraints_valid = true;
            }
            ParsedExtension::SubjectAlternativeName(names) => alternative_names(&names.general_names, out)?,
            _ => {}
        }
    }
    Some(())
}

fn alternative_names(names: &[GeneralName<'_>], out: &mut Certificate) -> Option<()> {
    for name in names {
        #[expect(clippy::wildcard_enum_match_arm, reason = "forms of name Go passes over; the enum is foreign")]
        match name {
            GeneralName::DNSName(name) => out.dns_names.push(ia5(name)?),
            GeneralName::RFC822Name(name) => out.email_addresses.push(ia5(name)?),
            GeneralName::URI(uri) if !is_uri(&ia5(uri)?) => return None,
            GeneralName::IPAddress(address) if address.len() != 4 && address.len() != 16 => return None,
            GeneralName::Invalid(..) => return None,
            _ => {}
        }
    }
    Some(())
}

fn ia5(text: &str) -> Option<String> {
    text.is_ascii().then(|| text.to_owned())
}

/// As much of Go's `url.Parse` as decides whether a URI in a certificate is taken, and the host's labels.
fn is_uri(uri: &str) -> bool {
    if uri.bytes().any(|byte| byte < 0x20 || byte == 0x7f) || !percent_encoding_good(uri) {
        return false;
    }
    let before_fragment = uri.split('#').next().unwrap_or_default();
    let rest = match before_fragment.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => rest,
        Some(("", _)) => return false,
        // "first path segment cannot contain a colon"
        Some((first, _)) if !first.contains('/') && !first.contains('?') => return false,
        Some(_) | None => before_fragment,
    };
    let Some(authority) = rest.strip_prefix("//") else { return true };
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let after_user = authority.rsplit('@').next().unwrap_or_default();
    let bad_host = |c: char| c == ' ' || "\"<>\\^`{|}".contains(c) || !c.is_ascii();
    !after_user.contains(bad_host) && port_good(after_user) && host_labels_good(after_user)
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn percent_encoding_good(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let hex = after.as_bytes().get(..2).unwrap_or_default();
        hex.len() == 2 && hex.iter().all(u8::is_ascii_hexdigit)
    })
}

fn port_good(host: &str) -> bool {
    let after_bracket = host.rsplit(']').next().unwrap_or_default();
    let digits = after_bracket.rsplit_once(':').map_or("", |(_, port)| port);
    digits.bytes().all(|byte| byte.is_ascii_digit()) && host.contains('[') == host.contains(']')
}

/// Go looks at the host with its port: no empty label, none at the end.
fn host_labels_good(host: &str) -> bool {
    host.is_empty()
        || host.split('.').all(|label| !label.is_empty() && label.bytes().all(|byte| (33..=126).contains(&byte)))
}

/// A certification request.
pub(crate) struct CertificationRequest {
    pub(crate) key: Option<PublicKey>,
    /// Whether its own key signed it.
    pub(crate) signature_good: bool,
}

/// Reads one DER PKCS#10; nothing if Go would not.
pub(crate) fn certification_request(der: &[u8]) -> Option<CertificationRequest> {
    let (rest, parsed) = X509CertificationRequest::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let info = &parsed.certification_request_info;
    let key = match PublicKey::from_spki(&info.subject_pki) {
        Ok(key) => Some(key),
        Err(KeyFault::Unknown) => None,
        Err(KeyFault::Malformed) => return None,
    };
    let signature = parsed.signature_value.data.as_ref();
    let algorithm = &parsed.signature_algorithm.algorithm;
    let signature_good = key.as_ref().is_some_and(|key| key.signed(algorithm, info.raw, signature));
    Some(CertificationRequest { key, signature_good })
}

/// As much of Go's `net/mail.ParseAddress` as decides whether an e-mail SAN is taken.
pub(crate) fn is_mail_address(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t']);
    let spec = match text.split_once('<') {
        Some((_, inside)) => match inside.split_once('>') {
            Some((spec, after)) if after.trim().is_empty() => spec.trim(),
            Some(_) | None => return false,
        },
        None => text,
    };
    let Some((local, domain)) = spec.rsplit_once('@') else { return false };
    let atom = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c))
    };
    let dot_atom = |text: &str| text.split('.').all(atom);
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.starts_with('[') && domain.ends_with(']') && domain.len() > 2;
    (dot_atom(local) || quoted) && (dot_atom(domain) || literal)
}
