//! Talks to `echo-server` over mTLS, with credentials that reload.

use anyhow::Context as _;
use clap::Parser;
use podmint::{Authorizer, SpiffeId};
use podmint_examples::echo::{self, Conversation};
use podmint_examples::echo_args::{IdentityArgs, log, say, tell_peers, tell_rotations, until_told};
use podmint_examples::echo_counts::Counts;
use std::sync::Arc;
use std::time::Duration;

/// Talks to echo-server over mTLS, with pod certificates that reload.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    identity: IdentityArgs,
    /// The server's host and port.
    #[arg(long, value_name = "ADDR")]
    connect: String,
    /// The server's SPIFFE ID. Whoever else answers is refused.
    #[arg(long, value_name = "SPIFFE_ID")]
    server_id: SpiffeId,
    /// Milliseconds from one line to the next.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pace_ms: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log();
    let args = Args::parse();
    let identity = args.identity.start().await?;
    tell_rotations(&identity);
    let counts = Arc::new(Counts::default());
    let stop = until_told()?;
    let teller = tokio::spawn(tell_peers(Arc::clone(&counts)));
    let conversation = Conversation { pace: Duration::from_millis(args.pace_ms), ..Conversation::with(args.connect) };
    echo::converse(conversation, &identity, Authorizer::id(args.server_id), Arc::clone(&counts), stop)
        .await
        .context("could not talk")?;
    teller.abort();
    let totals = counts.totals();
    say(&format!("{} handshakes, {} failed, {} lines", totals.handshakes, totals.failed_handshakes, totals.messages))?;
    Ok(())
}
