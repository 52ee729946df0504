//! Owns the CA key. Pure: what the two Secrets and the trust bundle hold comes in, what to do next goes out; whoever talks to
//! the API server does it.
//!
//! The root lives 10 years in a Secret of its own, read only while an issuing CA is made or a rotation takes a step; the issuing
//! CA lives 30 days, and the next one is made at half of that. All replicas sign from the same Secret, each for a minute after it
//! was last read: [`Issuer`] asks that at every signature, and that the root was just read back from the trust bundle.
//!
//! A CA that is brought, in a Secret or in files, goes the same way: [`Source`] says where roots and issuing CAs come from, and what is
//! brought is copied into our own Secrets before anything rests on it.
//!
//! A rotation of the root goes *Prepare → Distribute → Sign → Drain → Retire*; see [`rotation`]. It begins at four fifths of the
//! root's life, or when it is asked for. Where it is stands in a [`Plan`] in the signing Secret, and each step is one compare and
//! swap of that, decided by [`next_step`]. A model check runs that very function, with crashes, stale reads, lost races, restored
//! and deleted Secrets, edited bundles and jumping clocks between any two of its steps.

pub(crate) mod brought;
pub(crate) mod certificate;
#[cfg(test)]
pub(crate) mod foreign;
#[cfg(test)]
mod fuzz;
pub mod issuer;
mod issuing;
mod key;
pub mod load;
pub mod make;
#[cfg(test)]
mod model;
pub mod plan;
mod remember;
pub mod rotation;
pub mod source;
pub mod state;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod trouble;
pub mod view;
pub mod wish;

pub(crate) use self::trace::Tracer;
pub use self::{
    brought::{Brought, BroughtError, Wanted},
    issuer::{Confirmed, Issuer, NotPublished, NotYet, Published, fingerprints},
    load::{Generation, LoadError, Root, Roots, SecretData},
    make::{MakeError, Makings},
    plan::{Plan, Rotation},
    rotation::{Timing, awaited},
    source::{SelfManaged, Source},
    state::{Before, Bundle, Clock, Put, Seen, Sight, Step, Write, may_go_on, next_step},
    trace::{Origin, trace},
    trouble::Trouble,
    view::View,
    wish::Wish,
};
