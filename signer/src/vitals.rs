//! What all CAs together show in the metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;

use crate::{
    authority::plan::PHASES,
    metrics::{Metrics, PhaseLabels},
};

/// How one CA is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vital {
    usable_until: Option<OffsetDateTime>,
    in_sync: bool,
    foreign_bundles: usize,
}

impl Vital {
    pub(crate) fn signing(usable_until: OffsetDateTime, foreign_bundles: usize) -> Self {
        Self { usable_until: Some(usable_until), in_sync: true, foreign_bundles }
    }

    pub(crate) fn out_of_sync(foreign_bundles: usize) -> Self {
        Self { usable_until: None, in_sync: false, foreign_bundles }
    }

    pub(crate) fn unusable(foreign_bundles: usize) -> Self {
        Self::out_of_sync(foreign_bundles)
    }
}

/// One of them, and the phase that it was last seen in.
type Seen = (Vital, Option<&'static str>);

/// All CAs, by number of their signer. All clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Vitals {
    all: Arc<Mutex<BTreeMap<usize, Seen>>>,
    metrics: Metrics,
}

impl Vitals {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { all: Arc::default(), metrics }
    }

    /// One more, of which nothing is known yet.
    pub(crate) fn add(&self, number: usize) {
        self.all().insert(number, (Vital::unusable(0), None));
    }

    /// It is no business of ours any more.
    pub(crate) fn remove(&self, number: usize) {
        let mut all = self.all();
        all.remove(&number);
        self.show(&all);
    }

    pub(crate) fn set(&self, number: usize, vital: Vital, phase: Option<&'static str>) {
        let mut all = self.all();
        if let Some(before) = all.get_mut(&number) {
            *before = (vital, phase.or(before.1));
        }
        self.show(&all);
    }

    /// The gauges show the worst of all.
    fn show(&self, all: &BTreeMap<usize, Seen>) {
        let until = all.values().map(|(vital, _)| vital.usable_until.map_or(0, OffsetDateTime::unix_timestamp)).min();
        // Seconds of this century have an exact float.
        let until = u32::try_from(until.unwrap_or(0)).map_or(0.0, f64::from);
        self.metrics.ca_usable_until_timestamp_seconds.set(until);
        self.metrics.trust_in_sync.set(i64::from(all.values().all(|(vital, _)| vital.in_sync)));
        for phase in PHASES {
            let count = all.values().filter(|(_, seen)| *seen == Some(phase)).count();
            self.metrics.rotation.get_or_create(&PhaseLabels { phase }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let foreign = all.values().fold(0_usize, |sum, (vital, _)| sum.saturating_add(vital.foreign_bundles));
        self.metrics.foreign_bundles.set(i64::try_from(foreign).unwrap_or(i64::MAX));
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<usize, Seen>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn repaired(&self) {
        self.metrics.trust_repairs.inc();
    }
}
