//! The rights of a CA's administrator: enough for everything `kubectl podmint` does to a CA, and not one too many. The signer is away
//! meanwhile, so that nobody but the administrator changes anything.

use podmint_signer::pace::Pace;
use podmint_tests::install::{self, PODSIGNERS, Right};
use podmint_tests::kept::Scratch;
use podmint_tests::server::Settings;
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, Who, assets, call};
use serde_json::{Value, json};
use tokio::process::Command;

#[test]
fn every_right_of_an_administrator_is_needed() {
    podmint_tests::run(async {
        let bed = Bed::own(Settings::of("1.37.2")).await;
        install::crd(&bed).await;
        let office = Office::open(&bed).await;
        if let Err(said) = office.day("all", None).await {
            panic!("with all rights this failed: {said}");
        }
        let mut surplus = Vec::new();
        for (number, right) in install::rights_of_administrators().iter().enumerate() {
            let day = office.day(&format!("lacks-{number}"), Some(right)).await;
            let is_for_want_of_it = |said: &String| said.contains("you may not") || said.contains("403");
            assert!(day.as_ref().err().is_none_or(is_for_want_of_it), "without {right}: {day:?}");
            eprintln!("without {right}: {}", day.as_ref().err().map_or("nothing failed", String::as_str));
            // Kubernetes lets every ServiceAccount read them (system:cluster-trust-bundle-discovery), as which this story runs; people need it.
            let is_everybodys = right.to_string().starts_with("get clustertrustbundles ");
            if day.is_ok() && !is_everybodys {
                surplus.push(right.to_string());
            }
        }
        assert!(surplus.is_empty(), "nothing fails without these rights, so nobody needs them: {surplus:#?}");
    });
}

/// A CA in the middle of a rotation, and a backup of it.
struct Office {
    stage: Stage,
    scratch: Scratch,
    backup: String,
}

impl Office {
    async fn open(bed: &Bed) -> Self {
        let (stage, scratch) = (Stage::open(bed, "office").await, Scratch::new());
        let mut object = stage.a_signer().object();
        object["metadata"]["name"] = json!(stage.namespace);
        object["metadata"]["annotations"] = json!({});
        install::apply(&stage.admin, &object).await;
        let signer = stage.a_signer().from_objects().at(Pace::compressed(120)).start().await.ready().await;
        let path = format!("{PODSIGNERS}/{}", stage.namespace);
        let wish = json!({"metadata": {"annotations": {"podmint.dev/rotate": "now"}}});
        call::patch(&stage.admin, &path, &wish).await.unwrap();
        until("it is in the middle of a rotation", async || {
            let now = call::get(&stage.admin, &path).await.ok()?;
            (now["status"]["authority"]["phase"] == "drain").then_some(())
        })
        .await;
        signer.stop().await;
        let backup = scratch.join("backup").to_str().unwrap().to_owned();
        let office = Self { stage, scratch, backup };
        let account = office.hire("first", None).await;
        office.runs(&account, 0, &["ca", "backup", office.name(), "--to", &office.backup]).await.unwrap();
        office
    }

    fn name(&self) -> &str {
        &self.stage.namespace
    }

    /// An account with the shipped roles, all but that right.
    async fn hire(&self, name: &str, missing: Option<&Right>) -> String {
        let account = self.stage.account(name).await;
        install::administer(&self.stage.bed, &self.stage.signer_namespace, &account.name, missing).await;
        account.name
    }

    /// What an administrator does, as far as that right can matter. The error is the first thing that failed.
    async fn day(&self, name: &str, missing: Option<&Right>) -> Result<(), String> {
        let account = self.hire(name, missing).await;
        let is_about = |resources: &[&str]| missing.is_none_or(|right| resources.contains(&right.resource.as_str()));
        if is_about(&["podsigners"]) {
            self.edits(&account).await?;
            self.runs(&account, 0, &["resume", self.name()]).await?;
        }
        if is_about(&["secrets", "clustertrustbundles", "signers"]) {
            for spoil in [Spoil::Gone, Spoil::Edited] {
                self.spoil(spoil).await;
                self.runs(&account, 0, &["ca", "restore", &self.backup, "--confirm"]).await?;
            }
        }
        if is_about(&["pods", "podcertificaterequests", "clustertrustbundles"]) {
            self.runs(&account, 1, &["withdraw", self.name()]).await?;
        }
        Ok(())
    }

    /// PodSigners, by hand.
    async fn edits(&self, account: &str) -> Result<(), String> {
        let client = self.stage.bed.client(&Who::service_account(&self.stage.namespace, account)).await;
        let (name, secret) = (format!("{account}-own"), format!("{account}-ca"));
        let object = json!({
            "apiVersion": "podmint.dev/v1alpha1", "kind": "PodSigner", "metadata": {"name": name},
            "spec": {"signerName": format!("podmint.dev/{name}"), "trustDomain": "a.example",
                "authority": {"selfManaged": {"secretName": secret}}},
        });
        let path = format!("{PODSIGNERS}/{name}");
        let said = |what: &str| {
            let what = what.to_owned();
            move |why: call::Refused| format!("{what}: {why}")
        };
        let mut made = call::post(&client, PODSIGNERS, &object).await.map_err(said("create"))?;
        made["spec"]["suspend"] = json!(true);
        call::put(&client, &path, &made).await.map_err(said("update"))?;
        call::text(&client, &format!("{PODSIGNERS}?watch=true&timeoutSeconds=1")).await.map_err(said("watch"))?;
        call::delete(&client, &path).await.map_err(said("delete"))?;
        Ok(())
    }

    async fn runs(&self, account: &str, status: i32, words: &[&str]) -> Result<(), String> {
        let kubeconfig = self.stage.bed.kubeconfig(&self.stage.namespace, account).await;
        let mut command = Command::new(assets::binary("kubectl-podmint"));
        command.args(words).arg("--kubeconfig").arg(self.scratch.write("kubeconfig", &kubeconfig));
        let done = command.arg("--namespace").arg(&self.stage.signer_namespace).output().await.unwrap();
        let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
        if done.status.code() == Some(status) { Ok(()) } else { Err(format!("{}: {said}", words.join(" "))) }
    }

    async fn spoil(&self, spoil: Spoil) {
        let admin = &self.stage.admin;
        let mut paths: Vec<String> = ["podmint-ca", "podmint-ca-root"]
            .map(|name| format!("/api/v1/namespaces/{}/secrets/{name}", self.stage.signer_namespace))
            .into();
        for bundle in self.stage.trust_bundles().await {
            let name = bundle["metadata"]["name"].as_str().unwrap();
            paths.push(format!("/apis/certificates.k8s.io/v1/clustertrustbundles/{name}"));
        }
        for path in paths {
            let done = match spoil {
                // What an administrator without the right to put it back has left away is away already.
                Spoil::Gone => call::delete(admin, &path).await.or(Ok(Value::Null)),
                Spoil::Edited if path.contains("secrets") => {
                    call::patch(admin, &path, &json!({"data": {"tls.key": null}})).await
                }
                Spoil::Edited => call::patch(admin, &path, &json!({"metadata": {"annotations": null}})).await,
            };
            done.unwrap_or_else(|why: call::Refused| panic!("{path}: {why}"));
        }
    }
}

/// What is wrong before a restore.
#[derive(Clone, Copy)]
enum Spoil {
    Gone,
    Edited,
}
