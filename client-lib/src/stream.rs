//! A connection whose peer is known.

use crate::handshake::HandshakeError;
use crate::peer::PeerIdentity;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A TLS connection with the identity of its peer. Made by [`Acceptor`](crate::Acceptor) and [`Connector`](crate::Connector).
///
/// A TLS 1.3 client has finished its handshake before the server has looked at its certificate. So a server's refusal comes with the first read; its error
/// then holds a [`HandshakeError`].
#[derive(Debug)]
pub struct Stream<IO> {
    inner: tokio_rustls::TlsStream<IO>,
    peer: PeerIdentity,
    generation: u64,
}

impl<IO> Stream<IO> {
    pub(crate) fn new(
        inner: impl Into<tokio_rustls::TlsStream<IO>>,
        generation: u64,
    ) -> Result<Self, HandshakeError> {
        let inner = inner.into();
        let peer = PeerIdentity::of_verified(inner.get_ref().1).ok_or(HandshakeError::NoPeerCertificate)?;
        Ok(Self { inner, peer, generation })
    }

    /// Who is on the other end.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// The generation of our credentials when the handshake began.
    pub fn generation(&self) -> u64 {
        self.generation
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

/// A TLS alert becomes the error that says who refused whom.
fn explain(error: io::Error) -> io::Error {
    let kind = error.kind();
    match error.downcast::<rustls::Error>() {
        Ok(tls) => io::Error::new(kind, HandshakeError::of_tls(tls)),
        Err(other) => other,
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf).map_err(explain)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf).map_err(explain)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs).map_err(explain)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(explain)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx).map_err(explain)
    }
}
