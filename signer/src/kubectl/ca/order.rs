//! Rotate, pause, resume, withdraw: what is asked for is held against what the signer says of its CA before it is written.

use super::{CaError, Desk, Outcome, depends};
use crate::{
    authority::{
        plan::STABLE,
        wish::{PAUSE, RENEW, ROTATE, STOLEN, WITHDRAW, YES},
    },
    kubectl::Installation,
    resource::AuthorityStatus,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Another root, in all its phases.
    RotateRoot,
    /// Another issuing CA below the same root, at once.
    RotateIntermediate,
    /// Another root, and nothing signed under the one that is there: its key is stolen.
    ReplaceStolen,
    /// No rotation goes on.
    Pause,
    /// Rotations go on.
    Resume,
    /// The previous root is withdrawn before its certificates have ended.
    Withdraw {
        /// Whether it is to be done, and not only shown.
        confirmed: bool,
    },
}

/// Asks for it, and says what the signer answers.
///
/// # Errors
/// When there is no such PodSigner, when its user lacks a right, and when it makes no sense as the CA is now.
pub async fn order(
    config: kube::Config,
    installation: Installation,
    signer: &str,
    order: Order,
) -> Result<Outcome, CaError> {
    Desk::open(config, installation, signer).await?.order(order).await
}

impl Desk {
    async fn order(&self, order: Order) -> Result<Outcome, CaError> {
        match order {
            Order::RotateRoot => {
                self.is_ours()?;
                self.may_begin(self.authority()?)?;
                self.ask(&[(ROTATE, Some(self.now()?))]).await
            }
            Order::RotateIntermediate => {
                self.is_ours()?;
                let number = self.authority()?.number.to_string();
                self.ask(&[(RENEW, Some(number))]).await
            }
            Order::ReplaceStolen => self.replace_stolen().await,
            Order::Pause => self.ask(&[(PAUSE, Some(YES.to_owned()))]).await,
            Order::Resume => {
                let Outcome { text, is_done } = self.ask(&[(PAUSE, None)]).await?;
                Ok(Outcome { text: if is_done { "rotations go on\n".to_owned() } else { text }, is_done })
            }
            Order::Withdraw { confirmed } => self.withdraw(confirmed).await,
        }
    }

    /// Another CA in place of one that is brought comes from whoever brings it.
    fn is_ours(&self) -> Result<(), CaError> {
        match self.signer()?.authority.brought() {
            None => Ok(()),
            Some(from) => Err(CaError::Unfit(format!(
                "the CA of {} is brought in {from}: write another one there, and the signer rotates to it by itself",
                self.name()
            ))),
        }
    }

    fn may_begin(&self, authority: &AuthorityStatus) -> Result<(), CaError> {
        let name = self.name();
        if authority.phase != STABLE {
            return Err(CaError::Unfit(format!("a rotation of {name} is going on already: {}", state(authority))));
        }
        if authority.paused {
            return Err(CaError::Unfit(format!(
                "rotations of {name} are paused: `kubectl podmint resume {name}` first"
            )));
        }
        Ok(())
    }

    async fn replace_stolen(&self) -> Result<Outcome, CaError> {
        let authority = self.authority()?;
        let Some(root) = self.part("root")? else {
            return Err(CaError::Unfit("the status names no root".to_owned()));
        };
        let mut wishes = vec![(STOLEN, Some(root.fingerprint.clone()))];
        let brought = self.signer()?.authority.brought();
        // Else another root is on its way already, or comes by being brought.
        if self.part("next root")?.is_none() && brought.is_none() {
            wishes.push((ROTATE, Some(self.now()?)));
        }
        let Outcome { mut text, is_done } = self.ask(&wishes).await?;
        let name = self.name();
        if authority.paused {
            text.push_str(&format!("It is paused: `kubectl podmint resume {name}`.\n"));
        }
        if let Some(from) = brought {
            text.push_str(&format!(
                "Write another CA, of another root, into {from}: it takes the place of the stolen one.\n"
            ));
        }
        text.push_str(&format!(
            "Nothing more is signed under {}; running pods keep their certificates, new ones wait for the new root. When it signs \
             (`kubectl get podsigner {name}` says Issuing), restart what mounts certificates, then withdraw the stolen root: \
             `kubectl podmint withdraw {name}` shows what still depends on it. Until then whoever has the key can make certificates \
             that pods trust.\n",
            root.subject
        ));
        Ok(Outcome { text, is_done })
    }

    async fn withdraw(&self, confirmed: bool) -> Result<Outcome, CaError> {
        let (authority, name) = (self.authority()?, self.name());
        let Some(previous) = self.part("previous root")? else {
            return Err(CaError::Unfit(format!(
                "no previous root of {name} is trusted, so that there is none to withdraw ({}); `kubectl podmint rotate {name}` puts \
                 another one in place of the root that signs",
                state(authority)
            )));
        };
        if authority.paused {
            return Err(CaError::Unfit(format!(
                "rotations of {name} are paused: `kubectl podmint resume {name}` first"
            )));
        }
        let mut text = depends::on(self, previous).await?.to_string();
        if !confirmed {
            text.push_str(&format!(
                "Nothing was changed. To withdraw it now: kubectl podmint withdraw {name} --confirm\n"
            ));
            return Ok(Outcome { text, is_done: false });
        }
        let answer = self.ask(&[(WITHDRAW, Some(previous.fingerprint.clone()))]).await?;
        text.push_str(&answer.text);
        Ok(Outcome { text, is_done: answer.is_done })
    }
}

fn state(authority: &AuthorityStatus) -> String {
    match &authority.next {
        Some(next) => format!("phase {}, next {} at {}", authority.phase, next.step, next.at),
        None => format!("phase {}", authority.phase),
    }
}
