//! A claim, and what the API server says about the things it names. Nothing is compared yet.

use std::sync::Arc;

use super::{
    claim::Claim,
    facts::{Fact, NodeFacts, PodFacts, ServiceAccountFacts},
};

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
}
