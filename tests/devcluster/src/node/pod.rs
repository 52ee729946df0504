//! One pod on the node: when its volumes are looked at, and what is then done.

use std::time::Duration;

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::agent::{Agent, Name};
use super::atomic;
use super::options::{NodeOptions, What};
use super::request::{SourceKey, resource};
use super::volume::{Volume, path};
use crate::clock::{Clock, rfc3339};

/// How long a call of the API may hold up the agent.
const CALL: Duration = Duration::from_secs(5);

pub(crate) struct Pod {
    name: Name,
    pub(crate) uid: String,
    value: Value,
    volumes: Vec<Volume>,
    mounted: bool,
    wait: Duration,
    next_sync: Option<Instant>,
}

impl Pod {
    pub(crate) fn new(name: &Name, value: Value) -> Self {
        Self {
            name: name.clone(),
            uid: Self::uid_of(&value).to_owned(),
            volumes: Volume::of(&value),
            value,
            mounted: false,
            wait: Duration::ZERO,
            next_sync: Some(Instant::now()),
        }
    }

    pub(crate) fn uid_of(value: &Value) -> &str {
        value.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn update(&mut self, value: Value) {
        self.value = value;
        if self.is_leaving() {
            self.next_sync = Some(Instant::now());
        }
    }

    pub(crate) fn service_account(&self) -> &str {
        let named = self.value.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or_default();
        if named.is_empty() { "default" } else { named }
    }

    /// A key for each certificate source. Mirror pods get none; finished pods do.
    pub(crate) fn sources(&self) -> Vec<SourceKey> {
        if self.value.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
            return Vec::new();
        }
        let key = |volume: &Volume, index: usize| SourceKey {
            namespace: self.name.0.clone(),
            pod: self.name.1.clone(),
            uid: self.uid.clone(),
            volume: volume.name.clone(),
            index,
        };
        self.volumes.iter().flat_map(|volume| volume.certificates().map(move |(index, _)| key(volume, index))).collect()
    }

    pub(crate) fn projection(&self, key: &SourceKey) -> Option<Value> {
        let volume = self.volumes.iter().find(|volume| volume.name == key.volume)?;
        volume.certificates().find(|(index, _)| *index == key.index).map(|(_, projection)| projection.clone())
    }

    pub(crate) fn has_trust(&self) -> bool {
        self.volumes.iter().any(Volume::has_trust)
    }

    pub(crate) const fn next_sync(&self) -> Option<Instant> {
        self.next_sync
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_sync.is_some_and(|next| next <= now)
    }

    /// Something that its volumes show has changed. A real kubelet notices at the next sync.
    pub(crate) fn something_new(&mut self, prompt: bool) {
        if prompt {
            self.next_sync = Some(Instant::now());
        }
    }

    fn phase(&self) -> &str {
        self.value.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default()
    }

    fn is_finished(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    fn is_leaving(&self) -> bool {
        self.value.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
    }

    /// Writes the volumes; reports the pod as running once all are there. Gives back what happened, by volume.
    pub(crate) async fn sync(&mut self, agent: &mut Agent) -> Vec<(String, What)> {
        self.next_sync = None;
        if self.is_leaving() {
            return self.end(agent).await;
        }
        if self.is_finished() {
            return Vec::new();
        }
        let mut said = Vec::new();
        let mut whole = true;
        for volume in &self.volumes {
            match self.write(volume, agent) {
                Ok(true) => said.push((volume.name.clone(), What::FilesWritten)),
                Ok(false) => {}
                Err(message) => {
                    whole = false;
                    said.push((volume.name.clone(), What::Error { message }));
                }
            }
        }
        if whole && self.phase() == "Pending" {
            match self.report_running(agent).await {
                Ok(()) => said.push((String::new(), What::Running)),
                Err(message) => {
                    whole = false;
                    said.push((String::new(), What::Error { message }));
                }
            }
        }
        self.plan(whole, agent);
        said
    }

    /// All or nothing: one source that is not ready leaves the whole volume as it is.
    fn write(&self, volume: &Volume, agent: &mut Agent) -> Result<bool, String> {
        let key = |index| SourceKey {
            namespace: self.name.0.clone(),
            pod: self.name.1.clone(),
            uid: self.uid.clone(),
            volume: volume.name.clone(),
            index,
        };
        let Agent { trust, records, options, .. } = agent;
        let payload = volume
            .payload(options.ownership, trust, |index| records.get(&key(index)).map(|tracked| &tracked.record))?;
        let directory = path(options, &self.name.0, &self.name.1, &volume.name);
        let written = std::fs::create_dir_all(&directory).and_then(|()| atomic::write(&directory, &payload, |_| ()));
        written.map_err(|error| format!("could not write {}: {error}", directory.display()))
    }

    /// A mount that failed is tried again with backoff; a running pod is looked at now and then.
    fn plan(&mut self, whole: bool, agent: &mut Agent) {
        let Agent { options: NodeOptions { pace, .. }, chance, .. } = agent;
        let wait = if whole {
            self.mounted = true;
            self.wait = Duration::ZERO;
            let prompt = pace.pod_sync.end.is_zero();
            // When prompt, only what expires by itself needs a look: trust anchors that were kept.
            if prompt { pace.trust_cache.max(Duration::from_secs(1)) } else { chance.within(&pace.pod_sync) }
        } else if self.mounted && !pace.pod_sync.end.is_zero() {
            chance.within(&pace.pod_sync)
        } else {
            self.wait = self.wait.saturating_mul(2).clamp(pace.mount_backoff.start, pace.mount_backoff.end);
            self.wait
        };
        self.next_sync = Instant::now().checked_add(wait.max(Duration::from_millis(1)));
    }

    fn api(&self, agent: &Agent) -> Api<DynamicObject> {
        Api::namespaced_with(agent.client.clone(), &self.name.0, &resource("", "v1", "Pod"))
    }

    async fn report_running(&mut self, agent: &Agent) -> Result<(), String> {
        let now = rfc3339(Clock::default().now());
        let status = json!({
            "metadata": { "uid": self.uid },
            "status": {
                "phase": "Running", "startTime": now,
                "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": now }],
            },
        });
        let (api, patch, parameters) = (self.api(agent), Patch::Merge(&status), PatchParams::default());
        let patched = api.patch_status(&self.name.1, &parameters, &patch);
        match tokio::time::timeout(CALL, patched).await {
            Ok(Ok(pod)) => {
                self.value = serde_json::to_value(pod).unwrap_or_default();
                Ok(())
            }
            Ok(Err(error)) => Err(format!("could not report the pod as running: {error}")),
            Err(elapsed) => Err(format!("could not report the pod as running: {elapsed}")),
        }
    }

    /// A pod that is being deleted: its containers have ended, so nothing keeps it any more.
    async fn end(&mut self, agent: &mut Agent) -> Vec<(String, What)> {
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let api = self.api(agent);
        match tokio::time::timeout(CALL, api.delete(&self.name.1, &parameters)).await {
            Ok(Ok(_)) => Vec::new(),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => Vec::new(),
            Ok(Err(error)) => self.retry_end(agent, &error.to_string()),
            Err(elapsed) => self.retry_end(agent, &elapsed.to_string()),
        }
    }

    fn retry_end(&mut self, agent: &mut Agent, why: &str) -> Vec<(String, What)> {
        self.plan(false, agent);
        vec![(String::new(), What::Error { message: format!("could not end the pod: {why}") })]
    }

    /// The pod is gone, and its volumes with it.
    pub(crate) fn remove_volumes(&self, options: &NodeOptions) {
        let directory = options.volumes_root.join(&self.name.0).join(&self.name.1);
        match std::fs::remove_dir_all(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, directory = %directory.display(), "volumes were left behind"),
        }
    }
}
