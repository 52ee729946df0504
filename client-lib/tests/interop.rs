//! Handshakes with other people's TLS, both ways: Go's crypto/tls and go-spiffe, and in `tests/run --rest` OpenSSL and curl.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a failure is the test's failure")]

mod kit;

use kit::{DOMAIN, Pod, go, issue_for, kubelet_keys, name};
use podmint::testkit::{Authority, Issued};
use podmint::{Authorizer, HandshakeError, PodIdentity, Reason, Stream};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const TILL: &str = "/ns/shop/sa/till";
const CART: &str = "/ns/shop/sa/cart";
const LONG: Duration = Duration::from_secs(20);

fn id(path: &str) -> String {
    format!("spiffe://{DOMAIN}{path}")
}

fn only(path: &str) -> Authorizer {
    Authorizer::id(id(path).parse().unwrap())
}

/// The other side's files. OpenSSL wants the leaf and its issuers apart.
struct Files(tempfile::TempDir);

impl Files {
    fn new(issued: &Issued, trust: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (leaf, issuers) = issued.chain.split_once("-----END CERTIFICATE-----\n").unwrap();
        for (name, text) in [
            ("key.pem", &issued.key),
            ("chain.pem", &issued.chain),
            ("leaf.pem", &format!("{leaf}-----END CERTIFICATE-----\n")),
            ("issuers.pem", &issuers.to_owned()),
            ("trust.pem", &trust.to_owned()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }
}

/// One kind of key: our pod as the till, and the other side as the cart.
struct Pair {
    kind: &'static str,
    pod: Pod,
    theirs: Files,
}

impl Pair {
    fn new(authority: &Authority, kind: &'static str, key: &[u8]) -> Self {
        let pod = Pod::with(&issue_for(authority, key, TILL), &authority.trust());
        Self { kind, pod, theirs: Files::new(&issue_for(authority, key, CART), &authority.trust()) }
    }

    /// Below an intermediate, as the signer's are.
    fn of_every_kind() -> Vec<Self> {
        let authority = Authority::new(DOMAIN).intermediate(|_| {});
        kubelet_keys().iter().map(|(kind, key)| Self::new(&authority, kind, key)).collect()
    }

    fn one() -> Self {
        let authority = Authority::new(DOMAIN);
        let issue = |path| authority.issue_with(path, kit::named);
        let pod = Pod::with(&issue(TILL), &authority.trust());
        Self { kind: "ECDSA P-256", pod, theirs: Files::new(&issue(CART), &authority.trust()) }
    }

    fn of_three_kinds() -> Vec<Self> {
        let mut pairs = Self::of_every_kind();
        pairs.retain(|pair| ["ECDSA P-256", "Ed25519", "RSA"].contains(&pair.kind));
        pairs.truncate(3);
        pairs
    }
}

/// A program that is ended with its test.
struct Running {
    child: Child,
    lines: BufReader<tokio::process::ChildStdout>,
}

impl Running {
    fn new(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(LONG, self.lines.read_line(&mut line)).await.unwrap().unwrap();
        line.trim_end().to_owned()
    }
}

struct Go {
    program: PathBuf,
    kind: &'static str,
}

impl Go {
    const KINDS: [&str; 2] = ["std", "spiffe"];

    fn new(kind: &'static str) -> Self {
        Self { program: go::program("peer"), kind }
    }

    /// It serves, for the one whom it expects, and says where.
    async fn serve(&self, files: &Files, expects: &str, rest: &[&str]) -> (Running, SocketAddr) {
        let mut command = Command::new(&self.program);
        command.args(["serve", self.kind]).arg(files.folder()).arg(id(expects)).args(rest);
        let mut server = Running::new(&mut command);
        let address = server.line().await.parse().unwrap();
        (server, address)
    }

    fn dial(&self, files: &Files, expects: &str, address: SocketAddr, rest: &[&str]) -> Running {
        let mut command = Command::new(&self.program);
        command.args(["dial", self.kind]).arg(files.folder()).arg(id(expects)).arg(address.to_string()).args(rest);
        Running::new(&mut command)
    }
}

async fn connect(us: &PodIdentity, them: &str, address: SocketAddr) -> Result<Stream<TcpStream>, HandshakeError> {
    let connector = us.client(only(them)).connector().unwrap();
    connector.connect(name(), TcpStream::connect(address).await.unwrap()).await
}

/// A line each way.
async fn converse<IO>(stream: &mut Stream<IO>) -> io::Result<String>
where
    Stream<IO>: AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(b"hello from Rust\n").await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

/// A server of ours for one connection: who came, whether the key exchange was post-quantum, and what was said.
async fn serve_one(
    us: &PodIdentity,
    them: &str,
) -> (SocketAddr, tokio::task::JoinHandle<Result<(String, bool, String), HandshakeError>>) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let acceptor = us.server(only(them)).acceptor().unwrap();
    let serving = tokio::spawn(async move {
        let (connection, _) = tcp.accept().await.unwrap();
        let mut stream = acceptor.accept(connection).await?;
        let (peer, post_quantum) = (stream.peer().to_string(), stream.is_post_quantum());
        let said = converse(&mut stream).await.map_err(HandshakeError::Io)?;
        stream.shutdown().await.map_err(HandshakeError::Io)?;
        Ok((peer, post_quantum, said))
    });
    (address, serving)
}

#[tokio::test]
async fn go_and_we_know_each_other_with_every_key_type_and_a_post_quantum_exchange() {
    for pair in Pair::of_every_kind() {
        let us = pair.pod.start().await;
        for go in Go::KINDS.map(Go::new) {
            let what = format!("{} with {}", pair.kind, go.kind);
            let (mut server, address) = go.serve(&pair.theirs, TILL, &[]).await;
            let mut stream = connect(&us, CART, address).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(stream.peer().to_string(), id(CART), "{what}");
            assert!(stream.is_post_quantum(), "{what}");
            assert_eq!(converse(&mut stream).await.unwrap(), "hello from Go", "{what}");
            assert_eq!(server.line().await, format!("{} X25519MLKEM768 hello from Rust", id(TILL)), "{what}");

            let (address, serving) = serve_one(&us, CART).await;
            let mut client = go.dial(&pair.theirs, TILL, address, &[]);
            let (peer, post_quantum, said) = serving.await.unwrap().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(
                (peer.as_str(), post_quantum, said.as_str()),
                (id(CART).as_str(), true, "hello from Go"),
                "{what}"
            );
            assert_eq!(client.line().await, format!("{} X25519MLKEM768 hello from Rust", id(TILL)), "{what}");
        }
    }
}

#[tokio::test]
async fn go_without_a_post_quantum_exchange_is_talked_to_unless_one_is_required() {
    let pair = Pair::one();
    let go = Go::new("std");
    let classical = ["classical"];
    let (us, strict) = (pair.pod.start().await, pair.pod.builder().require_post_quantum().start().await.unwrap());

    let (_server, address) = go.serve(&pair.theirs, TILL, &classical).await;
    assert!(!connect(&us, CART, address).await.unwrap().is_post_quantum());
    let refused = connect(&strict, CART, address).await.unwrap_err();
    assert!(matches!(refused, HandshakeError::PeerRefused(_)), "{refused:?}");
    let (_server, address) = go.serve(&pair.theirs, TILL, &[]).await;
    assert!(connect(&strict, CART, address).await.unwrap().is_post_quantum());

    let (address, serving) = serve_one(&strict, CART).await;
    let mut client = go.dial(&pair.theirs, TILL, address, &classical);
    assert!(matches!(serving.await.unwrap().unwrap_err(), HandshakeError::Tls(_)));
    assert!(client.line().await.starts_with("error"));
}

#[tokio::test]
async fn go_and_we_refuse_whom_we_did_not_name() {
    let pair = Pair::one();
    let us = pair.pod.start().await;
    for go in Go::KINDS.map(Go::new) {
        // They refuse us. We have finished the handshake by then (TLS 1.3), and learn it with the first read.
        let (mut server, address) = go.serve(&pair.theirs, "/ns/shop/sa/other", &[]).await;
        let mut stream = connect(&us, CART, address).await.unwrap();
        let error = converse(&mut stream).await.unwrap_err();
        let why = error.get_ref().and_then(|inner| inner.downcast_ref::<HandshakeError>());
        assert!(matches!(why, Some(HandshakeError::PeerRefused(_))), "{}: {error:?}", go.kind);
        assert!(server.line().await.starts_with("error"), "{}", go.kind);

        // We refuse them, in either role.
        let refused = connect(&us, "/ns/shop/sa/other", address).await.unwrap_err();
        assert!(is_not_allowed(&refused), "{}: {refused:?}", go.kind);
        assert!(server.line().await.starts_with("error"), "{}", go.kind);
        let (address, serving) = serve_one(&us, "/ns/shop/sa/other").await;
        let mut client = go.dial(&pair.theirs, TILL, address, &[]);
        let refused = serving.await.unwrap().unwrap_err();
        assert!(is_not_allowed(&refused), "{}: {refused:?}", go.kind);
        assert!(client.line().await.starts_with("error"), "{}", go.kind);
    }
}

fn is_not_allowed(error: &HandshakeError) -> bool {
    matches!(error, HandshakeError::Refused(refusal) if matches!(refusal.reason(), Reason::NotAllowed(_)))
}

fn openssl(word: &str, files: &Files) -> Command {
    let mut command = Command::new("openssl");
    command.arg(word).arg("-key").arg(files.path("key.pem")).arg("-cert").arg(files.path("leaf.pem"));
    command.arg("-cert_chain").arg(files.path("issuers.pem")).arg("-CAfile").arg(files.path("trust.pem"));
    command.args(["-tls1_3", "-verify_return_error"]).stderr(Stdio::null());
    command
}

#[tokio::test]
#[ignore = "needs OpenSSL's program: tests/run --rest"]
async fn openssl_and_we_know_each_other_with_three_key_types() {
    for pair in Pair::of_three_kinds() {
        let us = pair.pod.start().await;
        // It says each line backwards.
        let mut server = openssl("s_server", &pair.theirs);
        server.args(["-accept", "127.0.0.1:0", "-naccept", "1", "-Verify", "4", "-rev"]);
        let mut server = Running::new(&mut server);
        let address = loop {
            if let Some(address) = server.line().await.strip_prefix("ACCEPT ") {
                break address.parse().unwrap();
            }
        };
        let mut stream = connect(&us, CART, address).await.unwrap_or_else(|error| panic!("{}: {error}", pair.kind));
        assert_eq!(stream.peer().to_string(), id(CART));
        assert_eq!(converse(&mut stream).await.unwrap(), "tsuR morf olleh", "{}", pair.kind);

        let (address, serving) = serve_one(&us, CART).await;
        let mut client = openssl("s_client", &pair.theirs);
        client.args([
            "-connect",
            &address.to_string(),
            "-servername",
            "server.test",
            "-verify_hostname",
            "server.test",
        ]);
        let mut client = Running::new(client.arg("-quiet"));
        client.child.stdin.as_mut().unwrap().write_all(b"hello from OpenSSL\n").await.unwrap();
        let (peer, _, said) = serving.await.unwrap().unwrap_or_else(|error| panic!("{}: {error}", pair.kind));
        assert_eq!((peer, said.as_str()), (id(CART), "hello from OpenSSL"), "{}", pair.kind);
        assert_eq!(client.line().await, "hello from Rust", "{}", pair.kind);
    }
}

#[tokio::test]
#[ignore = "needs curl: tests/run --rest"]
async fn curl_is_served_by_its_identity_with_three_key_types() {
    for pair in Pair::of_three_kinds() {
        let us = pair.pod.start().await;
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let app = axum::Router::new()
            .route("/", axum::routing::get(|peer: podmint::PeerIdentity| async move { peer.to_string() }));
        let serving = tokio::spawn(podmint::hyper::serve(us.server(only(CART)), tcp, app, std::future::pending()));
        for version in ["--http1.1", "--http2"] {
            let (code, said) = curl(&pair.theirs, true, port, version).await;
            assert_eq!((code, said.as_str()), (Some(0), id(CART).as_str()), "{} {version}", pair.kind);
        }
        // Nobody, and somebody else of the same trust domain.
        assert_eq!(curl(&pair.theirs, false, port, "--http1.1").await, (Some(56), String::new()));
        serving.abort();
    }
}

/// Its exit code and what it prints.
async fn curl(files: &Files, with_certificate: bool, port: u16, version: &str) -> (Option<i32>, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", version, "--max-time", "20", "--cacert"]).arg(files.path("trust.pem"));
    if with_certificate {
        command.arg("--cert").arg(files.path("chain.pem")).arg("--key").arg(files.path("key.pem"));
    }
    command.args(["--resolve", &format!("server.test:{port}:127.0.0.1"), &format!("https://server.test:{port}/")]);
    let mut curl = Running::new(&mut command);
    let mut said = String::new();
    curl.lines.read_to_string(&mut said).await.unwrap();
    (curl.child.wait().await.unwrap().code(), said)
}
