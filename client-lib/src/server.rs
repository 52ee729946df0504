//! The accepting side.

use crate::authorize::Authorizer;
use crate::handshake::{self, HandshakeError, Limits, PerGeneration};
use crate::identity::PodIdentity;
use crate::listener::Listener;
use crate::meter;
use crate::settings::{Settings, setters};
use crate::stream::Stream;
use crate::tls::Parts;
use crate::verify::Side;
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Chooses how a server does TLS. Made by [`PodIdentity::server`].
#[derive(Debug)]
pub struct ServerBuilder {
    pub(crate) settings: Settings,
}

setters!(ServerBuilder);

impl ServerBuilder {
    pub(crate) fn new(identity: PodIdentity, authorizer: Authorizer) -> Self {
        Self { settings: Settings::new(identity, authorizer) }
    }

    /// A rustls config to build once and keep: each handshake reads the current snapshot. It keeps the identity alive.
    /// Connections made with it are not closed when their peer's certificate or our trust in it ends; those of the [`Acceptor`] are.
    ///
    /// Turning session storage, tickets or early data on in it lets a peer in without being verified.
    ///
    /// # Errors
    /// The crypto provider has no TLS 1.3.
    pub fn config(&self) -> Result<ServerConfig, rustls::Error> {
        self.settings.parts.server_config(None)
    }

    /// An acceptor for tokio streams, with a config for each generation.
    ///
    /// # Errors
    /// The crypto provider has no TLS 1.3.
    pub fn acceptor(self) -> Result<Acceptor, rustls::Error> {
        let Settings { parts, limits, max_age } = self.settings;
        parts.authorizer.tell(parts.identity.connections());
        let snapshot = parts.identity.snapshot();
        let first = parts.server_config(Some(&snapshot))?;
        Ok(Acceptor {
            inner: Arc::new(Accepting {
                configs: PerGeneration::new(snapshot.generation(), first),
                turns: Semaphore::new(limits.at_once.min(Semaphore::MAX_PERMITS)),
                parts,
                limits,
                max_age,
            }),
        })
    }
}

impl ServerBuilder {
    /// A listener that runs the handshakes of whatever `tcp` accepts and hands out finished connections.
    ///
    /// # Errors
    /// The crypto provider has no TLS 1.3.
    pub fn listener(self, tcp: TcpListener) -> Result<Listener, rustls::Error> {
        Ok(Listener::new(tcp, self.acceptor()?))
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
    pub(crate) fn at_once(&self) -> usize {
        self.inner.limits.at_once.max(1)
    }

    pub(crate) fn identity(&self) -> &PodIdentity {
        &self.inner.parts.identity
    }

    /// Runs the server's side of a handshake. Call it on a task of its own for each connection, so that a slow client delays nobody.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn accept<IO>(&self, transport: IO) -> Result<Stream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Accepting { parts, configs, limits, turns, max_age } = &*self.inner;
        let shaken = handshake::bounded(*limits, turns, async {
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
        .await;
        meter::handshake(Side::Client, shaken.as_ref().map(Stream::is_post_quantum));
        shaken
    }
}
