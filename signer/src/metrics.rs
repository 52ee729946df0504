//! Every name and every label that `/metrics` shows. `METRICS.md` lists them for people; a test holds the two together.
//!
//! Labels are words of our own enums, never the name of an object; only the rules of PodSigners are counted by their names.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    authority::{plan::PHASES, trouble::LABELS},
    cluster::gait::DIRECTIONS,
};

/// All counters and gauges of one signer. All clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    pub(crate) answers: Family<AnswerLabels, Counter>,
    pub(crate) answer_seconds: Histogram,
    pub(crate) walk_seconds: Family<OutcomeLabels, Histogram>,
    pub(crate) oldest_pending_seconds: Gauge<f64, AtomicU64>,
    pub(crate) queue: Family<StateLabels, Gauge>,
    pub(crate) waiting: Family<ReasonLabels, Gauge>,
    pub(crate) live_requests: Gauge,
    pub(crate) in_flight_limit: Gauge,
    pub(crate) requests: Counter,
    pub(crate) requests_per_second: Gauge<f64, AtomicU64>,
    pub(crate) rules: Family<RuleLabels, Counter>,
    pub(crate) short_lives: Counter,
    pub(crate) ignored_csr_content: Counter,
    pub(crate) shared_keys: Counter,
    pub(crate) rejected_writes: Family<CauseLabels, Counter>,
    pub(crate) lost_races: Counter,
    pub(crate) malformed_objects: Counter,
    pub(crate) panics: Counter,
    pub(crate) foreign_issuance: Counter,
    pub(crate) ca_usable_until_timestamp_seconds: Gauge<f64, AtomicU64>,
    pub(crate) ca_trouble: Family<TroubleLabels, Gauge>,
    pub(crate) ca_mended_timestamp_seconds: Gauge<f64, AtomicU64>,
    pub(crate) podsigners: Family<StateLabels, Gauge>,
    pub(crate) rotation: Family<PhaseLabels, Gauge>,
    pub(crate) trust_in_sync: Gauge,
    pub(crate) trust_repairs: Counter,
    pub(crate) foreign_bundles: Gauge,
    pub(crate) guard: Family<StateLabels, Gauge>,
    pub(crate) first: Gauge,
    pub(crate) watch_restarts: Family<CauseLabels, Counter>,
    pub(crate) overload: Counter,
    pub(crate) clock_jumps: Family<DirectionLabels, Counter>,
    pub(crate) events_dropped: Counter,
    pub(crate) audit_failures: Counter,
    pub(crate) holds: Gauge,
    pub(crate) malformed_holds: Gauge,
}

/// Which answer, and why.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct AnswerLabels {
    pub(crate) answer: &'static str,
    pub(crate) reason: &'static str,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct OutcomeLabels {
    pub(crate) outcome: &'static str,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct StateLabels {
    pub(crate) state: &'static str,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct PhaseLabels {
    pub(crate) phase: &'static str,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct TroubleLabels {
    pub(crate) trouble: &'static str,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct CauseLabels {
    pub(crate) cause: &'static str,
}

/// Why something waits.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ReasonLabels {
    pub(crate) reason: &'static str,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct DirectionLabels {
    pub(crate) direction: &'static str,
}

/// The one metric with names in it: as many as there are rules in the PodSigners.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RuleLabels {
    pub(crate) pod_signer: String,
    pub(crate) rule: String,
    pub(crate) effect: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut list = List(Registry::with_prefix("podmint_signer"));
        let answers = list
            .family("answers", "Answers given, by answer and reason; a hold or a fault counts each time it is found");
        let answer_seconds =
            list.add("answer_seconds", "From the creation of a request to its answer", || Histogram::new(WAITS));
        let new_walk: fn() -> Histogram = || Histogram::new(WALKS);
        let walk_seconds = list
            .add("walk_seconds", "One walk of a request, by how it ended", || Family::new_with_constructor(new_walk));
        let oldest_pending_seconds = list.add(
            "oldest_pending_seconds",
            "Age of the oldest unanswered request that is in the queue",
            Gauge::default,
        );
        let queue = list.family(
            "queue",
            "Unanswered requests, by what is happening to them; `turned_away`: there was no room for them yet",
        );
        let waiting = list.family("waiting", "Of those that wait, how many for which reason");
        let live_requests =
            list.add("live_requests", "Requests that exist for our signer names, answered or not", Gauge::default);
        let in_flight_limit =
            list.add("in_flight_limit", "How many requests may be walked at a time just now", Gauge::default);
        let requests = list.add("requests", "Requests seen for the first time", Counter::default);
        let requests_per_second =
            list.add("requests_per_second", "New requests a second, over the last minute", Gauge::default);
        let rules = list.family(
            "rules",
            "Certificates by the rule that admitted, and what a rule in shadow would have admitted first",
        );
        let short_lives = list.add(
            "short_lives",
            "Certificates too short to outlive a signer outage of nine hours",
            Counter::default,
        );
        let ignored_csr_content = list.add(
            "ignored_csr_content",
            "Requests whose CSR held more than a key; the rest was ignored",
            Counter::default,
        );
        let shared_keys =
            list.add("shared_keys", "Requests held because another pod asked with the same key", Counter::default);
        let rejected_writes = list.family("rejected_writes", "Status writes that the API server refused, by cause");
        let lost_races = list.add(
            "lost_races",
            "Requests that somebody else answered first, by a write that was lost or a look before it",
            Counter::default,
        );
        let malformed_objects =
            list.add("malformed_objects", "Objects skipped because they could not be read", Counter::default);
        let panics = list.add("panics", "Walks that panicked; their request was set aside", Counter::default);
        let foreign_issuance = list.add(
            "foreign_issuance",
            "Certificates issued under our signer name that are not ours",
            Counter::default,
        );
        let ca_usable_until_timestamp_seconds = list.add(
            "ca_usable_until_timestamp_seconds",
            "Until when the first CA to end of those that Podmint makes can issue; 0 while one cannot, infinite without one",
            Gauge::default,
        );
        let ca_trouble = list.family("ca_trouble", "How many CAs have this trouble, which somebody should see to");
        let ca_mended_timestamp_seconds = list.add(
            "ca_mended_timestamp_seconds",
            "When a Secret of a CA was last found lost or old, and set right by itself; 0 for never",
            Gauge::default,
        );
        let podsigners = list.family("podsigners", "How many PodSigner objects are in each state");
        let rotation = list.family("rotation", "How many CAs are in each phase of a rotation of their root");
        let trust_in_sync = list.add(
            "trust_in_sync",
            "1 when every root, if there is one, was just read back from the API server",
            Gauge::default,
        );
        let trust_repairs =
            list.add("trust_repairs", "Trust bundles written because they were missing or edited", Counter::default);
        let foreign_bundles =
            list.add("foreign_bundles", "Trust bundles under our signer names that are not ours", Gauge::default);
        let guard = list.family("guard", "1 for the state that the admission guard is in");
        let first = list.add("first", "1 when this replica answers first", Gauge::default);
        let watch_restarts = list.family(
            "watch_restarts",
            "Watches begun anew, by cause; `rolled_back`: etcd is an older one, and everything was listed again",
        );
        let overload = list.add("overload", "Calls that the API server was too busy for", Counter::default);
        let clock_jumps = list
            .family("clock_jumps", "Jumps of the API server's clock against ours by more than 5 s, and halts of 30 s");
        let events_dropped = list.add("events_dropped", "Events on pods that could not be written", Counter::default);
        let audit_failures = list.add("audit_failures", "Audit lines that could not be written", Counter::default);
        let holds = list.add("holds", "What administrators have on hold", Gauge::default);
        let malformed_holds = list.add(
            "malformed_holds",
            "Entries among the holds that cannot be understood and hold nobody",
            Gauge::default,
        );
        let metrics = Self {
            registry: Arc::new(list.0),
            answers,
            answer_seconds,
            walk_seconds,
            oldest_pending_seconds,
            queue,
            waiting,
            live_requests,
            in_flight_limit,
            requests,
            requests_per_second,
            rules,
            short_lives,
            ignored_csr_content,
            shared_keys,
            rejected_writes,
            lost_races,
            malformed_objects,
            panics,
            foreign_issuance,
            ca_usable_until_timestamp_seconds,
            ca_trouble,
            ca_mended_timestamp_seconds,
            podsigners,
            rotation,
            trust_in_sync,
            trust_repairs,
            foreign_bundles,
            guard,
            first,
            watch_restarts,
            overload,
            clock_jumps,
            events_dropped,
            audit_failures,
            holds,
            malformed_holds,
        };
        metrics.show_zeros();
        metrics
    }

    /// A counter that appears with its first count has no increase that an alarm could see.
    fn show_zeros(&self) {
        drop(self.answers.get_or_create(&AnswerLabels { answer: "issue", reason: "issued" }));
        for outcome in OUTCOMES {
            drop(self.walk_seconds.get_or_create(&OutcomeLabels { outcome }));
        }
        for cause in REJECTIONS {
            drop(self.rejected_writes.get_or_create(&CauseLabels { cause }));
        }
        for cause in RESTARTS {
            drop(self.watch_restarts.get_or_create(&CauseLabels { cause }));
        }
        for state in PLACES {
            drop(self.queue.get_or_create(&StateLabels { state }));
        }
        for trouble in LABELS {
            drop(self.ca_trouble.get_or_create(&TroubleLabels { trouble }));
        }
        for state in JUDGEMENTS {
            drop(self.podsigners.get_or_create(&StateLabels { state }));
        }
        for phase in PHASES {
            drop(self.rotation.get_or_create(&PhaseLabels { phase }));
        }
        for direction in DIRECTIONS {
            drop(self.clock_jumps.get_or_create(&DirectionLabels { direction }));
        }
        drop(self.guard.get_or_create(&StateLabels { state: "unknown" }));
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// Never for a `String`; the encoder's signature says so.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// `effect` is `issued`, or `shadow` where the rule is not in force.
    pub(crate) fn rule(&self, pod_signer: &str, rule: &str, effect: &'static str) {
        let labels = RuleLabels { pod_signer: pod_signer.to_owned(), rule: rule.to_owned(), effect };
        self.rules.get_or_create(&labels).inc();
    }

    pub(crate) fn rejected(&self, cause: &'static str) {
        self.rejected_writes.get_or_create(&CauseLabels { cause }).inc();
    }

    pub(crate) fn watch_restarted(&self, cause: &'static str) {
        self.watch_restarts.get_or_create(&CauseLabels { cause }).inc();
    }

    /// Starts the clock of one walk.
    pub(crate) fn walk(&self) -> WalkTimer {
        WalkTimer { seconds: self.walk_seconds.clone(), begun: Instant::now(), outcome: "dropped" }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Records how long a walk took when it is dropped, so that an early return, a panic and a cancelled walk count as well.
pub(crate) struct WalkTimer {
    seconds: Family<OutcomeLabels, Histogram, fn() -> Histogram>,
    begun: Instant,
    pub(crate) outcome: &'static str,
}

impl Drop for WalkTimer {
    fn drop(&mut self) {
        let labels = OutcomeLabels { outcome: self.outcome };
        self.seconds.get_or_create(&labels).observe(self.begun.elapsed().as_secs_f64());
    }
}

/// The registry while it is being filled.
struct List(Registry);

impl List {
    fn add<M>(&mut self, name: &str, help: &str, make: impl FnOnce() -> M) -> M
    where
        M: prometheus_client::registry::Metric + Clone,
    {
        let metric = make();
        self.0.register(name, help, metric.clone());
        metric
    }

    fn family<L, M>(&mut self, name: &str, help: &str) -> Family<L, M>
    where
        L: EncodeLabelSet + Clone + Eq + std::hash::Hash + Send + Sync + fmt::Debug + 'static,
        M: prometheus_client::registry::Metric + Default + prometheus_client::metrics::TypedMetric,
        Family<L, M>: prometheus_client::registry::Metric,
    {
        self.add(name, help, Family::default)
    }
}

/// How a walk may end; `lost` to somebody who answered first, `dropped` with the signer or by a panic.
const OUTCOMES: [&str; 5] = ["answered", "hold", "fault", "lost", "dropped"];
const REJECTIONS: [&str; 4] = ["invalid", "lacks_sign", "forbidden", "other"];
const RESTARTS: [&str; 5] = ["ended", "silent", "expired", "rolled_back", "error"];
/// As it stands; an older spec than the one that stands there; nothing.
pub(crate) const JUDGEMENTS: [&str; 3] = ["in_force", "last_good", "refused"];
const PLACES: [&str; 4] = ["ready", "in_flight", "waiting", "turned_away"];

/// An answer within 80 ms costs a pod nothing and within half a second one retry (kubelet's mount back-off); ten minutes lose
/// the attempt. The buckets sit at those limits.
const WAITS: [f64; 12] = [0.005, 0.01, 0.02, 0.04, 0.08, 0.25, 0.5, 1.5, 3.5, 15.0, 60.0, 600.0];
/// From a walk whose reads hit the API server's cache to one that runs into a time limit.
const WALKS: [f64; 9] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 20.0];

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, type and help of every metric as the registry prints them.
    fn registered() -> Vec<(String, String, String)> {
        let metrics = Metrics::new();
        metrics.rule("workload", "shops", "issued");
        drop(metrics.waiting.get_or_create(&ReasonLabels { reason: "guard_missing" }));
        let text = metrics.text().unwrap();
        let mut helps = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
        let mut types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        std::iter::from_fn(|| {
            let ((name, help), (same, kind)) = (helps.next()?, types.next()?);
            assert_eq!(name, same);
            let suffix = if kind == "counter" { "_total" } else { "" };
            Some((format!("{name}{suffix}"), kind.to_owned(), help.trim_end_matches('.').to_owned()))
        })
        .collect()
    }

    #[test]
    fn the_document_lists_exactly_what_is_registered() {
        let documented: Vec<_> = include_str!("../METRICS.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                (cells[0].trim_end_matches('`').to_owned(), cells[1].to_owned(), cells[3].to_owned())
            })
            .collect();
        assert_eq!(documented, registered());
    }

    #[test]
    fn labels_are_those_documented() {
        let metrics = Metrics::new();
        metrics.answers.get_or_create(&AnswerLabels { answer: "deny", reason: "wrong_node" }).inc();
        metrics.rejected("invalid");
        metrics.watch_restarted("silent");
        metrics.queue.get_or_create(&StateLabels { state: "ready" }).set(3);
        drop(metrics.walk());
        let text = metrics.text().unwrap();
        for line in [
            "podmint_signer_answers_total{answer=\"deny\",reason=\"wrong_node\"} 1",
            "podmint_signer_rejected_writes_total{cause=\"invalid\"} 1",
            "podmint_signer_watch_restarts_total{cause=\"silent\"} 1",
            "podmint_signer_queue{state=\"ready\"} 3",
            "podmint_signer_walk_seconds_count{outcome=\"dropped\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
