//! What holds for single nodes: feature gates, old kubelets, cgroups, container runtime, declared features, clocks.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cluster::{SKEW, distance, has_gates_on, some_of},
    facts::{Facts, Kubelet, Node},
    report::{Finding, Mend, Severity},
};

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let nodes: &[Node] = facts.nodes.as_deref().unwrap_or_default();
    let mut found: Vec<Finding> = nodes
        .iter()
        .flat_map(|node| [too_old(node), gates(node), cgroup(node), runtime(node), undeclared(node), troubled(node)])
        .flatten()
        .collect();
    found.extend(different(nodes));
    found.extend(facts.ahead.iter().flatten().filter_map(|(node, ahead)| clock(node, *ahead)));
    found
}

fn too_old(node: &Node) -> Option<Finding> {
    let release = &node.kubelet_release;
    release.is_before(35).then(|| Finding {
        id: "kubelet-too-old",
        severity: Severity::Breaks,
        place: place(node),
        what: format!(
            "its kubelet ({}) asks for certificates in a version of the API that no newer API server has",
            release.text
        ),
        mend: Mend::Do(format!("upgrade {} to 1.35 or newer, or keep such pods off it", node.name)),
    })
}

fn gates(node: &Node) -> Option<Finding> {
    let kubelet = node.kubelet.as_ref().ok()?;
    let off: Vec<&str> = kubelet.gates.iter().filter(|(_, on)| !**on).map(|(gate, _)| *gate).collect();
    (!off.is_empty() && !node.kubelet_release.is_before(35)).then(|| Finding {
        id: "kubelet-gates-off",
        severity: Severity::Breaks,
        place: place(node),
        what: format!(
            "its kubelet has {} off: pods with such a volume never start there{}",
            off.join(" and "),
            if has_gates_on(&node.kubelet_release) { " (from 1.37 on it is on unless somebody says otherwise)" } else { "" }
        ),
        mend: Mend::Do(format!(
            "on {}, write `featureGates: {{{}}}` into the kubelet's configuration (often /var/lib/kubelet/config.yaml) and restart it: \
             systemctl restart kubelet",
            node.name,
            off.iter().map(|gate| format!("{gate}: true")).collect::<Vec<_>>().join(", ")
        )),
    })
}

fn cgroup(node: &Node) -> Option<Finding> {
    let Kubelet { cgroup_version, fails_on_cgroup_v1, .. } = node.kubelet.as_ref().ok()?;
    (*cgroup_version == Some(1)).then(|| {
        let now = match fails_on_cgroup_v1 {
            Some(false) => "It runs because of failCgroupV1: false, for as long as Kubernetes lets it",
            Some(true) | None => "From 1.35 on its kubelet will not start unless it has failCgroupV1: false",
        };
        Finding {
            id: "cgroup-v1",
            severity: Severity::Risk,
            place: place(node),
            what: format!("it uses cgroup v1, which Kubernetes is giving up. {now}"),
            mend: Mend::Do(format!(
                "boot {} with cgroup v2 (kernel parameter systemd.unified_cgroup_hierarchy=1, or a newer system); until then keep \
                 `failCgroupV1: false` in the kubelet's configuration",
                node.name
            )),
        }
    })
}

fn runtime(node: &Node) -> Option<Finding> {
    let told = node.kubelet.as_ref().ok().and_then(|kubelet| kubelet.runtime_ends_with.as_deref());
    let is_old = node.runtime.starts_with("containerd://1.");
    (told.is_some() || is_old).then(|| Finding {
        id: "runtime-ends",
        severity: Severity::Risk,
        place: place(node),
        what: match told {
            Some(version) => format!("its kubelet says that Kubernetes {version} does not work with {}", node.runtime),
            None => format!("{} is of a line that newer kubelets do not work with", node.runtime),
        },
        mend: Mend::Do(format!(
            "before the next upgrade of Kubernetes, upgrade the container runtime of {} (containerd to 2.x)",
            node.name
        )),
    })
}

/// From 1.36 on a kubelet tells what it can do, and the scheduler and the kubelet itself go by it.
fn undeclared(node: &Node) -> Option<Finding> {
    let release = &node.kubelet_release;
    let tells = release.minor.is_some_and(|minor| minor >= 36);
    (tells && node.declared.is_empty()).then(|| Finding {
        id: "no-declared-features",
        severity: Severity::Note,
        place: place(node),
        what: format!(
            "its kubelet ({}) declares no features: pods that need one are not scheduled there, and pods of other nodes that do are \
             refused when they are moved",
            release.text
        ),
        mend: Mend::Do(format!("remove `NodeDeclaredFeatures: false` from the feature gates of the kubelet on {}, if it stands there", node.name)),
    })
}

fn different(nodes: &[Node]) -> Vec<Finding> {
    let mut by_release: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| !node.declared.is_empty()) {
        by_release.entry(&node.kubelet_release.text).or_default().push(node);
    }
    let mut found = Vec::new();
    for (release, nodes) in by_release {
        let all: BTreeSet<&String> = nodes.iter().flat_map(|node| &node.declared).collect();
        let lacking: Vec<String> = nodes
            .iter()
            .filter_map(|node| {
                let lacks: Vec<&str> =
                    all.iter().filter(|one| !node.declared.contains(**one)).map(|one| one.as_str()).collect();
                (!lacks.is_empty()).then(|| format!("{} lacks {}", node.name, lacks.join(", ")))
            })
            .collect();
        if !lacking.is_empty() {
            found.push(Finding {
                id: "declared-features-differ",
                severity: Severity::Note,
                place: format!("nodes with {release}"),
                what: format!(
                    "they declare different features, so that a pod may start on one and not on another: {}",
                    some_of(&lacking)
                ),
                mend: Mend::Do("give their kubelets the same feature gates".to_owned()),
            });
        }
    }
    found
}

/// Kubelets count the certificates that did not come, or ended.
fn troubled(node: &Node) -> Option<Finding> {
    let troubled = &node.kubelet.as_ref().ok()?.troubled;
    let list: Vec<String> = troubled
        .iter()
        .map(|((signer, state), count)| format!("{count} of {signer} {}", state.replace('_', " ")))
        .collect();
    (!list.is_empty()).then(|| Finding {
        id: "certificates-in-trouble",
        severity: Severity::Breaks,
        place: place(node),
        what: format!(
            "its kubelet counts certificates of running pods that are not as they should be: {}. Denied and failed ones are never asked \
             for again while the pod lives",
            some_of(&list)
        ),
        mend: Mend::Run(format!(
            "kubectl get events -A --field-selector type=Warning | grep -E 'Denied|Failed|CertificateExpired|CertificateOverdueForRefresh|Podmint' \
             # and when that is mended, delete the pods that were denied; they are on {}",
            node.name
        )),
    })
}

fn clock(node: &str, ahead: i64) -> Option<Finding> {
    let breaks = ahead < -BACKDATED;
    (ahead.saturating_abs() > SKEW).then(|| Finding {
        id: "clock-of-node",
        severity: if breaks { Severity::Breaks } else { Severity::Risk },
        place: format!("node {node}"),
        what: format!(
            "its clock is {} the API server's. {}",
            distance(ahead),
            if breaks {
                "A new certificate is not valid there yet: handshakes fail"
            } else if ahead < 0 {
                "Beyond a minute, new certificates are not valid there yet"
            } else {
                "Certificates end early there"
            }
        ),
        mend: Mend::Do(format!(
            "on {node}: timedatectl set-ntp true, and see that chronyd or systemd-timesyncd reaches its servers"
        )),
    })
}

fn place(node: &Node) -> String {
    format!("node {}", node.name)
}

/// Seconds that a certificate is valid from before it is made.
const BACKDATED: i64 = 60;

#[cfg(test)]
mod tests {
    use super::{
        super::{facts::Release, fixture::*},
        *,
    };
    use crate::kubectl::shown::Shown as _;

    fn only_of_node(id: &str, change: impl FnOnce(&mut Node)) -> Finding {
        only(id, |facts| change(&mut facts.nodes.as_mut().unwrap()[0]))
    }

    fn only_of_kubelet(id: &str, change: impl FnOnce(&mut Kubelet)) -> Finding {
        only_of_node(id, |node| change(node.kubelet.as_mut().unwrap()))
    }

    #[test]
    fn a_gate_that_is_off_is_found_and_named() {
        let one = only_of_kubelet("kubelet-gates-off", |kubelet| {
            kubelet.gates.insert("PodCertificateRequest", false);
        });
        assert_eq!(one.place, "node node-a");
        let Mend::Do(words) = &one.mend else { panic!("{one:?}") };
        assert!(words.contains("`featureGates: {PodCertificateRequest: true}`"), "{words}");
    }

    #[test]
    fn a_kubelet_before_1_35_is_too_old() {
        let findings = found(|facts| {
            let node = &mut facts.nodes.as_mut().unwrap()[0];
            node.kubelet_release = Release::parse("v1.34.9");
        });
        assert!(findings.iter().any(|finding| finding.id == "kubelet-too-old"), "{findings:#?}");
    }

    #[test]
    fn cgroup_v1_is_a_risk_whatever_the_kubelet_makes_of_it() {
        let tolerated = only_of_kubelet("cgroup-v1", |kubelet| {
            kubelet.cgroup_version = Some(1);
            kubelet.fails_on_cgroup_v1 = Some(false);
        });
        assert!(tolerated.what.contains("because of failCgroupV1: false"), "{}", tolerated.what);
        let old = only_of_kubelet("cgroup-v1", |kubelet| {
            kubelet.cgroup_version = Some(1);
            kubelet.fails_on_cgroup_v1 = None;
        });
        assert!(old.what.contains("will not start"), "{}", old.what);
    }

    #[test]
    fn an_ending_runtime_is_known_by_what_the_kubelet_says_or_by_its_name() {
        let told = only_of_kubelet("runtime-ends", |kubelet| kubelet.runtime_ends_with = Some("1.38.0".to_owned()));
        assert!(told.what.contains("1.38.0"), "{}", told.what);
        let named = only_of_node("runtime-ends", |node| node.runtime = "containerd://1.7.27".to_owned());
        assert!(named.what.contains("containerd://1.7.27"), "{}", named.what);
    }

    #[test]
    fn declared_features_that_are_absent_or_differ_are_noted() {
        only_of_node("no-declared-features", |node| node.declared.clear());
        let one = only("declared-features-differ", |facts| {
            let mut other = node("node-b");
            other.declared.insert("UserNamespacesHostNetworkSupport".to_owned());
            facts.nodes.as_mut().unwrap().push(other);
        });
        assert!(one.what.contains("node-a lacks UserNamespacesHostNetworkSupport"), "{}", one.what);
    }

    #[test]
    fn a_clock_that_is_behind_breaks_before_one_that_is_ahead() {
        let with =
            |seconds| move |facts: &mut Facts| facts.ahead = Ok(BTreeMap::from([("node-a".to_owned(), seconds)]));
        assert_eq!(only("clock-of-node", with(-61)).severity, Severity::Breaks);
        assert_eq!(only("clock-of-node", with(-60)).severity, Severity::Risk);
        assert_eq!(only("clock-of-node", with(300)).severity, Severity::Risk);
        assert_eq!(found(with(30)), []);
    }

    #[test]
    fn certificates_that_kubelets_complain_about_are_found() {
        let one = only_of_kubelet("certificates-in-trouble", |kubelet| {
            kubelet.troubled.insert(("mint.example.org/workload".to_owned(), "overdue_for_refresh".to_owned()), 2);
        });
        assert!(one.what.contains("2 of mint.example.org/workload overdue for refresh"), "{}", one.what);
    }

    #[test]
    fn a_kubelet_that_was_not_asked_is_told() {
        let report = diagnosed(|facts| facts.nodes.as_mut().unwrap()[0].kubelet = Err(unseen("the kubelet of node-a")));
        assert_eq!((report.findings.len(), report.unseen.len(), report.exit_status()), (0, 1, 2));
    }
}
