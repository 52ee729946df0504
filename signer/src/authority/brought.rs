//! A CA that is brought: `tls.crt` (the issuing CA, and whatever is between it and its root), `tls.key` and `ca.crt` (the root), as
//! cert-manager writes them into a Secret. Nothing of it is used that our own checks, and a certificate made by way of trial, do not
//! find good.

use k8s_openapi::ByteString;
use rcgen::PublicKeyData;
use time::OffsetDateTime;

use super::{
    certificate::{CaCertificate, from_pem},
    key::CaKey,
    load::{Generation, LoadError, Means, Root, SecretData},
    make::{LEAST_LEFT, MakeError, Makings},
    plan::Plan,
    source::Source,
    state::{Clock, HeldRoot, Signing},
    trouble::Trouble,
    wish::Wish,
};
use crate::{
    config::PodSigner,
    pipeline::{probe, profile::BACKDATE},
};

/// Why what is brought cannot be used, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BroughtError {
    /// It is not there, or holds nothing.
    #[error("there is none: write tls.crt, tls.key, and the root into ca.crt")]
    Absent,
    /// Whoever keeps it does not give it out.
    #[error("it cannot be read ({0})")]
    Unread(String),
    /// A part of it is missing.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A CA is small.
    #[error("its {0} is larger than 64 KiB: write PEM blocks of this CA alone")]
    TooLarge(&'static str),
    /// Nobody could trust it.
    #[error("{0} is not self-signed: write the root into ca.crt")]
    NoRoot(&'static str),
    /// What it holds is no CA for us.
    #[error("{0}")]
    Load(#[source] LoadError),
    /// A kind of key that we cannot sign with, or nobody should.
    #[error(
        "the key of the certificate in tls.crt is {0}: take ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits"
    )]
    Key(String),
    /// Its time is over, or almost.
    #[error("its chain ends at {0}, too soon to issue anything: renew it")]
    Ends(OffsetDateTime),
    /// Its time has not come.
    #[error("its chain is valid from {0} only: look at the clock of whoever made it")]
    NotYetValid(OffsetDateTime),
    /// Peers would refuse what it signs.
    #[error("peers would refuse what it signs: {0}")]
    Refused(String),
}

/// What was found where the CA is brought.
#[derive(Debug)]
pub struct Brought {
    place: String,
    found: Result<Root, BroughtError>,
}

/// What a CA is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Whose certificates it signs.
    pub signer: &'a PodSigner,
    /// The API server's time.
    pub now: OffsetDateTime,
}

impl Brought {
    /// Of what a Secret or a folder holds; `place` is how messages call it.
    pub fn new(place: String, found: Result<SecretData, BroughtError>, wanted: Wanted<'_>) -> Self {
        Self { place, found: found.and_then(|data| check(&data, wanted)) }
    }
}

impl Source for Brought {
    fn place(&self) -> Option<&str> {
        Some(&self.place)
    }

    fn brings(&self) -> Option<&Root> {
        self.found.as_ref().ok()
    }

    fn rotates(&self, signing: &Signing, _: Clock) -> bool {
        self.brings().is_some_and(|root| root.fingerprint() != signing.root)
    }

    /// Not before it has been valid for as long as clocks of peers may be behind: cert-manager backdates nothing.
    fn renews(&self, signing: &Signing, clock: Clock) -> bool {
        let is_another = |root: &Root| match &root.means {
            Means::Brought(issuing) => {
                let from = issuing.valid(&root.certificate).0;
                issuing.fingerprint() != signing.issuing && from.saturating_add(BACKDATE) <= clock.now
            }
            Means::Key(_) => false,
        };
        self.brings().is_some_and(|root| root.fingerprint() == signing.root && is_another(root))
    }

    fn takes(&self, next: HeldRoot, _: OffsetDateTime) -> bool {
        self.brings().is_some_and(|root| root.fingerprint() == next.fingerprint)
    }

    /// Another CA comes by being brought. A root is not lost that is brought still.
    fn heeds(&self, wish: Wish) -> Wish {
        let lost = wish.lost.filter(|lost| self.brings().is_none_or(|root| root.fingerprint() != *lost));
        Wish { rotate: None, renew: None, lost, ..wish }
    }

    fn root(&self, _: &Makings<'_>) -> Result<Root, MakeError> {
        let Some(Root { means: Means::Brought(issuing), certificate }) = self.brings() else {
            return Err(MakeError::NotBrought);
        };
        Ok(Root { means: Means::Brought(issuing.again()?), certificate: certificate.clone() })
    }

    fn trouble(&self) -> Option<Trouble> {
        let error = self.found.as_ref().err()?.clone();
        Some(Trouble::BroughtBroken { from: self.place.clone(), error })
    }
}

fn check(data: &SecretData, wanted: Wanted<'_>) -> Result<Root, BroughtError> {
    if FIELDS.iter().all(|field| value(field, data).is_none()) {
        return Err(BroughtError::Absent);
    }
    if let Some(large) = FIELDS.into_iter().find(|field| value(field, data).is_some_and(|it| it.len() > MOST)) {
        return Err(BroughtError::TooLarge(large));
    }
    let chain = certificates(CERTIFICATE, data)?.ok_or(BroughtError::Missing(CERTIFICATE))?;
    let first = chain.first().ok_or(BroughtError::Missing(CERTIFICATE))?;
    if let Some(unfit) = first.unfit_key() {
        return Err(BroughtError::Key(unfit));
    }
    let (root, field) = match certificates(ROOT, data)?.map(<[CaCertificate; 1]>::try_from) {
        Some(Ok([root])) => (root, ROOT),
        Some(Err(_more)) => return Err(BroughtError::Load(LoadError::NotOne(ROOT))),
        // The last of a chain may be the root; a CA that signed itself is its own.
        None => (chain.last().cloned().ok_or(BroughtError::Missing(CERTIFICATE))?, CERTIFICATE),
    };
    if !root.is_signed_by(field, &root).map_err(BroughtError::Load)? {
        return Err(BroughtError::NoRoot(field));
    }
    let key = value(KEY, data).ok_or(BroughtError::Missing(KEY))?;
    let key = CaKey::parse_brought(KEY, key).map_err(BroughtError::Load)?;
    let root = Root::brought(key, chain, root).map_err(BroughtError::Load)?;
    let Means::Brought(issuing) = &root.means else { return Err(BroughtError::Missing(KEY)) };
    let (from, to) = issuing.valid(&root.certificate);
    if wanted.now < from {
        return Err(BroughtError::NotYetValid(from));
    }
    if to.saturating_sub(LEAST_LEFT) < wanted.now {
        return Err(BroughtError::Ends(to));
    }
    try_out(&root, wanted)?;
    Ok(root)
}

/// What no rule of ours foresees, a peer's verifier tells.
fn try_out(root: &Root, Wanted { signer, now }: Wanted<'_>) -> Result<(), BroughtError> {
    let Means::Brought(issuing) = &root.means else { return Ok(()) };
    let issuing = issuing.again().map_err(BroughtError::Load)?;
    let nobody = CaKey::generate().map_err(|error| BroughtError::Refused(error.to_string()))?;
    let generation = Generation::new(Plan::new(0, 0), true, issuing, root.certificate.clone(), None);
    let generation = generation.map_err(BroughtError::Load)?;
    let sign = |message: &[u8]| generation.sign(message).ok();
    match probe(&generation, sign, &nobody.subject_public_key_info(), signer, now) {
        Some(Ok(())) => Ok(()),
        Some(Err(webpki::Error::NameConstraintViolation)) => Err(BroughtError::Refused(format!(
            "its name constraints leave out names that this PodSigner gives: permit DNS names below svc and {}, and those of its rules, \
             or constrain nothing",
            signer.wording.cluster_domain
        ))),
        Some(Err(error)) => Err(BroughtError::Refused(error.to_string())),
        None => Err(BroughtError::Refused("it could not sign a certificate by way of trial".to_owned())),
    }
}

fn certificates(field: &'static str, data: &SecretData) -> Result<Option<Vec<CaCertificate>>, BroughtError> {
    let Some(pem) = value(field, data) else { return Ok(None) };
    let ders = from_pem(pem).ok_or(BroughtError::Load(LoadError::Unreadable(field)))?;
    let checked: Result<_, LoadError> = ders.iter().map(|der| CaCertificate::check(field, der)).collect();
    checked.map(Some).map_err(BroughtError::Load)
}

fn value<'d>(field: &str, data: &'d SecretData) -> Option<&'d [u8]> {
    data.get(field).map(|ByteString(value)| value.as_slice()).filter(|value| !value.trim_ascii().is_empty())
}

/// All that is read of a Secret or a folder.
pub(crate) const FIELDS: [&str; 3] = [CERTIFICATE, KEY, ROOT];
const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
const ROOT: &str = "ca.crt";
/// More than any chain of a CA.
pub(crate) const MOST: usize = 64 * 1024;

#[cfg(test)]
mod tests;
