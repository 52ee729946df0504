//! One service of the fleet: a server and a client of the library in one pod; and the tally that all of them share.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use podmint::{Acceptor, Authorizer, Connector, PodIdentity, Source, TrustDomain};
use podmint_signer::names::Sha256;
use podmint_tests::signer::TRUST_DOMAIN;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::paced;

/// What a pod's files give.
pub(super) struct Identity {
    pod: PodIdentity,
    volume: PathBuf,
}

impl Identity {
    /// Waits until the files are there.
    pub(super) async fn of(volume: PathBuf) -> Self {
        let source = Source::bundle(volume.join("bundle.pem")).trust(domain(), volume.join("trust.pem"));
        // Its ten seconds are as many times shorter as everybody's minutes.
        let started = source.builder().poll_interval(paced(Duration::from_secs(10))).start().await;
        let pod = started.unwrap_or_else(|why| panic!("no identity in {}: {why}", volume.display()));
        Self { pod, volume }
    }

    fn connector(&self) -> Connector {
        self.pod.client(Authorizer::any_in(domain())).connector().expect("a client can be made")
    }

    fn acceptor(&self) -> Acceptor {
        self.pod.server(Authorizer::any_in(domain())).acceptor().expect("a server can be made")
    }
}

fn domain() -> TrustDomain {
    TRUST_DOMAIN.parse().expect("a trust domain")
}

/// A running one. It greets one of the others after another, with a handshake for each greeting.
pub(super) struct Service {
    stop: CancellationToken,
    client: JoinHandle<()>,
    server: JoinHandle<()>,
}

impl Service {
    pub(super) async fn start(name: &str, identity: Identity, talk: Arc<Talk>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        talk.lock_peers().push(Peer { name: name.to_owned(), address });
        let (connector, acceptor) = (identity.connector(), identity.acceptor());
        let server = tokio::spawn(serve(name.to_owned(), listener, acceptor, Arc::clone(&talk)));
        let stop = CancellationToken::new();
        let (name, stopped) = (name.to_owned(), stop.clone());
        let client = tokio::spawn(async move {
            let mut turn = 0_usize;
            while !stopped.is_cancelled() {
                let peers = talk.lock_peers().clone();
                if let Some(peer) = peers.get(turn % peers.len()).filter(|peer| peer.name != name) {
                    talk.greet(&name, &connector, peer).await;
                }
                turn += 1;
                tokio::time::sleep(PAUSE).await;
            }
            drop(identity);
        });
        Self { stop, client, server }
    }

    /// Ends its client, and then its server: so no greeting is cut off.
    pub(super) async fn stop_all(services: Vec<Self>) {
        for service in &services {
            service.stop.cancel();
        }
        let (clients, servers): (Vec<_>, Vec<_>) =
            services.into_iter().map(|service| (service.client, service.server)).unzip();
        for client in clients {
            client.await.expect("a client does not panic");
        }
        servers.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(name: String, listener: TcpListener, acceptor: Acceptor, talk: Arc<Talk>) {
    while let Ok((connection, _)) = listener.accept().await {
        let (name, acceptor, talk) = (name.clone(), acceptor.clone(), Arc::clone(&talk));
        tokio::spawn(async move {
            match acceptor.accept(connection).await {
                // Whoever is gone already has said so himself.
                Ok(mut stream) => drop(stream.write_all(GREETING).await.and(stream.shutdown().await)),
                Err(why) => talk.failed(&name, &format!("as a server, {}: {why}", why.reason())),
            }
        });
    }
}

#[derive(Clone)]
struct Peer {
    name: String,
    address: SocketAddr,
}

/// Who can be talked to, and how it went.
#[derive(Default)]
pub(super) struct Talk {
    peers: Mutex<Vec<Peer>>,
    handshakes: AtomicU64,
    failed: AtomicU64,
    renewed: AtomicUsize,
    issuers: Mutex<BTreeSet<Sha256>>,
    /// What either side has said of a failure.
    words: Mutex<Vec<String>>,
    /// Where the CA is.
    phase: Mutex<String>,
}

impl Talk {
    /// The handshakes after which the server was heard.
    pub(super) fn count(&self) -> u64 {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// Those after which it was not.
    pub(super) fn failed_count(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// What was said of the first failures.
    pub(super) fn words(&self) -> Vec<String> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for so many handshakes, or a failure.
    pub(super) async fn until(&self, count: u64) {
        podmint_tests::until::until(format!("{count} handshakes"), async || {
            (self.count() >= count || self.failed_count() > 0).then_some(())
        })
        .await;
    }

    /// Waits for the first failure.
    pub(super) async fn fails(&self) {
        while self.failed_count() == 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(super) fn is_in(&self, phase: String) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    pub(super) fn has_renewed(&self, times: usize) {
        self.renewed.store(times, Ordering::Relaxed);
    }

    /// Whether somebody came with a certificate of this issuing CA.
    pub(super) fn has_met(&self, issuer: Sha256) -> bool {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner).contains(&issuer)
    }

    /// Greets every service once, and lets itself be looked at.
    pub(super) async fn meet(&self, name: &str, identity: &Identity) {
        let files = std::fs::read(identity.volume.join("bundle.pem")).expect("the files are there");
        // The key, the certificate, its issuer.
        let issuer = pem::parse_many(files).expect("PEM").into_iter().nth(2).expect("a chain");
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner).insert(Sha256::of(issuer.contents()));
        let connector = identity.connector();
        let peers = self.lock_peers().clone();
        for peer in &peers {
            self.greet(name, &connector, peer).await;
        }
    }

    /// How many issuing CAs were.
    pub(super) fn renewed(&self) -> usize {
        self.renewed.load(Ordering::Relaxed)
    }

    async fn greet(&self, name: &str, connector: &Connector, peer: &Peer) {
        match hear(connector, peer.address).await {
            Ok(()) => {
                self.handshakes.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.failed(name, &format!("with {}, {why}", peer.name));
            }
        }
    }

    fn failed(&self, name: &str, why: &str) {
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        // The first ones say it all.
        if words.len() < 40 {
            words.push(format!("{phase}: {name} {why}"));
        }
    }

    fn lock_peers(&self) -> MutexGuard<'_, Vec<Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handshake, and a word from the server: with TLS 1.3 a client learns only then that it was let in.
async fn hear(connector: &Connector, address: SocketAddr) -> Result<(), String> {
    let connection = TcpStream::connect(address).await.map_err(|why| format!("no connection: {why}"))?;
    let name = "peer.fleet.svc".try_into().expect("a name");
    let mut stream = connector.connect(name, connection).await.map_err(|why| format!("{}: {why}", why.reason()))?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).await.map_err(|why| format!("peer_refused: {why}"))?;
    Ok(())
}

const GREETING: &[u8] = b"hello";
/// Each service greets about seven times a second.
const PAUSE: Duration = Duration::from_millis(140);
