//! A service that echoes lines, and a client that talks to it for ever: how yours would use `podmint`.
//!
//! [`serve`] and [`converse`] run until their token is cancelled, alone in a pod or side by side in one process. They keep their own [`Counts`].

use crate::echo_counts::Counts;
use anyhow::{Context, bail};
use futures::FutureExt as _;
use podmint::{Authorizer, Connector, HandshakeError, PodIdentity, Stream};
use rustls_pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longer lines are refused: a peer must not fill our memory.
const LONGEST_LINE: u64 = 4096;
/// Out of file descriptors, say: try again rather than spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// An answer over loopback or between pods takes milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Echoes lines to whom `allow` lets in, until `stop`. Open conversations are closed in good order then.
///
/// # Errors
/// The crypto provider has no TLS 1.3.
pub async fn serve(
    listener: TcpListener,
    identity: &PodIdentity,
    allow: Authorizer,
    counts: Arc<Counts>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let acceptor = identity.server(allow).acceptor().context("could not build the TLS server")?;
    let conversations = TaskTracker::new();
    loop {
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            () = stop.cancelled() => break,
        };
        let connection = match connection {
            Ok((connection, _)) => connection,
            Err(error) => {
                tracing::warn!("could not accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, identity) = (acceptor.clone(), identity.clone());
        let (counts, stop) = (Arc::clone(&counts), stop.clone());
        conversations.spawn(async move {
            let own = identity.snapshot();
            let started = Instant::now();
            let shaken = tokio::select! {
                shaken = acceptor.accept(connection) => shaken,
                () = stop.cancelled() => return, // neither made nor failed
            };
            match shaken {
                Ok(stream) => {
                    counts.handshake(stream.peer(), &own, started.elapsed());
                    tracing::debug!(peer = %stream.peer(), serial = stream.peer().serial(), "connected");
                    // When both sides are told to stop at once, whoever is slower is cut off: no failure.
                    if let Err(error) = echo(stream, &counts, &stop).await
                        && !stop.is_cancelled()
                    {
                        counts.drop_out();
                        tracing::warn!("a conversation broke off: {error}");
                    }
                }
                Err(error) => {
                    counts.failure(error.reason());
                    tracing::warn!(reason = error.reason(), "handshake failed: {error}");
                }
            }
        });
    }
    conversations.close();
    conversations.wait().await;
    Ok(())
}

/// Sends each line back until the peer or we have had enough.
async fn echo(stream: Stream<TcpStream>, counts: &Counts, stop: &CancellationToken) -> io::Result<()> {
    let ending = stream.ending();
    tokio::pin!(ending);
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(LONGEST_LINE);
        let read = tokio::select! {
            read = bounded.read_until(b'\n', &mut line) => read?,
            () = stop.cancelled() => 0,
            // The peer's certificate ends soon: a goodbye now, so that it can come again with its next one.
            _ = &mut ending => 0,
        };
        if read == 0 {
            writer.shutdown().await?;
            // What the peer had sent meanwhile is still read: left behind, it would be answered with a reset, which can overtake
            // our goodbye. A peer that says no goodbye of its own is no news here.
            let mut nowhere = tokio::io::sink();
            let rest = tokio::io::copy(&mut reader, &mut nowhere);
            if let Ok(Err(error)) = tokio::time::timeout(ANSWER_TIMEOUT, rest).await {
                tracing::debug!("the peer left without a goodbye: {error}");
            }
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long or cut short"));
        }
        writer.write_all(&line).await?;
        writer.flush().await?;
        counts.message();
    }
}

/// How the client talks.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// Host and port.
    pub address: String,
    /// From one line to the next.
    pub pace: Duration,
    /// Every so many lines, one goes over a new connection, so that renewed credentials are used. The others go over one connection that stays.
    pub fresh_every: u32,
}

impl Conversation {
    /// Ten lines a second, every other one over a new connection.
    pub fn with(address: impl Into<String>) -> Self {
        Self { address: address.into(), pace: Duration::from_millis(100), fresh_every: 2 }
    }
}

/// Talks to a server that `allow` expects, until `stop`. A failure is counted and the next line tries again.
///
/// # Errors
/// The address names no host, or the crypto provider has no TLS 1.3.
pub async fn converse(
    conversation: Conversation,
    identity: &PodIdentity,
    allow: Authorizer,
    counts: Arc<Counts>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let client = Client {
        name: host_of(&conversation.address)?,
        address: conversation.address,
        connector: identity.client(allow).connector().context("could not build the TLS client")?,
        identity: identity.clone(),
        counts,
        stop: stop.clone(),
    };
    let fresh_every = conversation.fresh_every.max(1);
    let mut pace = tokio::time::interval(conversation.pace.max(Duration::from_millis(1)));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut lasting: Option<Line> = None;
    for number in 0_u32.. {
        tokio::select! {
            _ = pace.tick() => {}
            () = stop.cancelled() => break,
        }
        // A line that is under way is finished, so that stopping is not counted as a failure of either side.
        let text = format!("line {number}\n");
        if number.checked_rem(fresh_every) == Some(0) {
            if let Some(line) = client.open_and_say(&text).await {
                line.close().await;
            }
        } else {
            lasting = match lasting.take() {
                Some(line) => client.say(line, &text).await,
                None => client.open_and_say(&text).await,
            };
        }
    }
    if let Some(line) = lasting {
        line.close().await;
    }
    Ok(())
}

/// The name that was dialled, for SNI. Who answers is decided by the SPIFFE ID.
fn host_of(address: &str) -> anyhow::Result<ServerName<'static>> {
    let Some((host, _port)) = address.rsplit_once(':') else {
        bail!("the address {address:?} has no port");
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(host).with_context(|| format!("the address {address:?} names no host"))
}

struct Client {
    address: String,
    name: ServerName<'static>,
    connector: Connector,
    identity: PodIdentity,
    counts: Arc<Counts>,
    /// Once told, the server may have been told, too: what fails then is no failure.
    stop: CancellationToken,
}

/// An open connection.
struct Line(BufReader<Stream<TcpStream>>);

enum Answer {
    Echo,
    /// The server closed in good order instead.
    Goodbye,
}

impl Line {
    async fn say(&mut self, text: &str) -> io::Result<Answer> {
        let exchange = async {
            self.0.write_all(text.as_bytes()).await?;
            self.0.flush().await?;
            let mut answer = String::new();
            (&mut self.0).take(LONGEST_LINE).read_line(&mut answer).await?;
            if answer.is_empty() {
                Ok(Answer::Goodbye)
            } else if answer == text {
                Ok(Answer::Echo)
            } else {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the echo differs"))
            }
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(done) => done,
            Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        }
    }

    /// The server's certificate ends soon: time for a new connection.
    fn is_ending(&self) -> bool {
        self.0.get_ref().ending().now_or_never().is_some()
    }

    async fn close(mut self) {
        if let Err(error) = self.0.shutdown().await {
            tracing::debug!("could not say goodbye: {error}");
        }
    }
}

impl Client {
    /// A new connection and its first line. In TLS 1.3 only the first answer shows that the server let us in, so it is part of the handshake here.
    async fn open_and_say(&self, text: &str) -> Option<Line> {
        match self.try_open(text).await {
            Ok(line) => Some(line),
            Err(reason) => {
                if !self.stop.is_cancelled() {
                    self.counts.failure(&reason);
                }
                None
            }
        }
    }

    async fn try_open(&self, text: &str) -> Result<Line, String> {
        let failed = |error: io::Error| {
            let reason = match error.get_ref().and_then(|inner| inner.downcast_ref::<HandshakeError>()) {
                Some(handshake) => handshake.reason().to_owned(),
                None => format!("io: {:?}", error.kind()),
            };
            tracing::warn!(%reason, "no connection to {}: {error}", self.address);
            reason
        };
        let own = self.identity.snapshot();
        let connection = TcpStream::connect(&self.address).await.map_err(failed)?;
        connection.set_nodelay(true).map_err(failed)?;
        let started = Instant::now();
        let shaken = self.connector.connect(self.name.clone(), connection).await;
        let took = started.elapsed();
        let stream = shaken.map_err(|error| failed(io::Error::other(error)))?;
        let peer = stream.peer().clone();
        let mut line = Line(BufReader::new(stream));
        if let Answer::Goodbye = line.say(text).await.map_err(failed)? {
            return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed without an answer")));
        }
        self.counts.handshake(&peer, &own, took);
        self.counts.message();
        Ok(line)
    }

    /// A further line over a connection that lasts; over a new one when the server, or its certificate, has come to its end.
    async fn say(&self, mut line: Line, text: &str) -> Option<Line> {
        if line.is_ending() {
            line.close().await;
            return self.open_and_say(text).await;
        }
        match line.say(text).await {
            Ok(Answer::Echo) => {
                self.counts.message();
                Some(line)
            }
            Ok(Answer::Goodbye) => self.open_and_say(text).await,
            Err(error) => {
                if !self.stop.is_cancelled() {
                    self.counts.drop_out();
                    tracing::warn!("the lasting conversation broke off: {error}");
                }
                None
            }
        }
    }
}
