//! Rules C1-C12 and U1-U3: creating a `PodCertificateRequest`, and changing anything but its status.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::key::{KeyFault, PublicKey};
use super::{names, x509};
use crate::api::failure::FieldError;

/// `spec`, in the form that holds every version's fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    #[serde(deserialize_with = "or_empty")]
    pub(crate) signer_name: String,
    #[serde(deserialize_with = "or_empty")]
    pub(crate) pod_name: String,
    #[serde(rename = "podUID", deserialize_with = "or_empty")]
    pub(crate) pod_uid: String,
    #[serde(deserialize_with = "or_empty")]
    pub(crate) service_account_name: String,
    #[serde(rename = "serviceAccountUID", deserialize_with = "or_empty")]
    pub(crate) service_account_uid: String,
    #[serde(deserialize_with = "or_empty")]
    pub(crate) node_name: String,
    #[serde(rename = "nodeUID", deserialize_with = "or_empty")]
    pub(crate) node_uid: String,
    pub(crate) max_expiration_seconds: Option<i32>,
    pub(crate) pkix_public_key: Base64,
    pub(crate) proof_of_possession: Base64,
    #[serde(rename = "stubPKCS10Request", skip_serializing_if = "Base64::is_empty")]
    pub(crate) stub: Base64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_empty")]
    pub(crate) unverified_user_annotations: BTreeMap<String, String>,
}

/// Go reads `null` as nothing.
pub(crate) fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Bytes in JSON: base64, and null when empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Base64(pub(crate) Vec<u8>);

impl Base64 {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() { to.serialize_none() } else { to.serialize_str(&STANDARD.encode(&self.0)) }
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text: Option<String> = Option::deserialize(from)?;
        STANDARD.decode(text.unwrap_or_default()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Which key material the imitated release knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyMaterial {
    /// 1.35: public key and proof.
    ProofOnly,
    /// 1.36 and later: that pair, or a stub.
    StubOrProof,
}

const HOUR: i32 = 3600;
const DAY: i32 = 86_400;
const NINETY_ONE_DAYS: i32 = 91 * DAY;
const MAX_UID: usize = 128;
const MAX_KEY_MATERIAL: usize = 10 * 1024;
const PKIX: &str = "spec.pkixPublicKey";
const PROOF: &str = "spec.proofOfPossession";
const STUB: &str = "spec.stubPKCS10Request";
const SUPPORTED: &str = "unknown public key type; supported types are Ed25519, ECDSA, and RSA";

/// What the server fills in before it checks.
pub(crate) fn default(spec: &mut Spec) {
    spec.max_expiration_seconds.get_or_insert(DAY);
}

/// C1 (the name) to C11.
pub(crate) fn create(name: &str, spec: &Spec, material: KeyMaterial) -> Vec<FieldError> {
    let mut errors = named("metadata.name", name);
    errors.extend(names::signer_name("spec.signerName", &spec.signer_name));
    let annotations = spec.unverified_user_annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    errors.extend(names::user_annotations("spec.unverifiedUserAnnotations", annotations));
    errors.extend(named("spec.podName", &spec.pod_name));
    errors.extend(uid("spec.podUID", &spec.pod_uid));
    errors.extend(named("spec.serviceAccountName", &spec.service_account_name));
    errors.extend(uid("spec.serviceAccountUID", &spec.service_account_uid));
    errors.extend(named("spec.nodeName", &spec.node_name));
    errors.extend(uid("spec.nodeUID", &spec.node_uid));
    let Some(seconds) = spec.max_expiration_seconds else {
        errors.push(FieldError::required("spec.maxExpirationSeconds", "must be set"));
        return errors;
    };
    let longest = if names::is_kubernetes_signer(&spec.signer_name) { DAY } else { NINETY_ONE_DAYS };
    if !(HOUR..=longest).contains(&seconds) {
        let detail = format!("must be in the range [{HOUR}, {longest}]");
        errors.push(FieldError::invalid("spec.maxExpirationSeconds", seconds, &detail));
    }
    errors.extend(key_material(spec, material));
    errors
}

fn named(field: &str, name: &str) -> Vec<FieldError> {
    names::dns_subdomain(name).iter().map(|wrong| FieldError::invalid(field, name, wrong)).collect()
}

fn uid(field: &str, uid: &str) -> Option<FieldError> {
    match uid.len() {
        0 => Some(FieldError::invalid(field, uid, "must not be empty")),
        1..=MAX_UID => None,
        _ => Some(FieldError::too_long(field, MAX_UID)),
    }
}

fn key_material(spec: &Spec, material: KeyMaterial) -> Option<FieldError> {
    if material == KeyMaterial::ProofOnly {
        return proof(spec);
    }
    match (spec.stub.is_empty(), spec.pkix_public_key.is_empty(), spec.proof_of_possession.is_empty()) {
        (false, true, true) => stub(&spec.stub.0),
        (true, false, false) => proof(spec),
        _ => {
            let detail = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
            Some(FieldError::invalid_omitted("spec", detail))
        }
    }
}

fn stub(der: &[u8]) -> Option<FieldError> {
    if der.len() > MAX_KEY_MATERIAL {
        return Some(FieldError::too_long(STUB, MAX_KEY_MATERIAL));
    }
    let Some(request) = x509::certification_request(der) else {
        return Some(FieldError::invalid_omitted(STUB, "must be a valid PKCS#10 CSR"));
    };
    let Some(key) = request.key else { return Some(FieldError::invalid_omitted(STUB, SUPPORTED)) };
    if let Some((value, detail)) = key.refusal() {
        let detail = if detail.is_empty() { "elliptic public keys must use curve P256, P384, or P521" } else { detail };
        return Some(FieldError::invalid(STUB, value, detail));
    }
    (!request.signature_good).then(|| FieldError::invalid_omitted(STUB, "invalid signature"))
}

fn proof(spec: &Spec) -> Option<FieldError> {
    for (field, bytes) in [(PKIX, &spec.pkix_public_key), (PROOF, &spec.proof_of_possession)] {
        if bytes.0.len() > MAX_KEY_MATERIAL {
            return Some(FieldError::too_long(field, MAX_KEY_MATERIAL));
        }
    }
    let encoded = || STANDARD.encode(&spec.pkix_public_key.0);
    let key = match PublicKey::from_der(&spec.pkix_public_key.0) {
        Ok(key) => key,
        Err(KeyFault::Malformed | KeyFault::Unknown) => {
            return Some(FieldError::invalid(PKIX, encoded(), "must be a valid PKIX-serialized public key"));
        }
    };
    if let Some((value, detail)) = key.refusal() {
        let detail = if detail.is_empty() { "elliptic public keys must use curve P256 or P384" } else { detail };
        return Some(FieldError::invalid(PKIX, value, detail));
    }
    let proven = key.proves(&spec.pod_uid, &spec.proof_of_possession.0);
    (!proven).then(|| FieldError::invalid_omitted(PROOF, "could not verify proof-of-possession signature"))
}

/// U2: nothing in `spec` may change.
pub(crate) fn update(new: &Spec, old: &Spec) -> Option<FieldError> {
    (new != old).then(|| {
        let shown = serde_json::to_value(new).unwrap_or_default();
        FieldError::invalid("spec", shown, "field is immutable")
    })
}

/// The key a request asks a certificate for: the stub's first.
pub(crate) fn requested_key(spec: &Spec) -> Result<Option<PublicKey>, FieldError> {
    if spec.stub.is_empty() {
        return match PublicKey::from_der(&spec.pkix_public_key.0) {
            Ok(key) => Ok(Some(key)),
            Err(KeyFault::Malformed | KeyFault::Unknown) => {
                Err(FieldError::invalid_omitted(PKIX, "must be a valid PKIX-serialized public key"))
            }
        };
    }
    match x509::certification_request(&spec.stub.0) {
        Some(request) => Ok(request.key),
        None => Err(FieldError::invalid_omitted(STUB, "must be a valid PKCS#10 CSR")),
    }
}
