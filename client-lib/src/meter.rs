//! Every figure that the feature `metrics` gives, through the facade of that name; without the feature these functions do nothing.
//!
//! Labels are from fixed lists, or trust domains that the program named; never a peer.

use crate::connections::Ending;
use crate::handshake::HandshakeError;
use crate::health::{Health, Problem};
use crate::snapshot::Snapshot;
use crate::verify::Side;

#[cfg(feature = "metrics")]
mod facade {
    use super::*;
    use crate::health::{Age, Updates, WatchMode};
    use crate::snapshot::OwnChain;
    use ::metrics::{counter, describe_counter, describe_gauge, gauge};

    /// A figure.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Figure {
        /// Its name.
        pub name: &'static str,
        /// It counts up, and its name ends in `_total`; otherwise it is a gauge.
        pub counts: bool,
        /// What it says, with its labels.
        pub meaning: &'static str,
    }

    const fn counter(name: &'static str, meaning: &'static str) -> Figure {
        Figure { name, counts: true, meaning }
    }

    const fn gauge(name: &'static str, meaning: &'static str) -> Figure {
        Figure { name, counts: false, meaning }
    }

    /// All of them.
    pub const FIGURES: &[Figure] = &[
        counter(LOADS, "readings of the files, by result: good or kept"),
        counter(PROBLEMS, "parts of readings that could not be used, by part and reason"),
        gauge(GENERATION, "the generation in use"),
        gauge(NOT_AFTER, "when our certificate expires, in seconds of Unix time"),
        gauge(AGE, "where our certificate is in its life: 0 fresh, 1 due, 2 overdue, 3 expired"),
        gauge(STOPPED, "1 if the files will not change any more: a subPath mount or a frozen volume"),
        gauge(UNTRUSTED, "1 if our own chain does not verify against our own anchors"),
        gauge(ANCHORS, "anchors in use, by trust domain"),
        gauge(ANCHORS_NOT_AFTER, "when the last of a trust domain's anchors expires, in seconds of Unix time"),
        gauge(INOTIFY, "1 if changes are noticed by inotify, 0 if by the poll alone"),
        counter(HANDSHAKES, "handshakes of acceptors and connectors, by side and result: made, or the reason why not"),
        counter(GROUPS, "handshakes made, by side and whether the key exchange was post_quantum or classical"),
        gauge(OPEN, "open connections of acceptors and connectors"),
        counter(CLOSED, "connections that we closed, by reason"),
    ];

    const LOADS: &str = "podmint_client_loads_total";
    const PROBLEMS: &str = "podmint_client_load_problems_total";
    const GENERATION: &str = "podmint_client_generation";
    const NOT_AFTER: &str = "podmint_client_credential_not_after_seconds";
    const AGE: &str = "podmint_client_credential_age";
    const STOPPED: &str = "podmint_client_updates_stopped";
    const UNTRUSTED: &str = "podmint_client_own_chain_untrusted";
    const ANCHORS: &str = "podmint_client_trust_anchors";
    const ANCHORS_NOT_AFTER: &str = "podmint_client_trust_not_after_seconds";
    const INOTIFY: &str = "podmint_client_watch_inotify";
    const HANDSHAKES: &str = "podmint_client_handshakes_total";
    const GROUPS: &str = "podmint_client_key_exchanges_total";
    const OPEN: &str = "podmint_client_connections";
    const CLOSED: &str = "podmint_client_connections_closed_total";

    pub(crate) fn describe() {
        for Figure { name, counts, meaning } in FIGURES {
            if *counts {
                describe_counter!(*name, *meaning);
            } else {
                describe_gauge!(*name, *meaning);
            }
        }
    }

    pub(crate) fn loaded(problems: &[Problem]) {
        counter!(LOADS, "result" => if problems.is_empty() { "good" } else { "kept" }).increment(1);
        for problem in problems {
            let part = if problem.domain.is_some() { "trust" } else { "credential" };
            counter!(PROBLEMS, "part" => part, "reason" => problem.reason).increment(1);
        }
    }

    pub(crate) fn health(health: &Health, snapshot: &Snapshot) {
        gauge!(GENERATION).set(float(health.generation));
        gauge!(NOT_AFTER).set(float(health.not_after.as_secs()));
        gauge!(AGE).set(match health.age {
            Age::Fresh => 0.0,
            Age::Due => 1.0,
            Age::Overdue => 2.0,
            Age::Expired => 3.0,
        });
        gauge!(STOPPED).set(bit(health.updates != Updates::Expected));
        gauge!(UNTRUSTED).set(bit(matches!(health.own_chain, OwnChain::Untrusted(_))));
        gauge!(INOTIFY).set(bit(health.watch == WatchMode::Inotify));
        gauge!(OPEN).set(float(u64::try_from(health.connections).unwrap_or(u64::MAX)));
        for (domain, anchors) in snapshot.trust() {
            let last = anchors.iter().map(|anchor| anchor.not_after().as_secs()).max().unwrap_or(0);
            gauge!(ANCHORS, "trust_domain" => domain.to_string())
                .set(float(u64::try_from(anchors.len()).unwrap_or(u64::MAX)));
            gauge!(ANCHORS_NOT_AFTER, "trust_domain" => domain.to_string()).set(float(last));
        }
    }

    pub(crate) fn handshake(side: Side, result: Result<bool, &HandshakeError>) {
        let side = ours(side);
        let word = match &result {
            Ok(_) => "made",
            Err(error) => error.reason(),
        };
        counter!(HANDSHAKES, "side" => side, "result" => word).increment(1);
        if let Ok(post_quantum) = result {
            let kind = if post_quantum { "post_quantum" } else { "classical" };
            counter!(GROUPS, "side" => side, "kind" => kind).increment(1);
        }
    }

    pub(crate) fn open(count: usize) {
        gauge!(OPEN).set(float(u64::try_from(count).unwrap_or(u64::MAX)));
    }

    pub(crate) fn closed(why: &Ending) {
        counter!(CLOSED, "reason" => why.reason()).increment(1);
    }

    /// `side` is the peer's.
    fn ours(side: Side) -> &'static str {
        match side {
            Side::Client => "server",
            Side::Server => "client",
        }
    }

    fn bit(is: bool) -> f64 {
        if is { 1.0 } else { 0.0 }
    }

    /// Exact below 2^53; larger figures do not occur.
    #[expect(clippy::as_conversions, reason = "there is no other way from u64 to f64")]
    fn float(number: u64) -> f64 {
        number as f64
    }
}

#[cfg(feature = "metrics")]
pub use facade::{FIGURES, Figure};
#[cfg(feature = "metrics")]
pub(crate) use facade::{closed, describe, handshake, health, loaded, open};

#[cfg(not(feature = "metrics"))]
mod nothing {
    use super::*;

    pub(crate) fn describe() {}
    pub(crate) fn loaded(_: &[Problem]) {}
    pub(crate) fn health(_: &Health, _: &Snapshot) {}
    pub(crate) fn handshake(_: Side, _: Result<bool, &HandshakeError>) {}
    pub(crate) fn open(_: usize) {}
    pub(crate) fn closed(_: &Ending) {}
}

#[cfg(not(feature = "metrics"))]
pub(crate) use nothing::{closed, describe, handshake, health, loaded, open};
