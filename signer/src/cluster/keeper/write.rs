//! Writes the CA's Secrets: what a step asks for is made here, and put where it belongs by compare and swap.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use ring::rand::{SecureRandom, SystemRandom};

use super::{Keeper, KeeperError, Looked};
use crate::{
    authority::{Makings, Put, Root, Roots, SecretData, Seen, View, Write, make},
    cluster::secrets::Written,
    names::SerialNumber,
};

impl Keeper {
    pub(super) async fn read_root(&self) -> Result<RootSecret, KeeperError> {
        let name = &self.signer.authority.root_secret_name;
        let secret = self.secrets.read(name).await.map_err(|error| KeeperError::ReadSecret(name.to_string(), error))?;
        let empty = SecretData::new();
        let seen = match &secret {
            None => Seen::Absent,
            Some(secret) => Seen::from(Roots::load(secret.data.as_ref().unwrap_or(&empty))),
        };
        Ok(RootSecret { secret, seen })
    }

    pub(super) async fn make_root(
        &self,
        write: Write,
        before: Option<&RootSecret>,
        looked: &Looked,
    ) -> Result<(), KeeperError> {
        let root = self.new_root(looked)?;
        let (fingerprint, before) = (root.fingerprint(), before.and_then(|root| root.secret.as_ref()));
        if self.write_roots(&Roots::first(root), write, before).await? == Written::Done {
            tracing::info!(signer = %self.signer.signer_name, root = %fingerprint, from = looked.read.source.place(), "a root is there");
        }
        Ok(())
    }

    pub(super) async fn make_next(&self, before: Option<RootSecret>, looked: &Looked) -> Result<(), KeeperError> {
        let Some(RootSecret { secret, seen: Seen::Found(roots) }) = before else { return Ok(()) };
        let next = self.new_root(looked)?;
        let fingerprint = next.fingerprint();
        if self.write_roots(&roots.with_next(next), Write::Replace, secret.as_ref()).await? == Written::Done {
            tracing::info!(signer = %self.signer.signer_name, root = %fingerprint, from = looked.read.source.place(), "the next root is there");
        }
        Ok(())
    }

    /// Made, or copied from where it is brought.
    fn new_root(&self, looked: &Looked) -> Result<Root, KeeperError> {
        looked.read.source.root(&self.makings(looked, "")?).map_err(KeeperError::Make)
    }

    pub(super) async fn forget(&self, before: Option<RootSecret>) -> Result<(), KeeperError> {
        let Some(RootSecret { secret, seen: Seen::Found(roots) }) = before else { return Ok(()) };
        if self.write_roots(&roots.without_next(), Write::Replace, secret.as_ref()).await? == Written::Done {
            tracing::info!(signer = %self.signer.signer_name, "threw away the next root, which is not brought any more");
        }
        Ok(())
    }

    pub(super) async fn promote(&self, before: Option<RootSecret>) -> Result<(), KeeperError> {
        let Some(RootSecret { secret, seen: Seen::Found(roots) }) = before else { return Ok(()) };
        let roots = roots.promoted();
        if self.write_roots(&roots, Write::Replace, secret.as_ref()).await? == Written::Done {
            tracing::info!(
                signer = %self.signer.signer_name, root = %roots.held().current.fingerprint,
                "threw away the key of the previous root"
            );
        }
        Ok(())
    }

    async fn write_roots(&self, roots: &Roots, write: Write, before: Option<&Secret>) -> Result<Written, KeeperError> {
        let name = &self.signer.authority.root_secret_name;
        let written = self.secrets.write(name, roots.data(), write, before).await;
        written.map_err(|error| KeeperError::WriteSecret(name.to_string(), error))
    }

    pub(super) async fn put(
        &mut self,
        put: &Put,
        looked: &Looked,
        root: Option<&RootSecret>,
    ) -> Result<(), KeeperError> {
        let name = &self.signer.authority.secret_name;
        let before = looked.loaded.as_ref().and_then(|loaded| loaded.as_ref().ok()).map(Arc::as_ref);
        let roots = root.and_then(RootSecret::roots);
        let makings = self.makings(looked, looked.published())?;
        let made = make::signing(put, before, roots, &makings).map_err(KeeperError::Make)?;
        let data = made.data().map_err(KeeperError::State)?;
        let written = self.secrets.write(name, data, put.write, looked.read.secret.as_ref()).await;
        let written = written.map_err(|error| KeeperError::WriteSecret(name.to_string(), error))?;
        self.memory.signing = None;
        if written == Written::Done {
            let View { phase, number, next, next_at, .. } = self.view(&made, looked);
            tracing::info!(
                signer = %self.signer.signer_name, step = put.name.as_str(), phase, number, root = %made.root_fingerprint(),
                other = put.plan.rotation.map(|rotation| rotation.other().to_string()), ends = %made.not_after(),
                next = next.as_str(), next_at = %next_at, "the CA took a step"
            );
        }
        Ok(())
    }

    fn makings<'m>(&'m self, looked: &'m Looked, trusted: &'m str) -> Result<Makings<'m>, KeeperError> {
        let serial = serial().ok_or(KeeperError::NoChance)?;
        let (now, source) = (looked.clock.now, &*looked.read.source);
        Ok(Makings { trust_domain: &self.signer.trust_domain, domains: &self.domains, now, serial, source, trusted })
    }
}

/// The root's Secret, and what is in it.
pub(super) struct RootSecret {
    secret: Option<Secret>,
    pub(super) seen: Seen<Roots>,
}

impl RootSecret {
    fn roots(&self) -> Option<&Roots> {
        match &self.seen {
            Seen::Found(roots) => Some(roots),
            Seen::Unread | Seen::Absent | Seen::Broken(_) => None,
        }
    }
}

/// 128 random bits.
pub(crate) fn serial() -> Option<SerialNumber> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(SerialNumber::from_random(bytes))
}
