//! Reads a chain of PEM certificates and verifies it link by link with x509-parser.

use std::fmt::Write;

use ring::digest::{SHA256, digest};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// What a leaf says.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Its public key, as SubjectPublicKeyInfo.
    pub key: Vec<u8>,
    /// Its serial number, as hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate, as hexadecimal digits.
    pub fingerprint: String,
    /// Its names: each a URI, or a description of what is there instead.
    pub names: Vec<String>,
    /// First moment it is valid.
    pub not_before: OffsetDateTime,
    /// Last moment it is valid.
    pub not_after: OffsetDateTime,
    /// Whether it claims to be an authority.
    pub authority: bool,
}

/// The certificates of a PEM text, as DER.
///
/// # Errors
/// If it holds anything else.
pub fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    let blocks: Result<Vec<Pem>, _> = Pem::iter_from_buffer(pem.as_bytes()).collect();
    let blocks = blocks.map_err(|why| format!("is no PEM: {why}"))?;
    match blocks.iter().find(|block| block.label != "CERTIFICATE") {
        Some(other) => Err(format!("holds a {}", other.label)),
        None => Ok(blocks.into_iter().map(|block| block.contents).collect()),
    }
}

/// Reads the first certificate of a chain.
///
/// # Errors
/// If there is none that can be read.
pub fn leaf(chain: &[Vec<u8>]) -> Result<Leaf, String> {
    let der = chain.first().ok_or("holds no certificate")?;
    let certificate = parse(der)?;
    let names = certificate.subject_alternative_name().map_err(|why| format!("has unreadable names: {why}"))?;
    Ok(Leaf {
        key: certificate.public_key().raw.to_vec(),
        serial: hex(certificate.raw_serial()),
        fingerprint: sha256(der),
        names: names.map(|names| names.value.general_names.iter().map(name).collect()).unwrap_or_default(),
        not_before: certificate.validity().not_before.to_datetime(),
        not_after: certificate.validity().not_after.to_datetime(),
        authority: certificate.is_ca(),
    })
}

/// Verifies each certificate with the next, and the last with one of the roots.
///
/// # Errors
/// If a link does not hold.
pub fn verify(chain: &[Vec<u8>], roots: &[Vec<u8>]) -> Result<(), String> {
    let (Some(mut below), rest) = (chain.first(), chain.iter().skip(1)) else {
        return Err("holds no certificate".to_owned());
    };
    for above in rest {
        signed_by(below, above)?;
        below = above;
    }
    if roots.iter().any(|root| signed_by(below, root).is_ok()) {
        Ok(())
    } else {
        Err("leads to no root that was published before".to_owned())
    }
}

fn signed_by(below: &[u8], above: &[u8]) -> Result<(), String> {
    let (below, above) = (parse(below)?, parse(above)?);
    if below.issuer().as_raw() != above.subject().as_raw() {
        return Err("has a link that names another issuer".to_owned());
    }
    if !above.is_ca() {
        return Err("has a link that is no authority".to_owned());
    }
    if below.validity().not_after > above.validity().not_after {
        return Err("has a link that ends before what it signed".to_owned());
    }
    below
        .verify_signature(Some(above.public_key()))
        .map_err(|why| format!("has a signature that does not verify: {why}"))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("has bytes behind a certificate".to_owned()),
        Err(why) => Err(format!("is no certificate: {why}")),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum: only a URI is a name of ours")]
fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => format!("not a URI: {other}"),
    }
}

/// SHA-256, as hexadecimal digits.
pub fn sha256(der: &[u8]) -> String {
    hex(digest(&SHA256, der).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}
