//! An issued certificate, checked by other means than the signer's own: every word of it, and the chain against what is published.

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use std::time::Duration;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a story may want to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The serial number's bytes.
    pub serial: Vec<u8>,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub begin_refresh_at: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// The issuer's key identifier.
    pub authority: Vec<u8>,
}

/// What a certificate has to say.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The only name, a URI.
    pub uri: &'a str,
    /// SubjectPublicKeyInfo of the key that was asked for.
    pub public_key: &'a [u8],
    /// The life asked for, in seconds; what may be granted at most.
    pub longest_life: i64,
    /// The roots of the published trust bundles, as PEM.
    pub roots: &'a str,
}

/// Checks everything that the design promises of an issued status.
///
/// # Panics
/// When a word is wrong, saying which.
pub fn check(status: &Value, expected: Expected<'_>) -> Leaf {
    let chain = chain(status);
    assert_eq!(chain.len(), 2, "leaf and issuing intermediate, without the root");
    let (rest, leaf) = X509Certificate::from_der(&chain[0]).expect("the leaf is a certificate");
    assert!(rest.is_empty());
    check_words(&leaf, expected);
    check_chain(&leaf, &chain, expected.roots);
    check_times(&leaf, status, expected.longest_life)
}

/// Its names, as OpenSSL writes them, in the order in which they stand.
#[expect(clippy::wildcard_enum_match_arm, reason = "anything else does not belong into a leaf")]
pub fn names(status: &Value) -> Vec<String> {
    let chain = chain(status);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("the leaf is a certificate");
    let Some(names) = leaf.subject_alternative_name().expect("at most once") else { return Vec::new() };
    let said = names.value.general_names.iter().map(|name| match name {
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::IPAddress([a, b, c, d]) => format!("IP:{}", std::net::Ipv4Addr::new(*a, *b, *c, *d)),
        GeneralName::IPAddress(octets) => {
            let octets = <[u8; 16]>::try_from(*octets).expect("an address has 4 octets or 16");
            format!("IP:{}", std::net::Ipv6Addr::from(octets))
        }
        other => panic!("a name nobody asked for: {other:?}"),
    });
    said.collect()
}

/// Its subject, as `O=…, CN=…`.
pub fn subject(status: &Value) -> String {
    let chain = chain(status);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("the leaf is a certificate");
    leaf.subject().to_string()
}

/// Whether clients and servers may present it.
pub fn usages(status: &Value) -> (bool, bool) {
    let chain = chain(status);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("the leaf is a certificate");
    let usage = leaf.extended_key_usage().expect("at most once").expect("a leaf says what it is for");
    (usage.value.client_auth, usage.value.server_auth)
}

/// Its DNS names. Each is one by which a client that trusts `roots` would know it.
pub fn dns_names(status: &Value, roots: &str) -> Vec<String> {
    let chain = chain(status);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("the leaf is a certificate");
    check_chain(&leaf, &chain, roots);
    let der = CertificateDer::from(chain[0].as_slice());
    let end = EndEntityCert::try_from(&der).expect("webpki reads the leaf");
    let names: Vec<String> =
        names(status).iter().filter_map(|name| name.strip_prefix("DNS:").map(str::to_owned)).collect();
    for name in &names {
        let name = ServerName::try_from(name.as_str()).expect("a DNS name");
        end.verify_is_valid_for_subject_name(&name).expect("it is valid for its own name");
    }
    names
}

fn chain(status: &Value) -> Vec<Vec<u8>> {
    let chain = status["certificateChain"].as_str().expect("an issued status has a chain");
    pem::parse_many(chain).expect("the chain is PEM").into_iter().map(pem::Pem::into_contents).collect()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "anything else does not belong into a leaf")]
fn check_words(leaf: &X509Certificate<'_>, expected: Expected<'_>) {
    assert_eq!(leaf.subject().iter().count(), 0, "the subject is empty");
    assert_eq!(leaf.public_key().raw, expected.public_key, "it certifies the key that was asked for");
    assert!((15..=16).contains(&leaf.raw_serial().len()), "128 random bits: {:?}", leaf.raw_serial());
    let mut seen = Vec::new();
    for extension in leaf.extensions() {
        let critical = extension.critical;
        let name = match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => {
                assert_eq!(san.general_names, [GeneralName::URI(expected.uri)]);
                assert!(critical, "with an empty subject the names are critical");
                "names"
            }
            ParsedExtension::KeyUsage(usage) => {
                assert!(critical);
                assert_eq!(usage.flags, 1, "digitalSignature alone");
                "key usage"
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                assert!(usage.client_auth && usage.server_auth && !usage.any && usage.other.is_empty());
                assert!(!usage.code_signing && !usage.email_protection && !usage.time_stamping && !usage.ocsp_signing);
                "extended key usage"
            }
            ParsedExtension::BasicConstraints(constraints) => {
                assert!(critical && !constraints.ca && constraints.path_len_constraint.is_none());
                "basic constraints"
            }
            ParsedExtension::SubjectKeyIdentifier(_) => "subject key",
            ParsedExtension::AuthorityKeyIdentifier(_) => "authority key",
            other => panic!("an extension nobody asked for: {other:?}"),
        };
        seen.push(name);
    }
    seen.sort_unstable();
    assert_eq!(seen, ["authority key", "basic constraints", "extended key usage", "key usage", "names", "subject key"]);
}

fn check_chain(leaf: &X509Certificate<'_>, chain: &[Vec<u8>], roots: &str) {
    let (_, issuer) = X509Certificate::from_der(&chain[1]).expect("the intermediate is a certificate");
    assert!(issuer.is_ca() && issuer.issuer() != issuer.subject(), "an intermediate, not a root");
    assert_eq!(leaf.issuer(), issuer.subject());
    assert!(leaf.validity().not_after <= issuer.validity().not_after, "no leaf outlives its issuer");
    let roots: Vec<CertificateDer<'static>> = pem::parse_many(roots)
        .expect("trust bundles are PEM")
        .into_iter()
        .map(|root| root.into_contents().into())
        .collect();
    let anchors: Vec<_> =
        roots.iter().map(|root| anchor_from_trusted_cert(root).expect("a root is an anchor")).collect();
    let der = CertificateDer::from(chain[0].as_slice());
    let end = EndEntityCert::try_from(&der).expect("webpki reads the leaf");
    let intermediates = [CertificateDer::from(chain[1].as_slice())];
    let now = leaf.validity().not_before.timestamp().try_into().expect("after 1970");
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let usage = leaf.extended_key_usage().expect("at most once").expect("a leaf says what it is for").value;
    let client = usage.client_auth.then(KeyUsage::client_auth);
    let server = usage.server_auth.then(KeyUsage::server_auth);
    for usage in [client, server].into_iter().flatten() {
        end.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &intermediates, now, usage, None, None)
            .expect("the chain leads to a published root");
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "looking for one kind")]
fn check_times(leaf: &X509Certificate<'_>, status: &Value, longest_life: i64) -> Leaf {
    let time = |field: &str| seconds(status[field].as_str().unwrap_or_else(|| panic!("an issued status has {field}")));
    let (not_before, begin_refresh_at, not_after) = (time("notBefore"), time("beginRefreshAt"), time("notAfter"));
    assert_eq!(not_before, leaf.validity().not_before.timestamp());
    assert_eq!(not_after, leaf.validity().not_after.timestamp());
    let life = not_after - not_before;
    assert!(
        life <= longest_life && life > longest_life - 120,
        "a life of {life} s where {longest_life} s were to be had"
    );
    let share = (begin_refresh_at - not_before) * 100 / life;
    assert!((39..=61).contains(&share), "renewal begins at {share} % of the life");
    let authority = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => {
            identifier.key_identifier.as_ref().map(|id| id.0.to_vec())
        }
        _ => None,
    });
    Leaf {
        serial: leaf.raw_serial().to_vec(),
        not_before,
        begin_refresh_at,
        not_after,
        authority: authority.expect("the issuer's key is named"),
    }
}

/// The seconds since 1970 of a time as the API writes it.
pub fn seconds(text: &str) -> i64 {
    let format = &time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(text, format).unwrap_or_else(|why| panic!("{text}: {why}")).unix_timestamp()
}
