//! The requests of one signer name: listed in pages, then watched, then listed again. Whatever happens to the connection, the
//! versions or single objects, the watch goes on; it ends only when it is stopped.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    calls::{CallError, Calls, Status, stay_away},
    lines::{Line, Lines},
    versions::{GROUP, REQUESTS, Version, Versions},
    wire::RequestObject,
};
use crate::{
    chain::Chain,
    metrics::Metrics,
    names::{RequestUid, SignerName},
    pace::{Backoff, Pace, chance, sleep_until},
};

/// What the watch tells the controller.
#[derive(Debug)]
pub(crate) enum News {
    /// A request as it is now, seen in (or after) the listing of this number, read through this version. Answered ones come
    /// too: somebody has to see what was issued under our name.
    Seen(u64, Version, Box<RequestObject>),
    /// A request as it was when a listing began, perhaps minutes ago, shown once more in case it was turned away.
    Again(u64, Version, Box<RequestObject>),
    /// A request was deleted.
    Gone(RequestUid),
    /// The listing of this number ended: what it did not show is gone.
    Listed(u64),
    /// From now on what happens is heard at once. Until now it was not.
    Open,
    /// From now on, until it is open again, nothing is heard.
    Deaf,
}

/// One watch, of one signer name.
pub(crate) struct Watch {
    pub(crate) calls: Calls,
    pub(crate) versions: Versions,
    pub(crate) signer: SignerName,
    /// The number of the signer, which goes with all news of it.
    pub(crate) number: usize,
    pub(crate) out: mpsc::Sender<(usize, News)>,
    /// Whether the controller has room. Not, once it has turned a request away; and again when half of those that it kept are done.
    pub(crate) room: watch::Receiver<bool>,
    pub(crate) metrics: Metrics,
    pub(crate) pace: Pace,
}

/// How far a listing has come.
#[derive(Debug)]
struct Place {
    /// The token of the page that comes next. Empty: it has not begun, or has ended.
    next: String,
    /// How many a page shows.
    at_once: u32,
}

impl Default for Place {
    fn default() -> Self {
        Self { next: String::new(), at_once: PAGE }
    }
}

/// A listing on its way, by its number.
#[derive(Debug, Default)]
struct Listing {
    round: u64,
    place: Place,
}

impl Listing {
    /// The one after it.
    fn anew(self) -> Self {
        Self { round: self.round.saturating_add(1), place: Place::default() }
    }
}

/// What the controller turned away is shown to it once more, beside the watch: page after page for as long as it has room, and from
/// the beginning again if it turned away what lies behind.
#[derive(Debug)]
struct Rest {
    room: watch::Receiver<bool>,
    place: Place,
    /// The token of the page that was shown last.
    last: String,
    /// Whether something was turned away since this way through all of them began.
    again: bool,
    /// How often the page that comes next could not be read, and until when it is left.
    failed: u32,
    pause: Option<Instant>,
}

impl Rest {
    fn new(room: watch::Receiver<bool>) -> Self {
        Self { room, place: Place::default(), last: String::new(), again: false, failed: 0, pause: None }
    }

    /// A listing of all begins. What it turns away, it may show too soon.
    fn restart(&mut self) {
        *self = Self::new(self.room.clone());
        self.room.mark_unchanged();
    }

    /// Waits until something is turned away or there is room again.
    async fn changed(&mut self) {
        if self.room.changed().await.is_err() {
            // The controller has gone, which is seen elsewhere.
            std::future::pending::<()>().await;
        }
        self.again = true;
        if !*self.room.borrow_and_update() {
            self.place.next.clone_from(&self.last);
        }
    }

    /// When the next page is to be shown, if there is something to show and room for it.
    fn due(&self) -> Option<Instant> {
        let is_due = *self.room.borrow() && (self.again || !self.place.next.is_empty());
        is_due.then(|| self.pause.unwrap_or_else(Instant::now))
    }
}

/// Why a stream of events ended.
#[derive(Debug)]
enum End {
    /// As every watch does in the end: go on from the last event.
    Over,
    /// What comes next is not known any more: list again.
    Lost(&'static str),
    Failed(WatchError),
    /// Nobody listens.
    Stopped,
}

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(
        "the API server serves no {REQUESTS}: is the feature gate PodCertificateRequest on, and {GROUP}/v1 or v1beta1 enabled?"
    )]
    NotServed,
    #[error("could not list {REQUESTS}")]
    List(#[source] CallError),
    #[error("could not watch {REQUESTS}")]
    Open(#[source] CallError),
    #[error("the watch of {REQUESTS} broke off: {0}")]
    Broken(String),
    #[error("the watch of {REQUESTS} was silent")]
    Silent,
    #[error("the controller has stopped listening")]
    Stopped,
}

impl WatchError {
    fn cause(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::NotServed | Self::List(_) | Self::Open(_) | Self::Broken(_) | Self::Stopped => "error",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::List(error) | Self::Open(error) => error.retry_after(),
            Self::NotServed | Self::Broken(_) | Self::Silent | Self::Stopped => None,
        }
    }

    /// Whether the path may be gone because the cluster changed under us.
    fn is_unserved(&self) -> bool {
        match self {
            Self::NotServed => true,
            Self::List(error) | Self::Open(error) => error.is_unserved(),
            Self::Broken(_) | Self::Silent | Self::Stopped => false,
        }
    }
}

impl Watch {
    /// Watches until the receiving end is dropped.
    pub(crate) async fn run(self) {
        let mut attempt = 0_u32;
        let mut listing = Listing::default();
        let mut rest = Rest::new(self.room.clone());
        while !self.out.is_closed() {
            if listing.place.next.is_empty() {
                listing = listing.anew();
                rest.restart();
            }
            let known = listing.place.next.clone();
            let error = match self.list(&mut listing).await {
                Err(error) => {
                    // One that came further is no sign that the next attempt will fail.
                    attempt = if listing.place.next == known { attempt } else { 0 };
                    error
                }
                Ok((version, from)) => {
                    attempt = 0;
                    match self.follow(listing.round, version, from, &mut rest).await {
                        Ok(cause) => {
                            self.metrics.watch_restarted(cause);
                            continue;
                        }
                        Err(error) => error,
                    }
                }
            };
            if matches!(error, WatchError::Stopped) {
                return;
            }
            self.metrics.watch_restarted(error.cause());
            let wait = stay_away(error.retry_after(), self.pace.of(RETRY.wait(attempt, chance())));
            attempt = attempt.saturating_add(1);
            // Where etcd is an older one, a page of what is not any more fails for ever.
            if attempt >= MOST_TRIES {
                listing.place.next.clear();
            }
            tracing::warn!(signer = %self.signer, error = %Chain(&error), again_in = ?wait, "cannot see certificate requests");
            tokio::time::sleep(wait).await;
            if error.is_unserved()
                && let Err(error) = self.versions.discover().await
            {
                tracing::warn!(error = %Chain(&error), "could not ask which versions the API server serves");
            }
        }
    }

    /// Lists from where this listing has come to. What it shows is answered when it has ended, so one that breaks off goes on at the page
    /// that failed: begun anew again and again it might never end.
    async fn list(&self, listing: &mut Listing) -> Result<(Version, String), WatchError> {
        let version = self.versions.served().requests.ok_or(WatchError::NotServed)?;
        loop {
            let page = self.page(version, &mut listing.place).await?;
            for request in page.items.unwrap_or_default() {
                self.see(News::Seen, listing.round, version, request).await?;
            }
            listing.place.next = page.metadata.next.unwrap_or_default();
            if listing.place.next.is_empty() {
                self.tell(News::Listed(listing.round)).await?;
                return Ok((version, page.metadata.resource_version));
            }
        }
    }

    /// Shows the controller what it may have room for now. A page that cannot be read is tried again later: the watch beside it is sound.
    async fn list_on(&self, round: u64, version: Version, rest: &mut Rest) -> Result<(), WatchError> {
        if rest.place.next.is_empty() {
            rest.again = false;
        }
        let page = match self.page(version, &mut rest.place).await {
            Ok(page) => page,
            Err(error) => {
                let wait = stay_away(error.retry_after(), self.pace.of(RETRY.wait(rest.failed, chance())));
                rest.failed = rest.failed.saturating_add(1);
                // As in `run`.
                if rest.failed >= MOST_TRIES {
                    rest.place.next.clear();
                }
                rest.again |= rest.place.next.is_empty();
                rest.pause = Instant::now().checked_add(wait);
                tracing::info!(signer = %self.signer, error = %Chain(&error), again_in = ?wait, "cannot see what was turned away");
                return Ok(());
            }
        };
        (rest.failed, rest.pause) = (0, None);
        for request in page.items.unwrap_or_default() {
            self.see(News::Again, round, version, request).await?;
        }
        rest.last = std::mem::replace(&mut rest.place.next, page.metadata.next.unwrap_or_default());
        if rest.place.next.is_empty() {
            rest.last.clear();
        }
        Ok(())
    }

    /// Reads the page that comes next.
    async fn page(&self, version: Version, place: &mut Place) -> Result<Page, WatchError> {
        loop {
            let Place { next, at_once } = &*place;
            let path = format!("{}?{}&limit={at_once}&continue={}", path(version), self.selector(), encode(next));
            match self.calls.get::<Page>(&path).await {
                Ok(page) => return Ok(page),
                // Annotations may weigh a quarter of a megabyte each.
                Err(CallError::TooLong(_)) if place.at_once > 1 => {
                    place.at_once = place.at_once.checked_div(8).unwrap_or(1).max(1);
                }
                Err(error) => {
                    // etcd has forgotten how it was when the listing began, or the version that was listed is not served any more.
                    if error.is_expired() || error.is_unserved() {
                        place.next.clear();
                    }
                    return Err(WatchError::List(error));
                }
            }
        }
    }

    /// Watches from a resourceVersion on, again and again, until it is time to list. Says why.
    async fn follow(
        &self,
        round: u64,
        version: Version,
        mut from: String,
        rest: &mut Rest,
    ) -> Result<&'static str, WatchError> {
        let begun = Instant::now();
        let (mut attempt, mut is_anew) = (0_u32, true);
        let mut obstacle = None;
        while begun.elapsed() < RELIST {
            let (known, opened) = (from.clone(), Instant::now());
            let end = match obstacle {
                Some(end) => end,
                None => self.stream(round, version, &mut from, is_anew, rest).await,
            };
            let is_empty = from == known && opened.elapsed() < self.pace.of(AT_ONCE);
            let end = if is_empty && matches!(end, End::Over) {
                End::Failed(WatchError::Broken(NOTHING.to_owned()))
            } else {
                end
            };
            is_anew = !matches!(end, End::Over);
            if is_anew {
                self.tell(News::Deaf).await?;
            }
            match end {
                End::Over => attempt = 0,
                End::Lost(cause) => return Ok(cause),
                End::Stopped => return Err(WatchError::Stopped),
                End::Failed(error) if error.is_unserved() => return Err(error),
                End::Failed(error) => {
                    // A stream that brought something was alive: its end is no sign that the next will fail.
                    attempt = if from == known { attempt.saturating_add(1) } else { 0 };
                    let wait = stay_away(error.retry_after(), self.pace.of(RETRY.wait(attempt, chance())));
                    tracing::info!(signer = %self.signer, error = %Chain(&error), again_in = ?wait, "watching again");
                    self.metrics.watch_restarted(error.cause());
                    tokio::time::sleep(wait).await;
                }
            }
            if self.out.is_closed() {
                return Err(WatchError::Stopped);
            }
            obstacle = self.obstacle(version, &from).await;
        }
        Ok("ended")
    }

    /// What stands against watching from here on.
    async fn obstacle(&self, version: Version, from: &str) -> Option<End> {
        match is_older(&self.calls, &format!("{}?{}", path(version), self.selector()), from).await {
            Ok(false) => None,
            Ok(true) => Some(End::Lost(ROLLED_BACK)),
            Err(error) => Some(End::Failed(WatchError::List(error))),
        }
    }

    async fn stream(&self, round: u64, version: Version, from: &mut String, is_anew: bool, rest: &mut Rest) -> End {
        let path = format!(
            "{}?{}&watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
            path(version),
            self.selector(),
            STREAM.as_secs(),
            encode(from)
        );
        let mut lines = match self.calls.open(&path).await {
            Ok(body) => Lines::new(body),
            Err(error) if error.is_expired() => return End::Lost("expired"),
            Err(error) => return End::Failed(WatchError::Open(error)),
        };
        if is_anew && self.tell(News::Open).await.is_err() {
            return End::Stopped;
        }
        loop {
            let due = rest.due();
            let line = tokio::select! {
                line = lines.next(SILENCE) => line,
                () = self.out.closed() => return End::Stopped,
                () = rest.changed() => continue,
                () = sleep_until(due) => match self.list_on(round, version, rest).await {
                    Ok(()) => continue,
                    Err(_stopped) => return End::Stopped,
                },
            };
            let whole = match line {
                Line::Whole(line) => line,
                Line::TooLong => {
                    self.skip("an event is longer than any object can be");
                    // Its resourceVersion is lost with it, but that of the next event covers it.
                    continue;
                }
                Line::Silence => return End::Failed(WatchError::Silent),
                Line::End(None) => return End::Over,
                Line::End(Some(error)) => return End::Failed(WatchError::Broken(error)),
            };
            match self.event(round, version, &whole, from).await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    async fn event(&self, round: u64, version: Version, line: &[u8], from: &mut String) -> Result<(), End> {
        let event: Event<'_> = match serde_json::from_slice(line) {
            Ok(event) => event,
            // A stream that is cut off ends in half a line.
            Err(error) if error.is_eof() => return Err(End::Over),
            Err(error) => {
                self.skip(&error.to_string());
                return Ok(());
            }
        };
        let told = match &*event.kind {
            "ADDED" | "MODIFIED" => {
                let request: RequestObject = match serde_json::from_str(event.object.get()) {
                    Ok(request) => request,
                    Err(error) => {
                        self.skip(&error.to_string());
                        return Ok(());
                    }
                };
                if let Ok(target) = request.target() {
                    target.resource_version.as_str().clone_into(from);
                }
                self.see(News::Seen, round, version, request).await
            }
            "DELETED" => {
                match serde_json::from_str::<RequestObject>(event.object.get()).map(|request| request.target()) {
                    Ok(Ok(target)) => {
                        target.resource_version.as_str().clone_into(from);
                        self.tell(News::Gone(target.uid)).await
                    }
                    Ok(Err(error)) => {
                        self.skip(&error.to_string());
                        Ok(())
                    }
                    Err(error) => {
                        self.skip(&error.to_string());
                        Ok(())
                    }
                }
            }
            "BOOKMARK" => {
                if let Ok(mark) = serde_json::from_str::<Head>(event.object.get()) {
                    *from = mark.metadata.resource_version;
                }
                Ok(())
            }
            "ERROR" => {
                let status: Status = serde_json::from_str(event.object.get()).unwrap_or_default();
                if status.code == http::StatusCode::GONE.as_u16() || status.reason == "Expired" {
                    return Err(End::Lost("expired"));
                }
                return Err(End::Failed(WatchError::Broken(format!("{} {}", status.code, status.message))));
            }
            other => {
                self.skip(&format!("an event of unknown type {:?}", crate::names::clip(other)));
                Ok(())
            }
        };
        told.map_err(|_stopped| End::Stopped)
    }

    async fn see(
        &self,
        news: impl FnOnce(u64, Version, Box<RequestObject>) -> News,
        round: u64,
        version: Version,
        request: RequestObject,
    ) -> Result<(), WatchError> {
        // The field selector has done this on the server. A server that ignores it must not make us sign for others.
        if request.signer_name() == Some(self.signer.as_str()) {
            return self.tell(news(round, version, Box::new(request))).await;
        }
        if request.signer_name().is_none() {
            self.skip("a request names no signer");
        }
        Ok(())
    }

    async fn tell(&self, news: News) -> Result<(), WatchError> {
        self.out.send((self.number, news)).await.map_err(|_closed| WatchError::Stopped)
    }

    fn skip(&self, why: &str) {
        self.metrics.malformed_objects.inc();
        tracing::warn!(signer = %self.signer, why, "skipped an object that cannot be read");
    }

    fn selector(&self) -> String {
        format!("fieldSelector={}", encode(&format!("spec.signerName={}", self.signer)))
    }
}

/// Whether etcd has not come as far as what was seen of it, so that it is an older one. A watch of such a one would be silent until it
/// has, and what happens meanwhile would never be seen: nobody watches before this is known. A list of one tells, for it is as new as
/// etcd; resourceVersions of one kind are ordered (KEP-5504). `list` is a path with its query.
pub(super) async fn is_older(calls: &Calls, list: &str, seen: &str) -> Result<bool, CallError> {
    let head: Head = calls.get(&format!("{list}&limit=1")).await?;
    let places = head.metadata.resource_version.parse::<u64>().ok().zip(seen.parse().ok());
    Ok(places.is_some_and(|(now, seen)| now < seen))
}

/// The cause for which it is listed again then.
pub(super) const ROLLED_BACK: &str = "rolled_back";

/// The path of all requests of the cluster.
fn path(version: Version) -> String {
    format!("/apis/{GROUP}/{}/{REQUESTS}", version.as_str())
}

/// Percent-encodes a query's value.
pub(crate) fn encode(value: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if value.bytes().all(plain) {
        return value.into();
    }
    value.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[derive(Debug, Deserialize)]
struct Page {
    metadata: PageMetadata,
    items: Option<Vec<RequestObject>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// One line of any watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// A bookmark, or a list without what is in it.
#[derive(Deserialize)]
struct Head {
    metadata: HeadMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    resource_version: String,
}

const RETRY: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) };
/// How often a page is tried before its listing is begun anew: for six seconds.
const MOST_TRIES: u32 = 5;
/// What a request weighs at most is 40 kB, 3 kB as a rule.
const PAGE: u32 = 500;
/// A stream this short needs no bookmarks to show that it is alive: the API server ends it in time, or it is dead.
const STREAM: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(35);
/// A stream that ends so soon and brings nothing, as one through a proxy may, will do so again: it would be opened hundreds of times a second.
pub(super) const AT_ONCE: Duration = Duration::from_secs(1);
pub(super) const NOTHING: &str = "it ended at once and brought nothing";
/// A watch that lost an event without a word would otherwise lose it for ever.
const RELIST: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests;
