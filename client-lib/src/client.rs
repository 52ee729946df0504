//! The connecting side.

use crate::authorize::Authorizer;
use crate::handshake::{self, HandshakeError, Limits, PerGeneration};
use crate::identity::PodIdentity;
use crate::stream::Stream;
use crate::tls::Parts;
use crate::verify::Side;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

/// Chooses how a client does TLS. Made by [`PodIdentity::client`].
#[derive(Debug)]
pub struct ClientBuilder {
    parts: Parts,
    limits: Limits,
    max_age: Option<Duration>,
}

impl ClientBuilder {
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
    /// Connections made with it are not closed when their peer's certificate or our trust in it ends; those of the [`Connector`] are.
    ///
    /// Turning resumption or early data on in it lets a peer in without being verified.
    ///
    /// # Errors
    /// The crypto provider has no TLS 1.3.
    pub fn config(&self) -> Result<ClientConfig, rustls::Error> {
        self.parts.client_config(None)
    }

    /// A connector for tokio streams, with a config for each generation.
    ///
    /// # Errors
    /// The crypto provider has no TLS 1.3.
    pub fn connector(self) -> Result<Connector, rustls::Error> {
        self.parts.authorizer.tell(self.parts.identity.connections());
        let snapshot = self.parts.identity.snapshot();
        let first = self.parts.client_config(Some(&snapshot))?;
        Ok(Connector {
            inner: Arc::new(Connecting {
                configs: PerGeneration::new(snapshot.generation(), first),
                turns: Semaphore::new(self.limits.at_once.min(Semaphore::MAX_PERMITS)),
                parts: self.parts,
                limits: self.limits,
                max_age: self.max_age,
            }),
        })
    }
}

/// Turns dialled connections into verified ones. Cheap to clone; all clones share their limits.
#[derive(Debug, Clone)]
pub struct Connector {
    inner: Arc<Connecting>,
}

#[derive(Debug)]
struct Connecting {
    parts: Parts,
    configs: PerGeneration<ClientConfig>,
    limits: Limits,
    turns: Semaphore,
    max_age: Option<Duration>,
}

impl Connector {
    /// Runs the client's side of a handshake. `name` is what was dialled: a DNS name is sent along for gateways that route by it. Who may answer is decided by
    /// the authorizer alone.
    ///
    /// # Errors
    /// See [`HandshakeError`]. A refusal by the server comes later, with the first read of the [`Stream`].
    pub async fn connect<IO>(&self, name: ServerName<'static>, transport: IO) -> Result<Stream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Connecting { parts, configs, limits, turns, max_age } = &*self.inner;
        handshake::bounded(*limits, turns, async {
            handshake::own_credential_is_valid(&parts.identity)?;
            let snapshot = parts.identity.snapshot();
            let generation = snapshot.generation();
            let config =
                configs.get(generation, || parts.client_config(Some(&snapshot))).map_err(HandshakeError::Tls)?;
            let stream = tokio_rustls::TlsConnector::from(config)
                .connect(name, transport)
                .await
                .map_err(HandshakeError::of_io)?;
            drop(snapshot); // held until here, so that the whole handshake is of one generation
            Stream::new(stream, Side::Server, parts, *max_age, generation)
        })
        .await
    }
}
