//! A local copy of the rules by which kube-apiserver takes or refuses a status (`pod-certificates.md` 2.3), so that nothing is
//! written that it would refuse. The numbers are that page's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use time::{Duration, OffsetDateTime};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

use super::key::PublicKey;

/// What is to be written.
pub struct Proposed<'a> {
    /// `status.certificateChain`.
    pub certificate_chain: &'a str,
    /// Its first certificate, as it was read back.
    pub leaf: &'a X509Certificate<'a>,
    /// `status.notBefore`.
    pub not_before: OffsetDateTime,
    /// `status.beginRefreshAt`.
    pub begin_refresh_at: OffsetDateTime,
    /// `status.notAfter`.
    pub not_after: OffsetDateTime,
    /// The key in the stored spec.
    pub key: &'a PublicKey,
    /// `spec.maxExpirationSeconds`.
    pub max_expiration_seconds: u32,
}

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule} is broken: {what}")]
pub struct Broken {
    /// `S4`, and so on.
    pub rule: &'static str,
    /// In words.
    pub what: &'static str,
}

/// S8 to S18, for a status that says Issued.
pub fn issued(proposed: &Proposed<'_>, now: OffsetDateTime) -> Result<(), Broken> {
    let Proposed { certificate_chain, leaf, not_before, begin_refresh_at, not_after, key, max_expiration_seconds } =
        proposed;
    let keep =
        |rule: &'static str, what: &'static str, kept: bool| if kept { Ok(()) } else { Err(Broken { rule, what }) };

    keep("S8", "the chain is longer than 102400 bytes", certificate_chain.len() <= 102_400)?;
    let ders: Option<Vec<_>> = certificate_chain.split_inclusive(END).map(block).collect();
    let ders = ders.ok_or(Broken { rule: "S18", what: "a block is no CERTIFICATE, or not as we write them" })?;
    let (first, above) = ders.split_first().ok_or(Broken { rule: "S8", what: "the chain is empty" })?;
    keep("S8", "the chain begins with another certificate than the leaf", first == leaf.as_raw())?;
    keep("S18", "a certificate behind the leaf is unreadable", above.iter().all(|der| is_certificate(der)))?;

    names(leaf)?;
    strict(leaf)?;
    keep("S12", "the leaf has another key than the request", leaf.public_key().raw == key.spki())?;

    let validity = leaf.validity();
    keep("S14", "notBefore is not the leaf's", *not_before == validity.not_before.to_datetime())?;
    keep("S14", "notAfter is not the leaf's", *not_after == validity.not_after.to_datetime())?;
    keep(
        "S14",
        "a time is no whole second",
        [not_before, begin_refresh_at, not_after].iter().all(|at| at.nanosecond() == 0),
    )?;
    let skew = not_before.unix_timestamp_nanos().abs_diff(now.unix_timestamp_nanos());
    keep("S15", "notBefore is five minutes from now, or more", skew < FIVE_MINUTES_IN_NANOS)?;

    let life = not_after.unix_timestamp().saturating_sub(not_before.unix_timestamp());
    keep("S16", "the life is shorter than an hour", life >= 3_600)?;
    keep("S16", "the life is longer than asked for", life <= i64::from(*max_expiration_seconds))?;
    let (first, last) = (not_before.saturating_add(MARGIN), not_after.saturating_sub(MARGIN));
    keep("S17", "renewal begins in the first ten minutes", *begin_refresh_at >= first)?;
    keep("S17", "renewal begins in the last ten minutes", *begin_refresh_at <= last)
}

/// S4, for any condition.
pub fn condition(reason: &str, message: &str) -> Result<(), Broken> {
    let keep = |what: &'static str, kept: bool| if kept { Ok(()) } else { Err(Broken { rule: "S4", what }) };
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_,:".contains(&byte);
    let ends = reason.bytes().next_back().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let begins = reason.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    keep("the reason is not of the form that is wanted", begins && ends && reason.bytes().all(inner))?;
    keep("the reason is longer than 1024 bytes", reason.len() <= 1_024)?;
    keep("the message is longer than 32768 bytes", message.len() <= MESSAGE_LIMIT)
}

/// The longest message that S4 allows, in bytes.
pub(super) const MESSAGE_LIMIT: usize = 32_768;

/// Narrower than Go's `pem.Decode`: no words between the blocks, no headers, and no ends of lines but one.
fn block(text: &str) -> Option<Vec<u8>> {
    let lines = text.strip_prefix(BEGIN)?.strip_suffix(END)?;
    let letters: Vec<u8> = lines.bytes().filter(|byte| *byte != b'\n').collect();
    STANDARD.decode(letters).ok()
}

fn is_certificate(der: &[u8]) -> bool {
    matches!(X509Certificate::from_der(der), Ok(([], _)))
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----\n";
const END: &str = "-----END CERTIFICATE-----\n";

/// S9, S10 and what S11 says of names. Where Go's parser knows more kinds of names than we ever write, a name of such a kind is
/// refused here: this copy may be stricter, never more lenient.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum; of its other kinds we write none")]
fn names(leaf: &X509Certificate<'_>) -> Result<(), Broken> {
    let broken = |rule: &'static str, what: &'static str| Err(Broken { rule, what });
    let Ok(names) = leaf.subject_alternative_name() else { return broken("S11", "the names are unreadable") };
    names.iter().flat_map(|names| &names.value.general_names).try_for_each(|name| match name {
        GeneralName::DNSName(name) if !dns(name) => broken("S9", "a DNS name is empty or has an empty part"),
        GeneralName::DNSName(_) => Ok(()),
        GeneralName::URI(uri) if !self::uri(uri) => broken("S11", "a URI is not one"),
        GeneralName::URI(_) => Ok(()),
        GeneralName::IPAddress(bytes) if !matches!(bytes.len(), 4 | 16) => {
            broken("S11", "an IP address has another length")
        }
        GeneralName::IPAddress(_) => Ok(()),
        _ => broken("S10", "there is a name that is neither DNS name, URI nor IP address"),
    })
}

fn dns(name: &str) -> bool {
    name.is_ascii() && name.split('.').all(|part| !part.is_empty())
}

/// Narrower than Go's `url.Parse`: a scheme, a host of visible ASCII without empty parts, and a path of characters that need no
/// escaping.
fn uri(uri: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_/".contains(&byte);
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase());
    scheme && !host.is_empty() && dns(host) && host.bytes().all(plain) && path.bytes().all(plain)
}

/// What S11 says beside the names: Go's parser is stricter than most.
fn strict(leaf: &X509Certificate<'_>) -> Result<(), Broken> {
    let keep = |what: &'static str, kept: bool| if kept { Ok(()) } else { Err(Broken { rule: "S11", what }) };
    let negative = leaf.raw_serial().first().is_some_and(|byte| byte & 0x80 != 0);
    keep("the serial number is negative", !negative)?;
    keep("the two signature algorithms differ", leaf.signature_algorithm == leaf.tbs_certificate.signature)?;
    let mut seen: Vec<_> = leaf.extensions().iter().map(|extension| &extension.oid).collect();
    seen.sort_by_key(|oid| oid.as_bytes());
    let count = seen.len();
    seen.dedup();
    keep("an extension is there twice", seen.len() == count)?;
    let critical = leaf.extensions().iter().filter(|extension| extension.critical).any(|extension| {
        matches!(
            extension.parsed_extension(),
            ParsedExtension::AuthorityKeyIdentifier(_)
                | ParsedExtension::SubjectKeyIdentifier(_)
                | ParsedExtension::AuthorityInfoAccess(_)
        )
    });
    keep("a key identifier or authority information is critical", !critical)
}

const MARGIN: Duration = Duration::minutes(10);

const FIVE_MINUTES_IN_NANOS: u128 = 300_000_000_000;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, KeyPair, SanType};

    use super::*;
    use crate::pipeline::{
        Issued,
        honest::{NOW, RSA_KEY, claim_with, issued as certificate, leaf_of},
    };

    fn read(der: &[u8]) -> X509Certificate<'_> {
        X509Certificate::from_der(der).unwrap().1
    }

    fn proposed<'a>(issued: &'a Issued, leaf: &'a X509Certificate<'a>) -> Proposed<'a> {
        let words = issued.words();
        Proposed {
            certificate_chain: issued.chain_pem(),
            leaf,
            not_before: words.not_before,
            begin_refresh_at: words.begin_refresh_at,
            not_after: words.not_after,
            key: &issued.claim().key,
            max_expiration_seconds: issued.claim().max_expiration_seconds,
        }
    }

    #[test]
    fn each_rule_refuses_what_it_is_there_for() {
        let certificate = certificate();
        let der = leaf_of(&certificate);
        let leaf = read(&der);
        let broken = |change: &dyn Fn(&mut Proposed<'_>)| {
            let mut proposed = proposed(&certificate, &leaf);
            change(&mut proposed);
            issued(&proposed, NOW).err().map(|broken| broken.rule)
        };
        assert_eq!(broken(&|_| ()), None);
        assert_eq!(broken(&|status| status.certificate_chain = ""), Some("S8"));
        assert_eq!(broken(&|status| status.not_before -= Duration::SECOND), Some("S14"));
        assert_eq!(broken(&|status| status.not_after += Duration::SECOND), Some("S14"));
        assert_eq!(broken(&|status| status.begin_refresh_at += Duration::NANOSECOND), Some("S14"));
        assert_eq!(broken(&|status| status.max_expiration_seconds = 43_199), Some("S16"));
        let (first, last) = (certificate.words().not_before + MARGIN, certificate.words().not_after - MARGIN);
        assert_eq!(broken(&|status| status.begin_refresh_at = first), None);
        assert_eq!(broken(&|status| status.begin_refresh_at = first - Duration::SECOND), Some("S17"));
        assert_eq!(broken(&|status| status.begin_refresh_at = last), None);
        assert_eq!(broken(&|status| status.begin_refresh_at = last + Duration::SECOND), Some("S17"));
        let other = claim_with(&RSA_KEY).key;
        let mut with_other_key = proposed(&certificate, &leaf);
        with_other_key.key = &other;
        assert_eq!(issued(&with_other_key, NOW).unwrap_err().rule, "S12");
    }

    #[test]
    fn five_minutes_from_now_is_too_far_either_way() {
        let certificate = certificate();
        let der = leaf_of(&certificate);
        let leaf = read(&der);
        let at = |now| issued(&proposed(&certificate, &leaf), now).err().map(|broken| broken.rule);
        let not_before = certificate.words().not_before;
        let five = Duration::minutes(5);
        assert_eq!(at(not_before + five - Duration::NANOSECOND), None);
        assert_eq!(at(not_before + five), Some("S15"));
        assert_eq!(at(not_before - five + Duration::NANOSECOND), None);
        assert_eq!(at(not_before - five), Some("S15"));
    }

    #[test]
    fn a_chain_of_anything_but_the_leaf_and_certificates_is_refused() {
        let certificate = certificate();
        let der = leaf_of(&certificate);
        let leaf = read(&der);
        let told = |chain: &str| {
            let proposed = Proposed { certificate_chain: chain, ..proposed(&certificate, &leaf) };
            issued(&proposed, NOW).err().map(|broken| (broken.rule, broken.what))
        };
        let with = |block: &str| told(&(certificate.chain_pem().to_owned() + block)).map(|(rule, _)| rule);
        assert_eq!(with(""), None);
        assert_eq!(with("-----BEGIN X-----\nAAAA\n-----END X-----\n"), Some("S18"));
        assert_eq!(with("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), Some("S18"));
        assert_eq!(with("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n"), Some("S18"));
        assert_eq!(with("words"), Some("S18"));
        assert_eq!(with(&"x".repeat(102_400)), Some("S8"));
        let (first, above) = certificate.chain_pem().split_at(certificate.chain_pem().find(END).unwrap() + END.len());
        assert_eq!(told(first), None, "what is behind it is not the leaf's matter");
        let other = "the chain begins with another certificate than the leaf";
        assert_eq!(told(above), Some(("S8", other)));
        assert_eq!(told(&first.replacen('\n', "\r\n", 1)).map(|(rule, _)| rule), Some("S18"));
    }

    #[test]
    fn names_and_extensions_that_go_refuses_are_refused() {
        let checked = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = CertificateParams::default();
            change(&mut params);
            let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
            let leaf = read(&der);
            names(&leaf).and_then(|()| strict(&leaf)).err().map(|broken| broken.rule)
        };
        let dns = |name: &str| vec![SanType::DnsName(name.try_into().unwrap())];
        let uri = |name: &str| vec![SanType::URI(name.try_into().unwrap())];
        assert_eq!(checked(&|leaf| leaf.subject_alt_names = dns("a.b")), None);
        for bad in ["", ".a", "a.", "a..b"] {
            assert_eq!(checked(&|leaf| leaf.subject_alt_names = dns(bad)), Some("S9"), "{bad:?}");
        }
        assert_eq!(checked(&|leaf| leaf.subject_alt_names = uri("spiffe://a.b/c")), None);
        for bad in ["a", "spiffe://a./c", "spiffe://a..b/c", "spiffe://a b/c", "spiffe://a.b/%zz", "://a/b"] {
            assert_eq!(checked(&|leaf| leaf.subject_alt_names = uri(bad)), Some("S11"), "{bad:?}");
        }
        let email = vec![SanType::Rfc822Name("a@b".try_into().unwrap())];
        assert_eq!(checked(&|leaf| leaf.subject_alt_names = email.clone()), Some("S10"));
        let critical = |leaf: &mut CertificateParams| {
            let mut key = CustomExtension::from_oid_content(&[2, 5, 29, 14], vec![4, 1, 7]);
            key.set_criticality(true);
            leaf.custom_extensions = vec![key];
        };
        assert_eq!(checked(&critical), Some("S11"));
        let twice = |leaf: &mut CertificateParams| {
            let odd = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
            leaf.custom_extensions = vec![odd.clone(), odd];
        };
        assert_eq!(checked(&twice), Some("S11"));
        assert_eq!(
            checked(&|leaf| leaf.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x80]))),
            None,
            "rcgen pads"
        );
    }

    #[test]
    fn a_condition_has_a_reason_of_the_right_form_and_a_message_that_fits() {
        for good in ["A", "Issued", "a:b,c_d", "A1_"] {
            assert_eq!(condition(good, ""), Ok(()), "{good}");
        }
        for bad in ["", "1a", "a-b", "a b", "a:", "a,", "ä", &"a".repeat(1_025)] {
            assert!(condition(bad, "").is_err(), "{bad}");
        }
        assert!(condition("A", &"x".repeat(32_768)).is_ok());
        assert!(condition("A", &"x".repeat(32_769)).is_err());
    }
}
