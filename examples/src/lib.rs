//! Programs that show Podmint at work.
//!
//! [`echo`] is the pair to read first: a service and its client that speak mTLS with pod certificates, over the crate [`podmint`]. The programs `echo-server` and `echo-client`
//! run them alone, as in a pod.
//!
//! One page each, in `examples/examples`: `axum-server`, `hyper-client`, `reqwest-client`, `tonic-server`, `tonic-client`, `blocking-client`. On a laptop, `podmint-dev`
//! (`cargo run -p podmint --features test-kit --bin podmint-dev`) gives them credentials.

pub mod demo;
pub mod echo;
pub mod echo_args;
pub mod echo_counts;
