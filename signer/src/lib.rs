//! The Podmint signer: answers Kubernetes PodCertificateRequests with short-lived X.509 certificates from a CA that it manages.
//!
//! # The walk of one request
//!
//! ```text
//! watch → Claim → Observed → Verified → Approved → Profile → Issued → Recorded → status
//!          wire    lookup     binding    policy     names     CA key   audit      publish
//! ```
//!
//! Each state is a type of its own that only the step before it can make. From [`Claim`](pipeline::Claim) to
//! [`Issued`](pipeline::Issued) the walk is pure: [`pipeline`] decides and touches nothing. It ends in one of four answers
//! ([`Answer`](pipeline::Answer)): *Issue*; *Deny*, which is final and only for what can never become right; *Hold*, for
//! whatever hangs on us; *Fault*, our own trouble, tried again. What is held is never denied, and `Failed` is never written.
//!
//! # The parts around it
//!
//! - [`run`](mod@run) joins the parts and stops them in order; [`args`] is the command line, [`config`] checks `PodSigner`s, which are
//!   documents of a file or objects of the cluster; [`resource`] is their CRD. `crew` keeps at work what each of them needs while they
//!   come, change and go.
//! - [`cluster`] talks to the API server: finds its versions, lists and watches requests and `PodSigner`s, looks up what requests
//!   name, publishes answers and status, keeps the CA's Secrets and the trust bundle, and sees that the admission guard is there. Time is
//!   the API server's.
//! - `controller` keeps the unanswered requests: fair between namespaces, as many at a time as the API server takes, each looked
//!   at again when what holds it changes.
//! - [`authority`] owns the CA key. It signs only with proof that the root was just read back from the API server, and for a minute
//!   after it was last read which CA signs. It rotates its root by itself.
//! - [`audit`] writes one line before an answer is published and one with what became of it. What is not recorded cannot be
//!   published.
//! - [`metrics`] and `health` tell others; [`pace`] is how long waits are.
//! - [`kubectl`] is the other binary, the operator's command `kubectl podmint`.
//!
//! Any number of replicas may run. A Lease says who answers first. When he is silent for a second another one answers a single request, and
//! takes the Lease if the first is not heard even while that is on its way. Nothing rests on it, because an answer is final once the API
//! server has it, and because the CA's Secrets are only ever created or replaced as they were read.
//!
//! # Running it
//!
//! ```no_run
//! # async fn example(config: kube::Config, yaml: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use podmint_signer::{audit::Sink, config::{Config, Domains}, pace::Pace, run::{Guard, Options, client, run}};
//! use tokio_util::sync::CancellationToken;
//!
//! let options = Options {
//!     client: client(config)?,
//!     source: Config::parse(yaml, &Domains::parse("podmint.dev", "cluster.local")?)?.into(),
//!     namespace: "podmint-system".to_owned(),
//!     identity: "signer-0".to_owned(),
//!     audit: Sink::Stdout,
//!     listen: Some(std::net::TcpListener::bind("127.0.0.1:8080")?),
//!     guard: Guard::Required,
//!     pace: Pace::real(),
//! };
//! let stop = CancellationToken::new();
//! run(options, stop).await?;
//! # Ok(())
//! # }
//! ```

pub mod args;
pub mod audit;
pub mod authority;
mod chain;
pub mod cluster;
pub mod config;
mod controller;
mod crew;
mod health;
pub mod kubectl;
pub mod metrics;
pub mod names;
pub mod pace;
pub mod pipeline;
pub mod resource;
mod roster;
pub mod run;
#[cfg(test)]
mod simulation;
mod vitals;
