//! What one machine cannot show: a cluster of five thousand nodes and 150,000 pods that starts all at once, with one API server or three.
//!
//! What is real: the queue and the limit of calls in flight. What is not: the API servers, which are their Priority and Fairness and nothing
//! else (they have processors enough), kubelets, and the cleaner. `docs/scale.md` shows what comes out, beside what was measured.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    fairness::{Call, OWN, SYSTEM, Server, WORKLOAD_LOW, read, write},
    world::Dice,
};
use crate::{
    cluster::{calls::CallError, lease::FRESH},
    controller::{
        limit::Limit,
        queue::{Awaits, Next, Queue},
    },
    names::RequestUid,
};

/// A cluster that starts.
struct Fleet {
    servers: usize,
    nodes: u32,
    pods: usize,
    /// Within so many milliseconds all of them ask.
    within: u64,
    /// Calls that all kubelets together have in flight; those of a benchmark are few.
    at_a_time: usize,
    /// A level of the signer's own: its shares, and what of them it lends.
    own: Option<(f64, f64)>,
}

/// What a call is about: a pod that asks, a request that is answered, or the Lease, since when it is renewed.
#[derive(Clone, Copy)]
enum About {
    Create(usize),
    Read(usize),
    Write(usize),
    ReadLease(u32),
    WriteLease(u32),
}

/// A request.
struct Request {
    pod: usize,
    made: u32,
    answered: Option<u32>,
    deleted: bool,
}

/// What came of it.
struct Told {
    requests: Vec<Request>,
    /// Requests deleted with no answer.
    lost: usize,
    /// Calls of the signer that were refused with 429.
    refused: usize,
    /// The most that waited at one time.
    deepest: usize,
    /// The longest that the first took to renew its Lease, in milliseconds.
    renewal: u32,
}

impl Fleet {
    fn start(&self) -> Told {
        let dice = Dice::new(1);
        let start = Instant::now();
        let at = |now: u32| start + Duration::from_millis(now.into());
        let mut servers: Vec<Server<About>> = (0..self.servers).map(|_| Server::new(self.own)).collect();
        let watchers = self.nodes / u32::try_from(self.servers).unwrap();
        let level = if self.own.is_some() { OWN } else { WORKLOAD_LOW };
        let any = || usize::try_from(dice.below(u64::try_from(self.servers).unwrap())).unwrap();

        let mut asks: BTreeMap<u32, VecDeque<usize>> = BTreeMap::new();
        for pod in 0..self.pods {
            asks.entry(IDLE + u32::try_from(dice.below(self.within)).unwrap()).or_default().push_back(pod);
        }
        let (mut queue, mut limit) = (Queue::new(), Limit::new());
        let mut flying: HashMap<usize, u32> = HashMap::new();
        let mut news: VecDeque<(u32, usize)> = VecDeque::new();
        let mut rest: VecDeque<usize> = VecDeque::new();
        let (mut creating, mut oldest, mut left, mut refused) = (0, 0, self.pods, Vec::new());
        let mut told = Told { requests: Vec::new(), lost: 0, refused: 0, deepest: 0, renewal: 0 };

        for now in 0..MOST {
            while let Some(mut due) = asks.first_entry().filter(|due| *due.key() <= now && creating < self.at_a_time) {
                let Some(pod) = due.get_mut().pop_front() else {
                    due.remove();
                    continue;
                };
                match servers[any()].send(SYSTEM, write(About::Create(pod), WRITES, watchers)) {
                    Ok(()) => creating += 1,
                    Err(_too_many) => asks.entry(now + RETRY_AFTER).or_default().push_back(pod),
                }
            }
            if now >= IDLE && now.is_multiple_of(RENEWS) {
                told.send(&mut servers[any()], level, read(About::ReadLease(now), READS));
            }
            for reply in servers.iter_mut().flat_map(|server| server.step(now)).collect::<Vec<_>>() {
                match reply {
                    About::Create(pod) => {
                        creating -= 1;
                        news.push_back((now + WATCH, told.requests.len()));
                        told.requests.push(Request { pod, made: now, answered: None, deleted: false });
                    }
                    About::Read(number) => {
                        if servers[any()].send(level, write(About::Write(number), WRITES, watchers)).is_err() {
                            refused.push(number);
                        }
                    }
                    About::ReadLease(begun) => {
                        told.send(&mut servers[any()], level, write(About::WriteLease(begun), WRITES, REPLICAS));
                    }
                    About::WriteLease(begun) => told.renewal = told.renewal.max(now - begun),
                    About::Write(number) => {
                        let begun = flying.remove(&number).unwrap();
                        limit.kept_up(Duration::from_millis((now - begun).into()), flying.len(), at(now));
                        queue.settle(&uid(number), Next::Leave);
                        let request = &mut told.requests[number];
                        if !request.deleted {
                            request.answered = Some(now);
                            left -= 1;
                        }
                    }
                }
            }
            while let Some((_, number)) = news.pop_front_if(|(due, _)| *due <= now) {
                if queue.has_room(namespace(number), MOST_KEPT) {
                    queue.add(&uid(number), namespace(number), (), 0, at(now));
                } else {
                    rest.push_back(number);
                }
            }
            // What was turned away is shown again when half of what was kept is done.
            if queue.len() < MOST_KEPT / 2 {
                while let Some(number) = rest.pop_front_if(|number| queue.has_room(namespace(*number), MOST_KEPT)) {
                    if !told.requests[number].deleted {
                        queue.add(&uid(number), namespace(number), (), 0, at(now));
                    }
                }
            }
            queue.wake_due(at(now));
            for _ in 0..limit.room(flying.len(), at(now)) {
                let Some(uid) = queue.take(Duration::ZERO, at(now)) else { break };
                let number = uid.as_str().parse().unwrap();
                flying.insert(number, now);
                if servers[any()].send(level, read(About::Read(number), READS)).is_err() {
                    refused.push(number);
                }
            }
            for number in refused.drain(..) {
                flying.remove(&number);
                limit.met(&too_many(), at(now));
                queue.settle(&uid(number), Next::Wait { until: at(now + RETRY_AFTER), awaits: Awaits::Time });
                told.refused += 1;
            }
            if now.is_multiple_of(CLEANS)
                && let Some(request) = told.requests.get_mut(oldest).filter(|request| now >= request.made + KEPT)
            {
                request.deleted = true;
                if request.answered.is_none() {
                    told.lost += 1;
                    queue.remove(&uid(oldest));
                    asks.entry(now + ASKS_ANEW).or_default().push_back(request.pod);
                }
                oldest += 1;
            }
            told.deepest = told.deepest.max(queue.len() + rest.len());
            if left == 0 {
                return told;
            }
        }
        panic!("{left} pods are without a certificate after {MOST} ms");
    }
}

impl Told {
    fn send(&mut self, server: &mut Server<About>, level: usize, call: Call<About>) {
        self.refused += usize::from(server.send(level, call).is_err());
    }

    /// In seconds since the first could be made.
    fn all_created(&self) -> f64 {
        percentile(self.requests.iter().map(|request| request.made - IDLE).collect(), 100)
    }

    fn all_answered(&self) -> f64 {
        percentile(self.requests.iter().filter_map(|request| Some(request.answered? - IDLE)).collect(), 100)
    }

    /// In seconds, that so many hundredths of all did not exceed.
    fn waits(&self, hundredths: usize) -> f64 {
        let waits = self.requests.iter().filter_map(|request| Some(request.answered? - request.made));
        percentile(waits.collect(), hundredths)
    }

    fn line(&self) -> String {
        format!(
            "all created after {:.0} s, all answered after {:.0} s; from creation to answer {:.1} s at p50, {:.1} s at p99; {} waited at one time; {:.1} s to renew the Lease at most",
            self.all_created(),
            self.all_answered(),
            self.waits(50),
            self.waits(99),
            self.deepest,
            f64::from(self.renewal) / 1e3
        )
    }
}

fn too_many() -> CallError {
    CallError::Late(Duration::from_secs(1))
}

/// In seconds, of milliseconds.
fn percentile(mut all: Vec<u32>, hundredths: usize) -> f64 {
    all.sort_unstable();
    f64::from(all[(all.len() * hundredths / 100).min(all.len() - 1)]) / 1e3
}

fn uid(number: usize) -> RequestUid {
    RequestUid::parse(&number.to_string()).unwrap()
}

fn namespace(number: usize) -> &'static str {
    ["bank", "mill", "shop", "yard"][number % 4]
}

/// The servers have been idle for so long when all begins.
const IDLE: u32 = 60_000;
const MOST: u32 = 60 * 60_000;
/// Milliseconds that a call runs once it is let through, as measured.
const WRITES: u32 = 5;
const READS: u32 = 1;
/// From a write until the watch shows it.
const WATCH: u32 = 10;
const RETRY_AFTER: u32 = 1_000;
/// Milliseconds from one renewal of the Lease to the next, and who watches it.
const RENEWS: u32 = 4_000;
const REPLICAS: u32 = 3;
const MOST_KEPT: usize = 10_000;
/// kube-controller-manager deletes twenty a second of those that are a quarter of an hour old; their kubelets ask anew minutes later.
const CLEANS: u32 = 50;
const KEPT: u32 = 15 * 60_000;
const ASKS_ANEW: u32 = 150_000;

/// What the chart gives the signer where it is asked to.
fn chart() -> (f64, f64) {
    let text = include_str!("../../../deploy/helm/podmint/templates/flowschema.yaml");
    let number = |field: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().parse::<f64>().unwrap()
    };
    (number("nominalConcurrencyShares"), number("lendablePercent") / 100.0)
}

#[test]
fn a_fleet_that_starts_at_once_is_answered_as_fast_as_it_can_ask() {
    let (level, all) = (chart(), usize::MAX);
    for (name, servers, nodes, pods, at_a_time) in [
        ("5,000 nodes, 3 API servers", 3, 5_000, 150_000, all),
        ("5,000 nodes, 1 API server", 1, 5_000, 150_000, all),
        ("1,000 nodes, 1 API server", 1, 1_000, 30_000, all),
        ("as in the benchmark", 1, 1_000, 10_000, 16),
    ] {
        let start = |own| Fleet { servers, nodes, pods, within: 10_000, at_a_time, own }.start();
        let (with, without) = (start(Some(level)), start(None));
        println!("{name}: {}", without.line());
        println!("… with the chart's FlowSchema: {}", with.line());
        for told in [&with, &without] {
            assert_eq!((told.lost, told.refused), (0, 0), "{name}");
            assert!(told.waits(99) < 15.0, "{name}: {}", told.line());
            assert!(u128::from(told.renewal) < FRESH.as_millis() / 2, "{name}: {}", told.line());
        }
        assert!(with.all_answered() <= without.all_answered(), "{name}");
        assert!(with.all_answered() < with.all_created() * 1.1, "{name}");
    }
}
