//! How long a request waits when the replica that answers first is killed, stands still or is cut off at that very moment.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::replica::Replica;
use super::storm::REPLICAS;
use super::{Fleet, Mutex, replicas};
use crate::assets::VERSIONS;
use crate::chance::Chance;
use crate::proxy::trouble::{Gate, Trouble};
use crate::server::Settings;
use crate::until::until;
use crate::{Bed, Stage, call};

/// How the first replica goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// SIGKILL.
    Dead,
    /// SIGSTOP.
    Hung,
    /// Nothing gets through to it or from it.
    Cut,
}

impl Ends {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Dead, Self::Hung, Self::Cut];
}

/// So many waits, sorted, each of a request that was made just after the first replica had gone.
pub async fn waits(ends: Ends, rounds: usize) -> Vec<Duration> {
    let bed = Bed::own(Settings { recorded: false, ..Settings::of(VERSIONS[0]) }).await;
    let stage = Stage::open(&bed, "takeover").await;
    let fleet = Fleet::make(&stage, 1, 1).await;
    let replicas: [Mutex<Replica>; REPLICAS] = replicas(&stage, &fleet.admitted(), &Chance::new(1)).await;
    let mut replicas = replicas.map(Mutex::into_inner);
    let mut waits = Vec::new();
    for _ in 0..rounds {
        let first = first(&stage, &replicas).await;
        // Somebody who answers, so that the others have seen it alive.
        fleet.burst(3).await;
        all_answered(&stage).await;
        let gone = &mut replicas[first];
        match ends {
            Ends::Dead => gone.kill().await,
            Ends::Hung => gone.process().pause(),
            Ends::Cut => gone.proxy.set(Trouble { gate: Gate::Stuck, ..Trouble::default() }),
        }
        let begun = Instant::now();
        fleet.burst(1).await;
        all_answered(&stage).await;
        waits.push(begun.elapsed());
        match ends {
            Ends::Dead => gone.start(),
            Ends::Hung => gone.process().resume(),
            Ends::Cut => gone.proxy.set(Trouble::default()),
        }
        gone.ready().await;
        call::delete(&stage.admin, &stage.requests()).await.expect("requests can be deleted");
    }
    for replica in replicas {
        replica.end().await;
    }
    waits.sort();
    waits
}

/// Who answers first, once a living replica does.
async fn first(stage: &Stage, replicas: &[Replica; REPLICAS]) -> usize {
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/podmint-signer", stage.signer_namespace);
    let mut renewed: Option<Value> = None;
    until("a replica is first and renews", async || {
        let spec = call::get(&stage.admin, &lease).await.ok()?["spec"].clone();
        let known = renewed.get_or_insert_with(|| spec.clone());
        if known["renewTime"] == spec["renewTime"] && known["holderIdentity"] == spec["holderIdentity"] {
            return None;
        }
        replicas.iter().position(|replica| spec["holderIdentity"] == replica.name())
    })
    .await
}

async fn all_answered(stage: &Stage) {
    until("all are answered", async || {
        let list = call::get(&stage.admin, &stage.requests()).await.ok()?;
        list["items"].as_array()?.iter().all(|one| !one["status"]["conditions"].is_null()).then_some(())
    })
    .await;
}
