//! The accepting side.

use crate::authorize::Authorizer;
use crate::handshake::{self, HandshakeError, Limits, PerGeneration};
use crate::identity::PodIdentity;
use crate::stream::Stream;
use crate::tls::Parts;
use crate::verify::Side;
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

/// Chooses how a server does TLS. Made by [`PodIdentity::server`].
#[derive(Debug)]
pub struct ServerBuilder {
    parts: Parts,
    limits: Limits,
    max_age: Option<Duration>,
}

impl ServerBuilder {
    pub(crate) fn new(identity: PodIdentity, authorizer: Authorizer) -> Self {
        Self { parts: Parts { identity, authorizer, alpn: Vec::new() }, limits: Limits::default(), max_age: None }
    }

    /// The application protocols, the preferred one first.
    #[must_use]
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.parts.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// How long a handshake may take (10 s).
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = timeout;
        self
    }

    /// How many handshakes may be under way at once (1024).
    #[must_use]
    pub fn max_handshakes(mut self, at_once: usize) -> Self {
        self.limits.at_once = at_once;
        self
    }

    /// The greatest age of a connection, ten per cent more or less. In any case a connection ends with its peer's certificate.
    #[must_use]
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// A rustls config to build once and keep: each handshake reads the current snapshot. It keeps the identity alive.
    /// Connections made with it are not closed when their peer's certificate or our trust in it ends; those of the [`Acceptor`] are.
    ///
    /// Turning session storage, tickets or early data on in it lets a peer in without being verified.
    ///
    /// # Errors
    /// The crypto provider has no TLS 1.3.
    pub fn config(&self) -> Result<ServerConfig, rustls::Error> {
        self.parts.server_config(None)
    }

    /// An acceptor for tokio streams, with a config for each generation.
    ///
    /// # Errors
    /// The crypto provider has no TLS 1.3.
    pub fn acceptor(self) -> Result<Acceptor, rustls::Error> {
        self.parts.authorizer.tell(self.parts.identity.connections());
        let snapshot = self.parts.identity.snapshot();
        let first = self.parts.server_config(Some(&snapshot))?;
        Ok(Acceptor {
            inner: Arc::new(Accepting {
                configs: PerGeneration::new(snapshot.generation(), first),
                turns: Semaphore::new(self.limits.at_once.min(Semaphore::MAX_PERMITS)),
                parts: self.parts,
                limits: self.limits,
                max_age: self.max_age,
            }),
        })
    }
}

/// Turns accepted connections into verified ones. Cheap to clone; all clones share their limits.
#[derive(Debug, Clone)]
pub struct Acceptor {
    inner: Arc<Accepting>,
}

#[derive(Debug)]
struct Accepting {
    parts: Parts,
    configs: PerGeneration<ServerConfig>,
    limits: Limits,
    turns: Semaphore,
    max_age: Option<Duration>,
}

impl Acceptor {
    /// Runs the server's side of a handshake. Call it on a task of its own for each connection, so that a slow client delays nobody.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn accept<IO>(&self, transport: IO) -> Result<Stream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Accepting { parts, configs, limits, turns, max_age } = &*self.inner;
        handshake::bounded(*limits, turns, async {
            handshake::own_credential_is_valid(&parts.identity)?;
            let snapshot = parts.identity.snapshot();
            let generation = snapshot.generation();
            let config =
                configs.get(generation, || parts.server_config(Some(&snapshot))).map_err(HandshakeError::Tls)?;
            let stream =
                tokio_rustls::TlsAcceptor::from(config).accept(transport).await.map_err(HandshakeError::of_io)?;
            drop(snapshot); // held until here, so that the whole handshake is of one generation
            Stream::new(stream, Side::Client, parts, *max_age, generation)
        })
        .await
    }
}
