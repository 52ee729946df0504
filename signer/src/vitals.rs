//! What all CAs together show in the metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;

use crate::{
    authority::{View, plan::PHASES, trouble::LABELS},
    metrics::{Metrics, PhaseLabels, TroubleLabels},
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

/// One of them, and what was last seen of it.
#[derive(Debug)]
struct Seen {
    vital: Vital,
    phase: Option<&'static str>,
    mended: Option<OffsetDateTime>,
    trouble: Option<&'static str>,
}

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
        let seen = Seen { vital: Vital::unusable(0), phase: None, mended: None, trouble: None };
        self.all().insert(number, seen);
    }

    /// It is no business of ours any more.
    pub(crate) fn remove(&self, number: usize) {
        let mut all = self.all();
        all.remove(&number);
        self.show(&all);
    }

    pub(crate) fn set(&self, number: usize, vital: Vital, view: Option<&View>) {
        let mut all = self.all();
        if let Some(seen) = all.get_mut(&number) {
            seen.vital = vital;
            if let Some(view) = view {
                seen.phase = Some(view.phase);
                seen.mended = view.mended.map(|mended| mended.at);
            }
        }
        self.show(&all);
    }

    /// What somebody should see to.
    pub(crate) fn trouble(&self, number: usize, trouble: Option<&'static str>) {
        let mut all = self.all();
        if let Some(seen) = all.get_mut(&number) {
            seen.trouble = trouble;
        }
        self.show(&all);
    }

    /// The gauges show the worst of all.
    fn show(&self, all: &BTreeMap<usize, Seen>) {
        let until = all.values().map(|seen| seen.vital.usable_until.map_or(0, OffsetDateTime::unix_timestamp)).min();
        self.metrics.ca_usable_until_timestamp_seconds.set(seconds(until));
        let mended = all.values().filter_map(|seen| Some(seen.mended?.unix_timestamp())).max();
        self.metrics.ca_mended_timestamp_seconds.set(seconds(mended));
        self.metrics.trust_in_sync.set(i64::from(all.values().all(|seen| seen.vital.in_sync)));
        let count = |is_so: &dyn Fn(&Seen) -> bool| {
            let count = all.values().filter(|seen| is_so(seen)).count();
            i64::try_from(count).unwrap_or(i64::MAX)
        };
        for phase in PHASES {
            let count = count(&|seen| seen.phase == Some(phase));
            self.metrics.rotation.get_or_create(&PhaseLabels { phase }).set(count);
        }
        for trouble in LABELS {
            let count = count(&|seen| seen.trouble == Some(trouble));
            self.metrics.ca_trouble.get_or_create(&TroubleLabels { trouble }).set(count);
        }
        let foreign = all.values().fold(0_usize, |sum, seen| sum.saturating_add(seen.vital.foreign_bundles));
        self.metrics.foreign_bundles.set(i64::try_from(foreign).unwrap_or(i64::MAX));
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<usize, Seen>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn repaired(&self) {
        self.metrics.trust_repairs.inc();
    }
}

/// Seconds of this century have an exact float.
fn seconds(time: Option<i64>) -> f64 {
    u32::try_from(time.unwrap_or(0)).map_or(0.0, f64::from)
}
