//! What all CAs together show in the metrics.

use std::sync::{Arc, Mutex, PoisonError};

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
    all: Arc<Mutex<Vec<Seen>>>,
    metrics: Metrics,
}

impl Vitals {
    pub(crate) fn new(count: usize, metrics: Metrics) -> Self {
        Self { all: Arc::new(Mutex::new(vec![(Vital::unusable(0), None); count])), metrics }
    }

    /// The gauges show the worst of all.
    pub(crate) fn set(&self, number: usize, vital: Vital, phase: Option<&'static str>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = all.get_mut(number) {
            *before = (vital, phase.or(before.1));
        }
        let until = all.iter().map(|(vital, _)| vital.usable_until.map_or(0, OffsetDateTime::unix_timestamp)).min();
        // Seconds of this century have an exact float.
        let until = u32::try_from(until.unwrap_or(0)).map_or(0.0, f64::from);
        self.metrics.ca_usable_until_timestamp_seconds.set(until);
        self.metrics.trust_in_sync.set(i64::from(all.iter().all(|(vital, _)| vital.in_sync)));
        for phase in PHASES {
            let count = all.iter().filter(|(_, seen)| *seen == Some(phase)).count();
            self.metrics.rotation.get_or_create(&PhaseLabels { phase }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let foreign = all.iter().fold(0_usize, |sum, (vital, _)| sum.saturating_add(vital.foreign_bundles));
        self.metrics.foreign_bundles.set(i64::try_from(foreign).unwrap_or(i64::MAX));
    }

    pub(crate) fn repaired(&self) {
        self.metrics.trust_repairs.inc();
    }
}
