//! `kubectl podmint ca reset`: the key of the root is lost, there is no backup, and the CA is to go on with a new root. What the lost
//! root has signed stays trusted until it ends.

use super::{CaError, Desk, Outcome, data};
use crate::{
    authority::{Generation, LoadError, Roots, fingerprints, wish::LOST},
    kubectl::Installation,
    names::{DnsName, Sha256},
};

/// Gives the root up for lost; without `accepted`, only says what that would do.
///
/// # Errors
/// When the key is not lost, when the Secrets hold something that is to be looked at first, or when a right is lacking.
pub async fn reset(
    config: kube::Config,
    installation: Installation,
    signer: &str,
    accepted: bool,
) -> Result<Outcome, CaError> {
    Desk::open(config, installation, signer).await?.reset(accepted).await
}

impl Desk {
    pub(super) async fn reset(&self, accepted: bool) -> Result<Outcome, CaError> {
        let name = self.name();
        let lost = self.signing_root().await?;
        let [signing, root] = self.signer()?.authority.names();
        self.is_lost(root, lost).await?;
        let goes_on = self.signs_on(signing, lost).await?;
        let mut text = format!("The key of the root {lost} of PodSigner {name} is lost.\n");
        text.push_str(if goes_on {
            "Its issuing CA is there still, so that this becomes a rotation like any other: a new root is made, published for a quarter \
             of an hour, and then signs; nobody is refused.\n"
        } else {
            "Its issuing CA is lost, too: a new root is made, published, and signs at once. What the lost one signed stays trusted until \
             it ends, 14 days at most. A pod whose kubelet has not shown it the new root yet refuses the new certificates of others \
             for some minutes.\n"
        });
        if !accepted {
            text.push_str(&format!(
                "A backup would be better (`kubectl podmint ca restore`). Nothing was changed; to go on without one: kubectl podmint ca \
                 reset --accept-new-root {name}\n"
            ));
            return Ok(Outcome { text, is_done: false });
        }
        let answer = self.ask(&[(LOST, Some(lost.to_string()))]).await?;
        text.push_str(&answer.text);
        Ok(Outcome { text, is_done: answer.is_done })
    }

    /// The root that signed last, by the mark on the trust bundle; by the bundle alone where that is clear.
    async fn signing_root(&self) -> Result<Sha256, CaError> {
        let bundle = self.bundle().await?;
        let trusted = bundle.as_ref().map(|bundle| fingerprints(bundle.text())).unwrap_or_default();
        let marked = bundle.as_ref().and_then(crate::cluster::bundle::Bundle::marked);
        match (marked.filter(|marked| trusted.contains(marked)), trusted.as_slice()) {
            (Some(marked), _) => Ok(marked),
            (None, [only]) => Ok(*only),
            (None, []) => Err(CaError::Unfit(format!(
                "no root of PodSigner {} is published, so that none can be lost: the signer makes one by itself",
                self.name()
            ))),
            (None, _) => Err(CaError::Unfit(
                "the trust bundle holds several roots and does not say which one signed: restore a backup of it"
                    .to_owned(),
            )),
        }
    }

    async fn is_lost(&self, secret: &DnsName, lost: Sha256) -> Result<(), CaError> {
        let Some(found) = self.secret(secret).await? else { return Ok(()) };
        match Roots::load(&data(&found)) {
            Err(LoadError::Empty) => Ok(()),
            Ok(roots) if roots.find(lost).is_some() => Err(CaError::Unfit(format!(
                "the key of the root {lost} is not lost, the Secret {secret} has it: `kubectl podmint rotate {}` puts another root in its \
                 place",
                self.name()
            ))),
            Ok(roots) => {
                Err(self.in_the_way(secret, &format!("holds another root, {}", roots.held().current.fingerprint)))
            }
            Err(error) => Err(self.in_the_way(secret, &format!("cannot be used: {error}"))),
        }
    }

    /// Whether the issuing CA is there still.
    async fn signs_on(&self, secret: &DnsName, lost: Sha256) -> Result<bool, CaError> {
        let Some(found) = self.secret(secret).await? else { return Ok(false) };
        match Generation::load(&data(&found)) {
            Err(LoadError::Empty) => Ok(false),
            Ok(generation) if generation.root_fingerprint() == lost => Ok(true),
            Ok(generation) => {
                Err(self.in_the_way(secret, &format!("is under another root, {}", generation.root_fingerprint())))
            }
            Err(error) => Err(self.in_the_way(secret, &format!("cannot be used: {error}"))),
        }
    }

    fn in_the_way(&self, secret: &DnsName, why: &str) -> CaError {
        let namespace = &self.installation.namespace;
        CaError::Unfit(format!(
            "the Secret {secret} {why}. Keep a copy of it, look who put it there, and delete it before you go on with a new root: kubectl \
             --namespace {namespace} delete secret {secret}"
        ))
    }
}
