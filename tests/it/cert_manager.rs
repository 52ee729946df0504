//! cert-manager's own controllers write the CA that is brought: the `Certificate` of our docs, below a root that is a `Certificate`, too.

use std::collections::BTreeSet;

use podmint_signer::authority::{Origin, trace};
use podmint_tests::assets::{self, VERSIONS};
use podmint_tests::kept::{Kept, Scratch};
use podmint_tests::signer::MINUTE;
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, call, install};
use serde_json::{Value, json};

use crate::brought::{SECRET, allow, troubles};
use crate::hand::{path, secret};
use crate::rotate::{Witness, issuing, paced, pems, waits};

/// It renews the issuing CA, and then makes another root: two replicas, certificates all the while.
#[test]
fn a_ca_of_cert_manager_is_renewed_and_replaced_and_nobody_is_refused() {
    podmint_tests::run(async {
        let stage = Stage::open(&Bed::shared(VERSIONS[0]).await, "cert-manager").await;
        allow(&stage).await;
        let cert_manager = CertManager::start(&stage).await;
        let plan = || paced(&stage).with("authority", json!({"secret": {"name": SECRET}}));
        // It is there before its CA is.
        let first = plan().start().await;
        cert_manager.make_authorities().await;
        let first = first.ready().await;
        let second = plan().called("replica-b").start().await.ready().await;

        let pod = stage.any_pod().await;
        let before = stage.issued(&stage.request_for(&pod).make().await).await;
        let roots = stage.published_roots().await;
        let old = BTreeSet::from([cert_manager.root().await]);
        assert_eq!(pems(&roots), old, "the root of its issuer, and nothing else");

        cert_manager.renew(SECRET).await;
        // A minute after it was made.
        waits("the next issuing CA signs", async || {
            let status = stage.issued(&stage.request_for(&pod).make().await).await;
            assert!(matches!(trace(status["certificateChain"].as_str()?, &roots), Origin::Ours { .. }));
            (issuing(&status) != issuing(&before)).then_some(())
        })
        .await;
        assert_eq!(stage.published_roots().await, roots, "pods trust it already");

        // cert-manager makes a root anew, and renews nothing below it by itself.
        call::delete(&stage.admin, &path(&stage, ROOT)).await.unwrap();
        let new = until("there is another root", async || {
            let root = part(&secret(&stage, ROOT).await?, "tls.crt")?;
            (!old.contains(&root)).then_some(root)
        })
        .await;
        never("a root is published that is not brought", MINUTE, async || {
            let published = stage.published_roots().await;
            (published != roots).then_some(published)
        })
        .await;

        let mut witness = Witness::new(&stage, &pod).await;
        // An issuer may sign with the old root yet, when it has not heard of the new one.
        while cert_manager.root().await != new {
            cert_manager.renew(SECRET).await;
        }
        assert_eq!(witness.hands_over().await, BTreeSet::from([new]));
        for signer in [first, second] {
            assert!(signer.metric("podmint_signer_foreign_issuance_total", &[]).await < 0.5);
            assert!(troubles(&signer).await < 0.5);
            signer.stop().await;
        }
    });
}

/// Its controllers, for the namespace of one story.
struct CertManager<'s> {
    stage: &'s Stage,
    process: Kept,
    _scratch: Scratch,
}

impl<'s> CertManager<'s> {
    async fn start(stage: &'s Stage) -> Self {
        let program = assets::go_program("cert-manager");
        for file in std::fs::read_dir(program.with_file_name("cert-manager-crds")).unwrap() {
            let crd = std::fs::read_to_string(file.unwrap().path()).unwrap();
            install::apply(&stage.admin, &serde_saphyr::from_str(&crd).unwrap()).await;
        }
        let scratch = Scratch::new();
        let kubeconfig = scratch.join("kubeconfig");
        std::fs::write(&kubeconfig, stage.bed.server().unwrap().admin_kubeconfig()).unwrap();
        let arguments = [kubeconfig.to_str().unwrap(), &stage.signer_namespace];
        let this = Self {
            stage,
            process: Kept::start(&program, &arguments, &scratch.join("cert-manager.log")),
            _scratch: scratch,
        };
        for resource in ["issuers", "certificates"] {
            until(format!("{resource} are served"), async || {
                call::get(&stage.admin, &this.path(resource, "")).await.ok()
            })
            .await;
        }
        this
    }

    fn path(&self, resource: &str, name: &str) -> String {
        let namespace = &self.stage.signer_namespace;
        format!("/apis/cert-manager.io/v1/namespaces/{namespace}/{resource}/{name}").trim_end_matches('/').to_owned()
    }

    /// An issuer that signs itself, a root of it, an issuer of that root, and the issuing CA as our docs say it.
    async fn make_authorities(&self) {
        let issuer = |name: &str, spec: Value| json!({"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": name}, "spec": spec});
        let root = json!({
            "apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": ROOT},
            "spec": {
                "isCA": true, "secretName": ROOT, "commonName": "Root of cert-manager", "duration": "87600h",
                "privateKey": {"algorithm": "ECDSA", "size": 256}, "issuerRef": {"name": "self-signed", "kind": "Issuer"},
            },
        });
        let mut brought = documented();
        brought["metadata"]["namespace"] = json!(self.stage.signer_namespace);
        assert_eq!((&brought["metadata"]["name"], &brought["spec"]["secretName"]), (&json!(SECRET), &json!(SECRET)));
        brought["spec"]["issuerRef"] = json!({"name": ROOT, "kind": "Issuer"});
        self.make("issuers", &issuer("self-signed", json!({"selfSigned": {}}))).await;
        self.make("certificates", &root).await;
        self.make("issuers", &issuer(ROOT, json!({"ca": {"secretName": ROOT}}))).await;
        self.make("certificates", &brought).await;
        self.has_written(SECRET, None).await;
    }

    async fn make(&self, resource: &str, object: &Value) {
        call::post(&self.stage.admin, &self.path(resource, ""), object).await.unwrap();
    }

    /// What `cmctl renew` does.
    async fn renew(&self, name: &str) {
        let before = self.written(name).await.unwrap();
        let path = self.path("certificates", name);
        until("it is asked for", async || {
            let mut certificate = call::get(&self.stage.admin, &path).await.ok()?;
            let generation = certificate["metadata"]["generation"].clone();
            let conditions = certificate["status"]["conditions"].as_array_mut()?;
            conditions.retain(|condition| condition["type"] != "Issuing");
            conditions.push(json!({
                "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "by hand",
                "observedGeneration": generation,
            }));
            call::put(&self.stage.admin, &format!("{path}/status"), &certificate).await.ok()
        })
        .await;
        self.has_written(name, Some(&before)).await;
    }

    async fn has_written(&self, name: &str, before: Option<&str>) {
        until(format!("cert-manager writes {name}\n{}", self.process.last_words()), async || {
            self.written(name).await.filter(|now| Some(now.as_str()) != before)
        })
        .await;
    }

    async fn written(&self, name: &str) -> Option<String> {
        part(&secret(self.stage, name).await?, "tls.crt")
    }

    /// What it writes as the root of the issuing CA.
    async fn root(&self) -> String {
        part(&secret(self.stage, SECRET).await.unwrap(), "ca.crt").unwrap()
    }
}

/// One certificate of a Secret of cert-manager.
fn part(secret: &Value, name: &str) -> Option<String> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.decode(secret["data"][name].as_str()?).ok()?;
    pems(std::str::from_utf8(&text).ok()?).pop_first()
}

/// The `Certificate` that our docs give.
fn documented() -> Value {
    let text = std::fs::read_to_string(assets::root().join("docs/podsigner.md")).unwrap();
    let blocks = text.split("```yaml\n").filter_map(|rest| rest.split("```").next());
    let block = blocks.into_iter().find(|block| block.contains("kind: Certificate\n"));
    serde_saphyr::from_str(block.expect("docs/podsigner.md has a Certificate")).unwrap()
}

const ROOT: &str = "my-root";
