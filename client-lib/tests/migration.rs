//! From another authority to Podmint and back, with the same SPIFFE IDs: both are trusted for a while, and then one of them.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

mod kit;

use kit::{DOMAIN, Pod, anyone, shake, until};
use podmint::testkit::{Authority, Issued};
use podmint::{HandshakeError, PodIdentity, Reason, Source, StartError};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose};

/// What an authority makes of a leaf.
type Shape = fn(&mut CertificateParams);

/// What csi-driver-spiffe asks cert-manager for: the usages of a Certificate, one URI, no subject.
fn as_csi_driver_spiffe(leaf: &mut CertificateParams) {
    leaf.distinguished_name = rcgen::DistinguishedName::new();
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
}

/// What a SPIRE server signs: a subject, and one more usage.
fn as_spire(leaf: &mut CertificateParams) {
    leaf.distinguished_name = rcgen::DistinguishedName::new();
    leaf.distinguished_name.push(DnType::CountryName, "US");
    leaf.distinguished_name.push(DnType::OrganizationName, "SPIRE");
    leaf.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
}

/// A pod that mounts a second bundle beside its own.
struct Mounted(Pod);

impl Mounted {
    fn new(issued: &Issued, trust: &str, also: &str) -> Self {
        let mounted = Self(Pod::new());
        mounted.write(issued, trust, also);
        mounted
    }

    fn write(&self, issued: &Issued, trust: &str, also: &str) {
        self.0.volume.write(&[
            ("bundle.pem", issued.bundle()),
            ("trust.pem", trust.to_owned()),
            ("also.pem", also.to_owned()),
        ]);
    }

    async fn start(&self) -> PodIdentity {
        let source = self.0.source().also_trust(DOMAIN.parse().unwrap(), self.0.folder.path().join("also.pem"));
        source.start().await.unwrap()
    }
}

/// What each of the two ends says of the other, the first one being the server.
async fn talk(server: &PodIdentity, client: &PodIdentity) -> Result<(), Reason> {
    let acceptor = server.server(anyone()).acceptor().unwrap();
    let connector = client.client(anyone()).connector().unwrap();
    let (near, far) = shake(&acceptor, &connector).await;
    let errors: Vec<HandshakeError> = [near.map(drop), far.map(drop)].into_iter().filter_map(Result::err).collect();
    let reason = errors.iter().find_map(|error| {
        if let HandshakeError::Refused(refusal) = error { Some(refusal.reason().clone()) } else { None }
    });
    assert!(errors.is_empty() || reason.is_some(), "expected a refusal, got {errors:?}");
    reason.map_or(Ok(()), Err)
}

#[tokio::test]
async fn both_authorities_are_trusted_for_a_while_and_then_one() {
    let shapes: [(&str, Shape); 3] =
        [("/ns/shop/sa/cart", as_csi_driver_spiffe), ("/ns/shop/sa/cart", as_spire), ("/shop/frontend/cart", as_spire)];
    for (path, shape) in shapes {
        let (ours, theirs) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
        let (moved, waits) = (ours.issue("/ns/shop/sa/till"), theirs.issue_with(path, shape));
        let new = Mounted::new(&moved, &ours.trust(), &theirs.trust());
        let old = Mounted::new(&waits, &theirs.trust(), &ours.trust());
        let (till, cart) = (new.start().await, old.start().await);
        assert_eq!(talk(&till, &cart).await, Ok(()), "{path}");
        assert_eq!(talk(&cart, &till).await, Ok(()), "{path}");
        assert_eq!(cart.snapshot().id().to_string(), format!("spiffe://{DOMAIN}{path}"));
        let anchors = till.snapshot().anchors(&DOMAIN.parse().unwrap()).unwrap().len();
        assert_eq!(anchors, 2);

        // Their ClusterTrustBundle is gone: an optional source becomes an empty file.
        new.write(&moved, &ours.trust(), "");
        until("theirs is withdrawn", || till.snapshot().anchors(&DOMAIN.parse().unwrap()).unwrap().len() == 1).await;
        for refused in [talk(&till, &cart).await, talk(&cart, &till).await] {
            assert!(matches!(refused, Err(Reason::UnknownIssuer)), "{path}: {refused:?}");
        }
        // The other way round: whoever goes back needs no more than the file.
        new.write(&moved, &ours.trust(), &theirs.trust());
        until("theirs is back", || till.snapshot().anchors(&DOMAIN.parse().unwrap()).unwrap().len() == 2).await;
        assert_eq!(talk(&till, &cart).await, Ok(()), "{path}");
    }
}

#[tokio::test]
async fn a_root_of_another_domain_vouches_for_nobody_of_ours() {
    let (ours, theirs) = (Authority::new(DOMAIN), Authority::new("old.example.org"));
    let impostor = theirs.issue("/ns/shop/sa/cart");
    let pod = Mounted::new(&ours.issue("/ns/shop/sa/till"), &ours.trust(), "");
    let other = pod.0.folder.path().join("also.pem");
    let source = pod.0.source().trust("old.example.org".parse().unwrap(), other);
    pod.write(&ours.issue("/ns/shop/sa/till"), &ours.trust(), &theirs.trust());
    let till = source.start().await.unwrap();
    // The same key signs a name of our domain.
    let forged = theirs.issue_with("/ns/shop/sa/cart", |leaf| {
        let ours = format!("spiffe://{DOMAIN}/ns/shop/sa/cart");
        leaf.subject_alt_names = vec![rcgen::SanType::URI(ours.as_str().try_into().unwrap())];
    });
    let said = kit::server_says(&till, anyone(), &forged).await;
    assert!(
        matches!(&said, Err(HandshakeError::Refused(refusal)) if matches!(refusal.reason(), Reason::UnknownIssuer)),
        "{said:?}"
    );
    let any = podmint::Authorizer::any_in("old.example.org".parse().unwrap());
    kit::server_says(&till, any, &impostor).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_the_second_file_keeps_both_as_they_were() {
    let (ours, theirs) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let issued = ours.issue("/ns/shop/sa/till");
    let pod = Mounted::new(&issued, &ours.trust(), &theirs.trust());
    let till = pod.start().await;
    let anchors = || till.snapshot().anchors(&DOMAIN.parse().unwrap()).unwrap().len();
    pod.write(&issued, &ours.trust(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    until("it is told", || !till.health().problems.is_empty()).await;
    assert_eq!(anchors(), 2);
    // The first file is never done without.
    pod.write(&issued, "", &theirs.trust());
    until("it is told", || till.health().problems.iter().any(|problem| problem.reason == "empty_trust")).await;
    assert_eq!(anchors(), 2);

    let folder = Source::folder(pod.0.folder.path()).also_trust(DOMAIN.parse().unwrap(), "x").start().await;
    assert!(matches!(folder, Err(StartError::AmbiguousTrust(_))), "a folder names its own");
}
