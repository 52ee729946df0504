//! What must be true of every run.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    Replica, simulate, storm,
    world::{World, lock, path},
};

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The requests that are there, by name.
    pub(super) asked: BTreeSet<String>,
    /// Those that ask with the key of another.
    pub(super) copied: BTreeSet<String>,
    /// Those that were deleted.
    pub(super) gone: Vec<One>,
    /// How long after the last fault the last one was answered.
    pub(super) settled: Duration,
    pub(super) answers: usize,
    pub(super) writes: usize,
    /// The most calls that one life of a replica made within a second.
    pub(super) most_calls: usize,
    /// The laws that were broken.
    pub(super) wrong: Vec<String>,
}

impl Outcome {
    pub(super) fn note_calls(&mut self, replica: &Replica) {
        self.most_calls = self.most_calls.max(replica.seat.most_calls());
    }

    /// The requests that are there and not answered, although their key is no other pod's.
    pub(super) fn unanswered(&self, world: &World) -> Vec<String> {
        let all: Vec<One> = world.requests().iter().map(One::of).collect();
        let is_anothers =
            |one: &One| all.iter().any(|other| one.rivals(other) && (other.is_issued || other.place < one.place));
        let left = all.iter().filter(|one| self.asked.contains(&one.name) && !one.is_answered && !is_anothers(one));
        left.map(|one| one.name.clone()).collect()
    }

    /// Of two pods with one key one has a certificate, and it is not the one who came later, while the other's request is there.
    fn one_key_one_pod(&mut self, world: &World) {
        let all: Vec<One> = world.requests().iter().map(One::of).collect();
        for one in all.iter().filter(|one| one.is_issued) {
            let of_pod = all.iter().chain(&self.gone).filter(|other| other.key == one.key && other.pod == one.pod);
            let since = of_pod.map(|other| other.place).min().unwrap_or(one.place);
            for other in all.iter().filter(|other| one.rivals(other) && (other.is_issued || other.place < since)) {
                let what = if other.is_issued { "both have a certificate" } else { "the later has one" };
                self.wrong.push(format!("{} and {} ask with one key for two pods: {what}", other.name, one.name));
            }
        }
    }

    pub(super) fn judge(&mut self, world: &World, replicas: &[Replica; 3]) {
        let unanswered = self.unanswered(world);
        self.wrong.extend(unanswered.iter().map(|name| format!("{name} was never answered")));
        let invalid = std::mem::take(&mut *lock(&world.invalid));
        // Only where a clock jumps can a status come too late for it.
        if world.jumped.load(Relaxed) == 0 && !world.far_off.load(Relaxed) {
            self.wrong.extend(invalid);
        }
        let lines: Vec<Value> =
            replicas.iter().flat_map(|replica| &replica.logs).flat_map(|log| lock(log).clone()).collect();
        let mut serials = BTreeMap::new();
        self.one_key_one_pod(world);
        for name in self.asked.union(&self.copied).cloned().collect::<Vec<_>>() {
            self.one(&name, world, &lines, &mut serials);
        }
        for replica in replicas {
            self.note_calls(replica);
        }
        if self.most_calls > MOST_CALLS {
            self.wrong.push(format!("{} calls within a second", self.most_calls));
        }
        self.answers = lock(&world.answered).len();
        self.writes = world.writes.load(Relaxed);
    }

    fn one(&mut self, name: &str, world: &World, lines: &[Value], serials: &mut BTreeMap<String, String>) {
        let Some(object) = world.fake.get(&path("shop", name)) else { return };
        let condition = &object["status"]["conditions"][0];
        if condition.is_null() {
            return;
        }
        if condition["type"] != "Issued" {
            self.wrong.push(format!("{name} was honest and got {condition}"));
            return;
        }
        let uid = &object["metadata"]["uid"];
        let of = |event: &'static str| {
            lines.iter().filter(move |line| line["event"] == event && line["request"]["uid"] == *uid)
        };
        let message = condition["message"].as_str().unwrap_or_default();
        let serial = of("issuing").filter_map(|line| line["serial"].as_str()).find(|serial| message.contains(*serial));
        match serial {
            None => self.wrong.push(format!("{name} has no line in any audit log")),
            Some(serial) => {
                if let Some(other) = serials.insert(serial.to_owned(), name.to_owned()) {
                    self.wrong.push(format!("{name} and {other} have one serial number"));
                }
            }
        }
        if of("outcome").filter(|line| line["outcome"] == "published").count() > 1 {
            self.wrong.push(format!("{name} was published twice, say the audit logs"));
        }
    }
}

/// A request, as far as its key is concerned.
#[derive(Debug)]
pub(super) struct One {
    name: String,
    key: String,
    pod: String,
    /// In the order in which they were made.
    place: u64,
    is_answered: bool,
    is_issued: bool,
}

impl One {
    pub(super) fn of(object: &Value) -> Self {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            name: text("/metadata/name"),
            key: text("/spec/stubPKCS10Request"),
            pod: text("/spec/podUID"),
            place: text("/metadata/resourceVersion").parse().unwrap(),
            is_answered: !object["status"]["conditions"].is_null(),
            is_issued: text("/status/conditions/0/type") == "Issued",
        }
    }

    fn rivals(&self, other: &Self) -> bool {
        self.key == other.key && self.pod != other.pod
    }
}

/// Runs these seeds, on as many threads as are worth it, and panics with the first that break a law.
pub(super) fn hold_for(seeds: Range<u64>) {
    let (next, end) = (AtomicU64::new(seeds.start), seeds.end);
    let run = || {
        let mut ours = Vec::new();
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= end {
                return ours;
            }
            ours.push((seed, simulate(seed, storm(seed))));
        }
    };
    let outcomes: Vec<(u64, Outcome)> = thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(run));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let broken: Vec<_> = outcomes.iter().filter(|(_, outcome)| !outcome.wrong.is_empty()).collect();
    let words = broken.iter().take(10).map(|(seed, outcome)| format!("seed {seed}: {:?}\n", outcome.wrong));
    assert!(
        broken.is_empty(),
        "{} of {} runs break a law\n{}",
        broken.len(),
        outcomes.len(),
        words.collect::<String>()
    );
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(|(_, outcome)| of(outcome)).sum::<usize>();
    let (answers, writes) = (sum(|outcome| outcome.answers), sum(|outcome| outcome.writes));
    let most = |of: fn(&Outcome) -> Duration| outcomes.iter().map(|(_, outcome)| of(outcome)).max().unwrap_or_default();
    println!(
        "{} runs, {answers} answers by {writes} writes, all answered {:?} after the last fault at the latest, {} calls within a second at most",
        outcomes.len(),
        most(|outcome| outcome.settled),
        outcomes.iter().map(|(_, outcome)| outcome.most_calls).max().unwrap_or_default()
    );
    assert!(writes * 100 <= answers * 105, "{writes} writes for {answers} answers");
}

/// A walk is four calls, and there are two dozen requests: more means calling without end.
const MOST_CALLS: usize = 250;
