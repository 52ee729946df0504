//! What every leaf must be like, whatever was decided: RFC 5280 and SPIFFE's X.509-SVID, as rules with names. The first that
//! fails is told.

use x509_parser::{
    extensions::{GeneralName, ParsedExtension, X509Extension},
    prelude::{ASN1Time, X509Certificate, X509Version},
};

/// Runs all rules.
pub(super) fn all(leaf: &X509Certificate<'_>) -> Result<(), &'static str> {
    RULES.iter().find(|(_, holds)| !holds(leaf)).map_or(Ok(()), |(name, _)| Err(*name))
}

type Rule = (&'static str, fn(&X509Certificate<'_>) -> bool);

const RULES: &[Rule] = &[
    ("version_is_3", |leaf| leaf.version() == X509Version::V3),
    ("serial_has_16_bytes", |leaf| leaf.raw_serial().len() == 16),
    ("serial_is_positive", |leaf| leaf.raw_serial().first().is_some_and(|byte| byte & 0x80 == 0 && *byte != 0)),
    ("signature_algorithms_agree", |leaf| leaf.signature_algorithm == leaf.tbs_certificate.signature),
    ("issuer_is_not_empty", |leaf| leaf.issuer().iter().next().is_some()),
    ("subject_is_empty", |leaf| leaf.subject().iter().next().is_none()),
    ("no_unique_identifiers", |leaf| leaf.issuer_uid.is_none() && leaf.subject_uid.is_none()),
    ("life_is_positive", |leaf| leaf.validity().not_before < leaf.validity().not_after),
    ("times_are_encoded_by_year", |leaf| {
        encoded_by_year(leaf.validity().not_before) && encoded_by_year(leaf.validity().not_after)
    }),
    ("extensions_are_the_six", |leaf| leaf.extensions().len() == 6),
    ("extensions_are_readable", |leaf| {
        !leaf.extensions().iter().any(|extension| {
            matches!(
                extension.parsed_extension(),
                ParsedExtension::ParseError { .. }
                    | ParsedExtension::UnsupportedExtension { .. }
                    | ParsedExtension::Unparsed
            )
        })
    }),
    ("names_are_critical", |leaf| {
        extension(leaf, |parsed| matches!(parsed, ParsedExtension::SubjectAlternativeName(_)), true)
    }),
    ("one_name_a_spiffe_id", |leaf| match leaf.subject_alternative_name() {
        Ok(Some(names)) => matches!(names.value.general_names.as_slice(), [GeneralName::URI(uri)] if is_spiffe_id(uri)),
        Ok(None) | Err(_) => false,
    }),
    ("is_no_ca", |leaf| match leaf.basic_constraints() {
        Ok(Some(constraints)) => {
            constraints.critical && !constraints.value.ca && constraints.value.path_len_constraint.is_none()
        }
        Ok(None) | Err(_) => false,
    }),
    ("usage_is_digital_signature_only", |leaf| match leaf.key_usage() {
        Ok(Some(usage)) => usage.critical && usage.value.flags == DIGITAL_SIGNATURE,
        Ok(None) | Err(_) => false,
    }),
    ("usage_is_client_and_server", |leaf| match leaf.extended_key_usage() {
        Ok(Some(usage)) => {
            let usage = usage.value;
            let others = usage.any
                || usage.code_signing
                || usage.email_protection
                || usage.time_stamping
                || usage.ocsp_signing
                || !usage.other.is_empty();
            usage.client_auth && usage.server_auth && !others
        }
        Ok(None) | Err(_) => false,
    }),
    ("subject_key_is_named", |leaf| {
        extension(
            leaf,
            |parsed| matches!(parsed, ParsedExtension::SubjectKeyIdentifier(key) if key.0.len() == 20),
            false,
        )
    }),
    ("authority_key_is_named", |leaf| {
        let named = |parsed: &ParsedExtension<'_>| match parsed {
            ParsedExtension::AuthorityKeyIdentifier(authority) => {
                authority.key_identifier.as_ref().is_some_and(|key| !key.0.is_empty())
                    && authority.authority_cert_issuer.is_none()
                    && authority.authority_cert_serial.is_none()
            }
            _ => false,
        };
        extension(leaf, named, false)
    }),
    ("authority_is_not_self", |leaf| leaf.issuer().as_raw() != leaf.subject().as_raw()),
    ("signature_is_whole_bytes", |leaf| leaf.signature_value.unused_bits == 0),
];

/// RFC 5280 wants UTCTime up to 2049, and GeneralizedTime from 2050 on.
fn encoded_by_year(at: ASN1Time) -> bool {
    at.is_utctime() == (at.to_datetime().year() < 2050)
}

/// Whether there is exactly one such extension, and as critical as this.
fn extension(leaf: &X509Certificate<'_>, is: fn(&ParsedExtension<'_>) -> bool, critical: bool) -> bool {
    let mut found = leaf.extensions().iter().filter(|extension| is(extension.parsed_extension()));
    let one: Option<&X509Extension<'_>> = found.next();
    one.is_some_and(|extension| extension.critical == critical) && found.next().is_none()
}

/// `spiffe://<trust domain>/<path>`, by the letters that SPIFFE allows, no part empty, `.` or `..`.
fn is_spiffe_id(uri: &str) -> bool {
    let Some((trust_domain, path)) = uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(letter);
    uri.len() <= 2048
        && (1..=255).contains(&trust_domain.len())
        && trust_domain.bytes().all(host)
        && path.split('/').all(part)
}

const DIGITAL_SIGNATURE: u16 = 1;
