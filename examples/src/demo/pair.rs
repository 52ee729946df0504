//! The two services, in this process: the same code as in `echo-server` and `echo-client`, over the files of their pods.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use podmint::{Authorizer, PodIdentity, Source, TrustDomain};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::checker::{PairFacts, SideFacts, percentile};
use super::scene::{CLIENT, CREDENTIALS, Player, SERVER, TRUST, TRUST_DOMAIN};
use super::view::PairView;
use crate::echo::{self, Conversation};
use crate::echo_counts::{self, Totals};

/// What both count. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    client: Arc<echo_counts::Counts>,
    server: Arc<echo_counts::Counts>,
}

impl Counts {
    /// Handshakes that the client completed.
    #[must_use]
    pub fn handshakes(&self) -> u64 {
        self.client.totals().handshakes
    }

    /// For the checker.
    #[must_use]
    pub fn facts(&self) -> PairFacts {
        PairFacts { client: side(self.client.totals()), server: side(self.server.totals()) }
    }

    /// For the view.
    #[must_use]
    pub fn view(&self) -> PairView {
        let (client, server) = (self.client.totals(), self.server.totals());
        let latest = client.latencies.len().saturating_sub(LATEST);
        let latest = client.latencies.get(latest..).unwrap_or_default();
        PairView {
            handshakes: client.handshakes,
            failed: client.failed_handshakes.max(server.failed_handshakes),
            p50: percentile(latest, 50),
            p99: percentile(latest, 99),
            client_sees: sees(&client),
            server_sees: sees(&server),
            failure: client.failures.last().or(server.failures.last()).map(|why| format!("a handshake failed: {why}")),
        }
    }
}

/// Running services.
#[derive(Debug)]
pub struct Pair {
    client: Running,
    server: Running,
}

#[derive(Debug)]
struct Running {
    task: JoinHandle<Result<()>>,
    stop: CancellationToken,
}

impl Pair {
    /// Starts both over the volumes of their pods. Each admits exactly the other.
    pub async fn start(server_files: &Path, client_files: &Path, counts: &Counts) -> Result<Self> {
        let (server_identity, client_identity) = (identity(server_files).await?, identity(client_files).await?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port for the echo server")?;
        let address = listener.local_addr().context("no address for the echo server")?.to_string();
        let (server_counts, client_counts) = (Arc::clone(&counts.server), Arc::clone(&counts.client));
        let server = Running::start(|stop| async move {
            echo::serve(listener, &server_identity, only(CLIENT)?, server_counts, stop)
                .await
                .context("the echo server failed")
        });
        let client = Running::start(|stop| async move {
            let conversation = Conversation::with(address);
            echo::converse(conversation, &client_identity, only(SERVER)?, client_counts, stop)
                .await
                .context("the echo client failed")
        });
        Ok(Self { client, server })
    }

    /// The client first, so that nothing is cut off.
    pub async fn stop(self) -> Result<()> {
        let client = self.client.stop().await;
        let server = self.server.stop().await;
        client.and(server)
    }
}

impl Running {
    fn start<F>(service: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(service(stop.clone())), stop }
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.task.await.context("a service panicked")?
    }
}

async fn identity(files: &Path) -> Result<PodIdentity> {
    let domain: TrustDomain = TRUST_DOMAIN.parse().context("the demo's trust domain is malformed")?;
    let source = Source::bundle(files.join(CREDENTIALS)).trust(domain, files.join(TRUST));
    source
        .builder()
        .start_timeout(PATIENCE)
        .start()
        .await
        .with_context(|| format!("no identity in {}", files.display()))
}

fn only(player: Player) -> Result<Authorizer> {
    let domain: TrustDomain = TRUST_DOMAIN.parse().context("the demo's trust domain is malformed")?;
    Authorizer::k8s(&domain, player.namespace, player.name).context("a name of the demo is malformed")
}

/// Whom a side sees, and how many certificates of it so far.
fn sees(totals: &Totals) -> Option<(String, usize)> {
    Some((totals.peers.first()?.clone(), totals.peer_serials.len()))
}

fn side(totals: Totals) -> SideFacts {
    SideFacts {
        handshakes: totals.handshakes,
        failed: totals.failed_handshakes,
        broken: totals.dropped,
        latencies: totals.latencies,
        peers: totals.peer_serials,
        own: totals.own_serials,
    }
}

/// The view shows what happens now.
const LATEST: usize = 1000;
/// The files are there already.
const PATIENCE: Duration = Duration::from_secs(10);
