//! An issuing CA with its key, and the certificates between it and its root.

use rcgen::{PublicKeyData, SigningKey};
use time::OffsetDateTime;

use super::{certificate::CaCertificate, key::CaKey, load::LoadError};
use crate::names::Sha256;

/// What signs leaves. Where it is brought it may be the root itself, or have others between.
pub(super) struct Issuing {
    pub(super) key: CaKey,
    pub(super) certificate: CaCertificate,
    /// From the one that signed it upwards, without the root.
    pub(super) between: Vec<CaCertificate>,
}

impl Issuing {
    /// Checks that the key is that of the first certificate, and that each is signed by the next, the last by the root.
    pub(super) fn new(key: CaKey, chain: Vec<CaCertificate>, root: &CaCertificate) -> Result<Self, LoadError> {
        let mut chain = chain.into_iter();
        let certificate = chain.next().ok_or(LoadError::Unreadable(CERTIFICATE))?;
        // Whoever writes a chain may write its root, too.
        let between: Vec<CaCertificate> = chain.filter(|it| it.fingerprint != root.fingerprint).collect();
        if key.subject_public_key_info() != certificate.spki {
            return Err(LoadError::KeyOfAnother);
        }
        let mut lower = &certificate;
        for (above, upper) in between.iter().chain([root]).enumerate() {
            if !lower.is_signed_by(CERTIFICATE, upper)? {
                return Err(if above == 0 && between.is_empty() {
                    LoadError::NotBelowRoot
                } else {
                    LoadError::NoChain
                });
            }
            let is_itself = lower.fingerprint == upper.fingerprint;
            let below = u32::try_from(above.saturating_add(usize::from(!is_itself))).unwrap_or(u32::MAX);
            if upper.path_length(CERTIFICATE)?.is_some_and(|most| most < below) {
                return Err(LoadError::PathLength);
            }
            lower = upper;
        }
        Ok(Self { key, certificate, between })
    }

    /// The same once more.
    pub(super) fn again(&self) -> Result<Self, LoadError> {
        let Self { key, certificate, between } = self;
        let key = key.again().map_err(|_rejected| LoadError::KeyUnreadable(KEY))?;
        Ok(Self { key, certificate: certificate.clone(), between: between.clone() })
    }

    /// What stands in `tls.crt`.
    pub(super) fn to_pem(&self) -> String {
        self.all().map(CaCertificate::to_pem).collect()
    }

    /// What goes out behind a leaf: all but the root, which peers have.
    pub(super) fn sent(&self, root: &CaCertificate) -> String {
        self.all().filter(|it| it.fingerprint != root.fingerprint).map(CaCertificate::to_pem).collect()
    }

    /// Of the whole chain: another one between makes it another.
    pub(super) fn fingerprint(&self) -> Sha256 {
        if self.between.is_empty() {
            return self.certificate.fingerprint;
        }
        let ders: Vec<&[u8]> = self.ders().collect();
        Sha256::of(&ders.concat())
    }

    /// From when on, and until when, the whole chain is valid.
    pub(super) fn valid(&self, root: &CaCertificate) -> (OffsetDateTime, OffsetDateTime) {
        let all = self.all().map(|it| (it.not_before, it.not_after));
        all.fold((root.not_before, root.not_after), |(from, to), (begins, ends)| (from.max(begins), to.min(ends)))
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(message)
    }

    pub(super) fn ders(&self) -> impl Iterator<Item = &[u8]> {
        self.all().map(|it| it.der.as_slice())
    }

    fn all(&self) -> impl Iterator<Item = &CaCertificate> {
        std::iter::once(&self.certificate).chain(&self.between)
    }
}

const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
