//! What is still valid of what was issued before a hold, and until when. Requests say it exactly while they are there, which is for a quarter
//! of an hour; of other pods it is known that nothing lives longer from now than what they may be granted.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::text;
use crate::{
    cluster::versions::Versions,
    kubectl::{
        doctor::{list, time_of},
        shown::table,
        view::{CannotSee, View, unread},
    },
    names::SignerName,
    pace::Pace,
    pipeline::{Pod, PodFacts, Scope},
};

/// Certificates by namespace, pod and signer.
#[derive(Debug)]
pub(super) struct Valid {
    until: BTreeMap<(String, String, String), Until>,
    /// After this nothing is valid that anybody under the hold was ever issued.
    all_end: OffsetDateTime,
}

/// The end of the newest certificate.
#[derive(Clone, Copy, Debug)]
struct Until {
    at: OffsetDateTime,
    is_exact: bool,
}

/// What those under the hold still have.
pub(super) async fn under(view: &View, scope: &Scope) -> Result<Valid, CannotSee> {
    let (requests, pods) = tokio::try_join!(requests(view, scope), pods(view, scope))?;
    let now = view.now()?;
    let mut until = BTreeMap::new();
    for (key, at) in requests.into_iter().filter(|(_, at)| *at > now) {
        let newest = until.entry(key).or_insert(Until { at, is_exact: true });
        newest.at = newest.at.max(at);
    }
    let longest = |signer: &str, asked: i64| {
        let signer = SignerName::parse(signer).ok().and_then(|name| Some(view.signer(&name)?.lifetime.max_seconds));
        signer.map_or(asked, |most| asked.min(i64::from(most)))
    };
    let mut all_end = until.values().map(|until| until.at).max().unwrap_or(now);
    for (namespace, name, facts) in pods {
        for projection in facts.projections.iter().filter(|projection| view.is_ours(&projection.signer)) {
            let seconds = longest(&projection.signer, projection.max_expiration_seconds);
            let at = now.saturating_add(Duration::seconds(seconds));
            let key = (namespace.clone(), name.clone(), projection.signer.to_string());
            until.entry(key).or_insert(Until { at, is_exact: false });
        }
    }
    let most = view.signers().map(|signer| i64::from(signer.lifetime.max_seconds)).max().unwrap_or_default();
    all_end = all_end.max(now.saturating_add(Duration::seconds(most)));
    Ok(Valid { until, all_end })
}

type Ends = Vec<((String, String, String), OffsetDateTime)>;

/// Of each request that was answered: whose it is, and the end.
async fn requests(view: &View, scope: &Scope) -> Result<Ends, CannotSee> {
    const WHAT: &str = "certificate requests";
    let versions = Versions::new(view.calls.clone(), Pace::real());
    let served = versions.discover().await.map_err(|error| unread(WHAT, &error))?;
    let Some(version) = served.requests else { return Ok(Vec::new()) };
    let version = version.as_str();
    let path = match scope {
        Scope::Node(node) => {
            format!("/apis/certificates.k8s.io/{version}/podcertificaterequests?fieldSelector=spec.nodeName%3D{node}")
        }
        Scope::Pod(namespace, _) | Scope::ServiceAccount(namespace, _) | Scope::Namespace(namespace) => {
            format!("/apis/certificates.k8s.io/{version}/namespaces/{namespace}/podcertificaterequests")
        }
    };
    let all: Vec<Value> = list(&view.calls, &path).await.map_err(|error| unread(WHAT, &error))?;
    let word = |object: &Value, at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let of = |object: &Value| {
        let pod = word(object, "/spec/podName");
        let counts = match scope {
            Scope::Pod(_, name) => *name.as_str() == *pod,
            Scope::ServiceAccount(_, name) => *name.as_str() == *word(object, "/spec/serviceAccountName"),
            Scope::Node(_) | Scope::Namespace(_) => true,
        };
        let signer = word(object, "/spec/signerName");
        let end = time_of(&word(object, "/status/notAfter"))?;
        (counts && view.is_ours(&signer)).then_some(((word(object, "/metadata/namespace"), pod, signer), end))
    };
    Ok(all.iter().filter_map(of).collect())
}

async fn pods(view: &View, scope: &Scope) -> Result<Vec<(String, String, PodFacts)>, CannotSee> {
    let path = match scope {
        Scope::Pod(namespace, name) => {
            format!("/api/v1/namespaces/{namespace}/pods?fieldSelector=metadata.name%3D{name}")
        }
        Scope::ServiceAccount(namespace, name) => {
            format!("/api/v1/namespaces/{namespace}/pods?fieldSelector=spec.serviceAccountName%3D{name}")
        }
        Scope::Node(node) => format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}"),
        Scope::Namespace(namespace) => format!("/api/v1/namespaces/{namespace}/pods"),
    };
    let all: Vec<Value> = list(&view.calls, &path).await.map_err(|error| unread("pods", &error))?;
    let read = |object: Value| {
        let word = |at: &str| object.pointer(at).and_then(Value::as_str).map(str::to_owned);
        let (namespace, name) = (word("/metadata/namespace")?, word("/metadata/name")?);
        // A pod that cannot be read has nothing that we issued.
        let pod: Pod = serde_json::from_value(object).ok()?;
        Some((namespace, name, PodFacts::from(pod)))
    };
    Ok(all.into_iter().filter_map(read).collect())
}

impl Valid {
    pub(super) fn to_json(&self) -> Value {
        let one = |((namespace, pod, signer), until): (&(String, String, String), &Until)| json!({"namespace": namespace, "pod": pod, "signerName": signer, "until": text(until.at), "exact": until.is_exact});
        json!({"certificates": self.until.iter().map(one).collect::<Value>(), "allEndBy": text(self.all_end)})
    }

    /// Wide: with the signer's name.
    pub(super) fn text(&self, wide: bool) -> String {
        let rows: Vec<Vec<String>> = self
            .until
            .iter()
            .map(|((namespace, pod, signer), until)| {
                let until = if until.is_exact { text(until.at) } else { format!("{} at the latest", text(until.at)) };
                let mut row = vec![format!("  {namespace}"), pod.clone(), until];
                row.extend(wide.then(|| signer.clone()));
                row
            })
            .collect();
        let head: &[&str] = &["  NAMESPACE", "POD", "STILL VALID UNTIL", "SIGNER"];
        let head = if wide { head } else { head.split_last().map_or(head, |(_, others)| others) };
        let listed = if rows.is_empty() { String::new() } else { table(head, &rows) };
        format!("{listed}  what pods had that are gone by now ends by {}\n", text(self.all_end))
    }
}
