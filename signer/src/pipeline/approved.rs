//! Holds a verified claim against the PodSigner's rules. A miss is held, never denied: a typo in a policy must not wedge pods.

use std::{fmt, sync::Arc};

use super::{
    asked::{self, Asked},
    claim::Claim,
    facts::Labels,
    refusal::Hold,
    verified::Verified,
};
use crate::config::{AllowRule, PodSigner};

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
///     Ok(Approved { verified, signer: signer.clone(), rule: 0, shadow: None, asked: Default::default(), granted_seconds: 3600 })
/// }
/// ```
pub struct Approved {
    verified: Verified,
    signer: Arc<PodSigner>,
    rule: usize,
    shadow: Option<usize>,
    asked: Asked,
    granted_seconds: u32,
}

impl Approved {
    /// Looks whether the pod is on hold, then for the first rule in force that is for it, and holds the request to its limits.
    pub fn admit(verified: Verified, signer: &Arc<PodSigner>) -> Result<Self, Hold> {
        let claim = verified.claim();
        // The caller chose the PodSigner by this name. That it did is worth one comparison.
        if claim.signer != signer.signer_name {
            return Err(Hold::NoSuchSigner(claim.signer.clone()));
        }
        if let Some(held) = verified.holds().ok_or(Hold::HoldsNotKnown)?.of(claim) {
            return Err(Hold::OnHold(held.clone()));
        }
        if signer.suspend {
            return Err(Hold::Suspended { policy: signer.name.to_string() });
        }
        let shadow = signer.allow.iter().position(|rule| rule.shadow && is_for(rule, &verified));
        let found = signer.allow.iter().enumerate().find(|(_, rule)| !rule.shadow && is_for(rule, &verified));
        let Some((index, rule)) = found else {
            return Err(Hold::NotAdmitted {
                policy: signer.name.to_string(),
                namespace: claim.target.namespace.to_string(),
                service_account: claim.service_account.clone(),
                any_rule: !signer.allow.is_empty(),
                almost: almost(signer, &verified).map(|rule| rule.name.clone()),
                shadow: shadow.and_then(|shadow| signer.allow.get(shadow)).map(|rule| rule.name.clone()),
            });
        };
        let lists = [(None, Some(&signer.key_types)), (Some(rule.name.clone()), rule.key_types.as_ref())];
        let mut served = lists.into_iter().filter_map(|(rule, list)| Some((rule, list?)));
        if let Some((rule, served)) = served.find(|(_, served)| !served.contains(&claim.key_type())) {
            return Err(Hold::KeyTypeNotServed {
                policy: signer.name.to_string(),
                rule,
                asked: claim.key_type(),
                served: served.to_vec(),
            });
        }
        let asked = asked::granted(claim, rule, &signer.wording)?;
        let longest =
            rule.max_seconds.map_or(signer.lifetime.max_seconds, |most| most.min(signer.lifetime.max_seconds));
        let granted_seconds = claim.max_expiration_seconds.min(longest);
        // A rule behind the one that admits would change nothing.
        let shadow = shadow.filter(|shadow| *shadow < index);
        Ok(Self { verified, signer: Arc::clone(signer), rule: index, shadow, asked, granted_seconds })
    }

    /// What was approved.
    pub fn claim(&self) -> &Arc<Claim> {
        self.verified.claim()
    }

    /// The facts behind it.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The PodSigner that approved it.
    pub fn signer(&self) -> &Arc<PodSigner> {
        &self.signer
    }

    /// The rule that admitted it: for the audit log.
    pub fn rule(&self) -> &str {
        self.signer.allow.get(self.rule).map_or("", |rule| &rule.name)
    }

    /// The rule in shadow that would have come first.
    pub fn shadow(&self) -> Option<&str> {
        self.signer.allow.get(self.shadow?).map(|rule| &*rule.name)
    }

    /// What the pod asked for and is granted.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// The life granted: not more than asked for, not more than the policy allows.
    pub fn granted_seconds(&self) -> u32 {
        self.granted_seconds
    }
}

/// Whether a rule is for this pod: the one place where that is decided, and where other predicates over verified facts would join.
fn is_for(rule: &AllowRule, verified: &Verified) -> bool {
    let claim = verified.claim();
    let namespace = verified.namespace().map(|namespace| &*namespace.labels);
    rule.admits(&claim.target.namespace, &claim.service_account)
        && has(&verified.node().labels, &rule.node_labels)
        && (rule.namespace_labels.is_empty() || namespace.is_some_and(|labels| has(labels, &rule.namespace_labels)))
}

fn has(labels: &Labels, wanted: &[(Box<str>, Box<str>)]) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The rule that would admit the pod, were it not for the labels of its namespace or its node.
fn almost<'s>(signer: &'s PodSigner, verified: &Verified) -> Option<&'s AllowRule> {
    let claim = verified.claim();
    signer.allow.iter().find(|rule| !rule.shadow && rule.admits(&claim.target.namespace, &claim.service_account))
}

impl fmt::Debug for Approved {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verified, signer, rule, shadow, asked, granted_seconds } = self;
        out.debug_struct("Approved")
            .field("verified", verified)
            .field("signer", &signer.name)
            .field("rule", rule)
            .field("shadow", shadow)
            .field("asked", asked)
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
            Holds, Observed,
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
    fn who_is_on_hold_gets_nothing_by_any_rule() {
        let holding = |text: &str| Some(Arc::new(Holds::read(&[("a".to_owned(), text.to_owned())].into())));
        let admitted = |holds: Option<Arc<Holds>>| {
            Approved::admit(Verified::check(Observed { holds, ..honest() }).unwrap(), &signer())
        };
        assert!(admitted(holding("{kind: node, name: node-b}")).is_ok());
        let hold = admitted(holding("{kind: node, name: node-a, reason: taken over}")).unwrap_err();
        assert!(matches!(&hold, Hold::OnHold(by) if by.key == "a"), "{hold}");
        assert!(hold.to_string().ends_with("until `kubectl podmint release node/node-a`"), "{hold}");
        assert!(matches!(admitted(None), Err(Hold::HoldsNotKnown)), "what is not known may be anybody's");
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
    fn a_rule_may_want_labels_of_namespace_and_node() {
        let labels = |key: &str, value: &str| [(key.into(), value.into())].into();
        let namespace = |value: &str| changed(|signer| signer.allow[0].namespace_labels = labels("env", value));
        let node = |value: &str| changed(|signer| signer.allow[0].node_labels = labels("pool", value));
        assert!(Approved::admit(verified(), &namespace("prod")).is_ok());
        assert!(Approved::admit(verified(), &node("trusted")).is_ok());
        for signer in [namespace("test"), node("spot")] {
            let hold = held(&signer);
            assert!(hold.to_string().contains("namespaceSelector and nodeSelector"), "{hold}");
        }
        let unknown = Verified::check(Observed { namespace: None, ..honest() }).unwrap();
        assert!(Approved::admit(unknown, &namespace("prod")).is_err(), "a namespace that is not known has no label");
    }

    #[test]
    fn a_rule_limits_life_and_keys() {
        let short = changed(|signer| signer.allow[0].max_seconds = Some(7_200));
        assert_eq!(Approved::admit(verified(), &short).unwrap().granted_seconds(), 7_200);
        let long = changed(|signer| signer.allow[0].max_seconds = Some(1_000_000));
        assert_eq!(Approved::admit(verified(), &long).unwrap().granted_seconds(), 43_200, "never more than asked for");
        let longer = changed(|signer| {
            signer.lifetime.max_seconds = 10_800;
            signer.allow[0].max_seconds = Some(14_400);
        });
        assert_eq!(Approved::admit(verified(), &longer).unwrap().granted_seconds(), 10_800, "a rule lengthens nothing");
        let keys = changed(|signer| signer.allow[0].key_types = Some([KeyType::Ed25519].into()));
        let hold = held(&keys);
        assert!(matches!(&hold, Hold::KeyTypeNotServed { served, .. } if *served == [KeyType::Ed25519]));
        assert!(
            hold.to_string().contains("by its rule \"shops\"") && hold.to_string().contains("that rule's keyTypes"),
            "{hold}"
        );
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_one_in_shadow_does_not() {
        let two = |shadow: bool| {
            changed(|signer| {
                let mut rules = vec![signer.allow[0].clone(), signer.allow[0].clone()];
                (rules[0].name, rules[0].shadow, rules[0].max_seconds) = ("new".to_owned(), shadow, Some(3_600));
                signer.allow = rules.into();
            })
        };
        let approved = Approved::admit(verified(), &two(false)).unwrap();
        assert_eq!((approved.rule(), approved.shadow(), approved.granted_seconds()), ("new", None, 3_600));
        let approved = Approved::admit(verified(), &two(true)).unwrap();
        assert_eq!((approved.rule(), approved.shadow(), approved.granted_seconds()), ("shops", Some("new"), 43_200));
        let behind = changed(|signer| {
            let mut rules = vec![signer.allow[0].clone(), signer.allow[0].clone()];
            (rules[1].name, rules[1].shadow) = ("new".to_owned(), true);
            signer.allow = rules.into();
        });
        assert_eq!(Approved::admit(verified(), &behind).unwrap().shadow(), None, "it would change nothing");
        let of_others = changed(|signer| {
            let mut rules = vec![signer.allow[0].clone(), signer.allow[0].clone()];
            (rules[0].shadow, rules[0].namespaces) = (true, [Pattern::parse("bank").unwrap()].into());
            signer.allow = rules.into();
        });
        assert_eq!(Approved::admit(verified(), &of_others).unwrap().shadow(), None, "it would not admit this pod");
        let alone = changed(|signer| signer.allow[0].shadow = true);
        let hold = held(&alone);
        assert!(matches!(&hold, Hold::NotAdmitted { shadow: Some(rule), .. } if rule == "shops"));
        assert!(hold.to_string().contains("shadow: true"), "{hold}");
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
