//! The echo pair holds its conversation while credentials and roots change, and refuses who is not expected.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a failure is the test's failure")]

use podmint::testkit::{Authority, Issued, Volume};
use podmint::{Authorizer, PodIdentity, Source};
use podmint_examples::echo::{self, Conversation};
use podmint_examples::echo_counts::Counts;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const DOMAIN: &str = "prod.example.org";
const SERVER: &str = "/ns/pay/sa/echo-server";
const CLIENT: &str = "/ns/shop/sa/echo-client";

fn id(path: &str) -> podmint::SpiffeId {
    format!("spiffe://{DOMAIN}{path}").parse().unwrap()
}

fn write(folder: &Path, authority: &Authority, path: &str) {
    put(folder, authority, &authority.issue(path));
}

fn put(folder: &Path, authority: &Authority, issued: &Issued) {
    Volume::new(folder).write(&[("bundle.pem", issued.bundle()), ("trust.pem", authority.trust())]);
}

async fn identity(folder: &Path) -> PodIdentity {
    Source::bundle(folder.join("bundle.pem"))
        .trust(DOMAIN.parse().unwrap(), folder.join("trust.pem"))
        .start()
        .await
        .unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Pair {
    _folders: [tempfile::TempDir; 2],
    folders: [std::path::PathBuf; 2],
    server: Arc<Counts>,
    client: Arc<Counts>,
    /// The server's and the client's.
    stops: [CancellationToken; 2],
    tasks: [tokio::task::JoinHandle<anyhow::Result<()>>; 2],
}

impl Pair {
    /// First the client, so that both have counted the same.
    async fn stop(&mut self) {
        for (stop, task) in self.stops.iter().zip(&mut self.tasks).rev() {
            stop.cancel();
            task.await.unwrap().unwrap();
        }
    }
}

async fn pair(authority: &Authority, server_allows: Authorizer, client_allows: Authorizer) -> Pair {
    pair_with(authority, |path| authority.issue(path), server_allows, client_allows).await
}

async fn pair_with(
    authority: &Authority,
    issue: impl Fn(&str) -> Issued,
    server_allows: Authorizer,
    client_allows: Authorizer,
) -> Pair {
    let temporary = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let folders = [temporary[0].path().to_owned(), temporary[1].path().to_owned()];
    put(&folders[0], authority, &issue(SERVER));
    put(&folders[1], authority, &issue(CLIENT));
    let (one, two) = (identity(&folders[0]).await, identity(&folders[1]).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (server, client) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
    let stops = [CancellationToken::new(), CancellationToken::new()];
    let serving = tokio::spawn({
        let (counts, stop) = (Arc::clone(&server), stops[0].clone());
        async move { echo::serve(listener, &one, server_allows, counts, stop).await }
    });
    let talking = tokio::spawn({
        let (counts, stop) = (Arc::clone(&client), stops[1].clone());
        let conversation = Conversation { pace: Duration::from_millis(2), ..Conversation::with(address) };
        async move { echo::converse(conversation, &two, client_allows, counts, stop).await }
    });
    Pair { _folders: temporary, folders, server, client, stops, tasks: [serving, talking] }
}

#[tokio::test]
async fn the_conversation_goes_on_through_renewals() {
    let authority = Authority::new(DOMAIN);
    let mut pair = pair(&authority, Authorizer::id(id(CLIENT)), Authorizer::id(id(SERVER))).await;
    for generation in 2..8 {
        write(&pair.folders[0], &authority, SERVER);
        write(&pair.folders[1], &authority, CLIENT);
        until("both use the new certificates", || {
            pair.client.totals().generation >= generation && pair.server.totals().generation >= generation
        })
        .await;
    }
    pair.stop().await;
    let (server, client) = (pair.server.totals(), pair.client.totals());
    assert_eq!((client.failed_handshakes, client.dropped), (0, 0), "{client:?}");
    assert_eq!((server.failed_handshakes, server.dropped), (0, 0), "{server:?}");
    assert_eq!(client.handshakes, server.handshakes);
    assert_eq!(client.messages, server.messages);
    assert!(client.messages > client.handshakes && u64::try_from(client.latencies.len()) == Ok(client.handshakes));
    assert_eq!(client.peers.iter().collect::<Vec<_>>(), [&id(SERVER).to_string()]);
    assert_eq!(server.peers.iter().collect::<Vec<_>>(), [&id(CLIENT).to_string()]);
    // The first certificates may be gone before the first handshake.
    assert!(client.own_serials.len() >= 6 && server.peer_serials.len() >= 6, "{client:?}");
}

/// Certificates that live for seconds: connections end with them, in good order, and new ones take their place.
#[tokio::test]
async fn a_lasting_conversation_outlives_short_certificates() {
    let authority = Authority::new(DOMAIN);
    let short = |path: &str| authority.issue_valid(path, -1, 12);
    let mut pair = pair_with(&authority, short, Authorizer::id(id(CLIENT)), Authorizer::id(id(SERVER))).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        for (folder, path) in pair.folders.iter().zip([SERVER, CLIENT]) {
            put(folder, &authority, &short(path));
        }
    }
    pair.stop().await;
    let (server, client) = (pair.server.totals(), pair.client.totals());
    assert_eq!((client.failed_handshakes, client.dropped), (0, 0), "{:?}", client.failures);
    assert_eq!((server.failed_handshakes, server.dropped), (0, 0), "{:?}", server.failures);
    // Every other line makes a connection; what is above that are those that last.
    assert!(
        client.handshakes.saturating_sub(client.messages.div_ceil(2)) >= 2,
        "no lasting connection ended: {client:?}"
    );
}

#[tokio::test]
async fn a_refused_client_is_counted_on_both_sides() {
    let authority = Authority::new(DOMAIN);
    let mut pair = pair(&authority, Authorizer::one_of([]), Authorizer::id(id(SERVER))).await;
    until("both have counted", || {
        pair.client.totals().failed_handshakes > 2 && pair.server.totals().failed_handshakes > 2
    })
    .await;
    pair.stop().await;
    assert_eq!(pair.client.totals().handshakes, 0);
    assert_eq!(pair.client.totals().failures[0], "peer_refused");
    assert_eq!(pair.server.totals().failures[0], "not_allowed");
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(binary: &str, folder: &Path, more: &[&str]) -> Self {
        let credentials = folder.to_str().unwrap();
        let trust = folder.join("trust.pem");
        Self(
            Command::new(binary)
                .args(["--credentials", credentials, "--trust", trust.to_str().unwrap(), "--trust-domain", DOMAIN])
                .args(more)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.0.stdout.take().unwrap()).lines().map(Result::unwrap)
    }

    /// What is left of its standard output, after it was asked to end.
    fn terminate(&mut self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap().success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(|_| ()).unwrap_or_default();
    }
}

fn expect(lines: &mut impl Iterator<Item = String>, words: &str) -> String {
    lines.find(|line| line.contains(words)).unwrap_or_else(|| panic!("no line with {words:?}"))
}

#[test]
fn the_binaries_run_alone_as_in_a_pod() {
    let authority = Authority::new(DOMAIN);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    write(folders[0].path(), &authority, SERVER);
    write(folders[1].path(), &authority, CLIENT);
    let allow = id(CLIENT).to_string();
    let mut server = Process::start(
        env!("CARGO_BIN_EXE_echo-server"),
        folders[0].path(),
        &["--listen", "127.0.0.1:0", "--allow", &allow],
    );
    let mut server_says = server.lines();
    expect(&mut server_says, &id(SERVER).to_string());
    let listening = expect(&mut server_says, "listening on ");
    let address = listening.split(' ').nth(2).unwrap().to_owned();
    let expected = id(SERVER).to_string();
    let mut client = Process::start(
        env!("CARGO_BIN_EXE_echo-client"),
        folders[1].path(),
        &["--connect", &address, "--server-id", &expected, "--pace-ms", "10"],
    );
    let mut client_says = client.lines();
    expect(&mut client_says, &format!("talking to {expected}"));
    write(folders[1].path(), &authority, CLIENT);
    expect(&mut client_says, "generation 2: a new certificate");
    write(folders[0].path(), &authority, SERVER);
    expect(&mut server_says, "generation 2: a new certificate");
    expect(&mut client_says, &format!("talking to {expected}"));
    assert!(client.terminate());
    assert!(expect(&mut client_says, "handshakes").contains(" 0 failed"));
    assert!(server.terminate());
    assert!(expect(&mut server_says, "handshakes").contains(" 0 failed"));
}

#[test]
fn a_missing_argument_and_a_bad_file_are_told_plainly() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(DOMAIN);
    Volume::new(folder.path())
        .write(&[("bundle.pem", authority.issue(SERVER).chain), ("trust.pem", authority.trust())]);
    let output = Command::new(env!("CARGO_BIN_EXE_echo-server")).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--credentials"));
    let source = ["--trust-domain", "Not A Domain", "--credentials", "x", "--trust", "y"];
    let output = Command::new(env!("CARGO_BIN_EXE_echo-server")).args(source).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("trust domain may only hold"));
    let mut server = Process::start(env!("CARGO_BIN_EXE_echo-server"), folder.path(), &["--start-timeout-ms", "100"]);
    let mut said = String::new();
    server.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("holds no PRIVATE KEY block"), "{said}");
    assert!(!server.0.wait().unwrap().success());
}
