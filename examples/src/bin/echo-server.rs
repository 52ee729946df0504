//! Echoes lines over mTLS to the SPIFFE IDs named, with credentials that reload.

use clap::Parser;
use podmint::SpiffeId;
use podmint_examples::echo_args::{IdentityArgs, allow, log, say, tell_peers, tell_rotations, until_told};
use podmint_examples::{echo, echo_counts::Counts};
use std::sync::Arc;

/// Echoes lines over mTLS, with pod certificates that reload.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    identity: IdentityArgs,
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    listen: String,
    /// A SPIFFE ID that may talk to us; may be given several times. Without one, nobody may.
    #[arg(long, value_name = "SPIFFE_ID")]
    allow: Vec<SpiffeId>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    use anyhow::Context as _;
    log();
    let args = Args::parse();
    let identity = args.identity.start().await?;
    tell_rotations(&identity);
    let listener = tokio::net::TcpListener::bind(&args.listen)
        .await
        .with_context(|| format!("could not listen on {}", args.listen))?;
    let rule = allow(&args.allow);
    say(&format!("listening on {} for {rule}", listener.local_addr()?))?;
    let counts = Arc::new(Counts::default());
    let teller = tokio::spawn(tell_peers(Arc::clone(&counts)));
    echo::serve(listener, &identity, rule, Arc::clone(&counts), until_told()?).await?;
    teller.abort();
    let totals = counts.totals();
    say(&format!("{} handshakes, {} failed, {} lines", totals.handshakes, totals.failed_handshakes, totals.messages))?;
    Ok(())
}
