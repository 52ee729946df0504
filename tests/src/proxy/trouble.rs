//! What a network and a busy API server do to calls: nothing gets through, or late, or a refusal comes back, or the reply is lost after
//! the write has landed, or a watch breaks off in the middle of a line; and a clock that is wrong.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::body::Frame;
use jiff::SignedDuration;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use serde_json::json;
use tokio::sync::watch;

use crate::chance::Chance;

/// What befalls the calls that go through a proxy, until it is told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Whether anything gets through at all.
    pub gate: Gate,
    /// How long each call is kept before it is passed on.
    pub delay: Duration,
    /// Of a thousand calls so many are refused, each with one of these codes.
    pub refused: (u32, &'static [u16]),
    /// Of a thousand writes so many are carried out, and their reply is lost.
    pub lost: u32,
    /// After so many pieces a watch breaks off in the middle of the next.
    pub cut: Option<u32>,
    /// Watches are answered with 410, as an error or as an event of a stream.
    pub expired: bool,
    /// Seconds that the API server's clock seems to be ahead.
    pub ahead: i64,
}

/// Whether calls get through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// They do.
    #[default]
    Open,
    /// Each connection breaks.
    Broken,
    /// Connections stand and nothing moves on them, either way.
    Stuck,
}

/// The trouble of one proxy.
pub(super) struct Weather {
    trouble: watch::Sender<Trouble>,
    chance: Chance,
}

impl Default for Weather {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Weather {
    pub(super) fn new(seed: u64) -> Self {
        Self { trouble: watch::Sender::default(), chance: Chance::new(seed) }
    }

    pub(super) fn set(&self, trouble: Trouble) {
        self.trouble.send_replace(trouble);
    }

    /// Whether one of `of_thousand` in a thousand things happens now.
    pub(super) fn happens(&self, of_thousand: u32) -> bool {
        self.chance.below(1000) < u64::from(of_thousand)
    }

    /// Waits at the gate, and for as long as a call is kept.
    pub(super) async fn pass(&self) -> Result<Trouble, std::io::Error> {
        let mut trouble = self.trouble.subscribe();
        let now = *trouble.wait_for(|trouble| trouble.gate != Gate::Stuck).await.map_err(std::io::Error::other)?;
        if now.gate == Gate::Broken {
            return Err(std::io::Error::other("the connection breaks"));
        }
        tokio::time::sleep(now.delay).await;
        Ok(now)
    }

    /// A refusal in place of the API server's answer: code, body, and for how many seconds to stay away.
    pub(super) fn instead<B>(
        &self,
        trouble: Trouble,
        request: &Request<B>,
        is_watch: bool,
    ) -> Option<(StatusCode, Bytes, Option<u16>)> {
        if trouble.expired && is_watch {
            let status = status(410, "Expired", "too old resource version");
            return Some(match self.happens(500) {
                true => (StatusCode::GONE, status.to_string().into(), None),
                false => (StatusCode::OK, format!("{}\n", json!({"type": "ERROR", "object": status})).into(), None),
            });
        }
        let (of_thousand, codes) = trouble.refused;
        if codes.is_empty() || !self.happens(of_thousand) {
            return None;
        }
        let code = *self.chance.one_of(codes);
        // Only a write can conflict.
        let code = if code == 409 && *request.method() != Method::PUT { 500 } else { code };
        let body = status(code, "Trouble", "the fault suite says so").to_string().into();
        Some((StatusCode::from_u16(code).expect("a code"), body, (code == 429).then_some(1)))
    }

    /// The pieces of a reply, as they get through.
    pub(super) fn over(
        &self,
        pieces: impl Stream<Item = Piece> + Send + 'static,
        cut: Option<u32>,
    ) -> BoxStream<'static, Piece> {
        let reply = Reply { pieces: pieces.boxed(), trouble: self.trouble.subscribe(), left: cut, is_over: false };
        stream::unfold(reply, async |mut reply| Some((reply.next().await?, reply))).boxed()
    }
}

type Piece = Result<Frame<Bytes>, std::io::Error>;

/// A reply on its way.
struct Reply {
    pieces: BoxStream<'static, Piece>,
    trouble: watch::Receiver<Trouble>,
    left: Option<u32>,
    is_over: bool,
}

impl Reply {
    async fn next(&mut self) -> Option<Piece> {
        while !self.is_over {
            let gate = self.trouble.borrow_and_update().gate;
            match gate {
                Gate::Broken => {
                    self.is_over = true;
                    return Some(Err(std::io::Error::other("the connection breaks")));
                }
                Gate::Stuck => self.trouble.changed().await.ok()?,
                Gate::Open => tokio::select! {
                    changed = self.trouble.changed() => changed.ok()?,
                    piece = self.pieces.next() => return Some(self.cut(piece?)),
                },
            }
        }
        // What was cut off is told by an error, as a connection that ends too early is.
        self.left.take().map(|_| Err(std::io::Error::other("the connection breaks off")))
    }

    fn cut(&mut self, piece: Piece) -> Piece {
        match &mut self.left {
            Some(0) => {
                self.is_over = true;
                piece.map(|frame| match frame.into_data() {
                    Ok(data) => Frame::data(data.slice(..data.len() / 2)),
                    Err(trailers) => trailers,
                })
            }
            Some(left) => {
                *left -= 1;
                piece
            }
            None => piece,
        }
    }
}

impl Trouble {
    /// Moves the API server's clock.
    pub(super) fn shift_date(&self, headers: &mut HeaderMap) {
        let Some(date) = headers.get(http::header::DATE).and_then(|date| date.to_str().ok()) else { return };
        if self.ahead == 0 {
            return;
        }
        let date = DateTimeParser::new().parse_timestamp(date).expect("the API server's date");
        let date = date + SignedDuration::from_secs(self.ahead);
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&date).expect("a date");
        headers.insert(http::header::DATE, HeaderValue::from_str(&text).expect("a date is ASCII"));
    }
}

fn status(code: u16, reason: &str, message: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code})
}
