//! CAs as others make them, for tests: a root, and issuing CAs below it, in the three parts in which they are brought.

use k8s_openapi::ByteString;
use pem::Pem;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SerialNumber,
};
use time::Duration;

use super::SecretData;
use crate::{
    names::Sha256,
    pipeline::honest::{NOW, serial},
};

/// A root that is nobody's we know.
pub(crate) struct Foreign {
    pub(crate) root: CertifiedIssuer<'static, KeyPair>,
}

/// What a CA is unless a test changes it: of 90 days.
pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(serial().as_bytes()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.not_before = NOW.saturating_sub(Duration::HOUR);
    params.not_after = NOW.saturating_add(Duration::days(90));
    params
}

impl Foreign {
    pub(crate) fn new() -> Self {
        Self::of(params("Root of others"))
    }

    pub(crate) fn of(params: CertificateParams) -> Self {
        Self { root: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn fingerprint(&self) -> Sha256 {
        Sha256::of(self.root.der())
    }

    /// An issuing CA below it, as cert-manager writes one.
    pub(crate) fn issuing(&self) -> SecretData {
        self.issuing_of(&KeyPair::generate().unwrap(), |_| ())
    }

    pub(crate) fn issuing_of(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> SecretData {
        let mut params = params("Issuing CA of others");
        change(&mut params);
        let issuing = params.signed_by(key, &self.root).unwrap();
        brought(&issuing.pem(), &key.serialize_pem(), &self.root.pem())
    }

    /// The root itself, as the CA that signs.
    pub(crate) fn itself(&self) -> SecretData {
        brought(&self.root.pem(), &self.root.key().serialize_pem(), &self.root.pem())
    }
}

pub(crate) fn brought(certificate: &str, key: &str, root: &str) -> SecretData {
    let parts = [("tls.crt", certificate), ("tls.key", key), ("ca.crt", root)];
    parts.map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec()))).into()
}

/// A key of each kind that may be brought, in PKCS#8.
pub(crate) fn keys() -> Vec<(&'static str, KeyPair)> {
    use aws_lc_rs::{encoding::AsDer, rsa};
    let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let rsa = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&rsa).unwrap().as_ref().to_vec();
    vec![
        ("P-256", KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()),
        ("P-384", KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap()),
        ("Ed25519", KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()),
        ("RSA", KeyPair::from_pkcs8_der_and_sign_algo(&rsa.into(), &rcgen::PKCS_RSA_SHA256).unwrap()),
    ]
}

/// The same key as it was written before PKCS#8, which cert-manager does unless it is told otherwise.
pub(crate) fn before_pkcs8(kind: &str, key: &KeyPair) -> Option<String> {
    let der = key.serialize_der();
    // Behind the version, the kind of key and the head of the octets.
    let (tag, inner) = match kind {
        "RSA" => ("RSA PRIVATE KEY", der[26..].to_vec()),
        "P-256" => ("EC PRIVATE KEY", with_curve(&der[29..], b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", 32)),
        "P-384" => ("EC PRIVATE KEY", with_curve(&der[27..], b"\x06\x05\x2b\x81\x04\x00\x22", 48)),
        _ => return None,
    };
    Some(pem::encode(&Pem::new(tag, inner)))
}

/// An `ECPrivateKey` that names its curve, as that of OpenSSL and of Go does.
fn with_curve(key: &[u8], curve: &[u8], size: usize) -> Vec<u8> {
    let head = if size == 32 { 2 } else { 3 };
    let (private, public) = key[head..].split_at(size.saturating_add(5));
    let curve = [&[0xa0, u8::try_from(curve.len()).unwrap()], curve].concat();
    let content = [private, &curve, public].concat();
    let length = u8::try_from(content.len()).unwrap();
    let head = if length < 128 { vec![0x30, length] } else { vec![0x30, 0x81, length] };
    [head, content].concat()
}
