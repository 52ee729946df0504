//! What pods say in their volumes and mounts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    facts::{At, Container, Facts, Mount, Pod},
    report::{Finding, Mend, Severity},
    workload::Workload,
};

/// One finding for all pods that were made from one thing.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found: BTreeMap<(&'static str, Workload, String), (Finding, usize)> = BTreeMap::new();
    for pod in facts.pods.iter().flatten() {
        let workload = Workload::of(pod);
        for (id, Said { severity, what, mend }) in checks(pod, &workload) {
            let place = workload.to_string();
            let finding = Finding { id, severity, place, what: what.clone(), mend };
            let (_, count) = found.entry((id, workload.clone(), what)).or_insert((finding, 0));
            *count = count.saturating_add(1);
        }
    }
    let told = |(mut finding, count): (Finding, usize)| {
        if count > 1 {
            finding.place = format!("{} ({count} pods)", finding.place);
        }
        finding
    };
    found.into_values().map(told).collect()
}

struct Said {
    severity: Severity,
    what: String,
    mend: Mend,
}

fn checks(pod: &Pod, workload: &Workload) -> Vec<(&'static str, Said)> {
    let mut said: Vec<(&'static str, Said)> = Vec::new();
    said.extend(lost_source(pod, workload).map(|said| ("source-lost", said)));
    said.extend(trust_by_name(pod, workload).map(|said| ("trust-by-name", said)));
    said.extend(no_selector(pod, workload).map(|said| ("trust-selects-nothing", said)));
    said.extend(sub_path(pod, workload).map(|said| ("sub-path", said)));
    said.extend(key_mode(pod, workload));
    said
}

/// While the gate is off, an API server stores `{}` for the source and starts the pod without credentials.
fn lost_source(pod: &Pod, workload: &Workload) -> Option<Said> {
    let lost = pod.sources().find(|at| at.source.is_empty())?;
    Some(Said {
        severity: Severity::Breaks,
        what: format!(
            "volume {} has a source with nothing in it: a podCertificate or clusterTrustBundle that the API server took out, because its \
             feature gate was off. Serve the API first (not-served); then apply the manifest again, as this does where kubectl applied it",
            lost.volume.name
        ),
        mend: workload.apply_again(),
    })
}

/// Only bundles of a signer have a colon in their name; others can be mounted by name alone.
fn trust_by_name(pod: &Pod, workload: &Workload) -> Option<Said> {
    let by_name = |at: &At<'_>| {
        let name = at.source.cluster_trust_bundle.as_ref()?.name.as_deref()?;
        let mut parts = name.splitn(3, ':');
        let (domain, path) = (parts.next()?, parts.next()?);
        parts.next()?;
        Some((name.to_owned(), format!("{domain}/{path}")))
    };
    let all: Vec<(At<'_>, (String, String))> = pod.sources().filter_map(|at| Some((at, by_name(&at)?))).collect();
    let (first, (name, signer)) = all.first()?;
    let operations: Vec<Value> = all
        .iter()
        .map(|(at, (_, signer))| {
            let trust = at.source.cluster_trust_bundle.clone().unwrap_or_default();
            let optional = trust.optional.unwrap_or_default();
            let value = json!({"signerName": signer, "labelSelector": {}, "path": trust.path, "optional": optional});
            json!({"op": "replace", "path": format!("{}/clusterTrustBundle", at.pointer()), "value": value})
        })
        .collect();
    Some(Said {
        severity: Severity::Risk,
        what: format!(
            "volume {} mounts the trust bundle {name} by its name: kubelets see a changed root up to five minutes late, and a bundle of \
             another name never. Mount by signerName ({signer})",
            first.volume.name
        ),
        mend: workload.change(&operations),
    })
}

fn no_selector(pod: &Pod, workload: &Workload) -> Option<Said> {
    let selects_nothing = |at: &At<'_>| {
        at.source
            .cluster_trust_bundle
            .as_ref()
            .is_some_and(|trust| trust.signer_name.is_some() && trust.label_selector.is_none())
    };
    let all: Vec<At<'_>> = pod.sources().filter(selects_nothing).collect();
    let first = all.first()?;
    let is_optional =
        all.iter().all(|at| at.source.cluster_trust_bundle.as_ref().and_then(|trust| trust.optional) == Some(true));
    let operations: Vec<Value> = all
        .iter()
        .map(|at| json!({"op": "add", "path": format!("{}/clusterTrustBundle/labelSelector", at.pointer()), "value": {}}))
        .collect();
    Some(Said {
        severity: if is_optional { Severity::Risk } else { Severity::Breaks },
        what: format!(
            "volume {} mounts trust bundles by signerName without a labelSelector, which selects none; an empty one ({{}}) selects all",
            first.volume.name
        ),
        mend: workload.change(&operations),
    })
}

/// Such a mount is a copy of the first file: it never changes, and its certificate ends.
fn sub_path(pod: &Pod, workload: &Workload) -> Option<Said> {
    let volumes: Vec<&str> = pod.sources().filter(|at| at.is_ours()).map(|at| at.volume.name.as_str()).collect();
    let is_frozen = |mount: &Mount| {
        volumes.contains(&mount.name.as_str()) && !(mount.sub_path.is_empty() && mount.sub_path_expr.is_empty())
    };
    let frozen: Vec<(&str, usize, &Container)> =
        pod.containers().filter(|(_, _, container)| container.volume_mounts.iter().any(is_frozen)).collect();
    let (_, _, first) = frozen.first()?;
    let operations: Option<Vec<Vec<Value>>> =
        frozen.iter().map(|(list, index, container)| whole(list, *index, container, is_frozen)).collect();
    Some(Said {
        severity: Severity::Breaks,
        what: format!(
            "container {} mounts one file of a certificate volume by subPath: it is never renewed, and ends. Mount the volume as a \
             folder; the folder then holds nothing else",
            first.name
        ),
        mend: operations.map_or_else(
            || {
                Mend::Do(format!(
                    "in {workload}, mount the volume as a folder of its own, without subPath, and read the files there"
                ))
            },
            |operations| workload.change(&operations.concat()),
        ),
    })
}

/// Mounts the whole volume where the file's folder is, once for each folder. Nothing where that would hide another mount.
fn whole(list: &str, index: usize, container: &Container, is_frozen: impl Fn(&Mount) -> bool) -> Option<Vec<Value>> {
    let mut taken: Vec<(&str, String)> = Vec::new();
    let mut operations = Vec::new();
    for (at, mount) in container.volume_mounts.iter().enumerate().filter(|(_, mount)| is_frozen(mount)) {
        let pointer = format!("/spec/{list}/{index}/volumeMounts/{at}");
        let (folder, _file) = mount.mount_path.trim_end_matches('/').rsplit_once('/')?;
        if taken.iter().any(|(volume, path)| *volume == mount.name && path == folder) {
            operations.push(json!({"op": "remove", "path": pointer}));
            continue;
        }
        let hides = |other: &Mount| other.mount_path.trim_end_matches('/') == folder;
        if folder.is_empty()
            || container.volume_mounts.iter().any(hides)
            || taken.iter().any(|(_, path)| path == folder)
        {
            return None;
        }
        taken.push((&mount.name, folder.to_owned()));
        let field = if mount.sub_path.is_empty() { "subPathExpr" } else { "subPath" };
        operations.push(json!({"op": "replace", "path": format!("{pointer}/mountPath"), "value": folder}));
        operations.push(json!({"op": "remove", "path": format!("{pointer}/{field}")}));
    }
    // From the last to the first: removing a mount moves those behind it.
    operations.reverse();
    Some(operations)
}

/// The kubelet writes the key for one user, for a group, or for everybody.
fn key_mode(pod: &Pod, workload: &Workload) -> Option<(&'static str, Said)> {
    let is_windows = pod.spec.os.as_ref().is_some_and(|os| os.name == "windows");
    let security = pod.spec.security_context.clone().unwrap_or_default();
    if is_windows || security.fs_group.is_some() || only_user(pod).is_some() {
        return None;
    }
    let at = pod.sources().find(|at| {
        let user = at.source.pod_certificate.as_ref().map(|certificate| certificate.user.or(at.projected.default_user));
        user == Some(None)
    })?;
    let group = security.run_as_group.or(security.run_as_user).filter(|group| *group > 0).unwrap_or(65532);
    let mend = workload.change(&[json!({"op": "add", "path": "/spec/securityContext/fsGroup", "value": group})]);
    let mode = at.projected.default_mode.unwrap_or(0o644);
    let volume = &at.volume.name;
    if mode & 0o004 != 0 {
        let what = format!(
            "the key in volume {volume} is readable by every user in the pod: there is no fsGroup, and not all containers name the same \
             runAsUser (mode {mode:04o})"
        );
        return Some(("key-readable-by-all", Said { severity: Severity::Risk, what, mend }));
    }
    let shut_out = pod.containers().find(|(_, _, container)| {
        let mounts = container.volume_mounts.iter().any(|mount| mount.name == *volume);
        mounts && is_not_root(pod, container)
    });
    shut_out.map(|(_, _, container)| {
        let what = format!(
            "container {} is not root and cannot read the key in volume {volume}, which belongs to root with mode {mode:04o}: without \
             an fsGroup the kubelet gives it to nobody else",
            container.name
        );
        ("key-unreadable", Said { severity: Severity::Breaks, what, mend })
    })
}

/// The user of all containers, if every one of them names the same.
fn only_user(pod: &Pod) -> Option<i64> {
    let of_pod = pod.spec.security_context.as_ref().and_then(|security| security.run_as_user);
    let user = |container: &Container| {
        container.security_context.as_ref().and_then(|security| security.run_as_user).or(of_pod)
    };
    let mut users = pod.containers().map(|(_, _, container)| user(container));
    let first = users.next()??;
    users.all(|other| other == Some(first)).then_some(first)
}

fn is_not_root(pod: &Pod, container: &Container) -> bool {
    let of_pod = pod.spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    match own.run_as_user.or(of_pod.run_as_user) {
        Some(user) => user != 0,
        None => own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true),
    }
}

impl At<'_> {
    fn is_ours(&self) -> bool {
        self.source.pod_certificate.is_some() || self.source.cluster_trust_bundle.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{facts::Owner, fixture::*},
        *,
    };

    const SOURCE: usize = 1;

    fn patch_of(finding: &Finding) -> Value {
        let Mend::Run(command) = &finding.mend else { panic!("no command: {finding:?}") };
        let (_, rest) = command.split_once("-p '").unwrap();
        serde_json::from_str(rest.split_once("' -o").map_or(rest.trim_end_matches('\''), |(patch, _)| patch)).unwrap()
    }

    #[test]
    fn a_source_that_the_api_server_took_out_is_found() {
        let one =
            only_of_pod("source-lost", |object| object["spec"]["volumes"][1]["projected"]["sources"][0] = json!({}));
        let Mend::Run(command) = &one.mend else { panic!("{one:?}") };
        assert!(command.contains("view-last-applied pod/web"), "{command}");
        // Sources of other kinds are nobody's business.
        let other = json!({"configMap": {"name": "x"}});
        assert_eq!(found_of_pod(|object| object["spec"]["volumes"][1]["projected"]["sources"][1] = other), []);
    }

    #[test]
    fn a_trust_bundle_by_name_is_found_where_it_has_a_signer() {
        let by_name = |name: &'static str| {
            move |object: &mut Value| {
                object["spec"]["volumes"][1]["projected"]["sources"][SOURCE] =
                    json!({"clusterTrustBundle": {"name": name, "path": "roots.pem", "optional": false}});
            }
        };
        let one = only_of_pod("trust-by-name", by_name("mint.example.org:workload:root"));
        assert_eq!(
            patch_of(&one),
            json!([{
                "op": "replace", "path": "/spec/volumes/1/projected/sources/1/clusterTrustBundle",
                "value": {"signerName": "mint.example.org/workload", "labelSelector": {}, "path": "roots.pem", "optional": false},
            }])
        );
        assert_eq!(found_of_pod(by_name("company-roots")), [], "this one has no signer to go by");
    }

    #[test]
    fn no_selector_selects_nothing() {
        let one = only_of_pod("trust-selects-nothing", |object| {
            let trust = &mut object["spec"]["volumes"][1]["projected"]["sources"][SOURCE]["clusterTrustBundle"];
            trust.as_object_mut().unwrap().remove("labelSelector");
        });
        assert_eq!(one.severity, Severity::Breaks);
        assert_eq!(patch_of(&one)[0]["value"], json!({}));
    }

    #[test]
    fn mounts_by_sub_path_become_one_folder() {
        let mounts = |mounts: Value| move |object: &mut Value| object["spec"]["containers"][0]["volumeMounts"] = mounts;
        let one = only_of_pod(
            "sub-path",
            mounts(json!([
                {"name": "identity", "mountPath": "/tls/key.pem", "subPath": "key.pem"},
                {"name": "scratch", "mountPath": "/scratch", "subPath": "a"},
                {"name": "identity", "mountPath": "/tls/chain.pem", "subPath": "chain.pem"},
            ])),
        );
        assert_eq!(
            patch_of(&one),
            json!([
                {"op": "remove", "path": "/spec/containers/0/volumeMounts/2"},
                {"op": "remove", "path": "/spec/containers/0/volumeMounts/0/subPath"},
                {"op": "replace", "path": "/spec/containers/0/volumeMounts/0/mountPath", "value": "/tls"},
            ])
        );
        let top = only_of_pod(
            "sub-path",
            mounts(json!([{"name": "identity", "mountPath": "/key.pem", "subPath": "key.pem"}])),
        );
        assert!(matches!(top.mend, Mend::Do(_)), "the root folder cannot be a mount: {top:?}");
        let taken = only_of_pod(
            "sub-path",
            mounts(json!([
                {"name": "scratch", "mountPath": "/tls"},
                {"name": "identity", "mountPath": "/tls/key.pem", "subPath": "key.pem"},
            ])),
        );
        assert!(matches!(taken.mend, Mend::Do(_)), "another mount would be hidden: {taken:?}");
        assert_eq!(found_of_pod(mounts(json!([{"name": "scratch", "mountPath": "/a", "subPath": "a"}]))), []);
    }

    #[test]
    fn a_key_for_everybody_is_found_and_given_to_a_group() {
        let security = |context: Value| move |object: &mut Value| object["spec"]["securityContext"] = context;
        let one = only_of_pod("key-readable-by-all", security(json!({})));
        assert!(one.what.contains("mode 0644"), "{}", one.what);
        assert_eq!(patch_of(&one), json!([{"op": "add", "path": "/spec/securityContext/fsGroup", "value": 65532}]));
        let one = only_of_pod("key-readable-by-all", security(json!({"runAsNonRoot": true, "runAsGroup": 7})));
        assert_eq!(patch_of(&one)[0]["value"], json!(7));
        assert_eq!(
            found_of_pod(security(json!({"runAsUser": 1000}))),
            [],
            "the file belongs to this user, and is his alone"
        );
        assert_eq!(found_of_pod(security(json!({"fsGroup": 1000}))), []);
    }

    /// The kubelet gives the file to a user only when it is the user of every container.
    #[test]
    fn a_sidecar_of_another_user_opens_the_key_to_all() {
        let sidecar = |user: Value| {
            move |object: &mut Value| {
                object["spec"]["securityContext"] = json!({"runAsUser": 1000});
                let sidecar = json!({"name": "sidecar", "securityContext": user});
                object["spec"]["containers"].as_array_mut().unwrap().push(sidecar);
            }
        };
        only_of_pod("key-readable-by-all", sidecar(json!({"runAsUser": 2000})));
        assert_eq!(found_of_pod(sidecar(json!({"runAsUser": 1000}))), []);
        assert_eq!(found_of_pod(sidecar(json!({}))), []);
    }

    #[test]
    fn a_key_that_its_reader_cannot_read_is_found() {
        let narrow = |context: Value| {
            move |object: &mut Value| {
                object["spec"]["securityContext"] = context;
                object["spec"]["volumes"][1]["projected"]["defaultMode"] = json!(0o400);
            }
        };
        let one = only_of_pod("key-unreadable", narrow(json!({"runAsNonRoot": true})));
        assert!(one.severity == Severity::Breaks && one.what.contains("mode 0400"), "{one:?}");
        assert_eq!(found_of_pod(narrow(json!({}))), [], "root reads it");
    }

    #[test]
    fn pods_of_one_template_are_one_finding() {
        let findings = found(|facts| {
            let replica = |name: &'static str| {
                let mut pod = pod(|object| object["spec"]["securityContext"] = json!({}));
                pod.metadata.name = name.to_owned();
                pod.metadata.owner_references =
                    vec![Owner { kind: "StatefulSet".to_owned(), name: "db".to_owned(), controller: Some(true) }];
                pod
            };
            facts.pods = Ok(vec![replica("db-0"), replica("db-1")]);
        });
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(findings[0].place, "statefulset shop/db (2 pods)");
    }
}
