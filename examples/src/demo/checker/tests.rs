//! Each test plants one lie and sees the checker find it.

use std::time::Duration;

use rcgen::{BasicConstraints, IsCa, KeyPair, SanType, SerialNumber};
use serde_json::json;

use super::BundleFacts;
use super::staged::{CLIENT, NOT_BEFORE, SERVER, STRANGER, Staged, honest};

/// The one disagreement that is found holds this text.
#[track_caller]
fn finds(staged: &Staged, expected: &str) {
    let found = staged.report().disagreements;
    assert!(found.iter().any(|one| one.contains(expected)), "no {expected:?} in {found:#?}");
}

#[test]
fn an_honest_run_agrees() {
    let report = honest().report();
    assert_eq!(report.disagreements, Vec::<String>::new());
    let figures = report.figures;
    assert_eq!((figures.requests, figures.issued, figures.denied, figures.held, figures.renewals), (5, 3, 1, 1, 1));
    assert_eq!((figures.handshakes, figures.failed_handshakes), (3, 0));
    assert_eq!((figures.p50_ms, figures.p99_ms), (Some(2.0), Some(9.0)));
}

#[test]
fn a_name_of_somebody_else_is_found() {
    let mut staged = honest();
    staged.issue_altered("req-6", SERVER, |params| {
        let other = "spiffe://test.example/ns/shop/sa/web-account".to_owned();
        params.subject_alt_names = vec![SanType::URI(other.try_into().unwrap())];
    });
    finds(&staged, "req-6 names [\"spiffe://test.example/ns/shop/sa/web-account\"]");
}

#[test]
fn a_second_name_is_found() {
    let mut staged = honest();
    staged.issue_altered("req-6", SERVER, |params| {
        params.subject_alt_names.push(SanType::DnsName("api.pay.svc".to_owned().try_into().unwrap()));
    });
    finds(&staged, "not a URI");
}

#[test]
fn a_key_that_was_not_asked_for_is_found() {
    let mut staged = honest();
    let other = staged.request("req-2")["status"].clone();
    staged.request("req-1")["status"] = other;
    finds(&staged, "req-1 holds another key than the request");
}

#[test]
fn an_authority_given_away_is_found() {
    let mut staged = honest();
    staged.issue_altered("req-6", SERVER, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    finds(&staged, "req-6 is an authority's");
}

#[test]
fn a_serial_number_used_twice_is_found() {
    let mut staged = honest();
    staged.issue_altered("req-6", CLIENT, |params| {
        params.serial_number = Some(SerialNumber::from_slice(b"serial of req-1"))
    });
    finds(&staged, "req-6 and req-1 were given the same serial number");
}

#[test]
fn a_root_published_too_late_is_found() {
    let mut staged = honest();
    staged.evidence.bundles[0].revision = 15;
    finds(&staged, "req-1 leads to no root that was published before");
}

#[test]
fn a_chain_of_another_authority_is_found() {
    let mut staged = honest();
    let foreign = honest();
    staged.evidence.bundles =
        foreign.evidence.bundles.iter().map(|one| BundleFacts { revision: 7, pem: one.pem.clone() }).collect();
    finds(&staged, "req-2 leads to no root that was published before");
}

#[test]
fn a_link_of_another_authority_is_found() {
    let (mut staged, mut foreign) = (honest(), honest());
    let chain =
        |staged: &mut Staged| staged.request("req-1")["status"]["certificateChain"].as_str().unwrap().to_owned();
    let end = "-----END CERTIFICATE-----\n";
    let (leaf, link) = (chain(&mut staged), chain(&mut foreign));
    let mixed = format!("{}{end}{}", leaf.split(end).next().unwrap(), link.split_once(end).unwrap().1);
    staged.request("req-1")["status"]["certificateChain"] = mixed.into();
    finds(&staged, "req-1 has a signature that does not verify");
}

#[test]
fn a_life_longer_than_asked_for_is_found() {
    let mut staged = honest();
    staged.issue_altered("req-6", SERVER, |params| params.not_after = NOT_BEFORE + Duration::from_secs(86_401));
    finds(&staged, "req-6 lives longer than was asked for");
}

#[test]
fn dates_that_differ_from_the_certificate_are_found() {
    let mut staged = honest();
    staged.request("req-1")["status"]["notAfter"] = "2026-11-23T20:00:00Z".into();
    finds(&staged, "req-1 has other dates than the status");
}

#[test]
fn a_renewal_after_the_end_is_found() {
    let mut staged = honest();
    staged.request("req-1")["status"]["beginRefreshAt"] = "2027-01-01T00:00:00Z".into();
    finds(&staged, "req-1 is to be renewed outside of its life");
}

#[test]
fn a_certificate_for_a_pod_that_never_was_is_found() {
    let mut staged = honest();
    staged.evidence.pods.remove(SERVER);
    finds(&staged, "is for a pod that never was");
}

#[test]
fn a_certificate_through_another_node_is_found() {
    let mut staged = honest();
    staged.evidence.pods.get_mut(SERVER).unwrap().node = "elsewhere".to_owned();
    finds(&staged, "req-1 was asked for by node-of-api, but the pod runs on elsewhere");
}

#[test]
fn a_certificate_for_another_account_is_found() {
    let mut staged = honest();
    staged.evidence.pods.get_mut(SERVER).unwrap().account = "root".to_owned();
    finds(&staged, "req-1 was asked for api-account, but the pod runs as root");
}

#[test]
fn a_certificate_of_another_signer_is_found() {
    let mut staged = honest();
    staged.request("req-1")["spec"]["signerName"] = "other.example/signer".into();
    finds(&staged, "req-1 is of the signer other.example/signer, which is not ours");
}

#[test]
fn a_uid_of_another_pod_is_found() {
    let mut staged = honest();
    staged.request("req-1")["spec"]["podUID"] = CLIENT.into();
    finds(&staged, "req-1 is for pay/api, but that UID is shop/web");
}

#[test]
fn an_answer_that_changed_is_found() {
    let mut staged = honest();
    staged.deny("req-2");
    finds(&staged, "req-2 was changed after it had been answered");
}

#[test]
fn two_answers_are_found() {
    let mut staged = honest();
    let conditions = json!([{"type": "Issued", "status": "True"}, {"type": "Denied", "status": "True"}]);
    staged.request("req-5")["status"] = json!({ "conditions": conditions });
    finds(&staged, "req-5 has more than one condition");
}

#[test]
fn the_condition_failed_is_found() {
    let mut staged = honest();
    staged.request("req-5")["status"] = json!({"conditions": [{"type": "Failed", "status": "True"}]});
    finds(&staged, "req-5 has the condition Failed, which the signer never writes");
}

#[test]
fn a_request_left_alone_is_found() {
    let mut staged = honest();
    staged.ask("req-6", CLIENT, &KeyPair::generate().unwrap());
    finds(&staged, "req-6 of shop/web was never answered");
}

#[test]
fn a_stranger_who_was_admitted_is_found() {
    let mut staged = honest();
    staged.issue("req-6", STRANGER);
    finds(&staged, "req-6 of lab/new was answered, though no rule admits it");
}

#[test]
fn a_stranger_who_never_asked_is_found() {
    let mut staged = honest();
    staged.evidence.expected.held_pods.insert("uid-of-nobody".to_owned());
    finds(&staged, "uid-of-nobody, which no rule admits, never asked");
}

#[test]
fn an_impostor_who_was_not_refused_is_found() {
    let mut staged = honest();
    staged.evidence.attempts[0].refused = false;
    finds(&staged, "the impostor was not refused");
}

#[test]
fn a_certificate_for_the_impostor_is_found_whatever_he_was_told() {
    let mut staged = honest();
    let key = KeyPair::generate().unwrap();
    staged.evidence.attempts[0].key = rcgen::PublicKeyData::subject_public_key_info(&key);
    let stub = staged.request("req-1").clone();
    let leaf = super::certificate::leaf(
        &super::certificate::certificates(stub["status"]["certificateChain"].as_str().unwrap()).unwrap(),
    );
    staged.evidence.attempts[0].key = leaf.unwrap().key;
    finds(&staged, "req-1 gave the impostor a certificate");
}

#[test]
fn a_denial_of_somebody_honest_is_found() {
    let mut staged = honest();
    staged.ask("req-6", CLIENT, &KeyPair::generate().unwrap());
    staged.deny("req-6");
    finds(&staged, "the API shows 2 denied requests, the impostor was denied by the signer 1 times");
}

#[test]
fn an_impostor_who_never_came_as_far_as_the_signer_is_found() {
    let mut staged = honest();
    staged.evidence.attempts[0].denied_by_signer = false;
    finds(&staged, "no attempt of the impostor came as far as the signer");
}

#[test]
fn a_peer_that_was_issued_nothing_is_found() {
    let mut staged = honest();
    staged
        .evidence
        .pair
        .client
        .peers
        .insert("4711".to_owned(), "spiffe://test.example/ns/pay/sa/api-account".to_owned());
    finds(
        &staged,
        "the client was shown a certificate of spiffe://test.example/ns/pay/sa/api-account that was not issued here: 4711",
    );
}

#[test]
fn a_peer_taken_for_another_is_found() {
    let mut staged = honest();
    let other = "spiffe://test.example/ns/shop/sa/web-account".to_owned();
    *staged.evidence.pair.client.peers.values_mut().next().unwrap() = other;
    finds(&staged, "for spiffe://test.example/ns/shop/sa/web-account");
}

#[test]
fn a_certificate_used_that_was_not_issued_is_found() {
    let mut staged = honest();
    staged.evidence.pair.server.own.insert("4711".to_owned());
    finds(&staged, "the server used a certificate that was not issued here: 4711");
}

#[test]
fn a_failed_handshake_is_found_at_either_end() {
    let mut staged = honest();
    staged.evidence.pair.server.failed = 1;
    finds(&staged, "1 handshakes failed at the server");
    assert_eq!(staged.report().figures.failed_handshakes, 1);
    staged.evidence.pair.client.failed = 2;
    finds(&staged, "2 handshakes failed at the client");
    assert_eq!(staged.report().figures.failed_handshakes, 2);
}

#[test]
fn a_conversation_that_broke_off_is_found() {
    let mut staged = honest();
    staged.evidence.pair.client.broken = 1;
    finds(&staged, "1 conversations of the client broke off");
}

#[test]
fn handshakes_counted_but_not_measured_are_found() {
    let mut staged = honest();
    staged.evidence.pair.client.handshakes = 4;
    finds(&staged, "the client counted 4 handshakes and measured 3");
    finds(&staged, "the client counted 4 handshakes, the server 3");
}

#[test]
fn handshakes_with_nobody_are_found() {
    let mut staged = honest();
    staged.evidence.pair.server.peers.clear();
    finds(&staged, "the server does not know with whom it spoke");
}

#[test]
fn silence_is_found() {
    let mut staged = honest();
    staged.evidence.pair = super::PairFacts::default();
    finds(&staged, "the two services never spoke");
}

#[test]
fn a_run_without_renewals_is_found() {
    let mut staged = honest();
    let kept = |facts: &super::RequestFacts| facts.versions[0]["metadata"]["name"] != "req-3";
    staged.evidence.requests.retain(kept);
    finds(&staged, "no certificate was renewed");
}

#[test]
fn a_certificate_published_without_a_line_before_is_found() {
    let mut staged = honest();
    staged.line("issuing", "req-1")["serial"] = "4711".into();
    finds(&staged, "the audit log of req-1 has 0 lines before and 1 after publishing");
}

#[test]
fn a_certificate_recorded_twice_is_found() {
    let mut staged = honest();
    let again = staged.line("issuing", "req-1").clone();
    staged.evidence.trail.push(again);
    finds(&staged, "the audit log of req-1 has 2 lines before and 1 after publishing");
}

#[test]
fn a_certificate_without_an_outcome_is_found() {
    let mut staged = honest();
    staged.evidence.trail.retain(|line| line["event"] != "outcome" || line["request"]["uid"] != "uid-of-req-2");
    finds(&staged, "the audit log of req-2 has 1 lines before and 0 after publishing");
}

#[test]
fn a_line_written_too_late_is_found() {
    let mut staged = honest();
    staged.evidence.trail.reverse();
    finds(&staged, "the audit log of req-1 has the outcome before the line that must come first");
    finds(&staged, "the audit log of req-4 has the outcome before the line that must come first");
}

#[test]
fn each_fact_that_was_recorded_wrongly_is_found() {
    for path in [
        "/request/name",
        "/request/namespace",
        "/pod/uid",
        "/pod/name",
        "/serviceAccount/name",
        "/node/name",
        "/sans/0/uri",
        "/fingerprint",
        "/keyHash",
    ] {
        let mut staged = honest();
        *staged.line("issuing", "req-1").pointer_mut(path).unwrap() = "a lie".into();
        finds(&staged, &format!("has \"a lie\" at {path}"));
    }
}

#[test]
fn an_outcome_that_is_not_true_is_found() {
    let mut staged = honest();
    staged.line("outcome", "req-1")["outcome"] = "withdrawn".into();
    finds(&staged, "is there");
    let mut staged = honest();
    staged.line("outcome", "req-4")["outcome"] = "lost".into();
    finds(&staged, "calls the denial \"lost\", but it is there");
}

#[test]
fn a_publication_that_is_not_there_is_found() {
    let mut staged = honest();
    let mut line = staged.line("outcome", "req-1").clone();
    line["request"]["uid"] = "uid-of-req-5".into();
    staged.evidence.trail.push(line);
    finds(&staged, "the audit log of req-5 says that issue");
}

#[test]
fn a_denial_without_a_line_before_is_found() {
    let mut staged = honest();
    staged.evidence.trail.retain(|line| line["event"] != "denying");
    finds(&staged, "the audit log of req-4 has 0 lines before and 1 after the denial");
}

#[test]
fn a_line_about_no_request_is_found() {
    let mut staged = honest();
    staged.line("issuing", "req-1")["request"]["uid"] = "uid-of-nothing".into();
    finds(&staged, "the audit log speaks of a request that never was: \"uid-of-nothing\"");
}
