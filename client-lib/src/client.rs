//! The connecting side.

use crate::authorize::Authorizer;
use crate::handshake::{self, HandshakeError, Limits, PerGeneration};
use crate::identity::PodIdentity;
use crate::meter;
use crate::settings::{Settings, setters};
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
    pub(crate) settings: Settings,
}

setters!(ClientBuilder);

impl ClientBuilder {
    pub(crate) fn new(identity: PodIdentity, authorizer: Authorizer) -> Self {
        Self { settings: Settings::new(identity, authorizer) }
    }

    /// A rustls config to build once and keep: each handshake reads the current snapshot. It keeps the identity alive.
    /// Connections made with it are not closed when their peer's certificate or our trust in it ends; those of the [`Connector`] are.
    ///
    /// Turning resumption or early data on in it lets a peer in without being verified.
    ///
    /// # Errors
    /// The crypto provider has no TLS 1.3.
    pub fn config(&self) -> Result<ClientConfig, rustls::Error> {
        self.settings.parts.client_config(None)
    }

    /// A connector for tokio streams, with a config for each generation.
    ///
    /// # Errors
    /// The crypto provider has no TLS 1.3.
    pub fn connector(self) -> Result<Connector, rustls::Error> {
        let Settings { parts, limits, max_age } = self.settings;
        parts.authorizer.tell(parts.identity.connections());
        let snapshot = parts.identity.snapshot();
        let first = parts.client_config(Some(&snapshot))?;
        Ok(Connector {
            inner: Arc::new(Connecting {
                configs: PerGeneration::new(snapshot.generation(), first),
                turns: Semaphore::new(limits.at_once.min(Semaphore::MAX_PERMITS)),
                parts,
                limits,
                max_age,
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
    #[cfg(feature = "hyper")]
    pub(crate) fn timeout(&self) -> Duration {
        self.inner.limits.timeout
    }

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
        let shaken = handshake::bounded(*limits, turns, async {
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
        .await;
        meter::handshake(Side::Server, shaken.as_ref().map(Stream::is_post_quantum));
        shaken
    }
}
