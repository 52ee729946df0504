//! The requests of one signer name: listed in pages, then watched, then listed again. Whatever happens to the connection, the
//! versions or single objects, the watch goes on; it ends only when it is stopped.

use std::time::Duration;

use kube::client::Body;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    calls::{CallError, Calls, stay_away},
    following::{End, Event, Head, Left, NoEvent, RETRY, StreamError, Watched, encode, follow, next_line},
    lines::Lines,
    versions::{GROUP, REQUESTS, Version, Versions},
    wire::RequestObject,
};
use crate::{
    chain::Chain,
    metrics::Metrics,
    names::{RequestUid, SignerName},
    pace::{Pace, chance, sleep_until},
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

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(
        "the API server serves no {REQUESTS}: is the feature gate PodCertificateRequest on, and {GROUP}/v1 or v1beta1 enabled?"
    )]
    NotServed,
    #[error("could not list {REQUESTS}")]
    List(#[source] CallError),
    #[error("could not watch {REQUESTS}")]
    Watch(#[source] StreamError),
    #[error("the controller has stopped listening")]
    Stopped,
}

impl WatchError {
    fn cause(&self) -> &'static str {
        match self {
            Self::Watch(error) => error.cause(),
            Self::NotServed | Self::List(_) | Self::Stopped => "error",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::List(error) => error.retry_after(),
            Self::Watch(error) => error.retry_after(),
            Self::NotServed | Self::Stopped => None,
        }
    }

    /// Whether the path may be gone because the cluster changed under us.
    fn is_unserved(&self) -> bool {
        match self {
            Self::NotServed => true,
            Self::List(error) => error.is_unserved(),
            Self::Watch(error) => error.is_unserved(),
            Self::Stopped => false,
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
                    let mut requests = Requests { watch: &self, round: listing.round, version, rest: &mut rest };
                    match follow(&mut requests, &self.calls, &self.metrics, self.pace, from).await {
                        Left::List(cause) => {
                            self.metrics.watch_restarted(cause);
                            continue;
                        }
                        Left::Unserved(error) => WatchError::Watch(error),
                        Left::Stopped => return,
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
            let path = format!("{}limit={at_once}&continue={}", self.list_of(version), encode(next));
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

    /// The path of all requests of the cluster that are for this signer, with a query that goes on.
    fn list_of(&self, version: Version) -> String {
        let selector = format!("spec.signerName={}", self.signer);
        format!("/apis/{GROUP}/{}/{REQUESTS}?fieldSelector={}&", version.as_str(), encode(&selector))
    }
}

/// What is watched once a listing has ended.
struct Requests<'a> {
    watch: &'a Watch,
    /// The listing's number.
    round: u64,
    version: Version,
    rest: &'a mut Rest,
}

impl Watched for Requests<'_> {
    fn name(&self) -> String {
        format!("requests of {}", self.watch.signer)
    }

    fn list(&self) -> String {
        self.watch.list_of(self.version)
    }

    async fn opened(&mut self, is_anew: bool) -> Result<(), End> {
        if is_anew { self.tell(News::Open).await } else { Ok(()) }
    }

    async fn read(&mut self, mut lines: Lines<Body>, from: &mut String) -> End {
        loop {
            let due = self.rest.due();
            let line = tokio::select! {
                line = next_line(&mut lines) => line,
                () = self.watch.out.closed() => return End::Stopped,
                () = self.rest.changed() => continue,
                () = sleep_until(due) => match self.watch.list_on(self.round, self.version, self.rest).await {
                    Ok(()) => continue,
                    Err(_stopped) => return End::Stopped,
                },
            };
            let read = match line {
                Ok(Some(line)) => self.event(&line, from).await,
                // Its resourceVersion is lost with it, but that of the next event covers it.
                Ok(None) => {
                    self.watch.skip("an event is longer than any object can be");
                    Ok(())
                }
                Err(end) => Err(end),
            };
            if let Err(end) = read {
                return end;
            }
        }
    }

    async fn broke_off(&mut self) -> Result<(), End> {
        self.tell(News::Deaf).await
    }
}

impl Requests<'_> {
    async fn event(&self, line: &[u8], from: &mut String) -> Result<(), End> {
        let event = match Event::read(line) {
            Ok(event) => event,
            Err(NoEvent::End(end)) => return Err(end),
            Err(NoEvent::Malformed(error)) => {
                self.watch.skip(&error.to_string());
                return Ok(());
            }
        };
        match &*event.kind {
            "ADDED" | "MODIFIED" | "DELETED" => match serde_json::from_str::<RequestObject>(event.object.get()) {
                Ok(request) => self.seen(request, event.kind == "DELETED", from).await,
                Err(error) => {
                    self.watch.skip(&error.to_string());
                    Ok(())
                }
            },
            "BOOKMARK" => {
                if let Ok(mark) = serde_json::from_str::<Head>(event.object.get()) {
                    *from = mark.metadata.resource_version;
                }
                Ok(())
            }
            other => {
                self.watch.skip(&format!("an event of unknown type {:?}", crate::names::clip(other)));
                Ok(())
            }
        }
    }

    async fn seen(&self, request: RequestObject, is_gone: bool, from: &mut String) -> Result<(), End> {
        let target = request.target();
        if let Ok(target) = &target {
            target.resource_version.as_str().clone_into(from);
        }
        match target {
            _ if !is_gone => {
                let seen = self.watch.see(News::Seen, self.round, self.version, request).await;
                seen.map_err(|_stopped| End::Stopped)
            }
            Ok(target) => self.tell(News::Gone(target.uid)).await,
            Err(error) => {
                self.watch.skip(&error.to_string());
                Ok(())
            }
        }
    }

    async fn tell(&self, news: News) -> Result<(), End> {
        self.watch.tell(news).await.map_err(|_stopped| End::Stopped)
    }
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

/// How often a page is tried before its listing is begun anew: for six seconds.
const MOST_TRIES: u32 = 5;
/// What a request weighs at most is 40 kB, 3 kB as a rule.
const PAGE: u32 = 500;

#[cfg(test)]
mod tests;
