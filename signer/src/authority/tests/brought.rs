//! A CA that is brought, step by step.

use rcgen::KeyPair;

use super::*;
use crate::authority::{
    foreign::Foreign,
    plan::{Fault, Mended},
    state::Held,
};

fn of(found: Result<SecretData, BroughtError>) -> Brought {
    Brought::new("the Secret my-ca".to_owned(), found, Wanted { signer: &signer(), now: NOW })
}

fn source(foreign: &Foreign) -> Brought {
    of(Ok(foreign.issuing()))
}

fn root_of(foreign: &Foreign) -> Root {
    let (signer, domains) = (signer(), domains());
    source(foreign).root(&makings(&signer, &domains, NOW)).unwrap()
}

#[test]
fn a_next_root_that_is_brought_no_more_is_abandoned_unless_it_may_have_signed() {
    let (old, new, third) = (Foreign::new(), Foreign::new(), Foreign::new());
    let roots = Roots::first(root_of(&old)).with_next(root_of(&new));
    let both = roots.held();
    let step = |source: &Brought, held: Held, mended: Option<Mended>| {
        let rotation = Some(Rotation::Prepare { next: new.fingerprint() });
        let plan = Plan { rotation, mended, ..Plan::new(4, DAY) };
        let next = roots.next.as_ref().unwrap().certificate.clone();
        let (signer, domains) = (signer(), domains());
        let makings = makings(&signer, &domains, NOW);
        let generation = make::generation(&roots.current, plan, Some(next), &makings).unwrap();
        let bundle = [old.fingerprint()];
        let marked = Some(old.fingerprint());
        let (signing, root) = (Seen::Found(generation.signing()), Seen::Found(held));
        super::step(&Sight { signing, root, bundle: Some(&bundle), marked, source, ..sight() }, NOW)
    };
    let put = |step: Step| {
        let Step::Put(Put { name, plan, below: None, write: Write::Replace }) = step else { panic!("{step:?}") };
        (name, plan.rotation)
    };
    let waits = |step: Step| matches!(step, Step::Sign { alarm: None, .. });
    assert!(waits(step(&source(&new), both, None)), "it is to be published first");

    assert_eq!(step(&source(&third), both, None), Step::MakeNext);
    let third_held = Held { next: Some(root_of(&third).held()), ..both };
    let prepare = (Name::Prepare, Some(Rotation::Prepare { next: third.fingerprint() }));
    assert_eq!(put(step(&source(&third), third_held, None)), prepare);

    // The key of the one that is not wanted goes before its name does.
    let same = source(&old);
    assert_eq!(step(&same, both, None), Step::Forget);
    assert_eq!(put(step(&same, Held { next: None, ..both }, None)), (Name::Abandon, None));

    // A plan that was lost or old has forgotten whether the next root signed, and for as long as what it signed may live it stays.
    let mended = |at| Some(Mended { fault: Fault::Lost, at, is_certain: false });
    let stays = |step: Step| !matches!(step, Step::Forget | Step::MakeNext);
    for source in [&source(&third), &same] {
        assert!(stays(step(source, both, mended(NOW - Duration::days(13)))));
        assert!(!stays(step(source, both, mended(NOW - Duration::days(15)))));
    }
}

#[test]
fn a_next_root_that_may_have_signed_stays_though_its_key_is_lost() {
    let (old, new, third) = (Foreign::new(), Foreign::new(), Foreign::new());
    let roots = Roots::first(root_of(&old)).with_next(root_of(&new));
    let (signer, domains) = (signer(), domains());
    let makings = makings(&signer, &domains, NOW);
    let both = roots.held();
    let step_with = |held: Held, brought: &Foreign, mended_at, is_certain| {
        let rotation = Some(Rotation::Distribute { next: new.fingerprint(), since: NOW - Duration::DAY });
        let mended = Some(Mended { fault: Fault::Lost, at: mended_at, is_certain });
        let plan = Plan { rotation, mended, ..Plan::new(4, DAY) };
        let next = roots.next.as_ref().unwrap().certificate.clone();
        let generation = make::generation(&roots.current, plan, Some(next), &makings).unwrap();
        let bundle = [old.fingerprint(), new.fingerprint()];
        let root = Seen::Found(held);
        let (signing, source) = (Seen::Found(generation.signing()), &source(brought));
        let (marked, watched) = (Some(old.fingerprint()), Duration::DAY);
        super::step(&Sight { signing, root, bundle: Some(&bundle), marked, watched, source, ..sight() }, NOW)
    };
    let step_of =
        |brought, mended_at, is_certain| step_with(Held { next: None, ..both }, brought, mended_at, is_certain);
    let step = |brought, mended_at| step_of(brought, mended_at, false);
    let switches = step_with(both, &third, NOW, false);
    let Step::Put(Put { name: Name::Sign, below, .. }) = switches else { panic!("{switches:?}") };
    assert_eq!(below, Some(new.fingerprint()), "what is published signs, not what is brought by now");
    let waits = step(&third, NOW - Duration::days(13));
    assert!(matches!(waits, Step::Sign { alarm: Some(Trouble::RootsDiffer), .. }), "{waits:?}");
    let renews = step(&old, NOW - Duration::days(13));
    assert!(
        matches!(renews, Step::Put(Put { name: Name::Renew, .. })),
        "and what is brought signs meanwhile: {renews:?}"
    );
    assert_eq!(step(&third, NOW - Duration::days(15)), Step::MakeNext);
    assert!(matches!(step(&old, NOW - Duration::days(15)), Step::Put(Put { name: Name::Abandon, .. })));
    assert_eq!(step_of(&third, NOW, true), Step::MakeNext, "it was certain that another one had signed last");
}

#[test]
fn what_ends_is_told_and_then_held() {
    let foreign = Foreign::new();
    let data = foreign.issuing();
    let (signer, domains) = (signer(), domains());
    let makings = makings(&signer, &domains, NOW);
    let root = of(Ok(data.clone())).root(&makings).unwrap();
    let generation = make::generation(&root, Plan::new(1, DAY), None, &makings).unwrap();
    let usable = generation.usable_until();
    let seen =
        |source: &Brought, now| step(&Sight { signing: Seen::Found(generation.signing()), source, ..sight() }, now);
    let renewal =
        Put { name: Name::Renew, plan: Plan::new(2, DAY), below: Some(foreign.fingerprint()), write: Write::Replace };
    assert_eq!(seen(&source(&foreign), NOW), Step::Put(renewal), "another issuing CA below the same root");

    let signs = |alarm| Step::Sign { until: usable, alarm };
    let (same, day) = (of(Ok(data)), Duration::DAY);
    let ends = Trouble::BroughtEnds { from: "the Secret my-ca".to_owned(), at: usable };
    assert_eq!(seen(&same, usable - day - Duration::SECOND), signs(None), "nothing is due by time");
    assert_eq!(seen(&same, usable - day), signs(Some(ends.clone())));
    assert_eq!(seen(&same, usable), Step::Hold(ends));
    let nothing = of(Err(BroughtError::Absent));
    let broken = nothing.trouble().unwrap();
    assert_eq!(seen(&nothing, NOW), signs(Some(broken.clone())));
    assert_eq!(seen(&nothing, usable), Step::Hold(broken));
}

#[test]
fn an_issuing_ca_made_just_now_waits_for_clocks_that_are_behind() {
    let foreign = Foreign::new();
    let (signer, domains) = (signer(), domains());
    let makings = makings(&signer, &domains, NOW);
    let generation = make::generation(&root_of(&foreign), Plan::new(1, DAY), None, &makings).unwrap();
    let young = foreign.issuing_of(&KeyPair::generate().unwrap(), |params| params.not_before = NOW);
    let source = of(Ok(young));
    let seen = |now| step(&Sight { signing: Seen::Found(generation.signing()), source: &source, ..sight() }, now);
    let minute = NOW + Duration::MINUTE;
    assert!(matches!(seen(minute - Duration::SECOND), Step::Sign { alarm: None, .. }));
    assert!(matches!(seen(minute), Step::Put(Put { name: Name::Renew, .. })));
}
