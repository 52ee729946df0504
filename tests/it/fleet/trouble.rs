//! What goes wrong while a fleet rotates, drawn from a seed.

use std::time::Duration;

use podmint_devcluster::{Failure, Verb};
use podmint_signer::names::Sha256;
use podmint_tests::signer::SignerProcess;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Fleet, paced, told_again};
use crate::hand::wish;

/// All that can happen.
const KINDS: [&str; 7] = [
    "signer killed",
    "signer suspended",
    "calls refused",
    "API server away",
    "kubelet restarted",
    "watches broken",
    "rotation paused",
];

/// Makes it.
pub(super) struct Trouble<'f> {
    fleet: &'f Fleet,
    seed: u64,
    drawn: u64,
    times: [usize; KINDS.len()],
}

impl<'f> Trouble<'f> {
    pub(super) fn new(fleet: &'f Fleet, seed: u64) -> Self {
        Self { fleet, seed, drawn: 0, times: [0; KINDS.len()] }
    }

    /// One after another, until it is told to stop; gives the replicas back, and how often there was what.
    pub(super) async fn make<const N: usize>(
        mut self,
        mut signers: [SignerProcess; N],
        stop: &CancellationToken,
    ) -> ([SignerProcess; N], Vec<(&'static str, usize)>) {
        while !stop.is_cancelled() {
            let quiet = self.minutes(2..6);
            tokio::select! { () = tokio::time::sleep(quiet) => {}, () = stop.cancelled() => break }
            let kind = self.below(KINDS.len());
            self.times[kind] += 1;
            let which = self.below(N);
            match KINDS[kind] {
                "signer killed" => {
                    let next = self.fleet.signer(&format!("replica-{}", self.drawn)).await;
                    std::mem::replace(&mut signers[which], next).kill();
                }
                "signer suspended" => self.suspend(&signers[which]).await,
                "calls refused" => self.refuse(),
                "API server away" => {
                    self.fleet.stage.bed.go_down();
                    tokio::time::sleep(self.minutes(0..2)).await;
                    self.fleet.stage.bed.come_back().await;
                }
                "kubelet restarted" => {
                    let node = self.below(self.fleet.agents.len());
                    self.fleet.agents[node].1.restart().await;
                }
                "watches broken" => self.hang_up(),
                "rotation paused" => self.pause().await,
                other => panic!("{other} is nobody's business"),
            }
        }
        (signers, KINDS.into_iter().zip(self.times).collect())
    }

    async fn suspend(&mut self, signer: &SignerProcess) {
        let process = Pid::from_raw(signer.process().pid()).expect("a process");
        kill_process(process, Signal::STOP).expect("a process can be stopped");
        tokio::time::sleep(self.minutes(1..4)).await;
        kill_process(process, Signal::CONT).expect("a process can go on");
    }

    fn refuse(&mut self) {
        let resource = RESOURCES[self.below(RESOURCES.len())];
        let verb = [None, Some(Verb::Update), Some(Verb::Get)][self.below(3)];
        let code = [409, 429, 500, 503, 0][self.below(5)];
        let times = u32::try_from(self.below(5)).expect("few") + 1;
        self.devcluster().faults().fail(Failure {
            verb,
            resource: resource.to_owned(),
            code,
            times,
            retry_after: None,
        });
    }

    fn hang_up(&mut self) {
        let faults = self.devcluster().faults();
        for resource in ["podcertificaterequests", "clustertrustbundles", "pods"] {
            faults.close_watches(resource);
            faults.compact(resource);
        }
    }

    async fn pause(&mut self) {
        for word in ["true", "false"] {
            let stage = &self.fleet.stage;
            told_again(async || wish(stage, json!({"podmint.dev/pause-rotation": word})).await.ok()).await;
            tokio::time::sleep(self.minutes(1..5)).await;
        }
    }

    fn devcluster(&self) -> &podmint_devcluster::DevCluster {
        self.fleet.stage.bed.devcluster().expect("a fleet is on devcluster")
    }

    /// So many minutes, as everybody lives them.
    fn minutes(&mut self, range: std::ops::Range<u64>) -> Duration {
        let seconds = (range.end - range.start) * 60;
        paced(Duration::from_secs(
            range.start * 60 + u64::try_from(self.below(usize::try_from(seconds).unwrap())).unwrap(),
        ))
    }

    fn below(&mut self, below: usize) -> usize {
        self.drawn += 1;
        let hash = Sha256::of(&[self.seed.to_le_bytes(), self.drawn.to_le_bytes()].concat());
        usize::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) % below
    }
}

/// How often there was what, in words.
pub(super) fn told(times: &[(&'static str, usize)]) -> String {
    times.iter().map(|(kind, times)| format!("{kind} {times}×")).collect::<Vec<_>>().join(", ")
}

/// What keeper and walk use.
const RESOURCES: [&str; 4] = ["secrets", "clustertrustbundles", "podcertificaterequests/status", "leases"];
