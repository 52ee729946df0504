//! Get, list and watch.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::stream::{self, Stream};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::failure::{Answer, Failure, FieldError};
use super::kind::Served;
use super::object::Object;
use super::route::Call;
use super::selector::Selector;
use super::store::{Change, Compacted, Key, Store, View};
use crate::clock::random_below;

/// How long a read waits for a resourceVersion that is not there yet, as the real server does.
const VERSION_WAIT: Duration = Duration::from_secs(3);
const OLD_TOKEN: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing \
with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the \
first chunk was returned and now may show up in the list.";
/// How many changes a watch takes at a time.
const BATCH: usize = 500;

pub(crate) async fn get(store: &Store, call: &Call) -> Answer<Bytes> {
    let key = call.key();
    let found = match asked_version(call)? {
        Some(0) => store.get_cached(call.served.kind, &key),
        Some(version) => {
            reach(store, call, version).await?;
            store.get(call.served.kind, &key)
        }
        None => store.get(call.served.kind, &key),
    };
    let found = found.ok_or_else(|| Failure::not_found(call.served.kind, &call.name))?;
    Ok(found.alone(call.served))
}

/// `resourceVersion` of the query, if there is one.
fn asked_version(call: &Call) -> Answer<Option<u64>> {
    match call.query.text("resourceVersion") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|error: std::num::ParseIntError| {
            let error = FieldError::invalid("resourceVersion", text, &error.to_string());
            Failure::invalid("ListOptions", "meta.k8s.io", "", &[error])
        }),
    }
}

/// Waits until the version exists.
async fn reach(store: &Store, call: &Call, version: u64) -> Answer<()> {
    let deadline = Instant::now().checked_add(VERSION_WAIT);
    while store.version() < version {
        if deadline.is_none_or(|deadline| Instant::now() >= deadline) {
            tracing::debug!(
                resource = call.served.kind.plural(),
                version,
                "a client asked for a version of the future"
            );
            return Err(Failure::too_large_version(version, store.version()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub(crate) async fn list(store: &Store, call: &Call) -> Answer<Bytes> {
    let kind = call.served.kind;
    let limit = call.query.number("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
    let (view, version, start) = match (call.query.text("continue"), asked_version(call)?) {
        ("", Some(0)) => {
            // The cache answers; it knows no pages.
            let (view, version) = store.all_cached(kind);
            return Ok(page(call, &view, version, None, 0));
        }
        ("", Some(version)) if call.query.text("resourceVersionMatch") == "Exact" => {
            let view = store.all_at(kind, version).map_err(|compacted| gone(version, compacted.oldest))?;
            (view, version, None)
        }
        ("", Some(version)) => {
            reach(store, call, version).await?;
            let (view, version) = store.all(kind);
            (view, version, None)
        }
        ("", None) => {
            let (view, version) = store.all(kind);
            (view, version, None)
        }
        (token, _) => {
            let (version, start) = opened(token).ok_or_else(|| Failure::bad_request("continue key is not valid"))?;
            let Ok(view) = store.all_at(kind, version) else { return Err(Failure::expired(OLD_TOKEN)) };
            (view, version, Some(start))
        }
    };
    Ok(page(call, &view, version, start, limit))
}

fn page(call: &Call, view: &View, version: u64, start: Option<Key>, limit: usize) -> Bytes {
    let from = start.map_or(Bound::Unbounded, Bound::Excluded);
    let mut items = Vec::new();
    let mut last: Option<&Key> = None;
    let mut remaining: usize = 0;
    for (key, object) in view.range((from, Bound::Unbounded)).filter(|(_, object)| call.selector.matches(object)) {
        if limit > 0 && items.len() == limit {
            remaining = remaining.saturating_add(1);
            continue;
        }
        items.push(object.item(call.served.form));
        last = Some(key);
    }
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if let (Some(last), Some(fields), true) = (last, metadata.as_object_mut(), remaining > 0) {
        fields.insert("continue".to_owned(), sealed(version, last).into());
        fields.insert("remainingItemCount".to_owned(), remaining.into());
    }
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{metadata},"items":["#,
        call.served.kind.name(),
        call.served.api_version()
    );
    let mut body = head.into_bytes();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(item);
    }
    body.extend_from_slice(b"]}");
    body.into()
}

fn sealed(version: u64, last: &Key) -> String {
    URL_SAFE_NO_PAD.encode(json!({ "v": "meta.k8s.io/v1", "rv": version, "start": [last.0, last.1] }).to_string())
}

fn opened(token: &str) -> Option<(u64, Key)> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let start = |index: usize| Some(value.get("start")?.get(index)?.as_str()?.to_owned());
    Some((value.get("rv")?.as_u64()?, (start(0)?, start(1)?)))
}

fn gone(asked: u64, current: u64) -> Failure {
    Failure::expired(format!("too old resource version: {asked} ({current})"))
}

/// The lines of a watch. The stream ends at `timeoutSeconds`, when watches are hung up, or with an ERROR line.
pub(crate) async fn watch(
    store: Arc<Store>,
    call: &Call,
    bookmark_every: Duration,
) -> Answer<impl Stream<Item = Bytes> + Send + use<>> {
    let kind = call.served.kind;
    let (news, hang_up) = store.subscribe(kind);
    let asked = asked_version(call)?;
    let initial = initial_events(call, asked)?;
    if let Some(version) = asked.filter(|version| *version > 0) {
        reach(&store, call, version).await?;
    }
    let mut ready = VecDeque::new();
    let mut position = asked.unwrap_or(0);
    if initial != Initial::None {
        let (view, version) = store.all(kind);
        let added = view.values().filter(|object| call.selector.matches(object));
        ready.extend(added.map(|object| line("ADDED", &object.alone(call.served))));
        if initial == Initial::WithEnd {
            ready.push_back(bookmark(call.served, version, true));
        }
        position = version;
    }
    let too_old = store.reaches_back(kind, position).err();
    ready.extend(too_old.map(|compacted| too_old_line(position, compacted)));
    let random = Duration::from_secs(random_below(1800));
    let timeout = call.query.number("timeoutSeconds").filter(|seconds| *seconds > 0);
    let timeout = timeout.map_or_else(|| Duration::from_secs(1800).saturating_add(random), Duration::from_secs);
    let watcher = Watcher {
        store,
        served: call.served,
        selector: call.selector.clone(),
        position,
        ready,
        news,
        hang_up,
        ends: Instant::now().checked_add(timeout),
        bookmarks: call.query.flag("allowWatchBookmarks").then_some(bookmark_every),
        over: too_old.is_some(),
    };
    Ok(stream::unfold(watcher, |mut watcher| async {
        let line = watcher.next().await?;
        Some((line, watcher))
    }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Initial {
    /// Changes after a version only.
    None,
    /// What is there comes first, as ADDED.
    Added,
    /// The same, and a bookmark at its end (a streaming list).
    WithEnd,
}

fn initial_events(call: &Call, asked: Option<u64>) -> Answer<Initial> {
    if !call.query.flag("sendInitialEvents") {
        return Ok(if asked.unwrap_or(0) == 0 { Initial::Added } else { Initial::None });
    }
    if call.query.text("resourceVersionMatch") != "NotOlderThan" || !call.query.flag("allowWatchBookmarks") {
        let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan and allowWatchBookmarks";
        let error = FieldError::forbidden("resourceVersionMatch", detail);
        return Err(Failure::invalid("ListOptions", "meta.k8s.io", "", &[error]));
    }
    Ok(Initial::WithEnd)
}

/// One open watch. Dropped with the connection.
struct Watcher {
    store: Arc<Store>,
    served: Served,
    selector: Selector,
    position: u64,
    ready: VecDeque<Bytes>,
    news: watch::Receiver<u64>,
    hang_up: watch::Receiver<u64>,
    ends: Option<Instant>,
    bookmarks: Option<Duration>,
    over: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            // Marked before reading, so that a change in between wakes us again.
            self.news.borrow_and_update();
            match self.store.since(self.served.kind, self.position, BATCH) {
                Err(compacted) => {
                    self.over = true;
                    return Some(too_old_line(self.position, compacted));
                }
                Ok(changes) if !changes.is_empty() => self.take(&changes),
                Ok(_) => self.wait().await?,
            }
        }
    }

    fn take(&mut self, changes: &[Change]) {
        for change in changes {
            self.position = change.version;
            self.ready.extend(self.line_of(change));
        }
    }

    /// With a selector an object that starts to match is added, one that ceases to is deleted.
    fn line_of(&self, change: &Change) -> Option<Bytes> {
        let seen = |object: &Option<Arc<Object>>| object.clone().filter(|object| self.selector.matches(object));
        match (seen(&change.before), seen(&change.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(line("ADDED", &after.alone(self.served))),
            (Some(_), Some(after)) => Some(line("MODIFIED", &after.alone(self.served))),
            (Some(before), None) => Some(line("DELETED", &before.at(change.version).alone(self.served))),
        }
    }

    /// Until there is news; a bookmark if it takes long; nothing at the end.
    async fn wait(&mut self) -> Option<()> {
        let far = Duration::from_secs(86_400);
        let left = self.ends.map_or(far, |ends| ends.saturating_duration_since(Instant::now()));
        tokio::select! {
            news = self.news.changed() => news.ok(),
            _ = self.hang_up.changed() => None,
            () = tokio::time::sleep(left) => None,
            () = tokio::time::sleep(self.bookmarks.unwrap_or(far)) => {
                self.position = self.position.max(self.store.version_seen(self.served.kind, self.position));
                self.ready.push_back(bookmark(self.served, self.position, false));
                Some(())
            }
        }
    }
}

fn line(event: &str, object: &[u8]) -> Bytes {
    let mut out = format!(r#"{{"type":"{event}","object":"#).into_bytes();
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

fn too_old_line(asked: u64, compacted: Compacted) -> Bytes {
    line("ERROR", gone(asked, compacted.oldest).status().to_string().as_bytes())
}

fn bookmark(served: Served, version: u64, initial_end: bool) -> Bytes {
    let mut metadata = json!({ "resourceVersion": version.to_string(), "creationTimestamp": null });
    if let (Some(fields), true) = (metadata.as_object_mut(), initial_end) {
        fields.insert("annotations".to_owned(), json!({ "k8s.io/initial-events-end": "true" }));
    }
    let object = json!({ "kind": served.kind.name(), "apiVersion": served.api_version(), "metadata": metadata });
    line("BOOKMARK", object.to_string().as_bytes())
}
