//! API Priority and Fairness as kube-apiserver 1.37 has it by default (KEP-1040; `k8s.io/apiserver/pkg/util/flowcontrol`), as far as a storm of
//! certificate requests meets it: what a write is charged, what each level lets through at a time, and what levels lend each other every ten
//! seconds. Times are milliseconds since the beginning.

use std::collections::{BTreeMap, VecDeque};

/// A call on its way, and what it is about.
pub(super) struct Call<T> {
    pub(super) about: T,
    pub(super) seats: f64,
    /// For how long it runs, and for how long its seats are taken after its reply.
    pub(super) runs: u32,
    pub(super) lingers: u32,
}

/// Calls that share what they are let through.
struct Level<T> {
    nominal: f64,
    /// What it never lends.
    least: f64,
    current: f64,
    smoothed: f64,
    /// The seats of calls that were let through, and of those that wait.
    taken: f64,
    waiting: f64,
    line: VecDeque<Call<T>>,
    /// How many may wait before it says 429.
    most: usize,
    demand: Demand,
}

/// The seats that were wanted, moment by moment, since the last adjustment.
#[derive(Default)]
struct Demand {
    moments: f64,
    sum: f64,
    squares: f64,
    high: f64,
}

/// One API server.
pub(super) struct Server<T> {
    levels: Vec<Level<T>>,
    /// What ends when: by time and number.
    replies: BTreeMap<(u32, u64), T>,
    ends: BTreeMap<(u32, u64), (usize, f64)>,
    calls: u64,
}

/// Where kubelets' writes go.
pub(super) const SYSTEM: usize = 0;
/// Where those of service accounts go that have no level of their own.
pub(super) const WORKLOAD_LOW: usize = 4;
/// The chart's own level, where it is.
pub(super) const OWN: usize = 7;

/// Shares, what of them is lent, queues by their length: the suggested and the mandatory levels but `exempt`.
const LEVELS: [(f64, f64, usize); 7] = [
    (30.0, 0.33, 64 * 50),
    (40.0, 0.25, 64 * 50),
    (10.0, 0.0, 16 * 50),
    (40.0, 0.5, 128 * 50),
    // One service account comes to six of its queues.
    (100.0, 0.9, 6 * 50),
    (20.0, 0.5, 128 * 50),
    (5.0, 0.0, 13),
];
/// `--max-requests-inflight` and `--max-mutating-requests-inflight` by default.
const SEATS: f64 = 600.0;
/// How often levels lend.
const ADJUSTED: u32 = 10_000;

impl<T> Server<T> {
    /// With a level of the signer's own, of so many shares of which so much is lent, or without.
    pub(super) fn new(own: Option<(f64, f64)>) -> Self {
        let levels = LEVELS.into_iter().chain(own.map(|(shares, lent)| (shares, lent, 300)));
        let sum: f64 = levels.clone().map(|(shares, ..)| shares).sum();
        let levels = levels.map(|(shares, lent, most)| {
            let nominal = (SEATS * shares / sum).ceil();
            let lendable = (nominal * lent).round();
            Level {
                nominal,
                least: nominal - lendable,
                current: nominal - (lendable / 2.0).floor(),
                smoothed: 0.0,
                taken: 0.0,
                waiting: 0.0,
                line: VecDeque::new(),
                most,
                demand: Demand::default(),
            }
        });
        Self { levels: levels.collect(), replies: BTreeMap::new(), ends: BTreeMap::new(), calls: 0 }
    }

    /// Sends a call. It comes back where too many wait (429).
    pub(super) fn send(&mut self, level: usize, call: Call<T>) -> Result<(), Call<T>> {
        let level = &mut self.levels[level];
        if level.line.len() >= level.most {
            return Err(call);
        }
        level.waiting += call.seats;
        level.line.push_back(call);
        Ok(())
    }

    /// One millisecond: what is replied to in it.
    pub(super) fn step(&mut self, now: u32) -> Vec<T> {
        if now.is_multiple_of(ADJUSTED) {
            self.adjust();
        }
        while let Some(end) = self.ends.first_entry().filter(|end| end.key().0 <= now) {
            let (level, seats) = end.remove();
            self.levels[level].taken -= seats;
        }
        for (number, level) in self.levels.iter_mut().enumerate() {
            // A call that finds too few seats waits until there are enough, and those behind it wait too.
            while let Some(call) = level.line.pop_front_if(|call| level.taken + call.seats <= level.current) {
                level.taken += call.seats;
                level.waiting -= call.seats;
                self.calls += 1;
                let replied = now + call.runs;
                self.replies.insert((replied, self.calls), call.about);
                self.ends.insert((replied + call.lingers, self.calls), (number, call.seats));
            }
            level.demand.note(level.taken + level.waiting);
        }
        let mut replies = Vec::new();
        while let Some(reply) = self.replies.first_entry().filter(|reply| reply.key().0 <= now) {
            replies.push(reply.remove());
        }
        replies
    }

    /// Every level gets its least, and of the rest in proportion to what it wants (`computeConcurrencyAllocation`).
    fn adjust(&mut self) {
        let wants: Vec<(f64, f64)> = self.levels.iter_mut().map(Level::wants).collect();
        let total: f64 = self.levels.iter().map(|level| level.nominal).sum();
        let given = |fair: f64| wants.iter().map(move |(least, target)| (fair * target).max(*least));
        let (mut low, mut high) = (0.0, total / MIN_TARGET);
        for _ in 0..100 {
            let middle = f64::midpoint(low, high);
            if given(middle).sum::<f64>() < total {
                low = middle;
            } else {
                high = middle;
            }
        }
        let given: Vec<f64> = given(low).map(f64::round).collect();
        self.levels.iter_mut().zip(given).for_each(|(level, seats)| level.current = seats);
    }

    /// What each level lets through at a time.
    pub(super) fn limits(&self) -> Vec<f64> {
        self.levels.iter().map(|level| level.current).collect()
    }
}

impl<T> Level<T> {
    /// The least it gets, and what it would like.
    fn wants(&mut self) -> (f64, f64) {
        let Demand { moments, sum, squares, high } = std::mem::take(&mut self.demand);
        let average = sum / moments.max(1.0);
        let envelope = average + (squares / moments.max(1.0) - average * average).max(0.0).sqrt();
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
        let least = self.least.max(high.min(self.nominal));
        (least, least.max(self.smoothed).max(MIN_TARGET))
    }
}

impl Demand {
    fn note(&mut self, seats: f64) {
        self.moments += 1.0;
        self.sum += seats;
        self.squares += seats * seats;
        self.high = self.high.max(seats);
    }
}

const SMOOTHING: f64 = 0.977;
const MIN_TARGET: f64 = 0.001;

/// A write whose object so many watch: ten seats, and for longer the more there are (`mutatingWorkEstimator`).
pub(super) fn write<T>(about: T, runs: u32, watchers: u32) -> Call<T> {
    let seats = if watchers < 10 { 0 } else { watchers.div_ceil(10) };
    let wide = seats.clamp(1, 10);
    Call { about, seats: f64::from(wide), runs, lingers: if seats == 0 { 0 } else { (seats * 5).div_ceil(wide) } }
}

/// A read of one object.
pub(super) const fn read<T>(about: T, runs: u32) -> Call<T> {
    Call { about, seats: 1.0, runs, lingers: 0 }
}

/// What a real kube-apiserver 1.37.2 says of itself (`apiserver_flowcontrol_current_limit_seats`) when it has been idle for a while.
#[test]
fn an_idle_server_lends_as_a_real_one_does() {
    let mut server = Server::<()>::new(None);
    for now in 0..=2 * ADJUSTED {
        server.step(now);
    }
    assert_eq!(server.limits(), [117.0, 170.0, 58.0, 114.0, 56.0, 56.0, 30.0]);
}
