//! CAs that somebody brings, in a Secret as cert-manager writes one, or in files: they are renewed and replaced, lost and spoilt, and nobody
//! is refused.

use std::collections::BTreeSet;

use futures::future::join_all;
use podmint_signer::authority::{Origin, trace};
use podmint_tests::kept::Scratch;
use podmint_tests::signer::{MINUTE, Signer, SignerPlan};
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, call, on_every_bed};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::hand::{path, secret, state};
use crate::rotate::{Witness, is_in, issuing, paced, pems, reaches};

on_every_bed! {
    /// The writer renews the issuing CA, and then brings another root: two replicas, certificates all the while.
    async fn a_brought_ca_is_renewed_and_replaced_and_nobody_is_refused(bed: Bed) {
        join_all([false, true].map(|in_files| replaced(bed.clone(), in_files))).await;
    }

    /// From our own CA to one that is brought and back to another of our own: two ordinary rotations.
    async fn a_brought_ca_takes_over_from_our_own_and_gives_back(bed: Bed) {
        let stage = Stage::open(&bed, "brought-back").await;
        allow(&stage).await;
        let (place, writer) = (Place::new(false), Writer::new());
        place.bring(&stage, &writer.issuing()).await;
        let signer = paced(&stage).start().await.ready().await;
        let pod = stage.any_pod().await;
        let ours = pems(&stage.published_roots().await);
        let mut witness = Witness::new(&stage, &pod).await;
        signer.stop().await;
        let signer = place.signer(&stage).start().await.ready().await;
        assert_eq!(witness.hands_over().await, BTreeSet::from([writer.root()]));
        let mut witness = Witness::new(&stage, &pod).await;
        signer.stop().await;
        let signer = paced(&stage).start().await.ready().await;
        let back = witness.hands_over().await;
        assert!(back.len() == 1 && back.is_disjoint(&ours), "the key of the first is gone");
        signer.stop().await;
    }

    /// What is brought is missing, unreadable, spoilt, another's: told, and never followed.
    async fn a_spoilt_secret_of_a_writer_stops_nobody(bed: Bed) {
        let stage = Stage::open(&bed, "brought-spoilt").await;
        let place = Place::new(false);
        let signer = place.signer(&stage).start().await;
        told(&signer).await;
        assert!(secret(&stage, "podmint-ca-root").await.is_none() && signer.readiness().await.is_err());
        let writer = Writer::new();
        let whole = writer.issuing();
        place.bring(&stage, &whole).await;
        if bed.server().is_some() {
            // It is there, and no rule allows to read it.
            never("a CA comes of nothing", MINUTE, async || secret(&stage, "podmint-ca").await.map(|_| "it is there".to_owned())).await;
        }
        allow(&stage).await;
        let signer = signer.ready().await;
        let pod = stage.any_pod().await;
        let good = stage.issued(&stage.request_for(&pod).make().await).await;
        assert!(is_under(&good, &writer));
        let roots = stage.published_roots().await;

        let stranger = Writer::new();
        let [_, key, _] = writer.issuing();
        let [certificate, _, root] = stranger.issuing();
        let words = ["x", "y", "z"].map(str::to_owned);
        for spoilt in [Some(words), Some([certificate, key, root]), None] {
            in_order(&signer).await;
            match spoilt {
                Some(parts) => place.bring(&stage, &parts).await,
                None => drop(call::delete(&stage.admin, &path(&stage, SECRET)).await.unwrap()),
            }
            told(&signer).await;
            let late = place.signer(&stage).called("late").start().await.ready().await;
            told(&late).await;
            let again = stage.issued(&stage.request_for(&pod).make().await).await;
            assert_eq!((issuing(&again), stage.published_roots().await), (issuing(&good), roots.clone()));
            late.stop().await;
            place.bring(&stage, &whole).await;
        }
        in_order(&signer).await;
        place.bring(&stage, &writer.issuing()).await;
        until("the newest one signs", async || {
            let status = stage.issued(&stage.request_for(&pod).make().await).await;
            (issuing(&status) != issuing(&good)).then_some(())
        })
        .await;
        assert_eq!(stage.published_roots().await, roots);
        signer.stop().await;
    }

    /// The writer has written over his Secret, everything of ours stops in the middle of the rotation, and its own Secrets are lost on the way.
    async fn a_restart_goes_on_with_what_was_brought_before(bed: Bed) {
        let stage = Stage::open(&bed, "brought-restart").await;
        allow(&stage).await;
        let (place, old, new) = (Place::new(false), Writer::new(), Writer::new());
        place.bring(&stage, &old.issuing()).await;
        let signer = place.signer(&stage).start().await.ready().await;
        let pod = stage.any_pod().await;
        place.bring(&stage, &new.issuing()).await;
        reaches(&stage, "distribute").await;
        signer.stop().await;
        let signer = place.signer(&stage).start().await.ready().await;
        // On a busy machine that may be over meanwhile.
        let early = async |why: &str| {
            let status = stage.issued(&stage.request_for(&pod).make().await).await;
            assert!(is_under(&status, &old) || !is_in(&stage, "distribute").await, "{why}");
        };
        early("the new root signs when it was published for long enough").await;
        assert_eq!(pems(&stage.published_roots().await).len(), 2);
        call::delete(&stage.admin, &path(&stage, "podmint-ca")).await.unwrap();
        until("it is made again", async || state(&stage).await).await;
        early("from our own copy").await;
        reaches(&stage, "drain").await;
        until("the new root signs", async || {
            let status = stage.issued(&stage.request_for(&pod).make().await).await;
            is_under(&status, &new).then_some(())
        })
        .await;
        signer.stop().await;
    }
}

async fn replaced(bed: Bed, in_files: bool) {
    let stage = Stage::open(&bed, if in_files { "brought-files" } else { "brought-secret" }).await;
    allow(&stage).await;
    let (place, old) = (Place::new(in_files), Writer::new());
    place.bring(&stage, &old.issuing()).await;
    let first = place.signer(&stage).start().await.ready().await;
    let second = place.signer(&stage).called("replica-b").start().await.ready().await;
    let pod = stage.any_pod().await;
    let before = stage.issued(&stage.request_for(&pod).make().await).await;
    let roots = stage.published_roots().await;
    assert!(is_under(&before, &old) && pems(&roots) == BTreeSet::from([old.root()]));

    place.bring(&stage, &old.issuing()).await;
    until("the next issuing CA signs", async || {
        let status = stage.issued(&stage.request_for(&pod).make().await).await;
        assert!(is_under(&status, &old));
        (issuing(&status) != issuing(&before)).then_some(())
    })
    .await;
    assert_eq!(stage.published_roots().await, roots, "pods trust it already");

    let mut witness = Witness::new(&stage, &pod).await;
    let new = Writer::new();
    place.bring(&stage, &new.issuing()).await;
    assert_eq!(witness.hands_over().await, BTreeSet::from([new.root()]));
    for signer in [first, second] {
        assert!(signer.metric("podmint_signer_foreign_issuance_total", &[]).await < 0.5);
        assert!(troubles(&signer).await < 0.5);
        signer.stop().await;
    }
}

/// Where a CA is brought.
pub(crate) enum Place {
    Secret,
    Files(Scratch),
}

impl Place {
    pub(crate) fn new(in_files: bool) -> Self {
        if in_files { Self::Files(Scratch::new()) } else { Self::Secret }
    }

    pub(crate) fn signer<'s>(&self, stage: &'s Stage) -> SignerPlan<'s> {
        paced(stage).with(
            "authority",
            match self {
                Self::Secret => json!({"secret": {"name": SECRET}}),
                Self::Files(scratch) => json!({"files": {"directory": scratch.join("")}}),
            },
        )
    }

    /// Writes `tls.crt`, `tls.key` and `ca.crt`: into a Secret in one go, as cert-manager does; into a folder as a kubelet does.
    pub(crate) async fn bring(&self, stage: &Stage, parts: &[String; 3]) {
        let [certificate, key, root] = parts;
        match self {
            Self::Secret => {
                let data = json!({"tls.crt": certificate, "tls.key": key, "ca.crt": root});
                let object = json!({
                    "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": SECRET}, "stringData": data,
                });
                if secret(stage, SECRET).await.is_some() {
                    call::patch(&stage.admin, &path(stage, SECRET), &json!({"stringData": data})).await.unwrap();
                } else {
                    let secrets = format!("/api/v1/namespaces/{}/secrets", stage.signer_namespace);
                    call::post(&stage.admin, &secrets, &object).await.unwrap();
                }
            }
            Self::Files(scratch) => {
                let folder = scratch.join("");
                let number = std::fs::read_dir(&folder).unwrap().count();
                let now = folder.join(format!("..{number}"));
                std::fs::create_dir(&now).unwrap();
                for (name, text) in [("tls.crt", certificate), ("tls.key", key), ("ca.crt", root)] {
                    std::fs::write(now.join(name), text).unwrap();
                }
                let link = folder.join("..next");
                std::os::unix::fs::symlink(&now, &link).unwrap();
                std::fs::rename(&link, folder.join("..data")).unwrap();
            }
        }
    }
}

/// Whoever makes CAs elsewhere.
pub(crate) struct Writer(CertifiedIssuer<'static, KeyPair>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(CertifiedIssuer::self_signed(params("Root of a writer"), KeyPair::generate().unwrap()).unwrap())
    }

    fn root(&self) -> String {
        pems(&self.0.pem()).pop_first().unwrap()
    }

    pub(crate) fn issuing(&self) -> [String; 3] {
        let key = KeyPair::generate().unwrap();
        let issuing = params("Issuing CA of a writer").signed_by(&key, &self.0).unwrap();
        [issuing.pem(), key.serialize_pem(), self.0.pem()]
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn is_under(status: &Value, writer: &Writer) -> bool {
    matches!(trace(status["certificateChain"].as_str().unwrap(), &writer.root()), Origin::Ours { .. })
}

/// The rule that the chart gives for a Secret that its values name.
pub(crate) async fn allow(stage: &Stage) {
    if stage.bed.server().is_none() {
        return;
    }
    let (namespace, name) = stage.signer_account_name().unwrap();
    let group = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", stage.signer_namespace);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "brought"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["get"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "brought"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "brought"},
        "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
    });
    call::post(&stage.admin, &format!("{group}/roles"), &role).await.unwrap();
    call::post(&stage.admin, &format!("{group}/rolebindings"), &binding).await.unwrap();
}

pub(crate) async fn troubles(signer: &Signer) -> f64 {
    signer.metric("podmint_signer_ca_trouble", &["trouble=\"brought_ca_broken\""]).await
}

async fn in_order(signer: &Signer) {
    until("it is in order", async || (troubles(signer).await < 0.5).then_some(())).await;
}

async fn told(signer: &Signer) {
    until("it is told", async || (troubles(signer).await > 0.5).then_some(())).await;
}

pub(crate) const SECRET: &str = "my-ca";
