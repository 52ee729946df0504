//! The numbers of the one JSON line, counted from the evidence.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::evidence::Evidence;
use super::request::{Answer, Request};

/// The one line of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Certificate requests the API server took.
    pub requests: usize,
    /// Answered with a certificate.
    pub issued: usize,
    /// Denied, for ever.
    pub denied: usize,
    /// Pending at the end: the signer holds them.
    pub held: usize,
    /// Certificates that replaced one of the same pod.
    pub renewals: usize,
    /// TLS handshakes completed between the two services, as the client counted them.
    pub handshakes: u64,
    /// TLS handshakes that failed.
    pub failed_handshakes: u64,
    /// Half of these handshakes took at most this long.
    pub p50_ms: Option<f64>,
    /// 99 of 100 of these handshakes took at most this long.
    pub p99_ms: Option<f64>,
}

impl Figures {
    pub(super) fn count(requests: &[Request], evidence: &Evidence) -> Self {
        let how_many = |wanted: fn(&Answer) -> bool| requests.iter().filter(|request| wanted(&request.answer)).count();
        let mut of_pod: BTreeMap<&str, usize> = BTreeMap::new();
        for request in requests.iter().filter(|request| request.leaf().is_some()) {
            let count = of_pod.entry(&request.pod_uid).or_default();
            *count = count.saturating_add(1);
        }
        let pair = &evidence.pair;
        Self {
            requests: requests.len(),
            issued: how_many(|answer| matches!(answer, Answer::Issued(_))),
            denied: how_many(|answer| matches!(answer, Answer::Denied)),
            held: how_many(|answer| matches!(answer, Answer::Pending)),
            renewals: of_pod.values().map(|count| count.saturating_sub(1)).sum(),
            handshakes: pair.client.handshakes,
            // Most failures are seen, and counted, at both ends.
            failed_handshakes: pair.client.failed.max(pair.server.failed),
            p50_ms: percentile(&pair.client.latencies, 50).map(milliseconds),
            p99_ms: percentile(&pair.client.latencies, 99).map(milliseconds),
        }
    }
}

/// The smallest of them that `percent` of all do not exceed.
#[must_use]
pub fn percentile(of: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    let rank = sorted.len().saturating_mul(percent).div_ceil(100).max(1);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// To the microsecond: more digits would only pretend.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let of: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&of, 50), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&of, 99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&of[..1], 99), Some(Duration::from_millis(200)));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn the_line_has_the_promised_keys_in_order() {
        let figures = Figures {
            requests: 14,
            issued: 12,
            denied: 1,
            held: 1,
            renewals: 10,
            handshakes: 231,
            failed_handshakes: 0,
            p50_ms: Some(milliseconds(Duration::from_nanos(1_234_567))),
            p99_ms: None,
        };
        let line = serde_json::to_string(&figures).unwrap();
        assert_eq!(
            line,
            r#"{"requests":14,"issued":12,"denied":1,"held":1,"renewals":10,"handshakes":231,"failed_handshakes":0,"p50_ms":1.235,"p99_ms":null}"#
        );
    }
}
