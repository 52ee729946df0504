//! mTLS without tokio: a line to `echo-server` and back.
//!
//! `SPIFFE_CREDENTIAL_FOLDER=DIR cargo run --release -p podmint-examples --example blocking-client -- 127.0.0.1:8443`

use podmint::{Authorizer, Source};
use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("usage: blocking-client HOST:PORT")?;
    let identity = Source::discover().builder().start_blocking()?;
    let domain = identity.snapshot().id().trust_domain().clone();
    let config = Arc::new(identity.client(Authorizer::any_in(domain)).config()?);

    let host = address.rsplit_once(':').ok_or("no port")?.0.to_owned();
    let tls = rustls::ClientConnection::new(config, host.try_into()?)?;
    let mut stream = rustls::StreamOwned::new(tls, std::net::TcpStream::connect(address)?);
    stream.write_all(b"hello\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    write!(std::io::stdout(), "{answer}")?;
    Ok(())
}
