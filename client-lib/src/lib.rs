//! Pod certificate credentials that reload, for rustls mTLS.
//!
//! A Kubernetes pod gets a private key, a certificate and trust bundles as files, and the kubelet keeps replacing them. This crate reads those files, follows them, and
//! gives rustls configs, acceptors and connectors that use what is current in each handshake. Peers are known by their SPIFFE ID.
//!
//! # A server and a client
//!
//! ```
//! use podmint::{Authorizer, Source};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::{TcpListener, TcpStream};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let authority = podmint::testkit::Authority::new("prod.example.org");
//! # for pod in ["till", "cart"] {
//! #     let home = folder.path().join(pod);
//! #     std::fs::create_dir(&home)?;
//! #     podmint::testkit::Volume::new(home).write(&[
//! #         ("bundle.pem", authority.issue(&format!("/ns/shop/sa/{pod}")).bundle()),
//! #         ("trust.pem", authority.trust()),
//! #     ]);
//! # }
//! # let (till, cart) = (folder.path().join("till"), folder.path().join("cart"));
//! // In the server's pod.
//! let domain: podmint::TrustDomain = "prod.example.org".parse()?;
//! let identity = Source::bundle(till.join("bundle.pem")).trust(domain.clone(), till.join("trust.pem")).start().await?;
//! let acceptor = identity.server(Authorizer::k8s(&domain, "shop", "cart")?).acceptor()?;
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! let server = tokio::spawn(async move {
//!     let (connection, _) = listener.accept().await?; // a real server spawns a task here, for each connection
//!     let mut stream = acceptor.accept(connection).await.map_err(std::io::Error::other)?;
//!     let greeting = format!("hello {}", stream.peer());
//!     stream.write_all(greeting.as_bytes()).await?;
//!     stream.shutdown().await
//! });
//!
//! // In the client's pod.
//! let identity = Source::bundle(cart.join("bundle.pem")).trust(domain.clone(), cart.join("trust.pem")).start().await?;
//! let connector = identity.client(Authorizer::k8s(&domain, "shop", "till")?).connector()?;
//! let connection = TcpStream::connect(address).await?;
//! let mut stream = connector.connect("till.shop.svc".try_into()?, connection).await?;
//! let mut greeting = String::new();
//! stream.read_to_string(&mut greeting).await?;
//! assert_eq!(greeting, "hello spiffe://prod.example.org/ns/shop/sa/cart");
//! # server.await??;
//! # Ok(())
//! # }
//! ```
//!
//! Whatever else takes a rustls config gets one from [`ServerBuilder::config`] or [`ClientBuilder::config`]: built once, it follows the files, too.
//!
//! # What it promises
//!
//! - **One generation at a time.** [`Source`] names the files; they are read below one `..data`, and a private key is taken only with the
//!   certificate it belongs to. Handshakes read one immutable [`Snapshot`].
//! - **The last good thing stays.** Whatever is wrong with new files, handshakes go on with the old ones, and [`Health`] says what is wrong: before the old ones end.
//! - **No start without credentials.** [`Builder::start`] waits for a first good snapshot and otherwise says what is missing, and which feature of Kubernetes would explain it.
//! - **A peer is whom you named.** The chain is verified to the anchors of the peer's own trust domain, then every rule of X.509-SVID that a verifier can see,
//!   then your [`Authorizer`]. There is no permissive default. A [`Refusal`] names the reason, the peer's issuer key and our anchors.
//! - **Nothing skips the verifier.** TLS 1.3 with both sides named; no resumption, no tickets, no early data: rustls asks no verifier when a session is resumed.
//! - **A connection does not outlive its reason.** A [`Stream`] ends with its peer's certificate, when the anchor behind it is withdrawn, and when a replaced
//!   authorizer no longer lets the peer in. Trust that grows closes nothing.
//! - **Keys are not shown.** No error, log or `Debug` output holds file contents. Buffers are wiped; rustls and the crypto provider keep copies of their own.
//!
//! # How a change travels
//!
//! `files` reads one generation → `pem`, `x509` and `svid` check what is inside → `credential` and `trust` are the checked parts → `snapshot` decides
//! whether they replace the parts in use → [`PodIdentity`] publishes → `tls` reads it in the next handshake, and `connections` looks at the open ones again if trust shrank. `watch` starts this at each event and every ten seconds.
//!
//! # Features
//!
//! `aws-lc-rs` (default) and `ring` are crypto providers; pass one to [`Builder::provider`] or take the first that is on. `aws-lc-rs` offers the post-quantum key exchange
//! X25519MLKEM768 first and takes all six key types of Kubernetes; ring has neither that exchange nor P-521.
//!
//! | feature | what it adds |
//! |---|---|
//! | `hyper` | `podmint::hyper`: a server for any tower service, and a pooling client; both close connections in good order |
//! | `axum` | [`PeerIdentity`] as an extractor, and `hyper` |
//! | `tonic` | `podmint::tonic`: the caller of a request, a channel for generated clients, and `hyper` |
//! | `reqwest` | `podmint::reqwest`: clients that follow the credentials |
//! | `tower` | `podmint::tower`: a layer with rules for single routes |
//! | `metrics` | `podmint::metrics`: figures through the facade of that name |
//! | `test-kit` | `podmint::testkit`: an authority, a kubelet's way of writing, faults and a clock that jumps, for your own tests; and the program `podmint-dev` (`cargo run -p podmint --features test-kit --bin podmint-dev`) |
//!
//! `podmint-check`, always there, says of a folder what is right, what is wrong and how to mend it; so does [`check::check`].

mod authorize;
pub mod check;
mod client;
mod connections;
mod credential;
mod delivery;
mod der;
mod files;
#[cfg(test)]
mod fuzz;
mod handshake;
mod health;
mod identity;
mod listener;
mod load;
mod meter;
mod peer;
mod pem;
mod rotation;
mod server;
mod settings;
mod snapshot;
mod source;
mod spiffe;
mod stream;
mod svid;
mod tls;
mod trust;
mod verify;
mod watch;
mod x509;

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "hyper")]
pub mod hyper;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "test-kit")]
pub mod testkit;
#[cfg(feature = "tonic")]
pub mod tonic;
#[cfg(feature = "tower")]
pub mod tower;

pub use authorize::{Authorizer, AuthorizerHandle};
pub use client::{ClientBuilder, Connector};
pub use connections::Ending;
pub use credential::Credential;
pub use files::{Contents, Disk, FileSource, OpenFolder, Place, PlaceKind};
pub use handshake::HandshakeError;
pub use health::{Age, Health, Problem, Updates, WatchMode};
pub use identity::{Builder, PodIdentity, StartError, default_provider};
pub use listener::Listener;
pub use load::LoadError;
pub use peer::PeerIdentity;
pub use pem::BadPem;
pub use rotation::{Rotation, Rotations, TrustChange};
pub use server::{Acceptor, ServerBuilder};
pub use snapshot::{EmptyTrust, OwnChain, Snapshot};
pub use source::Source;
pub use spiffe::{BadSpiffeId, SpiffeId, TrustDomain};
pub use stream::Stream;
pub use svid::NotAnSvid;
pub use trust::{Anchor, Anchors};
pub use verify::{Reason, Refusal};
