//! What every leaf must be like, whatever was decided: RFC 5280 and SPIFFE's X.509-SVID, as rules with names. The first that
//! fails is told.

use x509_parser::{
    extensions::{ExtendedKeyUsage, GeneralName, ParsedExtension, X509Extension},
    prelude::{ASN1Time, X509Certificate, X509Version},
    x509::AttributeTypeAndValue,
};

use crate::{config::subject_text, names::CertificateName};

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
    ("subject_is_of_known_fields", |leaf| {
        let known = |attribute: &AttributeTypeAndValue<'_>| {
            matches!(attribute.attr_type().as_bytes(), [0x55, 0x04, 3 | 10 | 11])
                && attribute.as_str().is_ok_and(|text| subject_text(text).is_ok() && text.len() <= 64)
        };
        leaf.subject().iter_attributes().all(known) && leaf.subject().iter_attributes().count() <= 3
    }),
    ("somebody_is_named", |leaf| leaf.subject().iter().next().is_some() || !names(leaf).is_empty()),
    ("no_unique_identifiers", |leaf| leaf.issuer_uid.is_none() && leaf.subject_uid.is_none()),
    ("life_is_positive", |leaf| leaf.validity().not_before < leaf.validity().not_after),
    ("times_are_encoded_by_year", |leaf| {
        encoded_by_year(leaf.validity().not_before) && encoded_by_year(leaf.validity().not_after)
    }),
    ("extensions_are_the_six", |leaf| leaf.extensions().len() == if names(leaf).is_empty() { 5 } else { 6 }),
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
    ("names_are_critical_beside_an_empty_subject", |leaf| {
        let critical = leaf.subject().iter().next().is_none();
        names(leaf).is_empty()
            || extension(leaf, |parsed| matches!(parsed, ParsedExtension::SubjectAlternativeName(_)), critical)
    }),
    ("at_most_one_uri_a_spiffe_id", |leaf| {
        let mut uris = names(leaf).iter().filter_map(uri);
        uris.next().is_none_or(is_spiffe_id) && uris.next().is_none()
    }),
    ("other_names_are_dns_names_and_addresses", |leaf| {
        names(leaf).iter().all(|name| match name {
            GeneralName::URI(_) => true,
            GeneralName::DNSName(name) => CertificateName::parse(name).is_ok(),
            GeneralName::IPAddress(octets) => matches!(octets.len(), 4 | 16),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => false,
        })
    }),
    ("no_name_twice", |leaf| {
        let names = names(leaf);
        names
            .iter()
            .enumerate()
            .all(|(index, name)| !names.iter().skip(index.saturating_add(1)).any(|other| other == name))
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
    ("usage_is_client_or_server", |leaf| match leaf.extended_key_usage() {
        Ok(Some(usage)) => {
            let usage = usage.value;
            let others = usage.any
                || usage.code_signing
                || usage.email_protection
                || usage.time_stamping
                || usage.ocsp_signing
                || !usage.other.is_empty();
            (usage.client_auth || usage.server_auth) && !others
        }
        Ok(None) | Err(_) => false,
    }),
    ("usage_is_client_and_server_with_a_spiffe_id", |leaf| {
        let both = |usage: &ExtendedKeyUsage<'_>| usage.client_auth && usage.server_auth;
        names(leaf).iter().find_map(uri).is_none()
            || leaf.extended_key_usage().ok().flatten().is_some_and(|usage| both(usage.value))
    }),
    ("subject_key_is_named", |leaf| {
        extension(
            leaf,
            |parsed| matches!(parsed, ParsedExtension::SubjectKeyIdentifier(key) if key.0.len() == 20),
            false,
        )
    }),
    ("authority_key_is_named", |leaf| {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum, of which one counts")]
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

/// The subject's alternative names; nothing where they cannot be read.
fn names<'c>(leaf: &'c X509Certificate<'_>) -> &'c [GeneralName<'c>] {
    match leaf.subject_alternative_name() {
        Ok(Some(names)) => &names.value.general_names,
        Ok(None) | Err(_) => &[],
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum, of which one counts")]
fn uri<'c>(name: &'c GeneralName<'_>) -> Option<&'c str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

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

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
        KeyUsagePurpose, SanType, SerialNumber,
    };
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::pipeline::honest::NOW;

    /// A good leaf, changed, and which lint it fails.
    fn failed(change: impl FnOnce(&mut CertificateParams)) -> Option<&'static str> {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(ca, KeyPair::generate().unwrap());
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&[0x5a; 16]));
        params.not_before = NOW;
        params.not_after = NOW.saturating_add(time::Duration::hours(1));
        params.subject_alt_names = vec![SanType::URI("spiffe://prod.example.org/ns/a/sa/b".try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::Sha256;
        change(&mut params);
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        let (_, leaf) = X509Certificate::from_der(leaf.der()).unwrap();
        all(&leaf).err()
    }

    fn uri(uri: &str) -> Vec<SanType> {
        vec![SanType::URI(uri.try_into().unwrap())]
    }

    fn dns(name: &str) -> Vec<SanType> {
        vec![SanType::DnsName(name.try_into().unwrap())]
    }

    #[test]
    fn a_good_leaf_passes_and_each_fault_is_told_by_name() {
        assert_eq!(failed(|_| ()), None);
        assert_eq!(
            failed(|leaf| leaf.serial_number = Some(SerialNumber::from_slice(&[1; 8]))),
            Some("serial_has_16_bytes")
        );
        assert_eq!(
            failed(|leaf| leaf.distinguished_name.push(DnType::CommonName, "system:masters")),
            Some("subject_is_of_known_fields")
        );
        assert_eq!(
            failed(|leaf| leaf.distinguished_name.push(DnType::CountryName, "CH")),
            Some("subject_is_of_known_fields")
        );
        assert_eq!(
            failed(|leaf| leaf.distinguished_name.push(DnType::CommonName, "cart")),
            None,
            "rcgen makes names critical beside an empty subject alone"
        );
        assert_eq!(failed(|leaf| leaf.subject_alt_names.clear()), Some("somebody_is_named"));
        assert_eq!(failed(|leaf| leaf.not_after = leaf.not_before), Some("life_is_positive"));
        assert_eq!(failed(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Some("is_no_ca"));
        assert_eq!(failed(|leaf| leaf.is_ca = IsCa::NoCa), Some("extensions_are_the_six"));
        assert_eq!(failed(|leaf| leaf.use_authority_key_identifier_extension = false), Some("extensions_are_the_six"));
        assert_eq!(
            failed(|leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            Some("usage_is_digital_signature_only")
        );
        assert_eq!(failed(|leaf| leaf.key_usages.clear()), Some("extensions_are_the_six"));
        assert_eq!(
            failed(|leaf| leaf.extended_key_usages.push(ExtendedKeyUsagePurpose::Any)),
            Some("usage_is_client_or_server")
        );
        let one = |leaf: &mut CertificateParams| drop(leaf.extended_key_usages.pop());
        assert_eq!(failed(one), Some("usage_is_client_and_server_with_a_spiffe_id"));
        let server = |leaf: &mut CertificateParams| (one(leaf), leaf.subject_alt_names = uri("x")).1;
        assert_eq!(failed(server), Some("at_most_one_uri_a_spiffe_id"));
        assert_eq!(failed(|leaf| (one(leaf), leaf.subject_alt_names = dns("a.shop.svc")).1), None);
        let two = [uri("spiffe://a.b/c"), uri("spiffe://a.b/d")].concat();
        assert_eq!(failed(|leaf| leaf.subject_alt_names = two), Some("at_most_one_uri_a_spiffe_id"));
        let with = |names: Vec<SanType>| failed(|leaf| leaf.subject_alt_names.extend(names));
        assert_eq!(with(dns("a.shop.svc")), None);
        assert_eq!(with([dns("a.shop.svc"), dns("a.shop.svc")].concat()), Some("no_name_twice"));
        for bad in ["*.shop.svc", "A.shop.svc", "a..svc", "a_b.svc", "a.svc.", "1.2.3.4", &"a".repeat(64)] {
            assert_eq!(with(dns(bad)), Some("other_names_are_dns_names_and_addresses"), "{bad}");
        }
        assert_eq!(with(vec![SanType::IpAddress([10, 0, 0, 1].into())]), None);
        let email = vec![SanType::Rfc822Name("a@b".try_into().unwrap())];
        assert_eq!(with(email), Some("other_names_are_dns_names_and_addresses"));
        let short = KeyIdMethod::PreSpecified(vec![1, 2, 3]);
        assert_eq!(failed(|leaf| leaf.key_identifier_method = short), Some("subject_key_is_named"));
    }

    #[test]
    fn only_a_spiffe_id_is_one() {
        assert!(is_spiffe_id("spiffe://prod.example.org/ns/a/sa/b"));
        for bad in [
            "https://a.b/c",
            "spiffe://a.b",
            "spiffe://a.b/",
            "spiffe:///c",
            "spiffe://A.b/c",
            "spiffe://a.b/c/",
            "spiffe://a.b//c",
            "spiffe://a.b/../c",
            "spiffe://a.b/./c",
            "spiffe://a.b/c%2f",
            "spiffe://a.b/c?d",
            "spiffe://a.b:1/c",
            "spiffe://u@a.b/c",
        ] {
            assert!(!is_spiffe_id(bad), "{bad}");
        }
    }
}
