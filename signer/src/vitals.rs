//! What all CAs together show in the metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;

use crate::{
    authority::{Generation, View, plan::PHASES, trouble::LABELS},
    metrics::{Metrics, PhaseLabels, TroubleLabels},
};

/// How one CA is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vital {
    usable_until: Option<OffsetDateTime>,
    is_brought: bool,
    in_sync: bool,
    foreign_bundles: usize,
}

impl Vital {
    pub(crate) fn signing(generation: &Generation, foreign_bundles: usize) -> Self {
        let is_brought = generation.signing().is_brought;
        Self { usable_until: Some(generation.usable_until()), is_brought, in_sync: true, foreign_bundles }
    }

    pub(crate) fn out_of_sync(foreign_bundles: usize) -> Self {
        Self { usable_until: None, is_brought: false, in_sync: false, foreign_bundles }
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
        let vitals = Self { all: Arc::default(), metrics };
        vitals.show(&BTreeMap::new());
        vitals
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
        // The end of a CA that is brought is its owner's business: a trouble of its own tells of it.
        let made = all.values().map(|seen| seen.vital).filter(|vital| !vital.is_brought);
        let until = made.map(|vital| vital.usable_until.map_or(0.0, |until| seconds(until.unix_timestamp())));
        self.metrics.ca_usable_until_timestamp_seconds.set(until.fold(f64::INFINITY, f64::min));
        let mended = all.values().filter_map(|seen| Some(seen.mended?.unix_timestamp())).max();
        self.metrics.ca_mended_timestamp_seconds.set(mended.map_or(0.0, seconds));
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
fn seconds(time: i64) -> f64 {
    u32::try_from(time).map_or(0.0, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::honest;

    #[test]
    fn no_alarm_for_want_of_a_ca_nor_for_the_end_of_one_that_is_brought() {
        let metrics = Metrics::new();
        let vitals = Vitals::new(metrics.clone());
        let shown = || (metrics.ca_usable_until_timestamp_seconds.get(), metrics.trust_in_sync.get());
        assert_eq!(shown(), (f64::INFINITY, 1), "there is none");
        assert!(metrics.text().unwrap().contains("ca_usable_until_timestamp_seconds inf"), "as Prometheus reads it");
        vitals.add(0);
        vitals.set(0, Vital::unusable(0), None);
        assert_eq!(shown(), (0.0, 0));
        let made = honest::generation();
        vitals.set(0, Vital::signing(&made, 0), None);
        let until = seconds(made.usable_until().unix_timestamp());
        assert_eq!(shown(), (until, 1));
        let soon = made.usable_until().saturating_sub(time::Duration::DAY);
        vitals.add(1);
        vitals.set(1, Vital { usable_until: Some(soon), is_brought: true, ..Vital::signing(&made, 0) }, None);
        assert_eq!(shown(), (until, 1));
        vitals.remove(0);
        assert_eq!(shown(), (f64::INFINITY, 1));
    }
}
