//! Each test plants one violation and sees the checker go red. What a single certificate may say is planted in the demo's tests.

use podmint_devcluster::node::State;
use podmint_examples::demo::checker::staged::{CLIENT, SERVER, STRANGER, Staged, honest};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::hostile::Sent;
use super::nodes::Volume;
use super::replicas::{Entry, Remains};
use super::{Facts, check};
use crate::kept::KILLED;

/// The demo's honest run as a run with two replicas: one denial that is right, one request that no rule admits.
struct Run {
    staged: Staged,
    facts: Facts,
}

fn run() -> Run {
    let staged = honest();
    let pod = |uid: &str| {
        let facts = &staged.evidence.pods[uid];
        let source = json!({"podCertificate": {"signerName": "podmint.dev/test"}});
        json!({
            "metadata": {"name": facts.name, "namespace": facts.namespace, "uid": uid},
            "spec": {
                "nodeName": facts.node, "serviceAccountName": facts.account,
                "volumes": [{"name": "other"}, {"name": "v", "projected": {"sources": [{"secret": {}}, source]}}],
            },
            "status": {"phase": "Running"},
        })
    };
    let facts = Facts {
        pods: [SERVER, CLIENT, STRANGER].map(|uid| (uid.to_owned(), pod(uid))).into(),
        admitted: ["pay".to_owned(), "shop".to_owned()].into(),
        memory: 1_000,
        ..Facts::default()
    };
    let mut run = Run { staged, facts };
    // The forgery: the node it names is not the pod's.
    for version in &mut run.staged.evidence.requests[3].versions {
        version["spec"]["nodeName"] = "node-of-web".into();
    }
    run
}

impl Run {
    fn wrong(mut self) -> Vec<String> {
        let evidence = self.staged.evidence.clone();
        if self.facts.alive.is_empty() {
            let uid = |uid: &Value| uid.as_str().unwrap().to_owned();
            self.facts.alive =
                evidence.requests.iter().map(|facts| uid(&facts.versions[0]["metadata"]["uid"])).collect();
        }
        if self.facts.replicas.is_empty() {
            let (one, two) = evidence.trail.split_at(4.min(evidence.trail.len()));
            self.facts.replicas =
                [("replica-0", one), ("replica-1", two)].map(|(name, lines)| replica(name, lines)).into();
        }
        *self.facts.writes.entry("200".to_owned()).or_default() += 4;
        self.facts.seen = evidence;
        check(&self.facts).wrong
    }

    #[track_caller]
    fn finds(self, expected: &str) {
        let wrong = self.wrong();
        assert!(wrong.iter().any(|one| one.contains(expected)), "no {expected:?} in {wrong:#?}");
    }

    fn bundle_of(&self, number: usize) -> String {
        let object = self.staged.evidence.requests[number].versions.last().unwrap();
        let chain = object["status"]["certificateChain"].as_str().unwrap();
        format!("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n{chain}")
    }

    fn volume(&self, pod: &str, number: usize) -> Volume {
        Volume { pod_uid: pod.to_owned(), state: State::Fresh, bundle: self.bundle_of(number) }
    }
}

/// A replica that wrote these lines in one life, which ended well.
fn replica(name: &str, lines: &[Value]) -> Remains {
    let lines = lines.iter().cloned().map(Entry::Line);
    Remains { name: name.to_owned(), log: lines.chain([Entry::End(0)]).collect(), peak: 900, ..Remains::default() }
}

#[test]
fn an_honest_run_is_right() {
    let mut run = run();
    run.facts.volumes = vec![run.volume(SERVER, 2), run.volume(CLIENT, 1)];
    assert_eq!(run.wrong(), Vec::<String>::new());
}

#[test]
fn a_request_left_alone_is_found_and_one_that_is_gone_is_not() {
    let mut left = run();
    left.staged.ask("req-6", CLIENT, &KeyPair::generate().unwrap());
    left.finds("req-6 of shop/web was never answered");
    let mut gone = run();
    gone.staged.ask("req-6", CLIENT, &KeyPair::generate().unwrap());
    gone.facts.alive = ["another".to_owned()].into();
    assert_eq!(gone.wrong(), Vec::<String>::new());
}

#[test]
fn a_stranger_who_was_admitted_is_found() {
    let mut run = run();
    run.staged.issue("req-6", STRANGER);
    run.finds("req-6 of lab/new was issued, though no rule admits its namespace");
}

#[test]
fn a_ghost_who_was_served_is_found() {
    let mut run = run();
    run.facts.pods.remove(CLIENT);
    run.finds("req-2 of shop/web was issued, though there never was such a pod");
}

#[test]
fn one_who_was_served_as_another_pod_is_found() {
    for (field, value, expected) in
        [("name", "another", "that UID is another pod's"), ("namespace", "lab", "that pod is elsewhere")]
    {
        let mut run = run();
        run.facts.pods.get_mut(CLIENT).unwrap()["metadata"][field] = value.into();
        run.finds(&format!("req-2 of shop/web was issued, though {expected}"));
    }
}

#[test]
fn an_annotation_that_nobody_knows_and_that_was_granted_is_found() {
    let (mut run, annotations) = (run(), json!({"podmint.dev/x": "y"}));
    let source = "/spec/volumes/1/projected/sources/1/podCertificate";
    let pod = run.facts.pods.get_mut(CLIENT).unwrap();
    pod.pointer_mut(source).unwrap()["userAnnotations"] = annotations.clone();
    for version in &mut run.staged.evidence.requests[1].versions {
        version["spec"]["unverifiedUserAnnotations"] = annotations.clone();
    }
    run.finds("req-2 of shop/web was issued, though it says \"podmint.dev/x\", which nobody knows");
}

#[test]
fn a_denial_without_a_contradiction_is_found() {
    let mut run = run();
    run.staged.ask("req-6", CLIENT, &KeyPair::generate().unwrap());
    run.staged.deny("req-6");
    run.finds("req-6 of shop/web was denied, and nothing contradicts it");
}

#[test]
fn a_denial_for_what_may_pass_is_found() {
    let mut run = run();
    run.staged.deny("req-5");
    run.finds("req-5 of lab/new was denied, and nothing contradicts it");
}

#[test]
fn a_certificate_against_each_contradiction_is_found() {
    let changes: [(&str, Value, &str); 6] = [
        ("/spec/nodeName", json!("node-z"), "the pod is on node-z"),
        ("/spec/serviceAccountName", json!("root"), "the pod runs as root"),
        (
            "/metadata",
            json!({"name": "web", "namespace": "shop", "annotations": {"kubernetes.io/config.mirror": "x"}}),
            "it is a mirror pod",
        ),
        ("/status/phase", json!("Succeeded"), "the pod has ended"),
        ("/spec/volumes", json!([]), "no volume of the pod asks for this"),
        (
            "/spec/volumes/1/projected/sources/1/podCertificate/userAnnotations",
            json!({"podmint.dev/x": "y"}),
            "no volume of the pod asks for this",
        ),
    ];
    for (path, value, expected) in changes {
        let mut run = run();
        let pod = run.facts.pods.get_mut(CLIENT).unwrap();
        let (parent, last) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[last] = value;
        run.finds(&format!("req-2 of shop/web was issued, though {expected}"));
    }
}

#[test]
fn a_certificate_without_proof_of_its_key_is_found() {
    let mut run = run();
    let other = run.staged.evidence.requests[0].versions[0]["spec"]["stubPKCS10Request"].clone();
    let engine = &base64::engine::general_purpose::STANDARD;
    let mut der = base64::Engine::decode(engine, other.as_str().unwrap()).unwrap();
    *der.last_mut().unwrap() ^= 1;
    for version in &mut run.staged.evidence.requests[0].versions {
        version["spec"]["stubPKCS10Request"] = base64::Engine::encode(engine, &der).into();
    }
    run.finds("req-1 of pay/api was issued, though its proof of possession does not hold");
}

#[test]
fn one_key_for_two_pods_is_found_and_held_is_right() {
    let mut held = run();
    held.staged.ask("req-6", CLIENT, &KeyPair::generate().unwrap());
    held.staged.request("req-6")["spec"]["stubPKCS10Request"] =
        held.staged.request("req-1")["spec"]["stubPKCS10Request"].clone();
    assert_eq!(held.wrong(), Vec::<String>::new());
    let mut both = run();
    let status = both.staged.request("req-1")["status"].clone();
    both.staged.ask("req-6", CLIENT, &KeyPair::generate().unwrap());
    both.staged.answer("req-6", status);
    both.finds("req-1 and req-6 certify one key for two pods");
}

/// The copy is held, whether its owner has a certificate or was only quicker. Its owner is not, and nobody is when both are left alone.
#[test]
fn the_owner_of_a_copied_key_who_is_left_alone_is_found() {
    let key = KeyPair::generate().unwrap();
    let mut both = run();
    both.staged.ask("req-6", SERVER, &key);
    both.staged.ask("req-7", CLIENT, &key);
    let wrong = both.wrong();
    assert_eq!(wrong, ["req-6 of pay/api was never answered"]);
    let mut again = run();
    for (name, pod) in [("req-6", CLIENT), ("req-7", SERVER)] {
        again.staged.ask(name, pod, &key);
        again.staged.request(name)["spec"]["stubPKCS10Request"] =
            again.staged.request("req-1")["spec"]["stubPKCS10Request"].clone();
    }
    assert_eq!(again.wrong(), ["req-7 of pay/api was never answered"]);
    let mut gone = run();
    gone.staged.ask("req-6", SERVER, &key);
    gone.staged.ask("req-7", CLIENT, &key);
    gone.facts.alive = ["uid-of-req-7".to_owned()].into();
    gone.finds("req-7 of shop/web was never answered");
}

#[test]
fn a_lie_that_was_not_denied_is_found() {
    let mut run = run();
    run.staged.ask("req-6", CLIENT, &KeyPair::generate().unwrap());
    run.staged.request("req-6")["spec"]["nodeName"] = "node-z".into();
    run.finds("req-6 of shop/web was never denied, though the pod is on node-of-web");
}

#[test]
fn the_condition_failed_and_a_second_answer_are_found() {
    let mut failed = run();
    failed.staged.request("req-5")["status"] = json!({"conditions": [{"type": "Failed", "status": "True"}]});
    failed.finds("req-5 has the condition Failed, which the signer never writes");
    let mut changed = run();
    let status = changed.staged.request("req-1")["status"].clone();
    changed.staged.answer("req-2", status);
    changed.finds("req-2 was changed after it had been answered");
}

#[test]
fn a_serial_number_used_twice_is_found() {
    let mut run = run();
    run.staged.issue_altered("req-6", CLIENT, |params| {
        params.serial_number = Some(rcgen::SerialNumber::from_slice(b"serial of req-1"));
    });
    run.finds("were given the same serial number");
}

#[test]
fn a_root_that_was_published_too_late_is_found() {
    let mut run = run();
    run.staged.evidence.bundles[0].revision = 1_000;
    run.finds("req-1 leads to no root that was published before");
}

#[test]
fn a_certificate_without_its_line_is_found_and_one_that_owes_the_outcome_is_not() {
    let mut silent = run();
    silent.staged.line("issuing", "req-1")["serial"] = "4711".into();
    silent.finds("the audit logs have 0 lines before the certificate");
    let mut killed = run();
    killed.staged.evidence.trail.retain(|line| line["event"] != "outcome" || line["request"]["uid"] != "uid-of-req-2");
    killed.facts.replicas = vec![replica("replica-0", &killed.staged.evidence.trail)];
    let end = killed.facts.replicas[0].log.len() - 1;
    killed.facts.replicas[0].log.insert(end, Entry::End(KILLED));
    assert_eq!(killed.wrong(), Vec::<String>::new());
}

/// Beside each place where an outcome may be owed, one where it may not.
#[test]
fn an_outcome_that_is_owed_for_no_reason_is_found() {
    let befell = |events: &[(usize, Entry)], without: &str| {
        let mut run = run();
        let mut all = run.staged.evidence.trail.clone();
        all.retain(|line| line["event"] != "outcome" || line["request"]["uid"] != without);
        run.facts.replicas = vec![replica("replica-0", &all)];
        for (at, event) in events.iter().rev() {
            run.facts.replicas[0].log.insert(*at, event.clone());
        }
        run
    };
    let owed = |what: &str| format!("the audit log of replica-0 never says what became of {what}");
    // The lines: two of each request, of which one is left out.
    befell(&[], "uid-of-req-2").finds(&owed("issuing"));
    befell(&[], "uid-of-req-4").finds(&owed("denying"));
    for (events, is_right) in [
        (vec![(2, Entry::End(KILLED))], false),
        (vec![(3, Entry::End(KILLED))], true),
        (vec![(0, Entry::Deaf), (2, Entry::Hears)], false),
        (vec![(2, Entry::Deaf), (3, Entry::Hears)], true),
        (vec![(3, Entry::Deaf), (4, Entry::Hears)], true),
    ] {
        let wrong = befell(&events, "uid-of-req-2").wrong();
        assert_eq!(wrong.is_empty(), is_right, "{events:?}: {wrong:?}");
    }
    let mut many = befell(&[], "");
    let line = many.facts.replicas[0].log[0].clone();
    many.facts.replicas[0].log = vec![line; 257];
    many.facts.replicas[0].log.extend([Entry::End(KILLED), Entry::End(0)]);
    many.finds("the audit log of replica-0 owes what became of 257 answers at once");
}

#[test]
fn a_replica_that_panics_or_dies_or_grows_is_found() {
    let with = |change: fn(&mut Remains)| {
        let mut run = run();
        run.facts.replicas = vec![replica("replica-0", &run.staged.evidence.trail)];
        change(&mut run.facts.replicas[0]);
        run
    };
    assert_eq!(with(|_| ()).wrong(), Vec::<String>::new());
    with(|replica| replica.panics.push("thread 'main' panicked at here".to_owned()))
        .finds("replica-0 panicked: thread 'main' panicked at here");
    with(|replica| replica.peak = 1_001).finds("replica-0 used 1001 KiB of memory");
    with(|replica| replica.log.insert(0, Entry::End(134))).finds("replica-0 ended by itself with status 134");
    with(|replica| *replica.log.last_mut().unwrap() = Entry::End(1)).finds("replica-0 ended with status 1");
    with(|replica| drop(replica.log.pop())).finds("replica-0 never ended");
}

#[test]
fn hostile_requests_that_never_come_as_far_as_the_signer_are_found() {
    let sent = |passes, admitted| {
        let mut run = run();
        run.facts.hostile = vec![Sent { kind: "lie", passes, admitted, refused: 3 }];
        run
    };
    sent(true, 0).finds("no lie came as far as the signer: 3 were refused before");
    assert_eq!(sent(true, 1).wrong(), Vec::<String>::new());
    assert_eq!(sent(false, 0).wrong(), Vec::<String>::new());
}

#[test]
fn what_was_settled_too_late_is_found() {
    let mut run = run();
    run.facts.late = vec!["req-1 was never answered".to_owned()];
    run.finds("1 things were not settled in time, the first of them: req-1 was never answered");
}

#[test]
fn a_line_that_lies_is_found() {
    for path in ["/request/name", "/pod/uid", "/serviceAccount/name", "/node/name", "/fingerprint", "/keyHash"] {
        let mut run = run();
        *run.staged.line("issuing", "req-1").pointer_mut(path).unwrap() = "a lie".into();
        run.finds(&format!("have \"a lie\" at {path}"));
    }
}

#[test]
fn two_replicas_that_both_say_published_are_found() {
    let mut run = run();
    let again = run.staged.line("outcome", "req-1").clone();
    run.staged.evidence.trail.push(again);
    run.finds("the audit logs say that more than one answer was published for req-1");
}

#[test]
fn a_publication_of_something_else_is_found() {
    let mut other = run();
    other.staged.line("outcome", "req-1")["serial"] = "4711".into();
    other.finds("the audit logs say that another certificate was published for req-1");
    let mut denied = run();
    let mut line = denied.staged.line("outcome", "req-1").clone();
    line["request"]["uid"] = "uid-of-req-4".into();
    denied.staged.evidence.trail.retain(|line| line["event"] != "outcome" || line["request"]["uid"] != "uid-of-req-4");
    denied.staged.evidence.trail.push(line);
    denied.finds("the audit logs say that a certificate was published for req-4");
}

#[test]
fn a_publication_that_is_not_there_is_found() {
    let mut run = run();
    let mut line = run.staged.line("outcome", "req-1").clone();
    line["request"]["uid"] = "uid-of-req-5".into();
    run.staged.evidence.trail.push(line);
    run.finds("the audit logs say that an answer was published, and there is none, for req-5");
}

#[test]
fn a_denial_without_its_line_and_a_line_about_nothing_are_found() {
    let mut silent = run();
    silent.staged.evidence.trail.retain(|line| line["event"] != "denying");
    silent.finds("the audit logs have no line before the denial of req-4");
    let mut strange = run();
    strange.staged.line("issuing", "req-1")["request"]["uid"] = "nobody".into();
    strange.finds("the audit logs speak of a request that never was: \"nobody\"");
}

#[test]
fn writes_beyond_one_in_twenty_are_found() {
    let mut run = run();
    run.facts.writes = [("409".to_owned(), 1)].into();
    run.finds("5 status writes for 4 answers are 1.250 each");
}

#[test]
fn a_kubelet_that_was_refused_or_waits_or_holds_another_certificate_is_found() {
    for (state, expected) in [
        (State::Denied, "was refused for ever"),
        (State::Failed, "was refused for ever"),
        (State::WaitRefresh, "waits for a certificate"),
        (State::Initial, "waits for a certificate"),
    ] {
        let mut run = run();
        run.facts.volumes = vec![Volume { state, ..run.volume(SERVER, 2) }];
        run.finds(expected);
    }
    let mut other = run();
    other.facts.volumes = vec![other.volume(SERVER, 1)];
    other.finds("wrote a certificate that was not published for it");
    let mut empty = run();
    empty.facts.volumes = vec![Volume { bundle: String::new(), ..empty.volume(SERVER, 2) }];
    empty.finds("wrote a file that holds no certificate");
}
