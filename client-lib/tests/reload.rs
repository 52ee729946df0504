//! Files that change under us: what is taken over, what is not, and what the health says.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests: a failure is the test's failure"
)]

mod kit;

use kit::{DOMAIN, Pod, anyone, shake, until};
use podmint::testkit::{Authority, Clock, Fault, Faults, Issued, Step, Volume};
use podmint::{Age, EmptyTrust, OwnChain, Source, StartError, Updates, WatchMode};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CART: &str = "/ns/shop/sa/cart";
const NEVER: Duration = Duration::from_secs(3600);

fn serial(identity: &podmint::PodIdentity) -> String {
    identity.snapshot().credential().serial().to_owned()
}

#[tokio::test]
async fn a_rotation_is_seen_at_once_by_the_watch() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(CART), &authority.trust());
    let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
    until("the watch stands", || identity.health().watch == WatchMode::Inotify && identity.health().loads > 1).await;
    let mut rotations = identity.rotations();
    for generation in 2..12 {
        let before = serial(&identity);
        pod.write(&authority.issue(CART), &authority.trust());
        let rotation = tokio::time::timeout(Duration::from_secs(30), rotations.next()).await.unwrap().unwrap();
        assert_eq!((rotation.generation, rotation.credential_changed, rotation.trust.len()), (generation, true, 0));
        assert_ne!(serial(&identity), before);
    }
    assert!(identity.health().is_good(), "{:?}", identity.health());
}

#[tokio::test]
async fn the_poll_alone_is_enough() {
    let authority = Authority::new(DOMAIN);
    let folder = tempfile::tempdir().unwrap();
    // Two folders away from anything watched: the watched folder itself is replaced.
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let write = |home: &Path| {
        Volume::new(home).write(&[("bundle.pem", authority.issue(CART).bundle()), ("trust.pem", authority.trust())])
    };
    write(&home);
    let identity = Source::bundle(home.join("bundle.pem"))
        .trust(DOMAIN.parse().unwrap(), home.join("trust.pem"))
        .builder()
        .poll_interval(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let first = serial(&identity);
    let next = folder.path().join("next");
    std::fs::create_dir(&next).unwrap();
    write(&next);
    std::fs::rename(&home, folder.path().join("gone")).unwrap();
    std::fs::rename(&next, &home).unwrap();
    until("the replaced folder is read", || serial(&identity) != first).await;
    let second = serial(&identity);
    Volume::new(&home).write(&[("bundle.pem", authority.issue(CART).bundle()), ("trust.pem", authority.trust())]);
    until("the replaced folder is followed", || serial(&identity) != second).await;
}

#[tokio::test]
async fn without_events_the_poll_says_so_and_follows() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(CART), &authority.trust());
    let faults = Faults::new();
    faults.begin(Fault::NoEvents);
    let often = Duration::from_millis(20);
    let identity = pod.builder().files(faults.files()).poll_interval(often).start().await.unwrap();
    let first = serial(&identity);
    pod.write(&authority.issue(CART), &authority.trust());
    until("the poll has seen it", || serial(&identity) != first).await;
    assert_eq!(identity.health().watch, WatchMode::Poll);
    // inotify is there again: the next poll takes it up.
    faults.end(Fault::NoEvents);
    until("there are events", || identity.health().watch == WatchMode::Inotify).await;
}

#[tokio::test]
async fn a_file_cut_short_is_not_taken() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(CART), &authority.trust());
    let faults = Faults::new();
    let identity = pod.builder().files(faults.files()).poll_interval(NEVER).start().await.unwrap();
    faults.begin(Fault::Partial);
    let health = identity.reload().await;
    assert_eq!(health.problems.iter().map(|problem| problem.reason).collect::<Vec<_>>(), ["pem", "pem"]);
    assert_eq!(identity.snapshot().generation(), 1);
}

#[tokio::test]
async fn a_start_waits_for_files_that_come_late() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::new();
    let (identity, ()) = tokio::join!(pod.source().builder().start_timeout(Duration::from_secs(10)).start(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        pod.write(&authority.issue(CART), &authority.trust());
    });
    assert_eq!(identity.unwrap().snapshot().generation(), 1);
}

#[tokio::test]
async fn a_missing_file_ends_the_start_with_its_cause() {
    let error = Pod::new().builder().start().await.unwrap_err();
    let StartError::Unready { reasons, .. } = &error else { panic!("{error}") };
    assert_eq!(reasons, &["missing", "missing"]);
    let text = error.to_string();
    for word in
        ["bundle.pem is missing", "trust.pem is missing", "PodCertificateRequest", "ClusterTrustBundleProjection"]
    {
        assert!(text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn a_domain_is_named_once_and_at_least_one_is() {
    let pod = Pod::new();
    let twice = pod.source().trust(DOMAIN.parse().unwrap(), "/other").start().await;
    assert!(matches!(twice, Err(StartError::AmbiguousTrust(_))));
    assert!(matches!(Source::bundle("/x").start().await, Err(StartError::NoTrust)));
}

/// Starts with good files, then writes others: the reason is shown and the first snapshot stays.
async fn kept(reason: &str, change: impl FnOnce(&Authority, &Issued) -> (String, String)) {
    let authority = Authority::new(DOMAIN);
    let issued = authority.issue(CART);
    let pod = Pod::with(&issued, &authority.trust());
    let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
    let before = identity.snapshot();
    let (bundle, trust) = change(&authority, &issued);
    pod.volume.write(&[("bundle.pem", bundle.clone()), ("trust.pem", trust.clone())]);
    let health = identity.reload().await;
    let reasons: Vec<_> = health.problems.iter().map(|problem| problem.reason).collect();
    assert_eq!(reasons, [reason], "{health:?}");
    assert!(!health.is_good() && health.failed_loads >= 1);
    assert!(Arc::ptr_eq(&before, &identity.snapshot()), "{reason}: the last good snapshot was not kept");
    // And it recovers.
    pod.write(&authority.issue(CART), &authority.trust());
    assert!(identity.reload().await.is_good());
    assert_eq!(identity.snapshot().generation(), 2);
    // The same files are no start.
    let fresh = Pod::new();
    fresh.volume.write(&[("bundle.pem", bundle), ("trust.pem", trust)]);
    match fresh.builder().start().await {
        Err(StartError::Unready { reasons, .. }) => assert_eq!(reasons, [reason]),
        other => panic!("expected no start for {reason}, got {other:?}"),
    }
}

#[tokio::test]
async fn a_swapped_key_is_not_taken() {
    kept("mismatch", |authority, issued| {
        let other = authority.issue(CART);
        (format!("{}{}", other.key, issued.chain), authority.trust())
    })
    .await;
}

#[tokio::test]
async fn garbage_is_not_taken() {
    kept("pem", |authority, _| ("\u{0}garbage".into(), authority.trust())).await;
    kept("pem", |authority, issued| (issued.bundle().chars().take(150).collect(), authority.trust())).await;
    kept("pem", |authority, issued| (format!("note\n{}", issued.bundle()), authority.trust())).await;
    kept("no_key", |authority, issued| (issued.chain.clone(), authority.trust())).await;
    kept("no_certificate", |authority, issued| (issued.key.clone(), authority.trust())).await;
    kept("several_keys", |authority, issued| (format!("{}{}", issued.key, issued.bundle()), authority.trust())).await;
    kept("stray_key", |_, issued| (issued.bundle(), issued.key.clone())).await;
    kept("pem", |_, issued| (issued.bundle(), "garbage".into())).await;
    kept("certificate", |_, issued| (issued.bundle(), podmint::testkit::pem("CERTIFICATE", &[0x30, 3, 2, 1, 1]))).await;
}

#[tokio::test]
async fn an_expired_certificate_is_not_taken() {
    kept("expired", |authority, _| (authority.issue_valid(CART, -7200, -1).bundle(), authority.trust())).await;
    kept("not_yet_valid", |authority, _| (authority.issue_valid(CART, 600, 7200).bundle(), authority.trust())).await;
}

#[tokio::test]
async fn a_certificate_that_is_no_svid_is_not_taken() {
    kept("not_an_svid", |authority, _| {
        (authority.issue_with(CART, |params| params.subject_alt_names.clear()).bundle(), authority.trust())
    })
    .await;
}

#[tokio::test]
async fn an_empty_trust_file_trusts_nobody_new_and_loses_nobody_known() {
    kept("empty_trust", |_, issued| (issued.bundle(), String::new())).await;
    kept("no_anchor", |_, issued| (issued.bundle(), issued.chain.clone())).await;
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(CART), "");
    let error = pod.builder().start().await.unwrap_err().to_string();
    assert!(error.contains("is empty"), "{error}");
}

#[tokio::test]
async fn an_emptied_trust_file_is_a_kill_switch_when_asked_for() {
    let authority = Authority::new(DOMAIN);
    let issued = authority.issue(CART);
    let pod = Pod::with(&issued, &authority.trust());
    let identity = pod.builder().empty_trust(EmptyTrust::TrustNobody).start().await.unwrap();
    pod.write(&issued, "");
    assert_eq!(identity.reload().await.problems[0].reason, "empty_trust");
    match kit::server_says(&identity, anyone(), &authority.issue(CART)).await {
        Err(podmint::HandshakeError::Refused(refusal)) => assert_eq!(*refusal.reason(), podmint::Reason::EmptyTrust),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_shuffled_trust_file_is_no_change() {
    let (one, two) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let issued = one.issue(CART);
    let pod = Pod::with(&issued, &format!("{}{}", one.trust(), two.trust()));
    let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
    pod.write(&issued, &format!("{}{}{}", two.trust(), one.trust(), two.trust()));
    identity.reload().await;
    assert_eq!(identity.snapshot().generation(), 1);
    let mut rotations = identity.rotations();
    pod.write(&issued, &one.trust());
    identity.reload().await;
    let rotation = rotations.next().await.unwrap();
    assert!(!rotation.credential_changed);
    assert_eq!((rotation.trust[0].added.len(), rotation.trust[0].removed.len()), (0, 1));
}

#[tokio::test]
async fn a_new_chain_that_our_own_roots_do_not_know_waits_for_them() {
    let (old, new) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let pod = Pod::with(&old.issue(CART), &old.trust());
    let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
    let next = new.issue(CART);
    pod.write(&next, &old.trust());
    let health = identity.reload().await;
    assert_eq!((health.problems[0].reason, health.generation), ("own_chain_untrusted", 1));
    assert_eq!(health.own_chain, OwnChain::Trusted, "the one in use is");
    pod.write(&next, &format!("{}{}", old.trust(), new.trust()));
    assert!(identity.reload().await.is_good());
    assert_eq!(serial(&identity), {
        let other = Pod::with(&next, &new.trust());
        serial(&other.start().await)
    });
}

#[tokio::test]
async fn a_first_chain_that_our_own_roots_do_not_know_is_better_than_none() {
    let (ours, theirs) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let pod = Pod::with(&theirs.issue(CART), &ours.trust());
    let health = pod.start().await.health();
    assert!(matches!(health.own_chain, OwnChain::Untrusted(_)) && !health.is_good());
}

#[tokio::test]
async fn the_age_of_a_certificate_is_told_before_it_ends() {
    let authority = Authority::new(DOMAIN);
    let clock = Clock::new();
    let pod = Pod::with(&authority.issue_valid(CART, 0, 3000), &authority.trust());
    let identity = pod.builder().clock(Arc::clone(&clock) as _).poll_interval(NEVER).start().await.unwrap();
    for (seconds, age, updates) in [
        (1900, Age::Fresh, Updates::Expected),
        (2100, Age::Due, Updates::Expected),
        (2500, Age::Overdue, Updates::Frozen),
        (3100, Age::Expired, Updates::Frozen),
    ] {
        clock.differ_by(seconds);
        let health = identity.health();
        assert_eq!((health.age, health.updates), (age, updates), "after {seconds} s");
        assert_eq!(health.is_ready(), age != Age::Expired);
    }
}

#[tokio::test]
async fn plain_folders_work_too() {
    let authority = Authority::new(DOMAIN);
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let first = authority.issue(CART);
    put("key.pem", &first.key);
    put("chain.pem", &first.chain);
    put("trust.pem", &authority.trust());
    let path = |name: &str| folder.path().join(name);
    let identity = Source::key_and_chain(path("key.pem"), path("chain.pem"))
        .trust(DOMAIN.parse().unwrap(), path("trust.pem"))
        .start()
        .await
        .unwrap();
    let before = serial(&identity);
    let second = authority.issue(CART);
    put("key.pem", &second.key);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(serial(&identity), before, "half of a pair was taken");
    put("chain.pem", &second.chain);
    until("the pair is whole", || serial(&identity) != before).await;
    assert_eq!(identity.health().updates, Updates::Expected);
}

#[tokio::test]
async fn credential_and_trust_may_be_in_volumes_of_their_own() {
    let authority = Authority::new(DOMAIN);
    let next_root = Authority::new(DOMAIN);
    let (credential, trust) = (Pod::new(), Pod::new());
    credential.volume.write(&[("bundle.pem", authority.issue(CART).bundle())]);
    trust.volume.write(&[("trust.pem", authority.trust())]);
    let identity = Source::bundle(credential.folder.path().join("bundle.pem"))
        .trust(DOMAIN.parse().unwrap(), trust.folder.path().join("trust.pem"))
        .builder()
        .poll_interval(NEVER)
        .start()
        .await
        .unwrap();
    until("the watch stands", || identity.health().watch == WatchMode::Inotify && identity.health().loads > 1).await;
    let mut rotations = identity.rotations();
    trust.volume.write(&[("trust.pem", format!("{}{}", authority.trust(), next_root.trust()))]);
    let rotation = tokio::time::timeout(Duration::from_secs(30), rotations.next()).await.unwrap().unwrap();
    assert!(!rotation.credential_changed && rotation.trust[0].added.len() == 1);
    // A broken credential holds up no trust, and the other way round.
    credential.volume.write(&[("bundle.pem", "broken".into())]);
    trust.volume.write(&[("trust.pem", authority.trust())]);
    let rotation = tokio::time::timeout(Duration::from_secs(30), rotations.next()).await.unwrap().unwrap();
    assert_eq!(rotation.trust[0].removed.len(), 1);
}

#[tokio::test]
async fn a_new_root_is_found_in_the_handshake_that_needs_it() {
    let (old, new) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let issued = old.issue(CART);
    let pod = Pod::with(&issued, &old.trust());
    // Nothing looks but the handshake: no events and no poll.
    let faults = Faults::new();
    faults.begin(Fault::NoEvents);
    let identity = pod.builder().files(faults.files()).poll_interval(NEVER).start().await.unwrap();
    until("the first loads are over", || identity.health().loads > 1).await;
    pod.write(&issued, &format!("{}{}", old.trust(), new.trust()));
    assert_eq!(identity.snapshot().generation(), 1);
    kit::server_says(&identity, anyone(), &new.issue("/ns/shop/sa/till")).await.unwrap();
    assert_eq!(identity.snapshot().generation(), 2);
}

#[tokio::test]
async fn a_new_trust_domain_is_found_in_the_handshake_that_needs_it() {
    let (home, friend) = (Authority::new(DOMAIN), Authority::new("friend.example"));
    let credential = ("credential-bundle.private-key.x509.pem", home.issue(CART).bundle());
    let ours = ("prod.example.org.spiffe-trust-bundle.x509.pem", home.trust());
    let theirs = ("friend.example.spiffe-trust-bundle.x509.pem", friend.trust());
    let pod = Pod::new();
    pod.volume.write(&[credential.clone(), ours.clone()]);
    let faults = Faults::new();
    faults.begin(Fault::NoEvents);
    let source = Source::folder(pod.folder.path()).builder().provider(kit::aws());
    let identity = source.files(faults.files()).poll_interval(NEVER).start().await.unwrap();
    until("the first loads are over", || identity.health().loads > 1).await;
    pod.volume.write(&[credential, ours, theirs]);
    assert_eq!(identity.snapshot().trust().count(), 1);
    let everyone = podmint::Authorizer::not(podmint::Authorizer::one_of([]));
    kit::server_says(&identity, everyone, &friend.issue("/ns/x/sa/guest")).await.unwrap();
    assert_eq!(identity.snapshot().trust().count(), 2);
}

/// For each step of the reader and each run of the writer's steps: the pair that is published matches, and it is the last one in the end.
#[tokio::test]
async fn no_interleaving_of_writer_and_reader_publishes_a_torn_pair() {
    let authority = Authority::new(DOMAIN);
    let (first, second) = (authority.issue(CART), authority.issue(CART));
    let mut acted = 0;
    for at in 0..12 {
        for from in 0..Step::ALL.len() {
            let folder = tempfile::tempdir().unwrap();
            let volume: &'static Volume = Box::leak(Box::new(Volume::new(folder.path())));
            let files = |issued: &Issued| {
                [("key.pem", issued.key.clone()), ("chain.pem", issued.chain.clone()), ("trust.pem", authority.trust())]
            };
            volume.write(&files(&first));
            let mut writing = volume.begin(&files(&second));
            // The steps before `from` are done already, those from there on happen within the reading.
            for _ in 0..from {
                writing.step();
            }
            let happened = Arc::new(AtomicUsize::new(0));
            let seen = Arc::clone(&happened);
            let faults = Faults::new();
            faults.after_steps(at, move || {
                writing.finish();
                seen.store(1, Ordering::SeqCst);
            });
            let path = |name: &str| folder.path().join(name);
            let identity = Source::key_and_chain(path("key.pem"), path("chain.pem"))
                .trust(DOMAIN.parse().unwrap(), path("trust.pem"))
                .builder()
                .files(faults.files())
                .poll_interval(NEVER)
                .start_timeout(Duration::ZERO)
                .start()
                .await;
            // A key that matches its leaf is what the start checks; a torn pair would end it.
            let identity = identity.unwrap_or_else(|error| panic!("reader step {at}, writer from {from}: {error}"));
            let health = identity.reload().await;
            assert!(health.problems.is_empty(), "reader step {at}, writer from {from}: {health:?}");
            if happened.load(Ordering::SeqCst) == 1 {
                acted += 1;
                let last = Pod::with(&second, &authority.trust());
                let last = serial(&last.start().await);
                // A reading that the writer met half-way may publish the pair of before; the watch brings the last one.
                until(&format!("the last pair, reader step {at}, writer from {from}"), || serial(&identity) == last)
                    .await;
            }
        }
    }
    assert!(acted >= 40, "only {acted} interleavings happened");
}

/// Rotation after rotation while connections come, go and stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_under_load_fail_no_handshake_and_drop_no_connection() {
    rotate(150).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "10,000 rotations take many minutes: tests/run --long"]
async fn ten_thousand_rotations_under_load_fail_no_handshake_and_drop_no_connection() {
    rotate(10_000).await;
}

async fn rotate(rotations: usize) {
    let mut authority = Authority::new(DOMAIN);
    let first = authority.trust();
    let mut roots = first.clone();
    let pod = Pod::with(&authority.issue(CART), &roots);
    let identity = pod.start().await;
    until("the watch stands", || identity.health().loads > 1).await;
    let acceptor = identity.server(anyone()).acceptor().unwrap();
    let connector = identity.client(anyone()).connector().unwrap();
    let (near, far) = shake(&acceptor, &connector).await;
    let (mut held_near, mut held_far) = (near.unwrap(), far.unwrap());
    let weak = Arc::downgrade(&identity.snapshot());

    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let shakes = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut done = 0_u32;
            while !stop.load(Ordering::SeqCst) {
                let (near, far) = shake(&acceptor, &connector).await;
                near.unwrap();
                far.unwrap();
                done += 1;
            }
            done
        }
    });
    for rotation in 0..rotations {
        let generation = identity.snapshot().generation();
        // Every tenth time the root changes as well.
        if rotation % 10 == 9 {
            let next = Authority::new(DOMAIN);
            // The first stays, because a connection is held that came in under it; the others make room.
            let both = format!("{first}{}{}", authority.trust(), next.trust());
            pod.write(&authority.issue(CART), &both);
            until("both roots are known", || identity.snapshot().generation() > generation).await;
            let generation = identity.snapshot().generation();
            pod.write(&next.issue(CART), &both);
            until("the new root signs", || identity.snapshot().generation() > generation).await;
            (authority, roots) = (next, both);
        } else {
            pod.write(&authority.issue(CART), &roots);
            until("the rotation is seen", || identity.snapshot().generation() > generation).await;
        }
        held_far.write_all(b"still here").await.unwrap();
        held_near.read_exact(&mut [0; 10]).await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    assert!(shakes.await.unwrap() > 20);
    assert!(identity.health().is_good(), "{:?}", identity.health());
    assert!(weak.upgrade().is_none(), "the first snapshot was never freed");
}

#[tokio::test]
async fn the_last_one_out_stops_the_task_and_a_config_keeps_it() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(CART), &authority.trust());
    let identity = pod.start().await;
    let mut rotations = identity.rotations();
    let config = identity.server(anyone()).config().unwrap();
    drop(identity);
    pod.write(&authority.issue(CART), &authority.trust());
    assert!(rotations.next().await.is_some(), "a config alone no longer follows the files");
    drop(config);
    assert!(tokio::time::timeout(Duration::from_secs(30), rotations.next()).await.unwrap().is_none());
}
