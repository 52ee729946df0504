//! Open connections: what ends them, and what does not.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests: a failure is the test's failure"
)]

mod kit;

use kit::{DOMAIN, Pod, anyone, name, reckless_client, shake, until};
use podmint::testkit::{Authority, Clock};
use podmint::{Acceptor, Authorizer, Ending, HandshakeError, PodIdentity, Stream};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const NEVER: Duration = Duration::from_secs(3600);

/// A server's end and a client's end, and the client's identity, which must live as long.
struct Open {
    near: Stream<DuplexStream>,
    far: Stream<DuplexStream>,
    _client: (Pod, PodIdentity),
}

async fn connect(acceptor: &Acceptor, authority: &Authority, trust: &str, path: &str) -> Open {
    let pod = Pod::with(&authority.issue(path), trust);
    let client = pod.start().await;
    let connector = client.client(anyone()).connector().unwrap();
    let (near, far) = shake(acceptor, &connector).await;
    Open { near: near.unwrap(), far: far.unwrap(), _client: (pod, client) }
}

impl Open {
    async fn works(&mut self) -> bool {
        self.far.write_all(b"x").await.is_ok()
            && tokio::time::timeout(Duration::from_secs(30), self.near.read_exact(&mut [0])).await.unwrap().is_ok()
    }

    /// Why the server's end is over; waits for it.
    async fn over(&mut self) -> Ending {
        let read = tokio::time::timeout(Duration::from_secs(30), self.near.read(&mut [0])).await.unwrap();
        ending_of(&read.unwrap_err())
    }
}

fn ending_of(error: &io::Error) -> Ending {
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    error.get_ref().unwrap().downcast_ref::<Ending>().unwrap().clone()
}

#[tokio::test]
async fn a_withdrawn_root_closes_exactly_its_connections() {
    let (old, new) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let both = format!("{}{}", old.trust(), new.trust());
    let issued = new.issue("/ns/shop/sa/till");
    let pod = Pod::with(&issued, &new.trust());
    let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
    let acceptor = identity.server(anyone()).acceptor().unwrap();
    let mut ours = connect(&acceptor, &new, &new.trust(), "/ns/shop/sa/one").await;
    pod.write(&issued, &both);
    identity.reload().await;
    assert!(ours.works().await, "growth closed a connection");
    let mut theirs = connect(&acceptor, &old, &both, "/ns/shop/sa/two").await;
    assert!(theirs.works().await);
    assert_eq!(identity.health().connections, 2);

    pod.write(&issued, &new.trust());
    identity.reload().await;
    assert_eq!(theirs.over().await, Ending::TrustLost("unknown_issuer"));
    assert_eq!(ending_of(&theirs.near.write(b"x").await.unwrap_err()), Ending::TrustLost("unknown_issuer"));
    assert!(ours.works().await, "a connection whose root stays was closed");
    drop((ours, theirs));
    assert_eq!(identity.health().connections, 0);
}

#[tokio::test]
async fn a_replaced_authorizer_closes_who_it_does_not_let_in() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
    let (rule, handle) = Authorizer::swappable(anyone());
    // Inside other rules it is found, too.
    let acceptor = identity.server(Authorizer::all_of([anyone(), rule])).acceptor().unwrap();
    let mut one = connect(&acceptor, &authority, &authority.trust(), "/ns/shop/sa/one").await;
    let mut two = connect(&acceptor, &authority, &authority.trust(), "/ns/shop/sa/two").await;
    handle.replace(Authorizer::k8s(&DOMAIN.parse().unwrap(), "shop", "one").unwrap());
    assert_eq!(two.over().await, Ending::NotAllowed);
    assert!(one.works().await);
}

#[tokio::test]
async fn a_connection_ends_with_its_peers_certificate() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
    let acceptor = identity.server(anyone()).acceptor().unwrap();
    let client_pod = Pod::with(&authority.issue_valid("/ns/shop/sa/cart", -60, 8), &authority.trust());
    let client = client_pod.start().await;
    let (near, far) = shake(&acceptor, &client.client(anyone()).connector().unwrap()).await;
    let (near, _far) = (near.unwrap(), far.unwrap());
    let soon = tokio::spawn(near.ending());
    let mut open = near;
    let error = tokio::time::timeout(Duration::from_secs(60), open.read(&mut [0])).await.unwrap().unwrap_err();
    assert_eq!(ending_of(&error), Ending::PeerExpires);
    assert_eq!(soon.await.unwrap(), Ending::PeerExpires);
    open.shutdown().await.unwrap(); // a goodbye may be said
}

#[tokio::test]
async fn a_clock_that_jumps_ends_what_is_over() {
    let authority = Authority::new(DOMAIN);
    let clock = Clock::new();
    let pod = Pod::with(&authority.issue_valid("/ns/shop/sa/till", -60, 10 * 86_400), &authority.trust());
    let identity =
        pod.builder().clock(Arc::clone(&clock) as _).poll_interval(Duration::from_millis(50)).start().await.unwrap();
    let acceptor = identity.server(anyone()).acceptor().unwrap();
    let mut open = connect(&acceptor, &authority, &authority.trust(), "/ns/shop/sa/one").await;
    assert!(open.works().await);
    clock.differ_by(2 * 86_400);
    assert_eq!(open.over().await, Ending::PeerExpires);
}

#[tokio::test]
async fn a_greatest_age_ends_a_connection_and_tells_before() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
    let acceptor = identity.server(anyone()).max_connection_age(Duration::from_secs(6)).acceptor().unwrap();
    let started = Instant::now();
    let mut open = connect(&acceptor, &authority, &authority.trust(), "/ns/shop/sa/one").await;
    assert_eq!(open.near.ending().await, Ending::MaxAge);
    let told = started.elapsed();
    assert!(open.works().await, "there is time to finish");
    assert_eq!(open.over().await, Ending::MaxAge);
    assert!(told < started.elapsed() && told >= Duration::from_millis(4_500), "{told:?}");
}

/// Reader and writer on tasks of their own are both woken.
#[tokio::test]
async fn both_halves_of_a_connection_are_woken() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
    let (rule, handle) = Authorizer::swappable(anyone());
    let acceptor = identity.server(rule).acceptor().unwrap();
    let open = connect(&acceptor, &authority, &authority.trust(), "/ns/shop/sa/one").await;
    let (mut reader, mut writer) = tokio::io::split(open.near);
    let reading = tokio::spawn(async move { reader.read(&mut [0]).await.map(|_| ()) });
    // Nobody reads the other end, so the writer stands still in the end.
    let writing = tokio::spawn(async move { writer.write_all(&vec![0; 1 << 22]).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!reading.is_finished() && !writing.is_finished());
    handle.replace(Authorizer::one_of([]));
    for half in [reading, writing] {
        let error = tokio::time::timeout(Duration::from_secs(30), half).await.unwrap().unwrap().unwrap_err();
        assert_eq!(ending_of(&error), Ending::NotAllowed);
    }
}

#[tokio::test]
async fn many_connections_are_looked_at_again_in_a_moment() {
    const EACH: usize = 100;
    let (old, new) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let both = format!("{}{}", old.trust(), new.trust());
    let issued = new.issue("/ns/shop/sa/till");
    let pod = Pod::with(&issued, &both);
    let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
    let acceptor = identity.server(anyone()).acceptor().unwrap();
    let mut held = Vec::new();
    let mut endings = Vec::new();
    for authority in [&old, &new] {
        let client = Pod::with(&authority.issue("/ns/shop/sa/cart"), &both);
        let client = client.builder().poll_interval(NEVER).start().await.unwrap();
        let connector = client.client(anyone()).connector().unwrap();
        for _ in 0..EACH {
            let (near, far) = shake(&acceptor, &connector).await;
            let near = near.unwrap();
            endings.push(tokio::spawn(near.ending()));
            held.push((near, far.unwrap()));
        }
    }
    pod.write(&issued, &new.trust());
    identity.reload().await;
    until("the old ones have ended", || endings.iter().filter(|one| one.is_finished()).count() >= EACH).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(endings[..EACH].iter().all(|one| one.is_finished()), "an old one lives");
    assert!(endings[EACH..].iter().all(|one| !one.is_finished()), "a new one was closed");
}

/// A client that has shown its certificate and holds back its last record, so that the server knows it and has not let it in.
async fn hold_back(config: rustls::ClientConfig, transport: &mut DuplexStream) -> Vec<u8> {
    let mut client = rustls::ClientConnection::new(Arc::new(config), name()).unwrap();
    let mut wire = Vec::new();
    loop {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        if !client.is_handshaking() {
            break;
        }
        transport.write_all(&wire).await.unwrap();
        let mut answer = [0; 4096];
        let length = transport.read(&mut answer).await.unwrap();
        let mut answer = &answer[..length];
        while !answer.is_empty() {
            client.read_tls(&mut answer).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    let (mut next, mut last) = (0, 0);
    while next < wire.len() {
        last = next;
        next += 5 + usize::from(u16::from_be_bytes([wire[next + 3], wire[next + 4]]));
    }
    let held = wire.split_off(last);
    transport.write_all(&wire).await.unwrap();
    held
}

#[tokio::test]
async fn who_was_looked_at_before_a_change_is_not_let_in_after_it() {
    let (old, new) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let both = format!("{}{}", old.trust(), new.trust());
    let issued = new.issue("/ns/shop/sa/till");
    for root_goes in [false, true] {
        let pod = Pod::with(&issued, &both);
        let identity = pod.builder().poll_interval(NEVER).start().await.unwrap();
        let (rule, handle) = Authorizer::swappable(anyone());
        let looked = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&looked);
        let watched = Authorizer::from_fn("anybody", move |_| {
            seen.store(true, Ordering::SeqCst);
            true
        });
        let acceptor = identity.server(Authorizer::all_of([rule, watched])).acceptor().unwrap();
        let mut config = reckless_client(&old.issue("/ns/shop/sa/one"));
        config.max_fragment_size = Some(64);
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let accepting = tokio::spawn(async move { acceptor.accept(near).await });
        let held = hold_back(config, &mut far).await;
        until("the server has looked at the client", || looked.load(Ordering::SeqCst)).await;
        if root_goes {
            pod.write(&issued, &new.trust());
            identity.reload().await;
        } else {
            handle.replace(Authorizer::one_of([]));
        }
        // Whatever looks at open connections again has done so: this one is none yet.
        tokio::time::sleep(Duration::from_millis(100)).await;
        far.write_all(&held).await.unwrap();
        match accepting.await.unwrap() {
            Err(HandshakeError::Refused(refusal)) => {
                let why = if root_goes { "unknown_issuer" } else { "not_allowed" };
                assert_eq!(refusal.reason().name(), why);
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
        assert_eq!(identity.health().connections, 0);
    }
}
