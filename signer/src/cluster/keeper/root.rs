//! Whether the root's Secret is as it was left. Nothing is asked of it for weeks; so its metadata is read now and then, and the keys in it
//! only when it has changed.

use super::{Keeper, KeeperError, Looked};
use crate::authority::{Generation, Seen, Trouble, Wish, Write, state::Held};

/// The root's Secret when it was last looked at.
pub(super) struct RootSeen {
    /// None where it was not there.
    version: Option<String>,
    held: Result<Held, Trouble>,
}

impl Keeper {
    pub(super) async fn look_at_root(&mut self, generation: &Generation, looked: &Looked) -> Result<(), KeeperError> {
        let name = &self.signer.authority.root_secret_name;
        let version = self.secrets.version(name).await;
        let version = version.map_err(|error| KeeperError::ReadSecret(name.to_string(), error))?;
        if self.memory.root.as_ref().is_some_and(|root| root.version == version) {
            return Ok(());
        }
        let root = self.read_root().await?;
        let held = match &root.seen {
            Seen::Found(roots) => Ok(roots.held()),
            Seen::Broken(error) if !error.is_empty() => Err(Trouble::RootBroken(error.clone())),
            Seen::Broken(_) | Seen::Absent | Seen::Unread => {
                let signs = generation.root_fingerprint();
                if looked.read.source.brings().is_some_and(|brought| brought.fingerprint() == signs) {
                    // It is no other root that comes there. The next look sees it.
                    let write = if version.is_some() { Write::Replace } else { Write::Create };
                    return self.make_root(write, Some(&root), looked).await;
                }
                Err(Trouble::RootKeyLost)
            }
        };
        self.memory.root = Some(RootSeen { version, held });
        Ok(())
    }

    /// What is wrong with it, under the CA that signs.
    pub(super) fn root_trouble(&self, generation: &Generation, wish: &Wish) -> Option<Trouble> {
        let signs = generation.root_fingerprint();
        match &self.memory.root.as_ref()?.held {
            Err(trouble) => Some(trouble.clone()),
            // The new one in its place is there before anything else is.
            Ok(held) if held.find(signs).is_some() || wish.lost == Some(signs) => None,
            Ok(_) => Some(Trouble::RootsDiffer),
        }
    }
}
