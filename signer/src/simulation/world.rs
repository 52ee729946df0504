//! The API server of a simulation, in virtual time: the little one of the unit tests with watches, latency, a clock, a limit to what it
//! does at a time, and trouble on the way to it. It takes a status once, as the real one does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{
    Method, Request, Response, StatusCode,
    header::{DATE, RETRY_AFTER},
};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::datetime};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    cluster::{
        clock::HTTP_DATE,
        fake::{Fake, refusal},
    },
    pace::seeded::step,
};

/// Choices that come from a seed.
#[derive(Debug)]
pub(super) struct Dice(AtomicU64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        let (state, word) = step(self.0.load(Relaxed));
        self.0.store(state, Relaxed);
        word % bound
    }

    /// True so often in a thousand times.
    pub(super) fn falls(&self, of_thousand: u64) -> bool {
        self.below(1000) < of_thousand
    }
}

/// What is on the way between one replica and the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Connections stand and nothing moves.
    pub(super) stuck: bool,
    /// Connections break.
    pub(super) broken: bool,
    /// Each call is kept for so many milliseconds, each way.
    pub(super) slow: u64,
    /// Of a thousand calls so many are refused.
    pub(super) refused: u64,
    /// Of a thousand replies so many are lost.
    pub(super) lost: u64,
    /// Watches end after every event, and are answered with 410 half the time; so are pages of a list.
    pub(super) cut: bool,
    /// Every page of a list but the first is refused.
    pub(super) pages: bool,
    /// Nobody has a right in the signer's namespace: an API server that has just started has not read its Roles yet.
    pub(super) no_roles: bool,
}

/// One life of one replica.
pub(super) struct Seat {
    /// One for each life.
    number: u64,
    pub(super) trouble: watch::Sender<Trouble>,
    /// It was killed: whatever it still does reaches nobody.
    dead: AtomicBool,
    /// Seconds that the clock of its API server is ahead.
    pub(super) ahead: AtomicI64,
    /// What that clock shows, if it stands still.
    pub(super) frozen: Mutex<Option<OffsetDateTime>>,
    /// Calls by second of the run.
    calls: Mutex<BTreeMap<u64, usize>>,
    /// How often each call was made.
    made: Mutex<BTreeMap<String, u64>>,
}

impl Seat {
    pub(super) fn new(number: u64) -> Arc<Self> {
        Arc::new(Self {
            number,
            trouble: watch::Sender::default(),
            dead: AtomicBool::new(false),
            ahead: AtomicI64::new(0),
            frozen: Mutex::default(),
            calls: Mutex::default(),
            made: Mutex::default(),
        })
    }

    pub(super) fn die(&self) {
        self.dead.store(true, Relaxed);
    }

    /// The most calls it ever made within a second.
    pub(super) fn most_calls(&self) -> usize {
        lock(&self.calls).values().copied().max().unwrap_or_default()
    }

    /// Waits until something moves. Nothing ever does for the dead.
    async fn gate(&self) -> Result<Trouble, Broken> {
        let mut trouble = self.trouble.subscribe();
        loop {
            if self.dead.load(Relaxed) {
                return std::future::pending().await;
            }
            let now = *trouble.borrow_and_update();
            if now.broken {
                return Err(Broken);
            }
            if !now.stuck {
                return Ok(now);
            }
            if trouble.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the connection broke")]
struct Broken;

type Reply = Response<UnsyncBoxBody<Bytes, Broken>>;

/// The API server and its store.
pub(super) struct World {
    pub(super) fake: Fake,
    seed: u64,
    begun: Instant,
    /// Seconds that its clock has jumped.
    pub(super) jumped: AtomicI64,
    /// The clock of some replica's API server jumped by more than `notBefore` may be off.
    pub(super) far_off: AtomicBool,
    down: watch::Sender<bool>,
    /// Events of certificate requests, in order: line and number.
    events: watch::Sender<Vec<(u64, Bytes)>>,
    /// What each list of certificate requests shows: the number of the last event before it, and how all was then.
    listings: Mutex<Vec<(u64, Vec<Value>)>>,
    /// Status writes carried out at a time, and how long each takes.
    writers: Semaphore,
    write_takes: Duration,
    /// Status writes that were looked at, taken or not.
    pub(super) writes: AtomicUsize,
    /// Those that broke a rule.
    pub(super) invalid: Mutex<Vec<String>>,
    /// When each request was answered, by name.
    pub(super) answered: Mutex<BTreeMap<String, Instant>>,
}

impl World {
    pub(super) fn new(seed: u64, writers: usize, write_takes: Duration) -> Arc<Self> {
        let fake = Fake::new();
        let resources = json!({"resources": [{"name": "podcertificaterequests"}, {"name": "clustertrustbundles"}]});
        fake.put("/apis/certificates.k8s.io/v1", resources);
        Arc::new(Self {
            fake,
            seed,
            begun: Instant::now(),
            jumped: AtomicI64::new(0),
            far_off: AtomicBool::new(false),
            down: watch::Sender::new(false),
            events: watch::Sender::default(),
            listings: Mutex::default(),
            writers: Semaphore::new(writers),
            write_takes,
            writes: AtomicUsize::new(0),
            invalid: Mutex::default(),
            answered: Mutex::default(),
        })
    }

    /// The way of one replica's life to it.
    pub(super) fn client(self: &Arc<Self>, seat: &Arc<Seat>) -> kube::Client {
        let (world, seat) = (Arc::clone(self), Arc::clone(seat));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (world, seat) = (Arc::clone(&world), Arc::clone(&seat));
            async move { world.answer(&seat, request).await }
        });
        kube::Client::new(service, "default")
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        let passed = time::Duration::try_from(self.begun.elapsed()).unwrap();
        let jumped = time::Duration::seconds(self.jumped.load(Relaxed));
        datetime!(2026-11-23 19:00:00 UTC).saturating_add(passed).saturating_add(jumped)
    }

    /// By the clock of this replica's API server.
    fn now_at(&self, seat: &Seat) -> OffsetDateTime {
        let now = lock(&seat.frozen).unwrap_or_else(|| self.now());
        now.saturating_add(time::Duration::seconds(seat.ahead.load(Relaxed)))
    }

    /// It is away, or back.
    pub(super) fn go_down(&self, is_down: bool) {
        self.down.send_replace(is_down);
    }

    /// Somebody makes a request.
    pub(super) fn create(&self, namespace: &str, name: &str, mut object: Value) {
        object["metadata"]["creationTimestamp"] =
            self.now().replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap().into();
        object["metadata"]["resourceVersion"] = self.next_event().to_string().into();
        self.fake.put(&path(namespace, name), object.clone());
        self.tell("ADDED", &object);
    }

    /// Somebody deletes one.
    pub(super) fn delete(&self, namespace: &str, name: &str) {
        if let Some(object) = self.fake.get(&path(namespace, name)) {
            self.fake.remove(&path(namespace, name));
            self.tell("DELETED", &object);
        }
    }

    fn next_event(&self) -> u64 {
        u64::try_from(self.events.borrow().len()).unwrap().saturating_add(100)
    }

    /// The numbers of events are those of this list. An object has that of its making, and counts its own writes from there, as the store
    /// does: there is room for one before the next event's.
    fn tell(&self, kind: &str, object: &Value) {
        let number = self.next_event();
        self.events.send_modify(|events| {
            let mut object = object.clone();
            if kind == "DELETED" {
                object["metadata"]["resourceVersion"] = number.to_string().into();
            }
            let line = json!({"type": kind, "object": object});
            events.push((number, format!("{line}\n").into()));
            // So that who watches knows how far he is, whatever the objects say.
            let mark = json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": number.to_string()}}});
            events.push((number, format!("{mark}\n").into()));
        });
    }

    async fn answer(&self, seat: &Seat, request: Request<Body>) -> Result<Reply, Broken> {
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let (uri, method) = (parts.uri.to_string(), parts.method);
        *lock(&seat.calls).entry(self.begun.elapsed().as_secs()).or_default() += 1;
        let dice = self.dice_of(seat, &method, &uri);
        let trouble = seat.gate().await?;
        travel(&dice, trouble).await;
        seat.gate().await?;
        if *self.down.borrow() {
            return Err(Broken);
        }
        let is_later_page = uri.contains("&continue=") && !uri.ends_with("&continue=");
        if is_later_page && trouble.cut && dice.falls(500) {
            return Ok(self.expired(seat));
        }
        if trouble.no_roles && uri.contains("/namespaces/mint/") {
            return Ok(self.say(seat, refusal(403, "Forbidden", "")));
        }
        if is_later_page && trouble.pages || dice.falls(trouble.refused) {
            return Ok(self.refuse(seat, &dice, &method));
        }
        if uri.contains("watch=") {
            return Ok(self.watch(seat, &dice, trouble, &uri));
        }
        let told = self.carry_out(seat, &method, &uri, body).await;
        let is_lost = method != Method::GET && dice.falls(trouble.lost);
        travel(&dice, trouble).await;
        seat.gate().await?;
        if is_lost {
            return Err(Broken);
        }
        Ok(self.say(seat, told))
    }

    /// What befalls a call hangs on who makes it, and how often he has: not on which of two calls of one moment comes first.
    fn dice_of(&self, seat: &Seat, method: &Method, uri: &str) -> Dice {
        let call = format!("{method} {uri}");
        let mut made = lock(&seat.made);
        let times = made.entry(call.clone()).or_default();
        *times += 1;
        let call = call.bytes().fold(*times, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Dice::new(self.seed ^ seat.number.wrapping_mul(0x9e37_79b9) ^ call)
    }

    fn refuse(&self, seat: &Seat, dice: &Dice, method: &Method) -> Reply {
        let code = [409, 429, 429, 500, 503, 504][usize::try_from(dice.below(6)).unwrap()];
        let code = if code == 409 && *method != Method::PUT { 500 } else { code };
        let mut reply = self.say(seat, refusal(code, "Trouble", ""));
        if code == 429 {
            reply.headers_mut().insert(RETRY_AFTER, 1.into());
        }
        reply
    }

    async fn carry_out(&self, seat: &Seat, method: &Method, uri: &str, body: Value) -> (u16, Value) {
        let path = uri.split('?').next().unwrap().to_owned();
        if *method == Method::GET && path.ends_with("/podcertificaterequests") {
            return self.list(uri);
        }
        if !(path.contains("/podcertificaterequests/") && path.ends_with("/status")) {
            return self.fake.store(method, &path, body);
        }
        let _turn = self.writers.acquire().await.unwrap();
        sleep(self.write_takes).await;
        self.writes.fetch_add(1, Relaxed);
        let object = path.strip_suffix("/status").unwrap();
        if self.fake.get(object).is_some_and(|object| !object["status"]["conditions"].is_null()) {
            let cause = json!({"field": "status", "message": "immutable after PodCertificateRequest is issued"});
            let (code, mut status) = refusal(422, "Invalid", "r");
            status["details"]["causes"] = json!([cause]);
            return (code, status);
        }
        if let Some(why) = self.breaks_a_rule(seat, &body["status"]) {
            lock(&self.invalid).push(why.clone());
            let (code, mut status) = refusal(422, "Invalid", "r");
            status["details"]["causes"] = json!([{"field": "status.notBefore", "message": why}]);
            return (code, status);
        }
        let (code, stored) = self.fake.store(method, &path, body);
        if code == 200 {
            let name = stored["metadata"]["name"].as_str().unwrap().to_owned();
            assert!(lock(&self.answered).insert(name, Instant::now()).is_none(), "answered twice");
            self.tell("MODIFIED", &stored);
        }
        (code, stored)
    }

    /// The one rule that hangs on time: five minutes either way, by the clock of whoever is asked.
    fn breaks_a_rule(&self, seat: &Seat, status: &Value) -> Option<String> {
        let begins = OffsetDateTime::parse(status["notBefore"].as_str()?, &Rfc3339).unwrap();
        let off = begins - self.now_at(seat);
        (off.abs() > time::Duration::minutes(5)).then(|| format!("notBefore is {off} off"))
    }

    /// In pages of a few, all of them of the moment when the list began.
    fn list(&self, uri: &str) -> (u16, Value) {
        let token = uri.split_once("&continue=").and_then(|(_, token)| token.split_once('.'));
        let mut listings = lock(&self.listings);
        let (listing, from) =
            token.map_or((listings.len(), 0), |(listing, from)| (listing.parse().unwrap(), from.parse().unwrap()));
        if listing == listings.len() {
            listings.push((self.next_event() - 1, self.fake.all(REQUESTS)));
        }
        let (number, all) = &listings[listing];
        let items: Vec<&Value> = all.iter().skip(from).take(PAGE).collect();
        let to = from + items.len();
        let next = if to < all.len() { format!("{listing}.{to}") } else { String::new() };
        (200, json!({"metadata": {"resourceVersion": number.to_string(), "continue": next}, "items": items}))
    }

    /// Every request that is there.
    pub(super) fn requests(&self) -> Vec<Value> {
        self.fake.all(REQUESTS)
    }

    fn watch(&self, seat: &Seat, dice: &Dice, trouble: Trouble, uri: &str) -> Reply {
        if trouble.cut && dice.falls(500) {
            return self.expired(seat);
        }
        let number =
            |key: &str| -> Option<u64> { uri.split(['?', '&']).find_map(|part| part.strip_prefix(key))?.parse().ok() };
        let follower = Follower {
            from: number("resourceVersion=").unwrap_or(99),
            until: Instant::now() + Duration::from_secs(number("timeoutSeconds=").unwrap_or(30)),
            events: self.events.subscribe(),
            trouble: seat.trouble.subscribe(),
            down: self.down.subscribe(),
            is_requests: uri.contains("podcertificaterequests"),
            is_over: false,
        };
        let lines = stream::unfold(follower, async |mut follower| Some((follower.next().await?, follower)));
        self.reply(seat, 200, lines)
    }

    fn expired(&self, seat: &Seat) -> Reply {
        self.say(seat, refusal(410, "Expired", ""))
    }

    fn say(&self, seat: &Seat, (code, value): (u16, Value)) -> Reply {
        self.reply(seat, code, stream::iter([Ok(Frame::data(Bytes::from(value.to_string())))]))
    }

    fn reply(
        &self,
        seat: &Seat,
        code: u16,
        pieces: impl futures::Stream<Item = Result<Frame<Bytes>, Broken>> + Send + 'static,
    ) -> Reply {
        let date = self.now_at(seat);
        let reply = Response::builder()
            .status(StatusCode::from_u16(code).unwrap())
            .header(DATE, date.format(HTTP_DATE).unwrap());
        reply.body(StreamBody::new(pieces.boxed()).boxed_unsync()).unwrap()
    }
}

/// From a fifth of a millisecond to twenty.
async fn travel(dice: &Dice, trouble: Trouble) {
    let micros = dice.below(4_000).saturating_add(200).saturating_mul(if dice.falls(20) { 5 } else { 1 });
    sleep(Duration::from_micros(micros.saturating_add(trouble.slow.saturating_mul(1_000)))).await;
}

/// A watch on its way to a replica.
struct Follower {
    from: u64,
    until: Instant,
    events: watch::Receiver<Vec<(u64, Bytes)>>,
    trouble: watch::Receiver<Trouble>,
    down: watch::Receiver<bool>,
    is_requests: bool,
    is_over: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Broken>> {
        loop {
            let trouble = *self.trouble.borrow_and_update();
            if self.is_over || Instant::now() >= self.until {
                return None;
            }
            if trouble.broken || *self.down.borrow_and_update() {
                self.is_over = true;
                return Some(Err(Broken));
            }
            if trouble.stuck {
                self.trouble.changed().await.ok()?;
                continue;
            }
            if self.is_requests {
                let events = self.events.borrow_and_update();
                let place = events.partition_point(|(number, _)| *number <= self.from);
                // An event and the bookmark after it have one number.
                if let Some((number, _)) = events.get(place) {
                    let lines: Vec<u8> =
                        events.iter().skip(place).take(2).flat_map(|(_, line)| line.to_vec()).collect();
                    self.from = *number;
                    self.is_over = trouble.cut;
                    return Some(Ok(Frame::data(lines.into())));
                }
            }
            let left = self.until.saturating_duration_since(Instant::now());
            let over = timeout(left, async {
                let changed = tokio::select! {
                    biased;
                    changed = self.trouble.changed() => changed,
                    changed = self.down.changed() => changed,
                    changed = self.events.changed(), if self.is_requests => changed,
                };
                changed.is_err()
            });
            // When the time is over, that is seen above.
            if over.await.unwrap_or_default() {
                return None;
            }
        }
    }
}

pub(super) fn path(namespace: &str, name: &str) -> String {
    format!("{REQUESTS}{namespace}/podcertificaterequests/{name}")
}

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/";
/// So few at a time that a run with two dozen requests has a few pages.
const PAGE: usize = 7;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
