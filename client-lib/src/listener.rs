//! A TCP listener that hands out connections whose peer is known already.

use crate::identity::PodIdentity;
use crate::server::Acceptor;
use crate::stream::Stream;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Out of file descriptors, say: try again rather than spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts TCP connections and runs their handshakes side by side, so that a stalled client delays nobody. Made by [`ServerBuilder::listener`](crate::ServerBuilder::listener).
///
/// A handshake that fails is logged and counted and never handed out. While as many handshakes are under way as
/// [`ServerBuilder::max_handshakes`](crate::ServerBuilder::max_handshakes) allows, further clients wait in the kernel's queue. Dropping it ends the handshakes under way.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    acceptor: Acceptor,
    shaking: JoinSet<Option<(Stream<TcpStream>, SocketAddr)>>,
}

impl Listener {
    pub(crate) fn new(tcp: TcpListener, acceptor: Acceptor) -> Self {
        Self { tcp, acceptor, shaking: JoinSet::new() }
    }

    /// The next connection whose handshake has succeeded, and where it comes from. It may be dropped while it waits; nothing is lost then.
    pub async fn accept(&mut self) -> (Stream<TcpStream>, SocketAddr) {
        loop {
            let free = self.shaking.len() < self.acceptor.at_once();
            tokio::select! {
                Some(shaken) = self.shaking.join_next() => {
                    if let Ok(Some(ready)) = shaken {
                        return ready;
                    }
                }
                accepted = self.tcp.accept(), if free => match accepted {
                    Ok((connection, from)) => self.shake(connection, from),
                    Err(error) => {
                        tracing::warn!("could not accept a connection: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The identity it serves with.
    pub fn identity(&self) -> &PodIdentity {
        self.acceptor.identity()
    }

    fn shake(&mut self, connection: TcpStream, from: SocketAddr) {
        let acceptor = self.acceptor.clone();
        self.shaking.spawn(async move {
            // Answers are small and awaited: waiting to fill a packet only delays them.
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%from, "could not set TCP_NODELAY: {error}");
            }
            match acceptor.accept(connection).await {
                Ok(stream) => Some((stream, from)),
                Err(error) => {
                    tracing::warn!(%from, reason = error.reason(), "handshake failed: {error}");
                    None
                }
            }
        });
    }
}
