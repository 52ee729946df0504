//! Signs a profile once, and believes nothing about the result: it is read back, compared word by word, linted, verified up to
//! the published roots and held against the API server's rules. The API server itself would take almost anything, for ever.

use std::{fmt, sync::Arc, time::Duration};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

use super::{
    approved::Approved,
    claim::Claim,
    key::PublicKey,
    lint,
    profile::{Profile, Words},
    rules::{self, Broken, Proposed},
};
use crate::{
    authority::{Issuer, certificate::to_pem},
    names::Sha256,
};

/// Our own trouble: nothing leaves, the request stays pending and is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// rcgen or ring refused.
    #[error("could not sign the certificate")]
    Sign(#[source] rcgen::Error),
    /// What was signed cannot be read.
    #[error("the certificate that was signed cannot be read back")]
    Unreadable,
    /// What was signed is not what was decided.
    #[error("the certificate that was signed differs from what was decided: {0}")]
    Differs(&'static str),
    /// What was signed is not as it should be.
    #[error("the certificate that was signed does not pass the lint {0}")]
    Lint(&'static str),
    /// What was signed cannot be verified.
    #[error("the certificate that was signed does not chain to a published root")]
    Chain(#[source] webpki::Error),
    /// The API server would refuse it.
    #[error("the API server would refuse what was signed")]
    Rule(#[source] Broken),
}

impl Fault {
    /// For metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Sign(_) => "sign",
            Self::Unreadable => "unreadable",
            Self::Differs(_) => "differs",
            Self::Lint(_) => "lint",
            Self::Chain(_) => "chain",
            Self::Rule(_) => "rule",
        }
    }
}

/// A certificate that is as it was decided.
///
/// It cannot be made but by [`Issued::sign`], which takes the profile for good: one profile, one certificate.
/// ```
/// # use podmint_signer::{authority::Issuer, pipeline::{Fault, Issued, Profile}};
/// fn sign(profile: Profile, issuer: &Issuer) -> Result<Issued, Fault> {
///     Issued::sign(profile, issuer)
/// }
/// ```
/// ```compile_fail
/// # use podmint_signer::{authority::Issuer, pipeline::{Fault, Issued, Profile}};
/// fn sign(profile: Profile, issuer: &Issuer) -> Result<Issued, Fault> {
///     Issued::sign(profile, issuer)?;
///     Issued::sign(profile, issuer)
/// }
/// ```
pub struct Issued {
    approved: Approved,
    words: Words,
    chain_pem: String,
    fingerprint: Sha256,
    generation: u64,
}

impl Issued {
    /// Signs.
    pub fn sign(profile: Profile, issuer: &Issuer) -> Result<Self, Fault> {
        let (approved, words) = profile.into_parts();
        let claim = Arc::clone(approved.claim());
        let der = signed(&words, &claim.key, issuer)?;
        let (_, leaf) = X509Certificate::from_der(&der).map_err(|_garbage| Fault::Unreadable)?;
        compare(&words, &claim.key, &leaf)?;
        lint::all(&leaf).map_err(Fault::Lint)?;
        verify(&der, issuer, words.decided_at)?;
        let chain_pem = to_pem(&der) + issuer.generation().chain_pem();
        rules::issued(&proposed(&words, &chain_pem, &claim), words.decided_at).map_err(Fault::Rule)?;
        let (fingerprint, generation) = (Sha256::of(&der), issuer.generation().number());
        Ok(Self { approved, words, chain_pem, fingerprint, generation })
    }

    /// Whom it is for.
    pub fn claim(&self) -> &Arc<Claim> {
        self.approved.claim()
    }

    /// Why it was admitted.
    pub fn approved(&self) -> &Approved {
        &self.approved
    }

    /// What it says.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Leaf and issuing CA, without the root.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The SHA-256 of the leaf.
    pub fn fingerprint(&self) -> Sha256 {
        self.fingerprint
    }

    /// The number of the CA that signed it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether it is too old to be published: the API server takes a `notBefore` of at most five minutes ago. Sign anew.
    pub fn is_stale(&self, now: OffsetDateTime) -> bool {
        now > self.words.decided_at.saturating_add(PUBLISH_WITHIN)
    }

    /// Whether its life is shorter than the outage that a pod should outlive.
    pub fn is_short_lived(&self) -> bool {
        self.words.not_after.unix_timestamp().saturating_sub(self.words.not_before.unix_timestamp()) < 86_400
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { approved, words, chain_pem: _, fingerprint, generation } = self;
        out.debug_struct("Issued")
            .field("approved", approved)
            .field("words", words)
            .field("fingerprint", fingerprint)
            .field("generation", generation)
            .finish()
    }
}

fn signed(words: &Words, key: &PublicKey, issuer: &Issuer) -> Result<CertificateDer<'static>, Fault> {
    let params = params(words, key).map_err(Fault::Sign)?;
    let leaf = params.signed_by(&LeafKey(key), issuer.generation().signer()).map_err(Fault::Sign)?;
    Ok(leaf.into())
}

/// Every field is set here: rcgen's defaults are a made-up name, the years 1975 to 4096, and a serial number that repeats.
fn params(words: &Words, key: &PublicKey) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = words.not_before;
    params.not_after = words.not_after;
    params.serial_number = Some(rcgen::SerialNumber::from_slice(words.serial.as_bytes()));
    params.subject_alt_names = vec![SanType::URI(words.uri.as_str().try_into()?)];
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = None;
    params.crl_distribution_points = Vec::new();
    params.custom_extensions = Vec::new();
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(key).to_vec());
    Ok(params)
}

/// The subject's key, whose SubjectPublicKeyInfo goes into the certificate as it came. rcgen knows neither P-521 nor RSA when it
/// is built with ring.
struct LeafKey<'k>(&'k PublicKey);

impl PublicKeyData for LeafKey<'_> {
    fn subject_public_key_info(&self) -> Vec<u8> {
        self.0.spki().to_vec()
    }

    fn der_bytes(&self) -> &[u8] {
        self.0.spki()
    }

    /// Asked for only where the key is written as SubjectPublicKeyInfo, which is done above.
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// 160 bits of the SHA-256 of the key, as RFC 7093 has it.
fn key_identifier(key: &PublicKey) -> [u8; 20] {
    let mut identifier = [0; 20];
    identifier.iter_mut().zip(key.hash().as_bytes()).for_each(|(to, from)| *to = *from);
    identifier
}

/// What was signed against what was decided.
fn compare(words: &Words, key: &PublicKey, leaf: &X509Certificate<'_>) -> Result<(), Fault> {
    let Words { uri, serial, not_before, not_after, begin_refresh_at: _, decided_at: _ } = words;
    let same = |what: &'static str, same: bool| if same { Ok(()) } else { Err(Fault::Differs(what)) };
    same("serial number", leaf.raw_serial() == serial.as_bytes())?;
    same("notBefore", leaf.validity().not_before.to_datetime() == *not_before)?;
    same("notAfter", leaf.validity().not_after.to_datetime() == *not_after)?;
    same("public key", leaf.public_key().raw == key.spki())?;
    same("subject", leaf.subject().as_raw() == EMPTY_NAME)?;
    let names = leaf.subject_alternative_name().ok().flatten().map(|names| names.value.general_names.as_slice());
    same("names", matches!(names, Some([GeneralName::URI(found)]) if found == uri))?;
    same("subject key identifier", subject_key(leaf) == Some(key_identifier(key).as_slice()))
}

fn subject_key<'c>(leaf: &'c X509Certificate<'_>) -> Option<&'c [u8]> {
    leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    })
}

/// As a peer's rustls will: this notices a bit that flipped while signing, too.
fn verify(der: &CertificateDer<'_>, issuer: &Issuer, now: OffsetDateTime) -> Result<(), Fault> {
    let leaf = webpki::EndEntityCert::try_from(der).map_err(Fault::Chain)?;
    let between = [CertificateDer::from(issuer.generation().certificate_der())];
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.unix_timestamp()).unwrap_or(0)));
    let usage = webpki::KeyUsage::client_auth();
    leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, issuer.anchors(), &between, at, usage, None, None)
        .map(|_path| ())
        .map_err(Fault::Chain)
}

fn proposed<'w>(words: &Words, chain_pem: &'w str, claim: &'w Claim) -> Proposed<'w> {
    Proposed {
        certificate_chain: chain_pem,
        not_before: words.not_before,
        begin_refresh_at: words.begin_refresh_at,
        not_after: words.not_after,
        key: &claim.key,
        max_expiration_seconds: claim.max_expiration_seconds,
    }
}

/// An empty SEQUENCE.
const EMPTY_NAME: &[u8] = &[0x30, 0x00];

/// The API server allows five minutes less the backdating; this leaves two more for clocks that differ.
const PUBLISH_WITHIN: time::Duration = time::Duration::minutes(2);
