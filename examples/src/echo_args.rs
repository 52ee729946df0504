//! What `echo-server` and `echo-client` have in common when they run alone: files, logs, the line for each rotation, the end.

use crate::echo_counts::Counts;
use anyhow::Context;
use podmint::{Authorizer, PodIdentity, Source, SpiffeId, TrustDomain};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Where the pod's identity is.
#[derive(Debug, clap::Args)]
pub struct IdentityArgs {
    /// The credential bundle, or the folder it is in as `bundle.pem`.
    #[arg(long, value_name = "DIR_OR_FILE")]
    pub credentials: PathBuf,
    /// The trust bundle of our trust domain.
    #[arg(long, value_name = "FILE")]
    pub trust: PathBuf,
    /// Our trust domain.
    #[arg(long, value_name = "DOMAIN")]
    pub trust_domain: TrustDomain,
    /// Milliseconds to wait for usable files.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    pub start_timeout_ms: u64,
}

impl IdentityArgs {
    /// Starts with a first good snapshot.
    ///
    /// # Errors
    /// There is none in time; the error says what is missing.
    pub async fn start(&self) -> anyhow::Result<PodIdentity> {
        let bundle =
            if self.credentials.is_dir() { self.credentials.join("bundle.pem") } else { self.credentials.clone() };
        let identity = Source::bundle(bundle)
            .trust(self.trust_domain.clone(), &self.trust)
            .builder()
            .start_timeout(Duration::from_millis(self.start_timeout_ms))
            .start()
            .await
            .context("could not start the identity")?;
        let snapshot = identity.snapshot();
        say(&format!("I am {}, certificate {}", snapshot.id(), snapshot.credential().serial()))?;
        Ok(identity)
    }
}

/// Those named; nobody if there are none.
pub fn allow(ids: &[SpiffeId]) -> Authorizer {
    Authorizer::one_of(ids.iter().cloned())
}

/// One line to standard output.
///
/// # Errors
/// Nobody reads it any more.
pub fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A line for each rotation, until the identity or the reader is gone.
pub fn tell_rotations(identity: &PodIdentity) {
    let mut rotations = identity.rotations();
    tokio::spawn(async move {
        while let Some(rotation) = rotations.next().await {
            let trust: usize = rotation.trust.len();
            let what = match (rotation.credential_changed, trust) {
                (true, 0) => "a new certificate",
                (true, _) => "a new certificate and other trust",
                (false, _) => "other trust",
            };
            let line = format!("generation {}: {what}, certificate {}", rotation.generation, rotation.serial);
            if say(&line).is_err() {
                return;
            }
        }
    });
}

/// A line for each certificate that the other side shows, until nobody reads it.
pub async fn tell_peers(counts: Arc<Counts>) {
    let mut told = BTreeSet::new();
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    loop {
        pace.tick().await;
        for (serial, who) in counts.peer_serials() {
            if told.insert(serial.clone()) && say(&format!("talking to {who}, certificate {serial}")).is_err() {
                return;
            }
        }
    }
}

/// Cancelled by SIGTERM or SIGINT, as a pod is ended.
///
/// # Errors
/// Signals cannot be waited for.
pub fn until_told() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let told = stop.clone();
    let mut terminate = signal(SignalKind::terminate()).context("could not wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not wait for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

/// Logs to standard error.
pub fn log() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
}
