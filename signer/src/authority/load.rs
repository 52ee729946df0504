//! The two Secrets come in, a root and a generation that is fit to sign come out, or which word in them is wrong. rcgen would
//! take a certificate that is no CA with a key that is not its own.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::ByteString;
use rcgen::PublicKeyData;
use time::{Duration, OffsetDateTime};

use super::{
    certificate::{CaCertificate, from_pem},
    issuing::Issuing,
    key::CaKey,
    plan::{Plan, Rotation},
    state::{Held, HeldRoot, Signing},
    view::{Role, Shown},
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
    #[error("{0} holds no private key that can be used: ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits")]
    KeyUnreadable(&'static str),
    /// A key that only its passphrase opens.
    #[error("the key in {0} is encrypted: write it without a passphrase")]
    KeyEncrypted(&'static str),
    /// More keys than one, or none.
    #[error("{0} must hold exactly one private key")]
    NotOneKey(&'static str),
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
    /// Some certificate of the chain is not signed by the one behind it.
    #[error(
        "the certificates in tls.crt are no chain up to the root in ca.crt: the issuing CA first, then whoever signed it, and so on"
    )]
    NoChain,
    /// The root is not its own issuer.
    #[error("the root is not signed with its own key")]
    NotSelfSigned,
    /// The root allows no CA below.
    #[error("a path length in the chain allows no CA as far below as the issuing one")]
    PathLength,
    /// The state speaks of another root.
    #[error("state.json speaks of another root than {0}")]
    RootOfAnother(&'static str),
}

impl LoadError {
    /// Whether there is nothing that could be spoilt.
    pub fn is_empty(&self) -> bool {
        *self == Self::Empty
    }
}

/// A root, with what is wanted to have an issuing CA below it.
pub struct Root {
    pub(super) means: Means,
    pub(super) certificate: CaCertificate,
}

/// How one comes to an issuing CA.
pub(super) enum Means {
    /// The root's own key makes one.
    Key(CaKey),
    /// It was brought with the root.
    Brought(Issuing),
}

/// What the root's Secret holds: the root, and during a rotation the next one.
#[derive(Debug)]
pub struct Roots {
    pub(super) current: Root,
    pub(super) next: Option<Root>,
}

/// An issuing CA, with its key, the root above it, and the plan.
pub struct Generation {
    issuing: Issuing,
    root: CaCertificate,
    /// The other root of a rotation.
    other: Option<CaCertificate>,
    signing: Signing,
    chain_pem: String,
}

impl Roots {
    /// A first one.
    pub fn first(current: Root) -> Self {
        Self { current, next: None }
    }

    /// With this one next, in place of any that was.
    #[must_use]
    pub fn with_next(self, next: Root) -> Self {
        Self { next: Some(next), ..self }
    }

    /// The next one in place of the first, whose key is dropped.
    #[must_use]
    pub fn promoted(self) -> Self {
        let Self { current, next } = self;
        Self { current: next.unwrap_or(current), next: None }
    }

    /// Without a next one, whose key is dropped.
    #[must_use]
    pub fn without_next(self) -> Self {
        Self { next: None, ..self }
    }

    /// Reads and checks the root's Secret.
    pub fn load(data: &SecretData) -> Result<Self, LoadError> {
        refuse_empty(data)?;
        let current = Root::load([KEY, CERTIFICATE, ABOVE], data)?;
        let has_next =
            [NEXT_KEY, NEXT, NEXT_ABOVE].iter().any(|field| data.get(*field).is_some_and(|value| !value.0.is_empty()));
        let next = if has_next { Some(Root::load([NEXT_KEY, NEXT, NEXT_ABOVE], data)?) } else { None };
        Ok(Self { current, next })
    }

    /// What to put into its Secret.
    pub fn data(&self) -> SecretData {
        let Self { current, next } = self;
        let mut all = current.data([KEY, CERTIFICATE, ABOVE]);
        all.extend(next.iter().flat_map(|next| next.data([NEXT_KEY, NEXT, NEXT_ABOVE])));
        all
    }

    /// What the next step depends on.
    pub fn held(&self) -> Held {
        Held { current: self.current.held(), next: self.next.as_ref().map(Root::held) }
    }

    /// The one with this fingerprint.
    pub fn find(&self, fingerprint: Sha256) -> Option<&Root> {
        [Some(&self.current), self.next.as_ref()].into_iter().flatten().find(|root| root.fingerprint() == fingerprint)
    }
}

impl Root {
    /// Where the third field has a root, that was brought, and the two others are of an issuing CA below it.
    fn load([key, field, above]: [&'static str; 3], data: &SecretData) -> Result<Self, LoadError> {
        let key = CaKey::parse(key, value(key, data)?)?;
        if data.get(above).is_some_and(|value| !value.0.is_empty()) {
            return Self::brought(key, chain(field, data)?, CaCertificate::check(above, &single(above, data)?)?);
        }
        Self::new(key, CaCertificate::check(field, &single(field, data)?)?)
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
        Ok(Self { means: Means::Key(key), certificate })
    }

    /// One that somebody else made, by an issuing CA below it.
    pub(super) fn brought(
        key: CaKey,
        chain: Vec<CaCertificate>,
        certificate: CaCertificate,
    ) -> Result<Self, LoadError> {
        if !certificate.is_signed_by(ROOT, &certificate)? {
            return Err(LoadError::NotSelfSigned);
        }
        let issuing = Issuing::new(key, chain, &certificate)?;
        Ok(Self { means: Means::Brought(issuing), certificate })
    }

    fn data(&self, [key_field, field, above]: [&str; 3]) -> SecretData {
        let Self { means, certificate } = self;
        match means {
            Means::Key(key) => data([(key_field, key.to_pem().as_bytes()), (field, certificate.to_pem().as_bytes())]),
            Means::Brought(issuing) => data([
                (key_field, issuing.key.to_pem().as_bytes()),
                (field, issuing.to_pem().as_bytes()),
                (above, certificate.to_pem().as_bytes()),
            ]),
        }
    }

    /// What the next step depends on.
    pub(super) fn held(&self) -> HeldRoot {
        HeldRoot { fingerprint: self.fingerprint(), not_before: self.not_before(), not_after: self.not_after() }
    }

    /// From when on what it signs is valid; where it was brought, the last beginning in its chain.
    fn not_before(&self) -> OffsetDateTime {
        match &self.means {
            Means::Key(_) => self.certificate.not_before,
            Means::Brought(issuing) => issuing.valid(&self.certificate).0,
        }
    }

    /// Which root this is.
    pub fn fingerprint(&self) -> Sha256 {
        self.certificate.fingerprint
    }

    /// Its end; where it was brought, the first end in its chain.
    pub fn not_after(&self) -> OffsetDateTime {
        match &self.means {
            Means::Key(_) => self.certificate.not_after,
            Means::Brought(issuing) => issuing.valid(&self.certificate).1,
        }
    }
}

impl Generation {
    /// Reads and checks the signing Secret.
    pub fn load(data: &SecretData) -> Result<Self, LoadError> {
        refuse_empty(data)?;
        let (plan, named, is_brought) = Plan::read(value(STATE, data)?)?;
        let chain = chain(CERTIFICATE, data)?;
        if !is_brought && chain.len() > 1 {
            return Err(LoadError::NotOne(CERTIFICATE));
        }
        let root = root_certificate(ROOT, data)?;
        if root.fingerprint != named {
            return Err(LoadError::RootOfAnother(ROOT));
        }
        let other = match plan.rotation {
            Some(rotation) => Some((other_field(rotation), root_certificate(other_field(rotation), data)?)),
            None => None,
        };
        let key = CaKey::parse(KEY, value(KEY, data)?)?;
        Self::new(plan, is_brought, Issuing::new(key, chain, &root)?, root, other)
    }

    pub(super) fn new(
        plan: Plan,
        is_brought: bool,
        issuing: Issuing,
        root: CaCertificate,
        other: Option<(&'static str, CaCertificate)>,
    ) -> Result<Self, LoadError> {
        let other = match (other, plan.rotation) {
            (Some((_, other)), Some(rotation)) if other.fingerprint == rotation.other() => Some(other),
            (Some((field, _)), _) => return Err(LoadError::RootOfAnother(field)),
            (None, Some(rotation)) => return Err(LoadError::Missing(other_field(rotation))),
            (None, None) => None,
        };
        let chain_pem = issuing.sent(&root);
        let signing = signing(plan, is_brought, &issuing, &root);
        Ok(Self { issuing, root, other, signing, chain_pem })
    }

    /// What to put into the signing Secret.
    pub fn data(&self) -> Result<SecretData, serde_json::Error> {
        let Self { issuing, root, other, signing, chain_pem: _ } = self;
        let mut all = data([
            (KEY, issuing.key.to_pem().as_bytes()),
            (CERTIFICATE, issuing.to_pem().as_bytes()),
            (ROOT, root.to_pem().as_bytes()),
            (STATE, &signing.plan.write(root.fingerprint, signing.is_brought)?),
        ]);
        if let (Some(rotation), Some(other)) = (signing.plan.rotation, other) {
            all.extend(data([(other_field(rotation), other.to_pem().as_bytes())]));
        }
        Ok(all)
    }

    /// The same issuing CA under another plan.
    pub(super) fn under(&self, plan: Plan, other: Option<CaCertificate>) -> Result<Self, LoadError> {
        let other = plan.rotation.zip(other).map(|(rotation, other)| (other_field(rotation), other));
        Self::new(plan, self.signing.is_brought, self.issuing.again()?, self.root.clone(), other)
    }

    /// What the next step depends on.
    pub fn signing(&self) -> &Signing {
        &self.signing
    }

    /// Counted from 1, one more for each issuing CA.
    pub fn number(&self) -> u64 {
        self.signing.plan.number
    }

    /// Which issuing CA this is.
    pub fn fingerprint(&self) -> Sha256 {
        self.issuing.fingerprint()
    }

    /// Which root it is under.
    pub fn root_fingerprint(&self) -> Sha256 {
        self.root.fingerprint
    }

    /// The roots to publish, as the text of a ClusterTrustBundle.
    pub fn trust_bundle(&self) -> String {
        self.other.iter().fold(self.root.to_pem(), |bundle, other| bundle + &other.to_pem())
    }

    /// The certificate of one of the roots that the plan speaks of.
    pub(super) fn root_of(&self, fingerprint: Sha256) -> Option<&CaCertificate> {
        [Some(&self.root), self.other.as_ref()].into_iter().flatten().find(|root| root.fingerprint == fingerprint)
    }

    /// What people see of it: the issuing CA, and the roots.
    pub fn shown(&self) -> Vec<Shown> {
        let Self { issuing, root, other, signing, chain_pem: _ } = self;
        let mut all = vec![
            issuing.certificate.shown(Role::Issuing, signing.usable_until),
            root.shown(Role::Root, usable_until(root.not_after)),
        ];
        if let (Some(rotation), Some(other)) = (signing.plan.rotation, other) {
            let role = if rotation.next().is_some() { Role::NextRoot } else { Role::PreviousRoot };
            all.push(other.shown(role, usable_until(other.not_after)));
        }
        all
    }

    /// From when on it is valid.
    pub fn not_before(&self) -> OffsetDateTime {
        self.signing.not_before
    }

    /// The first end in its chain.
    pub fn not_after(&self) -> OffsetDateTime {
        self.issuing.valid(&self.root).1
    }

    /// Until when it can issue: the shortest life that the API server takes, and the backdating, before its chain ends. This is
    /// the moment to watch.
    pub fn usable_until(&self) -> OffsetDateTime {
        self.signing.usable_until
    }

    /// When the next one is to be made: at half of its life.
    pub fn renew_at(&self) -> OffsetDateTime {
        self.signing.renew_at
    }

    pub(crate) fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The issuing CA and whatever is between it and its root, in DER.
    pub(crate) fn chain_ders(&self) -> impl Iterator<Item = &[u8]> {
        self.issuing.ders()
    }

    pub(crate) fn root_der(&self) -> &[u8] {
        &self.root.der
    }

    /// What leaves say of its signatures: an `AlgorithmIdentifier`, in DER.
    pub(crate) fn signs_with(&self) -> &'static [u8] {
        self.issuing.key.signs_with()
    }

    /// The name that leaves give their issuer, in DER.
    pub(crate) fn subject(&self) -> &[u8] {
        &self.issuing.certificate.subject
    }

    /// The key identifier that leaves give their issuer.
    pub(crate) fn key_identifier(&self) -> &[u8] {
        &self.issuing.certificate.subject_key
    }

    /// Only [`Issuer`](super::Issuer) may ask for it.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.issuing.sign(message)
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { means: _, certificate } = self;
        write!(out, "Root({})", certificate.fingerprint)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { issuing: _, root, other: _, signing, chain_pem: _ } = self;
        write!(out, "Generation({}: {} under {})", signing.plan.number, signing.issuing, root.fingerprint)
    }
}

/// What the next step depends on. The successor of an issuing CA is due at half of its life, that of a root at four fifths: two
/// years before a root of ten years ends. Where they are brought, that is whoever brings them his business.
fn signing(plan: Plan, is_brought: bool, issuing: &Issuing, root: &CaCertificate) -> Signing {
    let life = |from: OffsetDateTime, to: OffsetDateTime| to.unix_timestamp().saturating_sub(from.unix_timestamp());
    let (not_before, not_after) = issuing.valid(root);
    let fifth = Duration::seconds(life(root.not_before, root.not_after) / 5);
    let half = not_before.saturating_add(Duration::seconds(life(not_before, not_after) / 2));
    Signing {
        plan,
        root: root.fingerprint,
        issuing: issuing.fingerprint(),
        is_brought,
        not_before,
        renew_at: if is_brought { usable_until(not_after) } else { half },
        usable_until: usable_until(not_after),
        rotate_at: if is_brought { root.not_after } else { root.not_after.saturating_sub(fifth) },
    }
}

fn usable_until(not_after: OffsetDateTime) -> OffsetDateTime {
    not_after.saturating_sub(SHORTEST).saturating_sub(BACKDATE)
}

/// One of the roots that are published.
fn root_certificate(field: &'static str, data: &SecretData) -> Result<CaCertificate, LoadError> {
    let root = CaCertificate::check(field, &single(field, data)?)?;
    if !root.is_signed_by(field, &root)? {
        return Err(LoadError::NotSelfSigned);
    }
    Ok(root)
}

/// Where the other root of a rotation is in the signing Secret.
fn other_field(rotation: Rotation) -> &'static str {
    if rotation.next().is_some() { NEXT } else { PREVIOUS }
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

fn chain(field: &'static str, data: &SecretData) -> Result<Vec<CaCertificate>, LoadError> {
    let blocks = from_pem(value(field, data)?).ok_or(LoadError::Unreadable(field))?;
    blocks.iter().map(|der| CaCertificate::check(field, der)).collect()
}

fn data<const N: usize>(values: [(&str, &[u8]); N]) -> SecretData {
    values.into_iter().map(|(field, value)| (field.to_owned(), ByteString(value.to_vec()))).collect()
}

// The two first are what `kubernetes.io/tls` and cert-manager call them.
const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
const ROOT: &str = "ca.crt";
const STATE: &str = "state.json";
/// In both Secrets: the root that a rotation goes to.
const NEXT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const PREVIOUS: &str = "previous.crt";
/// In the root's Secret: the roots above issuing CAs that were brought.
const ABOVE: &str = "root.crt";
const NEXT_ABOVE: &str = "next-root.crt";
