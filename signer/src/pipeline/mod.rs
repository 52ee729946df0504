//! The decision about one request, from [`Claim`] to [`Answer`]. Pure: no input or output, no clock, no `async`. Time, serial
//! numbers, policy and keys come in as arguments.

pub mod answer;
pub mod approved;
pub mod claim;
pub mod facts;
pub mod issued;
pub mod key;
mod leaf;
mod lint;
pub mod observed;
pub mod profile;
mod pss;
pub mod refusal;
pub mod rules;
pub mod status;
pub mod verified;

#[cfg(test)]
pub(crate) mod honest;

pub(crate) use self::facts::{Bare, Pod};
pub use self::{
    answer::{Answer, Decision, Means, decide},
    approved::Approved,
    claim::{Claim, Unclaimed},
    facts::{Fact, Freshness, NodeFacts, Phase, PodFacts, Projection, ServiceAccountFacts},
    issued::{Fault, Issued},
    key::{KeyType, PublicKey},
    observed::Observed,
    profile::{BACKDATE, Profile},
    refusal::{Denial, Hold, Malformed, NotProjected, ProofFailed},
    verified::{LookAgain, Unverified, Verified},
};
