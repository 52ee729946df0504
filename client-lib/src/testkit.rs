//! For tests: an authority of your own, and volumes written as a kubelet writes them.
//!
//! Everything is made at run time and lives in memory or in the folder you give. It panics where a test helper would: it is no part of a service. Turn it on
//! with the feature `test-kit`, as a dev-dependency.
//!
//! ```
//! use podmint::testkit::{Authority, Volume};
//! let authority = Authority::new("prod.example.org");
//! let folder = tempfile::tempdir()?;
//! let volume = Volume::new(folder.path());
//! volume.write(&[
//!     ("bundle.pem", authority.issue("/ns/shop/sa/cart").bundle()),
//!     ("trust.pem", authority.trust()),
//! ]);
//! assert!(folder.path().join("bundle.pem").exists());
//! # Ok::<(), std::io::Error>(())
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "helpers of tests, made at run time: a failure is the test's failure"
)]

mod faults;

pub use faults::{Clock, Fault, Faults};

use crate::der;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// A root that signs leaves of one trust domain, directly or through an intermediate.
#[derive(Debug)]
pub struct Authority {
    domain: String,
    root: String,
    /// What stands between root and leaves, in the order of a chain.
    between: Vec<String>,
    issuer: Issuer<'static, KeyPair>,
}

/// A leaf's private key and chain, as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The private key, PKCS#8.
    pub key: String,
    /// The certificate chain.
    pub chain: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key: _, chain } = self;
        f.debug_struct("Issued").field("key", &"(hidden)").field("chain", chain).finish()
    }
}

impl Issued {
    /// Key and chain in one file, as `credentialBundlePath` gives them.
    pub fn bundle(&self) -> String {
        format!("{}{}", self.key, self.chain)
    }
}

impl Authority {
    /// A fresh root with a key of its own.
    pub fn new(domain: &str) -> Self {
        Self::with_root(domain, |_| {})
    }

    /// A fresh root, changed before it is signed.
    pub fn with_root(domain: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(&root_name(domain));
        change(&mut params);
        let root = params.self_signed(&key).unwrap();
        Self {
            domain: domain.into(),
            root: pem("CERTIFICATE", root.der()),
            between: Vec::new(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The same trust, with leaves signed by an intermediate, changed before it is signed.
    pub fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(&format!("{} intermediate {}", self.domain, self.between.len()));
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut between = vec![pem("CERTIFICATE", certificate.der())];
        between.extend(self.between.iter().cloned());
        Self { domain: self.domain.clone(), root: self.root.clone(), between, issuer: Issuer::new(params, key) }
    }

    /// The same root, for which another authority vouches as well: what it issues brings a certificate for its name and key that `other` signed.
    #[must_use]
    pub fn crossed_by(mut self, other: &Authority) -> Self {
        let certificate = ca_params(&root_name(&self.domain)).signed_by(self.issuer.key(), &other.issuer).unwrap();
        self.between.push(pem("CERTIFICATE", certificate.der()));
        self
    }

    /// The root, as a trust bundle.
    pub fn trust(&self) -> String {
        self.root.clone()
    }

    /// A leaf with this SPIFFE ID path, valid from a minute ago for a day.
    pub fn issue(&self, path: &str) -> Issued {
        self.issue_with(path, |_| {})
    }

    /// A leaf with this life around now, in seconds; negative is the past.
    pub fn issue_valid(&self, path: &str, from: i64, until: i64) -> Issued {
        self.issue_with(path, |params| {
            params.not_before = in_seconds(from);
            params.not_after = in_seconds(until);
        })
    }

    /// A leaf, changed before it is signed.
    pub fn issue_with(&self, path: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let chain = self.leaf(&key, path, change);
        Issued { key: pem("PRIVATE KEY", key.serialized_der()), chain }
    }

    /// The chain for a public key that was made elsewhere, of whatever kind: its SubjectPublicKeyInfo as DER.
    pub fn certify(&self, public_key: &[u8], path: &str) -> String {
        self.certify_with(public_key, path, |_| {})
    }

    /// The same, changed before it is signed.
    pub fn certify_with(&self, public_key: &[u8], path: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let stand_in = KeyPair::generate().unwrap();
        let mut params = leaf_params(&format!("spiffe://{}{path}", self.domain));
        change(&mut params);
        let leaf = params.signed_by(&stand_in, &self.issuer).unwrap();
        let body = with_public_key(leaf.der(), public_key);
        let mut chain = pem("CERTIFICATE", &self.sign(&body, leaf.der()));
        chain.extend(self.between.iter().map(String::as_str));
        chain
    }

    /// A certificate of this body, with the signature algorithm of another certificate that we signed.
    fn sign(&self, body: &[u8], like: &[u8]) -> Vec<u8> {
        let signature = rcgen::SigningKey::sign(self.issuer.key(), body).unwrap();
        let parts = values(der::only(like, der::SEQUENCE, "certificate").unwrap());
        let bits = wrap(der::BIT_STRING, &[&[0], &signature[..]].concat());
        wrap(der::SEQUENCE, &[body, parts.get(1).unwrap(), &bits].concat())
    }

    fn leaf(&self, key: &KeyPair, path: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = leaf_params(&format!("spiffe://{}{path}", self.domain));
        change(&mut params);
        let leaf = params.signed_by(key, &self.issuer).unwrap();
        let mut chain = pem("CERTIFICATE", leaf.der());
        chain.extend(self.between.iter().map(String::as_str));
        chain
    }
}

/// The body of a certificate with another public key in it.
fn with_public_key(certificate: &[u8], public_key: &[u8]) -> Vec<u8> {
    let outer = values(der::only(certificate, der::SEQUENCE, "certificate").unwrap());
    let body = der::only(outer.first().unwrap(), der::SEQUENCE, "body").unwrap();
    // version, serial number, algorithm, issuer, validity, subject, public key
    let parts: Vec<&[u8]> =
        values(body).into_iter().enumerate().map(|(index, part)| if index == 6 { public_key } else { part }).collect();
    wrap(der::SEQUENCE, &parts.concat())
}

fn values(content: &[u8]) -> Vec<&[u8]> {
    let mut reader = der::Reader::new(content, "test kit");
    let mut found = Vec::new();
    while !reader.is_empty() {
        found.push(reader.any().unwrap().whole);
    }
    found
}

/// One DER value.
pub(crate) fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let head = match content.len() {
        0..=0x7f => vec![tag, u8::try_from(content.len()).unwrap()],
        _ => [&[tag, 0x80 | u8::try_from(significant.len()).unwrap()], &significant[..]].concat(),
    };
    [&head[..], content].concat()
}

fn root_name(domain: &str) -> String {
    format!("{domain} root")
}

/// A CA as a SPIFFE authority should be; valid from a day ago for a year.
fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = in_seconds(-86_400);
    params.not_after = in_seconds(365 * 86_400);
    params
}

/// A leaf as Podmint's signer makes it.
fn leaf_params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.use_authority_key_identifier_extension = true;
    params.not_before = in_seconds(-60);
    params.not_after = in_seconds(86_400);
    params
}

/// A certificate extension written byte for byte, for what no well-meaning builder makes.
pub fn raw_extension(oid: &[u64], critical: bool, value: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, value);
    extension.set_criticality(critical);
    extension
}

/// Now and some seconds, whole.
pub fn in_seconds(seconds: i64) -> time::OffsetDateTime {
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    now + time::Duration::seconds(seconds)
}

static COUNTER: AtomicU64 = AtomicU64::new(1);

fn serial() -> SerialNumber {
    SerialNumber::from(COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// PEM as Go's encoder writes it: 64 characters a line.
pub fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in der.chunks(3) {
        let bits = group.iter().fold(0_usize, |bits, byte| (bits << 8) | usize::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS.get((bits >> (18 - 6 * place)) & 0x3f).copied().unwrap();
            text.push(if place > group.len() { '=' } else { char::from(digit) });
        }
    }
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A projected volume, written with the steps of the kubelet's `AtomicWriter`.
#[derive(Debug)]
pub struct Volume {
    root: PathBuf,
    written: AtomicU64,
}

/// The kubelet's steps of one write, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The new generation's folder and files.
    Files,
    /// `..data_tmp`, pointing at it.
    TemporaryLink,
    /// The rename over `..data`: the only step readers see.
    Swap,
    /// The visible links, where a name is new.
    VisibleLinks,
    /// The old generation's end.
    RemoveOld,
}

impl Step {
    /// All of them, in their order.
    pub const ALL: [Step; 5] = [Step::Files, Step::TemporaryLink, Step::Swap, Step::VisibleLinks, Step::RemoveOld];
}

/// A write under way, one step at a time.
#[derive(Debug)]
pub struct Writing<'a> {
    volume: &'a Volume,
    files: Vec<(String, String)>,
    generation: String,
    old: Option<PathBuf>,
    done: usize,
}

impl Volume {
    /// A volume in this folder, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), written: AtomicU64::new(0) }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Writes a whole generation, as the kubelet does: files that are not named are gone.
    pub fn write(&self, files: &[(&str, String)]) {
        self.begin(files).finish();
    }

    /// Begins a write; no step is done yet.
    pub fn begin(&self, files: &[(&str, String)]) -> Writing<'_> {
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos();
        let count = self.written.fetch_add(1, Ordering::Relaxed);
        Writing {
            volume: self,
            files: files.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect(),
            generation: format!("..{nanos}.{count}"),
            old: None,
            done: 0,
        }
    }
}

impl Writing<'_> {
    /// Does the next step and says which it was; nothing when all are done.
    pub fn step(&mut self) -> Option<Step> {
        let step = Step::ALL.get(self.done).copied()?;
        self.done += 1;
        let root = &self.volume.root;
        match step {
            Step::Files => {
                for (name, text) in &self.files {
                    let path = root.join(&self.generation).join(name);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(path, text).unwrap();
                }
            }
            Step::TemporaryLink => {
                std::os::unix::fs::symlink(&self.generation, root.join("..data_tmp")).unwrap();
            }
            Step::Swap => {
                self.old = std::fs::read_link(root.join("..data")).ok();
                std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
            }
            Step::VisibleLinks => {
                for (name, _) in &self.files {
                    let top = Path::new(name).components().next().unwrap();
                    let link = root.join(top);
                    if std::fs::symlink_metadata(&link).is_err() {
                        std::os::unix::fs::symlink(Path::new("..data").join(top), link).unwrap();
                    }
                }
            }
            Step::RemoveOld => {
                if let Some(old) = &self.old {
                    std::fs::remove_dir_all(root.join(old)).unwrap();
                }
            }
        }
        Some(step)
    }

    /// Does all steps that are left.
    pub fn finish(mut self) {
        while self.step().is_some() {}
    }
}
