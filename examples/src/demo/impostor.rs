//! The impostor: somebody on the second node wants the certificate of the server, which runs on the first. Three attempts, each
//! with a key of its own; each must be refused, and the view says by whom and why.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::api::{DynamicObject, PostParams};
use podmint_devcluster::node::Kubelet;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SigningKey};
use serde_json::{Value, json};

use super::checker::AttemptFacts;
use super::ground::Ground;
use super::kinds::{self, Kinds};
use super::news::{News, Reporter};
use super::scene::{INTRUDER, NODES, SERVER, SIGNER_NAME};
use super::tape::{Answer, Tape};

/// What the impostor found out about the server's pod. None of it is secret.
#[derive(Debug, Clone)]
pub struct Target {
    /// The pod's UID.
    pub pod_uid: String,
    /// Its service account's UID.
    pub account_uid: String,
    /// The UIDs of the two nodes.
    pub node_uids: [String; 2],
    /// How a kubelet of this cluster sends a key.
    pub kubelet: Kubelet,
}

/// One of the three.
struct Plan {
    what: String,
    client: Client,
    /// Which of the two nodes it names.
    names: usize,
}

/// Makes all attempts, one after the other, slowly enough to be followed, and returns what came of them.
pub async fn attempt_all(
    ground: &mut Ground,
    kinds: &Kinds,
    target: &Target,
    tape: &Tape,
    reporter: &Reporter,
    pause: Duration,
) -> Result<Vec<AttemptFacts>> {
    let (forgery, _) = target.forge(kinds, 0)?;
    ground.fence(kinds, &forgery).await?;
    reporter.tell(News::Ground(ground.describe()));
    let kubelet = ground.kubelet(NODES[1])?;
    let plans = [
        Plan { what: format!("as kubelet of {}, from its own node", NODES[1]), client: kubelet.clone(), names: 1 },
        Plan { what: format!("as kubelet of {}, naming {}", NODES[1], NODES[0]), client: kubelet, names: 0 },
        Plan { what: format!("as {INTRUDER}, who may create requests"), client: ground.intruder()?, names: 1 },
    ];
    let mut done = Vec::new();
    for (number, plan) in plans.into_iter().enumerate() {
        reporter.tell(News::Attempt { number, what: plan.what.clone() });
        tokio::time::sleep(pause).await;
        let (object, key) = target.forge(kinds, plan.names)?;
        let outcome = attempt(&plan.client, kinds, object, tape).await?;
        let (refused, by, why) = outcome.in_words();
        reporter.tell(News::Outcome { number, refused, by, why });
        let denied_by_signer = matches!(outcome, Outcome::Signer { .. });
        done.push(AttemptFacts { what: plan.what, key, refused, denied_by_signer });
    }
    Ok(done)
}

/// What came of an attempt.
enum Outcome {
    /// The API server did not take the request.
    ApiServer(String),
    /// The signer denied it.
    Signer { reason: String, message: String },
    /// Nobody answered.
    Silence,
    /// It worked.
    Taken(String),
}

impl Outcome {
    /// Whether it was refused, by whom, and why.
    fn in_words(&self) -> (bool, String, String) {
        match self {
            // The guard names itself in its message, NodeRestriction does not.
            Self::ApiServer(message) if message.contains("ValidatingAdmissionPolicy") => {
                (true, "the API server".to_owned(), gist(message))
            }
            Self::ApiServer(message) => {
                (true, "the API server".to_owned(), format!("NodeRestriction: {}", gist(message)))
            }
            Self::Signer { reason, message } => (true, "the signer".to_owned(), format!("Denied {reason}: {message}")),
            Self::Silence => (false, "anybody".to_owned(), "the request is pending".to_owned()),
            Self::Taken(how) => (false, "anybody".to_owned(), how.clone()),
        }
    }
}

/// The API server begins with the object's long name; what it has against it comes behind `is forbidden:`.
fn gist(message: &str) -> String {
    message.split_once("is forbidden: ").map_or(message, |(_, gist)| gist).to_owned()
}

async fn attempt(client: &Client, kinds: &Kinds, object: Value, tape: &Tape) -> Result<Outcome> {
    let object: DynamicObject = serde_json::from_value(object).context("a request of the impostor is malformed")?;
    let api = kinds::api(client, &kinds.request(), SERVER.namespace);
    let begun = Instant::now();
    let made = loop {
        match api.create(&PostParams::default(), &object).await {
            Ok(made) => break made,
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(Outcome::ApiServer(status.message)),
            // NodeRestriction answers so while its own caches do not know the pod yet.
            Err(why) if begun.elapsed() > CACHES_FILLED => {
                return Err(kinds::told(why)).context("the impostor could not even ask");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let uid = made.metadata.uid.context("an object has a UID")?;
    Ok(match tape.answer(&uid, ANSWERED).await {
        Some(Answer::Denied { reason, message }) => Outcome::Signer { reason, message },
        Some(Answer::Issued) => Outcome::Taken("a certificate was issued".to_owned()),
        Some(Answer::Other(condition)) => Outcome::Taken(format!("the request was answered with {condition}")),
        None => Outcome::Silence,
    })
}

impl Target {
    /// A request as the server's own kubelet would write it, but for the key, which is returned, and the node, if it is the wrong one.
    fn forge(&self, kinds: &Kinds, node: usize) -> Result<(Value, Vec<u8>)> {
        let name = NODES.get(node).context("there are two nodes")?;
        let uid = self.node_uids.get(node).context("there are two nodes")?;
        let key = KeyPair::generate().context("could not make a key for the impostor")?;
        let mut spec = json!({
            "signerName": SIGNER_NAME, "podName": SERVER.name, "podUID": self.pod_uid, "serviceAccountName": SERVER.name,
            "serviceAccountUID": self.account_uid, "nodeName": name, "nodeUID": uid, "maxExpirationSeconds": 86_400,
        });
        for (field, bytes) in self.key_fields(&key)? {
            if let Some(spec) = spec.as_object_mut() {
                spec.insert(field.to_owned(), STANDARD.encode(bytes).into());
            }
        }
        let version = format!("certificates.k8s.io/{}", kinds.version());
        let metadata = json!({"generateName": "forged-", "namespace": SERVER.namespace});
        let object =
            json!({"apiVersion": version, "kind": "PodCertificateRequest", "metadata": metadata, "spec": spec});
        Ok((object, key.subject_public_key_info()))
    }

    fn key_fields(&self, key: &KeyPair) -> Result<Vec<(&'static str, Vec<u8>)>> {
        match self.kubelet {
            Kubelet::V1_37 | Kubelet::V1_36 => {
                let mut empty = CertificateParams::default();
                empty.distinguished_name = DistinguishedName::new();
                let request = empty.serialize_request(key).context("could not make a request for the impostor")?;
                Ok(vec![("stubPKCS10Request", request.der().to_vec())])
            }
            Kubelet::V1_35 => {
                let proof = key.sign(self.pod_uid.as_bytes()).context("could not prove the impostor's key")?;
                Ok(vec![("pkixPublicKey", key.subject_public_key_info()), ("proofOfPossession", proof)])
            }
        }
    }
}

/// An answer takes milliseconds, a denial two reads more.
const ANSWERED: Duration = Duration::from_secs(10);
/// What an API server's caches may lag behind.
const CACHES_FILLED: Duration = Duration::from_secs(5);
