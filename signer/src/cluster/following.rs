//! What every watch does once its objects are listed: one stream of events after the other, each from where the last one ended, until
//! it is time to list them anew.

use std::{borrow::Cow, time::Duration};

use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use super::{
    calls::{CallError, Calls, Status, stay_away},
    lines::{Line, Lines},
};
use crate::{
    chain::Chain,
    metrics::Metrics,
    pace::{Backoff, Pace, chance},
};

/// Objects that are watched.
pub(super) trait Watched {
    /// What they are called in the log.
    fn name(&self) -> String;

    /// The path of their list, with a query that goes on.
    fn list(&self) -> String;

    /// A stream is open; `is_anew` where what happened was not heard for a while.
    async fn opened(&mut self, is_anew: bool) -> Result<(), End>;

    /// Reads a stream to its end. What was read of it moves `from` on.
    async fn read(&mut self, lines: Lines<Body>, from: &mut String) -> End;

    /// What happens is not heard until a stream is open again.
    async fn broke_off(&mut self) -> Result<(), End>;
}

/// Why a stream of events ended.
#[derive(Debug)]
pub(super) enum End {
    /// As every watch does in the end: go on from the last event.
    Over,
    /// What comes next is not known any more: list again.
    Lost(&'static str),
    Failed(StreamError),
    /// Nobody listens.
    Stopped,
}

/// Why nothing more is watched.
#[derive(Debug)]
pub(super) enum Left {
    /// It is time to list again, for this cause.
    List(&'static str),
    /// What was watched is not served any more.
    Unserved(StreamError),
    Stopped,
}

/// What is wrong with a stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("could not see how far the API server has come")]
    Look(#[source] CallError),
    #[error("the watch could not be opened")]
    Open(#[source] CallError),
    #[error("the watch broke off: {0}")]
    Broken(String),
    #[error("the watch was silent")]
    Silent,
}

impl StreamError {
    /// For the metric.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Look(_) | Self::Open(_) | Self::Broken(_) => "error",
        }
    }

    fn call(&self) -> Option<&CallError> {
        match self {
            Self::Look(error) | Self::Open(error) => Some(error),
            Self::Broken(_) | Self::Silent => None,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.call().and_then(CallError::retry_after)
    }

    /// Whether the path may be gone because the cluster changed under us.
    pub(super) fn is_unserved(&self) -> bool {
        self.call().is_some_and(CallError::is_unserved)
    }
}

/// Watches from a resourceVersion on, again and again, until it is time to list.
pub(super) async fn follow(
    watched: &mut impl Watched,
    calls: &Calls,
    metrics: &Metrics,
    pace: Pace,
    mut from: String,
) -> Left {
    let begun = Instant::now();
    let (mut attempt, mut is_anew) = (0_u32, true);
    let mut obstacle = None;
    while begun.elapsed() < RELIST {
        let (known, opened) = (from.clone(), Instant::now());
        let end = match obstacle {
            Some(end) => end,
            None => stream(watched, calls, &mut from, is_anew).await,
        };
        let is_empty = from == known && opened.elapsed() < pace.of(AT_ONCE);
        let end = if is_empty && matches!(end, End::Over) {
            End::Failed(StreamError::Broken("it ended at once and brought nothing".to_owned()))
        } else {
            end
        };
        is_anew = !matches!(end, End::Over);
        if is_anew && watched.broke_off().await.is_err() {
            return Left::Stopped;
        }
        match end {
            End::Over => attempt = 0,
            End::Lost(cause) => return Left::List(cause),
            End::Stopped => return Left::Stopped,
            End::Failed(error) if error.is_unserved() => return Left::Unserved(error),
            End::Failed(error) => {
                // A stream that brought something was alive: its end is no sign that the next will fail.
                attempt = if from == known { attempt.saturating_add(1) } else { 0 };
                let wait = stay_away(error.retry_after(), pace.of(RETRY.wait(attempt, chance())));
                tracing::info!(what = watched.name(), error = %Chain(&error), again_in = ?wait, "watching again");
                metrics.watch_restarted(error.cause());
                sleep(wait).await;
            }
        }
        obstacle = match is_older(calls, &watched.list(), &from).await {
            Ok(false) => None,
            Ok(true) => Some(End::Lost("rolled_back")),
            Err(error) => Some(End::Failed(StreamError::Look(error))),
        };
    }
    Left::List("ended")
}

/// Whether etcd has not come as far as what was seen of it, so that it is an older one. A watch of such a one would be silent until it
/// has, and what happens meanwhile would never be seen: nobody watches before this is known. A list of one tells, for it is as new as
/// etcd; resourceVersions of one kind are ordered (KEP-5504).
async fn is_older(calls: &Calls, list: &str, seen: &str) -> Result<bool, CallError> {
    let head: Head = calls.get(&format!("{list}limit=1")).await?;
    let places = head.metadata.resource_version.parse::<u64>().ok().zip(seen.parse().ok());
    Ok(places.is_some_and(|(now, seen)| now < seen))
}

async fn stream(watched: &mut impl Watched, calls: &Calls, from: &mut String, is_anew: bool) -> End {
    let path = format!(
        "{}watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
        watched.list(),
        STREAM.as_secs(),
        encode(from)
    );
    let lines = match calls.open(&path).await {
        Ok(body) => Lines::new(body),
        Err(error) if error.is_expired() => return End::Lost(EXPIRED),
        Err(error) => return End::Failed(StreamError::Open(error)),
    };
    match watched.opened(is_anew).await {
        Ok(()) => watched.read(lines, from).await,
        Err(end) => end,
    }
}

/// The next line of a stream; none for one that is longer than any object can be.
pub(super) async fn next_line(lines: &mut Lines<Body>) -> Result<Option<bytes::Bytes>, End> {
    match lines.next(SILENCE).await {
        Line::Whole(line) => Ok(Some(line)),
        Line::TooLong => Ok(None),
        Line::Silence => Err(End::Failed(StreamError::Silent)),
        Line::End(None) => Err(End::Over),
        Line::End(Some(error)) => Err(End::Failed(StreamError::Broken(error))),
    }
}

/// One line of any watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// Why a line is no event.
pub(super) enum NoEvent {
    /// It is the end of the stream.
    End(End),
    Malformed(serde_json::Error),
}

impl<'a> Event<'a> {
    pub(super) fn read(line: &'a [u8]) -> Result<Self, NoEvent> {
        let event: Self = match serde_json::from_slice(line) {
            Ok(event) => event,
            // A stream that is cut off ends in half a line.
            Err(error) if error.is_eof() => return Err(NoEvent::End(End::Over)),
            Err(error) => return Err(NoEvent::Malformed(error)),
        };
        if event.kind != "ERROR" {
            return Ok(event);
        }
        let Status { code, reason, message, .. } = serde_json::from_str(event.object.get()).unwrap_or_default();
        let is_expired = code == http::StatusCode::GONE.as_u16() || reason == "Expired";
        let broken = || End::Failed(StreamError::Broken(format!("{code} {message}")));
        Err(NoEvent::End(if is_expired { End::Lost(EXPIRED) } else { broken() }))
    }
}

/// A bookmark, or a list without what is in it.
#[derive(Deserialize)]
pub(super) struct Head {
    pub(super) metadata: HeadMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HeadMetadata {
    pub(super) resource_version: String,
}

/// Percent-encodes a query's value.
pub(super) fn encode(value: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if value.bytes().all(plain) {
        return value.into();
    }
    value.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

pub(super) const RETRY: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) };
/// A stream this short needs no bookmarks to show that it is alive: the API server ends it in time, or it is dead.
pub(super) const STREAM: Duration = Duration::from_secs(30);
pub(super) const SILENCE: Duration = Duration::from_secs(35);
/// A stream that ends so soon and brings nothing, as one through a proxy may, will do so again: it would be opened hundreds of times a second.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A watch that lost an event without a word would otherwise lose it for ever.
const RELIST: Duration = Duration::from_mins(10);
/// The cause where etcd does not remember what comes next.
const EXPIRED: &str = "expired";
