//! Talks to the API server.

mod bearer;
pub(crate) mod bundle;
pub(crate) mod calls;
pub mod clock;
pub(crate) mod events;
#[cfg(test)]
pub(crate) mod fake;
mod following;
pub(crate) mod gait;
pub(crate) mod guard;
pub(crate) mod keeper;
pub(crate) mod lease;
mod lines;
pub(crate) mod lookup;
pub(crate) mod podsigners;
pub(crate) mod publish;
pub(crate) mod secrets;
pub(crate) mod services;
pub(crate) mod status;
pub mod versions;
pub(crate) mod watch;
pub mod wire;
