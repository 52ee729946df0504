//! A gRPC service over mTLS: the health service of tonic, for every workload of our trust domain.
//!
//! `SPIFFE_CREDENTIAL_FOLDER=DIR cargo run --release -p podmint-examples --example tonic-server -- 127.0.0.1:8443`

use podmint::{Authorizer, Source};
use std::io::Write as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let identity = Source::discover().start().await?;
    let domain = identity.snapshot().id().trust_domain().clone();
    // In a service of your own, `podmint::tonic::peer(&request)?` says who calls.
    let (_reporter, health) = tonic_health::server::health_reporter();

    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8443".into());
    let tcp = tokio::net::TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "listening on {}", tcp.local_addr()?)?;
    let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    podmint::hyper::serve(identity.server(Authorizer::any_in(domain)), tcp, health, stop).await?;
    Ok(())
}
