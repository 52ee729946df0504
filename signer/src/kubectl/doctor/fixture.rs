//! A healthy cluster, for tests that each change one thing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, macros::datetime};

use super::{
    diagnose,
    facts::{Facts, GATES, Kubelet, Node, Pod, Release, Served, Verdict, Versions},
    report::{Finding, Report, Unseen},
};
use crate::{cluster::guard::GuardState, pipeline::Holds};

/// So many seconds from now.
pub(super) fn at(seconds: i64) -> OffsetDateTime {
    datetime!(2026-11-23 12:00:00 UTC).saturating_add(Duration::seconds(seconds))
}

pub(super) fn healthy() -> Facts {
    let v1 = Versions { v1: true, v1beta1: false };
    Facts {
        domain: "mint.example.org".to_owned(),
        namespace: "mint".to_owned(),
        server: Ok(Release::parse("v1.37.2")),
        now: at(0),
        ahead_here: 0,
        served: Ok(Served { requests: v1, bundles: v1 }),
        guard: Ok(GuardState::InForce),
        guard_proof: Ok(Some(Verdict::Refused)),
        restriction_proof: Ok(Some(Verdict::Refused)),
        signer_seen: Ok(Some(at(-3))),
        podsigners: Ok(Vec::new()),
        configured: Ok(Some(BTreeSet::from(["mint.example.org/workload".to_owned()]))),
        published: Ok(BTreeSet::from(["mint.example.org/workload".to_owned()])),
        requests: Ok(Vec::new()),
        pods: Ok(vec![pod(|_| {})]),
        nodes: Ok(vec![node("node-a")]),
        ahead: Ok(BTreeMap::from([("node-a".to_owned(), 0)])),
        proxy_mode: Ok(Some("nftables".to_owned())),
        holds: Ok(Holds::default()),
    }
}

pub(super) fn node(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        kubelet_release: Release::parse("v1.37.2"),
        runtime: "containerd://2.1.4".to_owned(),
        declared: BTreeSet::from(["RestartAllContainersOnContainerExits".to_owned()]),
        kubelet: Ok(Kubelet {
            gates: GATES.into_iter().map(|gate| (gate, true)).collect(),
            cgroup_version: Some(2),
            fails_on_cgroup_v1: Some(true),
            runtime_ends_with: None,
            troubled: BTreeMap::new(),
        }),
    }
}

/// A pod that does everything right, with one thing changed.
pub(super) fn pod(change: impl FnOnce(&mut Value)) -> Pod {
    let mut object = json!({
        "metadata": {"namespace": "shop", "name": "web", "creationTimestamp": "2026-11-23T11:00:00Z"},
        "spec": {
            "nodeName": "node-a",
            "securityContext": {"runAsUser": 65532, "runAsNonRoot": true, "fsGroup": 65532},
            "containers": [{"name": "app", "volumeMounts": [{"name": "identity", "mountPath": "/identity", "readOnly": true}]}],
            "volumes": [
                {"name": "scratch", "emptyDir": {}},
                {"name": "identity", "projected": {"defaultMode": 420, "sources": [
                    {"podCertificate": {
                        "signerName": "mint.example.org/workload", "keyType": "ECDSAP256", "credentialBundlePath": "bundle.pem",
                    }},
                    {"clusterTrustBundle": {"signerName": "mint.example.org/workload", "labelSelector": {}, "path": "roots.pem"}},
                ]}},
            ],
        },
        "status": {"phase": "Running"},
    });
    change(&mut object);
    serde_json::from_value(object).unwrap()
}

pub(super) fn unseen(what: &str) -> Unseen {
    Unseen { what: what.to_owned(), why: "forbidden".to_owned(), for_want_of_rights: true }
}

pub(super) fn diagnosed(change: impl FnOnce(&mut Facts)) -> Report {
    let mut facts = healthy();
    change(&mut facts);
    diagnose(&facts)
}

pub(super) fn found(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    diagnosed(change).findings
}

/// The one finding, which has to be of this kind.
pub(super) fn only(id: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    let findings = found(change);
    assert_eq!(findings.iter().map(|finding| finding.id).collect::<Vec<_>>(), [id], "{findings:#?}");
    findings.into_iter().next().unwrap()
}

/// The one finding about a pod with one thing changed.
pub(super) fn only_of_pod(id: &str, change: impl FnOnce(&mut Value)) -> Finding {
    only(id, |facts| facts.pods = Ok(vec![pod(change)]))
}

pub(super) fn found_of_pod(change: impl FnOnce(&mut Value)) -> Vec<Finding> {
    found(|facts| facts.pods = Ok(vec![pod(change)]))
}
