//! The walk over one certificate: the fields and extensions that SPIFFE and RFC 5280 ask us to look at.
//!
//! In go bytes from the network, out come borrowed facts. It verifies no signature and trusts nothing it reads. It is our own,
//! and not a general parser, because general parsers drop what they cannot represent: a second URI name that is no UTF-8 must be *counted*.

use crate::der::{self, BadDer, Reader, Value};
use rustls_pki_types::UnixTime;
use std::time::Duration;

/// What a certificate says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    /// The serial number's bytes, as encoded.
    pub(crate) serial: &'a [u8],
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    /// The content of the subject name; empty when nobody is named.
    pub(crate) subject: &'a [u8],
    pub(crate) key: KeyKind,
    pub(crate) basic: Basic,
    pub(crate) usage: Option<Usage>,
    pub(crate) names: Option<Names<'a>>,
    pub(crate) subject_key_id: Option<&'a [u8]>,
    pub(crate) authority_key_id: Option<&'a [u8]>,
    /// It limits which URIs may be issued below it, which webpki cannot honour and therefore rejects.
    pub(crate) limits_uris: bool,
}

/// Basic constraints; absent means the default, not a CA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Basic {
    pub(crate) ca: bool,
    /// How many issuers may follow below this one.
    pub(crate) path_len: Option<u32>,
}

/// Key usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) critical: bool,
    pub(crate) digital_signature: bool,
    pub(crate) cert_sign: bool,
    pub(crate) crl_sign: bool,
}

/// Subject alternative names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names<'a> {
    pub(crate) critical: bool,
    /// Every URI name, also what is no UTF-8 and no URI.
    pub(crate) uris: usize,
    pub(crate) first_uri: Option<&'a [u8]>,
}

/// The kind of key, to be able to name it when a crypto provider lacks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
    Other,
}

impl KeyKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rsa => "RSA",
            Self::P256 => "ECDSA P-256",
            Self::P384 => "ECDSA P-384",
            Self::P521 => "ECDSA P-521",
            Self::Ed25519 => "Ed25519",
            Self::Other => "unknown",
        }
    }
}

impl<'a> Facts<'a> {
    /// Walks over one DER certificate.
    pub(crate) fn read(certificate: &'a [u8]) -> Result<Self, BadDer> {
        let mut outer = Reader::new(der::only(certificate, der::SEQUENCE, "certificate")?, "certificate");
        let body = outer.expect(der::SEQUENCE)?.content;
        outer.expect(der::SEQUENCE)?; // signature algorithm
        outer.expect(der::BIT_STRING)?; // signature
        outer.end()?;

        let mut body = Reader::new(body, "certificate body");
        let version = body.expect(VERSION)?;
        if version.content != [der::INTEGER, 1, 2] {
            return Err(BadDer("version (only X.509 v3 is accepted)"));
        }
        let serial = body.expect(der::INTEGER)?.content;
        body.expect(der::SEQUENCE)?; // signature algorithm
        body.expect(der::SEQUENCE)?; // issuer
        let (not_before, not_after) = validity(body.expect(der::SEQUENCE)?.content)?;
        let subject = body.expect(der::SEQUENCE)?.content;
        let key = key_kind(body.expect(der::SEQUENCE)?.content)?;
        body.optional(ISSUER_UNIQUE_ID)?;
        body.optional(SUBJECT_UNIQUE_ID)?;
        let extensions = body.optional(EXTENSIONS)?;
        body.end()?;

        let mut facts = Facts {
            serial,
            not_before,
            not_after,
            subject,
            key,
            basic: Basic::default(),
            usage: None,
            names: None,
            subject_key_id: None,
            authority_key_id: None,
            limits_uris: false,
        };
        if let Some(extensions) = extensions {
            facts.read_extensions(extensions.content)?;
        }
        Ok(facts)
    }

    fn read_extensions(&mut self, bytes: &'a [u8]) -> Result<(), BadDer> {
        let mut list = Reader::new(der::only(bytes, der::SEQUENCE, "extensions")?, "extensions");
        let mut seen: Vec<&[u8]> = Vec::with_capacity(8);
        while !list.is_empty() {
            let mut one = Reader::new(list.expect(der::SEQUENCE)?.content, "extension");
            let name = one.expect(der::OID)?.content;
            let critical = match one.optional(der::BOOLEAN)? {
                Some(flag) => der::boolean(flag.content, "extension")?,
                None => false,
            };
            let value = one.expect(der::OCTET_STRING)?.content;
            one.end()?;
            if seen.contains(&name) {
                return Err(BadDer("extensions (one occurs twice)")); // RFC 5280 section 4.2
            }
            if seen.len() >= MOST_EXTENSIONS {
                return Err(BadDer("extensions (too many)"));
            }
            seen.push(name);
            self.read_extension(name, critical, value)?;
        }
        Ok(())
    }

    fn read_extension(&mut self, name: &[u8], critical: bool, value: &'a [u8]) -> Result<(), BadDer> {
        match name {
            BASIC_CONSTRAINTS => self.basic = basic(value)?,
            KEY_USAGE => self.usage = Some(usage(critical, value)?),
            ALTERNATIVE_NAMES => self.names = Some(names(critical, value)?),
            NAME_CONSTRAINTS => self.limits_uris = limits_uris(value)?,
            SUBJECT_KEY_ID => {
                self.subject_key_id = Some(der::only(value, der::OCTET_STRING, "subject key identifier")?);
            }
            AUTHORITY_KEY_ID => {
                let mut inside = Reader::new(
                    der::only(value, der::SEQUENCE, "authority key identifier")?,
                    "authority key identifier",
                );
                self.authority_key_id = inside.optional(CONTEXT_0)?.map(|id| id.content);
            }
            _ => {} // unknown critical extensions are webpki's to refuse
        }
        Ok(())
    }
}

fn validity(bytes: &[u8]) -> Result<(UnixTime, UnixTime), BadDer> {
    let mut both = Reader::new(bytes, "validity");
    let not_before = time(both.any()?)?;
    let not_after = time(both.any()?)?;
    both.end()?;
    Ok((not_before, not_after))
}

/// RFC 5280 section 4.1.2.5: whole seconds, UTC, `UTCTime` through 2049.
fn time(value: Value<'_>) -> Result<UnixTime, BadDer> {
    const BAD: BadDer = BadDer("validity");
    let digits = value.content.strip_suffix(b"Z").ok_or(BAD)?;
    let (year, rest) = match value.tag {
        der::UTC_TIME => {
            let (year, rest) = number(digits, 2)?;
            (if year < 50 { 2000 } else { 1900_i64 }.checked_add(year).ok_or(BAD)?, rest)
        }
        der::GENERALIZED_TIME => number(digits, 4)?,
        _ => return Err(BAD),
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    let in_range = (1..=12).contains(&month)
        && (1..=days_in(month, year)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !rest.is_empty() || !in_range {
        return Err(BAD);
    }
    let seconds = seconds_since_1970(year, month, day, hour, minute, second);
    // Before 1970 is "long ago" for both ends of a validity.
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
}

/// The first `count` decimal digits as a number, and what follows them.
fn number(digits: &[u8], count: usize) -> Result<(i64, &[u8]), BadDer> {
    const BAD: BadDer = BadDer("validity");
    let (these, rest) = digits.split_at_checked(count).ok_or(BAD)?;
    let mut value = 0_i64;
    for digit in these {
        if !digit.is_ascii_digit() {
            return Err(BAD);
        }
        let digit = i64::from(digit.saturating_sub(b'0'));
        value = value.saturating_mul(10).saturating_add(digit);
    }
    Ok((value, rest))
}

fn days_in(month: i64, year: i64) -> i64 {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[expect(clippy::arithmetic_side_effects, reason = "years have four digits: nothing overflows")]
fn seconds_since_1970(year: i64, month: i64, day: i64, hour: i64, minute: i64, second: i64) -> i64 {
    // Years start in March here, so that the leap day is the last day of a year.
    let shifted = if month > 2 { year } else { year - 1 };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    ((days * 24 + hour) * 60 + minute) * 60 + second
}

fn key_kind(spki: &[u8]) -> Result<KeyKind, BadDer> {
    let mut outer = Reader::new(spki, "public key");
    let mut algorithm = Reader::new(outer.expect(der::SEQUENCE)?.content, "public key");
    outer.expect(der::BIT_STRING)?;
    outer.end()?;
    let name = algorithm.expect(der::OID)?.content;
    let curve = algorithm.optional(der::OID)?.map(|curve| curve.content);
    Ok(match (name, curve) {
        (RSA, _) => KeyKind::Rsa,
        (ED25519, None) => KeyKind::Ed25519,
        (EC, Some(P256)) => KeyKind::P256,
        (EC, Some(P384)) => KeyKind::P384,
        (EC, Some(P521)) => KeyKind::P521,
        _ => KeyKind::Other,
    })
}

fn basic(value: &[u8]) -> Result<Basic, BadDer> {
    let mut inside = Reader::new(der::only(value, der::SEQUENCE, "basic constraints")?, "basic constraints");
    let ca = match inside.optional(der::BOOLEAN)? {
        Some(flag) => der::boolean(flag.content, "basic constraints")?,
        None => false,
    };
    let path_len = match inside.optional(der::INTEGER)? {
        Some(number) => Some(small(number.content)?),
        None => None,
    };
    inside.end()?;
    Ok(Basic { ca, path_len })
}

/// A path length: not negative, and past four bytes it is as good as no limit.
fn small(content: &[u8]) -> Result<u32, BadDer> {
    const BAD: BadDer = BadDer("basic constraints");
    if content.is_empty() || content.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Err(BAD);
    }
    Ok(content.iter().fold(0_u32, |value, byte| match value.checked_mul(256) {
        Some(shifted) => shifted | u32::from(*byte),
        None => u32::MAX,
    }))
}

fn usage(critical: bool, value: &[u8]) -> Result<Usage, BadDer> {
    let bits = der::only(value, der::BIT_STRING, "key usage")?;
    let (unused, bits) = bits.split_first().ok_or(BadDer("key usage"))?;
    // One or two bytes: there are nine usages (RFC 5280 section 4.2.1.3, at least one set).
    if *unused > 7 || bits.is_empty() || bits.len() > 2 || bits.iter().all(|byte| *byte == 0) {
        return Err(BadDer("key usage"));
    }
    let first = bits.first().copied().unwrap_or(0);
    Ok(Usage {
        critical,
        digital_signature: first & 0x80 != 0,
        cert_sign: first & 0x04 != 0,
        crl_sign: first & 0x02 != 0,
    })
}

fn names(critical: bool, value: &[u8]) -> Result<Names<'_>, BadDer> {
    let content = der::only(value, der::SEQUENCE, "alternative names")?;
    let mut list = Reader::new(content, "alternative names");
    let mut names = Names { critical, uris: 0, first_uri: None };
    if list.is_empty() {
        return Err(list.bad()); // at least one: RFC 5280 section 4.2.1.6
    }
    while !list.is_empty() {
        let name = list.any()?;
        match name.tag {
            URI_NAME => {
                names.uris = names.uris.saturating_add(1);
                names.first_uri = names.first_uri.or(Some(name.content));
            }
            // other, mail, DNS, X.400, directory, EDI, IP address, registered
            0xa0 | 0x81 | 0x82 | 0xa3 | 0xa4 | 0xa5 | 0x87 | 0x88 => {}
            _ => return Err(list.bad()),
        }
    }
    Ok(names)
}

fn limits_uris(value: &[u8]) -> Result<bool, BadDer> {
    const PLACE: &str = "name constraints";
    let mut lists = Reader::new(der::only(value, der::SEQUENCE, PLACE)?, PLACE);
    while !lists.is_empty() {
        let mut subtrees = Reader::new(lists.any()?.content, PLACE);
        while !subtrees.is_empty() {
            let mut subtree = Reader::new(subtrees.expect(der::SEQUENCE)?.content, PLACE);
            if subtree.any()?.tag == URI_NAME {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Bytes as lower-case hexadecimal, the way key identifiers and serials are shown.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text
}

/// Certificates have a dozen at most. Each is compared with those before it, and strangers choose how many they send.
const MOST_EXTENSIONS: usize = 64;

const VERSION: u8 = 0xa0;
const ISSUER_UNIQUE_ID: u8 = 0x81;
const SUBJECT_UNIQUE_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;
const CONTEXT_0: u8 = 0x80;
const URI_NAME: u8 = 0x86;

const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

#[cfg(test)]
#[path = "x509_tests.rs"]
mod tests;
#[cfg(test)]
pub(crate) use tests::agrees_with_x509_parser;
