//! The requests of one signer name: listed in pages, then watched, then listed again. Whatever happens to the connection, the
//! versions or single objects, the watch goes on; it ends only when it is stopped.

use std::{borrow::Cow, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{
    calls::{CallError, Calls, Status},
    lines::{Line, Lines},
    versions::{GROUP, REQUESTS, Version, Versions},
    wire::RequestObject,
};
use crate::{
    chain::Chain,
    metrics::Metrics,
    names::{RequestUid, SignerName},
    pace::{Backoff, Pace, chance},
};

/// What the watch tells the controller.
#[derive(Debug)]
pub(crate) enum News {
    /// A request as it is now, seen in (or after) the listing of this number, read through this version. Answered ones come
    /// too: somebody has to see what was issued under our name.
    Seen(u64, Version, Box<RequestObject>),
    /// A request was deleted.
    Gone(RequestUid),
    /// The listing of this number ended: what it did not show is gone.
    Listed(u64),
}

/// One watch, of one signer name.
pub(crate) struct Watch {
    pub(crate) calls: Calls,
    pub(crate) versions: Versions,
    pub(crate) signer: SignerName,
    /// The number of the signer, which goes with all news of it.
    pub(crate) number: usize,
    pub(crate) out: mpsc::Sender<(usize, News)>,
    /// Says that the controller turned requests away and has room again.
    pub(crate) refill: Arc<Notify>,
    pub(crate) metrics: Metrics,
    pub(crate) pace: Pace,
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
    #[error("the API server serves no {REQUESTS}: is the feature gate PodCertificateRequest on, and {GROUP}/v1 or v1beta1 enabled?")]
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
        let mut round = 0_u64;
        while !self.out.is_closed() {
            round = round.saturating_add(1);
            let error = match self.list(round).await {
                Err(error) => error,
                Ok((version, from)) => {
                    attempt = 0;
                    match self.follow(round, version, from).await {
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
            let wait = self.pace.of(RETRY.wait(attempt, chance()));
            attempt = attempt.saturating_add(1);
            tracing::warn!(signer = %self.signer, error = %Chain(&error), again_in = ?wait, "cannot see certificate requests");
            tokio::time::sleep(wait).await;
            if error.is_unserved()
                && let Err(error) = self.versions.discover().await
            {
                tracing::warn!(error = %Chain(&error), "could not ask which versions the API server serves");
            }
        }
    }

    async fn list(&self, round: u64) -> Result<(Version, String), WatchError> {
        let version = self.versions.served().requests.ok_or(WatchError::NotServed)?;
        let (mut at_once, mut next) = (PAGE, String::new());
        loop {
            let path = format!("{}?{}&limit={at_once}&continue={}", path(version), self.selector(), encode(&next));
            let page = match self.calls.get::<Page>(&path).await {
                // Annotations may weigh a quarter of a megabyte each.
                Err(CallError::TooLong(_)) if at_once > 1 => {
                    at_once = at_once.checked_div(8).unwrap_or(1).max(1);
                    continue;
                }
                page => page.map_err(WatchError::List)?,
            };
            for request in page.items.unwrap_or_default() {
                self.see(round, version, request).await?;
            }
            next = page.metadata.next.unwrap_or_default();
            if next.is_empty() {
                self.tell(News::Listed(round)).await?;
                return Ok((version, page.metadata.resource_version));
            }
        }
    }

    /// Watches from a resourceVersion on, again and again, until it is time to list. Says why.
    async fn follow(&self, round: u64, version: Version, mut from: String) -> Result<&'static str, WatchError> {
        let begun = Instant::now();
        let mut attempt = 0_u32;
        while begun.elapsed() < RELIST {
            let known = from.clone();
            match self.stream(round, version, &mut from).await {
                End::Over => attempt = 0,
                End::Lost(cause) => return Ok(cause),
                End::Stopped => return Err(WatchError::Stopped),
                End::Failed(error) if error.is_unserved() => return Err(error),
                End::Failed(error) => {
                    // A stream that brought something was alive: its end is no sign that the next will fail.
                    attempt = if from == known { attempt.saturating_add(1) } else { 0 };
                    let wait = self.pace.of(RETRY.wait(attempt, chance()));
                    tracing::info!(signer = %self.signer, error = %Chain(&error), again_in = ?wait, "watching again");
                    self.metrics.watch_restarted(error.cause());
                    tokio::time::sleep(wait).await;
                }
            }
            if self.out.is_closed() {
                return Err(WatchError::Stopped);
            }
        }
        Ok("ended")
    }

    async fn stream(&self, round: u64, version: Version, from: &mut String) -> End {
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
        loop {
            let line = tokio::select! {
                line = lines.next(SILENCE) => line,
                () = self.out.closed() => return End::Stopped,
                () = self.refill.notified() => return End::Lost("refill"),
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

    async fn event(
        &self,
        round: u64,
        version: Version,
        line: &[u8],
        from: &mut String,
    ) -> Result<(), End> {
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
                self.see(round, version, request).await
            }
            "DELETED" => match serde_json::from_str::<RequestObject>(event.object.get()).map(|request| request.target()) {
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
            },
            "BOOKMARK" => {
                if let Ok(mark) = serde_json::from_str::<Bookmark>(event.object.get()) {
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

    async fn see(&self, round: u64, version: Version, request: RequestObject) -> Result<(), WatchError> {
        // The field selector has done this on the server. A server that ignores it must not make us sign for others.
        if request.signer_name() == Some(self.signer.as_str()) {
            return self.tell(News::Seen(round, version, Box::new(request))).await;
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

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMetadata {
    resource_version: String,
}

const RETRY: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) };
/// What a request weighs at most is 40 kB, 3 kB as a rule.
const PAGE: u32 = 500;
/// A stream this short needs no bookmarks to show that it is alive: the API server ends it in time, or it is dead.
const STREAM: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(35);
/// A watch that lost an event without a word would otherwise lose it for ever.
const RELIST: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::Method;
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::fake::{Fake, Instead};

    fn request(name: &str, version: u32) -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string()},
            "spec": {"signerName": "podmint.dev/workload", "podName": name},
        })
    }

    fn event(kind: &str, object: &Value) -> String {
        json!({"type": kind, "object": object}).to_string()
    }

    fn page(version: &str, items: &[Value], next: &str) -> Instead {
        Instead::Json(200, json!({"metadata": {"resourceVersion": version, "continue": next}, "items": items}))
    }

    /// A server whose streams and lists are what `answer` says, by the number of the call; it has discovery.
    async fn watch(answer: impl Fn(bool, usize, &str) -> Instead + Send + 'static) -> (mpsc::Receiver<(usize, News)>, Metrics, Fake) {
        let fake = Fake::new();
        let (lists, streams) = (AtomicUsize::new(0), AtomicUsize::new(0));
        fake.instead(move |method, path, _| {
            assert_eq!(method, Method::GET);
            match path {
                "/apis/certificates.k8s.io/v1" => Some(Instead::Json(200, json!({"resources": [{"name": REQUESTS}]}))),
                "/apis/certificates.k8s.io/v1beta1" => None,
                path if path.contains("watch=true") => Some(answer(true, streams.fetch_add(1, Ordering::SeqCst), path)),
                path => Some(answer(false, lists.fetch_add(1, Ordering::SeqCst), path)),
            }
        });
        let (metrics, pace) = (Metrics::new(), Pace::compressed(1000));
        let versions = Versions::new(fake.calls(), pace);
        versions.discover().await.unwrap();
        let (out, news) = mpsc::channel(16);
        let signer = SignerName::parse("podmint.dev/workload").unwrap();
        let refill = Arc::default();
        let watch =
            Watch { calls: fake.calls(), versions, signer, number: 3, out, refill, metrics: metrics.clone(), pace };
        tokio::spawn(watch.run());
        (news, metrics, fake)
    }

    async fn next(news: &mut mpsc::Receiver<(usize, News)>) -> String {
        let (number, news) = tokio::time::timeout(Duration::from_secs(5), news.recv()).await.unwrap().unwrap();
        assert_eq!(number, 3);
        match news {
            News::Seen(round, _, object) => format!("{round} {}", object.target().unwrap().name),
            News::Gone(uid) => format!("gone {uid}"),
            News::Listed(round) => format!("listed {round}"),
        }
    }

    async fn expect(news: &mut mpsc::Receiver<(usize, News)>, all: &[&str]) {
        for expected in all {
            assert_eq!(next(news).await, *expected);
        }
    }

    #[tokio::test]
    async fn pages_are_listed_then_events_are_followed() {
        let (mut news, _, fake) = watch(|stream, number, _| match (stream, number) {
            (false, 0) => page("5", &[request("a", 1)], "more"),
            (false, _) => page("7", &[request("b", 2)], ""),
            (true, 0) => {
                let bookmark = json!({"metadata": {"resourceVersion": "11"}});
                let lines = [event("ADDED", &request("c", 8)), event("DELETED", &request("a", 9)), event("BOOKMARK", &bookmark)];
                Instead::Lines(lines.into(), false)
            }
            (true, _) => Instead::Lines(vec![event("MODIFIED", &request("d", 12))], true),
        })
        .await;
        expect(&mut news, &["1 a", "1 b", "listed 1", "1 c", "gone uid-a", "1 d"]).await;
        let heard = fake.heard.lock().unwrap().join("\n");
        assert!(heard.contains("fieldSelector=spec.signerName%3Dpodmint.dev%2Fworkload"));
        assert!(heard.contains("continue=more") && heard.contains("resourceVersion=7") && heard.contains("resourceVersion=11"));
    }

    #[tokio::test]
    async fn an_expired_watch_lists_again_whichever_way_it_is_told() {
        let (mut news, metrics, _) = watch(|stream, number, _| match (stream, number) {
            (false, _) => page("5", &[], ""),
            (true, 0) => Instead::Json(410, json!({"code": 410, "reason": "Expired"})),
            (true, 1) => Instead::Lines(vec![event("ERROR", &json!({"code": 410, "reason": "Expired"}))], true),
            (true, _) => Instead::Lines(Vec::new(), true),
        })
        .await;
        expect(&mut news, &["listed 1", "listed 2", "listed 3"]).await;
        assert!(metrics.text().unwrap().contains("watch_restarts_total{cause=\"expired\"} 2"));
    }

    #[tokio::test]
    async fn a_malformed_object_is_skipped_and_counted_and_half_a_line_ends_a_stream() {
        let (mut news, metrics, _) = watch(|stream, number, _| match (stream, number) {
            (false, _) => page("5", &[json!("no object"), json!({"spec": 7}), request("a", 1)], ""),
            (true, 0) => {
                let garbage = ["{]", "{\"type\":\"ADDED\",\"object\":42}", "{\"type\":\"NEWS\",\"object\":{}}", "{\"type\":\"ADD"];
                let mut lines: Vec<String> = garbage.map(str::to_owned).into();
                lines.insert(3, event("ADDED", &request("b", 2)));
                Instead::Lines(lines, false)
            }
            (true, _) => Instead::Lines(vec![event("ADDED", &request("c", 3))], true),
        })
        .await;
        expect(&mut news, &["1 a", "listed 1", "1 b", "1 c"]).await;
        assert!(metrics.text().unwrap().contains("malformed_objects_total 5"), "{}", metrics.text().unwrap());
    }

    #[tokio::test]
    async fn requests_for_other_signers_are_left_alone_even_if_the_server_shows_them() {
        let mut other = request("other", 1);
        other["spec"]["signerName"] = "example.org/other".into();
        let (mut news, _, _) = watch(move |stream, _, _| match stream {
            false => page("5", &[other.clone(), request("ours", 1)], ""),
            true => Instead::Lines(Vec::new(), true),
        })
        .await;
        expect(&mut news, &["1 ours", "listed 1"]).await;
    }

    #[tokio::test]
    async fn a_version_that_is_gone_is_discovered_again() {
        let (mut news, _, fake) = watch(|stream, number, _| match (stream, number) {
            (false, 0) => Instead::Json(404, json!({"code": 404, "details": {}})),
            (false, _) => page("5", &[], ""),
            (true, _) => Instead::Lines(Vec::new(), true),
        })
        .await;
        expect(&mut news, &["listed 2"]).await;
        assert_eq!(fake.count("GET /apis/certificates.k8s.io/v1beta1"), 2);
    }

    #[tokio::test]
    async fn a_page_that_is_too_long_is_asked_for_in_smaller_pieces() {
        let (mut news, _, fake) = watch(|stream, _, path| match stream {
            false if path.contains("limit=500") => {
                page("5", &vec![json!("x".repeat(1 << 20)); super::super::calls::REPLY_LIMIT >> 20], "")
            }
            false => page("5", &[request("a", 1)], ""),
            true => Instead::Lines(Vec::new(), true),
        })
        .await;
        expect(&mut news, &["1 a", "listed 1"]).await;
        assert!(fake.heard.lock().unwrap().join("\n").contains("limit=62"));
    }
}
