//! Which order serves most when more is asked for than can be served: the shipped queue beside a line in which the oldest is first.
//!
//! Three requests a second, of which one and a half can be answered; a request that waits for a quarter of an hour is deleted, and its
//! pod asks anew. All a hundredth of what the reference measures on a large cluster.

#![expect(clippy::arithmetic_side_effects, reason = "a simulation, in small numbers")]

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{Next, Queue};
use crate::names::RequestUid;

/// What an order has to do.
trait Order {
    fn add(&mut self, uid: &RequestUid, now: Instant);
    fn remove(&mut self, uid: &RequestUid);
    fn take(&mut self, now: Instant) -> Option<RequestUid>;
}

impl Order for Queue<()> {
    fn add(&mut self, uid: &RequestUid, now: Instant) {
        Self::add(self, uid, "shop", (), 0, now);
    }

    fn remove(&mut self, uid: &RequestUid) {
        Self::remove(self, uid);
    }

    fn take(&mut self, now: Instant) -> Option<RequestUid> {
        let uid = Self::take(self, Duration::ZERO, now)?;
        self.settle(&uid, Next::Leave);
        Some(uid)
    }
}

impl Order for VecDeque<RequestUid> {
    fn add(&mut self, uid: &RequestUid, _now: Instant) {
        self.push_back(uid.clone());
    }

    fn remove(&mut self, uid: &RequestUid) {
        self.retain(|other| other != uid);
    }

    fn take(&mut self, _now: Instant) -> Option<RequestUid> {
        self.pop_front()
    }
}

/// How long each pod that was served had waited since it first asked.
fn waits(order: &mut impl Order) -> Vec<Duration> {
    let start = Instant::now();
    // By request: when the pod first asked, and when this request was made.
    let mut pending: BTreeMap<RequestUid, (Instant, Instant)> = BTreeMap::new();
    let (mut waits, mut made) = (Vec::new(), 0_u32);
    for half_second in 0..2 * HALF_AN_HOUR {
        let now = start + Duration::from_millis(500) * half_second;
        let mut asks: Vec<Instant> = Vec::new();
        // Three pods ask in two halves of a second, and three requests are answered in four.
        asks.extend(std::iter::repeat_n(now, if half_second.is_multiple_of(2) { 2 } else { 1 }));
        let deleted: Vec<RequestUid> =
            pending.iter().filter(|(_, (_, made))| now - *made >= DELETED).map(|(uid, _)| uid.clone()).collect();
        for uid in deleted {
            order.remove(&uid);
            asks.extend(pending.remove(&uid).map(|(first, _)| first));
        }
        for first in asks {
            made += 1;
            let uid = RequestUid::parse(&format!("r{made:06}")).unwrap();
            order.add(&uid, now);
            pending.insert(uid, (first, now));
        }
        if half_second % 4 != 3
            && let Some((first, _)) = order.take(now).and_then(|uid| pending.remove(&uid))
        {
            waits.push(now - first);
        }
    }
    waits.sort();
    waits
}

const HALF_AN_HOUR: u32 = 1_800;
const DELETED: Duration = Duration::from_mins(15);

#[test]
fn under_a_backlog_the_newest_first_serves_as_many_and_most_of_them_at_once() {
    let (ours, oldest_first) = (waits(&mut Queue::new()), waits(&mut VecDeque::new()));
    let median = |waits: &[Duration]| waits[waits.len() / 2];
    println!(
        "served {} and {}, median wait {:?} and {:?}",
        ours.len(),
        oldest_first.len(),
        median(&ours),
        median(&oldest_first)
    );
    assert!(ours.len() >= oldest_first.len());
    assert!(median(&ours) < Duration::from_mins(1), "{:?}", median(&ours));
    assert!(median(&oldest_first) > Duration::from_mins(5), "{:?}", median(&oldest_first));
}
