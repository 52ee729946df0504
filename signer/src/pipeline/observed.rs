//! A claim, and what the API server says about the things it names. Nothing is compared yet.

use std::sync::Arc;

use super::{
    claim::Claim,
    facts::{Fact, NamespaceFacts, NodeFacts, PodFacts, ServiceAccountFacts},
    holds::Holds,
};
use crate::names::ServiceName;

/// A claim beside the facts.
#[derive(Debug)]
pub struct Observed {
    /// What is asked for.
    pub claim: Arc<Claim>,
    /// The pod of that name in that namespace.
    pub pod: Fact<PodFacts>,
    /// The ServiceAccount of that name in that namespace.
    pub service_account: Fact<ServiceAccountFacts>,
    /// The node of that name.
    pub node: Fact<NodeFacts>,
    /// The pod's namespace; none where nobody asked, or it is gone.
    pub namespace: Option<NamespaceFacts>,
    /// The Services that select the pod of that name, sorted; none where nobody asked, or the Services are not known.
    pub services: Option<Box<[ServiceName]>>,
    /// What is on hold; none where that is not known.
    pub holds: Option<Arc<Holds>>,
}
