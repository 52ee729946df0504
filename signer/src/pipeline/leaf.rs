//! The words of a leaf in DER, ready to be signed.
//!
//! By hand and not by rcgen, which has no P-521 keys when it is built with ring, and writes a subject's key only if it knows the
//! algorithm. The form is fixed, so that it is one page; whatever comes out is read back by two other parsers.

use std::net::IpAddr;

use time::OffsetDateTime;

use super::{filled::Subject, key::PublicKey, profile::Words};
use crate::{authority::Generation, config::Usages};

/// The CA, as far as a leaf names it.
#[derive(Clone, Copy)]
pub(super) struct IssuedBy<'a> {
    /// Its subject, in DER.
    pub(super) subject: &'a [u8],
    /// Its subject key identifier.
    pub(super) key_identifier: &'a [u8],
    /// What its signatures are: an `AlgorithmIdentifier`, in DER.
    pub(super) signs_with: &'a [u8],
}

impl<'a> IssuedBy<'a> {
    /// This CA.
    pub(super) fn of(generation: &'a Generation) -> Self {
        Self {
            subject: generation.subject(),
            key_identifier: generation.key_identifier(),
            signs_with: generation.signs_with(),
        }
    }
}

/// What is signed; none if some part is longer than 65535 bytes, or a time has no four-digit year.
pub(super) fn to_be_signed(words: &Words, key: &PublicKey, by: IssuedBy<'_>) -> Option<Vec<u8>> {
    let Words {
        uri,
        dns_names,
        ip_addresses,
        subject,
        usages,
        serial,
        not_before,
        not_after,
        begin_refresh_at: _,
        decided_at: _,
    } = words;
    let mut names = Vec::new();
    if let Some(uri) = uri {
        names.extend(der(URI_NAME, &[uri.as_bytes()])?);
    }
    for word in dns_names {
        names.extend(der(DNS_NAME, &[word.name.as_str().as_bytes()])?);
    }
    for address in ip_addresses {
        names.extend(match address {
            IpAddr::V4(address) => der(ADDRESS, &[&address.octets()])?,
            IpAddr::V6(address) => der(ADDRESS, &[&address.octets()])?,
        });
    }
    // Critical beside an empty subject, and only there, as RFC 5280 has it.
    let names =
        if names.is_empty() { Vec::new() } else { extension(NAMES, subject.is_empty(), &der(SEQUENCE, &[&names])?)? };
    let usages: &[&[u8]] = match usages {
        Usages::Both => &[CLIENT_AUTH, SERVER_AUTH],
        Usages::Client => &[CLIENT_AUTH],
        Usages::Server => &[SERVER_AUTH],
    };
    let extensions = [
        extension(AUTHORITY_KEY, false, &der(SEQUENCE, &[&der(0x80, &[by.key_identifier])?])?)?,
        names,
        extension(KEY_USAGE, true, DIGITAL_SIGNATURE)?,
        extension(EXTENDED_KEY_USAGE, false, &der(SEQUENCE, usages)?)?,
        extension(SUBJECT_KEY, false, &der(OCTETS, &[&key_identifier(key)])?)?,
        // An empty SEQUENCE: CA:FALSE is its default, and DER leaves defaults out.
        extension(BASIC_CONSTRAINTS, true, &der(SEQUENCE, &[])?)?,
    ];
    der(
        SEQUENCE,
        &[
            VERSION_3,
            &der(0x02, &[serial.as_bytes()])?,
            by.signs_with,
            by.subject,
            &der(SEQUENCE, &[&at(*not_before)?, &at(*not_after)?])?,
            &name(subject)?,
            key.spki(),
            &der(0xa3, &[&der(SEQUENCE, &extensions.each_ref().map(Vec::as_slice))?])?,
        ],
    )
}

/// The certificate: what was signed, how, and the signature.
pub(super) fn certificate(to_be_signed: &[u8], by: IssuedBy<'_>, signature: &[u8]) -> Option<Vec<u8>> {
    der(SEQUENCE, &[to_be_signed, by.signs_with, &der(0x03, &[&[0], signature])?])
}

/// 160 bits of the SHA-256 of the key, as RFC 7093 has it.
pub(super) fn key_identifier(key: &PublicKey) -> [u8; 20] {
    let mut identifier = [0; 20];
    identifier.iter_mut().zip(key.hash().as_bytes()).for_each(|(to, from)| *to = *from);
    identifier
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Option<Vec<u8>> {
    let critical: &[u8] = if critical { TRUE } else { &[] };
    der(SEQUENCE, &[&der(0x06, &[oid])?, critical, &der(OCTETS, &[value])?])
}

/// A field is a set of its own. All are UTF8String.
fn name(subject: &Subject) -> Option<Vec<u8>> {
    let mut fields = Vec::new();
    for (number, text) in subject.fields() {
        let field = der(SEQUENCE, &[&der(0x06, &[&[0x55, 0x04, number]])?, &der(0x0c, &[text.as_bytes()])?])?;
        fields.extend(der(0x31, &[&field])?);
    }
    der(SEQUENCE, &[&fields])
}

/// UTCTime up to 2049, GeneralizedTime from 2050 on.
fn at(at: OffsetDateTime) -> Option<Vec<u8>> {
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    match year {
        1950..=1999 => der(0x17, &[format!("{:02}{rest}", year.checked_sub(1900)?).as_bytes()]),
        2000..=2049 => der(0x17, &[format!("{:02}{rest}", year.checked_sub(2000)?).as_bytes()]),
        2050..=9999 => der(0x18, &[format!("{year}{rest}").as_bytes()]),
        _ => None,
    }
}

/// One element.
fn der(tag: u8, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).ok()?.to_be_bytes();
    let mut element = match (high, low) {
        (0, 0..=0x7f) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        (_, _) => vec![tag, 0x82, high, low],
    };
    element.extend_from_slice(&content);
    Some(element)
}

const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
const DNS_NAME: u8 = 0x82;
const URI_NAME: u8 = 0x86;
const ADDRESS: u8 = 0x87;

const TRUE: &[u8] = &[0x01, 0x01, 0xff];
const VERSION_3: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];

/// A BIT STRING with the first bit set, and the seven others unused.
const DIGITAL_SIGNATURE: &[u8] = &[0x03, 0x02, 0x07, 0x80];
const CLIENT_AUTH: &[u8] = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02";
const SERVER_AUTH: &[u8] = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01";

const SUBJECT_KEY: &[u8] = &[0x55, 0x1d, 14];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const NAMES: &[u8] = &[0x55, 0x1d, 17];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 35];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_are_encoded_by_year() {
        assert_eq!(at(datetime!(2026-11-03 04:05:06 UTC)).unwrap(), b"\x17\x0d261103040506Z");
        assert_eq!(at(datetime!(2049-12-31 23:59:59 UTC)).unwrap(), b"\x17\x0d491231235959Z");
        assert_eq!(at(datetime!(2050-01-01 00:00:00 UTC)).unwrap(), b"\x18\x0f20500101000000Z");
        assert_eq!(at(datetime!(1949-01-01 00:00:00 UTC)), None);
    }

    #[test]
    fn lengths_take_one_two_or_three_bytes() {
        assert_eq!(der(4, &[&[0; 127]]).unwrap()[..2], [4, 127]);
        assert_eq!(der(4, &[&[0; 128]]).unwrap()[..3], [4, 0x81, 128]);
        assert_eq!(der(4, &[&[0; 300]]).unwrap()[..4], [4, 0x82, 1, 44]);
        assert_eq!(der(4, &[&[0; 65_536]]), None);
    }
}
