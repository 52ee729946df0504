//! Nothing is lost and nothing is answered twice when either side goes away.

use crate::record;
use podmint_tests::call;
use podmint_tests::kept::Scratch;
use podmint_tests::server::Settings;
use podmint_tests::signer::MINUTE;
use podmint_tests::stage::{Request, Said};
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, Who, assets, on_every_bed};
use serde_json::Value;

on_every_bed! {
    /// Requests made while no signer runs are answered by the next one, with the same CA.
    async fn requests_made_while_the_signer_was_down_are_served(bed: Bed) {
        let stage = Stage::open(&bed, "was-down").await;
        let first = stage.a_signer().start().await.ready().await;
        let pod = stage.any_pod().await;
        let before = stage.issued(&stage.request_for(&pod).make().await).await;
        first.stop().await;

        let missed = stage.request_for(&pod).make().await;
        assert_eq!(Said::of(&stage.read(&missed).await.unwrap()), None);
        let second = stage.a_signer().start().await;
        let after = stage.issued(&missed).await;
        assert_eq!(intermediate(&before), intermediate(&after), "the CA outlives the process");
        second.stop().await;
    }

    /// A request deleted before or while it is walked is forgotten: no retry, no fault, and others are served.
    async fn a_request_deleted_half_way_is_forgotten(bed: Bed) {
        let stage = Stage::open(&bed, "deleted").await;
        let pod = stage.any_pod().await;
        let signer = stage.a_signer().start().await.ready().await;
        for _ in 0..8 {
            let request = stage.request_for(&pod).make().await;
            call::delete(&stage.admin, &request.path).await.unwrap();
        }
        stage.issued(&stage.request_for(&pod).make().await).await;
        until("the queue is empty", async || (signer.metric("podmint_signer_queue", &[]).await < 0.5).then_some(())).await;
        assert!(signer.metric("podmint_signer_answers_total", &["answer=\"fault\""]).await < 0.5);
        signer.stop().await;
    }
}

/// The shipped binary is killed in the middle of a burst, and started again: each request has one certificate that stays, and
/// each certificate a line in the log that was written before it.
#[test]
fn a_killed_signer_loses_nothing_and_answers_nothing_twice() {
    podmint_tests::run(async {
        let bed = Bed::shared("1.37.2").await;
        let stage = Stage::open(&bed, "killed").await;
        let pod = stage.any_pod().await;
        let first = stage.a_signer().start_process().await.ready().await;
        let mut requests = Vec::new();
        for number in 0..60 {
            requests.push(stage.request_for(&pod).make().await);
            if number == 30 {
                until("some are answered", async || (!answered(&stage, &requests).await.is_empty()).then_some(()))
                    .await;
            }
        }
        let mut log = first.kill();
        let before = answered(&stage, &requests).await;

        let second = stage.a_signer().called("replica-b").start_process().await;
        for request in &requests {
            stage.issued(request).await;
        }
        let after = answered(&stage, &requests).await;
        for (name, status) in &before {
            assert!(after.contains(&(name.clone(), status.clone())), "the answer to {name} changed");
        }
        let (later, status) = second.terminate_and_read();
        assert_eq!(status, 0, "SIGTERM is a good end");
        log.extend(later);
        for request in &requests {
            let leaf = record::fingerprint(&stage.read(request).await.unwrap()["status"]);
            let lines = record::lines(&log, "issuing", &request.uid);
            assert!(
                lines.iter().any(|line| line["fingerprint"] == leaf),
                "{}: no line for {leaf} in {lines:#?}",
                request.name
            );
            // The first one may have been killed between its line and its PUT, or between that and its second line.
            let published = record::lines(&log, "outcome", &request.uid);
            let published = published.iter().filter(|line| line["outcome"] == "published").count();
            assert!(lines.len() <= 2 && published <= 1, "{}: {lines:#?}", request.name);
        }
        podmint_tests::tally::no_status_was_rejected(&stage);
    });
}

/// The API server goes away and comes back under the signer.
#[test]
fn an_api_server_that_restarts_finds_the_signer_again() {
    podmint_tests::run(async {
        for bed in [Bed::embedded().await, Bed::own(Settings::of("1.37.2")).await] {
            let stage = Stage::open(&bed, "restart").await;
            let pod = stage.any_pod().await;
            let signer = stage.a_signer().start().await.ready().await;
            let before = stage.request_for(&pod).make().await;
            let status = stage.issued(&before).await;

            bed.go_down();
            never("the signer gave up", MINUTE, async || signer.has_ended().then(|| "it ended".to_owned())).await;
            bed.come_back().await;
            stage.issued(&stage.request_for(&pod).make().await).await;
            assert_eq!(stage.read(&before).await.unwrap()["status"], status);
            assert!(!signer.has_ended());
            signer.stop().await;
        }
    });
}

/// SIGTERM in the middle of a burst: exit status 0 within 5 s, more on a busy machine, and what it had in hand is either answered whole or not at all.
#[test]
fn a_terminated_signer_finishes_what_it_has_in_hand() {
    podmint_tests::run(async {
        let stage = Stage::open(&Bed::shared("1.37.2").await, "terminated").await;
        let pod = stage.any_pod().await;
        let signer = stage.a_signer().start_process().await.ready().await;
        for _ in 0..40 {
            stage.request_for(&pod).by(&Who::Admin).make().await;
        }
        let begun = std::time::Instant::now();
        let (log, status) = signer.terminate_and_read();
        assert_eq!(status, 0);
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
        let lines = log.len();
        assert_eq!(lines % 2, 0, "every certificate has a line before and a line after: {lines}");
    });
}

/// Whoever collects logs has stopped, and the pipe is full: lines of the log are lost, and nothing else.
#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    podmint_tests::run(async {
        let stage = Stage::open(&Bed::shared("1.37.2").await, "unread-log").await;
        let pod = stage.any_pod().await;
        let scratch = Scratch::new();
        let (namespace, account) = stage.signer_account_name().expect("the signer runs as a service account");
        let kubeconfig = stage.bed.kubeconfig(namespace, account).await;
        let (arguments, _) = stage.a_signer().arguments(&scratch, &kubeconfig, &scratch.join("audit.jsonl"));
        let (unread, log) = std::io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&unread, 4096).unwrap();
        let mut signer = tokio::process::Command::new(assets::binary("podmint-signer"));
        let signer = signer.args(arguments).stderr(log).kill_on_drop(true).spawn().unwrap();
        for _ in 0..40 {
            stage.issued(&stage.request_for(&pod).make().await).await;
        }
        drop(signer);
        let written = rustix::io::ioctl_fionread(&unread).unwrap();
        assert!(written > 3_000, "the log did not fill the pipe: {written} bytes");
    });
}

/// Those that have an answer, by name, with their status.
async fn answered(stage: &Stage, requests: &[Request]) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for request in requests {
        let object = stage.read(request).await.expect("nobody deletes requests here");
        if Said::of(&object).is_some() {
            found.push((request.name.clone(), object["status"].clone()));
        }
    }
    found
}

/// The second certificate of the chain.
fn intermediate(status: &Value) -> Vec<u8> {
    let chain = status["certificateChain"].as_str().unwrap();
    pem::parse_many(chain).unwrap()[1].contents().to_vec()
}
