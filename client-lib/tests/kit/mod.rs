//! What the stories of this crate share: a pod's volume with an identity that follows it, and peers that are up to no good.

#![expect(dead_code, reason = "each test binary uses its own part of the kit")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a failure is the test's failure")]

pub(crate) mod go;

use podmint::testkit::{Authority, Issued, Volume};
use podmint::{Acceptor, Authorizer, Builder, Connector, HandshakeError, PodIdentity, Reason, Source, Stream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::DuplexStream;

pub(crate) const DOMAIN: &str = "prod.example.org";

/// A pod with one volume that holds `bundle.pem` and `trust.pem`.
pub(crate) struct Pod {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) volume: Volume,
}

impl Pod {
    pub(crate) fn new() -> Self {
        log();
        let folder = tempfile::tempdir().unwrap();
        let volume = Volume::new(folder.path());
        Self { folder, volume }
    }

    pub(crate) fn with(issued: &Issued, trust: &str) -> Self {
        let pod = Self::new();
        pod.write(issued, trust);
        pod
    }

    pub(crate) fn write(&self, issued: &Issued, trust: &str) {
        self.volume.write(&[("bundle.pem", issued.bundle()), ("trust.pem", trust.to_owned())]);
    }

    pub(crate) fn source(&self) -> Source {
        Source::bundle(self.folder.path().join("bundle.pem"))
            .trust(DOMAIN.parse().unwrap(), self.folder.path().join("trust.pem"))
    }

    pub(crate) fn builder(&self) -> Builder {
        self.source().builder().start_timeout(Duration::ZERO)
    }

    pub(crate) async fn start(&self) -> PodIdentity {
        self.builder().start().await.unwrap()
    }
}

/// What the library logs goes to the test's own output, which `tests/run` looks through for keys.
fn log() {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let ours = tracing_subscriber::filter::Targets::new().with_target("podmint", tracing::Level::TRACE);
    let text = tracing_subscriber::fmt::layer().with_test_writer();
    tracing_subscriber::registry().with(text).with(ours).try_init().ok(); // the first test of a process has done it
}

pub(crate) fn anyone() -> Authorizer {
    Authorizer::any_in(DOMAIN.parse().unwrap())
}

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from("server.test").unwrap()
}

pub(crate) fn ring() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn aws() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Both ends of one handshake in memory.
pub(crate) async fn shake(
    acceptor: &Acceptor,
    connector: &Connector,
) -> (Result<Stream<DuplexStream>, HandshakeError>, Result<Stream<DuplexStream>, HandshakeError>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::join!(acceptor.accept(near), connector.connect(name(), far))
}

/// What our server says to a client with this chain, whatever the client thinks of the server.
pub(crate) async fn server_says(
    server: &PodIdentity,
    authorizer: Authorizer,
    client: &Issued,
) -> Result<(), HandshakeError> {
    let acceptor = server.server(authorizer).acceptor().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(reckless_client(client)));
    let (near, far) = tokio::io::duplex(1 << 16);
    let (verdict, _) = tokio::join!(acceptor.accept(near), connector.connect(name(), far));
    verdict.map(|_| ())
}

/// The reason a client with this chain is refused for.
pub(crate) async fn refusal_of(authority: &Authority, client: &Issued) -> Reason {
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    match server_says(&pod.start().await, anyone(), client).await {
        Err(HandshakeError::Refused(refusal)) => refusal.reason().clone(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// A client that believes every server and shows what it is told to show.
pub(crate) fn reckless_client(issued: &Issued) -> ClientConfig {
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    ClientConfig::builder_with_provider(aws())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Reckless))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(
            chain,
            aws().key_provider.load_private_key(key).unwrap(),
        ))))
}

macro_rules! accepts_any_signature {
    () => {
        accepts_any_signature!(@ verify_tls12_signature);
        accepts_any_signature!(@ verify_tls13_signature);
    };
    (@ $method:ident) => {
        fn $method(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
    };
}

#[derive(Debug)]
pub(crate) struct Reckless;

impl ServerCertVerifier for Reckless {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    accepts_any_signature!();

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws().signature_verification_algorithms.supported_schemes()
    }
}

/// Keys as Go writes them: PKCS#8, EC with the public key and without the inner curve, Ed25519 as a bare seed.
pub(crate) fn kubelet_keys() -> Vec<(&'static str, Vec<u8>)> {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::signature as sig;
    let ec = |algorithm: &'static sig::EcdsaSigningAlgorithm| {
        sig::EcdsaKeyPair::generate(algorithm).unwrap().to_pkcs8v1().unwrap().as_ref().to_vec()
    };
    let rsa = |size| {
        let key = aws_lc_rs::rsa::KeyPair::generate(size).unwrap();
        AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).unwrap().as_ref().to_vec()
    };
    let seed = [0x42_u8; 32];
    let bare = [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20][..], &seed].concat();
    vec![
        ("ECDSA P-256", ec(&sig::ECDSA_P256_SHA256_ASN1_SIGNING)),
        ("ECDSA P-384", ec(&sig::ECDSA_P384_SHA384_ASN1_SIGNING)),
        ("ECDSA P-521", ec(&sig::ECDSA_P521_SHA512_ASN1_SIGNING)),
        ("Ed25519", bare),
        ("RSA", rsa(aws_lc_rs::rsa::KeySize::Rsa3072)),
        ("RSA", rsa(aws_lc_rs::rsa::KeySize::Rsa4096)),
    ]
}

/// Adds the DNS name that is dialled.
pub(crate) fn named(params: &mut rcgen::CertificateParams) {
    params.subject_alt_names.push(rcgen::SanType::DnsName("server.test".try_into().unwrap()));
}

/// A leaf of a key that was made elsewhere.
pub(crate) fn issue_for(authority: &Authority, pkcs8: &[u8], path: &str) -> Issued {
    let der = PrivateKeyDer::Pkcs8(pkcs8.to_vec().into());
    let public = aws().key_provider.load_private_key(der).unwrap().public_key().unwrap().to_vec();
    Issued { key: podmint::testkit::pem("PRIVATE KEY", pkcs8), chain: authority.certify_with(&public, path, named) }
}

/// Waits for a condition, with a limit.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
