//! What the library costs, as ratios within one run: `cargo bench -p podmint --bench client`. It asserts nothing.
//!
//! A handshake is both sides on one thread, in memory, in CPU time of that thread. Arms take turns, so that a noisy machine disturbs all of them; the first two are the same, which
//! shows the noise.

#![expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark: a failure is its end"
)]

use podmint::testkit::{Authority, Issued, Volume};
use podmint::{Authorizer, PodIdentity, Source, Stream};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::DuplexStream;

const DOMAIN: &str = "prod.example.org";
const ROUNDS: usize = 400;
const BATCH: usize = 10;
const ROTATIONS: usize = 300;
const CONNECTIONS: usize = 2000;

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
    runtime.block_on(rotations(&setting, &identity, 0));
    let open = runtime.block_on(memory(&identity));
    runtime.block_on(rotations(&setting, &identity, open.len()));
}

struct Setting {
    _folder: tempfile::TempDir,
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
        let setting = Self { _folder: folder, volume, root, issuer, issued };
        setting.write(&setting.issued);
        setting
    }

    fn write(&self, issued: &Issued) {
        self.volume.write(&[("bundle.pem", issued.bundle()), ("trust.pem", self.root.trust())]);
    }

    async fn identity(&self, provider: CryptoProvider) -> PodIdentity {
        let path = |name: &str| self.volume.path().join(name);
        let source = Source::bundle(path("bundle.pem")).trust(DOMAIN.parse().unwrap(), path("trust.pem"));
        source.builder().provider(Arc::new(provider)).start().await.unwrap()
    }
}

/// rustls as it comes, with resumption off as ours is.
fn plain(setting: &Setting, provider: Arc<CryptoProvider>) -> Configs {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(setting.issued.chain.as_bytes()).map(Result::unwrap).collect();
    let key = || PrivateKeyDer::from_pem_slice(setting.issued.key.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(setting.root.trust().as_bytes()).unwrap()).unwrap();
    let roots = Arc::new(roots);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build().unwrap();
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key())
        .unwrap();
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key())
        .unwrap();
    client.resumption = rustls::client::Resumption::disabled();
    (Arc::new(server), Arc::new(client))
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
