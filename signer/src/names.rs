//! One type for each kind of name, so that a pod's UID and a node's never meet in an `==`.
//!
//! Text comes in, checked names come out. Nothing here can be empty: Kubernetes' Go types turn an absent string into `""`,
//! and two absent UIDs would compare equal.

use std::fmt;

use serde::{Serialize, Serializer};

/// Why a text is not a name of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: {why}")]
pub struct NameError {
    kind: &'static str,
    why: &'static str,
    text: String,
}

impl NameError {
    /// What was expected, for example `pod name`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// What is wrong with it.
    pub fn why(&self) -> &'static str {
        self.why
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks a text.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(text) {
                    Ok(()) => Ok(Self(text.into())),
                    Err(why) => Err(NameError { kind: $kind, why, text: clip(text) }),
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{}({:?})", stringify!($name), &*self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(&self.0)
            }
        }
    };
}

name!(
    /// The UID of a pod.
    PodUid, "pod UID", uid
);
name!(
    /// The UID of a node.
    NodeUid, "node UID", uid
);
name!(
    /// The UID of a ServiceAccount.
    ServiceAccountUid, "ServiceAccount UID", uid
);
name!(
    /// The UID of a PodCertificateRequest.
    RequestUid, "request UID", uid
);
name!(
    /// The resourceVersion of a PodCertificateRequest: opaque, and needed for the one write.
    ResourceVersion, "resourceVersion", uid
);
name!(
    /// The name of a namespace.
    Namespace, "namespace", dns_label
);
name!(
    /// The name of a PodCertificateRequest.
    RequestName, "request name", dns_subdomain
);
name!(
    /// The name of a pod.
    PodName, "pod name", dns_subdomain
);
name!(
    /// The name of a node.
    NodeName, "node name", dns_subdomain
);
name!(
    /// The name of a ServiceAccount.
    ServiceAccountName, "ServiceAccount name", dns_subdomain
);
name!(
    /// The name of a signer, `domain/path`.
    SignerName, "signer name", signer_name
);
name!(
    /// A SPIFFE trust domain.
    TrustDomain, "trust domain", trust_domain
);
name!(
    /// The name of a Service. Kubernetes of today allows one to begin with a digit.
    ServiceName, "Service name", dns_label
);
name!(
    /// The `spec.hostname` of a pod: one label.
    Hostname, "hostname", dns_label
);
name!(
    /// A DNS name that every TLS library takes in a certificate: no wildcard, no part longer than 63 letters.
    CertificateName, "DNS name for a certificate", certificate_name
);
name!(
    /// A DNS name, as of the cluster domain or of the domain of our signers.
    DnsName, "DNS name", dns_subdomain
);

impl SignerName {
    /// The part before the slash.
    pub fn domain(&self) -> &str {
        self.0.split_once('/').map_or("", |(domain, _)| domain)
    }

    /// The part behind the slash.
    pub fn path(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, path)| path)
    }
}

/// A certificate's serial number: 128 random bits, kept positive and of one length.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SerialNumber([u8; 16]);

impl SerialNumber {
    /// Makes one of random bytes. The two top bits are set to `01`: positive in DER without a padding byte, never zero.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[0] = (bytes[0] & 0x3f) | 0x40;
        Self(bytes)
    }

    /// The bytes, as they stand in the certificate.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, out)
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SerialNumber({self})")
    }
}

/// A SHA-256 of a certificate or of a public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut hash = [0; 32];
        hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(hash)
    }

    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            // `from_str_radix` would take a sign.
            let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Self(hash))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, out)
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Sha256({self})")
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl Serialize for SerialNumber {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

/// The best of `known` for somebody who wrote `text`, if one is near enough to be meant.
pub(crate) fn nearest<'k>(text: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|candidate| (distance(text, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edit distance, letters compared without case.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().take(64).flat_map(char::to_lowercase).enumerate() {
        let mut diagonal = above;
        let mut before = above.saturating_add(1);
        let mut next = vec![before];
        for (other, up) in right.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal.saturating_add(usize::from(*other != letter));
            before = replaced.min(up.saturating_add(1)).min(before.saturating_add(1));
            diagonal = *up;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// Kubernetes checks no format of UIDs, only their length.
fn uid(text: &str) -> Result<(), &'static str> {
    match text.len() {
        0 => Err("it is empty"),
        1..=128 => Ok(()),
        _ => Err("it is longer than 128 bytes"),
    }
}

/// A DNS-1123 label: what a namespace is named.
fn dns_label(text: &str) -> Result<(), &'static str> {
    if text.len() > 63 {
        return Err("it is longer than 63 letters");
    }
    dns_part(text, &LABEL)
}

/// A DNS-1123 subdomain. Its parts may be as long as the whole: Kubernetes does not cut them at 63.
fn dns_subdomain(text: &str) -> Result<(), &'static str> {
    if text.len() > 253 {
        return Err("it is longer than 253 letters");
    }
    text.split('.').try_for_each(|part| dns_part(part, &SUBDOMAIN))
}

/// RFC 5280 and the libraries alike: parts of at most 63 letters, 253 in all; the last part no number, so that nobody reads an address.
fn certificate_name(text: &str) -> Result<(), &'static str> {
    if text.len() > 253 {
        return Err("it is longer than 253 letters");
    }
    short_parts(text)?;
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("its last part is a number");
    }
    Ok(())
}

/// The parts of a subdomain, each as long as a label may be.
fn short_parts(text: &str) -> Result<(), &'static str> {
    if text.split('.').any(|part| part.len() > 63) {
        return Err("a part between dots is longer than 63 letters");
    }
    text.split('.').try_for_each(|part| dns_part(part, &SUBDOMAIN))
}

fn dns_part(text: &str, wrong: &Wrong) -> Result<(), &'static str> {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(wrong.empty);
    };
    if !bytes.iter().all(|byte| plain(byte) || *byte == b'-') {
        return Err(wrong.letters);
    }
    if !plain(first) || !plain(last) {
        return Err(wrong.ends);
    }
    Ok(())
}

/// What can be wrong with letters between dots, told of what they are part of.
struct Wrong {
    empty: &'static str,
    letters: &'static str,
    ends: &'static str,
}

const LABEL: Wrong = Wrong {
    empty: "it is empty",
    letters: "only lower-case letters, digits and `-` may be used",
    ends: "it must start and end with a lower-case letter or a digit",
};
const SUBDOMAIN: Wrong = Wrong {
    empty: "it, or a part between dots, is empty",
    letters: "only lower-case letters, digits, `-` and, between parts, `.` may be used",
    ends: "each part must start and end with a lower-case letter or a digit",
};

/// `domain/path` as kube-apiserver checks it: the domain has at least two labels of at most 63.
fn signer_name(text: &str) -> Result<(), &'static str> {
    let Some((domain, path)) = text.split_once('/') else {
        return Err("it must be written `domain/path`");
    };
    if path.contains('/') {
        return Err("it must hold exactly one `/`");
    }
    if text.len() > 571 {
        return Err("it is longer than 571 letters");
    }
    if domain.len() > 253 {
        return Err("the domain is longer than 253 letters");
    }
    if !domain.contains('.') {
        return Err("the domain must have at least two parts, as `example.org`");
    }
    short_parts(domain)?;
    dns_subdomain(path)
}

/// As SPIFFE has it, but for empty parts: Go's X.509 parser, which reads each of our leaves, does not take them.
fn trust_domain(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.contains("://") {
        return Err("write it without `spiffe://`");
    }
    if text.contains('/') {
        return Err("it has no path: leave out everything from the first `/`");
    }
    if text.contains(':') {
        return Err("it has no port");
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("it must be written in lower case");
    }
    if text.len() > 255 {
        return Err("it is longer than 255 letters");
    }
    if text.split('.').any(str::is_empty) {
        return Err("a part between dots is empty");
    }
    if !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte)) {
        return Err("only lower-case letters, digits, `.`, `-` and `_` may be used");
    }
    Ok(())
}

fn hex(bytes: &[u8], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// Outside text in a message is cut, so that no log line grows without bound.
pub(crate) fn clip(text: &str) -> String {
    const MOST: usize = 80;
    let mut cut: String = text.chars().take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_empty() {
        assert!(PodUid::parse("").is_err());
        assert!(Namespace::parse("").is_err());
        assert!(PodName::parse("").is_err());
        assert!(SignerName::parse("").is_err());
        assert!(TrustDomain::parse("").is_err());
        assert_eq!(NodeName::parse("a..b").unwrap_err().kind(), "node name");
    }

    #[test]
    fn names_are_what_kubernetes_takes() {
        assert!(
            Namespace::parse("a.b")
                .unwrap_err()
                .to_string()
                .ends_with("only lower-case letters, digits and `-` may be used")
        );
        assert!(Namespace::parse(&"a".repeat(63)).is_ok());
        assert!(Namespace::parse(&"a".repeat(64)).is_err());
        assert!(PodName::parse(&"a".repeat(253)).is_ok(), "a part may be as long as the whole");
        assert!(PodName::parse(&"a".repeat(254)).is_err());
        for bad in ["A", "a_b", "-a", "a-", "a b", "a/b", "..", ".", "a.", "ä"] {
            assert!(PodName::parse(bad).is_err(), "{bad}");
        }
        assert!(PodUid::parse(&"x".repeat(128)).is_ok());
        assert!(PodUid::parse(&"x".repeat(129)).is_err());
    }

    #[test]
    fn signer_names_have_a_domain_and_a_path() {
        let name = SignerName::parse("podmint.dev/work.load").unwrap();
        assert_eq!((name.domain(), name.path()), ("podmint.dev", "work.load"));
        for bad in ["podmint/x", "podmint.dev", "podmint.dev/", "/x", "a.b/c/d", "a.b/C", "A.b/c"] {
            assert!(SignerName::parse(bad).is_err(), "{bad}");
        }
        assert!(SignerName::parse(&format!("{}.b/c", "a".repeat(64))).is_err());
    }

    #[test]
    fn a_long_text_is_cut_in_a_message() {
        let message = PodName::parse(&"Ä".repeat(10_000)).unwrap_err().to_string();
        assert!(message.len() < 400, "{message}");
    }

    #[test]
    fn what_was_meant_is_found() {
        let known = ["trustDomain", "signerName"];
        assert_eq!(nearest("trustdomain", known), Some("trustDomain"));
        assert_eq!(nearest("truste_domain", known), Some("trustDomain"));
        assert_eq!(nearest("singerName", known), Some("signerName"));
        assert_eq!(nearest("allow", known), None);
    }

    proptest! {
        #[test]
        fn any_accepted_name_survives_a_round_trip(text in "[a-z0-9.-]{1,70}") {
            if let Ok(name) = PodName::parse(&text) {
                prop_assert_eq!(PodName::parse(name.as_str()), Ok(name.clone()));
                prop_assert_eq!(name.to_string(), text.clone());
            }
            if let Ok(domain) = TrustDomain::parse(&text) {
                prop_assert_eq!(domain.as_str(), text.as_str());
            }
        }

        #[test]
        fn a_serial_number_is_positive_and_of_one_length(bytes in any::<[u8; 16]>()) {
            let serial = SerialNumber::from_random(bytes);
            prop_assert!((0x40..0x80).contains(&serial.as_bytes()[0]));
            prop_assert_eq!(serial.to_string().len(), 32);
        }

        #[test]
        fn distance_is_the_plain_recursive_definition(left in "[ab]{0,6}", right in "[ab]{0,6}") {
            fn plain(left: &[u8], right: &[u8]) -> usize {
                match (left.split_first(), right.split_first()) {
                    (None, _) => right.len(),
                    (_, None) => left.len(),
                    (Some((a, lefts)), Some((b, rights))) => [
                        plain(lefts, rights).saturating_add(usize::from(a != b)),
                        plain(lefts, right).saturating_add(1),
                        plain(left, rights).saturating_add(1),
                    ]
                    .into_iter()
                    .min()
                    .unwrap(),
                }
            }
            prop_assert_eq!(distance(&left, &right), plain(left.as_bytes(), right.as_bytes()));
        }
    }
}
