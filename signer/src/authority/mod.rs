//! Owns the CA key. Pure: what the two Secrets and the trust bundle hold comes in, what to do next goes out; whoever talks to
//! the API server does it.
//!
//! The root lives 10 years in a Secret of its own, read only while an issuing CA is made; the issuing CA lives 30 days, and the
//! next one is made at half of that. All replicas sign from the same Secret.

pub(crate) mod certificate;
pub mod issuer;
mod key;
pub mod load;
pub mod make;
pub mod state;
#[cfg(test)]
mod tests;
pub mod trace;

pub use self::{
    issuer::{Issuer, NotPublished, Published, fingerprints},
    load::{Generation, LoadError, Root, SecretData},
    make::{MakeError, Makings},
    state::{Before, Seen, Sight, Step, Trouble, Write, next_step},
    trace::{Origin, trace},
};
