//! What stands in the way of a backup, a restore and a reset, each before anything is written.

use http::Method;
use serde_json::{Value, json};

use super::{backup::Backup, restore::Sure, *};
use crate::{
    authority::{Generation, Plan, Put, Roots, Write, make, state::Name},
    cluster::{
        fake::{Fake, Instead},
        versions::{BUNDLES, REQUESTS},
    },
    kubectl::Installation,
    names::Namespace,
    pipeline::honest::{NOW, domains, makings, signer},
};

const SIGNING: &str = "/api/v1/namespaces/mint/secrets/podmint-ca";
const ROOT: &str = "/api/v1/namespaces/mint/secrets/podmint-ca-root";
const CONFIRMED: Sure = Sure { confirmed: true, accepts_older: false };
const BUNDLE: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles/podmint.dev:workload:prod";

/// A cluster with one PodSigner and no CA.
fn cluster() -> Fake {
    let fake = Fake::new();
    fake.put("/apis/certificates.k8s.io/v1", json!({"resources": [{"name": REQUESTS}, {"name": BUNDLES}]}));
    hears(&fake, |_| ());
    fake
}

/// Tells of each call that does not list PodSigners.
fn hears(fake: &Fake, mut tell: impl FnMut(&str) + Send + 'static) {
    fake.instead(move |method, path, _| {
        if *method == Method::GET && path.starts_with(PATH) {
            return Some(Instead::Json(200, json!({"items": [pod_signer()]})));
        }
        tell(&format!("{method} {path}"));
        None
    });
}

fn pod_signer() -> Value {
    json!({
        "apiVersion": "podmint.dev/v1alpha1", "kind": "PodSigner", "metadata": {"name": "prod", "uid": "1", "resourceVersion": "1"},
        "spec": {"signerName": "podmint.dev/workload", "trustDomain": "example.org", "allow": [],
            "profile": {"dnsNames": ["{pod}.{namespace}.pod.corp.internal"]}},
    })
}

async fn desk(fake: &Fake) -> Desk {
    let [domain, cluster_domain] = ["podmint.dev", "corp.internal"].map(|domain| DnsName::parse(domain).unwrap());
    let installation = Installation { domain, namespace: Namespace::parse("mint").unwrap(), cluster_domain };
    Desk::over(fake.calls(), installation, "prod").await.unwrap()
}

fn roots() -> Roots {
    let (signer, domains) = (signer(), domains());
    Roots::first(make::root(&makings(&signer, &domains, NOW)).unwrap())
}

fn below(roots: &Roots) -> Generation {
    of(roots, 1)
}

fn of(roots: &Roots, number: u64) -> Generation {
    let (signer, domains) = (signer(), domains());
    let below = Some(roots.held().current.fingerprint);
    let put = Put { name: Name::Issue, plan: Plan::new(number, 86_400), below, write: Write::Create };
    make::signing(&put, None, Some(roots), &makings(&signer, &domains, NOW)).unwrap()
}

fn keep(fake: &Fake, path: &str, data: &SecretData) {
    let name = path.rsplit('/').next().unwrap();
    fake.put(path, json!({"metadata": {"name": name, "resourceVersion": "1"}, "data": data}));
}

fn keep_signing(fake: &Fake, roots: &Roots) {
    keep(fake, SIGNING, &below(roots).data().unwrap());
}

fn publish(fake: &Fake, roots: &[&Roots], marked: Option<&Roots>) {
    let text: String = roots.iter().map(|roots| below(roots).trust_bundle()).collect();
    let marked = marked.map(|roots| roots.held().current.fingerprint.to_string());
    let mut metadata = json!({"name": BUNDLE.rsplit('/').next().unwrap(), "resourceVersion": "1"});
    if let Some(marked) = marked {
        metadata["annotations"] = json!({"podmint.dev/signing-root": marked});
    }
    fake.put(
        BUNDLE,
        json!({"metadata": metadata, "spec": {"signerName": "podmint.dev/workload", "trustBundle": text}}),
    );
}

/// A CA as it is to be.
fn sound() -> (Fake, Roots) {
    let (fake, roots) = (cluster(), roots());
    keep_signing(&fake, &roots);
    keep(&fake, ROOT, &roots.data());
    publish(&fake, &[&roots], Some(&roots));
    (fake, roots)
}

fn spoilt() -> SecretData {
    [("tls.key".to_owned(), k8s_openapi::ByteString(b"x".to_vec()))].into()
}

fn writes(fake: &Fake) -> usize {
    ["POST", "PUT", "PATCH", "DELETE"].map(|method| fake.count(method)).into_iter().sum()
}

#[tokio::test]
async fn no_backup_is_written_of_what_could_not_be_restored() {
    let (fake, _) = sound();
    let taken = desk(&fake).await.backup().await.unwrap();
    assert!(Backup::read(&taken.file).unwrap().keys().is_ok());
    for (path, data, words) in [
        (SIGNING, SecretData::new(), "the Secret of the issuing CA: the Secret is empty"),
        (SIGNING, spoilt(), "the Secret of the issuing CA: "),
        (ROOT, SecretData::new(), "the Secret of the root: the Secret is empty"),
        (ROOT, spoilt(), "the Secret of the root: "),
        (ROOT, roots().data(), "and the issuing CA is under"),
    ] {
        let (fake, _) = sound();
        keep(&fake, path, &data);
        let Err(why) = desk(&fake).await.backup().await else { panic!("a backup was written: {words}") };
        let why = why.to_string();
        assert!(why.contains("no backup was written") && why.contains(words), "{why}");
    }
}

#[tokio::test]
async fn a_backup_whose_parts_are_not_of_one_ca_is_not_restored() {
    let (fake, _, mut other) = backed_up().await;
    other.root = roots().data();
    let sure = Sure { confirmed: true, accepts_older: true };
    let why = desk(&fake).await.restore(&other, sure).await.unwrap_err().to_string();
    assert!(why.contains("this backup cannot be used: the Secret of the root holds the key of"), "{why}");
    assert_eq!(writes(&fake), 0);
}

/// A backup of a sound CA, and its cluster.
async fn backed_up() -> (Fake, Roots, Backup) {
    let (fake, roots) = sound();
    let taken = desk(&fake).await.backup().await.unwrap();
    (fake, roots, Backup::read(&taken.file).unwrap())
}

/// Whether the cluster holds what the backup does, the mark on the trust bundle included.
fn is_back(fake: &Fake, roots: &Roots, backup: &Backup) -> bool {
    let data = |path| serde_json::from_value::<SecretData>(fake.get(path)?["data"].clone()).ok();
    let Some(bundle) = fake.get(BUNDLE) else { return false };
    let marked = roots.held().current.fingerprint.to_string();
    data(SIGNING).as_ref() == Some(&backup.signing)
        && data(ROOT).as_ref() == Some(&backup.root)
        && bundle["spec"]["trustBundle"] == backup.trust_bundle
        && bundle["metadata"]["annotations"]["podmint.dev/signing-root"] == marked
}

#[tokio::test]
async fn a_restore_brings_back_every_part_and_touches_no_other() {
    for gone in [&[SIGNING][..], &[ROOT], &[BUNDLE], &[SIGNING, ROOT, BUNDLE]] {
        let (fake, roots, backup) = backed_up().await;
        gone.iter().for_each(|path| fake.remove(path));
        let shown = desk(&fake).await.restore(&backup, Sure::default()).await.unwrap();
        assert!(!shown.is_done && shown.text.contains("Nothing was changed") && writes(&fake) == 0, "{}", shown.text);
        assert!(desk(&fake).await.restore(&backup, CONFIRMED).await.unwrap().is_done);
        assert!(is_back(&fake, &roots, &backup) && writes(&fake) == gone.len(), "{gone:?}");
        let again = desk(&fake).await.restore(&backup, CONFIRMED).await.unwrap();
        assert!(again.text.contains("There is nothing to restore") && writes(&fake) == gone.len());
    }
    // A bundle of which only the mark, or only a root, is another.
    let others: [fn(&Fake, &Roots); 2] = [
        |fake, roots| publish(fake, &[roots], None),
        |fake, roots| publish(fake, &[roots, &self::roots()], Some(roots)),
    ];
    for change in others {
        let (fake, roots, backup) = backed_up().await;
        change(&fake, &roots);
        assert!(desk(&fake).await.restore(&backup, CONFIRMED).await.unwrap().is_done);
        assert!(is_back(&fake, &roots, &backup));
    }
}

#[tokio::test]
async fn a_signer_that_repairs_the_bundle_first_is_no_trouble() {
    let (fake, roots, backup) = backed_up().await;
    fake.remove(ROOT);
    publish(&fake, &[&roots], None);
    let server = fake.clone();
    hears(&fake, move |call| {
        if call.starts_with("POST") {
            let mut repaired = server.get(BUNDLE).unwrap();
            repaired["metadata"]["resourceVersion"] = json!("2");
            server.put(BUNDLE, repaired);
        }
    });
    assert!(desk(&fake).await.restore(&backup, CONFIRMED).await.unwrap().is_done);
}

#[tokio::test]
async fn a_backup_of_another_signer_or_an_older_one_is_refused() {
    let (fake, roots, mut backup) = backed_up().await;
    keep(&fake, SIGNING, &of(&roots, 2).data().unwrap());
    let why = desk(&fake).await.restore(&backup, CONFIRMED).await.unwrap_err().to_string();
    assert!(why.contains("goes back to 1") && writes(&fake) == 0, "{why}");
    assert!(desk(&fake).await.restore(&backup, Sure { accepts_older: true, ..CONFIRMED }).await.unwrap().is_done);
    backup.signer_name = "podmint.dev/other".to_owned();
    let why = desk(&fake).await.restore(&backup, CONFIRMED).await.unwrap_err().to_string();
    assert!(why.contains("this is a backup of the CA of podmint.dev/other"), "{why}");
}

#[tokio::test]
async fn what_is_no_backup_is_told_without_its_words() {
    let (fake, _) = sound();
    let taken = desk(&fake).await.backup().await.unwrap();
    let text = std::str::from_utf8(&taken.file).unwrap();
    for (file, words) in [
        (" \n".to_owned(), "the file is empty"),
        (text.replace("\"schema\":1", "\"schema\":2"), "its schema is 2, and this version reads 1"),
        (text.replace("\"signing\"", "\"unheardOf\""), "writes no such thing as stands at line 1"),
    ] {
        let Err(why) = Backup::read(file.as_bytes()) else { panic!("it was read: {words}") };
        let why = why.to_string();
        assert!(why.contains(words) && !why.contains("unheardOf"), "{why}");
    }
}

#[tokio::test]
async fn a_restore_writes_over_nothing_that_it_has_not_read() {
    let (fake, _, backup) = backed_up().await;
    // The signer makes another issuing CA just after the command has looked.
    keep(&fake, SIGNING, &SecretData::new());
    let server = fake.clone();
    hears(&fake, move |call| {
        if call == format!("GET {ROOT}") {
            let mut meanwhile = server.get(SIGNING).unwrap();
            meanwhile["metadata"]["resourceVersion"] = json!("2");
            server.put(SIGNING, meanwhile);
        }
    });
    let why = desk(&fake).await.restore(&backup, CONFIRMED).await.unwrap_err().to_string();
    assert!(why.contains("perhaps the signer, wrote the Secret podmint-ca meanwhile"), "{why}");
    assert_eq!(fake.get(SIGNING).unwrap()["data"], json!({}), "it is as the other left it");
    hears(&fake, |_| ());
    assert!(desk(&fake).await.restore(&backup, CONFIRMED).await.unwrap().is_done);
    let found: SecretData = serde_json::from_value(fake.get(SIGNING).unwrap()["data"].clone()).unwrap();
    assert!(found == backup.signing, "the second time it is");
}

#[tokio::test]
async fn nothing_is_given_up_while_something_stands_in_the_way() {
    let refused = async |change: &dyn Fn(&Fake, &Roots), words: &str| {
        let (fake, roots) = sound();
        fake.remove(ROOT);
        change(&fake, &roots);
        let why = desk(&fake).await.reset(true).await.unwrap_err().to_string();
        assert!(why.contains(words), "{words}: {why}");
        assert_eq!(writes(&fake), 0, "{words}");
    };
    refused(&|fake, roots| keep(fake, ROOT, &roots.data()), "is not lost, the Secret podmint-ca-root has it").await;
    refused(&|fake, _| keep(fake, ROOT, &roots().data()), "the Secret podmint-ca-root holds another root").await;
    refused(&|fake, _| keep(fake, ROOT, &spoilt()), "the Secret podmint-ca-root cannot be used").await;
    refused(&|fake, _| keep_signing(fake, &roots()), "the Secret podmint-ca is under another root").await;
    refused(&|fake, _| keep(fake, SIGNING, &spoilt()), "the Secret podmint-ca cannot be used").await;
    refused(&|fake, _| fake.remove(BUNDLE), "no root of PodSigner prod is published").await;
    refused(&|fake, old| publish(fake, &[old, &roots()], None), "does not say which one signed").await;
    // A mark that speaks of none of them says nothing.
    refused(&|fake, old| publish(fake, &[old, &roots()], Some(&roots())), "does not say which one signed").await;
}

#[tokio::test]
async fn a_reset_says_what_it_would_do_before_it_does_it() {
    let said = async |change: &dyn Fn(&Fake, &Roots)| {
        let (fake, roots) = sound();
        fake.remove(ROOT);
        change(&fake, &roots);
        let Outcome { text, is_done } = desk(&fake).await.reset(false).await.unwrap();
        assert!(!is_done && writes(&fake) == 0 && text.contains("Nothing was changed"), "{text}");
        assert!(text.contains(&roots.held().current.fingerprint.to_string()), "{text}");
        text
    };
    let rotation = "this becomes a rotation like any other";
    assert!(said(&|_, _| ()).await.contains(rotation));
    assert!(
        said(&|fake, _| keep(fake, ROOT, &SecretData::new())).await.contains(rotation),
        "an empty one is lost, too"
    );
    // Of two roots the mark says which one signed.
    assert!(said(&|fake, roots| publish(fake, &[&self::roots(), roots], Some(roots))).await.contains(rotation));
    for gone in [true, false] {
        let change = move |fake: &Fake, _: &Roots| {
            if gone { fake.remove(SIGNING) } else { keep(fake, SIGNING, &SecretData::new()) }
        };
        assert!(said(&change).await.contains("Its issuing CA is lost, too"));
    }
}
