//! The CA: what is made, what is refused when it is loaded, and what is done next.

use k8s_openapi::ByteString;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{state::Name, *};
use crate::{
    names::{Sha256, TrustDomain},
    pipeline::honest::{NOW, domains, generation, issuer_of, makings, signer},
};

mod brought;
mod rotation;
mod wish;

fn root() -> Roots {
    Roots::first(make::root(&makings(&signer(), &domains(), NOW)).unwrap())
}

fn id(roots: &Roots) -> Sha256 {
    roots.held().current.fingerprint
}

fn below(roots: &Roots, number: u64) -> Generation {
    make::generation(&roots.current, Plan::new(number, DAY), None, &makings(&signer(), &domains(), NOW)).unwrap()
}

const DAY: u32 = 86_400;

#[test]
fn what_is_made_has_the_shape_that_was_promised() {
    let root = root();
    let generation = below(&root, 3);
    assert_eq!(generation.number(), 3);
    assert_eq!(root.current.not_after().year(), 2036);
    assert_eq!(generation.not_after().unix_timestamp(), (NOW + Duration::days(30)).unix_timestamp());
    assert_eq!(generation.usable_until(), generation.not_after() - Duration::minutes(61));
    let life: Duration = generation.not_after() - generation.not_before();
    assert_eq!(generation.renew_at(), generation.not_before() + life / 2);

    let (_, certificate) = X509Certificate::from_der(generation.chain_ders().next().unwrap()).unwrap();
    let constraints = certificate.basic_constraints().unwrap().unwrap().value;
    assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(0)));
    let names = certificate.name_constraints().unwrap().unwrap();
    assert!(names.critical && names.value.excluded_subtrees.is_none());
    let permitted: Vec<String> =
        names.value.permitted_subtrees.iter().flatten().map(|subtree| subtree.base.to_string()).collect();
    assert_eq!(permitted, ["DNSName(svc)", "DNSName(cluster.local)"]);
    assert!(certificate.subject().to_string().starts_with("O=prod.example.org, CN=Podmint issuing "));
}

#[test]
fn no_two_generations_share_a_name_or_a_key() {
    let root = root();
    let subject = |generation: &Generation| {
        let (_, certificate) = X509Certificate::from_der(generation.chain_ders().next().unwrap()).unwrap();
        certificate.subject().to_string()
    };
    let (first, second) = (below(&root, 1), below(&root, 1));
    assert_ne!(subject(&first), subject(&second));
    assert_ne!(first.fingerprint(), second.fingerprint());
    assert_eq!(first.root_fingerprint(), second.root_fingerprint());
}

#[test]
fn a_trust_domain_too_long_for_a_name_is_left_out() {
    let (mut signer, domains) = ((*signer()).clone(), domains());
    signer.trust_domain = TrustDomain::parse(&["a"; 128].join(".")).unwrap();
    assert!(make::root(&makings(&signer, &domains, NOW)).is_ok());
}

#[test]
fn secrets_survive_a_restart() {
    let root = root();
    let again = Roots::load(&root.data()).unwrap();
    assert_eq!(again.held(), root.held());
    let generation = below(&again, 7);
    let loaded = Generation::load(&generation.data().unwrap()).unwrap();
    assert_eq!(loaded.number(), 7);
    assert_eq!(loaded.fingerprint(), generation.fingerprint());
    assert_eq!(loaded.chain_pem(), generation.chain_pem());
    assert_eq!(loaded.trust_bundle(), generation.trust_bundle());
    issuer_of(loaded);
}

#[test]
fn nothing_prints_a_key() {
    let root = root();
    let generation = below(&root, 1);
    let printed = format!("{root:?} {generation:?} {:?}", issuer_of(below(&root, 2)));
    let key = String::from_utf8(root.data()["tls.key"].0.clone()).unwrap();
    let key: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let start: String = key.chars().take(20).collect();
    assert!(!printed.contains(&start));
    assert!(printed.len() < 1_000, "{printed}");
}

fn changed(data: &SecretData, field: &str, value: &[u8]) -> SecretData {
    let mut data = data.clone();
    data.insert(field.to_owned(), ByteString(value.to_vec()));
    data
}

#[test]
fn each_thing_that_is_wrong_in_the_signing_secret_is_told() {
    let root = root();
    let (ours, theirs) = (below(&root, 1).data().unwrap(), generation().data().unwrap());
    let load = |data: &SecretData| Generation::load(data).unwrap_err();
    let take = |field: &str| load(&changed(&ours, field, &theirs[field].0));

    assert_eq!(load(&SecretData::new()), LoadError::Empty);
    assert_eq!(load(&ours.keys().map(|key| (key.clone(), ByteString(Vec::new()))).collect()), LoadError::Empty);
    for field in ["tls.key", "tls.crt", "ca.crt", "state.json"] {
        assert!(matches!(load(&changed(&ours, field, b"")), LoadError::Missing(found) if found == field));
    }
    assert_eq!(take("tls.key"), LoadError::KeyOfAnother);
    assert_eq!(take("tls.crt"), LoadError::KeyOfAnother);
    assert_eq!(take("ca.crt"), LoadError::RootOfAnother("ca.crt"));
    assert_eq!(take("state.json"), LoadError::RootOfAnother("ca.crt"));
    let another_root = changed(&changed(&ours, "ca.crt", &theirs["ca.crt"].0), "state.json", &theirs["state.json"].0);
    assert_eq!(load(&another_root), LoadError::NotBelowRoot);
    assert_eq!(load(&changed(&ours, "tls.key", b"garbage")), LoadError::KeyUnreadable("tls.key"));
    assert_eq!(load(&changed(&ours, "tls.crt", b"garbage")), LoadError::Unreadable("tls.crt"));
    assert_eq!(load(&changed(&ours, "tls.crt", &ours["tls.key"].0)), LoadError::Unreadable("tls.crt"));
    let twice = [ours["tls.crt"].0.clone(), ours["tls.crt"].0.clone()].concat();
    assert_eq!(load(&changed(&ours, "tls.crt", &twice)), LoadError::NotOne("tls.crt"));
    assert_eq!(load(&changed(&ours, "tls.crt", &vec![b'x'; 70_000])), LoadError::Unreadable("tls.crt"));
    assert_eq!(load(&changed(&ours, "state.json", b"{}")), LoadError::State);
    let newer = br#"{"schema": 4, "generations": []}"#;
    assert_eq!(load(&changed(&ours, "state.json", newer)), LoadError::NewerSchema(4));
}

#[test]
fn a_certificate_that_may_not_sign_is_refused() {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
    let check = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        certificate::CaCertificate::check("tls.crt", certificate.der()).err()
    };
    assert_eq!(check(&|_| ()), None);
    assert_eq!(check(&|ca| ca.is_ca = IsCa::ExplicitNoCa), Some(LoadError::NoCa("tls.crt")));
    assert_eq!(check(&|ca| ca.is_ca = IsCa::NoCa), Some(LoadError::NoCa("tls.crt")));
    assert_eq!(check(&|ca| ca.key_usages = vec![KeyUsagePurpose::CrlSign]), Some(LoadError::NoCertSign("tls.crt")));
    assert_eq!(check(&|ca| ca.key_usages.clear()), Some(LoadError::NoCertSign("tls.crt")));
    let only_server = |ca: &mut CertificateParams| ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(check(&only_server), Some(LoadError::Usage("tls.crt")));
    // nameConstraints { permittedSubtrees { uniformResourceIdentifier ".b" } }, which rcgen does not write itself.
    let uri = |ca: &mut CertificateParams| {
        let content = vec![0x30, 8, 0xa0, 6, 0x30, 4, 0x86, 2, b'.', b'b'];
        ca.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], content)];
    };
    assert_eq!(check(&uri), Some(LoadError::UriConstraints("tls.crt")));
}

#[test]
fn the_root_secret_is_checked_too() {
    let (ours, theirs) = (root().data(), root().data());
    let load = |data: &SecretData| Roots::load(data).unwrap_err();
    assert_eq!(load(&SecretData::new()), LoadError::Empty);
    assert_eq!(load(&changed(&ours, "tls.key", &theirs["tls.key"].0)), LoadError::KeyOfAnother);
    let issuing = below(&Roots::load(&ours).unwrap(), 1).data().unwrap();
    assert_eq!(load(&issuing), LoadError::NotSelfSigned);
}

#[test]
fn nothing_is_made_under_a_root_that_ends() {
    let (root, signer, domains) = (root(), signer(), domains());
    let at = |now| make::generation(&root.current, Plan::new(2, DAY), None, &makings(&signer, &domains, now));
    let last = at(root.current.not_after() - Duration::hours(3)).unwrap();
    assert_eq!(last.not_after(), root.current.not_after(), "cut at the end of the root");
    let late = at(root.current.not_after() - Duration::hours(1));
    assert!(matches!(late, Err(MakeError::RootEnds(_))));
}

#[test]
fn only_a_published_root_may_be_signed_under() {
    let (ours, theirs) = (generation(), generation());
    assert_eq!(Published::witness(&ours, "").unwrap_err(), NotPublished(ours.root_fingerprint()));
    assert!(Published::witness(&ours, &theirs.trust_bundle()).is_err());
    let both = theirs.trust_bundle() + "# ours\n" + &ours.trust_bundle();
    assert_eq!(fingerprints(&both), [theirs.root_fingerprint(), ours.root_fingerprint()]);
    let published = Published::witness(&ours, &both).unwrap();
    let confirmed = Confirmed { at: NOW, lasts: Duration::MINUTE };
    assert_eq!(published.root(), ours.root_fingerprint());
    assert!(
        Issuer::new(std::sync::Arc::new(theirs), published, confirmed).is_err(),
        "a proof for one is none for another"
    );
}

// What to do next.

fn sight<'a>() -> Sight<'a> {
    static NOTHING: Wish =
        Wish { rotate: None, renew: None, is_paused: false, stolen: None, withdraw: None, lost: None };
    Sight {
        signing: Seen::Absent,
        root: Seen::Unread,
        bundle: None,
        marked: None,
        before: None,
        highest: 0,
        watched: Duration::ZERO,
        longest: DAY,
        source: &SelfManaged,
        wish: &NOTHING,
        timing: Timing::at(crate::pace::Pace::real()),
    }
}

fn step(sight: &Sight<'_>, now: OffsetDateTime) -> Step {
    next_step(sight, Clock::new(now, now))
}

/// The number, the root and the manner of a new issuing CA.
fn issue(step: Step) -> (Name, u64, Sha256, Write) {
    let Step::Put(Put { name, plan, below: Some(below), write }) = step else { panic!("{step:?}") };
    assert_eq!(plan.rotation, None);
    (name, plan.number, below, write)
}

#[test]
fn a_first_install_makes_a_root_and_then_an_issuing_ca() {
    assert_eq!(step(&sight(), NOW), Step::ReadRoot);
    assert_eq!(step(&Sight { root: Seen::Absent, ..sight() }, NOW), Step::MakeRoot(Write::Create));
    let root = root();
    let seen = Sight { root: Seen::Found(root.held()), ..sight() };
    assert_eq!(issue(step(&seen, NOW)), (Name::Issue, 1, id(&root), Write::Create));
    let generation = below(&root, 1);
    let seen = Sight { signing: Seen::Found(generation.signing()), ..sight() };
    assert_eq!(step(&seen, NOW), Step::Sign { until: generation.renew_at(), alarm: None });
}

#[test]
fn secrets_made_empty_beforehand_are_filled() {
    let seen = Sight { signing: Seen::Broken(LoadError::Empty), root: Seen::Broken(LoadError::Empty), ..sight() };
    assert_eq!(step(&seen, NOW), Step::MakeRoot(Write::Replace));
    let root = root();
    let seen = Sight { signing: Seen::Broken(LoadError::Empty), root: Seen::Found(root.held()), ..sight() };
    assert_eq!(issue(step(&seen, NOW)), (Name::Issue, 1, id(&root), Write::Replace));
}

#[test]
fn half_way_the_next_is_made_under_the_same_root() {
    let root = root();
    let generation = below(&root, 4);
    let half = generation.renew_at();
    let seen = Sight { signing: Seen::Found(generation.signing()), ..sight() };
    assert!(matches!(step(&seen, half - Duration::SECOND), Step::Sign { alarm: None, .. }));
    assert_eq!(step(&seen, half), Step::ReadRoot);
    let seen = Sight { root: Seen::Found(root.held()), ..seen };
    assert_eq!(issue(step(&seen, half)), (Name::Renew, 5, id(&root), Write::Replace));
    let long_ended = generation.not_after() + Duration::days(9);
    assert_eq!(issue(step(&seen, long_ended)), (Name::Renew, 5, id(&root), Write::Replace));
}

#[test]
fn without_the_root_the_old_one_goes_on_under_an_alarm_and_then_holds() {
    let root = root();
    let generation = below(&root, 1);
    let (other, half, end) = (self::root(), generation.renew_at(), generation.usable_until());
    let broken = LoadError::Missing("tls.key");
    for (seen, trouble) in [
        (Seen::Absent, Trouble::RootKeyLost),
        (Seen::Broken(broken.clone()), Trouble::RootBroken(broken)),
        (Seen::Found(other.held()), Trouble::RootsDiffer),
    ] {
        let seen = Sight { signing: Seen::Found(generation.signing()), root: seen, ..sight() };
        assert_eq!(step(&seen, half), Step::Sign { until: end, alarm: Some(trouble.clone()) });
        assert_eq!(step(&seen, end), Step::Hold(trouble));
    }
}

#[test]
fn a_lost_signing_secret_is_made_again_under_the_same_root_only() {
    let (root, other) = (root(), root());
    let trusted = [id(&root)];
    let before = Some(Before { number: 4, root: id(&root) });
    let seen = Sight { root: Seen::Found(root.held()), bundle: Some(&trusted), before, ..sight() };
    assert_eq!(issue(step(&seen, NOW)), (Name::Issue, 5, id(&root), Write::Create));
    let found = id(&other);
    let by_bundle = Sight { root: Seen::Found(other.held()), bundle: Some(&trusted), ..sight() };
    assert_eq!(step(&by_bundle, NOW), Step::Hold(Trouble::OtherRoot { found }));
    let by_memory = Sight { root: Seen::Found(other.held()), before, ..sight() };
    assert_eq!(step(&by_memory, NOW), Step::Hold(Trouble::OtherRoot { found }));
}

#[test]
fn a_lost_root_is_never_replaced_while_it_is_trusted() {
    let trusted = [Sha256::of(b"a root")];
    let before = Some(Before { number: 1, root: trusted[0] });
    for root in [Seen::Absent, Seen::Broken(LoadError::Empty)] {
        let published = Sight { root: root.clone(), bundle: Some(&trusted), ..sight() };
        assert_eq!(step(&published, NOW), Step::Hold(Trouble::RootKeyLost));
        let remembered = Sight { root, before, ..sight() };
        assert_eq!(step(&remembered, NOW), Step::Hold(Trouble::RootKeyLost));
    }
}

#[test]
fn a_secret_that_is_not_ours_is_left_alone() {
    let (root, error) = (root(), LoadError::NewerSchema(3));
    let seen = Sight { signing: Seen::Broken(error.clone()), root: Seen::Found(root.held()), ..sight() };
    assert_eq!(step(&seen, NOW), Step::Hold(Trouble::SigningBroken(error.clone())));
    let seen = Sight { root: Seen::Broken(error.clone()), ..sight() };
    assert_eq!(step(&seen, NOW), Step::Hold(Trouble::RootBroken(error)));
}

#[test]
fn an_edited_bundle_is_repaired_and_an_overwritten_secret_is_not_followed() {
    let (root, foreign) = (root(), [Sha256::of(b"planted")]);
    let generation = below(&root, 1);
    let seen = Sight { signing: Seen::Found(generation.signing()), bundle: Some(&foreign), ..sight() };
    assert_eq!(step(&seen, NOW), Step::ReadRoot);
    let edited = Sight { root: Seen::Found(root.held()), ..seen.clone() };
    assert!(matches!(step(&edited, NOW), Step::Sign { .. }), "the root is ours: the bundle was edited");
    let other = self::root();
    let overwritten = Sight { root: Seen::Found(other.held()), ..seen.clone() };
    let hold = Step::Hold(Trouble::OtherRoot { found: id(&root) });
    assert_eq!(step(&overwritten, NOW), hold);
    assert_eq!(step(&Sight { root: Seen::Absent, ..seen }, NOW), hold);
    let emptied = Sight { signing: Seen::Found(generation.signing()), bundle: Some(&[]), ..sight() };
    assert!(matches!(step(&emptied, NOW), Step::Sign { .. }));
}

#[test]
fn what_this_process_signed_with_is_remembered() {
    let root = root();
    let (old, new) = (below(&root, 3), below(&root, 4));
    let before = Some(Before::of(new.signing()));
    let back = Sight { signing: Seen::Found(old.signing()), before, ..sight() };
    assert_eq!(
        step(&back, NOW),
        Step::Sign { until: old.renew_at(), alarm: Some(Trouble::RolledBack { from: 4, to: 3 }) }
    );
    let foreign = generation();
    let replaced = Sight { signing: Seen::Found(foreign.signing()), root: Seen::Found(root.held()), before, ..sight() };
    assert_eq!(step(&replaced, NOW), Step::Hold(Trouble::OtherRoot { found: foreign.root_fingerprint() }));
}

#[test]
fn a_ca_from_the_future_does_not_sign_and_another_takes_its_place() {
    let (root, signer, domains) = (root(), signer(), domains());
    let ahead = NOW + Duration::days(20);
    let made = make::generation(&root.current, Plan::new(4, DAY), None, &makings(&signer, &domains, ahead)).unwrap();
    let seen = Sight { signing: Seen::Found(made.signing()), ..sight() };
    assert_eq!(step(&seen, NOW), Step::ReadRoot);
    let with_root = |held| Sight { root: Seen::Found(held), ..seen.clone() };
    assert_eq!(issue(step(&with_root(root.held()), NOW)), (Name::Renew, 5, id(&root), Write::Replace));
    assert!(matches!(step(&seen, made.not_before()), Step::Sign { alarm: None, .. }));
    // Below a root that is not valid yet there is nothing to be made.
    let mut held = root.held();
    held.current.not_before = NOW + Duration::SECOND;
    assert_eq!(step(&with_root(held), NOW), Step::Hold(Trouble::NotYetValid(NOW + Duration::SECOND)));
    let first = Sight { root: Seen::Found(held), ..sight() };
    assert_eq!(step(&first, NOW), Step::Hold(Trouble::NotYetValid(NOW + Duration::SECOND)));
    // Of what is brought there is no other.
    let brought = super::state::Signing { is_brought: true, ..made.signing().clone() };
    let seen = Sight { signing: Seen::Found(&brought), ..with_root(root.held()) };
    assert_eq!(step(&seen, NOW), Step::Hold(Trouble::NotYetValid(made.not_before())));
}
