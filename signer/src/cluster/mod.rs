//! Talks to the API server.

mod calls;
pub mod clock;
pub mod versions;
pub mod wire;
