//! The stories' stage: real and embedded clusters, and words to set a scene with.
//!
//! Read in this order: [`Bed`] is what a story runs on, [`Stage`] its own corner of it, [`server`] starts real API servers,
//! [`signer`] the signer under test, [`leaf`] checks what it issues by other means than its own, [`checker`] a whole run with faults. The stories are in `it/`,
//! the benchmark in `src/bin/bench`.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::print_stderr,
    reason = "a story that cannot go on says so by a panic, and tells its progress"
)]

pub mod assets;
mod bed;
pub mod call;
pub mod chance;
pub mod chaos;
pub mod checker;
pub mod install;
pub mod kept;
pub mod keys;
pub mod leaf;
pub mod ports;
pub mod proxy;
pub mod server;
pub mod signer;
pub mod stage;
pub mod tally;
pub mod until;

pub use bed::{Bed, bare, run};
pub use podmint_devcluster::Identity as Who;
pub use stage::Stage;
