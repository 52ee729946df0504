//! `kubectl podmint explain`: would this pod get a certificate, with which words, by which rule; or what holds or denies it, and
//! what would let it. It is asked of the very function that the signer decides by, over facts read with the user's own rights.

use std::{fmt, sync::Arc};

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    Installation,
    shown::Shown,
    view::{CannotSee, View, unread},
};
use crate::{
    cluster::{services, wire::Target},
    names::{
        NameError, Namespace, NodeName, NodeUid, PodName, PodUid, RequestName, RequestUid, ResourceVersion,
        ServiceAccountName, ServiceAccountUid, SignerName,
    },
    pipeline::{
        Answer, Claim, Fact, Freshness, NodeFacts, Observed, Phase, Pod, PodFacts, Profile, Projection, PublicKey,
        ServiceAccountFacts, Services,
    },
};

/// What is to be explained, and where.
#[derive(Debug)]
pub struct Question {
    /// The installation.
    pub installation: Installation,
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
    /// Something could not be read.
    #[error(transparent)]
    Unseen(#[from] CannotSee),
    /// There is no such pod.
    #[error("there is no pod {0} in namespace {1}")]
    NoPod(PodName, Namespace),
    /// The manifest is no pod.
    #[error("that is no manifest of a pod: {0}")]
    Manifest(String),
    /// A name is none.
    #[error("the pod cannot be explained")]
    Name(#[from] NameError),
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
    let Question { installation, config: yaml, namespace, pod } = question;
    let view = View::open(config, installation, yaml).await?;
    let (pod, facts, planned) = match pod {
        Which::Named(name) => {
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
            match view.calls.get::<Pod>(&path).await {
                Ok(pod) => (name, PodFacts::from(pod), false),
                Err(error) if error.is_absent() => return Err(CannotExplain::NoPod(name, namespace)),
                Err(error) => return Err(unread("the pod", &error).into()),
            }
        }
        Which::Planned(manifest) => {
            let (name, facts) = planned(manifest)?;
            (name, facts, true)
        }
    };
    let services = services::of_namespace(&view.calls, &namespace).await.map_err(|error| unread("Services", &error))?;
    let mut sources = Vec::new();
    for projection in facts.projections.iter().filter(|projection| view.is_ours(&projection.signer)) {
        let claim = claim(&namespace, &pod, &facts, projection)?;
        let (signer, key_type) = (claim.signer.clone(), claim.key_type().to_string());
        let seen = observe(&view, claim, planned.then_some(&facts), &services).await?;
        sources.push(Source { signer, key_type, verdict: view.decide(seen)? });
    }
    Ok(Explanation { namespace, pod, sources })
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

/// The facts; of a planned pod those that the signer will find.
async fn observe(
    view: &View,
    claim: Claim,
    planned: Option<&PodFacts>,
    services: &Services,
) -> Result<Observed, CannotSee> {
    let mut seen = view.observe(Arc::new(claim), services).await?;
    if let Some(facts) = planned {
        seen.services = Some(services.selecting(&seen.claim.target.namespace, &facts.labels));
        seen.pod = Fact::Found(facts.clone(), Freshness::Quorum);
        if let Fact::Absent(_) = &seen.node {
            let facts = NodeFacts { uid: Some(seen.claim.node_uid.clone()), labels: Arc::default() };
            seen.node = Fact::Found(facts, Freshness::Quorum);
        }
        if let Fact::Absent(_) = &seen.service_account {
            let facts = ServiceAccountFacts { uid: Some(seen.claim.service_account_uid.clone()) };
            seen.service_account = Fact::Found(facts, Freshness::Quorum);
        }
    }
    // The kubelet will name whoever is there.
    let mut claim = Claim::clone(&seen.claim);
    if let Fact::Found(ServiceAccountFacts { uid: Some(uid) }, _) = &seen.service_account {
        claim.service_account_uid = uid.clone();
    }
    if let Fact::Found(NodeFacts { uid: Some(uid), labels: _ }, _) = &seen.node {
        claim.node_uid = uid.clone();
    }
    seen.claim = Arc::new(claim);
    Ok(seen)
}

/// No real object is called so.
const MADE_UP: &str = "explained";

impl Shown for Explanation {
    /// 0: every source of ours would get its certificate. 1: some would not, or there is none.
    fn exit_status(&self) -> u8 {
        u8::from(self.sources.is_empty() || self.sources.iter().any(|source| source.verdict.is_err()))
    }

    fn to_json(&self) -> Value {
        let sources: Vec<Value> = self.sources.iter().map(Source::to_json).collect();
        json!({"namespace": self.namespace, "pod": self.pod, "sources": sources})
    }

    fn text(&self, wide: bool) -> String {
        let Self { namespace, pod, sources } = self;
        let mut out = format!("pod {namespace}/{pod}\n");
        if sources.is_empty() {
            out.push_str("  has no podCertificate source with a signer of this installation\n");
        }
        for source in sources {
            out.push_str(&Told { source, wide }.to_string());
        }
        out
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

/// A source, in lines; wide: with who the pod is to the signer.
struct Told<'s> {
    source: &'s Source,
    wide: bool,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source: Source { signer, key_type, verdict }, wide } = self;
        writeln!(out, "  {signer}, {key_type}")?;
        let profile = match verdict {
            Ok(profile) => profile,
            Err(answer) => {
                let fate = if answer.kind() == "denied" { "would be DENIED, for ever" } else { "WAITS" };
                return writeln!(out, "    {fate} ({}): {}", answer.label(), answer.message());
            }
        };
        let (approved, words) = (profile.approved(), profile.words());
        writeln!(out, "    gets a certificate by rule {} of PodSigner {}", approved.rule(), approved.signer().name)?;
        if let Some(shadow) = approved.shadow() {
            writeln!(out, "    rule {shadow}, in shadow, would come first")?;
        }
        if *wide {
            let claim = approved.claim();
            writeln!(out, "      as ServiceAccount {} on node {}", claim.service_account, claim.node)?;
        }
        for (name, because) in words.listed() {
            writeln!(out, "      {name}   ({because})")?;
        }
        if !words.subject.is_empty() {
            writeln!(out, "      subject {}", words.subject)?;
        }
        let minutes =
            |from: OffsetDateTime, to: OffsetDateTime| to.unix_timestamp().saturating_sub(from.unix_timestamp()) / 60;
        writeln!(
            out,
            "      for {} minutes, renewed after {}",
            minutes(words.not_before, words.not_after),
            minutes(words.not_before, words.begin_refresh_at)
        )
    }
}
