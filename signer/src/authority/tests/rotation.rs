//! The steps of a rotation, one after the other, and what keeps each from being taken.

use super::*;
use crate::authority::{
    plan::STABLE,
    rotation::awaited,
    state::{HeldRoot, Signing},
};
use crate::config::LONGEST_SECONDS;

/// Two roots, of which the first one signs: what a rotation begins with.
struct Scene {
    roots: Roots,
    generation: Generation,
    wish: Wish,
}

impl Scene {
    fn new() -> Self {
        let another = make::root(&makings(&signer(), &domains(), NOW)).unwrap();
        let roots = root().with_next(another);
        let generation = below(&roots, 4);
        Self { roots, generation, wish: Wish { rotate: Some("once".to_owned()), ..Wish::default() } }
    }

    fn old(&self) -> Sha256 {
        self.roots.current.fingerprint()
    }

    fn new_root(&self) -> Sha256 {
        self.roots.next.as_ref().unwrap().fingerprint()
    }

    /// With this rotation in the plan, and its wish granted.
    fn at(mut self, rotation: Rotation) -> Self {
        let asked = self.wish.rotate.clone();
        let plan = Plan { rotation: Some(rotation), asked, ..self.generation.signing().plan.clone() };
        let put = Put { name: Name::Prepare, plan, below: None, write: Write::Replace };
        self.take(&put);
        self
    }

    /// Does as a keeper would, by way of the Secret.
    fn take(&mut self, put: &Put) {
        let (signer, domains) = (signer(), domains());
        let made = make::signing(put, Some(&self.generation), Some(&self.roots), &makings(&signer, &domains, NOW));
        self.generation = Generation::load(&made.unwrap().data().unwrap()).unwrap();
    }

    /// Everything as it should be, the root's Secret read.
    fn sight<'s>(&'s self, bundle: &'s [Sha256]) -> Sight<'s> {
        Sight {
            signing: Seen::Found(self.generation.signing()),
            root: Seen::Found(self.roots.held()),
            bundle: Some(bundle),
            marked: Some(self.generation.root_fingerprint()),
            before: Some(Before::of(self.generation.signing())),
            watched: Duration::DAY,
            wish: &self.wish,
            ..sight()
        }
    }
}

fn put(step: Step) -> Put {
    let Step::Put(put) = step else { panic!("{step:?}") };
    put
}

fn waits(step: &Step) -> bool {
    matches!(step, Step::Sign { alarm: None, .. })
}

#[test]
fn a_rotation_goes_through_all_its_steps() {
    let mut scene = Scene::new();
    let (old, new) = (scene.old(), scene.new_root());
    let both = [old, new];

    // The next root has a key before it has a name.
    let mut held = scene.roots.held();
    held.next = None;
    let only = [old];
    let without = Sight { root: Seen::Found(held), ..scene.sight(&only) };
    assert_eq!(step(&without, NOW), Step::MakeNext);
    assert_eq!(step(&Sight { root: Seen::Unread, ..scene.sight(&[old]) }, NOW), Step::ReadRoot);
    let prepare = put(step(&scene.sight(&[old]), NOW));
    assert_eq!((prepare.name, prepare.plan.rotation), (Name::Prepare, Some(Rotation::Prepare { next: new })));
    assert_eq!((prepare.below, prepare.plan.number, prepare.plan.asked.as_deref()), (None, 4, Some("once")));
    scene.take(&prepare);
    assert_eq!(fingerprints(&scene.generation.trust_bundle()), both);

    // It is published before time counts.
    assert!(waits(&step(&scene.sight(&[old]), NOW)));
    let distribute = put(step(&scene.sight(&both), NOW));
    assert_eq!(distribute.plan.rotation, Some(Rotation::Distribute { next: new, since: NOW }));
    scene.take(&distribute);

    let (soon, due) = (NOW + Duration::minutes(14), NOW + Duration::minutes(15));
    assert!(waits(&step(&scene.sight(&both), soon)));
    let unseen = Sight { watched: Duration::minutes(14), ..scene.sight(&both) };
    assert!(waits(&step(&unseen, due)), "the API server's clock is not enough");
    let sign = put(step(&scene.sight(&both), due));
    assert_eq!(sign.plan.rotation, Some(Rotation::Sign { previous: old, longest: DAY }));
    assert_eq!((sign.below, sign.plan.number), (Some(new), 5));
    scene.take(&sign);
    // However late that was written, the previous one drains from when it was read back.
    let late = due + Duration::HOUR;
    let drain = put(step(&scene.sight(&both), late));
    assert_eq!(drain.plan.rotation, Some(Rotation::Drain { previous: old, since: late, longest: DAY }));
    assert_eq!(drain.below, None);
    scene.take(&drain);
    assert_eq!(scene.generation.root_fingerprint(), new);
    assert_eq!(fingerprints(&scene.generation.trust_bundle()), [new, old]);

    let end = late + Duration::DAY + Duration::minutes(2);
    assert!(waits(&step(&scene.sight(&both), end - Duration::SECOND)));
    let unseen = Sight { watched: Duration::minutes(14), ..scene.sight(&both) };
    assert!(waits(&step(&unseen, end)), "the API server's clock is not enough");
    assert_eq!(step(&scene.sight(&both), end), Step::Promote, "the old key goes first");
    scene.roots = Roots::load(&scene.roots.promoted().data()).unwrap();
    assert_eq!(scene.roots.held().current.fingerprint, new);
    assert_eq!(scene.roots.held().next, None);
    let retire = put(step(&scene.sight(&both), end));
    assert_eq!((retire.name, retire.plan.rotation, retire.below), (Name::Retire, None, None));
    scene.take(&retire);
    assert_eq!(fingerprints(&scene.generation.trust_bundle()), [new]);
    assert!(waits(&step(&scene.sight(&[new]), end)), "asked for once, done once");
}

#[test]
fn each_new_value_asks_once() {
    let mut scene = Scene::new();
    let old = scene.old();
    let prepare = put(step(&scene.sight(&[old]), NOW));
    scene.take(&Put { plan: Plan { rotation: None, ..prepare.plan.clone() }, ..prepare });
    assert!(waits(&step(&scene.sight(&[old]), NOW)));
    scene.wish.rotate = Some("again".to_owned());
    assert_eq!(put(step(&scene.sight(&[old]), NOW)).name, Name::Prepare);
    scene.wish.rotate = None;
    assert!(waits(&step(&scene.sight(&[old]), NOW)));
}

#[test]
fn a_rotation_begins_by_itself_two_years_before_the_root_ends() {
    let scene = Scene { wish: Wish::default(), ..Scene::new() };
    let old = [scene.old()];
    let due = scene.generation.signing().rotate_at;
    let left = scene.roots.current.not_after() - due;
    assert!(left > Duration::days(2 * 365) && left < Duration::days(3 * 365), "{left}");
    let seen = scene.sight(&old);
    // The next root that lies there was made with the first one: it is too old to be rotated to.
    assert_eq!(step(&seen, due), Step::MakeNext);
    let mut held = scene.roots.held();
    held.next = held.next.map(|next| HeldRoot { not_after: due + make::ROOT_LIFE, ..next });
    let step = step(&Sight { root: Seen::Found(held), ..seen }, due);
    assert_eq!(put(step).name, Name::Prepare);
}

#[test]
fn a_paused_rotation_takes_no_step_and_renewals_go_on() {
    let since = NOW;
    for scene in [Scene::new(), Scene::new().at_distribute(since), Scene::new().at_drain(since)] {
        let wish = Wish { is_paused: true, ..scene.wish.clone() };
        let both = [scene.old(), scene.new_root()];
        let bundle = if scene.generation.signing().plan.rotation.is_some() { &both[..] } else { &both[..1] };
        let late = NOW + Duration::days(3);
        let seen = Sight { wish: &wish, ..scene.sight(bundle) };
        assert!(waits(&step(&seen, late)));
        assert!(!waits(&step(&scene.sight(bundle), late)), "it is the pause that keeps it");
        let renewal = put(step(&seen, scene.generation.renew_at()));
        assert_eq!((renewal.name, renewal.below), (Name::Renew, Some(scene.generation.root_fingerprint())));
        assert_eq!(renewal.plan.rotation, scene.generation.signing().plan.rotation, "the rotation stays where it is");
    }
}

impl Scene {
    fn at_distribute(self, since: OffsetDateTime) -> Self {
        let next = self.new_root();
        self.at(Rotation::Distribute { next, since })
    }

    fn at_drain(mut self, since: OffsetDateTime) -> Self {
        let (previous, next) = (self.old(), self.new_root());
        let rotation = Some(Rotation::Drain { previous, since, longest: DAY });
        let plan = Plan { rotation, asked: self.wish.rotate.clone(), ..Plan::new(5, DAY) };
        self.take(&Put { name: Name::Sign, plan, below: Some(next), write: Write::Replace });
        self
    }
}

#[test]
fn a_root_whose_key_is_stolen_is_withdrawn_when_its_administrator_says_so() {
    let scene = Scene::new().at_drain(NOW);
    let both = [scene.old(), scene.new_root()];
    let withdraws = |root| {
        let wish = Wish { withdraw: Some(root), ..scene.wish.clone() };
        step(&Sight { wish: &wish, ..scene.sight(&both) }, NOW)
    };
    assert!(waits(&step(&scene.sight(&both), NOW)));
    assert!(waits(&withdraws(scene.new_root())), "not the one that signs");
    assert_eq!(withdraws(scene.old()), Step::Promote);
    // Nobody knows the next one yet: before it signs there is nothing to withdraw the old one for.
    let early = Scene::new().at_distribute(NOW);
    let wish = Wish { withdraw: Some(early.old()), ..early.wish.clone() };
    assert!(waits(&step(&Sight { wish: &wish, ..early.sight(&both) }, NOW)));
}

#[test]
fn a_clock_that_jumped_ahead_shortens_nothing() {
    let (distribute, drain) = (Scene::new().at_distribute(NOW), Scene::new().at_drain(NOW));
    let both = [distribute.old(), distribute.new_root()];
    let ahead = Clock::new(NOW + Duration::days(9), NOW + Duration::MINUTE);
    assert!(waits(&next_step(&distribute.sight(&both), ahead)));
    let both = [drain.old(), drain.new_root()];
    assert!(waits(&next_step(&drain.sight(&both), ahead)));
    // And what is written down is the later reading.
    let (old, new) = (both[0], both[1]);
    let scene = Scene { roots: drain.roots, ..Scene::new() };
    let scene = Scene { generation: below(&scene.roots, 4), ..scene }.at(Rotation::Prepare { next: new });
    let plan = put(next_step(&scene.sight(&[old, new]), ahead)).plan;
    assert_eq!(plan.rotation, Some(Rotation::Distribute { next: new, since: ahead.now }));
}

#[test]
fn only_what_stays_due_is_watched() {
    let (next, previous) = (Sha256::of(b"next"), Sha256::of(b"previous"));
    let timing = sight().timing;
    let at = |rotation, now| awaited(Some(rotation), timing, Clock::new(now, now));
    assert_eq!(at(Rotation::Prepare { next }, NOW), Some(next));
    assert_eq!(at(Rotation::Distribute { next, since: NOW }, NOW), Some(next));
    assert_eq!(at(Rotation::Sign { previous, longest: DAY }, NOW), None);
    let (drain, end) = (Rotation::Drain { previous, since: NOW, longest: DAY }, NOW + timing.drain(DAY));
    assert_eq!(at(drain, end - Duration::SECOND), None);
    assert_eq!(at(drain, end), Some(previous));
    // The slower of the two clocks.
    assert_eq!(awaited(Some(drain), timing, Clock::new(end, NOW)), None);
    assert_eq!(awaited(Some(drain), timing, Clock::new(NOW, end)), None);
}

#[test]
fn a_next_root_from_the_future_does_not_sign_yet() {
    let scene = Scene::new().at_distribute(NOW);
    let both = [scene.old(), scene.new_root()];
    let late = NOW + Duration::HOUR;
    let mut held = scene.roots.held();
    held.next.as_mut().unwrap().not_before = late + Duration::SECOND;
    let seen = Sight { root: Seen::Found(held), ..scene.sight(&both) };
    let alarm = Some(Trouble::NotYetValid(late + Duration::SECOND));
    assert!(matches!(step(&seen, late), Step::Sign { alarm: found, .. } if found == alarm));
    assert_eq!(put(step(&seen, late + Duration::SECOND)).name, Name::Sign);
}

#[test]
fn a_next_root_whose_key_is_lost_is_replaced_before_it_signs() {
    let scene = Scene::new().at_distribute(NOW);
    let both = [scene.old(), scene.new_root()];
    let mut held = scene.roots.held();
    held.next = None;
    let late = NOW + Duration::HOUR;
    let seen = |held| step(&Sight { root: Seen::Found(held), ..scene.sight(&both) }, late);
    assert_eq!(seen(held), Step::MakeNext);
    let another = Sha256::of(b"another");
    held.next = Some(HeldRoot { fingerprint: another, not_before: NOW, not_after: NOW + make::ROOT_LIFE });
    let again = put(seen(held));
    assert_eq!((again.name, again.plan.rotation), (Name::Prepare, Some(Rotation::Prepare { next: another })));
}

#[test]
fn without_its_key_the_new_root_does_not_let_the_old_one_go() {
    let scene = Scene::new().at_drain(NOW);
    let both = [scene.old(), scene.new_root()];
    let late = NOW + Duration::days(2);
    let mut held = scene.roots.held();
    held.next = None;
    for (root, trouble) in [(Seen::Found(held), Trouble::RootsDiffer), (Seen::Absent, Trouble::RootKeyLost)] {
        let step = step(&Sight { root, ..scene.sight(&both) }, late);
        assert!(matches!(&step, Step::Sign { alarm: Some(found), .. } if *found == trouble), "{step:?}");
    }
}

#[test]
fn an_old_copy_of_the_plan_does_not_withdraw_what_is_about() {
    let scene = Scene::new();
    let (old, new) = (scene.old(), scene.new_root());
    let both = [old, new];
    // From before the rotation; the bundle and the root's Secret know better.
    let seen = Sight { wish: &scene.wish, ..scene.sight(&both) };
    assert_eq!(step(&Sight { root: Seen::Unread, ..seen.clone() }, NOW), Step::ReadRoot);
    let signed = Some(Before { number: 5, root: new });
    for before in [None, signed] {
        let resume = put(step(&Sight { before, ..seen.clone() }, NOW));
        assert_eq!((resume.name, resume.plan.rotation), (Name::Resume, Some(Rotation::Prepare { next: new })));
        assert_eq!(resume.plan.asked, scene.wish.rotate, "the wish is granted by the rotation that goes on");
    }
    // Even where the bundle was edited as well.
    assert_eq!(put(step(&Sight { before: signed, ..scene.sight(&[old]) }, NOW)).name, Name::Resume);
    // From before a rotation that ended: its root has no key any more.
    let mut held = scene.roots.held();
    held.current = held.next.take().unwrap();
    for bundle in [&both[..], &both[1..]] {
        let ended = Sight { root: Seen::Found(held), before: None, ..scene.sight(bundle) };
        assert_eq!(step(&ended, NOW), Step::Hold(Trouble::OtherRoot { found: old }));
    }
    // An old copy of the root's Secret beside a rotation that ended: what the first root signed is about as well.
    let after = Scene::new().at_drain(NOW);
    let plan = Plan { rotation: None, ..after.generation.signing().plan.clone() };
    let signing = Signing { plan, ..after.generation.signing().clone() };
    let both = [after.old(), after.new_root()];
    let resume = put(step(&Sight { signing: Seen::Found(&signing), ..after.sight(&both) }, NOW));
    let sign = Rotation::Sign { previous: after.old(), longest: DAY };
    assert_eq!((resume.name, resume.plan.rotation), (Name::Resume, Some(sign)));
}

#[test]
fn an_old_copy_does_not_sign_once_another_root_has_signed() {
    for scene in [Scene::new(), Scene::new().at_distribute(NOW)] {
        let (old, new) = (scene.old(), scene.new_root());
        let both = [old, new];
        let drains = Some(Rotation::Sign { previous: old, longest: DAY });
        // Whether the old root was taken out of the bundle meanwhile or not.
        for bundle in [&both[..], &both[1..], &[]] {
            for before in [None, Some(Before { number: 7, root: new })] {
                let seen = Sight { marked: Some(new), before, ..scene.sight(bundle) };
                assert_eq!(step(&Sight { root: Seen::Unread, ..seen.clone() }, NOW), Step::ReadRoot);
                let resume = put(step(&seen, NOW));
                assert_eq!((resume.name, resume.below, resume.plan.rotation), (Name::Resume, Some(new), drains));
                assert_eq!(resume.plan.number, before.map_or(5, |before| before.number + 1));
                assert!(resume.plan.mended.unwrap().is_certain);
                let mut held = scene.roots.held();
                held.next = None;
                let lost = Sight { root: Seen::Found(held), ..seen.clone() };
                assert_eq!(step(&lost, NOW), Step::Hold(Trouble::OtherRoot { found: old }), "its key is gone");
                let lost = Sight { root: Seen::Absent, ..seen };
                assert_eq!(step(&lost, NOW), Step::Hold(Trouble::OtherRoot { found: old }));
            }
        }
        // Nor does it when the Secret is lost, and with it for how long the old root has to drain.
        let drains = Some(Rotation::Sign { previous: old, longest: LONGEST_SECONDS });
        let lost = Sight { signing: Seen::Absent, marked: Some(new), before: None, ..scene.sight(&both) };
        let issue = put(step(&lost, NOW));
        assert_eq!((issue.name, issue.below, issue.plan.rotation), (Name::Issue, Some(new), drains));
    }
    // Whatever is noted until the new root signs.
    let scene = Scene::new().at_drain(NOW);
    let both = [scene.old(), scene.new_root()];
    assert!(waits(&step(&Sight { marked: Some(scene.old()), ..scene.sight(&both) }, NOW)));
}

#[test]
fn a_planted_root_is_taken_out_in_every_phase() {
    let planted = Sha256::of(b"planted");
    for scene in [Scene::new(), Scene::new().at_distribute(NOW), Scene::new().at_drain(NOW)] {
        let mut bundle = fingerprints(&scene.generation.trust_bundle());
        bundle.push(planted);
        let wish = Wish::default();
        let seen = Sight { wish: &wish, ..scene.sight(&bundle) };
        assert!(waits(&step(&seen, NOW)));
        assert_eq!(compare(&bundle, &scene), Bundle::Wrong);
        // Where the root's Secret is gone as well, who signed a moment ago knows, and who starts does not.
        let lost = Sight { root: Seen::Absent, ..seen };
        assert!(waits(&step(&lost, NOW)));
        assert!(matches!(step(&Sight { before: None, ..lost }, NOW), Step::Hold(Trouble::OtherRoot { .. })));
    }
}

fn compare(bundle: &[Sha256], scene: &Scene) -> Bundle {
    Bundle::compare(bundle, Some(scene.generation.root_fingerprint()), scene.generation.signing())
}

#[test]
fn only_a_root_on_which_nothing_depends_yet_may_be_missing() {
    let (stable, distribute, drain) = (Scene::new(), Scene::new().at_distribute(NOW), Scene::new().at_drain(NOW));
    let both = |scene: &Scene| {
        [scene.generation.root_fingerprint(), scene.generation.signing().plan.rotation.unwrap().other()]
    };
    assert_eq!(compare(&[stable.old()], &stable), Bundle::InOrder);
    assert_eq!(compare(&[], &stable), Bundle::Wrong);
    assert_eq!(Bundle::compare(&[stable.old()], None, stable.generation.signing()), Bundle::Wrong, "it has no mark");
    for (scene, lacks) in [(&distribute, Bundle::LacksNext), (&drain, Bundle::Wrong)] {
        let both = both(scene);
        assert_eq!(compare(&both, scene), Bundle::InOrder);
        assert_eq!(compare(&both[..1], scene), lacks);
        assert_eq!(compare(&both[1..], scene), Bundle::Wrong);
    }
}

#[test]
fn two_old_copies_or_two_of_another_one_are_told_by_the_mark_on_the_bundle() {
    let (scene, after) = (Scene { wish: Wish::default(), ..Scene::new() }, Sha256::of(b"signed after that"));
    let old = scene.old();
    let mut held = scene.roots.held();
    held.next = None;
    for bundle in [&[old, after][..], &[after], &[]] {
        let copies = Sight { root: Seen::Found(held), marked: Some(after), before: None, ..scene.sight(bundle) };
        assert_eq!(step(&copies, NOW), Step::Hold(Trouble::OtherRoot { found: old }));
        let lost = Sight { signing: Seen::Absent, ..copies };
        assert_eq!(step(&lost, NOW), Step::Hold(Trouble::OtherRoot { found: old }));
    }
    let edited = [after];
    let planted = Sight { root: Seen::Found(held), before: None, ..scene.sight(&edited) };
    assert!(waits(&step(&planted, NOW)), "marked with ours, it is the bundle that was edited");
}

#[test]
fn a_signing_secret_lost_in_a_rotation_is_made_again_with_it() {
    let scene = Scene::new();
    let (old, new) = (scene.old(), scene.new_root());
    let both = [old, new];
    for (bundle, before) in
        [(&both[..], None), (&both[..], Some(Before { number: 5, root: new })), (&both[..1], None), (&[][..], None)]
    {
        let lost = Sight { signing: Seen::Absent, before, marked: None, ..scene.sight(bundle) };
        let issue = put(step(&lost, NOW));
        assert_eq!((issue.name, issue.below), (Name::Issue, Some(old)));
        assert_eq!(issue.plan.rotation, Some(Rotation::Prepare { next: new }));
        assert_eq!(issue.plan.number, before.map_or(1, |before| before.number + 1));
    }
    let ended = Sight { signing: Seen::Absent, before: None, marked: Some(new), ..scene.sight(&both[1..]) };
    let issue = put(step(&ended, NOW));
    assert_eq!((issue.below, issue.plan.rotation), (Some(new), None));
}

#[test]
fn longer_lives_are_written_down_before_they_are_granted() {
    let scene = Scene { wish: Wish::default(), ..Scene::new() };
    let old = [scene.old()];
    let longer = put(step(&Sight { longest: 2 * DAY, ..scene.sight(&old) }, NOW));
    assert_eq!((longer.name, longer.plan.longest, longer.below), (Name::Lengthen, 2 * DAY, None));
    let shorter = Sight { longest: 3_600, ..scene.sight(&old) };
    assert!(waits(&step(&shorter, NOW)), "what was granted before lives on");
    // The previous root drains for what was granted under it, the new one begins with what is granted now.
    let scene = Scene::new().at_distribute(NOW);
    let both = [scene.old(), scene.new_root()];
    let sign = put(step(&Sight { longest: 3_600, ..scene.sight(&both) }, NOW + Duration::HOUR));
    assert_eq!(sign.plan.longest, 3_600);
    assert!(matches!(sign.plan.rotation, Some(Rotation::Sign { longest: DAY, .. })));
}

#[test]
fn a_process_goes_on_without_its_secret_only_while_nobody_can_have_switched() {
    let timing = sight().timing;
    let at = |minutes| {
        let now = NOW + Duration::minutes(minutes);
        Clock::new(now, now)
    };
    let goes_on = |scene: &Scene, clock| {
        let marked = Some(scene.generation.root_fingerprint());
        may_go_on(scene.generation.signing(), marked, timing, clock)
    };
    let (stable, distribute, drain) = (Scene::new(), Scene::new().at_distribute(NOW), Scene::new().at_drain(NOW));
    assert!(!may_go_on(stable.generation.signing(), None, timing, at(0)), "nobody has seen it sign");
    for minutes in [0, 14, 15, 10_000] {
        assert!(goes_on(&stable, at(minutes)));
        assert!(goes_on(&drain, at(minutes)));
        assert_eq!(goes_on(&distribute, at(minutes)), minutes < 15);
    }
    let end = stable.generation.usable_until();
    assert!(!goes_on(&stable, Clock::new(end, end)));
    let early = stable.generation.not_before() - Duration::SECOND;
    assert!(!goes_on(&stable, Clock::new(early, early)));
}

#[test]
fn a_version_that_knows_no_rotations_reads_and_is_read_where_there_is_none() {
    #[derive(serde::Deserialize)]
    struct OfVersionOne {
        schema: u64,
        generation: u64,
        root: String,
    }
    let state = |generation: &Generation| generation.data().unwrap()["state.json"].0.clone();
    let stable = Scene::new().generation;
    let read: OfVersionOne = serde_json::from_slice(&state(&stable)).unwrap();
    assert_eq!((read.schema, read.generation, read.root), (1, 4, stable.root_fingerprint().to_string()));
    let rotating: OfVersionOne = serde_json::from_slice(&state(&Scene::new().at_drain(NOW).generation)).unwrap();
    assert_eq!(rotating.schema, 2, "it must leave alone what it does not know");

    let written = format!(r#"{{"schema":1,"generation":7,"root":"{}"}}"#, stable.root_fingerprint());
    let old = changed(&stable.data().unwrap(), "state.json", written.as_bytes());
    let loaded = Generation::load(&old).unwrap();
    assert_eq!(loaded.signing().plan, Plan::new(7, 0));
    let asks = Scene { generation: loaded, wish: Wish::default(), ..Scene::new() };
    let bundle = [asks.generation.root_fingerprint()];
    assert_eq!(put(step(&asks.sight(&bundle), NOW)).name, Name::Lengthen);
}

#[test]
fn each_thing_that_is_wrong_in_the_plan_of_a_rotation_is_told() {
    let scene = Scene::new().at_distribute(NOW);
    let (ours, theirs) = (scene.generation.data().unwrap(), Scene::new().at_distribute(NOW).generation.data().unwrap());
    let load = |data: &SecretData| Generation::load(data).unwrap_err();
    assert_eq!(load(&changed(&ours, "next.crt", b"")), LoadError::Missing("next.crt"));
    assert_eq!(load(&changed(&ours, "next.crt", &theirs["next.crt"].0)), LoadError::RootOfAnother("next.crt"));
    let state = String::from_utf8(ours["state.json"].0.clone()).unwrap();
    for (from, to) in [("distribute", "dance"), ("2026-", "yesterday-"), ("\"since\"", "\"until\"")] {
        assert!(state.contains(from), "{state}");
        let wrong = changed(&ours, "state.json", state.replacen(from, to, 1).as_bytes());
        assert_eq!(load(&wrong), LoadError::State, "{to}");
    }
    let mut roots = scene.roots.data();
    let next = roots["next.crt"].clone();
    roots.insert("next.crt".to_owned(), ByteString(Vec::new()));
    assert_eq!(Roots::load(&roots).unwrap_err(), LoadError::Missing("next.crt"));
    roots.insert("next.crt".to_owned(), next);
    roots.insert("next.key".to_owned(), roots["tls.key"].clone());
    assert_eq!(Roots::load(&roots).unwrap_err(), LoadError::KeyOfAnother);
}

#[test]
fn people_see_each_part_and_what_happens_next() {
    let scene = Scene::new().at_distribute(NOW);
    let view = View::of(&scene.generation, &SelfManaged, &scene.wish, sight().timing);
    assert_eq!((view.phase, view.number, view.asked.as_deref()), ("distribute", 4, Some("once")));
    assert_eq!((view.next, view.next_at), (Name::Sign, NOW + Duration::minutes(15)));
    let roles: Vec<&str> = view.parts.iter().map(|part| part.role.as_str()).collect();
    assert_eq!(roles, ["issuing", "root", "next root"]);
    let [_, root, next] = view.parts.as_slice() else { panic!() };
    assert_ne!(
        (&root.subject, &root.key_identifier),
        (&next.subject, &next.key_identifier),
        "no two share a name or a key"
    );
    assert!(next.subject.contains("CN=Podmint root ") && next.key_identifier.len() == 59, "{next:?}");
    let paused = Wish { is_paused: true, ..scene.wish.clone() };
    let view = View::of(&scene.generation, &SelfManaged, &paused, sight().timing);
    assert_eq!((view.next, view.next_at, view.wish.is_paused), (Name::Renew, scene.generation.renew_at(), true));
    let stable = Scene::new();
    assert_eq!(View::of(&stable.generation, &SelfManaged, &Wish::default(), sight().timing).phase, STABLE);
}

#[test]
fn a_signature_needs_a_word_of_the_last_minute() {
    let generation = std::sync::Arc::new(generation());
    let confirmed = Confirmed { at: NOW, lasts: Duration::MINUTE };
    let published = Published::witness(&generation, &generation.trust_bundle()).unwrap();
    let issuer = Issuer::new(generation, published, confirmed).unwrap();
    let at = |seconds| issuer.sign(b"x", NOW + Duration::seconds(seconds), 3_600).is_ok();
    assert!(at(0) && at(60) && at(61), "a second is what HTTP dates leave open");
    assert!(!at(62) && !at(3_600));
    assert!(!at(-2), "a clock that went back does not tell what has passed");
    let living = |seconds| issuer.sign(b"x", NOW, seconds).is_ok();
    assert!(living(i64::from(DAY)));
    assert!(!living(i64::from(DAY) + 1), "a rotation waits no longer than what stands in the Secret");
}
