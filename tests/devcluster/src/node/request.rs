//! Making a request, and reading its answer.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::der;
use super::key::FreshKey;
use super::options::{Kubelet, Pace};
use super::record::{Outcome, Pending};
use super::volume::text;
use crate::clock::{Chance, Clock};
use crate::rules::pem;

/// How long one call of the API may take.
const CALL: Duration = Duration::from_secs(30);

/// Which source of which pod: what a record is kept for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceKey {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) volume: String,
    pub(crate) index: usize,
}

/// A request to be made.
pub(crate) struct Job {
    pub(crate) key: SourceKey,
    pub(crate) service_account: String,
    pub(crate) node: String,
    pub(crate) node_uid: String,
    pub(crate) projection: Value,
    /// Answers to jobs from before a restart are thrown away.
    pub(crate) life: u64,
}

/// How it went.
pub(crate) struct Done {
    pub(crate) key: SourceKey,
    pub(crate) life: u64,
    pub(crate) made: Result<Pending>,
}

/// The one worker: a kubelet makes keys and requests one after the other. Holds the receiving end of the jobs; ends when the agent
/// drops the sending end.
pub(crate) async fn work(
    client: kube::Client,
    kubelet: Kubelet,
    abandon_after: Range<Duration>,
    mut chance: Chance,
    mut jobs: mpsc::Receiver<Job>,
    done: mpsc::Sender<Done>,
) {
    while let Some(job) = jobs.recv().await {
        let made = match tokio::time::timeout(CALL, make(&client, kubelet, chance.within(&abandon_after), &job)).await {
            Ok(made) => made,
            Err(elapsed) => Err(elapsed).context("the API server did not answer in time"),
        };
        let result = Done { key: job.key, life: job.life, made };
        if done.send(result).await.is_err() {
            return;
        }
    }
}

/// A fresh key each time, even if the last request could not be made.
async fn make(client: &kube::Client, kubelet: Kubelet, abandon_after: Duration, job: &Job) -> Result<Pending> {
    let accounts: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &job.key.namespace, &resource("", "v1", "ServiceAccount"));
    let account = accounts.get(&job.service_account).await.context("while fetching service account")?;
    let account_uid = account.metadata.uid.unwrap_or_default();
    let key_type = text(&job.projection, "keyType").to_owned();
    let made = tokio::task::spawn_blocking(move || FreshKey::generate(&key_type)).await;
    let key = made.context("the key was not finished")?.context("while generating keypair")?;
    let body = body(kubelet, job, &account_uid, &key)?;
    let requests: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &job.key.namespace, &request_resource(kubelet));
    let object: DynamicObject = serde_json::from_value(body).context("while building the request")?;
    let created =
        requests.create(&PostParams::default(), &object).await.context("while creating PodCertificateRequest")?;
    let Some(request) = created.metadata.name else { bail!("the API server gave the request no name") };
    let created_at = created.metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Ok(Pending { request, key: key.pem(), abandon_at: later(created_at, abandon_after) })
}

fn body(kubelet: Kubelet, job: &Job, account_uid: &str, key: &FreshKey) -> Result<Value> {
    let source = &job.key;
    let mut spec = json!({
        "signerName": text(&job.projection, "signerName"),
        "podName": source.pod, "podUID": source.uid,
        "serviceAccountName": job.service_account, "serviceAccountUID": account_uid,
        "nodeName": job.node, "nodeUID": job.node_uid,
    });
    let Some(fields) = spec.as_object_mut() else { bail!("a spec is an object") };
    for (from, to) in
        [("maxExpirationSeconds", "maxExpirationSeconds"), ("userAnnotations", "unverifiedUserAnnotations")]
    {
        if let Some(value) = job.projection.get(from).filter(|value| !value.is_null()) {
            fields.insert(to.to_owned(), value.clone());
        }
    }
    match kubelet {
        Kubelet::V1_37 | Kubelet::V1_36 => {
            fields.insert("stubPKCS10Request".to_owned(), STANDARD.encode(key.stub()?).into());
        }
        Kubelet::V1_35 => {
            fields.insert("pkixPublicKey".to_owned(), STANDARD.encode(key.public()).into());
            fields.insert("proofOfPossession".to_owned(), STANDARD.encode(key.proof(&source.uid)?).into());
        }
    }
    let owner_version = match kubelet {
        Kubelet::V1_37 | Kubelet::V1_36 => "v1",
        Kubelet::V1_35 => "core/v1",
    };
    let resource = request_resource(kubelet);
    Ok(json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        "metadata": {
            "generateName": "req-", "namespace": source.namespace,
            "ownerReferences": [{ "apiVersion": owner_version, "kind": "Pod", "name": source.pod, "uid": source.uid }],
        },
        "spec": spec,
    }))
}

/// The version of `PodCertificateRequest` that this kubelet speaks: it is compiled in, there is no discovery.
pub(crate) fn request_resource(kubelet: Kubelet) -> ApiResource {
    let version = match kubelet {
        Kubelet::V1_37 => "v1",
        Kubelet::V1_36 | Kubelet::V1_35 => "v1beta1",
    };
    resource("certificates.k8s.io", version, "PodCertificateRequest")
}

pub(crate) fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// The answer in a request's status, if there is one. As a kubelet does, the condition's own status is not looked at.
pub(crate) fn outcome(request: &Value, pace: &Pace, chance: &mut Chance) -> Option<Outcome> {
    let conditions = request.pointer("/status/conditions").and_then(Value::as_array)?;
    conditions.iter().find_map(|condition| {
        let said = || (text(condition, "reason").to_owned(), text(condition, "message").to_owned());
        match text(condition, "type") {
            "Denied" => {
                let (reason, message) = said();
                Some(Outcome::Denied { reason, message })
            }
            "Failed" => {
                let (reason, message) = said();
                Some(Outcome::Failed { reason, message })
            }
            "Issued" => {
                let status = request.get("status")?;
                let refresh: Timestamp = text(status, "beginRefreshAt").parse().ok()?;
                Some(Outcome::Issued {
                    chain: cleaned(text(status, "certificateChain")),
                    refresh_at: later(sooner(refresh, pace.sooner), chance.within(&pace.refresh_jitter)),
                })
            }
            _ => None,
        }
    })
}

/// Every block anew, labelled CERTIFICATE; headers and words between blocks are dropped.
fn cleaned(chain: &str) -> String {
    pem::blocks(chain).iter().map(|block| der::pem("CERTIFICATE", &block.bytes)).collect()
}

/// A share of the time that is left.
fn sooner(time: Timestamp, divisor: u32) -> Timestamp {
    let now = Clock::default().now();
    match Duration::try_from(time.duration_since(now)).ok().and_then(|left| left.checked_div(divisor)) {
        Some(left) if divisor > 1 => later(now, left),
        Some(_) | None => time,
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.saturating_add(SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
}
