//! Looks at a cluster with its user's rights: API server in, [`Facts`] out. What is refused stands in the facts as not seen.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    facts::{Facts, GATES, Kubelet, Node, Pod, PodSigner, Release, Request, Seen, Served, Versions, seconds},
    prove,
    report::Unseen,
};
use crate::{
    chain::Chain,
    cluster::{
        calls::{CallError, Calls},
        clock::ServerClock,
        guard,
        podsigners::PATH as PODSIGNERS,
        versions::Version,
    },
    config::{
        Config,
        object::{InForce, Object, judge},
    },
    kubectl::Installation,
    names::Namespace,
    pipeline::{Holds, holds::CONFIG_MAP},
};

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum CannotLook {
    /// The kubeconfig makes no client.
    #[error("could not make a client for the API server")]
    Client(#[source] kube::Error),
    /// Nobody answered, in a way that has a date.
    #[error("the API server does not answer: {0}")]
    NoAnswer(String),
}

pub(super) async fn look(
    mut config: kube::Config,
    installation: &Installation,
    now: fn() -> OffsetDateTime,
) -> Result<Facts, CannotLook> {
    // A refusal is an answer here; nothing is gained by asking again.
    config.default_retry = false;
    let as_node = prove::as_node(&config).map_err(CannotLook::Client)?;
    let calls = calls(kube::Client::try_from(config).map_err(CannotLook::Client)?);
    let server = calls.get::<VersionDocument>("/version").await;
    let (Some(server_now), here) = (calls.clock().now(), now()) else {
        let why = server.err().map_or_else(|| "no date in its reply".to_owned(), |error| Chain(&error).to_string());
        return Err(CannotLook::NoAnswer(why));
    };
    let served = served(&calls).await;
    let pods = async { seen("pods", list(&calls, "/api/v1/pods").await).map(|pods| keep(pods, Pod::matters)) };
    let username = installation.signer_username();
    let (
        guard,
        guard_proof,
        restriction_proof,
        signer_seen,
        podsigners,
        configured,
        published,
        requests,
        pods,
        nodes,
        ahead,
        proxy_mode,
        holds,
    ) = tokio::join!(
        guard::inspect(&calls, &installation.domain, &username),
        prove::guard(&calls, &installation.domain, served.as_ref().ok()),
        prove::restriction(&as_node, served.as_ref().ok()),
        signer_seen(&calls, &installation.namespace),
        podsigners(&calls),
        configured(&calls, installation),
        published(&calls, served.as_ref().ok()),
        requests(&calls, served.as_ref().ok()),
        pods,
        nodes(&calls),
        ahead(&calls),
        proxy_mode(&calls),
        holds(&calls, &installation.namespace),
    );
    Ok(Facts {
        domain: installation.domain.as_str().to_owned(),
        namespace: installation.namespace.to_string(),
        server: seen("the API server's version", server).map(|version| Release::parse(&version.git_version)),
        now: server_now,
        ahead_here: seconds(server_now, here),
        served,
        guard: guard.map_err(|error| Unseen::by("the admission guard", &error, error.is_forbidden())),
        guard_proof,
        restriction_proof,
        signer_seen,
        podsigners,
        configured,
        published,
        requests,
        pods,
        nodes,
        ahead,
        proxy_mode,
        holds,
    })
}

pub(super) fn calls(client: kube::Client) -> Calls {
    Calls::new(client, ServerClock::default())
}

/// What was asked for, or that it was not seen.
pub(super) fn seen<T>(what: &str, answer: Result<T, CallError>) -> Seen<T> {
    answer.map_err(|error| Unseen::by(what, &error, error.is_forbidden()))
}

/// A time as Kubernetes writes it.
pub(in crate::kubectl) fn time_of(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionDocument {
    #[serde(default)]
    git_version: String,
}

async fn served(calls: &Calls) -> Seen<Served> {
    let of = async |version: Version| {
        let path = format!("/apis/certificates.k8s.io/{}", version.as_str());
        let list = match calls.get::<Value>(&path).await {
            Err(error) if error.is_unserved() || error.is_absent() => Value::Null,
            answer => seen("the served API versions", answer)?,
        };
        let resources = list.get("resources").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let has = |name: &str| resources.iter().any(|resource| text(resource, "/name") == name);
        Ok((has("podcertificaterequests"), has("clustertrustbundles")))
    };
    let (v1, beta) = (of(Version::V1).await?, of(Version::V1beta1).await?);
    Ok(Served { requests: Versions { v1: v1.0, v1beta1: beta.0 }, bundles: Versions { v1: v1.1, v1beta1: beta.1 } })
}

async fn signer_seen(calls: &Calls, namespace: &Namespace) -> Seen<Option<OffsetDateTime>> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/podmint-signer");
    match calls.get::<Value>(&path).await {
        Err(error) if error.is_absent() => Ok(None),
        answer => Ok(time_of(text(&seen("the signer's Lease", answer)?, "/spec/renewTime"))),
    }
}

/// The PodSigner objects; none where there is no CRD.
async fn objects<T: DeserializeOwned>(calls: &Calls) -> Seen<Vec<T>> {
    match list(calls, PODSIGNERS).await {
        Err(error) if error.is_unserved() => Ok(Vec::new()),
        answer => seen("PodSigners", answer),
    }
}

async fn podsigners(calls: &Calls) -> Seen<Vec<PodSigner>> {
    let objects: Vec<Value> = objects(calls).await?;
    let read = |object: &Value| {
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        let is = |condition: &&Value, kind: &str, status: &str| {
            text(condition, "/type") == kind && text(condition, "/status") == status
        };
        let trouble = conditions.clone().find(|it| is(it, "Ready", "False") || is(it, "Degraded", "True"));
        PodSigner {
            name: text(object, "/metadata/name").to_owned(),
            state: text(object, "/status/state").to_owned(),
            trouble: trouble.map(|condition| text(condition, "/message").to_owned()),
        }
    };
    Ok(objects.iter().map(read).collect())
}

async fn configured(calls: &Calls, installation: &Installation) -> Seen<Option<BTreeSet<String>>> {
    let configs = configs(calls, installation).await?;
    let names = configs.iter().flat_map(Config::signers).map(|signer| signer.signer_name.as_str().to_owned());
    Ok(if configs.is_empty() { None } else { Some(names.collect()) })
}

/// What is in force of the PodSigner objects; where there are none, what the ConfigMaps in the signer's namespace configure.
pub(in crate::kubectl) async fn configs(calls: &Calls, installation: &Installation) -> Seen<Vec<Config>> {
    const WHAT: &str = "the signer's configuration";
    let unread = |why: String| Unseen { what: WHAT.to_owned(), why, for_want_of_rights: false };
    let domains = installation.domains();
    let objects = objects(calls).await.map_err(|unseen| Unseen { what: WHAT.to_owned(), ..unseen });
    let objects: Vec<Object> = objects?;
    if !objects.is_empty() {
        let judged = judge(objects, &InForce::new(), &domains);
        return Ok(vec![Config::of(judged.into_iter().filter_map(|one| one.in_force).collect(), &domains)]);
    }
    let maps: Vec<Value> =
        seen(WHAT, list(calls, &format!("/api/v1/namespaces/{}/configmaps", installation.namespace)).await)?;
    let mut configs = Vec::new();
    for map in maps {
        // A reason to hold somebody is no configuration, whatever it says.
        if text(&map, "/metadata/name") == CONFIG_MAP {
            continue;
        }
        for (file, document) in map.get("data").and_then(Value::as_object).into_iter().flatten() {
            let Some(document) = document.as_str().filter(|document| document.contains("PodSigner")) else { continue };
            let config = Config::parse(document, &domains).map_err(|error| {
                unread(format!("ConfigMap {}, {file}: {}", text(&map, "/metadata/name"), Chain(&error)))
            })?;
            configs.push(config);
        }
    }
    Ok(configs)
}

async fn published(calls: &Calls, served: Option<&Served>) -> Seen<BTreeSet<String>> {
    let Some(version) = newest(served.map(|served| served.bundles)) else { return Ok(BTreeSet::new()) };
    let path = format!("/apis/certificates.k8s.io/{}/clustertrustbundles", version.as_str());
    let bundles: Vec<Value> = seen("trust bundles", list(calls, &path).await)?;
    Ok(bundles
        .iter()
        .map(|bundle| text(bundle, "/spec/signerName").to_owned())
        .filter(|name| !name.is_empty())
        .collect())
}

async fn requests(calls: &Calls, served: Option<&Served>) -> Seen<Vec<Request>> {
    let Some(version) = newest(served.map(|served| served.requests)) else { return Ok(Vec::new()) };
    let path = format!("/apis/certificates.k8s.io/{}/podcertificaterequests", version.as_str());
    let requests: Vec<Value> = seen("certificate requests", list(calls, &path).await)?;
    let read = |request: &Value| {
        let conditions = request.pointer("/status/conditions").and_then(Value::as_array);
        Some(Request {
            namespace: text(request, "/metadata/namespace").to_owned(),
            pod: text(request, "/spec/podName").to_owned(),
            signer_name: text(request, "/spec/signerName").to_owned(),
            created: time_of(text(request, "/metadata/creationTimestamp"))?,
            is_answered: conditions.is_some_and(|conditions| !conditions.is_empty()),
        })
    };
    Ok(requests.iter().filter_map(read).collect())
}

/// The version to read in; where served versions were not seen, nothing is asked and that is told once.
pub(super) fn newest(versions: Option<Versions>) -> Option<Version> {
    match versions? {
        Versions { v1: true, v1beta1: _ } => Some(Version::V1),
        Versions { v1: false, v1beta1: true } => Some(Version::V1beta1),
        Versions { v1: false, v1beta1: false } => None,
    }
}

async fn nodes(calls: &Calls) -> Seen<Vec<Node>> {
    let nodes: Vec<Value> = seen("nodes", list(calls, "/api/v1/nodes").await)?;
    let node = async |node: Value| {
        let name = text(&node, "/metadata/name").to_owned();
        let declared = node.pointer("/status/declaredFeatures").and_then(Value::as_array);
        Node {
            kubelet_release: Release::parse(text(&node, "/status/nodeInfo/kubeletVersion")),
            runtime: text(&node, "/status/nodeInfo/containerRuntimeVersion").to_owned(),
            declared: declared.into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
            kubelet: kubelet(calls, &name).await,
            name,
        }
    };
    Ok(stream::iter(nodes).map(node).buffered(AT_A_TIME).collect().await)
}

/// A kubelet tells of itself by way of the API server, to those who may `get` the node's `proxy`.
async fn kubelet(calls: &Calls, node: &str) -> Seen<Kubelet> {
    let what = format!("the kubelet of {node}: its feature gates, cgroup version and container runtime");
    let at = |page: &str| format!("/api/v1/nodes/{node}/proxy/{page}");
    let metrics = seen(&what, calls.get_bytes(&at("metrics")).await)?;
    let configuration: Value = seen(&what, calls.get(&at("configz")).await)?;
    Ok(read_kubelet(&String::from_utf8_lossy(&metrics), &configuration))
}

fn read_kubelet(metrics: &str, configuration: &Value) -> Kubelet {
    let mut kubelet = Kubelet {
        fails_on_cgroup_v1: configuration.pointer("/kubeletconfig/failCgroupV1").and_then(Value::as_bool),
        ..Kubelet::default()
    };
    for Sample { name, labels, value } in metrics.lines().filter_map(sample) {
        let label = |label: &str| labels.get(label).copied().unwrap_or_default();
        let is_set = value.trim().parse::<f64>().is_ok_and(|value| value > 0.5);
        match name {
            "kubernetes_feature_enabled" => {
                if let Some(gate) = GATES.into_iter().find(|gate| *gate == label("name")) {
                    kubelet.gates.insert(gate, is_set);
                }
            }
            "kubelet_cgroup_version" => kubelet.cgroup_version = value.trim().parse().ok(),
            "kubelet_cri_losing_support" if is_set => kubelet.runtime_ends_with = Some(label("version").to_owned()),
            "kubelet_podcertificate_states" if is_set && TROUBLE.contains(&label("state")) => {
                let of = (label("signer_name").to_owned(), label("state").to_owned());
                kubelet.troubled.insert(of, value.trim().parse().unwrap_or(1));
            }
            _ => {}
        }
    }
    kubelet
}

struct Sample<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, &'a str>,
    value: &'a str,
}

/// One line of Prometheus' text form. The label values that matter here have no comma and no quote.
fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    let pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
    Some(Sample { name, labels: pairs.map(|(label, value)| (label, value.trim_matches('"'))).collect(), value })
}

/// A node writes its own time into its Lease, and the API server notes beside it when it did by its own clock.
async fn ahead(calls: &Calls) -> Seen<BTreeMap<String, i64>> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let leases: Vec<Value> = seen("the nodes' Leases", list(calls, path).await)?;
    let ahead = |lease: &Value| Some((text(lease, "/metadata/name").to_owned(), ahead_of(lease)?));
    Ok(leases.iter().filter_map(ahead).collect())
}

fn ahead_of(lease: &Value) -> Option<i64> {
    let said = time_of(text(lease, "/spec/renewTime"))?;
    let writes = lease.pointer("/metadata/managedFields")?.as_array()?;
    let renewals = writes.iter().filter(|write| write.pointer("/fieldsV1/f:spec/f:renewTime").is_some());
    let noted = renewals.filter_map(|write| time_of(text(write, "/time"))).max()?;
    Some(seconds(noted, said))
}

async fn proxy_mode(calls: &Calls) -> Seen<Option<String>> {
    const WHAT: &str = "kube-proxy's mode";
    let map = calls.get::<Value>("/api/v1/namespaces/kube-system/configmaps/kube-proxy").await;
    match map {
        Err(error) if error.is_absent() => {}
        map => {
            let map = seen(WHAT, map)?;
            let files = map.get("data").and_then(Value::as_object).into_iter().flatten();
            let mut modes = files.filter_map(|(_, file)| mode_of_configuration(file.as_str()?));
            if let Some(mode) = modes.next_back() {
                return Ok(Some(mode));
            }
        }
    }
    match calls.get::<Value>("/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy").await {
        Err(error) if error.is_absent() => Ok(None),
        set => Ok(Some(mode_of_arguments(&seen(WHAT, set)?))),
    }
}

/// Nothing for a file that is none of kube-proxy's.
fn mode_of_configuration(file: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Configuration {
        kind: String,
        #[serde(default)]
        mode: String,
    }
    let configuration: Configuration = serde_saphyr::from_str(file).ok()?;
    (configuration.kind == "KubeProxyConfiguration").then_some(configuration.mode)
}

fn mode_of_arguments(set: &Value) -> String {
    let containers = set.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let words = containers.into_iter().flatten().flat_map(|container| {
        ["command", "args"].map(|field| container.get(field).and_then(Value::as_array)).into_iter().flatten().flatten()
    });
    let mut modes = words.filter_map(|word| word.as_str()?.strip_prefix("--proxy-mode="));
    modes.next_back().unwrap_or_default().to_owned()
}

async fn holds(calls: &Calls, namespace: &Namespace) -> Seen<Holds> {
    match calls.get::<ConfigMap>(&format!("/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}")).await {
        Err(error) if error.is_absent() => Ok(Holds::default()),
        map => Ok(Holds::read(&seen("what is on hold", map)?.data.unwrap_or_default())),
    }
}

/// All of a kind, a page at a time.
pub(in crate::kubectl) async fn list<T: DeserializeOwned>(calls: &Calls, path: &str) -> Result<Vec<T>, CallError> {
    #[derive(Deserialize)]
    struct Page<T> {
        #[serde(default)]
        metadata: Continue,
        items: Vec<T>,
    }
    #[derive(Default, Deserialize)]
    struct Continue {
        #[serde(default, rename = "continue")]
        token: String,
    }
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let next = if token.is_empty() { String::new() } else { format!("&continue={token}") };
        let begin = if path.contains('?') { '&' } else { '?' };
        let page: Page<T> = calls.get(&format!("{path}{begin}limit={PAGE}{next}")).await?;
        all.extend(page.items);
        token = page.metadata.token;
        if token.is_empty() {
            return Ok(all);
        }
    }
}

fn keep<T>(mut all: Vec<T>, wanted: impl Fn(&T) -> bool) -> Vec<T> {
    all.retain(wanted);
    all
}

pub(in crate::kubectl) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// States of a certificate, in the kubelet's words, that somebody has to do something about.
const TROUBLE: [&str; 4] = ["overdue_for_refresh", "expired", "denied", "failed"];
/// Kubelets asked at a time, so that a large cluster does not take minutes and its API server does not notice.
const AT_A_TIME: usize = 16;
/// Objects of one reply: also the largest pods are within the limit of a reply.
const PAGE: u32 = 200;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// In the words of kubelet 1.37.2.
    #[test]
    fn a_kubelets_words_are_understood() {
        let metrics = r#"# HELP kubernetes_feature_enabled [BETA] This metric records the data about the stage and enablement of a k8s feature.
# TYPE kubernetes_feature_enabled gauge
kubernetes_feature_enabled{name="AllAlpha",stage="ALPHA"} 0
kubernetes_feature_enabled{name="ClusterTrustBundleProjection",stage=""} 1
kubernetes_feature_enabled{name="PodCertificateRequest",stage=""} 0
kubelet_cgroup_version 1
kubelet_cri_losing_support{version="1.38.0"} 1
kubelet_podcertificate_states{signer_name="podmint.dev/workload",state="fresh"} 3
kubelet_podcertificate_states{signer_name="podmint.dev/workload",state="denied"} 2
kubelet_podcertificate_states{signer_name="podmint.dev/workload",state="expired"} 0
"#;
        let kubelet = read_kubelet(metrics, &json!({"kubeletconfig": {"failCgroupV1": false}}));
        assert_eq!(
            kubelet,
            Kubelet {
                gates: BTreeMap::from([("ClusterTrustBundleProjection", true), ("PodCertificateRequest", false)]),
                cgroup_version: Some(1),
                fails_on_cgroup_v1: Some(false),
                runtime_ends_with: Some("1.38.0".to_owned()),
                troubled: BTreeMap::from([(("podmint.dev/workload".to_owned(), "denied".to_owned()), 2)]),
            }
        );
        assert_eq!(read_kubelet("what is this\n{,=}", &Value::Null), Kubelet::default());
    }

    #[test]
    fn a_nodes_clock_is_what_it_wrote_beside_what_the_api_server_noted() {
        let lease = |renewed: &str| {
            json!({
                "metadata": {"managedFields": [
                    {"time": "2026-11-23T12:00:10Z", "fieldsV1": {"f:spec": {"f:renewTime": {}}}},
                    {"time": "2026-11-23T13:00:00Z", "fieldsV1": {"f:metadata": {}}},
                ]},
                "spec": {"renewTime": renewed},
            })
        };
        assert_eq!(ahead_of(&lease("2026-11-23T12:00:10.123456Z")), Some(0));
        assert_eq!(ahead_of(&lease("2026-11-23T11:59:00.000000Z")), Some(-70));
        assert_eq!(ahead_of(&lease("yesterday")), None);
    }

    #[test]
    fn kube_proxys_mode_is_read_where_it_stands() {
        let ipvs = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nipvs: {scheduler: rr}\nmode: \"ipvs\"\n";
        assert_eq!(mode_of_configuration(ipvs).as_deref(), Some("ipvs"));
        assert_eq!(mode_of_configuration("apiVersion: v1\nkind: Config\nclusters: []\n"), None);
        let set = json!({"spec": {"template": {"spec": {"containers": [{"command": ["kube-proxy", "--proxy-mode=ipvs", "-v=2"]}]}}}});
        assert_eq!(mode_of_arguments(&set), "ipvs");
        assert_eq!(mode_of_arguments(&json!({})), "");
    }
}
