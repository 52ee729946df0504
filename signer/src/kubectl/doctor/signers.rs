//! Names: those that pods project, held against those that somebody serves.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    cluster::some_of,
    facts::{At, Facts, Pod, PodSigner, Request, seconds},
    report::{Finding, Mend, Severity},
    workload::Workload,
};

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let unserved = unserved(facts);
    let mut found: Vec<Finding> = unserved.values().cloned().collect();
    found.extend(untrusted(facts, &unserved.into_keys().collect()));
    found.extend(troubled(facts));
    found.extend(waiting(facts));
    found.extend(not_asked(facts));
    found
}

/// Names that pods want certificates from, and that nobody serves.
fn unserved(facts: &Facts) -> BTreeMap<&str, Finding> {
    let pods: &[Pod] = facts.pods.as_deref().unwrap_or_default();
    let names: BTreeSet<&str> = pods.iter().flat_map(Pod::signer_names).collect();
    names.into_iter().filter_map(|name| Some((name, unserved_name(facts, pods, name)?))).collect()
}

fn unserved_name(facts: &Facts, pods: &[Pod], name: &str) -> Option<Finding> {
    let why = match configured(facts, name) {
        Some(true) => return None,
        Some(false) => format!("no PodSigner has this name (there are: {})", some_of(&ours(facts))),
        None => {
            let (requests, published) = (facts.requests.as_ref().ok()?, facts.published.as_ref().ok()?);
            let mut of_name = requests.iter().filter(|request| request.signer_name == name).peekable();
            let is_served = published.contains(name) || of_name.clone().any(|request| request.is_answered);
            let is_waiting = of_name.any(|request| seconds(request.created, facts.now) > PATIENCE);
            if is_served || !is_waiting {
                return None;
            }
            "its requests are not answered, and no trust bundle is published under it".to_owned()
        }
    };
    let users: Vec<&Pod> = pods.iter().filter(|pod| pod.signer_names().contains(name)).collect();
    let workloads: Vec<String> =
        users.iter().map(|pod| Workload::of(pod).to_string()).collect::<BTreeSet<_>>().into_iter().collect();
    Some(Finding {
        id: "nobody-serves",
        severity: Severity::Breaks,
        place: name.to_owned(),
        what: format!(
            "pods want certificates from this signer, and nobody serves it: {why}. Wanted by {}",
            some_of(&workloads)
        ),
        mend: match (ours(facts).as_slice(), users.as_slice()) {
            // When there is one name that may be meant and one place to say so, it can be said.
            ([only], [pod, others @ ..])
                if is_ours(facts, name) && others.iter().all(|other| Workload::of(other) == Workload::of(pod)) =>
            {
                rename(pod, name, only)
            }
            _ => Mend::Do(format!(
                "correct signerName in the pods' volumes, or add a signer of this name{}",
                if is_ours(facts, name) { " (a PodSigner)" } else { "" }
            )),
        },
    })
}

/// Names that pods want to trust, and that nobody publishes roots under.
fn untrusted(facts: &Facts, unserved: &BTreeSet<&str>) -> Vec<Finding> {
    let (Ok(pods), Ok(published)) = (&facts.pods, &facts.published) else { return Vec::new() };
    let mut wanted: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for pod in pods {
        for trust in pod.sources().filter_map(|at| at.source.cluster_trust_bundle.as_ref()) {
            let Some(name) = trust.signer_name.as_deref().filter(|_| trust.optional != Some(true)) else { continue };
            if !published.contains(name) && !unserved.contains(name) {
                wanted.entry(name).or_default().insert(Workload::of(pod).to_string());
            }
        }
    }
    let finding = |(name, workloads): (&str, BTreeSet<String>)| Finding {
        id: "no-trust-bundle",
        severity: Severity::Breaks,
        place: name.to_owned(),
        what: format!(
            "no trust bundle is published under this signer name, and pods do not start without: {}",
            some_of(&workloads.into_iter().collect::<Vec<_>>())
        ),
        mend: if is_ours(facts, name) {
            Mend::Run(format!(
                "kubectl -n {} logs -l app.kubernetes.io/name=podmint --tail=-1 | grep -i 'trust bundle' # says why the signer does not publish it",
                facts.namespace
            ))
        } else {
            Mend::Do("correct signerName in the pods' volumes, or have its signer publish its roots".to_owned())
        },
    };
    wanted.into_iter().map(finding).collect()
}

/// PodSigners that say themselves that they are not as they should be.
fn troubled(facts: &Facts) -> Vec<Finding> {
    let finding = |one: &PodSigner| {
        let issues = one.state.starts_with("Issuing") || one.state.starts_with("Suspended");
        Some(Finding {
            id: "podsigner-troubled",
            severity: if issues { Severity::Risk } else { Severity::Breaks },
            place: format!("PodSigner {}", one.name),
            what: format!("it is {}: {}", one.state, one.trouble.as_ref()?),
            mend: Mend::Run(format!("kubectl describe podsigner {} # and do what it says", one.name)),
        })
    };
    facts.podsigners.iter().flatten().filter_map(finding).collect()
}

/// Requests of our signers that wait although somebody serves the name: held, as a rule, and the Event on the pod says why.
fn waiting(facts: &Facts) -> Vec<Finding> {
    let served = |request: &&Request| {
        configured(facts, &request.signer_name) != Some(false)
            && facts.published.as_ref().is_ok_and(|published| published.contains(&request.signer_name))
    };
    let late = |request: &&Request| !request.is_answered && seconds(request.created, facts.now) > PATIENCE;
    let waiting = facts.requests.iter().flatten().filter(|request| is_ours(facts, &request.signer_name));
    let mut by_name: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in waiting.filter(late).filter(served) {
        by_name.entry(&request.signer_name).or_default().push(request);
    }
    let finding = |(name, requests): (&str, Vec<&Request>)| {
        let pods: Vec<String> =
            requests.iter().map(|request| format!("{}/{}", request.namespace, request.pod)).collect();
        let one = requests.first().map_or(("", ""), |request| (&request.namespace, &request.pod));
        Finding {
            id: "requests-wait",
            severity: Severity::Risk,
            place: name.to_owned(),
            what: format!(
                "requests have waited for more than a minute: the signer holds them, and an Event on each pod says what to change: {}",
                some_of(&pods)
            ),
            mend: Mend::Run(format!(
                "kubectl -n {} get events --field-selector involvedObject.kind=Pod,involvedObject.name={} # and do what it says",
                one.0, one.1
            )),
        }
    };
    by_name.into_iter().map(finding).collect()
}

/// A kubelet that does not know of pod certificates asks for none. This shows also where it may not be asked itself.
fn not_asked(facts: &Facts) -> Vec<Finding> {
    let (Ok(pods), Ok(requests)) = (&facts.pods, &facts.requests) else { return Vec::new() };
    let mut by_node: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.status.phase == "Pending" && !pod.spec.node_name.is_empty()) {
        let Some(created) = super::look::time_of(&pod.metadata.creation_timestamp) else { continue };
        // Requests of older pods may have been tidied away already.
        let age = seconds(created, facts.now);
        let asked = requests
            .iter()
            .any(|request| request.namespace == pod.metadata.namespace && request.pod == pod.metadata.name);
        if !pod.signer_names().is_empty() && !asked && age > PATIENCE && age < TIDIED {
            let name = format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
            by_node.entry(&pod.spec.node_name).or_default().push(name);
        }
    }
    let finding = |(node, pods): (&str, Vec<String>)| Finding {
        id: "kubelet-asks-nothing",
        severity: Severity::Breaks,
        place: format!("node {node}"),
        what: format!(
            "its kubelet has made no certificate request for pods that wait for one: {}. It does not run, its feature gate is off, or it \
             is too old",
            some_of(&pods)
        ),
        mend: Mend::Run(format!(
            "kubectl get --raw /api/v1/nodes/{node}/proxy/metrics | grep PodCertificateRequest # must end in 1"
        )),
    };
    by_node.into_iter().map(finding).collect()
}

/// Whether the configuration has this name; nothing where it is not ours to know.
fn configured(facts: &Facts, name: &str) -> Option<bool> {
    let names = facts.configured.as_ref().ok()?.as_ref()?;
    is_ours(facts, name).then(|| names.contains(name))
}

fn is_ours(facts: &Facts, name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| domain == facts.domain)
}

fn ours(facts: &Facts) -> Vec<String> {
    facts.configured.iter().flatten().flatten().cloned().collect()
}

/// The same name everywhere in the pod: what it gets and what it trusts.
fn rename(pod: &Pod, from: &str, to: &str) -> Mend {
    let operations: Vec<_> = pod
        .sources()
        .filter_map(|at: At<'_>| {
            let (certificate, trust) = (at.source.pod_certificate.as_ref(), at.source.cluster_trust_bundle.as_ref());
            let field = match (certificate, trust) {
                (Some(certificate), _) if certificate.signer_name == from => "podCertificate",
                (None, Some(trust)) if trust.signer_name.as_deref() == Some(from) => "clusterTrustBundle",
                _ => return None,
            };
            Some(json!({"op": "replace", "path": format!("{}/{field}/signerName", at.pointer()), "value": to}))
        })
        .collect();
    Workload::of(pod).change(&operations)
}

/// Seconds. An answer takes milliseconds, and a hold is told on the pod after half a minute.
const PATIENCE: i64 = 60;
/// Seconds. The cleaner deletes requests that are older than a quarter of an hour.
const TIDIED: i64 = 600;

#[cfg(test)]
mod tests {
    use super::{super::fixture::*, *};

    fn request(signer_name: &str, age: i64) -> Request {
        Request {
            namespace: "shop".to_owned(),
            pod: "web".to_owned(),
            signer_name: signer_name.to_owned(),
            created: at(age.saturating_neg()),
            is_answered: false,
        }
    }

    fn projecting(name: &str) -> Pod {
        pod(|object| {
            for source in ["0/podCertificate", "1/clusterTrustBundle"] {
                *object.pointer_mut(&format!("/spec/volumes/1/projected/sources/{source}/signerName")).unwrap() =
                    json!(name);
            }
        })
    }

    #[test]
    fn a_name_of_ours_that_is_not_configured_is_corrected_in_all_places() {
        let one = only("nobody-serves", |facts| facts.pods = Ok(vec![projecting("mint.example.org/wrkload")]));
        assert!(one.what.contains("there are: mint.example.org/workload"), "{}", one.what);
        let Mend::Run(command) = &one.mend else { panic!("{one:?}") };
        assert_eq!(command.matches("mint.example.org/workload").count(), 2, "{command}");
        assert!(command.contains("/spec/volumes/1/projected/sources/1/clusterTrustBundle/signerName"), "{command}");
    }

    #[test]
    fn a_foreign_name_is_judged_by_what_is_seen_of_it() {
        let with = |age: i64, is_answered: bool, is_published: bool| {
            move |facts: &mut Facts| {
                let name = "example.org/other";
                facts.pods = Ok(vec![projecting(name)]);
                facts.requests = Ok(vec![Request { is_answered, ..request(name, age) }]);
                facts.published.as_mut().unwrap().insert("x.example.org/y".to_owned());
                if is_published {
                    facts.published.as_mut().unwrap().insert(name.to_owned());
                }
            }
        };
        only("nobody-serves", with(61, false, false));
        assert_eq!(found(with(61, false, true)), []);
        // Answered, but without a bundle: the pod waits for that.
        only("no-trust-bundle", with(61, true, false));
        only("no-trust-bundle", with(5, false, false));
    }

    #[test]
    fn an_optional_trust_bundle_need_not_be_there() {
        let change = |facts: &mut Facts| {
            facts.published.as_mut().unwrap().clear();
            facts.pods = Ok(vec![pod(|object| {
                object["spec"]["volumes"][1]["projected"]["sources"][1]["clusterTrustBundle"]["optional"] = json!(true);
            })]);
        };
        assert_eq!(found(change), []);
        let one = only("no-trust-bundle", |facts| facts.published.as_mut().unwrap().clear());
        assert!(one.what.contains("pod shop/web"), "{}", one.what);
    }

    #[test]
    fn a_pod_signer_that_says_so_is_in_trouble() {
        let with = |state: &'static str, trouble: Option<&'static str>| {
            move |facts: &mut Facts| {
                let trouble = trouble.map(str::to_owned);
                facts.podsigners =
                    Ok(vec![PodSigner { name: "workload".to_owned(), state: state.to_owned(), trouble }]);
            }
        };
        assert_eq!(found(with("Issuing", None)), []);
        let one = only("podsigner-troubled", with("Issuing, degraded", Some("59m is shorter than 1h")));
        assert!(one.severity == Severity::Risk && one.what.contains("59m is shorter"), "{one:?}");
        let one = only("podsigner-troubled", with("Refused", Some("another has this name")));
        assert_eq!((one.severity, one.place.as_str()), (Severity::Breaks, "PodSigner workload"));
    }

    #[test]
    fn requests_that_wait_point_to_their_events() {
        let one = only("requests-wait", |facts| facts.requests = Ok(vec![request("mint.example.org/workload", 61)]));
        let Mend::Run(command) = &one.mend else { panic!("{one:?}") };
        assert!(command.contains("-n shop get events") && command.contains("involvedObject.name=web"), "{command}");
        assert_eq!(found(|facts| facts.requests = Ok(vec![request("mint.example.org/workload", 59)])), []);
    }

    #[test]
    fn a_kubelet_that_asks_for_nothing_is_found() {
        let pending = |created: &'static str| {
            move |facts: &mut Facts| {
                facts.pods = Ok(vec![pod(|object| {
                    object["status"]["phase"] = json!("Pending");
                    object["metadata"]["creationTimestamp"] = json!(created);
                })]);
            }
        };
        let one = only("kubelet-asks-nothing", pending("2026-11-23T11:58:00Z"));
        assert_eq!(one.place, "node node-a");
        assert_eq!(found(pending("2026-11-23T11:59:30Z")), [], "too early to tell");
        assert_eq!(found(pending("2026-11-23T11:00:00Z")), [], "its request may be gone already");
    }
}
