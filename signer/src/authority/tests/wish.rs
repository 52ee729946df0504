//! What an administrator asks for: another issuing CA, a new root in place of a lost one; and what is answered.

use std::collections::BTreeMap;

use super::*;
use crate::authority::{
    plan::{Fault, Mended, STABLE},
    rotation::next_event,
    wish::{ALL, Answered, LOST, PAUSE, Progress, RENEW, ROTATE, STOLEN, WITHDRAW, answers},
};

fn wish(lost: Sha256) -> Wish {
    Wish { lost: Some(lost), ..Wish::default() }
}

#[test]
fn an_issuing_ca_is_replaced_once_when_it_is_asked_for_by_number() {
    let root = root();
    let generation = below(&root, 3);
    let of = |renew| Wish { renew: Some(renew), ..Wish::default() };
    for (number, is_renewed) in [(2, false), (3, true), (4, false)] {
        let wish = of(number);
        let seen = Sight {
            signing: Seen::Found(generation.signing()),
            root: Seen::Found(root.held()),
            wish: &wish,
            ..sight()
        };
        let step = step(&seen, NOW);
        if let Step::Put(put) = &step {
            assert_eq!((put.name, put.plan.number, put.below), (Name::Renew, 4, Some(id(&root))));
        }
        assert_eq!(matches!(step, Step::Put(_)), is_renewed, "{number}: {step:?}");
        assert_eq!(matches!(step, Step::Sign { .. }), !is_renewed, "{number}: {step:?}");
    }
    let paused = Wish { is_paused: true, ..of(3) };
    let seen =
        Sight { signing: Seen::Found(generation.signing()), root: Seen::Found(root.held()), wish: &paused, ..sight() };
    assert!(matches!(step(&seen, NOW), Step::Put(_)), "a pause is of rotations of the root");
    let (name, at) = next_event(generation.signing(), &paused, Timing::at(crate::pace::Pace::real()));
    assert_eq!((name, at), (Name::Renew, OffsetDateTime::UNIX_EPOCH));
}

#[test]
fn a_number_that_was_seen_never_comes_again() {
    let root = root();
    let old = below(&root, 3);
    let before = Some(Before::of(old.signing()));
    let seen =
        Sight { signing: Seen::Found(old.signing()), root: Seen::Found(root.held()), before, highest: 7, ..sight() };
    let alarm = Some(Trouble::RolledBack { from: 7, to: 3 });
    assert_eq!(step(&seen, NOW), Step::Sign { until: old.renew_at(), alarm }, "it is said for as long as it is so");
    let Step::Put(put) = step(&seen, old.renew_at()) else { panic!("it is due") };
    assert_eq!(put.plan.number, 8);
}

#[test]
fn while_the_issuing_ca_is_there_a_lost_root_is_rotated_away() {
    let (lost, new) = (root(), root());
    let generation = below(&lost, 4);
    let (bundle, wish, nothing) = ([id(&lost)], wish(id(&lost)), Wish::default());
    let seen = Sight {
        signing: Seen::Found(generation.signing()),
        bundle: Some(&bundle),
        marked: Some(id(&lost)),
        before: Some(Before::of(generation.signing())),
        wish: &wish,
        ..sight()
    };
    assert_eq!(step(&seen, NOW), Step::ReadRoot);
    assert_eq!(step(&Sight { root: Seen::Absent, ..seen.clone() }, NOW), Step::MakeRoot(Write::Create));
    assert_eq!(
        step(&Sight { root: Seen::Broken(LoadError::Empty), ..seen.clone() }, NOW),
        Step::MakeRoot(Write::Replace)
    );
    let unasked = Sight { root: Seen::Absent, wish: &nothing, ..seen.clone() };
    assert!(matches!(step(&unasked, NOW), Step::Sign { .. }), "nothing is made before it is asked for");
    let made = Sight { root: Seen::Found(new.held()), ..seen.clone() };
    let Step::Put(put) = step(&made, NOW) else { panic!("{:?}", step(&made, NOW)) };
    assert_eq!((put.name, put.plan.rotation), (Name::Prepare, Some(Rotation::Prepare { next: id(&new) })));
    // What has lain there for years was not made for this.
    let late = NOW + Duration::days(3000);
    let old = Sight { wish: &wish, ..made };
    assert!(!matches!(step(&old, late), Step::Put(_)));
}

#[test]
fn with_both_lost_a_new_root_signs_beside_the_one_that_is_given_up() {
    let (lost, other, new) = (root(), root(), root());
    let (bundle, given_up) = ([id(&lost)], wish(id(&lost)));
    let seen = Sight { root: Seen::Absent, bundle: Some(&bundle), marked: Some(id(&lost)), wish: &given_up, ..sight() };
    assert_eq!(step(&seen, NOW), Step::MakeRoot(Write::Create));
    let another = wish(id(&other));
    let hold = Step::Hold(Trouble::RootKeyLost);
    assert_eq!(step(&Sight { wish: &another, ..seen.clone() }, NOW), hold, "that one did not sign");
    let remembers = Some(Before { number: 6, root: id(&other) });
    assert_eq!(step(&Sight { before: remembers, ..seen.clone() }, NOW), hold, "this process knows of another");

    let made = Sight { root: Seen::Found(new.held()), ..seen.clone() };
    let Step::Put(put) = step(&made, NOW) else { panic!("{:?}", step(&made, NOW)) };
    assert_eq!((put.below, put.plan.rotation.map(Rotation::other)), (Some(id(&new)), Some(id(&lost))));
    assert_eq!(put.plan.mended, Some(Mended { fault: Fault::Lost, at: NOW, is_certain: true }));
    // It is made, with the certificate of the lost root from the bundle, and nothing stands against it.
    let (signer, domains) = (signer(), domains());
    let published = lost.current.certificate.to_pem();
    let makings = Makings { trusted: &published, ..makings(&signer, &domains, NOW) };
    let made = make::signing(&put, None, Some(&new), &makings).unwrap();
    assert_eq!(fingerprints(&made.trust_bundle()), [id(&new), id(&lost)]);
    let after = Sight { signing: Seen::Found(made.signing()), root: Seen::Found(new.held()), ..seen };
    let Step::Put(drain) = step(&after, NOW) else { panic!("{:?}", step(&after, NOW)) };
    assert_eq!(drain.name, Name::Drain);
    let reread = Generation::load(&made.data().unwrap()).unwrap();
    assert_eq!(reread.signing().plan, made.signing().plan);
}

#[test]
fn each_wish_is_answered_as_the_ca_is() {
    let root = root();
    let stable = below(&root, 3);
    let timing = Timing::at(crate::pace::Pace::real());
    let view = View::of(&stable, &SelfManaged, &Wish::default(), timing);
    let in_force = Wish { is_paused: true, stolen: Some(id(&root)), ..Wish::default() };
    let stopped = View::of(&stable, &SelfManaged, &in_force, timing);
    assert_eq!(view.phase, STABLE);
    let (signs, unknown) = (id(&root).to_string(), Sha256::of(b"gone").to_string());
    let answer = |annotation: &str, value: &str, view: Option<&View>| {
        let annotations =
            BTreeMap::from([(annotation.to_owned(), value.to_owned()), ("other.org/x".to_owned(), "y".to_owned())]);
        let mut all = answers(&annotations, view, Some("the key is gone"));
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    };
    for (annotation, value, progress) in [
        (ROTATE, "now", Progress::Waiting),
        (ROTATE, "", Progress::Refused),
        (RENEW, "2", Progress::Done),
        (RENEW, "3", Progress::Waiting),
        (RENEW, "4", Progress::Refused),
        (RENEW, "x", Progress::Refused),
        (PAUSE, "true", Progress::Waiting),
        (PAUSE, "yes", Progress::Refused),
        (STOLEN, &signs, Progress::Waiting),
        (STOLEN, &unknown, Progress::Done),
        (WITHDRAW, &signs, Progress::Refused),
        (WITHDRAW, &unknown, Progress::Done),
        (WITHDRAW, "the old one", Progress::Refused),
        (LOST, &signs, Progress::Waiting),
        (LOST, &unknown, Progress::Done),
    ] {
        let Answered { progress: said, message, .. } = answer(annotation, value, Some(&view));
        assert_eq!(said, progress, "{annotation}={value}: {message}");
        assert_eq!(message.ends_with("the key is gone"), progress == Progress::Waiting, "{message}");
    }
    assert_eq!(answer(PAUSE, "true", Some(&stopped)).progress, Progress::Done, "not before it is in force");
    assert_eq!(answer(STOLEN, &signs, Some(&stopped)).progress, Progress::Underway, "not before it is in force");
    let slip = answer("podmint.dev/rotat", "now", None);
    assert!(
        slip.progress == Progress::Refused && slip.message.contains(&format!("did you mean {ROTATE}?")),
        "{slip:?}"
    );
    let unseen = answer(ROTATE, "now", None);
    assert_eq!((unseen.progress, unseen.message.as_str()), (Progress::Waiting, "the key is gone"));
    assert!(ALL.iter().all(|annotation| answer(annotation, "", None).progress == Progress::Refused));
}
