//! A connection whose peer is known, and which ends when there is no more reason to believe it.

use crate::connections::{Ending, Newcomer, Phase, Registered};
use crate::handshake::HandshakeError;
use crate::peer::PeerIdentity;
use crate::tls::{self, Parts};
use crate::verify::{self, Side};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// A TLS connection with the identity of its peer. Made by [`Acceptor`](crate::Acceptor) and [`Connector`](crate::Connector).
///
/// It ends with its peer's certificate, when the anchor behind the peer is withdrawn, or when a replaced authorizer no longer lets the peer in: then reads and writes fail
/// with [`io::ErrorKind::ConnectionAborted`] and an [`Ending`]. [`Stream::ending`] tells shortly before a deadline, so that you can finish in good order.
///
/// A TLS 1.3 client has finished its handshake before the server has looked at its certificate. So a server's refusal comes with the first read; its error
/// then holds a [`HandshakeError`].
#[derive(Debug)]
pub struct Stream<IO> {
    inner: tokio_rustls::TlsStream<IO>,
    peer: PeerIdentity,
    generation: u64,
    registered: Registered,
    wakers: Wakers,
    /// Whoever ends connections lives for as long as they do.
    #[cfg_attr(not(feature = "hyper"), expect(dead_code, reason = "it is held, not asked"))]
    identity: crate::identity::PodIdentity,
}

impl<IO> Stream<IO> {
    pub(crate) fn new(
        inner: impl Into<tokio_rustls::TlsStream<IO>>,
        side: Side,
        parts: &Parts,
        max_age: Option<Duration>,
        generation: u64,
    ) -> Result<Self, HandshakeError> {
        let inner = inner.into();
        let tls = inner.get_ref().1;
        let peer = PeerIdentity::of_verified(tls).ok_or(HandshakeError::NoPeerCertificate)?;
        let chain = tls.peer_certificates().unwrap_or_default();
        let newcomer = Newcomer {
            side,
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
            authorizer: parts.authorizer.clone(),
            not_after: peer.not_after(),
            max_age,
        };
        let moment = parts.identity.moment();
        let registered = parts.identity.connections().register(newcomer, moment.now);
        // A peer can hold its last message back for as long as a handshake may take, and trust or the authorizer may change meanwhile. From the registration on
        // it is looked at with all others; what changed before it is looked at here.
        let current = parts.identity.snapshot();
        if current.generation() != generation || !parts.authorizer.allows(&peer) {
            let (leaf, intermediates) = chain.split_first().ok_or(HandshakeError::NoPeerCertificate)?;
            let provider = parts.identity.provider();
            verify::peer(leaf, intermediates, side, &current, &parts.authorizer, moment, provider)
                .map_err(HandshakeError::Refused)?;
        }
        let wakers = Wakers::new(registered.phase().clone());
        Ok(Self { inner, peer, generation, registered, wakers, identity: parts.identity.clone() })
    }

    /// Who is on the other end.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// The generation of our credentials when the handshake began.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Waits until the connection is about to end, and says why. Before a deadline there are up to 30 s left, at most a tenth of what it had; when trust is lost there
    /// are none.
    pub fn ending(&self) -> impl Future<Output = Ending> + Send + use<IO> {
        let mut phase = self.registered.phase().clone();
        async move {
            loop {
                if let Phase::Ending(why) | Phase::Ended(why) = phase.borrow_and_update().clone() {
                    return why;
                }
                if phase.changed().await.is_err() {
                    // The stream is gone: it ends no more.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Whether the key exchange withstands a quantum computer (ML-KEM, FIPS 203, alone or in a hybrid).
    pub fn is_post_quantum(&self) -> bool {
        self.tls().negotiated_key_exchange_group().is_some_and(|group| tls::is_post_quantum(group.name()))
    }

    /// The same wait, for tasks that may outlive the stream.
    #[cfg(feature = "hyper")]
    pub(crate) fn departure(&self) -> Departure {
        Departure(self.registered.phase().clone())
    }

    #[cfg(feature = "hyper")]
    pub(crate) fn identity(&self) -> &crate::identity::PodIdentity {
        &self.identity
    }

    /// The transport below.
    pub fn transport(&self) -> &IO {
        self.inner.get_ref().0
    }

    /// The rustls connection: protocol, algorithms, ALPN.
    pub fn tls(&self) -> &rustls::CommonState {
        self.inner.get_ref().1
    }
}

/// A stream's end, seen from outside of it.
#[cfg(feature = "hyper")]
#[derive(Debug)]
pub(crate) struct Departure(watch::Receiver<Phase>);

#[cfg(feature = "hyper")]
impl Departure {
    /// Why the stream is about to end; nothing if it is gone already.
    pub(crate) async fn wait(mut self) -> Option<Ending> {
        loop {
            if let Phase::Ending(why) | Phase::Ended(why) = self.0.borrow_and_update().clone() {
                return Some(why);
            }
            self.0.changed().await.ok()?;
        }
    }
}

type Ended = Pin<Box<dyn Future<Output = Ending> + Send + Sync>>;

/// One future for each direction, because reader and writer may be different tasks and each must be woken.
struct Wakers {
    reading: Ended,
    writing: Ended,
}

impl std::fmt::Debug for Wakers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wakers")
    }
}

impl Wakers {
    fn new(phase: watch::Receiver<Phase>) -> Self {
        Self { reading: Box::pin(ended(phase.clone())), writing: Box::pin(ended(phase)) }
    }
}

async fn ended(mut phase: watch::Receiver<Phase>) -> Ending {
    loop {
        if let Phase::Ended(why) = phase.borrow_and_update().clone() {
            return why;
        }
        if phase.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// An error once the connection has ended. It is asked first, so that nothing passes any more; while it is open, the task is woken by its end.
fn check(ended: &mut Ended, registered: &Registered, cx: &mut Context<'_>) -> io::Result<()> {
    let over = match &*registered.phase().borrow() {
        Phase::Ended(why) => Some(why.clone()), // the future may be spent
        Phase::Open | Phase::Ending(_) => None,
    };
    let over = match over {
        Some(why) => Poll::Ready(why),
        None => ended.as_mut().poll(cx),
    };
    match over {
        Poll::Ready(why) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)),
        Poll::Pending => Ok(()),
    }
}

/// A TLS alert becomes the error that says who refused whom.
fn explain(error: io::Error) -> io::Error {
    let kind = error.kind();
    match error.downcast::<rustls::Error>() {
        Ok(tls) => io::Error::new(kind, HandshakeError::of_tls(tls)),
        Err(other) => other,
    }
}

impl<IO> Stream<IO> {
    fn may_read(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        check(&mut self.wakers.reading, &self.registered, cx)
    }

    fn may_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        check(&mut self.wakers.writing, &self.registered, cx)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.may_read(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf).map_err(explain)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.may_write(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf).map_err(explain)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.may_write(cx)?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs).map_err(explain)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.may_write(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx).map_err(explain)
    }

    /// A goodbye may always be said.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx).map_err(explain)
    }
}
