//! Holds a claim against the facts. This is the heart of the product: see the table of the four answers on the
//! [front page](crate).
//!
//! Denied is only what contradicts a fact that cannot change for this pod (its node, its ServiceAccount's name, its volumes,
//! whether it is a mirror, that it has ended), and only when a quorum read says so. A fact from the API server's cache may only
//! help a claim; where it does not, we look again. All else may be lag and is held.

use std::{fmt, sync::Arc};

use super::{
    claim::Claim,
    facts::{Fact, Freshness, Phase, PodFacts, Projection},
    observed::Observed,
    refusal::{Denial, Hold, NotProjected},
};
use crate::names::nearest;

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
///     Ok(Verified(seen.claim))
/// }
/// ```
pub struct Verified(Arc<Claim>);

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
        let Observed { claim, pod, service_account, node } = seen;
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
        objections.answer().map_or(Ok(Self(claim)), Err)
    }

    /// What was verified.
    pub fn claim(&self) -> &Arc<Claim> {
        &self.0
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(claim) = self;
        out.debug_tuple("Verified").field(claim).finish()
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
    let Some((key, _)) = claim.annotations.iter().find(|(key, _)| !KNOWN_ANNOTATIONS.contains(&&**key)) else {
        return Ok(());
    };
    let (key, nearest) = (key.to_string(), nearest(key, KNOWN_ANNOTATIONS.iter().copied()));
    Err(match phase {
        Phase::Waiting => Objection::Deny(Denial::UnknownAnnotation { key, nearest }),
        Phase::Started | Phase::Finished => Objection::Hold(Hold::UnknownAnnotation { key, nearest }),
    })
}

/// None yet. An annotation may only ever choose among what the policy allows; it is never an identity.
const KNOWN_ANNOTATIONS: &[&str] = &[];
