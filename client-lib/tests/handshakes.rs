//! Two ends of a connection: who is let in, who is not, and what each side is told.

#![expect(clippy::as_conversions, clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

mod kit;

use kit::{DOMAIN, Pod, anyone, aws, issue_for, kubelet_keys, reckless_client, ring, server_says, shake};
use podmint::testkit::{Authority, Clock};
use podmint::{Authorizer, HandshakeError, PodIdentity, Reason, Source};
use rustls::client::Resumption;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn pair(authority: &Authority) -> (Pod, PodIdentity, Pod, PodIdentity) {
    let server = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let client = Pod::with(&authority.issue("/ns/shop/sa/cart"), &authority.trust());
    let (one, two) = (server.start().await, client.start().await);
    (server, one, client, two)
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let authority = Authority::new(DOMAIN);
    let (_server_pod, server, _client_pod, client) = pair(&authority).await;
    let acceptor = server.server(anyone()).alpn(["echo"]).acceptor().unwrap();
    let connector = client.client(anyone()).alpn(["echo"]).connector().unwrap();
    let (near, far) = shake(&acceptor, &connector).await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    assert_eq!(near.peer().kubernetes(), Some(("shop", "cart")));
    assert_eq!(far.peer().to_string(), format!("spiffe://{DOMAIN}/ns/shop/sa/till"));
    assert_eq!(near.peer().serial(), client.snapshot().credential().serial());
    assert_eq!(near.tls().alpn_protocol(), Some(&b"echo"[..]));
    assert_eq!(near.tls().protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    far.write_all(b"hello").await.unwrap();
    far.shutdown().await.unwrap();
    let mut heard = Vec::new();
    near.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"hello");
}

#[tokio::test]
async fn the_post_quantum_exchange_comes_first() {
    let authority = Authority::new(DOMAIN);
    let (_server_pod, server, _client_pod, client) = pair(&authority).await;
    let acceptor = server.server(anyone()).acceptor().unwrap();
    let connector = client.client(anyone()).connector().unwrap();
    let near = shake(&acceptor, &connector).await.0.unwrap();
    let group = near.tls().negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn a_server_refuses_a_client_it_does_not_expect_and_the_client_learns_it() {
    let authority = Authority::new(DOMAIN);
    let (_server_pod, server, _client_pod, client) = pair(&authority).await;
    let only_stock = Authorizer::k8s(&DOMAIN.parse().unwrap(), "shop", "stock").unwrap();
    let acceptor = server.server(only_stock).acceptor().unwrap();
    let connector = client.client(anyone()).connector().unwrap();
    let (near, far) = shake(&acceptor, &connector).await;
    match near {
        Err(HandshakeError::Refused(refusal)) => {
            assert!(matches!(refusal.reason(), Reason::NotAllowed(allowed) if allowed.ends_with("/sa/stock")));
            assert_eq!(refusal.claimed_id().unwrap().path(), "/ns/shop/sa/cart");
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
    let error = far.unwrap().read(&mut [0]).await.unwrap_err();
    let told = error.get_ref().unwrap().downcast_ref::<HandshakeError>().unwrap();
    assert!(matches!(told, HandshakeError::PeerRefused(_)), "{told}");
}

#[tokio::test]
async fn a_client_refuses_a_server_it_does_not_expect() {
    let authority = Authority::new(DOMAIN);
    let (_server_pod, server, _client_pod, client) = pair(&authority).await;
    let acceptor = server.server(anyone()).acceptor().unwrap();
    let expected = format!("spiffe://{DOMAIN}/ns/shop/sa/stock");
    let connector = client.client(Authorizer::id(expected.parse().unwrap())).connector().unwrap();
    let (near, far) = shake(&acceptor, &connector).await;
    assert_eq!(far.unwrap_err().reason(), "not_allowed");
    assert_eq!(near.unwrap_err().reason(), "peer_refused");
}

/// What a server says to a client that shows no certificate.
async fn anonymous(
    acceptor: &podmint::Acceptor,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<(), HandshakeError> {
    let config = rustls::ClientConfig::builder_with_provider(aws())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(kit::Reckless))
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(1 << 16);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    tokio::join!(acceptor.accept(near), connector.connect(kit::name(), far)).0.map(|_| ())
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let acceptor = pod.start().await.server(anyone()).acceptor().unwrap();
    let verdict = anonymous(&acceptor, &rustls::version::TLS13).await;
    assert!(matches!(verdict, Err(HandshakeError::NoPeerCertificate)), "{verdict:?}");
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let acceptor = pod.start().await.server(anyone()).acceptor().unwrap();
    let verdict = anonymous(&acceptor, &rustls::version::TLS12).await;
    assert!(matches!(verdict, Err(HandshakeError::Tls(_))), "{verdict:?}");
}

/// What shuts a client out after it has been in.
#[derive(Debug, Clone, Copy)]
enum ShutOut {
    Deny,
    RootWithdrawn,
    Expiry,
}

/// A client that keeps every ticket it can get comes back after it was shut out: over TLS 1.3 and 1.2, over a config and over an acceptor.
#[tokio::test]
async fn no_session_is_resumed_past_a_deny_a_lost_root_or_an_expiry() {
    for how in [ShutOut::Deny, ShutOut::RootWithdrawn, ShutOut::Expiry] {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            for with_acceptor in [false, true] {
                resume(how, version, with_acceptor).await;
            }
        }
    }
}

async fn resume(how: ShutOut, version: &'static rustls::SupportedProtocolVersion, with_acceptor: bool) {
    let case = format!("{how:?} {:?} acceptor: {with_acceptor}", version.version);
    let (ours, theirs) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let own = ours.issue_valid("/ns/shop/sa/till", -60, 10 * 86_400);
    let pod = Pod::with(&own, &format!("{}{}", ours.trust(), theirs.trust()));
    let clock = Clock::new();
    let identity = pod.builder().provider(aws()).clock(Arc::clone(&clock) as _).start().await.unwrap();
    let client = reckless_client(&theirs.issue("/ns/shop/sa/cart"));
    let mut greedy = rustls::ClientConfig::builder_with_provider(aws())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(kit::Reckless))
        .with_client_cert_resolver(Arc::clone(&client.client_auth_cert_resolver));
    greedy.resumption = Resumption::in_memory_sessions(16);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(greedy));
    let (rule, handle) = Authorizer::swappable(anyone());
    let builder = identity.server(rule).allow_tls12();
    let config = tokio_rustls::TlsAcceptor::from(Arc::new(builder.config().unwrap()));
    let acceptor = builder.acceptor().unwrap();
    let attempt = async || {
        let (near, far) = tokio::io::duplex(1 << 16);
        if with_acceptor {
            let (near, far) = tokio::join!(acceptor.accept(near), connector.connect(kit::name(), far));
            let (mut near, mut far) = (near.map_err(drop)?, far.map_err(drop)?);
            near.write_all(b"x").await.map_err(drop)?; // tickets, if there were any, would come with the first bytes
            far.read_exact(&mut [0]).await.map_err(drop)?;
            Ok::<_, ()>(near.tls().handshake_kind())
        } else {
            let (near, far) = tokio::join!(config.accept(near), connector.connect(kit::name(), far));
            let (mut near, mut far) = (near.map_err(drop)?, far.map_err(drop)?);
            near.write_all(b"x").await.map_err(drop)?;
            far.read_exact(&mut [0]).await.map_err(drop)?;
            Ok(near.get_ref().1.handshake_kind())
        }
    };
    for _ in 0..2 {
        assert_eq!(attempt().await, Ok(Some(rustls::HandshakeKind::Full)), "{case}");
    }
    match how {
        ShutOut::Deny => handle.replace(Authorizer::one_of([])),
        ShutOut::RootWithdrawn => {
            pod.write(&own, &ours.trust());
            identity.reload().await;
        }
        ShutOut::Expiry => clock.differ_by(2 * 86_400),
    }
    assert_eq!(attempt().await, Err(()), "{case}: a client that was shut out came in again");
}

#[tokio::test]
async fn an_expired_own_certificate_is_said_before_the_handshake() {
    let authority = Authority::new(DOMAIN);
    let clock = Clock::new();
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let identity = pod.builder().clock(Arc::clone(&clock) as _).start().await.unwrap();
    clock.differ_by(2 * 86_400);
    let verdict = server_says(&identity, anyone(), &authority.issue_valid("/ns/shop/sa/cart", 0, 10 * 86_400)).await;
    assert!(matches!(verdict, Err(HandshakeError::OwnCredentialExpired)), "{verdict:?}");
}

#[tokio::test]
async fn an_expired_peer_is_refused_to_the_second() {
    let authority = Authority::new(DOMAIN);
    let clock = Clock::new();
    let pod = Pod::with(&authority.issue_valid("/ns/shop/sa/till", -60, 10 * 86_400), &authority.trust());
    let identity = pod.builder().clock(Arc::clone(&clock) as _).start().await.unwrap();
    let client = authority.issue_valid("/ns/shop/sa/cart", -60, 3600);
    clock.differ_by(3500);
    server_says(&identity, anyone(), &client).await.unwrap();
    clock.differ_by(3601);
    match server_says(&identity, anyone(), &client).await {
        Err(HandshakeError::Refused(refusal)) => assert!(matches!(refusal.reason(), Reason::Expired(_))),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_stalled_client_is_given_up_and_delays_nobody() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let identity = pod.start().await;
    // The honest handshake has no longer than this, too.
    let acceptor =
        identity.server(anyone()).handshake_timeout(Duration::from_secs(3)).max_handshakes(2).acceptor().unwrap();
    let connector = identity.client(anyone()).connector().unwrap();
    let (stalled, _silent) = tokio::io::duplex(1 << 16);
    let waiting = tokio::spawn({
        let acceptor = acceptor.clone();
        async move { acceptor.accept(stalled).await.map(|_| ()) }
    });
    tokio::task::yield_now().await;
    let (near, far) = shake(&acceptor, &connector).await;
    assert!(near.is_ok() && far.is_ok());
    assert!(matches!(waiting.await.unwrap(), Err(HandshakeError::Timeout(_))));
}

#[tokio::test]
async fn handshakes_beyond_the_limit_wait_their_turn_and_no_longer() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let identity = pod.start().await;
    let acceptor =
        identity.server(anyone()).handshake_timeout(Duration::from_millis(300)).max_handshakes(1).acceptor().unwrap();
    let (first, _silent) = tokio::io::duplex(64);
    let (second, _silent_too) = tokio::io::duplex(64);
    let (one, two) = tokio::join!(acceptor.accept(first), acceptor.accept(second));
    assert!(matches!(one, Err(HandshakeError::Timeout(_))), "{one:?}");
    assert!(matches!(two, Err(HandshakeError::Busy | HandshakeError::Timeout(_))), "{two:?}");
}

#[tokio::test]
async fn all_six_key_types_of_a_kubelet_work_with_aws_lc() {
    let authority = Authority::new(DOMAIN);
    let server = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let acceptor = server.start().await.server(anyone()).acceptor().unwrap();
    for (kind, key) in kubelet_keys() {
        let pod = Pod::with(&issue_for(&authority, &key, "/ns/shop/sa/cart"), &authority.trust());
        let identity = pod.start().await;
        assert_eq!(identity.snapshot().credential().key_type(), kind);
        let connector = identity.client(anyone()).connector().unwrap();
        let (near, far) = shake(&acceptor, &connector).await;
        assert!(near.is_ok() && far.is_ok(), "{kind}");
    }
}

#[tokio::test]
async fn ring_takes_all_but_p521_and_says_so() {
    let authority = Authority::new(DOMAIN);
    let server = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let acceptor = server.builder().provider(ring()).start().await.unwrap().server(anyone()).acceptor().unwrap();
    for (kind, key) in kubelet_keys() {
        let pod = Pod::with(&issue_for(&authority, &key, "/ns/shop/sa/cart"), &authority.trust());
        let started = pod.builder().provider(ring()).start().await;
        if kind == "ECDSA P-521" {
            let error = started.unwrap_err().to_string();
            assert!(error.contains("cannot use the ECDSA P-521 key") && error.contains("aws-lc-rs"), "{error}");
            continue;
        }
        let connector = started.unwrap().client(anyone()).connector().unwrap();
        let (near, far) = shake(&acceptor, &connector).await;
        assert!(near.is_ok() && far.is_ok(), "{kind}");
    }
}

#[tokio::test]
async fn key_and_chain_files_work_as_a_bundle_does() {
    let authority = Authority::new(DOMAIN);
    let issued = authority.intermediate(|_| {}).issue("/ns/shop/sa/cart");
    let pod = Pod::new();
    pod.volume.write(&[
        ("tls/key.pem", issued.key.clone()),
        ("tls/chain.pem", issued.chain),
        ("trust.pem", authority.trust()),
    ]);
    let root = pod.folder.path();
    let identity = Source::key_and_chain(root.join("tls/key.pem"), root.join("tls/chain.pem"))
        .trust(DOMAIN.parse().unwrap(), root.join("trust.pem"))
        .start()
        .await
        .unwrap();
    assert_eq!(identity.snapshot().credential().chain().len(), 2);
    let (acceptor, connector) =
        (identity.server(anyone()).acceptor().unwrap(), identity.client(anyone()).connector().unwrap());
    let (near, far) = shake(&acceptor, &connector).await;
    assert!(near.is_ok() && far.is_ok());
}
