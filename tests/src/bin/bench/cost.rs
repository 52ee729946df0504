//! What it costs to answer: processors, memory, calls.

use podmint_tests::stage::Stage;
use podmint_tests::{Who, call};

use crate::program::{self, Running};

/// What was used before, for what is used from then on.
pub(crate) struct Meter {
    calls: Calls,
    own: f64,
    server: f64,
}

/// What was used meanwhile.
pub(crate) struct Cost {
    pub(crate) calls: Calls,
    /// By whoever answers, in seconds of a processor.
    pub(crate) own: f64,
    /// By API server and etcd, in seconds of a processor.
    pub(crate) server: f64,
    /// The most memory of one process of whoever answers, in MiB.
    pub(crate) peak: f64,
}

/// Calls that the API server has answered.
pub(crate) struct Calls {
    /// All that do not create a request.
    pub(crate) all: f64,
    /// Those that wrote an answer.
    pub(crate) answers: f64,
}

impl Meter {
    /// From now on.
    pub(crate) async fn start(stage: &Stage, running: &Running) -> Self {
        running.forget_peak();
        let calls = Calls::so_far(stage).await;
        Self { calls, own: running.cpu(), server: of_server(stage) }
    }

    /// Until now.
    pub(crate) async fn stop(self, stage: &Stage, running: &Running) -> Cost {
        let (own, server, peak) = (running.cpu() - self.own, of_server(stage) - self.server, running.peak());
        let Calls { all, answers } = Calls::so_far(stage).await;
        let calls = Calls { all: all - self.calls.all, answers: answers - self.calls.answers };
        Cost { calls, own, server, peak }
    }
}

impl Calls {
    async fn so_far(stage: &Stage) -> Self {
        let metrics = metrics(stage).await;
        let is_call = |line: &str| line.starts_with("apiserver_request_total{");
        let is_on_requests = |line: &str| is_call(line) && line.contains(r#"resource="podcertificaterequests""#);
        let is_creation = |line: &str| is_on_requests(line) && line.contains(r#"verb="POST""#);
        let is_answer = |line: &str| {
            is_on_requests(line)
                && [r#"subresource="status""#, r#"verb="PUT""#, r#"code="200""#].iter().all(|part| line.contains(part))
        };
        Self { all: sum(&metrics, |line| is_call(line) && !is_creation(line)), answers: sum(&metrics, is_answer) }
    }
}

/// The sum of the API server's counters whose lines begin so.
pub(crate) async fn metric(stage: &Stage, start: &str) -> f64 {
    sum(&metrics(stage).await, |line| line.starts_with(start))
}

async fn metrics(stage: &Stage) -> String {
    let admin = stage.bed.client(&Who::Admin).await;
    call::text(&admin, "/metrics").await.unwrap()
}

fn sum(metrics: &str, is_meant: impl Fn(&str) -> bool) -> f64 {
    let lines = metrics.lines().filter(|line| is_meant(line));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn of_server(stage: &Stage) -> f64 {
    stage.bed.server().unwrap().pids().into_iter().map(program::cpu).sum()
}
