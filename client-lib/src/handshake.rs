//! What acceptor and connector share: the config of the current generation, limits, and errors that say who refused whom.

use crate::health::{self, Age};
use crate::identity::PodIdentity;
use crate::tls;
use crate::verify::Refusal;
use arc_swap::ArcSwapOption;
use rustls::AlertDescription;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// We refused the peer.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoPeerCertificate,
    /// The peer refused us, or gave up; its alert tells no more. Its own log does.
    #[error("the peer ended the handshake with the alert {0:?}; its log says why")]
    PeerRefused(AlertDescription),
    /// Our own certificate is expired.
    #[error("our own certificate expired and was not renewed; see the pod's events and its PodCertificateRequests")]
    OwnCredentialExpired,
    /// It took longer than the time-out.
    #[error("the handshake took longer than {0:?}")]
    Timeout(Duration),
    /// As many handshakes as are allowed were under way for the whole time-out.
    #[error("too many handshakes at once")]
    Busy,
    /// The two sides do not agree on TLS: not TLS 1.3, no common algorithm, or not TLS at all.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] rustls::Error),
    /// The connection broke.
    #[error("the connection broke during the handshake")]
    Io(#[source] io::Error),
}

impl HandshakeError {
    /// A stable name, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason().name(),
            Self::NoPeerCertificate => "no_peer_certificate",
            Self::PeerRefused(_) => "peer_refused",
            Self::OwnCredentialExpired => "own_credential_expired",
            Self::Timeout(_) => "timeout",
            Self::Busy => "busy",
            Self::Tls(_) => "tls",
            Self::Io(_) => "io",
        }
    }

    /// What an I/O error of a TLS stream is about.
    pub(crate) fn of_io(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(tls) => Self::of_tls(tls),
            Err(error) => Self::Io(error),
        }
    }

    pub(crate) fn of_tls(error: rustls::Error) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "rustls' errors are its own and grow")]
        match error {
            rustls::Error::AlertReceived(alert) => Self::PeerRefused(alert),
            rustls::Error::NoCertificatesPresented => Self::NoPeerCertificate,
            other => match tls::refusal_in(&other) {
                Some(refusal) => Self::Refused(Box::new(refusal.clone())),
                None => Self::Tls(other),
            },
        }
    }
}

/// Limits of one acceptor or connector.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) timeout: Duration,
    pub(crate) at_once: usize,
}

impl Default for Limits {
    /// Ten seconds are long for two round trips; 1024 handshakes hold about 20 MiB.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), at_once: 1024 }
    }
}

/// One config per generation, built when it is first needed.
#[derive(Debug)]
pub(crate) struct PerGeneration<C> {
    current: ArcSwapOption<(u64, Arc<C>)>,
}

impl<C> PerGeneration<C> {
    pub(crate) fn new(generation: u64, first: C) -> Self {
        Self { current: ArcSwapOption::from_pointee((generation, Arc::new(first))) }
    }

    /// The config of this generation. Two tasks may both build it; one of the two equal configs is kept.
    pub(crate) fn get(
        &self,
        generation: u64,
        build: impl FnOnce() -> Result<C, rustls::Error>,
    ) -> Result<Arc<C>, rustls::Error> {
        if let Some(known) = self.current.load().as_deref()
            && known.0 == generation
        {
            return Ok(Arc::clone(&known.1));
        }
        let config = Arc::new(build()?);
        self.current.store(Some(Arc::new((generation, Arc::clone(&config)))));
        Ok(config)
    }
}

/// Runs one handshake within the limits. The wait for a turn is part of its time.
pub(crate) async fn bounded<T>(
    limits: Limits,
    turns: &Semaphore,
    handshake: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    let deadline = tokio::time::sleep(limits.timeout);
    tokio::pin!(deadline);
    let _turn: SemaphorePermit<'_> = tokio::select! {
        turn = turns.acquire() => turn.map_err(|_closed| HandshakeError::Busy)?,
        () = &mut deadline => return Err(HandshakeError::Busy),
    };
    tokio::select! {
        done = handshake => done,
        () = &mut deadline => Err(HandshakeError::Timeout(limits.timeout)),
    }
}

/// An expired credential is our own trouble: it is said before the peer can say it in an alert.
pub(crate) fn own_credential_is_valid(identity: &PodIdentity) -> Result<(), HandshakeError> {
    match health::age(identity.snapshot().credential(), identity.moment().now) {
        Age::Expired => Err(HandshakeError::OwnCredentialExpired),
        Age::Fresh | Age::Due | Age::Overdue => Ok(()),
    }
}
