//! Where rustls meets us: the resolver and the verifiers. All of rustls' traits are implemented in this file.
//!
//! Each reads the snapshot in each handshake, or is pinned to one. Neither keeps anything from one handshake to the next.

use crate::authorize::Authorizer;
use crate::identity::PodIdentity;
use crate::snapshot::Snapshot;
use crate::spiffe::TrustDomain;
use crate::verify::{self, Refusal, Side};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, NamedGroup, OtherError,
    ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// What a config is made from.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) identity: PodIdentity,
    pub(crate) authorizer: Authorizer,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) tls12: bool,
    /// When the first of the certificates expires that peers have shown, in seconds. For clients whose connections we cannot close.
    pub(crate) earliest: Option<Arc<AtomicU64>>,
}

/// A config whose every handshake reads the snapshot, or which is pinned to one.
#[derive(Debug, Clone)]
struct Adapter {
    identity: PodIdentity,
    authorizer: Authorizer,
    /// Weak, because a connection keeps its config for life: it must not keep the key of a generation that is gone. The handshake itself holds the snapshot.
    pinned: Option<Weak<Snapshot>>,
    /// Tells the other side whose certificates we take. rustls borrows them, so they can be given only for a pinned snapshot.
    hints: Vec<DistinguishedName>,
    earliest: Option<Arc<AtomicU64>>,
}

/// More are not worth their bytes in each handshake: then the peer just sends what it has.
const MOST_HINTS: usize = 32;

impl Parts {
    pub(crate) fn new(identity: PodIdentity, authorizer: Authorizer) -> Self {
        Self { identity, authorizer, alpn: Vec::new(), tls12: false, earliest: None }
    }

    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        versions(self.tls12)
    }

    fn adapter(&self, pinned: Option<&Arc<Snapshot>>) -> Arc<Adapter> {
        let mut hints: Vec<_> = pinned
            .into_iter()
            .flat_map(|snapshot| snapshot.trust())
            .flat_map(|(_, anchors)| anchors.iter())
            .map(|anchor| anchor.subject().clone())
            .collect();
        hints.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
        hints.dedup_by(|one, other| one.as_ref() == other.as_ref());
        if hints.len() > MOST_HINTS {
            hints.clear();
        }
        Arc::new(Adapter {
            identity: self.identity.clone(),
            authorizer: self.authorizer.clone(),
            pinned: pinned.map(Arc::downgrade),
            hints,
            earliest: self.earliest.clone(),
        })
    }

    /// TLS 1.3 unless asked otherwise, both sides named, nothing that would let a handshake skip the verifier.
    pub(crate) fn server_config(&self, pinned: Option<&Arc<Snapshot>>) -> Result<ServerConfig, Error> {
        let adapter = self.adapter(pinned);
        let verifier: Arc<dyn ClientCertVerifier> = Arc::<Adapter>::clone(&adapter);
        let (provider, clock) = (self.identity.provider(), self.identity.clock());
        let mut config = ServerConfig::builder_with_details(Arc::clone(provider), Arc::clone(clock))
            .with_protocol_versions(self.versions())?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(adapter);
        // A resumed session calls no verifier: it would outlive expiry, lost trust and a changed authorizer.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.require_ems = true;
        config.alpn_protocols.clone_from(&self.alpn);
        Ok(config)
    }

    pub(crate) fn client_config(&self, pinned: Option<&Arc<Snapshot>>) -> Result<ClientConfig, Error> {
        let adapter = self.adapter(pinned);
        let verifier: Arc<dyn ServerCertVerifier> = Arc::<Adapter>::clone(&adapter);
        let (provider, clock) = (self.identity.provider(), self.identity.clock());
        let mut config = ClientConfig::builder_with_details(Arc::clone(provider), Arc::clone(clock))
            .with_protocol_versions(self.versions())?
            .dangerous() // rustls' word for any verifier but its own
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(adapter);
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.require_ems = true;
        config.alpn_protocols.clone_from(&self.alpn);
        Ok(config)
    }
}

/// Verifies a server by the name that was dialled, to the anchors of one bundle. It asks no authorizer: the name is the rule.
#[derive(Debug)]
struct ByName {
    adapter: Adapter,
    domain: TrustDomain,
}

/// The config behind [`PodIdentity::dns_client_config`].
pub(crate) fn by_name(identity: &PodIdentity, domain: TrustDomain, tls12: bool) -> Result<ClientConfig, Error> {
    let parts = Parts { tls12, ..Parts::new(identity.clone(), Authorizer::one_of([])) };
    let mut config = parts.client_config(None)?;
    let adapter = Adapter::clone(&parts.adapter(None));
    config.dangerous().set_certificate_verifier(Arc::new(ByName { adapter, domain }));
    Ok(config)
}

impl ByName {
    fn algorithms(&self) -> &rustls::crypto::WebPkiSupportedAlgorithms {
        self.adapter.algorithms()
    }
}

/// TLS 1.3, and 1.2 where it was asked for.
pub(crate) fn versions(tls12: bool) -> &'static [&'static SupportedProtocolVersion] {
    const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    const NEW: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    if tls12 { BOTH } else { NEW }
}

/// The groups with ML-KEM in them.
pub(crate) fn is_post_quantum(group: NamedGroup) -> bool {
    matches!(
        group,
        NamedGroup::X25519MLKEM768
            | NamedGroup::secp256r1MLKEM768
            | NamedGroup::MLKEM512
            | NamedGroup::MLKEM768
            | NamedGroup::MLKEM1024
            | NamedGroup::Unknown(0x11ed) // SecP384r1MLKEM1024, which rustls 0.23 has no name for
    )
}

impl Adapter {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.pinned.as_ref().and_then(Weak::upgrade).unwrap_or_else(|| self.identity.snapshot())
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<(), Error> {
        let snapshot = self.snapshot();
        let provider = self.identity.provider();
        let moment = verify::Moment { now, ..self.identity.moment() };
        let look =
            |snapshot: &Snapshot| verify::peer(leaf, intermediates, side, snapshot, &self.authorizer, moment, provider);
        match self.twice(&snapshot, look) {
            Ok(peer) => {
                tracing::debug!(peer = %peer, generation = snapshot.generation(), "peer verified");
                if let Some(earliest) = &self.earliest {
                    earliest.fetch_min(peer.not_after().as_secs(), Ordering::Relaxed);
                }
                Ok(())
            }
            Err(refusal) => {
                tracing::debug!(reason = refusal.reason().name(), "{refusal}");
                Err(to_rustls(*refusal))
            }
        }
    }

    /// A look at a peer, and a second one where a newer snapshot may know its issuer.
    fn twice<T>(
        &self,
        snapshot: &Snapshot,
        look: impl Fn(&Snapshot) -> Result<T, Box<Refusal>>,
    ) -> Result<T, Box<Refusal>> {
        look(snapshot).or_else(|refusal| {
            // Its root may have been published a moment ago. One reading a second at most, whoever asks.
            let curable = verify::may_be_cured_by_reload(refusal.reason());
            match curable.then(|| self.identity.newer_than(snapshot.generation())).flatten() {
                Some(newer) => look(&newer),
                None => Err(refusal),
            }
        })
    }

    /// Our key and chain; nothing once they are expired, so that the handshake fails on our side and says so.
    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.snapshot();
        let credential = snapshot.credential();
        if credential.is_expired(self.identity.moment().now) {
            tracing::error!(
                serial = credential.serial(),
                "our own certificate is expired: handshakes fail until it is renewed"
            );
            return None;
        }
        Some(Arc::clone(credential.certified()))
    }

    fn algorithms(&self) -> &rustls::crypto::WebPkiSupportedAlgorithms {
        &self.identity.provider().signature_verification_algorithms
    }
}

fn to_rustls(refusal: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

/// The refusal that our verifier put into a rustls error.
pub(crate) fn refusal_in(error: &Error) -> Option<&Refusal> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls' errors are its own and grow")]
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// Signatures of the handshake itself are the provider's; the same three methods in every verifier.
macro_rules! signatures_by_the_provider {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, signature, self.algorithms())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, signature, self.algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms().supported_schemes()
        }
    };
}
impl ServerCertVerifier for Adapter {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>, // what was dialled; who answers is decided by the SPIFFE ID
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, Side::Server, now).map(|()| ServerCertVerified::assertion())
    }

    signatures_by_the_provider!();

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        (!self.hints.is_empty()).then_some(&self.hints)
    }
}

impl ServerCertVerifier for ByName {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let identity = &self.adapter.identity;
        let moment = verify::Moment { now, ..identity.moment() };
        let look = |snapshot: &Snapshot| {
            verify::by_name(leaf, intermediates, name, snapshot, &self.domain, moment, identity.provider())
        };
        match self.adapter.twice(&self.adapter.snapshot(), look) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(refusal) => {
                tracing::debug!(reason = refusal.reason().name(), "{refusal}");
                Err(to_rustls(*refusal))
            }
        }
    }

    signatures_by_the_provider!();
}

impl ClientCertVerifier for Adapter {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, Side::Client, now).map(|()| ClientCertVerified::assertion())
    }

    signatures_by_the_provider!();
}

impl ResolvesServerCert for Adapter {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for Adapter {
    // The hints are not looked at: we have one credential, and the server says best itself what it thinks of it.
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
