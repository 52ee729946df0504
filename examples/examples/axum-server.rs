//! An axum service over mTLS: who asks is an extractor, and single routes have rules of their own.
//!
//! `SPIFFE_CREDENTIAL_FOLDER=DIR cargo run --release -p podmint-examples --example axum-server -- 127.0.0.1:8443`

use axum::Router;
use axum::routing::get;
use podmint::tower::RequirePeer;
use podmint::{Authorizer, PeerIdentity, Source};
use std::io::Write as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let identity = Source::discover().start().await?;
    let domain = identity.snapshot().id().trust_domain().clone();
    let till_only = RequirePeer::new(Authorizer::k8s(&domain, "shop", "till")?);
    let app = Router::new()
        .route("/refund", get(|| async { "refunded\n" }))
        .route_layer(till_only)
        .route("/", get(|peer: PeerIdentity| async move { format!("hello {peer}\n") }));

    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8443".into());
    let tcp = tokio::net::TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "listening on {}", tcp.local_addr()?)?;
    let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    podmint::hyper::serve(identity.server(Authorizer::any_in(domain)), tcp, app, stop).await?;
    Ok(())
}
