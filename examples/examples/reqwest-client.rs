//! GET over mTLS with reqwest. Ask for a client each time: it is another one after a rotation.
//!
//! `SPIFFE_CREDENTIAL_FOLDER=DIR cargo run --release -p podmint-examples --example reqwest-client -- https://127.0.0.1:8443/`

use podmint::{Authorizer, Source};
use std::io::Write as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("usage: reqwest-client https://HOST:PORT/PATH")?;
    let identity = Source::discover().start().await?;
    let domain = identity.snapshot().id().trust_domain().clone();
    let clients = podmint::reqwest::clients(identity.client(Authorizer::any_in(domain)), |builder| builder)?;

    let response = clients.get()?.get(url).send().await?;
    write!(std::io::stdout(), "{}: {}", response.status(), response.text().await?)?;
    Ok(())
}
