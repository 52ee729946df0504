//! Holds a verified claim against the PodSigner's rules. A miss is held, never denied: a typo in a policy must not wedge pods.

use std::{fmt, sync::Arc};

use super::{claim::Claim, refusal::Hold, verified::Verified};
use crate::config::PodSigner;

/// A claim that the policy admits, with the life that it is granted.
///
/// It cannot be made but by [`Approved::admit`]:
/// ```
/// # use std::sync::Arc;
/// # use podmint_signer::{config::PodSigner, pipeline::{Approved, Hold, Verified}};
/// fn approve(verified: Verified, signer: &Arc<PodSigner>) -> Result<Approved, Hold> {
///     Approved::admit(verified, signer)
/// }
/// ```
/// ```compile_fail
/// # use std::sync::Arc;
/// # use podmint_signer::{config::PodSigner, pipeline::{Approved, Hold, Verified}};
/// fn approve(verified: Verified, signer: &Arc<PodSigner>) -> Result<Approved, Hold> {
///     Ok(Approved { verified, signer: signer.clone(), rule: 0, granted_seconds: 3600 })
/// }
/// ```
pub struct Approved {
    verified: Verified,
    signer: Arc<PodSigner>,
    rule: usize,
    granted_seconds: u32,
}

impl Approved {
    /// Looks for the first rule that admits the pod's ServiceAccount.
    pub fn admit(verified: Verified, signer: &Arc<PodSigner>) -> Result<Self, Hold> {
        let claim = verified.claim();
        // The caller chose the PodSigner by this name. That it did is worth one comparison.
        if claim.signer != signer.signer_name {
            return Err(Hold::NoSuchSigner(claim.signer.clone()));
        }
        if signer.suspend {
            return Err(Hold::Suspended { policy: signer.name.to_string() });
        }
        let rule = admitting_rule(claim, signer)?;
        if !signer.key_types.contains(&claim.key_type()) {
            return Err(Hold::KeyTypeNotServed {
                policy: signer.name.to_string(),
                asked: claim.key_type(),
                served: signer.key_types.to_vec(),
            });
        }
        let granted_seconds = claim.max_expiration_seconds.min(signer.lifetime.max_seconds);
        Ok(Self { verified, signer: Arc::clone(signer), rule, granted_seconds })
    }

    /// What was approved.
    pub fn claim(&self) -> &Arc<Claim> {
        self.verified.claim()
    }

    /// The PodSigner that approved it.
    pub fn signer(&self) -> &Arc<PodSigner> {
        &self.signer
    }

    /// The rule that admitted it: for the audit log.
    pub fn rule(&self) -> &str {
        self.signer.allow.get(self.rule).map_or("", |rule| &rule.name)
    }

    /// The life granted: not more than asked for, not more than the policy allows.
    pub fn granted_seconds(&self) -> u32 {
        self.granted_seconds
    }
}

fn admitting_rule(claim: &Claim, signer: &PodSigner) -> Result<usize, Hold> {
    let admits = signer.allow.iter().position(|rule| rule.admits(&claim.target.namespace, &claim.service_account));
    admits.ok_or_else(|| Hold::NotAdmitted {
        policy: signer.name.to_string(),
        namespace: claim.target.namespace.to_string(),
        service_account: claim.service_account.clone(),
        any_rule: !signer.allow.is_empty(),
    })
}

impl fmt::Debug for Approved {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verified, signer, rule, granted_seconds } = self;
        out.debug_struct("Approved")
            .field("verified", verified)
            .field("signer", &signer.name)
            .field("rule", rule)
            .field("granted_seconds", granted_seconds)
            .finish()
    }
}
