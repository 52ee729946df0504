//! `kubectl podmint explain`: would this pod get a certificate, with which words, by which rule; or what holds or denies it, and
//! what would let it. It is asked of the very function that the signer decides by, over facts read with the user's own rights.

use std::{fmt, sync::Arc, time::Instant};

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{
    Installation,
    doctor::{Unseen, configs},
};
use crate::{
    chain::Chain,
    cluster::{
        calls::{CallError, Calls},
        clock::ServerClock,
        lookup::Lookup,
        services,
        wire::Target,
    },
    config::{Config, ConfigError, Domains, PodSigner},
    names::{
        DnsName, NameError, Namespace, NodeName, NodeUid, PodName, PodUid, RequestName, RequestUid, ResourceVersion,
        SerialNumber, ServiceAccountName, ServiceAccountUid, SignerName,
    },
    pipeline::{
        Answer, Claim, Decision, Fact, Freshness, NodeFacts, Observed, Phase, Pod, PodFacts, Profile, Projection,
        PublicKey, ServiceAccountFacts, Services, answer::words,
    },
};

/// What is to be explained, and where.
#[derive(Debug)]
pub struct Question {
    /// The installation.
    pub installation: Installation,
    /// The DNS domain of the cluster.
    pub cluster_domain: DnsName,
    /// A configuration to go by in place of the one in the cluster: what would it change?
    pub config: Option<String>,
    /// The pod's namespace.
    pub namespace: Namespace,
    /// The pod.
    pub pod: Which,
}

/// Which pod.
#[derive(Debug)]
pub enum Which {
    /// One that is in the cluster.
    Named(PodName),
    /// One that may come, as its manifest says.
    Planned(Value),
}

/// Why there is nothing to say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotExplain {
    /// The kubeconfig makes no client.
    #[error("could not make a client for the API server")]
    Client(#[source] kube::Error),
    /// Something could not be read.
    #[error("could not read {0}: {1}")]
    Unread(String, String),
    /// There is no such pod.
    #[error("there is no pod {0} in namespace {1}")]
    NoPod(PodName, Namespace),
    /// The manifest is no pod.
    #[error("that is no manifest of a pod: {0}")]
    Manifest(String),
    /// The configuration is not good.
    #[error("the configuration is not good")]
    Config(#[from] ConfigError),
    /// A name is none.
    #[error("the pod cannot be explained")]
    Name(#[from] NameError),
    /// The API server has not told the time.
    #[error("the API server does not tell the time")]
    NoTime,
}

/// What is true of a pod.
#[derive(Debug)]
pub struct Explanation {
    namespace: Namespace,
    pod: PodName,
    sources: Vec<Source>,
}

/// One `podCertificate` source of the pod with a signer of ours.
#[derive(Debug)]
struct Source {
    signer: SignerName,
    key_type: String,
    verdict: Result<Profile, Answer>,
}

/// Explains.
///
/// # Errors
/// When what it depends on cannot be read.
pub async fn explain(config: kube::Config, question: Question) -> Result<Explanation, CannotExplain> {
    let calls = Calls::new(kube::Client::try_from(config).map_err(CannotExplain::Client)?, ServerClock::default());
    let Question { installation, cluster_domain, config, namespace, pod } = question;
    let signers = signers(&calls, &installation, &cluster_domain, config).await?;
    let (pod, facts, planned) = match pod {
        Which::Named(name) => {
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
            match calls.get::<Pod>(&path).await {
                Ok(pod) => (name, PodFacts::from(pod), false),
                Err(error) if error.is_absent() => return Err(CannotExplain::NoPod(name, namespace)),
                Err(error) => return Err(unread("the pod", &error)),
            }
        }
        Which::Planned(manifest) => {
            let (name, facts) = planned(manifest)?;
            (name, facts, true)
        }
    };
    let services = services::of_namespace(&calls, &namespace).await.map_err(|error| unread("Services", &error))?;
    let ours = |projection: &&Projection| {
        projection.signer.split_once('/').is_some_and(|(domain, _)| domain == installation.domain.as_str())
    };
    let mut sources = Vec::new();
    for projection in facts.projections.iter().filter(ours) {
        let claim = claim(&namespace, &pod, &facts, projection)?;
        let (signer_name, key_type) = (claim.signer.clone(), claim.key_type().to_string());
        let signer = signers.iter().find(|signer| signer.signer_name == signer_name);
        let seen = observe(&calls, claim, planned.then_some(&facts), &services).await?;
        let now = calls.clock().now().ok_or(CannotExplain::NoTime)?;
        sources.push(Source { signer: signer_name, key_type, verdict: decide(seen, signer, now) });
    }
    Ok(Explanation { namespace, pod, sources })
}

/// As the signer decides, with a CA that never ends.
fn decide(seen: Observed, signer: Option<&Arc<PodSigner>>, now: OffsetDateTime) -> Result<Profile, Answer> {
    let far = now.saturating_add(Duration::days(30));
    match words(seen, signer, Some(far), now, SerialNumber::from_random([0; 16])) {
        Ok(profile) => Ok(profile),
        Err(Decision::Answer(answer)) => Err(answer),
        // Everything was read by quorum, so that there is nothing to read again.
        Err(Decision::LookAgain(_)) => Err(Answer::Hold(crate::pipeline::Hold::PodNotFound)),
    }
}

async fn signers(
    calls: &Calls,
    installation: &Installation,
    cluster_domain: &DnsName,
    config: Option<String>,
) -> Result<Vec<Arc<PodSigner>>, CannotExplain> {
    let domains = Domains { signer: installation.domain.clone(), cluster: cluster_domain.clone() };
    let configs = match config {
        Some(yaml) => vec![Config::parse(&yaml, &domains)?],
        None => configs(calls, installation, cluster_domain.as_str())
            .await
            .map_err(|Unseen { what, why, .. }| CannotExplain::Unread(what, why))?,
    };
    Ok(configs.iter().flat_map(Config::signers).cloned().collect())
}

/// A pod that is not there yet: waiting, on any node, as its ServiceAccount or `default`.
fn planned(manifest: Value) -> Result<(PodName, PodFacts), CannotExplain> {
    let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str);
    if text("/kind") != Some("Pod") {
        return Err(CannotExplain::Manifest("its kind is not Pod".to_owned()));
    }
    let name = PodName::parse(text("/metadata/name").unwrap_or("unnamed"))?;
    let pod: Pod =
        serde_json::from_value(manifest.clone()).map_err(|error| CannotExplain::Manifest(error.to_string()))?;
    let mut facts = PodFacts::from(pod);
    facts.uid = Some(PodUid::parse(MADE_UP)?);
    facts.node = Some(facts.node.map_or_else(|| NodeName::parse("any"), Ok)?);
    facts.service_account = Some(facts.service_account.map_or_else(|| ServiceAccountName::parse("default"), Ok)?);
    facts.phase = Phase::Waiting;
    Ok((name, facts))
}

/// What the pod's kubelet will ask, but for the key, which is nobody's.
fn claim(
    namespace: &Namespace,
    pod: &PodName,
    facts: &PodFacts,
    projection: &Projection,
) -> Result<Claim, CannotExplain> {
    let key_type = projection.key_type.ok_or_else(|| CannotExplain::Manifest("a keyType is not known".to_owned()))?;
    Ok(Claim {
        target: Target {
            namespace: namespace.clone(),
            name: RequestName::parse(MADE_UP)?,
            uid: RequestUid::parse(MADE_UP)?,
            resource_version: ResourceVersion::parse(MADE_UP)?,
        },
        signer: SignerName::parse(&projection.signer)?,
        pod: pod.clone(),
        pod_uid: facts.uid.clone().map_or_else(|| PodUid::parse(MADE_UP), Ok)?,
        service_account: facts.service_account.clone().map_or_else(|| ServiceAccountName::parse("default"), Ok)?,
        service_account_uid: ServiceAccountUid::parse(MADE_UP)?,
        node: facts.node.clone().map_or_else(|| NodeName::parse("any"), Ok)?,
        node_uid: NodeUid::parse(MADE_UP)?,
        max_expiration_seconds: u32::try_from(projection.max_expiration_seconds).unwrap_or(u32::MAX),
        annotations: projection.annotations.clone(),
        key: PublicKey::of_nobody(key_type),
        ignored: Box::default(),
        created: None,
    })
}

/// The facts, as the signer reads them when it is in doubt; of a planned pod those that it will find.
async fn observe(
    calls: &Calls,
    mut claim: Claim,
    planned: Option<&PodFacts>,
    services: &Services,
) -> Result<Observed, CannotExplain> {
    let namespace = claim.target.namespace.clone();
    let lookup = Lookup::new(calls.clone());
    let seen = lookup.observe(Arc::new(claim.clone()), Freshness::Quorum, Instant::now(), true).await;
    let seen = seen.map_err(|error| CannotExplain::Unread(error.to_string(), Chain(&*error.source).to_string()))?;
    let Observed { claim: _, mut pod, mut service_account, mut node, namespace: labels, services: _ } = seen;
    if let Some(facts) = planned {
        pod = Fact::Found(facts.clone(), Freshness::Quorum);
        if let Fact::Absent(_) = &node {
            node =
                Fact::Found(NodeFacts { uid: Some(claim.node_uid.clone()), labels: Arc::default() }, Freshness::Quorum);
        }
        if let Fact::Absent(_) = &service_account {
            let facts = ServiceAccountFacts { uid: Some(claim.service_account_uid.clone()) };
            service_account = Fact::Found(facts, Freshness::Quorum);
        }
    }
    // The kubelet will name whoever is there.
    if let Fact::Found(ServiceAccountFacts { uid: Some(uid) }, _) = &service_account {
        claim.service_account_uid = uid.clone();
    }
    if let Fact::Found(NodeFacts { uid: Some(uid), labels: _ }, _) = &node {
        claim.node_uid = uid.clone();
    }
    let selecting = match &pod {
        Fact::Found(pod, _) => Some(services.selecting(&namespace, &pod.labels)),
        Fact::Absent(_) => None,
    };
    Ok(Observed { claim: Arc::new(claim), pod, service_account, node, namespace: labels, services: selecting })
}

fn unread(what: &str, error: &CallError) -> CannotExplain {
    CannotExplain::Unread(what.to_owned(), Chain(error).to_string())
}

/// No real object is called so.
const MADE_UP: &str = "explained";

impl Explanation {
    /// 0: every source of ours would get its certificate. 1: some would not, or there is none.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        u8::from(self.sources.is_empty() || self.sources.iter().any(|source| source.verdict.is_err()))
    }

    /// For machines.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let sources: Vec<Value> = self.sources.iter().map(Source::to_json).collect();
        json!({"namespace": self.namespace, "pod": self.pod, "sources": sources})
    }
}

impl Source {
    fn to_json(&self) -> Value {
        let Self { signer, key_type, verdict } = self;
        let source = json!({"signerName": signer, "keyType": key_type});
        let verdict = match verdict {
            Ok(profile) => {
                let (approved, words) = (profile.approved(), profile.words());
                let life = words.not_after.unix_timestamp().saturating_sub(words.not_before.unix_timestamp());
                let renewal = words.begin_refresh_at.unix_timestamp().saturating_sub(words.not_before.unix_timestamp());
                json!({
                    "answer": "issued",
                    "podSigner": approved.signer().name,
                    "rule": approved.rule(),
                    "shadowRule": approved.shadow(),
                    "names": words.listed().iter().map(|(name, because)| json!({"name": name, "because": because})).collect::<Value>(),
                    "subject": words.subject.to_string(),
                    "usages": {"client": words.usages.client(), "server": words.usages.server()},
                    "seconds": life,
                    "renewedAfterSeconds": renewal,
                })
            }
            Err(answer) => json!({"answer": answer.kind(), "reason": answer.label(), "message": answer.message()}),
        };
        [source, verdict].into_iter().filter_map(|part| part.as_object().cloned()).flatten().collect()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, pod, sources } = self;
        writeln!(out, "pod {namespace}/{pod}")?;
        if sources.is_empty() {
            writeln!(out, "  has no podCertificate source with a signer of this installation")?;
        }
        sources.iter().try_for_each(|Source { signer, key_type, verdict }| {
            writeln!(out, "  {signer}, {key_type}")?;
            let profile = match verdict {
                Ok(profile) => profile,
                Err(answer) => {
                    let fate = if answer.kind() == "denied" { "would be DENIED, for ever" } else { "WAITS" };
                    return writeln!(out, "    {fate} ({}): {}", answer.label(), answer.message());
                }
            };
            let (approved, words) = (profile.approved(), profile.words());
            writeln!(
                out,
                "    gets a certificate by rule {} of PodSigner {}",
                approved.rule(),
                approved.signer().name
            )?;
            if let Some(shadow) = approved.shadow() {
                writeln!(out, "    rule {shadow}, in shadow, would come first")?;
            }
            words.listed().iter().try_for_each(|(name, because)| writeln!(out, "      {name}   ({because})"))?;
            if !words.subject.is_empty() {
                writeln!(out, "      subject {}", words.subject)?;
            }
            let minutes = |from: OffsetDateTime, to: OffsetDateTime| {
                to.unix_timestamp().saturating_sub(from.unix_timestamp()) / 60
            };
            writeln!(
                out,
                "      for {} minutes, renewed after {}",
                minutes(words.not_before, words.not_after),
                minutes(words.not_before, words.begin_refresh_at)
            )
        })
    }
}
