//! Holds a claim against the facts. This is the heart of the product: see the table of the four answers on the
//! [front page](crate).
//!
//! Denied is only what contradicts a fact that cannot change for this pod (its node, its ServiceAccount's name, its volumes,
//! whether it is a mirror, that it has ended), and only when a quorum read says so. A fact from the API server's cache may only
//! help a claim; where it does not, we look again. All else may be lag and is held.

use std::{fmt, sync::Arc};

use super::{
    asked,
    claim::Claim,
    facts::{Fact, Freshness, NamespaceFacts, NodeFacts, Phase, PodFacts, Projection},
    holds::Holds,
    observed::Observed,
    refusal::{Denial, Hold, NotProjected},
};
use crate::names::ServiceName;

/// A claim that is true, as far as the API server can tell.
///
/// It cannot be made but by [`Verified::check`]:
/// ```
/// # use podmint_signer::pipeline::{Observed, Unverified, Verified};
/// fn prove(seen: Observed) -> Result<Verified, Unverified> {
///     Verified::check(seen)
/// }
/// ```
/// ```compile_fail
/// # use podmint_signer::pipeline::{Observed, Unverified, Verified};
/// fn prove(seen: Observed) -> Result<Verified, Unverified> {
///     Ok(Verified { claim: seen.claim, pod: unimplemented!(), node: unimplemented!(), namespace: None, services: None, holds: None })
/// }
/// ```
pub struct Verified {
    claim: Arc<Claim>,
    pod: PodFacts,
    node: NodeFacts,
    namespace: Option<NamespaceFacts>,
    services: Option<Box<[ServiceName]>>,
    holds: Option<Arc<Holds>>,
}

/// Why a claim is not (yet) verified.
#[derive(Debug)]
pub enum Unverified {
    /// A cached fact does not fit. Read these again by quorum and check again, at once; this is no answer.
    LookAgain(LookAgain),
    /// It never will be.
    Deny(Denial),
    /// It may be later.
    Hold(Hold),
}

/// Which facts to read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookAgain {
    /// The pod.
    pub pod: bool,
    /// The ServiceAccount.
    pub service_account: bool,
    /// The node.
    pub node: bool,
}

impl Verified {
    /// Compares everything that a claim says with what is known.
    pub fn check(seen: Observed) -> Result<Self, Unverified> {
        let Observed { claim, pod, service_account, node, namespace, services, holds } = seen;
        let account_uid = match &service_account {
            Fact::Absent(_) => Err(Hold::ServiceAccountNotFound(claim.service_account.clone())),
            Fact::Found(account, _) if account.uid.as_ref() == Some(&claim.service_account_uid) => Ok(()),
            Fact::Found(..) => Err(Hold::OtherServiceAccount(claim.service_account.clone())),
        };
        let node_uid = match &node {
            Fact::Absent(_) => Err(Hold::NodeNotFound(claim.node.clone())),
            Fact::Found(node, _) if node.uid.as_ref() == Some(&claim.node_uid) => Ok(()),
            Fact::Found(..) => Err(Hold::OtherNode(claim.node.clone())),
        };
        let objections = Objections {
            pod: (pod_fits(&claim, &pod).err(), pod.freshness()),
            service_account: (account_uid.err().map(Objection::Hold), service_account.freshness()),
            node: (node_uid.err().map(Objection::Hold), node.freshness()),
        };
        match (objections.answer(), pod, node) {
            (Some(objection), ..) => Err(objection),
            (None, Fact::Found(pod, _), Fact::Found(node, _)) => {
                Ok(Self { claim, pod, node, namespace, services, holds })
            }
            // Objected to above.
            (None, ..) => Err(Unverified::Hold(Hold::PodNotFound)),
        }
    }

    /// What was verified.
    pub fn claim(&self) -> &Arc<Claim> {
        &self.claim
    }

    /// The pod.
    pub fn pod(&self) -> &PodFacts {
        &self.pod
    }

    /// The node.
    pub fn node(&self) -> &NodeFacts {
        &self.node
    }

    /// The namespace; none where it is not known.
    pub fn namespace(&self) -> Option<&NamespaceFacts> {
        self.namespace.as_ref()
    }

    /// The Services that select the pod; none where they are not known.
    pub fn services(&self) -> Option<&[ServiceName]> {
        self.services.as_deref()
    }

    /// What is on hold; none where that is not known.
    pub fn holds(&self) -> Option<&Holds> {
        self.holds.as_deref()
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claim, pod, node, namespace, services, holds } = self;
        out.debug_struct("Verified")
            .field("claim", claim)
            .field("pod", pod)
            .field("node", node)
            .field("namespace", namespace)
            .field("services", services)
            .field("holds", holds)
            .finish()
    }
}

enum Objection {
    Deny(Denial),
    Hold(Hold),
}

struct Objections {
    pod: (Option<Objection>, Freshness),
    service_account: (Option<Objection>, Freshness),
    node: (Option<Objection>, Freshness),
}

impl Objections {
    /// A confirmed contradiction ends it. Otherwise every doubtful fact is read again before anything is said, so that a
    /// message names the true cause.
    fn answer(self) -> Option<Unverified> {
        let Self { pod, service_account, node } = self;
        let doubtful = |(objection, freshness): &(Option<Objection>, Freshness)| {
            objection.is_some() && *freshness == Freshness::Cached
        };
        if let (Some(Objection::Deny(denial)), Freshness::Quorum) = pod {
            return Some(Unverified::Deny(denial));
        }
        let again =
            LookAgain { pod: doubtful(&pod), service_account: doubtful(&service_account), node: doubtful(&node) };
        if again != LookAgain::default() {
            return Some(Unverified::LookAgain(again));
        }
        [pod.0, service_account.0, node.0].into_iter().flatten().next().map(|objection| match objection {
            Objection::Deny(denial) => Unverified::Deny(denial),
            Objection::Hold(hold) => Unverified::Hold(hold),
        })
    }
}

fn pod_fits(claim: &Claim, pod: &Fact<PodFacts>) -> Result<(), Objection> {
    let pod = match pod {
        Fact::Absent(_) => return Err(Objection::Hold(Hold::PodNotFound)),
        Fact::Found(pod, _) => pod,
    };
    // First of all: what another pod is like says nothing about this one.
    if pod.uid.as_ref() != Some(&claim.pod_uid) {
        return Err(Objection::Hold(Hold::OtherPod { asked: claim.pod_uid.clone() }));
    }
    contradiction(claim, pod).map_or(Ok(()), |denial| Err(Objection::Deny(denial)))?;
    if pod.node.is_none() {
        return Err(Objection::Hold(Hold::PodNotBound));
    }
    if pod.phase == Phase::Finished {
        return Err(Objection::Deny(Denial::Finished));
    }
    known_annotations(claim, pod.phase)
}

/// What contradicts a property that this pod will have until it is gone.
fn contradiction(claim: &Claim, pod: &PodFacts) -> Option<Denial> {
    if let Some(bound) = pod.node.as_ref().filter(|bound| **bound != claim.node) {
        return Some(Denial::WrongNode { asked: claim.node.clone(), bound: bound.clone() });
    }
    if pod.service_account.as_ref() != Some(&claim.service_account) {
        return Some(Denial::WrongServiceAccount {
            asked: claim.service_account.clone(),
            has: pod.service_account.clone(),
        });
    }
    if pod.is_mirror {
        return Some(Denial::MirrorPod);
    }
    projected(claim, pod).err().map(Denial::NotProjected)
}

/// Some one source must agree to all of it. Each step keeps the sources that agree so far, so that the first difference to the
/// nearest of them is told.
fn projected(claim: &Claim, pod: &PodFacts) -> Result<(), NotProjected> {
    let mut sources: Vec<&Projection> = pod.projections_of(&claim.signer).collect();
    if sources.is_empty() {
        return Err(NotProjected::Signer(claim.signer.clone()));
    }
    sources.retain(|source| source.key_type == Some(claim.key_type()));
    if sources.is_empty() {
        return Err(NotProjected::KeyType { asked: claim.key_type() });
    }
    sources.retain(|source| source.annotations == claim.annotations);
    let most = sources.iter().map(|source| source.max_expiration_seconds).max().ok_or(NotProjected::Annotations)?;
    if i64::from(claim.max_expiration_seconds) > most {
        return Err(NotProjected::Expiration { asked: claim.max_expiration_seconds, most });
    }
    Ok(())
}

/// A pod that waits learns its author's mistake at once, and nothing is lost. One that runs has a certificate to lose, and may
/// have been served by a newer version of us.
fn known_annotations(claim: &Claim, phase: Phase) -> Result<(), Objection> {
    let Some((key, nearest)) = asked::unknown(claim) else { return Ok(()) };
    Err(match phase {
        Phase::Waiting => Objection::Deny(Denial::UnknownAnnotation { key, nearest }),
        Phase::Started | Phase::Finished => Objection::Hold(Hold::UnknownAnnotation { key, nearest }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{NodeName, NodeUid, PodUid, ServiceAccountName, ServiceAccountUid},
        pipeline::{
            facts::{NodeFacts, ServiceAccountFacts},
            honest::{claim, honest, honest_of},
            key::KeyType,
        },
    };

    const CACHED: Freshness = Freshness::Cached;
    const QUORUM: Freshness = Freshness::Quorum;

    fn refresh<T>(fact: &mut Fact<T>, freshness: Freshness) {
        match fact {
            Fact::Absent(read) | Fact::Found(_, read) => *read = freshness,
        }
    }

    fn all_fresh(mut seen: Observed) -> Observed {
        refresh(&mut seen.pod, QUORUM);
        refresh(&mut seen.service_account, QUORUM);
        refresh(&mut seen.node, QUORUM);
        seen
    }

    fn with_pod(change: impl FnOnce(&mut PodFacts)) -> Observed {
        let mut seen = honest();
        match &mut seen.pod {
            Fact::Found(pod, _) => change(pod),
            Fact::Absent(_) => panic!("an honest pod is there"),
        }
        seen
    }

    fn with_source(change: impl FnOnce(&mut Projection)) -> Observed {
        with_pod(|pod| change(&mut pod.projections[0]))
    }

    /// Of the cache it must be read again, whatever it is; what a quorum read of the same leads to is given back.
    fn twice(seen: impl Fn() -> Observed, again: LookAgain) -> Unverified {
        match Verified::check(seen()) {
            Err(Unverified::LookAgain(found)) => assert_eq!(found, again),
            other => panic!("answered by the cache: {other:?}"),
        }
        Verified::check(all_fresh(seen())).unwrap_err()
    }

    const POD: LookAgain = LookAgain { pod: true, service_account: false, node: false };
    const ACCOUNT: LookAgain = LookAgain { pod: false, service_account: true, node: false };
    const NODE: LookAgain = LookAgain { pod: false, service_account: false, node: true };

    fn denied(seen: impl Fn() -> Observed) -> Denial {
        match twice(seen, POD) {
            Unverified::Deny(denial) => denial,
            other @ (Unverified::LookAgain(_) | Unverified::Hold(_)) => panic!("not denied: {other:?}"),
        }
    }

    fn held(seen: impl Fn() -> Observed, again: LookAgain) -> Hold {
        match twice(seen, again) {
            Unverified::Hold(hold) => hold,
            other @ (Unverified::LookAgain(_) | Unverified::Deny(_)) => panic!("not held: {other:?}"),
        }
    }

    #[test]
    fn the_cache_is_enough_to_accept() {
        assert!(Verified::check(honest()).is_ok());
        assert!(Verified::check(all_fresh(honest())).is_ok());
    }

    #[test]
    fn a_pod_on_another_node_is_denied() {
        let seen = || with_pod(|pod| pod.node = Some(NodeName::parse("node-b").unwrap()));
        assert!(
            matches!(denied(seen), Denial::WrongNode { asked, bound } if asked.as_str() == "node-a" && bound.as_str() == "node-b")
        );
    }

    #[test]
    fn a_pod_with_another_service_account_is_denied() {
        let seen = || with_pod(|pod| pod.service_account = Some(ServiceAccountName::parse("billing").unwrap()));
        assert!(matches!(denied(seen), Denial::WrongServiceAccount { .. }));
        assert!(matches!(denied(|| with_pod(|pod| pod.service_account = None)), Denial::WrongServiceAccount { .. }));
    }

    #[test]
    fn a_mirror_pod_is_denied() {
        assert_eq!(denied(|| with_pod(|pod| pod.is_mirror = true)), Denial::MirrorPod);
    }

    #[test]
    fn a_pod_that_does_not_ask_for_it_is_denied() {
        let gone = || with_pod(|pod| pod.projections = Box::default());
        assert!(matches!(denied(gone), Denial::NotProjected(NotProjected::Signer(_))));
        let signer = || with_source(|source| source.signer = "podmint.dev/other".into());
        assert!(matches!(denied(signer), Denial::NotProjected(NotProjected::Signer(_))));
        let kind = || with_source(|source| source.key_type = Some(KeyType::Ed25519));
        assert_eq!(denied(kind), Denial::NotProjected(NotProjected::KeyType { asked: KeyType::EcdsaP256 }));
        let life = || with_source(|source| source.max_expiration_seconds = 43_199);
        assert_eq!(denied(life), Denial::NotProjected(NotProjected::Expiration { asked: 43_200, most: 43_199 }));
        let annotations = || with_source(|source| source.annotations = [("a/b".into(), "c".into())].into());
        assert_eq!(denied(annotations), Denial::NotProjected(NotProjected::Annotations));
    }

    #[test]
    fn one_source_that_agrees_is_enough_but_not_two_halves() {
        let other = |change: fn(&mut Projection)| {
            with_pod(|pod| {
                let mut second = pod.projections[0].clone();
                change(&mut second);
                pod.projections = [second, pod.projections[0].clone()].into();
            })
        };
        assert!(Verified::check(other(|source| source.key_type = Some(KeyType::Ed25519))).is_ok());
        assert!(Verified::check(other(|source| source.max_expiration_seconds = 3_600)).is_ok());
        let halves = || {
            with_pod(|pod| {
                let (mut kind, mut life) = (pod.projections[0].clone(), pod.projections[0].clone());
                kind.key_type = Some(KeyType::Ed25519);
                life.max_expiration_seconds = 3_600;
                pod.projections = [kind, life].into();
            })
        };
        assert!(matches!(denied(halves), Denial::NotProjected(NotProjected::Expiration { .. })));
    }

    #[test]
    fn a_shorter_life_than_the_pod_allows_is_fine() {
        assert!(Verified::check(with_source(|source| source.max_expiration_seconds = 86_400)).is_ok());
    }

    #[test]
    fn a_finished_pod_is_denied_quietly() {
        let denial = denied(|| with_pod(|pod| pod.phase = Phase::Finished));
        assert_eq!(denial, Denial::Finished);
        assert!(denial.is_quiet());
    }

    #[test]
    fn a_pod_of_the_same_name_is_held_whatever_it_is_like() {
        let other = || {
            with_pod(|pod| {
                pod.uid = Some(PodUid::parse("another").unwrap());
                pod.node = Some(NodeName::parse("node-b").unwrap());
                pod.is_mirror = true;
                pod.phase = Phase::Finished;
                pod.projections = Box::default();
            })
        };
        assert!(matches!(held(other, POD), Hold::OtherPod { .. }));
        assert!(matches!(held(|| with_pod(|pod| pod.uid = None), POD), Hold::OtherPod { .. }));
    }

    #[test]
    fn what_is_absent_or_made_anew_is_held() {
        let pod = || Observed { pod: Fact::Absent(CACHED), ..honest() };
        assert_eq!(held(pod, POD), Hold::PodNotFound);
        assert_eq!(held(|| with_pod(|pod| pod.node = None), POD), Hold::PodNotBound);
        let account = || Observed { service_account: Fact::Absent(CACHED), ..honest() };
        assert!(matches!(held(account, ACCOUNT), Hold::ServiceAccountNotFound(_)));
        let account = |uid: Option<&str>| {
            let uid = uid.map(|uid| ServiceAccountUid::parse(uid).unwrap());
            Observed { service_account: Fact::Found(ServiceAccountFacts { uid }, CACHED), ..honest() }
        };
        assert!(matches!(held(|| account(Some("another")), ACCOUNT), Hold::OtherServiceAccount(_)));
        assert!(matches!(held(|| account(None), ACCOUNT), Hold::OtherServiceAccount(_)));
        let node = || Observed { node: Fact::Absent(CACHED), ..honest() };
        assert!(matches!(held(node, NODE), Hold::NodeNotFound(_)));
        let node = |uid: Option<&str>| {
            let uid = uid.map(|uid| NodeUid::parse(uid).unwrap());
            Observed { node: Fact::Found(NodeFacts { uid, labels: Arc::default() }, CACHED), ..honest() }
        };
        assert!(matches!(held(|| node(Some("another")), NODE), Hold::OtherNode(_)));
        assert!(matches!(held(|| node(None), NODE), Hold::OtherNode(_)));
    }

    #[test]
    fn an_unknown_annotation_is_denied_before_the_pod_starts_and_held_after() {
        let seen = |phase: Phase| {
            let mut claim = claim();
            claim.annotations = [("podmint.dev/dns".into(), "x".into())].into();
            let mut seen = honest_of(claim);
            if let Fact::Found(pod, _) = &mut seen.pod {
                pod.phase = phase;
                pod.projections[0].annotations = [("podmint.dev/dns".into(), "x".into())].into();
            }
            seen
        };
        let denial = denied(|| seen(Phase::Waiting));
        assert!(matches!(&denial, Denial::UnknownAnnotation { key, .. } if key == "podmint.dev/dns"));
        assert_eq!(denial.reason(), "InvalidUnverifiedUserAnnotations");
        assert!(matches!(held(|| seen(Phase::Started), POD), Hold::UnknownAnnotation { .. }));
        assert_eq!(denied(|| seen(Phase::Finished)), Denial::Finished);
    }

    #[test]
    fn everything_doubtful_is_read_again_at_once() {
        let seen = Observed {
            pod: Fact::Absent(CACHED),
            service_account: Fact::Absent(CACHED),
            node: Fact::Absent(QUORUM),
            ..honest()
        };
        let Err(Unverified::LookAgain(again)) = Verified::check(seen) else { panic!() };
        assert_eq!(again, LookAgain { pod: true, service_account: true, node: false });
    }

    #[test]
    fn a_confirmed_contradiction_needs_no_further_reads() {
        let mut seen = with_pod(|pod| pod.is_mirror = true);
        refresh(&mut seen.pod, QUORUM);
        seen.node = Fact::Absent(CACHED);
        assert!(matches!(Verified::check(seen), Err(Unverified::Deny(Denial::MirrorPod))));
    }

    #[test]
    fn a_lagging_cache_that_is_put_right_accepts() {
        let mut seen = honest();
        refresh(&mut seen.pod, QUORUM);
        assert!(Verified::check(seen).is_ok());
    }
}
