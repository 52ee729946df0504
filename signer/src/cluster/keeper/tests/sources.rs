//! What holds of every CA, wherever it comes from: one set of claims for those that Podmint makes, those in a Secret and those in files.
//! Behind it, what holds of those that are brought alone.

use std::collections::BTreeSet;

use futures::future::join_all;

use super::*;
use crate::authority::{
    foreign::{Foreign, brought},
    wish::RENEW,
};

const BROUGHT: &str = "/api/v1/namespaces/mint/secrets/my-ca";

/// A cluster, and one way to come by a CA.
struct Scene {
    fake: Fake,
    way: Way,
    /// Whose CA is brought.
    foreign: Foreign,
}

enum Way {
    SelfManaged,
    Secret,
    Files(tempfile::TempDir),
}

impl Scene {
    fn new(way: Way) -> Self {
        let scene = Self { fake: served(), way, foreign: Foreign::new() };
        scene.bring(&scene.foreign.issuing());
        scene
    }

    fn all() -> [Self; 3] {
        [Way::SelfManaged, Way::Secret, Way::Files(tempfile::tempdir().unwrap())].map(Self::new)
    }

    fn all_brought() -> [Self; 2] {
        [Way::Secret, Way::Files(tempfile::tempdir().unwrap())].map(Self::new)
    }

    fn config(&self) -> Config {
        match &self.way {
            Way::SelfManaged => config(),
            Way::Secret => config_of("{secret: {name: my-ca}}"),
            Way::Files(folder) => config_of(&format!("{{files: {{directory: {:?}}}}}", folder.path())),
        }
    }

    /// A replica that starts now.
    async fn replica(&self) -> (Keeper, watch::Receiver<Authority>) {
        keeper_of(&self.fake, &self.config()).await
    }

    fn bring(&self, data: &SecretData) {
        match &self.way {
            Way::SelfManaged => {}
            Way::Secret => self.fake.put(BROUGHT, json!({"metadata": {"name": "my-ca"}, "data": data})),
            Way::Files(folder) => {
                for field in ["tls.crt", "tls.key", "ca.crt"] {
                    drop(std::fs::remove_file(folder.path().join(field)));
                }
                data.iter().for_each(|(name, value)| std::fs::write(folder.path().join(name), &value.0).unwrap());
            }
        }
    }

    fn take_away(&self) {
        match self.way {
            Way::Secret => self.fake.remove(BROUGHT),
            Way::SelfManaged | Way::Files(_) => self.bring(&SecretData::new()),
        }
    }

    /// Sees to another issuing CA below the same root.
    fn renew(&self) {
        match self.way {
            Way::SelfManaged => ask(&self.fake, RENEW, "1"),
            Way::Secret | Way::Files(_) => self.bring(&self.foreign.issuing()),
        }
    }

    /// Sees to another root.
    fn rotate(&mut self) {
        match self.way {
            Way::SelfManaged => ask(&self.fake, ROTATE, "now"),
            Way::Secret | Way::Files(_) => {
                self.foreign = Foreign::new();
                self.bring(&self.foreign.issuing());
            }
        }
    }
}

fn issuing(authority: &watch::Receiver<Authority>) -> Option<Sha256> {
    authority.borrow().issuer.as_ref().ok().map(|issuer| issuer.generation().fingerprint())
}

fn trouble(authority: &watch::Receiver<Authority>) -> String {
    authority.borrow().trouble.as_deref().unwrap_or_default().to_owned()
}

async fn each(scenes: impl IntoIterator<Item = Scene>, claim: impl AsyncFn(Scene)) {
    join_all(scenes.into_iter().map(|scene| claim(scene))).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_is_published_and_all_replicas_end_with_one() {
    each(Scene::all(), async |scene| {
        let ((mut one, first), (mut two, second)) = (scene.replica().await, scene.replica().await);
        let (seen, mut is_first) = ([first.clone(), second.clone()], true);
        scene.fake.instead(move |method, path, _| {
            // The replica that comes later may still try when the other signs already.
            if *method != Method::GET && path.contains(BUNDLES) && std::mem::take(&mut is_first) {
                assert!(seen.iter().all(|seen| issuing(seen).is_none()), "published before anybody signs");
            }
            None
        });
        let (looked, too) = tokio::join!(one.look(), two.look());
        looked.unwrap();
        too.unwrap();
        let (mut again, third) = scene.replica().await;
        again.look().await.unwrap();
        assert!(
            issuing(&first).is_some() && issuing(&first) == issuing(&second) && issuing(&second) == issuing(&third)
        );
        assert_eq!(published(&scene.fake), [root(&first).unwrap()]);
        assert_eq!(trouble(&first), "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_renewal_changes_the_issuing_ca_alone() {
    each(Scene::all(), async |scene| {
        let ((mut one, first), (mut two, second)) = (scene.replica().await, scene.replica().await);
        until(&mut [&mut one, &mut two], || root(&second).is_some()).await;
        let (old, above) = (issuing(&first), root(&first));
        scene.renew();
        until(&mut [&mut one, &mut two], || issuing(&first) != old && issuing(&second) != old).await;
        assert!(issuing(&first).is_some() && issuing(&first) == issuing(&second));
        assert_eq!((root(&first), phase(&first)), (above, "stable"));
        let number = first.borrow().view.as_ref().unwrap().number;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            one.look().await.unwrap();
            two.look().await.unwrap();
        }
        assert_eq!(first.borrow().view.as_ref().unwrap().number, number, "once");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_root_signs_when_it_was_published_for_long_enough() {
    each(Scene::all(), async |mut scene| {
        let ((mut one, first), (mut two, second)) = (scene.replica().await, scene.replica().await);
        until(&mut [&mut one, &mut two], || root(&second).is_some()).await;
        let old = root(&first).unwrap();
        let begun = Instant::now();
        scene.rotate();
        until(&mut [&mut one, &mut two], || phase(&first) == "distribute" && phase(&second) == "distribute").await;
        let both: BTreeSet<String> = published(&scene.fake).iter().map(ToString::to_string).collect();
        assert!(both.len() == 2 && (root(&first), root(&second)) == (Some(old), Some(old)));
        until(&mut [&mut one, &mut two], || {
            let roots = [root(&first), root(&second)].map(|root| root.expect("signing never stops"));
            let is_new = roots.iter().any(|root| *root != old);
            assert!(!is_new || begun.elapsed() > Duration::from_millis(800), "nobody can have learnt of it yet");
            assert!(roots.iter().all(|root| both.contains(&root.to_string())));
            phase(&first) == "drain" && phase(&second) == "drain"
        })
        .await;
        let new = root(&first).unwrap();
        assert!(new != old && root(&second) == Some(new));
        assert_eq!(published(&scene.fake).len(), 2, "what the old one signed lives");
        until(&mut [&mut one, &mut two], || phase(&first) == "stable" && phase(&second) == "stable").await;
        assert_eq!(published(&scene.fake), [new]);
        assert!(scene.fake.get(ROOTS).unwrap()["data"].get("next.key").is_none(), "the old key is gone");
        for _ in 0..5 {
            one.look().await.unwrap();
        }
        assert_eq!((published(&scene.fake), phase(&first)), (vec![new], "stable"), "once");
    })
    .await;
}

/// Each look is the first of a process, but where somebody has to watch the bundle; every other write fails on its way.
#[tokio::test(start_paused = true)]
async fn processes_that_die_at_every_edge_end_where_one_would() {
    each(Scene::all(), async |mut scene| {
        let writes = std::sync::atomic::AtomicUsize::new(0);
        scene.fake.instead(move |method, _, _| {
            let is_lost =
                *method != Method::GET && writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(2);
            let (code, status) = refusal(500, "InternalError", "x");
            is_lost.then_some(Instead::Json(code, status))
        });
        let mut roots = Vec::new();
        let mut go_on = async |scene: &Scene, phase: &str| {
            let begun = Instant::now();
            loop {
                let (mut keeper, authority) = scene.replica().await;
                let looked = keeper.look().await;
                roots.extend(root(&authority));
                if looked.is_ok() && root(&authority).is_some() && super::phase(&authority) == phase {
                    return (keeper, authority);
                }
                assert!(begun.elapsed() < Duration::from_secs(60), "it does not come to {phase}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let (_, first) = go_on(&scene, "stable").await;
        let old = root(&first).unwrap();
        scene.rotate();
        let watch = async |(mut keeper, authority): (Keeper, watch::Receiver<Authority>)| {
            let (begun, watched) = (Instant::now(), super::phase(&authority));
            while super::phase(&authority) == watched {
                drop(keeper.look().await);
                assert!(begun.elapsed() < Duration::from_secs(60), "{watched} does not end");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let distribute = go_on(&scene, "distribute").await;
        assert_eq!(root(&distribute.1), Some(old));
        watch(distribute).await;
        watch(go_on(&scene, "drain").await).await;
        let (_, last) = go_on(&scene, "stable").await;
        let new = root(&last).unwrap();
        assert_eq!(published(&scene.fake), [new]);
        let signed: BTreeSet<String> = roots.iter().map(ToString::to_string).collect();
        assert_eq!(signed, [old, new].iter().map(ToString::to_string).collect(), "no third one came of it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_where_nothing_is_brought() {
    each(Scene::all_brought(), async |scene| {
        scene.take_away();
        let (mut keeper, authority) = scene.replica().await;
        keeper.look().await.unwrap();
        assert!(matches!(authority.borrow().issuer, Err(Hold::AuthorityUnusable)));
        assert!(trouble(&authority).contains("there is none: write tls.crt"), "{}", trouble(&authority));
        assert!([SIGNING, ROOTS, BUNDLE].iter().all(|path| scene.fake.get(path).is_none()));
        scene.bring(&scene.foreign.issuing());
        until(&mut [&mut keeper], || root(&authority) == Some(scene.foreign.fingerprint())).await;
        assert_eq!(trouble(&authority), "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_is_told_and_the_last_good_one_signs_on() {
    each(Scene::all_brought(), async |scene| {
        let (mut keeper, authority) = scene.replica().await;
        keeper.look().await.unwrap();
        let good = issuing(&authority);
        let stranger = Foreign::new().issuing();
        let text = |data: &SecretData, field: &str| String::from_utf8(data[field].0.clone()).unwrap();
        let of_another = brought(
            &text(&stranger, "tls.crt"),
            &text(&scene.foreign.issuing(), "tls.key"),
            &text(&stranger, "ca.crt"),
        );
        for (spoilt, said) in [
            (SecretData::new(), "there is none"),
            (brought("x", "y", "z"), "tls.crt holds no readable certificate"),
            (of_another, "tls.key does not belong to the certificate"),
        ] {
            scene.bring(&spoilt);
            until(&mut [&mut keeper], || trouble(&authority).contains(said)).await;
            // A replica that starts now has it from our own Secrets.
            let (mut fresh, other) = scene.replica().await;
            fresh.look().await.unwrap();
            assert_eq!((issuing(&authority), issuing(&other)), (good, good), "{said}");
            assert!(trouble(&other).contains(said), "{}", trouble(&other));
            assert_eq!((phase(&other), published(&scene.fake).len()), ("stable", 1));
        }
        scene.bring(&scene.foreign.issuing());
        until(&mut [&mut keeper], || trouble(&authority).is_empty() && issuing(&authority) != good).await;
        assert_eq!(root(&authority), Some(scene.foreign.fingerprint()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn our_own_secrets_come_again_from_what_is_brought_and_never_from_another() {
    each(Scene::all_brought(), async |scene| {
        let (mut keeper, authority) = scene.replica().await;
        keeper.look().await.unwrap();
        let before = root(&authority);
        for lost in [&[ROOTS][..], &[SIGNING], &[ROOTS, SIGNING]] {
            lost.iter().for_each(|path| scene.fake.remove(path));
            let (mut fresh, other) = scene.replica().await;
            until(&mut [&mut fresh], || lost.iter().all(|path| scene.fake.get(path).is_some())).await;
            assert_eq!((root(&other), published(&scene.fake).len()), (before, 1), "{lost:?}");
        }
        // The trust that is about is in neither.
        scene.bring(&Foreign::new().issuing());
        [ROOTS, SIGNING].iter().for_each(|path| scene.fake.remove(path));
        let (mut fresh, other) = scene.replica().await;
        fresh.look().await.unwrap();
        assert!(matches!(other.borrow().issuer, Err(Hold::AuthorityUnusable)));
        assert!(scene.fake.get(ROOTS).is_none() && published(&scene.fake) == [before.unwrap()]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_brought_no_more_never_signs() {
    each(Scene::all_brought(), async |mut scene| {
        let (mut keeper, authority) = scene.replica().await;
        keeper.look().await.unwrap();
        let (first, issuing) = (root(&authority).unwrap(), scene.foreign.issuing());
        scene.rotate();
        let mistaken = scene.foreign.fingerprint();
        until(&mut [&mut keeper], || phase(&authority) == "distribute").await;
        assert!(published(&scene.fake).contains(&mistaken));
        // A third one comes in its place.
        scene.rotate();
        let third = scene.foreign.fingerprint();
        until(&mut [&mut keeper], || published(&scene.fake).contains(&third)).await;
        assert!(!published(&scene.fake).contains(&mistaken) && root(&authority) == Some(first));
        // And then the first one again.
        scene.bring(&issuing);
        until(&mut [&mut keeper], || phase(&authority) == "stable" && published(&scene.fake) == [first]).await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            keeper.look().await.unwrap();
        }
        assert_eq!((root(&authority), phase(&authority)), (Some(first), "stable"));
        assert!(scene.fake.get(ROOTS).unwrap()["data"].get("next.key").is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_way_takes_over_from_the_other_by_a_rotation() {
    let mut scene = Scene::new(Way::SelfManaged);
    let (mut keeper, made) = scene.replica().await;
    keeper.look().await.unwrap();
    let own = root(&made).unwrap();
    scene.way = Way::Secret;
    scene.bring(&scene.foreign.issuing());
    let (mut keeper, authority) = scene.replica().await;
    until(&mut [&mut keeper], || {
        assert!(root(&authority).is_none_or(|root| root == own || phase(&authority) != "distribute"));
        phase(&authority) == "drain"
    })
    .await;
    assert_eq!(root(&authority), Some(scene.foreign.fingerprint()));
    until(&mut [&mut keeper], || phase(&authority) == "stable").await;

    scene.way = Way::SelfManaged;
    let (mut keeper, authority) = scene.replica().await;
    keeper.look().await.unwrap();
    assert_eq!(root(&authority), Some(scene.foreign.fingerprint()), "it signs until another one is published");
    until(&mut [&mut keeper], || phase(&authority) == "drain").await;
    assert!(![Some(own), Some(scene.foreign.fingerprint())].contains(&root(&authority)), "a new one of our own");
}

#[tokio::test(start_paused = true)]
async fn nobody_rotates_what_is_brought_but_who_brings_it() {
    let scene = Scene::new(Way::Secret);
    let (mut keeper, authority) = scene.replica().await;
    keeper.look().await.unwrap();
    let before = (issuing(&authority), root(&authority));
    ask(&scene.fake, ROTATE, "now");
    ask(&scene.fake, RENEW, "1");
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        keeper.look().await.unwrap();
    }
    assert_eq!((issuing(&authority), root(&authority)), before);
    let view = authority.borrow().view.clone().unwrap();
    let annotations = [(ROTATE.to_owned(), "now".to_owned()), (RENEW.to_owned(), "1".to_owned())].into();
    for answered in crate::authority::wish::answers(&annotations, Some(&view), None) {
        assert!(answered.message.contains("is brought in the Secret my-ca"), "{answered:?}");
    }
}
