//! An honest run for the checker's tests: each test changes one thing, and must see it found.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, PublicKeyData, SanType,
    SerialNumber,
};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, macros::datetime};

use super::certificate::{Leaf, certificates, leaf, sha256};
use super::{
    AttemptFacts, BundleFacts, Evidence, Expected, PairFacts, PodFacts, Report, RequestFacts, SideFacts, check,
};

/// A certificate authority and what it did.
pub struct Staged {
    pub evidence: Evidence,
    issuer: Issuer<'static, KeyPair>,
    intermediate: String,
    written: u64,
}

pub const SERVER: &str = "uid-of-server";
pub const CLIENT: &str = "uid-of-client";
pub const STRANGER: &str = "uid-of-stranger";
pub const NOT_BEFORE: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);

/// Server and client have a certificate, the server a second one; a forgery was denied, a stranger is held.
pub fn honest() -> Staged {
    let (root, root_key) = authority("root", 1, None);
    let root_pem = root.0.clone();
    let (intermediate, issuer) = authority("issuing", 0, Some(Issuer::new(root.1, root_key)));
    let mut staged = Staged {
        evidence: Evidence {
            signer_name: "podmint.dev/test".to_owned(),
            trust_domain: "test.example".to_owned(),
            bundles: vec![BundleFacts { revision: 7, pem: root_pem }],
            expected: Expected { held_pods: [STRANGER.to_owned()].into(), renewals: true, whole: true },
            ..Evidence::default()
        },
        issuer: Issuer::new(intermediate.1, issuer),
        intermediate: intermediate.0,
        written: 10,
    };
    for (uid, namespace, name) in [(SERVER, "pay", "api"), (CLIENT, "shop", "web"), (STRANGER, "lab", "new")] {
        let pod = PodFacts {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            account: format!("{name}-account"),
            node: format!("node-of-{name}"),
        };
        staged.evidence.pods.insert(uid.to_owned(), pod);
    }
    for (request, pod) in [("req-1", SERVER), ("req-2", CLIENT), ("req-3", SERVER)] {
        staged.issue(request, pod);
    }
    let forged = staged.ask("req-4", SERVER, &KeyPair::generate().unwrap());
    staged.deny("req-4");
    staged.evidence.attempts = vec![AttemptFacts {
        what: "with a key of its own".to_owned(),
        key: forged,
        refused: true,
        denied_by_signer: true,
    }];
    staged.ask("req-5", STRANGER, &KeyPair::generate().unwrap());
    let [first, client, second] = [0, 1, 2].map(|number| staged.leaf(number));
    let side = |peers: &[&Leaf], own: &[&Leaf]| SideFacts {
        handshakes: 3,
        latencies: [2, 1, 9].map(Duration::from_millis).to_vec(),
        peers: peers.iter().map(|leaf| (leaf.serial.clone(), leaf.names[0].clone())).collect(),
        own: own.iter().map(|leaf| leaf.serial.clone()).collect(),
        ..SideFacts::default()
    };
    staged.evidence.pair =
        PairFacts { client: side(&[&first, &second], &[&client]), server: side(&[&client], &[&first, &second]) };
    staged
}

impl Staged {
    /// What the checker says now.
    pub fn report(&self) -> Report {
        check(&self.evidence)
    }

    /// The last version of a request.
    pub fn request(&mut self, name: &str) -> &mut Value {
        let named = |facts: &&mut RequestFacts| facts.versions[0]["metadata"]["name"] == name;
        self.evidence.requests.iter_mut().find(named).unwrap().versions.last_mut().unwrap()
    }

    /// A request for a pod, as its kubelet makes it. Returns the public key.
    pub fn ask(&mut self, name: &str, pod: &str, key: &KeyPair) -> Vec<u8> {
        let facts = &self.evidence.pods[pod];
        let stub = CertificateParams::default().serialize_request(key).unwrap();
        let object = json!({
            "metadata": {"uid": format!("uid-of-{name}"), "name": name, "namespace": facts.namespace, "resourceVersion": self.write()},
            "spec": {
                "signerName": "podmint.dev/test", "podName": self.evidence.pods[pod].name, "podUID": pod,
                "serviceAccountName": self.evidence.pods[pod].account, "nodeName": self.evidence.pods[pod].node,
                "maxExpirationSeconds": 86_400, "stubPKCS10Request": STANDARD.encode(stub.der()),
            },
        });
        self.evidence.requests.push(RequestFacts { versions: vec![object] });
        key.subject_public_key_info()
    }

    /// An honest certificate.
    pub fn issue(&mut self, name: &str, pod: &str) {
        self.issue_altered(name, pod, |_| ());
    }

    /// A certificate with something altered before it was signed.
    pub fn issue_altered(&mut self, name: &str, pod: &str, alter: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        self.ask(name, pod, &key);
        let facts = &self.evidence.pods[pod];
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let id = format!("spiffe://test.example/ns/{}/sa/{}", facts.namespace, facts.account);
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.serial_number = Some(SerialNumber::from_slice(format!("serial of {name}").as_bytes()));
        params.not_before = NOT_BEFORE;
        params.not_after = NOT_BEFORE + Duration::from_secs(86_400);
        alter(&mut params);
        let date = |date: OffsetDateTime| date.format(&Rfc3339).unwrap();
        let dates =
            (date(params.not_before), date(params.not_before + Duration::from_secs(40_000)), date(params.not_after));
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem() + &self.intermediate;
        let status = json!({
            "conditions": [{"type": "Issued", "status": "True", "reason": "Issued"}],
            "certificateChain": chain, "notBefore": dates.0, "beginRefreshAt": dates.1, "notAfter": dates.2,
        });
        self.answer(name, status);
        self.record_issue(name);
    }

    /// A final no.
    pub fn deny(&mut self, name: &str) {
        let condition = json!({"type": "Denied", "status": "True", "reason": "WrongNode", "message": "no"});
        self.answer(name, json!({"conditions": [condition]}));
        self.record_denial(name);
    }

    /// Another version of a request, with this status.
    pub fn answer(&mut self, name: &str, status: Value) {
        let version = self.write();
        let mut answered = self.request(name).clone();
        answered["metadata"]["resourceVersion"] = version;
        answered["status"] = status;
        let named = |facts: &&mut RequestFacts| facts.versions[0]["metadata"]["name"] == name;
        self.evidence.requests.iter_mut().find(named).unwrap().versions.push(answered);
    }

    /// The certificate of the n-th request.
    pub fn leaf(&self, number: usize) -> Leaf {
        let object = self.evidence.requests[number].versions.last().unwrap();
        leaf(&certificates(object["status"]["certificateChain"].as_str().unwrap()).unwrap()).unwrap()
    }

    /// The line of the audit log about a request.
    pub fn line(&mut self, event: &str, name: &str) -> &mut Value {
        let uid = format!("uid-of-{name}");
        let wanted = |line: &&mut Value| line["event"] == event && line["request"]["uid"] == uid.as_str();
        self.evidence.trail.iter_mut().find(wanted).unwrap()
    }

    fn record_issue(&mut self, name: &str) {
        let number =
            self.evidence.requests.iter().position(|facts| facts.versions[0]["metadata"]["name"] == name).unwrap();
        let leaf = self.leaf(number);
        let object = self.request(name).clone();
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        self.evidence.trail.push(json!({
            "event": "issuing", "request": {"namespace": metadata["namespace"], "name": name, "uid": metadata["uid"]},
            "pod": {"namespace": metadata["namespace"], "name": spec["podName"], "uid": spec["podUID"]},
            "serviceAccount": {"name": spec["serviceAccountName"]}, "node": {"name": spec["nodeName"]},
            "keyHash": sha256(&leaf.key), "serial": leaf.serial, "sans": [{"uri": leaf.names[0]}], "fingerprint": leaf.fingerprint,
        }));
        self.evidence.trail.push(json!({
            "event": "outcome", "request": {"uid": metadata["uid"]}, "answer": "issue", "serial": leaf.serial, "outcome": "published",
        }));
    }

    fn record_denial(&mut self, name: &str) {
        let request = json!({"uid": format!("uid-of-{name}")});
        self.evidence.trail.push(json!({"event": "denying", "request": request, "reason": "wrong_node"}));
        self.evidence.trail.push(
            json!({"event": "outcome", "request": request, "answer": "deny", "serial": null, "outcome": "published"}),
        );
    }

    fn write(&mut self) -> Value {
        self.written += 1;
        self.written.to_string().into()
    }
}

type Authority = (String, CertificateParams);

fn authority(name: &str, length: u8, above: Option<Issuer<'_, KeyPair>>) -> (Authority, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
    params.not_after = NOT_BEFORE + Duration::from_secs(90 * 86_400);
    let certificate = match above {
        None => params.self_signed(&key).unwrap(),
        Some(above) => params.signed_by(&key, &above).unwrap(),
    };
    ((certificate.pem(), params), key)
}
