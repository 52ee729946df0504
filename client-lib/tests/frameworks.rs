//! Services and clients of each framework over pod certificates: who is let in, what the handler is told, and how connections come to their end.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests: a failure is the test's failure"
)]

mod kit;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use kit::{DOMAIN, Pod, anyone, aws, reckless_client, until};
use podmint::testkit::Authority;
use podmint::{Authorizer, HandshakeError, PeerIdentity, PodIdentity, Refusal};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};

const TILL: &str = "/ns/shop/sa/till";
const CART: &str = "/ns/shop/sa/cart";
/// For liveness alone: nothing here takes long.
const LONG: Duration = Duration::from_secs(30);

struct Served {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    identity: PodIdentity,
    pod: Pod,
    /// How many requests of `/slow` are under way or over.
    slow: Arc<AtomicUsize>,
}

impl Served {
    /// A router that says who asks, over which HTTP, and on which connection.
    async fn start(authority: &Authority, rule: Authorizer) -> Self {
        Self::with(authority, rule, None, app()).await
    }

    async fn with(authority: &Authority, rule: Authorizer, age: Option<Duration>, app: Router) -> Self {
        let pod = Pod::with(&authority.issue(TILL), &authority.trust());
        let identity = pod.builder().provider(aws()).start().await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let slow_ones = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&slow_ones);
        let app = app.route(
            "/slow",
            get(move || {
                count.fetch_add(1, Ordering::SeqCst);
                slow()
            }),
        );
        let mut server = identity.server(rule);
        if let Some(age) = age {
            server = server.max_connection_age(age);
        }
        let task = tokio::spawn(async move {
            podmint::hyper::serve(server, tcp, app, async { drop(stopped.await) }).await.unwrap();
        });
        Self { address, stop: Some(stop), task, identity, pod, slow: slow_ones }
    }

    async fn is_under_way(&self) {
        until("the slow request is under way", || self.slow.load(Ordering::SeqCst) == 1).await;
    }

    fn uri(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    async fn ended(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(LONG, self.task).await.expect("the server does not end").unwrap();
    }
}

fn app() -> Router {
    Router::new()
        .route("/", get(|peer: PeerIdentity| async move { peer.to_string() }))
        .route("/version", get(|request: axum::extract::Request| async move { format!("{:?}", request.version()) }))
}

/// Longer than what goes on meanwhile, also on a busy machine.
async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(6)).await;
    "slow"
}

async fn client_pod(authority: &Authority) -> (Pod, PodIdentity) {
    let pod = Pod::with(&authority.issue(CART), &authority.trust());
    let identity = pod.builder().provider(aws()).start().await.unwrap();
    (pod, identity)
}

type Hyper = podmint::hyper::Client<Empty<Bytes>>;

async fn ask(client: &Hyper, uri: &str) -> String {
    let request = http::Request::get(uri).body(Empty::new()).unwrap();
    let response = client.request(request).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let peer = response.extensions().get::<PeerIdentity>().expect("the response does not say who answered");
    assert_eq!(peer.kubernetes(), Some(("shop", "till")));
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn handshake_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a HandshakeError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<HandshakeError>() {
            return Some(found);
        }
        // An I/O error holds its cause in another place than other errors.
        if let Some(found) = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()?.downcast_ref()) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[tokio::test]
async fn hyper_and_axum_know_each_other_over_both_versions_of_http() {
    let authority = Authority::new(DOMAIN);
    let served = Served::start(&authority, anyone()).await;
    let (_pod, identity) = client_pod(&authority).await;
    let both = podmint::hyper::client(identity.client(anyone())).unwrap();
    assert_eq!(ask(&both, &served.uri("/")).await, format!("spiffe://{DOMAIN}{CART}"));
    assert_eq!(ask(&both, &served.uri("/version")).await, "HTTP/2.0");
    let old = podmint::hyper::client(identity.client(anyone()).alpn(["http/1.1"])).unwrap();
    assert_eq!(ask(&old, &served.uri("/version")).await, "HTTP/1.1");
    served.ended().await;
}

#[tokio::test]
async fn a_refused_client_is_told_by_its_first_request() {
    let authority = Authority::new(DOMAIN);
    let served = Served::start(&authority, Authorizer::one_of([])).await;
    let (_pod, identity) = client_pod(&authority).await;
    let client: Hyper = podmint::hyper::client(identity.client(anyone()).alpn(["http/1.1"])).unwrap();
    let request = http::Request::get(served.uri("/")).body(Empty::new()).unwrap();
    let error = client.request(request).await.unwrap_err();
    assert!(matches!(handshake_error(&error), Some(HandshakeError::PeerRefused(_))), "{}", chain(&error));
    // And the other way round, at once.
    let stranger = Authorizer::id(format!("spiffe://{DOMAIN}/ns/shop/sa/stock").parse().unwrap());
    let client: Hyper = podmint::hyper::client(identity.client(stranger)).unwrap();
    let request = http::Request::get(served.uri("/")).body(Empty::new()).unwrap();
    let error = client.request(request).await.unwrap_err();
    assert_eq!(handshake_error(&error).map(HandshakeError::reason), Some("not_allowed"), "{}", chain(&error));
}

#[tokio::test]
async fn a_uri_without_https_is_refused() {
    let authority = Authority::new(DOMAIN);
    let (_pod, identity) = client_pod(&authority).await;
    let client: Hyper = podmint::hyper::client(identity.client(anyone())).unwrap();
    let request = http::Request::get("http://127.0.0.1:1/").body(Empty::new()).unwrap();
    let error = chain(&client.request(request).await.unwrap_err());
    assert!(error.contains("is no https URI"), "{error}");
}

/// What a connection is pooled for ends with a rotation; what is under way on it does not.
#[tokio::test]
async fn a_rotation_retires_pooled_connections_and_breaks_no_request() {
    for protocol in ["h2", "http/1.1"] {
        let authority = Authority::new(DOMAIN);
        let served = Served::start(&authority, anyone()).await;
        let (pod, identity) = client_pod(&authority).await;
        let client: Hyper = podmint::hyper::client(identity.client(anyone()).alpn([protocol])).unwrap();
        let open = || served.identity.health().connections;
        ask(&client, &served.uri("/")).await;
        ask(&client, &served.uri("/")).await;
        assert_eq!(open(), 1, "{protocol}: the pool opened a connection for each request");
        let slow = tokio::spawn({
            let (client, uri) = (client.clone(), served.uri("/slow"));
            async move { ask(&client, &uri).await }
        });
        served.is_under_way().await;
        pod.write(&authority.issue(CART), &authority.trust());
        identity.reload().await;
        tokio::time::sleep(Duration::from_millis(100)).await; // the retirement is a task of its own
        assert!(!slow.is_finished());
        ask(&client, &served.uri("/")).await;
        assert_eq!(open(), 2, "{protocol}: a request after the rotation went over the old connection");
        assert_eq!(slow.await.unwrap(), "slow");
        until("the old connection is gone", || open() == 1).await;
        served.ended().await;
    }
}

/// One request after the other for longer than a connection may live: none fails. Over HTTP/1.1 that takes a client that leaves first: a server cannot warn an idle client, and what is
/// sent while it closes is lost.
#[tokio::test]
async fn connections_come_and_go_by_age_and_no_request_fails() {
    let authority = Authority::new(DOMAIN);
    let served = Served::with(&authority, anyone(), Some(Duration::from_secs(5)), app()).await;
    let (_pod, identity) = client_pod(&authority).await;
    for protocol in ["h2", "http/1.1"] {
        let builder = identity.client(anyone()).alpn([protocol]);
        let builder = if protocol == "h2" { builder } else { builder.max_connection_age(Duration::from_secs(3)) };
        let client: Hyper = podmint::hyper::client(builder).unwrap();
        let started = tokio::time::Instant::now();
        while started.elapsed() < Duration::from_secs(12) {
            ask(&client, &served.uri("/")).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    served.ended().await;
}

/// The server's warning comes a tenth of the connection's life before its end. What is under way then is finished, and HTTP/1.1 says in a header that it is the last.
#[tokio::test]
async fn connection_close_is_said_before_the_peers_certificate_ends() {
    let authority = Authority::new(DOMAIN);
    // Of the 30 s, the last three are for finishing: the answer comes soon after they have begun.
    let late = get(|| async {
        tokio::time::sleep(Duration::from_millis(27_500)).await;
        "late"
    });
    let served = Served::with(&authority, anyone(), None, Router::new().route("/", late)).await;
    let pod = Pod::with(&authority.issue_valid(CART, -60, 30), &authority.trust());
    let identity = pod.builder().provider(aws()).start().await.unwrap();
    let connector = identity.client(anyone()).alpn(["http/1.1"]).connector().unwrap();
    let tcp = TcpStream::connect(served.address).await.unwrap();
    let mut stream = connector.connect(kit::name(), tcp).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: till\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(2 * LONG, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.to_lowercase().contains("connection: close") && answer.ends_with("late"), "{answer}");
}

#[tokio::test]
async fn stopping_finishes_what_is_under_way() {
    let authority = Authority::new(DOMAIN);
    let mut served = Served::start(&authority, anyone()).await;
    let (_pod, identity) = client_pod(&authority).await;
    let client: Hyper = podmint::hyper::client(identity.client(anyone())).unwrap();
    let slow = tokio::spawn({
        let (client, uri) = (client.clone(), served.uri("/slow"));
        async move { ask(&client, &uri).await }
    });
    served.is_under_way().await;
    drop(served.stop.take());
    assert_eq!(slow.await.unwrap(), "slow");
    served.ended().await;
}

#[tokio::test]
async fn a_client_that_stalls_in_its_handshake_delays_nobody() {
    let authority = Authority::new(DOMAIN);
    let served = Served::start(&authority, anyone()).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    let (_pod, identity) = client_pod(&authority).await;
    let client: Hyper = podmint::hyper::client(identity.client(anyone())).unwrap();
    // Less than the handshake time-out of 10 s: they were not waited for.
    let asked = tokio::time::timeout(Duration::from_secs(9), ask(&client, &served.uri("/"))).await;
    asked.expect("the silent clients delayed an honest one");
}

#[tokio::test]
async fn a_layer_rules_over_single_routes_and_follows_its_rule() {
    let authority = Authority::new(DOMAIN);
    let (rule, handle) = Authorizer::swappable(Authorizer::one_of([]));
    let app = Router::new()
        .route("/refund", get(|| async { "refunded" }))
        .route_layer(podmint::tower::RequirePeer::new(rule))
        .route("/price", get(|| async { "12" }));
    let served = Served::with(&authority, anyone(), None, app).await;
    let (_pod, identity) = client_pod(&authority).await;
    let client: Hyper = podmint::hyper::client(identity.client(anyone())).unwrap();
    let status = async |path: &str| {
        let request = http::Request::get(served.uri(path)).body(Empty::new()).unwrap();
        client.request(request).await.unwrap().status().as_u16()
    };
    assert_eq!((status("/refund").await, status("/price").await), (403, 200));
    handle.replace(Authorizer::k8s(&DOMAIN.parse().unwrap(), "shop", "cart").unwrap());
    assert_eq!((status("/refund").await, status("/price").await), (200, 200));
}

#[tokio::test]
async fn without_a_peer_the_layer_and_the_extractor_answer_401() {
    use tower::ServiceExt as _;
    let app = Router::new().route("/guarded", get(|| async {}));
    let app = app.route_layer(podmint::tower::RequirePeer::new(Authorizer::not(Authorizer::one_of([]))));
    let optional = get(|peer: Option<PeerIdentity>| async move { peer.is_some().to_string() });
    let app = app.route("/", get(|_: PeerIdentity| async {})).route("/optional", optional);
    for (path, status) in [("/guarded", 401), ("/", 401), ("/optional", 200)] {
        let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        assert_eq!(app.clone().oneshot(request).await.unwrap().status().as_u16(), status, "{path}");
    }
}

struct Asked(Arc<AtomicUsize>);

#[tonic::async_trait]
impl Health for Asked {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<tonic_health::pb::HealthCheckResponse>, tonic::Status> {
        let peer = podmint::tonic::peer(&request).map_err(|status| *status)?.to_string();
        assert_eq!(peer, format!("spiffe://{DOMAIN}{CART}"));
        self.0.fetch_add(1, Ordering::SeqCst);
        if request.get_ref().service == "slow" {
            slow().await;
        }
        Ok(tonic::Response::new(tonic_health::pb::HealthCheckResponse { status: 1 }))
    }

    type WatchStream = tonic::codec::Streaming<tonic_health::pb::HealthCheckResponse>;

    async fn watch(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("only checks"))
    }
}

#[tokio::test]
async fn tonic_calls_know_their_caller_and_outlive_a_rotation() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(TILL), &authority.trust());
    let server = pod.builder().provider(aws()).start().await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let service = HealthServer::new(Asked(Arc::clone(&asked)));
    let builder = server.server(anyone());
    tokio::spawn(async move { podmint::hyper::serve(builder, tcp, service, std::future::pending()).await });

    let (pod, identity) = client_pod(&authority).await;
    let channel = podmint::tonic::channel(identity.client(anyone())).unwrap();
    let mut client = HealthClient::with_origin(channel, format!("https://{address}").parse().unwrap());
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    client.check(check("")).await.unwrap();
    let mut other = client.clone();
    let slow = tokio::spawn(async move { other.check(check("slow")).await });
    until("the slow call has begun", || asked.load(Ordering::SeqCst) == 2).await;
    assert_eq!(server.health().connections, 1);
    pod.write(&authority.issue(CART), &authority.trust());
    identity.reload().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(server.health().connections, 2, "the call after the rotation went over the old connection");
    slow.await.unwrap().unwrap();
    until("the old connection is gone", || server.health().connections == 1).await;
}

#[tokio::test]
async fn the_layer_speaks_grpc_by_its_status() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(TILL), &authority.trust());
    let server = pod.builder().provider(aws()).start().await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let service = HealthServer::new(Asked(Arc::default()));
    let layer = podmint::tower::RequirePeer::new(Authorizer::one_of([]));
    let service = tower_layer_of(&layer, service);
    let builder = server.server(anyone());
    tokio::spawn(async move { podmint::hyper::serve(builder, tcp, service, std::future::pending()).await });
    let (_pod, identity) = client_pod(&authority).await;
    let channel = podmint::tonic::channel(identity.client(anyone())).unwrap();
    let mut client = HealthClient::with_origin(channel, format!("https://{address}").parse().unwrap());
    let status = client.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
}

fn tower_layer_of<L: tower::Layer<S>, S>(layer: &L, service: S) -> L::Service {
    layer.layer(service)
}

#[tokio::test]
async fn reqwest_follows_rotations_trust_and_rules() {
    let (old, new) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let served = Served::start(&old, anyone()).await;
    let (pod, identity) = client_pod(&old).await;
    let (rule, handle) = Authorizer::swappable(anyone());
    let clients = podmint::reqwest::clients(identity.client(rule), |builder| builder).unwrap();
    let ask = async || clients.get().unwrap().get(served.uri("/")).send().await;
    assert_eq!(ask().await.unwrap().text().await.unwrap(), format!("spiffe://{DOMAIN}{CART}"));

    // Rules, in the next request: a pooled connection would not ask them.
    handle.replace(Authorizer::one_of([]));
    let error = ask().await.unwrap_err();
    assert_eq!(Refusal::find(&error).map(|refusal| refusal.reason().name()), Some("not_allowed"), "{}", chain(&error));
    handle.replace(anyone());
    ask().await.unwrap();

    // Trust, too.
    pod.write(&new.issue(CART), &new.trust());
    identity.reload().await;
    let error = ask().await.unwrap_err();
    assert_eq!(
        Refusal::find(&error).map(|refusal| refusal.reason().name()),
        Some("unknown_issuer"),
        "{}",
        chain(&error)
    );

    // And a rotation shows the new certificate.
    served.pod.write(&new.issue(TILL), &format!("{}{}", old.trust(), new.trust()));
    served.identity.reload().await;
    ask().await.unwrap();
}

#[tokio::test]
async fn reqwest_leaves_a_server_before_its_certificate_ends() {
    let authority = Authority::new(DOMAIN);
    let (_pod, identity) = client_pod(&authority).await;
    let clients = podmint::reqwest::clients(identity.client(anyone()), |builder| builder).unwrap();
    let pod = Pod::with(&authority.issue_valid(TILL, -60, 40), &authority.trust());
    let server = pod.builder().provider(aws()).start().await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let builder = server.server(anyone());
    let handshakes = Arc::new(AtomicUsize::new(0));
    let mut listener = builder.alpn(["http/1.1"]).listener(tcp).unwrap();
    let counted = Arc::clone(&handshakes);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await;
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                }
            });
        }
    });
    for _ in 0..3 {
        clients.get().unwrap().get(format!("https://{address}/")).send().await.unwrap();
    }
    // With less than a minute left, each request looks at the server again.
    assert_eq!(handshakes.load(Ordering::SeqCst), 3);
}

/// A client that speaks HTTP but shows a certificate of another domain never reaches the service.
#[tokio::test]
async fn nobody_reaches_a_service_without_a_handshake() {
    let authority = Authority::new(DOMAIN);
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    let service = get(move || {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>("reached") }
    });
    let served = Served::with(&authority, anyone(), None, Router::new().route("/", service)).await;
    let other = Authority::new("other.example");
    let mut config = reckless_client(&other.issue(CART));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(served.address).await.unwrap();
    let mut stream = connector.connect(kit::name(), tcp).await.unwrap();
    drop(stream.write_all(b"GET / HTTP/1.1\r\nhost: till\r\n\r\n").await);
    let mut answer = Vec::new();
    tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap().unwrap_err();
    assert_eq!((answer.len(), reached.load(Ordering::SeqCst)), (0, 0));
}
