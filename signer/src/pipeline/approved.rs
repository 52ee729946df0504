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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Pattern,
        names::SignerName,
        pipeline::{
            Observed,
            honest::{TestKey, changed, claim_with, honest, honest_of, signer, verified},
            key::KeyType,
        },
    };

    fn held(signer: &Arc<PodSigner>) -> Hold {
        Approved::admit(verified(), signer).unwrap_err()
    }

    #[test]
    fn a_rule_that_matches_admits_and_is_named() {
        let approved = Approved::admit(verified(), &signer()).unwrap();
        assert_eq!(approved.rule(), "shops");
        assert_eq!(approved.granted_seconds(), 43_200);
    }

    #[test]
    fn nobody_is_admitted_by_an_empty_list() {
        let signer = changed(|signer| signer.allow = Box::default());
        let hold = held(&signer);
        assert!(matches!(hold, Hold::NotAdmitted { any_rule: false, .. }));
        assert!(hold.to_string().contains("its list is empty"));
    }

    #[test]
    fn both_namespace_and_service_account_must_match_in_one_rule() {
        let pattern = |text: &str| [Pattern::parse(text).unwrap()].into();
        let other = changed(|signer| signer.allow[0].namespaces = pattern("team-*"));
        assert!(matches!(held(&other), Hold::NotAdmitted { any_rule: true, .. }));
        let other = changed(|signer| signer.allow[0].service_accounts = pattern("billing"));
        let message = held(&other).to_string();
        assert!(message.contains("namespaces: [\"shop\"] and serviceAccounts: [\"cart\"]"), "{message}");
        let halves = changed(|signer| {
            let mut rules = vec![signer.allow[0].clone(), signer.allow[0].clone()];
            rules[0].namespaces = pattern("else");
            rules[1].service_accounts = pattern("else");
            signer.allow = rules.into();
        });
        assert!(matches!(held(&halves), Hold::NotAdmitted { .. }));
    }

    #[test]
    fn a_suspended_signer_and_another_signer_hold() {
        assert!(matches!(held(&changed(|signer| signer.suspend = true)), Hold::Suspended { .. }));
        let other = changed(|signer| signer.signer_name = SignerName::parse("podmint.dev/other").unwrap());
        assert!(matches!(held(&other), Hold::NoSuchSigner(_)));
    }

    #[test]
    fn a_key_type_that_is_not_served_is_held_and_the_others_named() {
        let signer = changed(|signer| signer.key_types = [KeyType::Ed25519, KeyType::EcdsaP384].into());
        let hold = held(&signer);
        assert!(matches!(&hold, Hold::KeyTypeNotServed { asked: KeyType::EcdsaP256, .. }));
        assert!(hold.to_string().contains("ED25519 or ECDSAP384"), "{hold}");
        let served: Observed = honest_of(claim_with(&TestKey::new(KeyType::Ed25519)));
        assert!(Approved::admit(Verified::check(served).unwrap(), &signer).is_ok());
    }

    #[test]
    fn the_life_granted_is_the_shorter_of_asked_and_allowed() {
        let granted = |max_seconds: u32| {
            let signer = changed(|signer| signer.lifetime.max_seconds = max_seconds);
            Approved::admit(Verified::check(honest()).unwrap(), &signer).unwrap().granted_seconds()
        };
        assert_eq!(granted(86_400), 43_200);
        assert_eq!(granted(7_200), 7_200);
    }
}
