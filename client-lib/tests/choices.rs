//! What a program may choose: TLS 1.2, post-quantum only, DNS names, folders, a start without tokio; and what it is told in figures.

#![expect(clippy::as_conversions, clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

mod kit;

use kit::{DOMAIN, Pod, anyone, aws, reckless_client, ring, shake, until};
use podmint::testkit::{Authority, Clock, Fault, Faults, Issued};
use podmint::{Age, HandshakeError, PodIdentity, Refusal, Source, StartError, Updates};
use rcgen::SanType;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

const TILL: &str = "/ns/shop/sa/till";
const CART: &str = "/ns/shop/sa/cart";
const NEVER: Duration = Duration::from_secs(3600);

async fn started(authority: &Authority, path: &str) -> (Pod, PodIdentity) {
    let pod = Pod::with(&authority.issue(path), &authority.trust());
    let identity = pod.builder().provider(aws()).start().await.unwrap();
    (pod, identity)
}

#[tokio::test]
async fn tls_1_2_is_spoken_where_it_is_asked_for_and_verifies_all_the_same() {
    let authority = Authority::new(DOMAIN);
    let (_pod, identity) = started(&authority, TILL).await;
    for provider in [aws(), ring()] {
        let pod = Pod::with(&authority.issue(TILL), &authority.trust());
        let identity = pod.builder().provider(provider).start().await.unwrap();
        let acceptor = identity.server(anyone()).allow_tls12().acceptor().unwrap();
        for (client, welcome) in [(authority.issue(CART), true), (Authority::new(DOMAIN).issue(CART), false)] {
            let mut config = old_client(&client);
            config.resumption = rustls::client::Resumption::in_memory_sessions(16);
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            for _ in 0..2 {
                let (near, far) = tokio::io::duplex(1 << 16);
                let (near, _far) = tokio::join!(acceptor.accept(near), connector.connect(kit::name(), far));
                match near {
                    Ok(near) => {
                        assert!(welcome, "a stranger was let in");
                        assert_eq!(near.tls().protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
                        assert_eq!(near.tls().handshake_kind(), Some(rustls::HandshakeKind::Full));
                    }
                    Err(error) => assert!(!welcome && error.reason() == "unknown_issuer", "{error}"),
                }
            }
        }
    }
    // Two that both can speak 1.3 do.
    let acceptor = identity.server(anyone()).allow_tls12().acceptor().unwrap();
    let connector = identity.client(anyone()).allow_tls12().connector().unwrap();
    let near = shake(&acceptor, &connector).await.0.unwrap();
    assert_eq!(near.tls().protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

fn old_client(issued: &Issued) -> rustls::ClientConfig {
    let reckless = reckless_client(issued);
    rustls::ClientConfig::builder_with_provider(aws())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(kit::Reckless))
        .with_client_cert_resolver(Arc::clone(&reckless.client_auth_cert_resolver))
}

#[tokio::test]
async fn post_quantum_only_refuses_the_others_and_ring() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(TILL), &authority.trust());
    let error = pod.builder().provider(ring()).require_post_quantum().start().await.unwrap_err();
    assert!(matches!(error, StartError::NoPostQuantum), "{error}");
    let strict = pod.builder().provider(aws()).require_post_quantum().start().await.unwrap();
    let (_pod, usual) = started(&authority, CART).await;
    let acceptor = strict.server(anyone()).acceptor().unwrap();
    let near = shake(&acceptor, &usual.client(anyone()).connector().unwrap()).await.0.unwrap();
    assert!(near.is_post_quantum());
    // A client that has only the classical ones.
    let classical = Pod::with(&authority.issue(CART), &authority.trust());
    let classical = classical.builder().provider(ring()).start().await.unwrap();
    let (near, far) = shake(&acceptor, &classical.client(anyone()).connector().unwrap()).await;
    assert!(matches!(near, Err(HandshakeError::Tls(_))), "{near:?}");
    assert!(far.is_err());
    // Without the requirement they talk.
    let lax = usual.server(anyone()).acceptor().unwrap();
    assert!(!shake(&lax, &classical.client(anyone()).connector().unwrap()).await.0.unwrap().is_post_quantum());
}

/// A server with a name and without a SPIFFE ID, as a database has.
fn named(authority: &Authority, names: &[&str]) -> Issued {
    authority.issue_with("/unused", |params| {
        params.subject_alt_names = names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
    })
}

fn plain_server(issued: &Issued) -> Arc<rustls::ServerConfig> {
    use rustls_pki_types::pem::PemObject as _;
    let chain = rustls_pki_types::CertificateDer::pem_slice_iter(issued.chain.as_bytes()).map(Result::unwrap).collect();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(aws()).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

#[tokio::test]
async fn a_dns_name_is_verified_where_it_is_asked_for_under_its_own_bundle_alone() {
    const DATABASES: &str = "db.internal";
    let (spiffe, databases) = (Authority::new(DOMAIN), Authority::new(DATABASES));
    let pod = Pod::new();
    let write = |trust: &Authority| {
        pod.volume.write(&[
            ("bundle.pem", spiffe.issue(CART).bundle()),
            ("trust.pem", spiffe.trust()),
            ("databases.pem", trust.trust()),
        ]);
    };
    write(&databases);
    let source = pod.source().trust(DATABASES.parse().unwrap(), pod.folder.path().join("databases.pem"));
    let identity = source.builder().provider(aws()).poll_interval(NEVER).start().await.unwrap();
    assert!(identity.dns_client_config("other.internal".parse().unwrap(), false).is_err());
    let config = Arc::new(identity.dns_client_config(DATABASES.parse().unwrap(), false).unwrap());

    let verdict = async |server: &Issued| {
        let (near, far) = tokio::io::duplex(1 << 16);
        let acceptor = tokio_rustls::TlsAcceptor::from(plain_server(server));
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let name = "db-0.shop.svc".try_into().unwrap();
        let (_near, far) = tokio::join!(acceptor.accept(near), connector.connect(name, far));
        far.map(|_| ()).map_err(|error| Refusal::find(&error).expect("it says why").to_string())
    };
    verdict(&named(&databases, &["db-0.shop.svc"])).await.unwrap();
    verdict(&named(&databases, &["*.shop.svc", "db-9.other.svc"])).await.unwrap();
    let wrong = verdict(&named(&databases, &["db-1.shop.svc"])).await.unwrap_err();
    assert!(wrong.contains("not for the name db-0.shop.svc"), "{wrong}");
    // Our SPIFFE authority vouches for no DNS name here, and the other way round.
    let merged = verdict(&named(&spiffe, &["db-0.shop.svc"])).await.unwrap_err();
    assert!(merged.contains("not in the trust bundle"), "{merged}");
    let expired = databases.issue_with("/unused", |params| {
        params.subject_alt_names = vec![SanType::DnsName("db-0.shop.svc".try_into().unwrap())];
        params.not_after = podmint::testkit::in_seconds(-30);
    });
    let expired = verdict(&expired).await.unwrap_err();
    assert!(expired.contains("expired"), "{expired}");
    // A new authority of the databases is followed.
    let next = Authority::new(DATABASES);
    write(&next);
    identity.reload().await;
    verdict(&named(&next, &["db-0.shop.svc"])).await.unwrap();
    verdict(&named(&databases, &["db-0.shop.svc"])).await.unwrap_err();
}

#[tokio::test]
async fn a_folder_of_spiffe_filesystem_delivery_is_followed() {
    let (home, friend) = (Authority::new(DOMAIN), Authority::new("friend.example"));
    let pod = Pod::new();
    let own = home.issue(CART);
    let credential = ("credential-bundle.private-key.x509.pem", own.bundle());
    let ours = ("prod.example.org.spiffe-trust-bundle.x509.pem", home.trust());
    let theirs = ("friend.example.spiffe-trust-bundle.x509.pem", friend.trust());
    pod.volume.write(&[credential.clone(), ours.clone()]);
    let source = Source::discover_with(|name| {
        (name == "SPIFFE_CREDENTIAL_FOLDER").then(|| pod.folder.path().to_str().unwrap().to_owned())
    });
    let identity = source.builder().provider(aws()).start().await.unwrap();
    assert_eq!(identity.snapshot().id().path(), CART);
    let everyone = || podmint::Authorizer::not(podmint::Authorizer::one_of([]));
    let refused = |verdict: Result<(), HandshakeError>| verdict.unwrap_err().reason();
    let guest = friend.issue("/ns/x/sa/guest");
    assert_eq!(refused(kit::server_says(&identity, everyone(), &guest).await), "unknown_trust_domain");

    // The watch sees a domain that comes, and one that goes. One whose first bundle is not good holds up nothing else.
    until("the watch stands", || identity.health().loads > 1).await;
    let broken = ("friend.example.spiffe-trust-bundle.x509.pem", String::new());
    let renewed = home.issue(CART);
    let credential = ("credential-bundle.private-key.x509.pem", renewed.bundle());
    pod.volume.write(&[credential.clone(), ours.clone(), broken]);
    until("our own renewal is taken", || identity.snapshot().generation() == 2).await;
    assert_eq!((identity.snapshot().trust().count(), identity.health().problems.len()), (1, 1));
    pod.volume.write(&[credential.clone(), ours.clone(), theirs]);
    until("the friend is known", || identity.snapshot().trust().count() == 2).await;
    kit::server_says(&identity, everyone(), &guest).await.unwrap();
    let mut rotations = identity.rotations();
    pod.volume.write(&[credential.clone(), ours]);
    until("the friend is gone", || identity.snapshot().trust().count() == 1).await;
    assert_eq!(refused(kit::server_says(&identity, everyone(), &guest).await), "unknown_trust_domain");
    let rotation = rotations.next().await.unwrap();
    assert_eq!((rotation.trust[0].domain.to_string().as_str(), rotation.trust[0].removed.len()), ("friend.example", 1));

    // All bundles gone is a fault, not a farewell.
    pod.volume.write(&[credential]);
    until("the fault shows", || !identity.health().problems.is_empty()).await;
    assert_eq!(identity.health().problems[0].reason, "no_trust");
    assert_eq!(identity.snapshot().trust().count(), 1);
}

#[tokio::test]
async fn a_folder_without_generations_and_with_older_names_works_too() {
    let authority = Authority::new(DOMAIN);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("credential-bundle.pem"), authority.issue(CART).bundle()).unwrap();
    std::fs::write(folder.path().join("prod.example.org.trust-bundle.pem"), authority.trust()).unwrap();
    let identity = Source::folder(folder.path()).builder().provider(aws()).start().await.unwrap();
    assert_eq!(identity.snapshot().trust().count(), 1);
    let missing = Source::folder("/nowhere").builder().start_timeout(Duration::ZERO).start().await.unwrap_err();
    assert!(missing.to_string().contains("/nowhere is missing"), "{missing}");
    let both = Source::folder(folder.path()).trust(DOMAIN.parse().unwrap(), "x").start().await;
    assert!(matches!(both, Err(StartError::AmbiguousTrust(_))), "{both:?}");
}

/// A program without tokio: start, serve, follow, end.
#[test]
fn a_blocking_program_needs_no_runtime() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(TILL), &authority.trust());
    let identity = pod.builder().provider(aws()).start_blocking().unwrap();
    let server = Arc::new(identity.server(anyone()).config().unwrap());
    let client = Arc::new(identity.client(anyone()).config().unwrap());
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (connection, _) = tcp.accept().unwrap();
        let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(server).unwrap(), connection);
        let mut heard = [0; 5];
        tls.read_exact(&mut heard).unwrap();
        tls.write_all(&heard).unwrap();
    });
    let connection = std::net::TcpStream::connect(address).unwrap();
    let mut tls = rustls::StreamOwned::new(rustls::ClientConnection::new(client, kit::name()).unwrap(), connection);
    tls.write_all(b"hello").unwrap();
    let mut echo = [0; 5];
    tls.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"hello");
    serving.join().unwrap();
    drop(tls);

    pod.write(&authority.issue(TILL), &authority.trust());
    let start = std::time::Instant::now();
    while identity.snapshot().generation() == 1 {
        assert!(start.elapsed() < Duration::from_secs(20), "its thread does not follow the files");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut rotations = identity.rotations();
    drop(identity);
    // The thread ends, and with it the last holder of the snapshot's sender.
    let last = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let last = last.block_on(async { tokio::time::timeout(Duration::from_secs(20), rotations.next()).await });
    assert!(last.unwrap().is_none());
    let gone = Source::bundle("/nowhere/b").trust(DOMAIN.parse().unwrap(), "/nowhere/t");
    let error = gone.builder().start_timeout(Duration::ZERO).start_blocking().unwrap_err();
    assert!(error.to_string().contains("/nowhere/b is missing"), "{error}");
}

#[tokio::test]
async fn a_sub_path_and_a_frozen_volume_are_named() {
    let authority = Authority::new(DOMAIN);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bundle.pem"), authority.issue(CART).bundle()).unwrap();
    std::fs::write(folder.path().join("trust.pem"), authority.trust()).unwrap();
    let source = Source::bundle(folder.path().join("bundle.pem"))
        .trust(DOMAIN.parse().unwrap(), folder.path().join("trust.pem"));
    let faults = Faults::new();
    faults.begin(Fault::SubPath);
    let identity = source.builder().provider(aws()).files(faults.files()).start().await.unwrap();
    assert_eq!(identity.health().updates, Updates::NeverSubPath);
    assert!(!identity.health().is_good());

    let clock = Clock::new();
    let pod = Pod::with(&authority.issue_valid(CART, 0, 1000), &authority.trust());
    let identity = pod.builder().provider(aws()).clock(Arc::clone(&clock) as _).start().await.unwrap();
    clock.differ_by(700);
    assert_eq!((identity.health().age, identity.health().updates), (Age::Due, Updates::Expected));
    clock.differ_by(850);
    let health = identity.health();
    assert_eq!((health.age, health.updates), (Age::Overdue, Updates::Frozen));
    assert!(health.is_ready() && !health.is_good());
}

/// Strangers make us read the files once a second at most.
#[tokio::test]
async fn reading_on_behalf_of_strangers_is_limited() {
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue(TILL), &authority.trust());
    let identity = pod.builder().provider(aws()).poll_interval(NEVER).start().await.unwrap();
    until("the first loads are over", || identity.health().loads > 1).await;
    let before = identity.health().loads;
    let started = std::time::Instant::now();
    let stranger = Authority::new(DOMAIN).issue(CART);
    for _ in 0..50 {
        kit::server_says(&identity, anyone(), &stranger).await.unwrap_err();
    }
    let loads = identity.health().loads - before;
    let allowed = started.elapsed().as_secs() + 1;
    assert!((1..=allowed).contains(&loads), "{loads} readings for 50 strangers, {allowed} are allowed");
}
