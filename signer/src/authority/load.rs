//! The two Secrets come in, a root and a generation that is fit to sign come out, or which word in them is wrong. rcgen would
//! take a certificate that is no CA with a key that is not its own.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::ByteString;
use rcgen::{PublicKeyData, SigningKey};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::{
    certificate::{CaCertificate, from_pem},
    key::CaKey,
};
use crate::{
    names::Sha256,
    pipeline::profile::{BACKDATE, SHORTEST},
};

/// What a Secret holds.
pub type SecretData = BTreeMap<String, ByteString>;

/// Why a Secret is not what we wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// It is there, and holds nothing.
    #[error("the Secret is empty")]
    Empty,
    /// A key of its data is missing.
    #[error("the Secret has no {0}")]
    Missing(&'static str),
    /// A newer Podmint wrote it.
    #[error("the Secret was written by a newer Podmint (schema {0}): run that version, or a newer one")]
    NewerSchema(u64),
    /// What should be our state is not.
    #[error("state.json is not readable")]
    State,
    /// No private key.
    #[error("{0} is no P-256 private key in PKCS#8")]
    KeyUnreadable(&'static str),
    /// No certificate.
    #[error("{0} holds no readable certificate")]
    Unreadable(&'static str),
    /// More certificates than one.
    #[error("{0} must hold exactly one certificate")]
    NotOne(&'static str),
    /// The key belongs to another certificate.
    #[error("tls.key does not belong to the certificate in tls.crt")]
    KeyOfAnother,
    /// The certificate may not sign others.
    #[error("the certificate in {0} is no CA (critical basic constraints with CA:TRUE)")]
    NoCa(&'static str),
    /// The certificate may not sign others.
    #[error("the certificate in {0} may not sign certificates (key usage keyCertSign)")]
    NoCertSign(&'static str),
    /// rustls would refuse whatever it signs.
    #[error("the certificate in {0} constrains URIs, which rustls refuses")]
    UriConstraints(&'static str),
    /// It may not sign for what our leaves are for.
    #[error("the extended key usage of the certificate in {0} lacks client or server authentication")]
    Usage(&'static str),
    /// Its certificates could not name it.
    #[error("the certificate in {0} has no subject key identifier")]
    NoKeyIdentifier(&'static str),
    /// The issuing CA is not below the root.
    #[error("the certificate in tls.crt is not signed by the root in ca.crt")]
    NotBelowRoot,
    /// The root is not its own issuer.
    #[error("the root is not signed with its own key")]
    NotSelfSigned,
    /// The root allows no CA below.
    #[error("the path length of the root allows no issuing CA below it")]
    PathLength,
    /// The state speaks of another root.
    #[error("state.json speaks of another root than ca.crt")]
    RootOfAnother,
}

/// The root, with its key: wanted only to make an issuing CA.
pub struct Root {
    pub(super) key: CaKey,
    pub(super) certificate: CaCertificate,
}

/// An issuing CA, with its key and the root above it.
pub struct Generation {
    number: u64,
    key: CaKey,
    certificate: CaCertificate,
    root: CaCertificate,
    chain_pem: String,
}

/// What the signing Secret says beside its certificates.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    schema: u64,
    generation: u64,
    root: String,
}

/// Only to see whether we may read the rest.
#[derive(Deserialize)]
struct Schema {
    schema: u64,
}

impl Root {
    /// Reads and checks the root's Secret.
    pub fn load(data: &SecretData) -> Result<Self, LoadError> {
        refuse_empty(data)?;
        let certificate = CaCertificate::check(CERTIFICATE, &single(CERTIFICATE, data)?)?;
        Self::new(CaKey::parse(KEY, value(KEY, data)?)?, certificate)
    }

    pub(super) fn new(key: CaKey, certificate: CaCertificate) -> Result<Self, LoadError> {
        if key.subject_public_key_info() != certificate.spki {
            return Err(LoadError::KeyOfAnother);
        }
        if !certificate.is_signed_by(CERTIFICATE, &certificate)? {
            return Err(LoadError::NotSelfSigned);
        }
        if certificate.path_length(CERTIFICATE)? == Some(0) {
            return Err(LoadError::PathLength);
        }
        Ok(Self { key, certificate })
    }

    /// What to put into its Secret.
    pub fn data(&self) -> SecretData {
        let Self { key, certificate } = self;
        data([(KEY, key.to_pem().as_bytes()), (CERTIFICATE, certificate.to_pem().as_bytes())])
    }

    /// Which root this is.
    pub fn fingerprint(&self) -> Sha256 {
        self.certificate.fingerprint
    }

    /// Its end.
    pub fn not_after(&self) -> OffsetDateTime {
        self.certificate.not_after
    }
}

impl Generation {
    /// Reads and checks the signing Secret.
    pub fn load(data: &SecretData) -> Result<Self, LoadError> {
        refuse_empty(data)?;
        let state = state(value(STATE, data)?)?;
        let certificate = CaCertificate::check(CERTIFICATE, &single(CERTIFICATE, data)?)?;
        let root = CaCertificate::check(ROOT, &single(ROOT, data)?)?;
        if root.fingerprint.to_string() != state.root {
            return Err(LoadError::RootOfAnother);
        }
        if root.path_length(ROOT)? == Some(0) {
            return Err(LoadError::PathLength);
        }
        if !root.is_signed_by(ROOT, &root)? {
            return Err(LoadError::NotSelfSigned);
        }
        Self::new(state.generation, CaKey::parse(KEY, value(KEY, data)?)?, certificate, root)
    }

    pub(super) fn new(
        number: u64,
        key: CaKey,
        certificate: CaCertificate,
        root: CaCertificate,
    ) -> Result<Self, LoadError> {
        if key.subject_public_key_info() != certificate.spki {
            return Err(LoadError::KeyOfAnother);
        }
        if !certificate.is_signed_by(CERTIFICATE, &root)? {
            return Err(LoadError::NotBelowRoot);
        }
        let chain_pem = certificate.to_pem();
        Ok(Self { number, key, certificate, root, chain_pem })
    }

    /// What to put into the signing Secret.
    pub fn data(&self) -> Result<SecretData, serde_json::Error> {
        let Self { number, key, certificate, root, chain_pem: _ } = self;
        let state = State { schema: SCHEMA, generation: *number, root: root.fingerprint.to_string() };
        Ok(data([
            (KEY, key.to_pem().as_bytes()),
            (CERTIFICATE, certificate.to_pem().as_bytes()),
            (ROOT, root.to_pem().as_bytes()),
            (STATE, &serde_json::to_vec(&state)?),
        ]))
    }

    /// Counted from 1, one more for each issuing CA.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Which issuing CA this is.
    pub fn fingerprint(&self) -> Sha256 {
        self.certificate.fingerprint
    }

    /// Which root it is under.
    pub fn root_fingerprint(&self) -> Sha256 {
        self.root.fingerprint
    }

    /// The roots to publish, as the text of a ClusterTrustBundle.
    pub fn trust_bundle(&self) -> String {
        self.root.to_pem()
    }

    /// From when on it is valid.
    pub fn not_before(&self) -> OffsetDateTime {
        self.certificate.not_before.max(self.root.not_before)
    }

    /// The first end in its chain.
    pub fn not_after(&self) -> OffsetDateTime {
        self.certificate.not_after.min(self.root.not_after)
    }

    /// Until when it can issue: the shortest life that the API server takes, and the backdating, before its chain ends. This is
    /// the moment to watch.
    pub fn usable_until(&self) -> OffsetDateTime {
        self.not_after().saturating_sub(SHORTEST).saturating_sub(BACKDATE)
    }

    /// When the next one is to be made: at half of its life.
    pub fn renew_at(&self) -> OffsetDateTime {
        let life = self.not_after().unix_timestamp().saturating_sub(self.not_before().unix_timestamp());
        self.not_before().saturating_add(Duration::seconds(life / 2))
    }

    pub(crate) fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    pub(crate) fn certificate_der(&self) -> &[u8] {
        &self.certificate.der
    }

    /// The name that leaves give their issuer, in DER.
    pub(crate) fn subject(&self) -> &[u8] {
        &self.certificate.subject
    }

    /// The key identifier that leaves give their issuer.
    pub(crate) fn key_identifier(&self) -> &[u8] {
        &self.certificate.subject_key
    }

    /// ECDSA with SHA-256.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(message)
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key: _, certificate } = self;
        write!(out, "Root({})", certificate.fingerprint)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, key: _, certificate, root, chain_pem: _ } = self;
        write!(out, "Generation({number}: {} under {})", certificate.fingerprint, root.fingerprint)
    }
}

/// The newest schema is ours. What we do not know we must not touch: a rolled-back version would destroy it.
fn state(json: &[u8]) -> Result<State, LoadError> {
    let Schema { schema } = serde_json::from_slice(json).map_err(|_garbage| LoadError::State)?;
    if schema > SCHEMA {
        return Err(LoadError::NewerSchema(schema));
    }
    serde_json::from_slice(json).map_err(|_garbage| LoadError::State)
}

fn refuse_empty(data: &SecretData) -> Result<(), LoadError> {
    if data.values().all(|value| value.0.is_empty()) { Err(LoadError::Empty) } else { Ok(()) }
}

fn value<'d>(field: &'static str, data: &'d SecretData) -> Result<&'d [u8], LoadError> {
    match data.get(field) {
        Some(value) if !value.0.is_empty() => Ok(&value.0),
        Some(_) | None => Err(LoadError::Missing(field)),
    }
}

fn single(field: &'static str, data: &SecretData) -> Result<Vec<u8>, LoadError> {
    let blocks = from_pem(value(field, data)?).ok_or(LoadError::Unreadable(field))?;
    let [der] = <[Vec<u8>; 1]>::try_from(blocks).map_err(|_more| LoadError::NotOne(field))?;
    Ok(der)
}

fn data<const N: usize>(values: [(&str, &[u8]); N]) -> SecretData {
    values.into_iter().map(|(field, value)| (field.to_owned(), ByteString(value.to_vec()))).collect()
}

const SCHEMA: u64 = 1;

// The two first are what `kubernetes.io/tls` and cert-manager call them.
const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
const ROOT: &str = "ca.crt";
const STATE: &str = "state.json";
