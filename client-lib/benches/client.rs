//! What the library costs, as ratios within one run: `cargo bench -p podmint --bench client`. It asserts nothing.
//!
//! A handshake is both sides on one thread, in memory, in CPU time of that thread. Arms take turns, so that a noisy machine disturbs all of them; the first two are the same, which
//! shows the noise. The rows of go-spiffe and rust-spiffe are programs of their own (`rust-spiffe/` beside this file), each with its CPU time for both sides in one process; the
//! one needs Go, the other is built here.

#![expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark: a failure is its end"
)]

#[path = "../tests/kit/go.rs"]
mod go;

use podmint::testkit::{Authority, Issued, Volume};
use podmint::{Authorizer, PodIdentity, Source, Stream};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::DuplexStream;

const DOMAIN: &str = "prod.example.org";
const ROUNDS: usize = 400;
const BATCH: usize = 10;
const ROTATIONS: usize = 300;
const CONNECTIONS: usize = 10_000;
const GENERATIONS: usize = 2000;
const IDLE: Duration = Duration::from_secs(60);

type Pair = (Stream<DuplexStream>, Stream<DuplexStream>);
type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (name, provider) in [
        ("aws-lc-rs", rustls::crypto::aws_lc_rs::default_provider()),
        ("ring", rustls::crypto::ring::default_provider()),
    ] {
        let setting = Setting::new();
        let identity = runtime.block_on(setting.identity(provider.clone()));
        handshakes(name, &setting, &identity, Arc::new(provider));
    }
    let setting = Setting::new();
    let identity = runtime.block_on(setting.identity(rustls::crypto::aws_lc_rs::default_provider()));
    peers(&setting);
    runtime.block_on(rotations(&setting, &identity, 0));
    generations(&setting, &identity);
    let open = runtime.block_on(memory(&identity));
    runtime.block_on(rotations(&setting, &identity, open.len()));
    drop((open, identity));
    runtime.block_on(shrink(&setting));
    drop(runtime);
    idle(&setting);
}

struct Setting {
    _folder: tempfile::TempDir,
    files: tempfile::TempDir,
    volume: Volume,
    root: Authority,
    issuer: Authority,
    issued: Issued,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let volume = Volume::new(folder.path());
        let root = Authority::new(DOMAIN);
        let issuer = root.intermediate(|_| {});
        // The plain arm's client needs a DNS name; both arms use the same certificate.
        let issued = issuer.issue_with("/ns/shop/sa/till", |params| {
            params.subject_alt_names.push(rcgen::SanType::DnsName("till.test".try_into().unwrap()));
        });
        let files = tempfile::tempdir().unwrap();
        let setting = Self { _folder: folder, files, volume, root, issuer, issued };
        setting.write(&setting.issued);
        setting
    }

    fn write(&self, issued: &Issued) {
        self.volume.write(&[("bundle.pem", issued.bundle()), ("trust.pem", self.root.trust())]);
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.trust().as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }

    fn source(&self) -> Source {
        let path = |name: &str| self.volume.path().join(name);
        Source::bundle(path("bundle.pem")).trust(DOMAIN.parse().unwrap(), path("trust.pem"))
    }

    async fn identity(&self, provider: CryptoProvider) -> PodIdentity {
        self.source().builder().provider(Arc::new(provider)).start().await.unwrap()
    }
}

/// rustls as it comes, with resumption off as ours is.
fn plain(setting: &Setting, provider: Arc<CryptoProvider>) -> Configs {
    let roots = setting.roots();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build().unwrap();
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain_of(&setting.issued), key_of(&setting.issued))
        .unwrap();
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    (Arc::new(server), plain_client(&setting.issued, roots, provider))
}

fn plain_client(issued: &Issued, roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Arc<ClientConfig> {
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain_of(issued), key_of(issued))
        .unwrap();
    client.resumption = rustls::client::Resumption::disabled();
    Arc::new(client)
}

fn chain_of(issued: &Issued) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(issued.chain.as_bytes()).map(Result::unwrap).collect()
}

fn key_of(issued: &Issued) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap()
}

fn ours(identity: &PodIdentity) -> Configs {
    let anyone = || Authorizer::any_in(DOMAIN.parse().unwrap());
    (Arc::new(identity.server(anyone()).config().unwrap()), Arc::new(identity.client(anyone()).config().unwrap()))
}

fn shake((server, client): &Configs) {
    let name = ServerName::try_from("till.test").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        feed(&mut server, &wire);
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        feed(&mut client, &wire);
    }
}

fn feed<T>(connection: &mut rustls::ConnectionCommon<T>, mut wire: &[u8]) {
    while !wire.is_empty() {
        connection.read_tls(&mut wire).unwrap();
        connection.process_new_packets().unwrap();
    }
}

fn handshakes(name: &str, setting: &Setting, identity: &PodIdentity, provider: Arc<CryptoProvider>) {
    let plain = plain(setting, provider);
    let arms = [("plain", plain.clone()), ("plain again", plain), ("podmint", ours(identity))];
    let mut took = vec![Vec::new(); arms.len()];
    for round in 0..ROUNDS {
        for turn in 0..arms.len() {
            let arm = (round + turn) % arms.len();
            let before = cpu();
            for _ in 0..BATCH {
                shake(&arms[arm].1);
            }
            took[arm].push(cpu() - before);
        }
    }
    let medians: Vec<_> = took.into_iter().map(|times| percentile(times, 50)).collect();
    for (arm, median) in arms.iter().zip(&medians) {
        let ratio = median.as_secs_f64() / medians[0].as_secs_f64();
        println!("handshake {name:9} {:11} {:7.1} us  x {ratio:.3}", arm.0, median.as_secs_f64() * 1e6 / BATCH as f64);
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap(), u32::try_from(now.tv_nsec).unwrap())
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort();
    times[(times.len() - 1) * percent / 100]
}

/// From the kubelet's swap to the snapshot, and to the end of the first handshake with it.
async fn rotations(setting: &Setting, identity: &PodIdentity, open: usize) {
    let (mut published, mut shaken) = (Vec::new(), Vec::new());
    let configs = ours(identity);
    let mut rotations = identity.rotations();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..ROTATIONS {
        let issued = setting.issuer.issue_with("/ns/shop/sa/till", |params| {
            params.subject_alt_names.push(rcgen::SanType::DnsName("till.test".try_into().unwrap()));
        });
        let files = [("bundle.pem", issued.bundle()), ("trust.pem", setting.root.trust())];
        let mut writing = setting.volume.begin(&files);
        while writing.step() != Some(podmint::testkit::Step::Swap) {}
        let swapped = Instant::now();
        rotations.next().await.unwrap();
        published.push(swapped.elapsed());
        shake(&configs);
        shaken.push(swapped.elapsed());
        writing.finish();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (what, times) in [("published", published), ("first new handshake", shaken)] {
        let [p50, p99] = [50, 99].map(|percent| percentile(times.clone(), percent).as_secs_f64() * 1e3);
        println!(
            "swap -> {what:19} p50 {p50:.2} ms  p99 {p99:.2} ms  ({open} open connections, {ROTATIONS} rotations)"
        );
    }
}

/// The same handshake in Go, and by rust-spiffe.
fn peers(setting: &Setting) {
    for (file, text) in
        [("key.pem", &setting.issued.key), ("chain.pem", &setting.issued.chain), ("trust.pem", &setting.root.trust())]
    {
        std::fs::write(setting.files.path().join(file), text).unwrap();
    }
    let peer = go::program("peer");
    for (kind, name) in [("std", "crypto/tls"), ("spiffe", "go-spiffe")] {
        let mut command = Command::new(&peer);
        peer_row("Go", name, setting, command.args(["bench", kind]));
    }
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--release", "--quiet", "--locked", "--manifest-path"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/rust-spiffe/Cargo.toml"));
    command.args(["--target-dir", concat!(env!("CARGO_TARGET_TMPDIR"), "/rust-spiffe"), "--"]);
    peer_row("aws-lc-rs", "rust-spiffe", setting, &mut command);
}

fn peer_row(kind: &str, name: &str, setting: &Setting, command: &mut Command) {
    let (id, rounds) = (format!("spiffe://{DOMAIN}/ns/shop/sa/till"), (ROUNDS * BATCH).to_string());
    let output = command.arg(setting.files.path()).args([&id, &rounds]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("handshake {kind:9} {name:11} {:>7} us", String::from_utf8(output.stdout).unwrap().trim());
}

/// Resident memory of generations that are held.
fn generations(setting: &Setting, identity: &PodIdentity) {
    let mut held = Vec::with_capacity(GENERATIONS);
    let mut before = 0;
    for number in 0..GENERATIONS + 100 {
        if number == 100 {
            before = resident(); // what the first ones need once is not counted
        }
        setting.write(&setting.issuer.issue("/ns/shop/sa/till"));
        identity.reload_blocking();
        held.push(identity.snapshot());
    }
    println!("resident memory of a generation: {} bytes", (resident() - before) / GENERATIONS);
}

/// Resident memory of open connections, both ends in this process.
async fn memory(identity: &PodIdentity) -> Vec<Pair> {
    let anyone = || Authorizer::any_in(DOMAIN.parse().unwrap());
    let acceptor = identity.server(anyone()).acceptor().unwrap();
    let connector = identity.client(anyone()).connector().unwrap();
    let mut open = Vec::with_capacity(CONNECTIONS);
    let mut before = 0;
    for number in 0..CONNECTIONS + 100 {
        if number == 100 {
            before = resident(); // what the first ones need once is not counted
        }
        let (near, far) = tokio::io::duplex(64);
        let name = ServerName::try_from("till.test").unwrap();
        let (near, far) = tokio::join!(acceptor.accept(near), connector.connect(name, far));
        open.push((near.unwrap(), far.unwrap()));
    }
    let each = (resident() - before) / CONNECTIONS;
    println!("resident memory of a connection, both ends: {each} bytes (transport in memory included)");
    open
}

fn resident() -> usize {
    let text = std::fs::read_to_string(Path::new("/proc/self/statm")).unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// From the swap that withdraws a root to the last end of a connection that came in under it: half of all, every peer with a certificate of its own.
async fn shrink(setting: &Setting) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let other = Authority::new(DOMAIN);
    let trust = |roots: String| setting.volume.write(&[("bundle.pem", setting.issued.bundle()), ("trust.pem", roots)]);
    trust(format!("{}{}", setting.root.trust(), other.trust()));
    let identity = setting.identity(CryptoProvider::clone(&provider)).await;
    let acceptor = identity.server(Authorizer::any_in(DOMAIN.parse().unwrap())).acceptor().unwrap();
    let mut held = Vec::with_capacity(CONNECTIONS);
    let mut endings = tokio::task::JoinSet::new();
    for number in 0..CONNECTIONS {
        let goes = number % 2 == 0;
        let issued = if goes { &other } else { &setting.issuer }.issue("/ns/shop/sa/cart");
        let connector = tokio_rustls::TlsConnector::from(plain_client(&issued, setting.roots(), Arc::clone(&provider)));
        let (near, far) = tokio::io::duplex(64);
        let name = ServerName::try_from("till.test").unwrap();
        let (near, far) = tokio::join!(acceptor.accept(near), connector.connect(name, far));
        let near = near.unwrap();
        let ending = near.ending();
        endings.spawn(async move {
            ending.await;
            goes
        });
        held.push((near, far.unwrap()));
    }
    let swapped = Instant::now();
    trust(setting.root.trust());
    for _ in 0..CONNECTIONS / 2 {
        assert!(endings.join_next().await.unwrap().unwrap(), "a connection was closed whose root stays");
    }
    println!(
        "trust shrink -> the last of {} connections ended: {:.0} ms ({CONNECTIONS} open, each peer with its own chain)",
        CONNECTIONS / 2,
        swapped.elapsed().as_secs_f64() * 1e3
    );
}

/// How often the threads of an identity that nobody uses wake up.
fn idle(setting: &Setting) {
    let identity = setting.source().builder().start_blocking().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let before = switches();
    std::thread::sleep(IDLE);
    println!("idle wake-ups in {IDLE:?}: {}", switches() - before - 1); // one is ours
    drop(identity);
}

/// Voluntary context switches of all threads of this process: each wake-up ends in one.
fn switches() -> u64 {
    let count = |status: String| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse().unwrap()
    };
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).map_or(0, count)).sum()
}
