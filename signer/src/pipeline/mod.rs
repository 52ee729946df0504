//! The decision about one request, from [`Claim`] to [`Answer`]. Pure: no input or output, no clock, no `async`. Time, serial
//! numbers, policy and keys come in as arguments.

pub mod answer;
pub mod approved;
pub mod asked;
pub mod claim;
pub mod dns;
pub mod facts;
pub mod filled;
pub mod holds;
pub mod issued;
pub mod key;
mod leaf;
mod lint;
pub mod observed;
mod probe;
pub mod profile;
mod pss;
pub mod refusal;
pub mod rules;
pub mod services;
pub mod status;
pub mod verified;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
pub(crate) mod honest;

pub use self::{
    answer::{Answer, Decision, Means, decide},
    approved::Approved,
    asked::Asked,
    claim::{Claim, Unclaimed},
    dns::{Because, DnsWord},
    facts::{Fact, Freshness, Labels, NamespaceFacts, NodeFacts, Phase, PodFacts, Projection, ServiceAccountFacts},
    filled::Subject,
    holds::{HeldBy, Holds, Scope, ScopeError},
    issued::{Fault, Issued},
    key::{KeyType, PublicKey},
    observed::Observed,
    profile::{BACKDATE, Profile},
    refusal::{Denial, Hold, Malformed, NotProjected, ProofFailed},
    services::{Service, Services},
    verified::{LookAgain, Unverified, Verified},
};
pub(crate) use self::{
    facts::{Bare, Pod},
    probe::probe,
};
