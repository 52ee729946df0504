//! HTTP with hyper: a server for any tower service, and a client whose pool follows the credentials. Feature `hyper`.
//!
//! HTTP/2 and HTTP/1.1, by what the client offers (ALPN, RFC 7301). Each request carries its peer: `request.extensions().get::<PeerIdentity>()`; so does each response
//! of the client. Before a peer's certificate ends, a server says GOAWAY (RFC 9113 section 6.8) or `Connection: close` (RFC 9112 section 9.6) and finishes what is under way.
//!
//! ```no_run
//! # async fn example(identity: podmint::PodIdentity, domain: podmint::TrustDomain) -> Result<(), Box<dyn std::error::Error>> {
//! use podmint::{Authorizer, PeerIdentity};
//! let service = tower::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
//!     let peer = request.extensions().get::<PeerIdentity>().map(ToString::to_string);
//!     Ok::<_, std::convert::Infallible>(http::Response::new(peer.unwrap_or_default()))
//! });
//! let tcp = tokio::net::TcpListener::bind("0.0.0.0:8443").await?;
//! podmint::hyper::serve(identity.server(Authorizer::any_in(domain)), tcp, service, std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

use crate::client::{ClientBuilder, Connector};
use crate::handshake::HandshakeError;
use crate::peer::PeerIdentity;
use crate::rotation::Rotations;
use crate::server::ServerBuilder;
use crate::stream::{Departure, Stream};
use ::hyper::body::{Body, Incoming};
use http::{Request, Response, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, Connected, Connection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::ServerName;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves HTTP/2 and HTTP/1.1 until `stop`; then every connection is closed in good order, and it returns when the last one is.
///
/// A tower service is what it takes: an axum `Router`, tonic's generated servers and `Routes`, or one of your own. The protocols are `h2` and `http/1.1` unless
/// [`ServerBuilder::alpn`] chose others.
///
/// # Errors
/// The crypto provider has no TLS 1.3.
pub async fn serve<S, B>(
    mut server: ServerBuilder,
    tcp: TcpListener,
    service: S,
    stop: impl Future<Output = ()>,
) -> Result<(), rustls::Error>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    server.settings.default_alpn(&["h2", "http/1.1"]);
    let mut listener = server.listener(tcp)?;
    let (stopping, stopped) = watch::channel(());
    let mut open = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            (stream, _) = listener.accept() => { open.spawn(converse(stream, service.clone(), stopped.clone())); }
            Some(_) = open.join_next() => {}
            () = &mut stop => break,
        }
    }
    drop(listener);
    drop(stopping); // tells every connection
    while open.join_next().await.is_some() {}
    Ok(())
}

/// One connection, until its peer leaves, its end comes or the server stops.
async fn converse<S, B>(stream: Stream<TcpStream>, service: S, mut stopped: watch::Receiver<()>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let peer = stream.peer().clone();
    let mut ending = pin!(stream.ending());
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()); // for hyper's limit on how long a request's head may take
    builder.http2().timer(TokioTimer::new());
    let service = TowerToHyperService::new(WithPeer { peer: peer.clone(), service });
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut told = false;
    loop {
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(%peer, "a connection broke off: {error}");
                }
                return;
            }
            why = &mut ending, if !told => tracing::debug!(%peer, %why, "closing a connection in good order"),
            _ = stopped.changed(), if !told => {}
        }
        connection.as_mut().graceful_shutdown();
        told = true;
    }
}

/// Puts the peer into each request.
#[derive(Clone)]
struct WithPeer<S> {
    peer: PeerIdentity,
    service: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for WithPeer<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.service.call(request)
    }
}

/// A client for `https` URIs that speaks HTTP/2 where the server does, HTTP/1.1 otherwise, with what hyper calls its legacy pool.
///
/// A pooled connection is used for no new request once the credentials have rotated, trust has changed, or the connection nears its end; what is under way on it
/// is finished. A server's refusal comes with the first request, because a TLS 1.3 client finishes its handshake first; the cause of that error is a [`HandshakeError`].
#[derive(Debug)]
pub struct Client<B> {
    pool: legacy::Client<HttpsConnector, B>,
}

impl<B> Clone for Client<B> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone() }
    }
}

/// A client with the choices of this builder.
///
/// # Errors
/// The crypto provider has no TLS 1.3.
pub fn client<B>(mut client: ClientBuilder) -> Result<Client<B>, rustls::Error>
where
    B: Body + Send,
    B::Data: Send,
{
    client.settings.default_alpn(&["h2", "http/1.1"]);
    Client::new(client, false)
}

impl<B: Body + Send> Client<B>
where
    B::Data: Send,
{
    pub(crate) fn new(client: ClientBuilder, http2_only: bool) -> Result<Self, rustls::Error> {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new()).http2_only(http2_only);
        Ok(Self { pool: builder.build(HttpsConnector::new(client)?) })
    }
}

impl<B> Client<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Sends a request. The server's identity is in the extensions of the response.
    ///
    /// # Errors
    /// No connection, a refusal, or the connection broke; see the sources of the error.
    pub async fn request(&self, mut request: Request<B>) -> Result<Response<Incoming>, legacy::Error> {
        let mut captured = capture_connection(&mut request);
        let mut response = pin!(self.pool.request(request));
        // As soon as the request has a connection, not when it has an answer: that may take longer than a rotation.
        let retirement = tokio::select! {
            biased;
            connected = captured.wait_for_connection_metadata() => connected.as_ref().and_then(Retirement::of),
            done = &mut response => return done,
        };
        if let Some(retirement) = retirement {
            tokio::spawn(retirement.wait(captured));
        }
        response.await
    }
}

impl<B> Service<Request<B>> for Client<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Incoming>;
    type Error = legacy::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, legacy::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), legacy::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move { client.request(request).await })
    }
}

/// Connects whatever takes a tower service of a [`Uri`] to `https` URIs. The port is 443 unless the URI has one. A pool of your own over it has to let go of connections by itself
/// when credentials rotate; [`Client`] does.
#[derive(Debug, Clone)]
pub struct HttpsConnector {
    connector: Connector,
}

/// Why a URI could not be connected to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URI is not an `https` URI with a host.
    #[error("{0} is no https URI with a host")]
    Uri(Uri),
    /// No TCP connection.
    #[error("could not connect to {host}:{port}")]
    Tcp {
        /// As in the URI.
        host: String,
        /// As in the URI, or 443.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("the handshake with {host}:{port} failed")]
    Handshake {
        /// As in the URI.
        host: String,
        /// As in the URI, or 443.
        port: u16,
        /// Who refused whom, and why.
        source: HandshakeError,
    },
}

impl HttpsConnector {
    /// A connector with the choices of this builder.
    ///
    /// # Errors
    /// The crypto provider has no TLS 1.3.
    pub fn new(client: ClientBuilder) -> Result<Self, rustls::Error> {
        Ok(Self { connector: client.connector()? })
    }
}

impl Service<Uri> for HttpsConnector {
    type Response = TokioIo<Stream<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.connector.clone();
        Box::pin(async move { connect(&connector, uri).await.map(TokioIo::new) })
    }
}

async fn connect(connector: &Connector, uri: Uri) -> Result<Stream<TcpStream>, ConnectError> {
    let host = uri.host().filter(|_| uri.scheme() == Some(&http::uri::Scheme::HTTPS));
    let host = host.map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned());
    let port = uri.port_u16().unwrap_or(443);
    let Some(host) = host else { return Err(ConnectError::Uri(uri)) };
    let Ok(name) = ServerName::try_from(host.clone()) else { return Err(ConnectError::Uri(uri)) };
    let tcp = match tokio::time::timeout(connector.timeout(), TcpStream::connect((host.as_str(), port))).await {
        Ok(tcp) => tcp.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp)),
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    };
    match tcp {
        Ok(tcp) => connector.connect(name, tcp).await.map_err(|source| ConnectError::Handshake { host, port, source }),
        Err(source) => Err(ConnectError::Tcp { host, port, source }),
    }
}

impl Connection for Stream<TcpStream> {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.peer().clone()).extra(Retirement::new(self));
        if self.tls().alpn_protocol() == Some(b"h2") { connected.negotiated_h2() } else { connected }
    }
}

/// What takes a connection out of its pool. It travels with the connection, and the first request that gets the connection starts the wait.
#[derive(Debug, Clone)]
struct Retirement(Arc<Mutex<Option<Reasons>>>);

/// The connection nears its end, or there is another generation of credentials or trust.
#[derive(Debug)]
struct Reasons {
    departure: Departure,
    rotations: Rotations,
}

impl Retirement {
    fn new(stream: &Stream<TcpStream>) -> Self {
        // Rotations since the handshake began count, too: the snapshot may have moved meanwhile.
        let rotations = stream.identity().rotations_since(stream.generation());
        Self(Arc::new(Mutex::new(Some(Reasons { departure: stream.departure(), rotations }))))
    }

    /// That of a connection, for whoever asks first.
    fn of(connected: &Connected) -> Option<Reasons> {
        let mut extensions = http::Extensions::new();
        connected.get_extras(&mut extensions);
        let Self(reasons) = extensions.remove()?;
        reasons.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Reasons {
    async fn wait(mut self, captured: CaptureConnection) {
        tokio::select! {
            _ = self.rotations.next() => {}
            why = self.departure.wait() => if why.is_none() { return },
        }
        if let Some(connected) = captured.connection_metadata().as_ref() {
            connected.poison();
        }
    }
}
