//! GET over mTLS with hyper's pool, whose connections follow the credentials.
//!
//! `SPIFFE_CREDENTIAL_FOLDER=DIR cargo run --release -p podmint-examples --example hyper-client -- https://127.0.0.1:8443/`

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use podmint::{Authorizer, PeerIdentity, Source};
use std::io::Write as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let uri = std::env::args().nth(1).ok_or("usage: hyper-client https://HOST:PORT/PATH")?;
    let identity = Source::discover().start().await?;
    let domain = identity.snapshot().id().trust_domain().clone();
    let client = podmint::hyper::client(identity.client(Authorizer::any_in(domain)))?;

    let response = client.request(http::Request::get(uri).body(Empty::<Bytes>::new())?).await?;
    let server = response.extensions().get::<PeerIdentity>().cloned();
    let (status, body) = (response.status(), response.into_body().collect().await?.to_bytes());
    let server = server.map(|server| server.to_string()).unwrap_or_default();
    write!(std::io::stdout(), "{server} says {status}: {}", String::from_utf8_lossy(&body))?;
    Ok(())
}
