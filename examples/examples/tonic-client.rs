//! A gRPC call over mTLS, on a channel whose connections follow the credentials.
//!
//! `SPIFFE_CREDENTIAL_FOLDER=DIR cargo run --release -p podmint-examples --example tonic-client -- https://127.0.0.1:8443`

use podmint::{Authorizer, Source};
use std::io::Write as _;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let origin = std::env::args().nth(1).ok_or("usage: tonic-client https://HOST:PORT")?;
    let identity = Source::discover().start().await?;
    let domain = identity.snapshot().id().trust_domain().clone();
    let channel = podmint::tonic::channel(identity.client(Authorizer::any_in(domain)))?;

    let mut client = HealthClient::with_origin(channel, origin.parse()?);
    let answer = client.check(HealthCheckRequest::default()).await?.into_inner();
    writeln!(std::io::stdout(), "{:?}", answer.status())?;
    Ok(())
}
