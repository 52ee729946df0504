//! What holds for the whole cluster: served versions, admission, the signer, clocks, kube-proxy.

use super::{
    facts::{Facts, Release, Verdict, Versions, seconds},
    report::{Finding, Mend, Severity},
};
use crate::{
    cluster::guard::{GuardState, REQUESTS},
    pipeline::holds::CONFIG_MAP,
};

pub(super) fn findings(facts: &Facts) -> impl Iterator<Item = Finding> {
    [
        served(facts),
        old_kubelets(facts),
        restriction(facts),
        guard(facts),
        signer(facts),
        clock_here(facts),
        proxy(facts),
        malformed_holds(facts),
        on_hold(facts),
    ]
    .into_iter()
    .flatten()
}

/// Somebody meant to hold certificates, and holds none.
fn malformed_holds(facts: &Facts) -> Option<Finding> {
    let malformed = facts.holds.as_ref().ok()?.malformed();
    let entries: Vec<String> = malformed.iter().map(|entry| format!("{} ({})", entry.key, entry.problem)).collect();
    (!entries.is_empty()).then(|| Finding {
        id: "hold-malformed",
        severity: Severity::Breaks,
        place: format!("ConfigMap {CONFIG_MAP} of namespace {}", facts.namespace),
        what: format!("entries hold nobody, for they cannot be understood: {}", some_of(&entries)),
        mend: Mend::Do(
            "hold what was meant (`kubectl podmint hold KIND/NAME`), and remove the entries (`kubectl podmint release --entry KEY`)"
                .to_owned(),
        ),
    })
}

/// Pods that wait because somebody wants them to.
fn on_hold(facts: &Facts) -> Option<Finding> {
    let held: Vec<String> = facts.holds.as_ref().ok()?.all().iter().map(ToString::to_string).collect();
    (!held.is_empty()).then(|| Finding {
        id: "on-hold",
        severity: Severity::Note,
        place: format!("ConfigMap {CONFIG_MAP} of namespace {}", facts.namespace),
        what: format!("nothing is issued or renewed for pods of these: {}", some_of(&held)),
        mend: Mend::Do(
            "`kubectl podmint hold` says what is still valid, `kubectl podmint release KIND/NAME` ends it".to_owned(),
        ),
    })
}

/// Where the API is not served, the API server takes the sources out of every pod that it stores, and tells nobody.
fn served(facts: &Facts) -> Option<Finding> {
    let served = facts.served.as_ref().ok()?;
    let missing: Vec<&str> = [(served.requests, "podcertificaterequests"), (served.bundles, "clustertrustbundles")]
        .into_iter()
        .filter(|(versions, _)| !versions.any())
        .map(|(_, kind)| kind)
        .collect();
    if missing.is_empty() {
        return None;
    }
    let release = facts.server.as_ref().ok();
    let mend = match release {
        Some(release) if release.is_before(35) => Mend::Do(format!(
            "upgrade the cluster: {} has no version of the API that Podmint speaks; 1.37 has it switched on",
            release.text
        )),
        Some(release) if !release.is_before(37) => api_server(&[
            "--feature-gates=PodCertificateRequest=true,ClusterTrustBundle=true,ClusterTrustBundleProjection=true",
        ]),
        _ => api_server(&[
            "--feature-gates=PodCertificateRequest=true,ClusterTrustBundle=true,ClusterTrustBundleProjection=true",
            BETA,
        ]),
    };
    Some(Finding {
        id: "not-served",
        severity: Severity::Breaks,
        place: "API server".to_owned(),
        what: format!(
            "it does not serve {} of certificates.k8s.io: the feature gates are off, and it silently drops such sources from the \
             volumes of pods. The gates must also be on for kube-controller-manager and, before 1.37, for every kubelet",
            missing.join(" and ")
        ),
        mend,
    })
}

/// The version that a kubelet asks in is compiled in.
fn old_kubelets(facts: &Facts) -> Option<Finding> {
    let (served, nodes) = (facts.served.as_ref().ok()?, facts.nodes.as_ref().ok()?);
    let lacks = |versions: Versions| versions.any() && !versions.v1beta1;
    if !lacks(served.requests) && !lacks(served.bundles) {
        return None;
    }
    let old = nodes.iter().filter(|node| node.kubelet_release.is_before(37));
    let old: Vec<String> = old.map(|node| format!("{} ({})", node.name, node.kubelet_release.text)).collect();
    (!old.is_empty()).then(|| Finding {
        id: "v1beta1-needed",
        severity: Severity::Breaks,
        place: "API server".to_owned(),
        what: format!(
            "it does not serve certificates.k8s.io/v1beta1, and kubelets before 1.37 speak nothing else: no pod gets or renews a \
             certificate on {}. Serve it until all nodes are upgraded; kubelets find trust bundles again when they are restarted",
            some_of(&old)
        ),
        mend: api_server(&[BETA]),
    })
}

fn restriction(facts: &Facts) -> Option<Finding> {
    let Ok(Some(Verdict::Taken)) = facts.restriction_proof else { return None };
    Some(Finding {
        id: "node-restriction-off",
        severity: Severity::Breaks,
        place: "API server".to_owned(),
        what: "the admission plugin NodeRestriction is off: as a dry run, it took a request that one node made for a pod of another. \
               Whoever takes over one node can ask any signer that trusts it for the certificates of all pods"
            .to_owned(),
        mend: api_server(&["--enable-admission-plugins=NodeRestriction"]),
    })
}

/// What the objects say and what a forged request met are two witnesses; either is enough.
fn guard(facts: &Facts) -> Option<Finding> {
    let taken = matches!(facts.guard_proof, Ok(Some(Verdict::Taken)));
    let proof = if taken { ". As a dry run, a forged request was taken" } else { "" };
    let (id, severity, what) = match facts.guard.as_ref().ok() {
        Some(GuardState::Missing) => (
            "guard-missing",
            Severity::Breaks,
            format!(
                "the admission guard is not there: the signer holds every new request, because anybody who may create requests could ask for any pod{proof}"
            ),
        ),
        Some(GuardState::Unbound) => (
            "guard-unbound",
            Severity::Breaks,
            format!(
                "the admission guard is there, and no binding makes it count for every request: the signer holds every new one{proof}"
            ),
        ),
        Some(GuardState::OtherText) => (
            "guard-changed",
            if taken { Severity::Breaks } else { Severity::Risk },
            format!(
                "the admission guard is not the one that this version knows: it was changed, it is of another version, or it names another signer domain or namespace{proof}"
            ),
        ),
        Some(GuardState::InForce) | Some(GuardState::Unknown) | Some(GuardState::Off) | None if taken => (
            "guard-ineffective",
            Severity::Breaks,
            format!(
                "the API server took, as a dry run, a forged request that the admission guard ({REQUESTS}) must refuse. Just after a change it takes a moment: look again"
            ),
        ),
        Some(GuardState::InForce) | Some(GuardState::Unknown) | Some(GuardState::Off) | None => return None,
    };
    let Facts { domain, namespace, .. } = facts;
    let print = format!("kubectl podmint guard --signer-domain {domain} --namespace {namespace}");
    Some(Finding {
        id,
        severity,
        place: "API server".to_owned(),
        what,
        // The first makes what is missing; the second takes out what was added. There is no moment without a guard.
        mend: Mend::Run(format!("{print} | kubectl apply -f - && {print} | kubectl replace -f -")),
    })
}

/// A replica renews its Lease every few seconds, in the API server's time.
fn signer(facts: &Facts) -> Option<Finding> {
    let seen = facts.signer_seen.as_ref().ok()?;
    let silent = seen.map(|seen| seconds(seen, facts.now));
    let what = match silent {
        Some(seconds) if seconds <= SILENCE => return None,
        Some(seconds) => format!(
            "the signer was last heard of {seconds} s ago: its replicas do not run, or do not reach the API server"
        ),
        None => "no signer has ever run here".to_owned(),
    };
    let namespace = &facts.namespace;
    Some(Finding {
        id: "no-signer",
        severity: Severity::Breaks,
        place: format!("namespace {namespace}"),
        what: format!("{what}. Nothing is issued; certificates that were end in their time"),
        mend: match silent {
            Some(_) => Mend::Run(format!(
                "kubectl -n {namespace} rollout restart deployment -l app.kubernetes.io/name=podmint"
            )),
            None => Mend::Do("install the signer (deploy/README.md), or say with --namespace where it is".to_owned()),
        },
    })
}

fn clock_here(facts: &Facts) -> Option<Finding> {
    let ahead = facts.ahead_here;
    (ahead.saturating_abs() > SKEW).then(|| Finding {
        id: "clock-here",
        severity: Severity::Note,
        place: "this machine".to_owned(),
        what: format!(
            "its clock is {} the API server's. Podmint goes by the API server's; what runs here takes certificates for ended or not \
             yet valid",
            distance(ahead)
        ),
        mend: Mend::Run("sudo timedatectl set-ntp true".to_owned()),
    })
}

fn proxy(facts: &Facts) -> Option<Finding> {
    let mode = facts.proxy_mode.as_ref().ok()?;
    match mode.as_deref() {
        None => Some(Finding {
            id: "kube-proxy-not-found",
            severity: Severity::Note,
            place: "kube-system".to_owned(),
            what: "there is no ConfigMap or DaemonSet kube-proxy: whether Services work in IPVS mode, which Kubernetes is giving up, is \
                   not to be seen from here"
                .to_owned(),
            mend: Mend::Do("ask whoever runs the cluster, unless nothing of the kind is in use".to_owned()),
        }),
        Some("ipvs") => Some(Finding {
            id: "kube-proxy-ipvs",
            severity: Severity::Risk,
            place: "kube-system".to_owned(),
            what: "kube-proxy runs in IPVS mode, which is deprecated, off by default from 1.40 on and gone in 1.43: after such an upgrade \
                   no Service answers"
                .to_owned(),
            mend: Mend::Run(
                "kubectl -n kube-system get configmap kube-proxy -o yaml | sed 's/\\(mode: *\\\"\\{0,1\\}\\)ipvs/\\1nftables/' \
                 | kubectl replace -f - && kubectl -n kube-system rollout restart daemonset kube-proxy"
                    .to_owned(),
            ),
        }),
        Some(_) => None,
    }
}

/// How far a clock is off, in words.
pub(super) fn distance(ahead: i64) -> String {
    format!("{} s {}", ahead.saturating_abs(), if ahead > 0 { "ahead of" } else { "behind" })
}

/// The first few of many.
pub(super) fn some_of(all: &[String]) -> String {
    let shown: Vec<&str> = all.iter().take(SHOWN).map(String::as_str).collect();
    match all.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn api_server(flags: &[&str]) -> Mend {
    Mend::Flags { component: "kube-apiserver", flags: flags.iter().map(|flag| (*flag).to_owned()).collect() }
}

/// Whether a component of this release has the gates on when nobody says otherwise.
pub(super) fn has_gates_on(release: &Release) -> bool {
    !release.is_before(37)
}

const BETA: &str = "--runtime-config=certificates.k8s.io/v1beta1=true";
/// Seconds: twenty times as long as a replica waits between two signs of life, and more than a restart takes.
const SILENCE: i64 = 80;
/// Seconds. Certificates are valid from 60 s before they are made, so a clock that is less behind than this takes them.
pub(super) const SKEW: i64 = 30;
const SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use super::{
        super::{
            facts::{Node, Served},
            fixture::*,
        },
        *,
    };
    use crate::{kubectl::shown::Shown as _, pipeline::Holds};

    fn mend_of(finding: &Finding) -> String {
        match &finding.mend {
            Mend::Run(text) | Mend::Do(text) => text.clone(),
            Mend::Flags { component, flags } => format!("{component} {}", flags.join(" ")),
        }
    }

    #[test]
    fn a_healthy_cluster_is_healthy() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn an_api_that_is_not_served_is_found_with_the_flags_of_the_version() {
        let one = only("not-served", |facts| facts.served = Ok(Served::default()));
        assert!(one.what.contains("podcertificaterequests and clustertrustbundles"), "{}", one.what);
        assert!(!mend_of(&one).contains("--runtime-config"), "1.37 serves v1 once the gate is on: {}", mend_of(&one));
        let one = only("not-served", |facts| {
            facts.server = Ok(Release::parse("v1.36.3"));
            facts.served = Ok(Served::default());
        });
        assert!(mend_of(&one).contains(BETA));
        let one = only("not-served", |facts| {
            facts.server = Ok(Release::parse("v1.34.1"));
            facts.served = Ok(Served::default());
        });
        assert!(mend_of(&one).contains("upgrade"));
        let one = only("not-served", |facts| {
            facts.served = Ok(Served { bundles: Versions::default(), ..facts.served.clone().unwrap() });
        });
        assert!(!one.what.contains("podcertificaterequests"), "{}", one.what);
    }

    #[test]
    fn what_is_on_hold_is_noted_and_a_hold_that_holds_nobody_is_broken() {
        let holding = |text: &str| Ok(Holds::read(&[("a".to_owned(), text.to_owned())].into()));
        let one = only("on-hold", |facts| facts.holds = holding("{kind: node, name: node-a}"));
        assert!(one.severity == Severity::Note && one.what.contains("node node-a is on hold"), "{}", one.what);
        let one = only("hold-malformed", |facts| facts.holds = holding("{kind: nod, name: node-a}"));
        assert!(one.severity == Severity::Breaks && one.what.contains("a (\"nod\" cannot be held"), "{}", one.what);
    }

    #[test]
    fn old_kubelets_need_v1beta1() {
        let old = |facts: &mut Facts| {
            let node = Node { kubelet_release: Release::parse("v1.36.3+k3s1"), ..node("node-b") };
            facts.nodes.as_mut().unwrap().push(node);
        };
        let one = only("v1beta1-needed", old);
        assert!(one.what.contains("node-b (v1.36.3+k3s1)"), "{}", one.what);
        assert_eq!(mend_of(&one), format!("kube-apiserver {BETA}"));
        let served = found(|facts| {
            old(facts);
            let both = Versions { v1: true, v1beta1: true };
            facts.served = Ok(Served { requests: both, bundles: both });
        });
        assert_eq!(served, []);
    }

    #[test]
    fn a_forged_request_that_is_taken_is_a_finding() {
        let one = only("node-restriction-off", |facts| facts.restriction_proof = Ok(Some(Verdict::Taken)));
        assert_eq!(mend_of(&one), "kube-apiserver --enable-admission-plugins=NodeRestriction");
        let one = only("guard-ineffective", |facts| facts.guard_proof = Ok(Some(Verdict::Taken)));
        assert_eq!(one.severity, Severity::Breaks);
    }

    #[test]
    fn the_guard_is_judged_as_the_signer_judges_it() {
        for (state, id, severity) in [
            (GuardState::Missing, "guard-missing", Severity::Breaks),
            (GuardState::Unbound, "guard-unbound", Severity::Breaks),
            (GuardState::OtherText, "guard-changed", Severity::Risk),
        ] {
            let one = only(id, |facts| facts.guard = Ok(state));
            assert_eq!(one.severity, severity);
            assert!(mend_of(&one).contains("kubectl podmint guard --signer-domain mint.example.org --namespace mint"));
        }
        let weak = only("guard-changed", |facts| {
            facts.guard = Ok(GuardState::OtherText);
            facts.guard_proof = Ok(Some(Verdict::Taken));
        });
        assert_eq!(weak.severity, Severity::Breaks);
    }

    #[test]
    fn a_signer_that_is_silent_or_absent_is_found() {
        let silent = only("no-signer", |facts| facts.signer_seen = Ok(Some(at(-SILENCE - 1))));
        assert!(mend_of(&silent).contains("rollout restart"));
        let absent = only("no-signer", |facts| facts.signer_seen = Ok(None));
        assert!(mend_of(&absent).contains("install"));
        assert_eq!(found(|facts| facts.signer_seen = Ok(Some(at(-SILENCE)))), []);
    }

    #[test]
    fn this_machines_clock_is_worth_a_note() {
        let one = only("clock-here", |facts| facts.ahead_here = -SKEW - 1);
        assert!(one.what.contains("31 s behind") && one.severity == Severity::Note, "{}", one.what);
        assert_eq!(found(|facts| facts.ahead_here = SKEW), []);
    }

    #[test]
    fn ipvs_is_a_risk_and_an_unknown_mode_a_note() {
        let one = only("kube-proxy-ipvs", |facts| facts.proxy_mode = Ok(Some("ipvs".to_owned())));
        assert_eq!(one.severity, Severity::Risk);
        let one = only("kube-proxy-not-found", |facts| facts.proxy_mode = Ok(None));
        assert_eq!(one.severity, Severity::Note);
    }

    #[test]
    fn what_was_not_seen_is_no_finding_and_is_told() {
        let report = diagnosed(|facts| {
            facts.guard = Err(unseen("the admission guard"));
            facts.guard_proof = Err(unseen("a forged request"));
        });
        assert_eq!(report.findings, []);
        assert_eq!(report.unseen.len(), 2);
        assert_eq!(report.exit_status(), 2);
    }

    #[test]
    fn of_many_the_first_are_named() {
        let all: Vec<String> = (0..10).map(|index| index.to_string()).collect();
        assert_eq!(some_of(&all), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}
