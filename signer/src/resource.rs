//! `PodSigner` as the API server knows it. The CRD (`deploy/helm/podmint/crds`) is generated from these types, and the signer writes
//! `status` with them. `spec` is never read through them: [`config`](crate::config) checks it as it checks a file, in the same words.
//!
//! What the schema refuses, [`config`](crate::config) refuses too. It is here so that the author is told at once.
#![expect(unreachable_pub, reason = "KubeSchema repeats each type inside of a function, `pub` included")]
#![expect(clippy::duplicated_attributes, reason = "each column of the CRD has a type and a path")]

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::Sha256;

/// One signer name: who gets certificates by it, of what kind, and from which CA.
#[derive(Clone, Debug, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "podmint.dev",
    version = "v1alpha1",
    kind = "PodSigner",
    root = "PodSignerObject",
    doc = "One signer name: who gets certificates by it, of what kind, and from which CA.",
    status = "PodSignerStatus",
    category = "podmint",
    printcolumn(name = "Signer", type_ = "string", json_path = ".spec.signerName"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "CA usable until", type_ = "string", json_path = ".status.authority.usableUntil"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Trust domain", type_ = "string", json_path = ".spec.trustDomain", priority = 1),
    printcolumn(
        name = "Why",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
pub struct PodSignerSpec {
    /// What pods name in their volumes, below the signer domain of the install. It never changes: make another PodSigner instead.
    #[schemars(length(max = 571), regex(pattern = SIGNER_NAME))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("signerName never changes: make another PodSigner, and delete this one when no pod names it"),
        validation = Rule::new("!self.matches('^([^/]*[.])?kubernetes[.]io/')").message("signer names below kubernetes.io belong to Kubernetes")
    )]
    pub signer_name: String,

    /// The cluster's name in the world, as prod.example.org. It stands in every identity.
    #[schemars(length(max = 255), regex(pattern = TRUST_DOMAIN))]
    pub trust_domain: String,

    /// Who gets certificates. Nobody is admitted by an empty list.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub allow: Vec<Allow>,

    /// Whether nothing is answered: requests stay pending until it is false again.
    #[serde(default)]
    pub suspend: bool,

    /// The kinds of key that are served.
    #[serde(default = "all_key_types")]
    #[schemars(length(min = 1, max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub key_types: Vec<KeyType>,

    /// How long certificates live.
    #[serde(default)]
    pub lifetime: Lifetime,

    /// Every word of the certificates; without it, the SPIFFE ID alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,

    /// Where the CA comes from. Without a word of it, Podmint makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Authority>,
}

/// One rule, for pods of which all that it says of them is true. The first rule that is for a pod decides.
#[derive(Clone, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allow {
    /// What messages and the audit log call this rule.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Names of namespaces; `*` stands for any text.
    #[schemars(length(min = 1), inner(length(min = 1, max = 253), regex(pattern = PATTERN)))]
    pub namespaces: Vec<String>,
    /// Names of ServiceAccounts; `*` stands for any text.
    #[schemars(length(min = 1), inner(length(min = 1, max = 253), regex(pattern = PATTERN)))]
    pub service_accounts: Vec<String>,
    /// Labels of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<MatchLabels>,
    /// Labels of the node: an identity lives only where it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<MatchLabels>,
    /// A limit beside that of the PodSigner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Limit>,
    /// The only kinds of key that this rule certifies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub key_types: Option<Vec<KeyType>>,
    /// What pods may ask for by annotation, beyond the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// Not in force: what the rule would change is counted and logged.
    #[serde(default)]
    pub shadow: bool,
}

/// Labels, all of which must be there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatchLabels {
    /// Keys and values.
    #[schemars(extend("minProperties" = 1))]
    pub match_labels: BTreeMap<String, String>,
}

/// A limit of life.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// The longest life that the rule grants, 1h to 14d. (The signer checks the range: for as many rules as there may be, the API
    /// server would not.)
    #[schemars(length(min = 2, max = 20), regex(pattern = DURATION))]
    pub max: String,
}

/// What the annotations of a pod may ask for: nothing by default.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Requests {
    /// Names of Services that select the pod.
    pub services: bool,
    /// Its host name below such a Service.
    pub hostname: bool,
    /// Its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: bool,
    /// These DNS names, word for word.
    #[schemars(inner(length(min = 1, max = 253)))]
    pub dns_names: Vec<String>,
    /// These common names, word for word.
    #[schemars(inner(length(min = 1, max = 64)))]
    pub common_names: Vec<String>,
}

/// Every word of a certificate (docs/names.md).
#[derive(Clone, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// The path of the SPIFFE ID, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = r"^(none|/.+)$"))]
    pub spiffe_id: Option<String>,
    /// Where DNS names come from: services, hostname, or templates.
    #[serde(default)]
    #[schemars(inner(length(min = 1, max = 512)), extend("x-kubernetes-list-type" = "set"))]
    pub dns_names: Vec<String>,
    /// Whether the addresses of the pod are in it.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub ip_addresses: Vec<IpAddresses>,
    /// What it is for.
    #[serde(default = "both_usages")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub usages: Vec<Usage>,
    /// Its subject; empty where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// Labels of pods that templates may use, because somebody sees to it that they are true.
    #[serde(default)]
    #[schemars(inner(length(min = 1, max = 317)), extend("x-kubernetes-list-type" = "set"))]
    pub trusted_labels: Vec<String>,
}

/// Addresses that a certificate may name.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "a description of each would break up the enum")]
pub enum IpAddresses {
    #[serde(rename = "podIPs")]
    PodIps,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "a description of each would break up the enum")]
pub enum Usage {
    Client,
    Server,
}

/// Templates of a subject.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// O
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// OU
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organizational_unit: Option<String>,
    /// CN
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
}

/// A kind of key that a kubelet makes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(
    missing_docs,
    reason = "they are named as Kubernetes names them, and a description of each would break up the enum"
)]
pub enum KeyType {
    Rsa3072,
    Rsa4096,
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Ed25519,
}

/// How long certificates live.
#[derive(Clone, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifetime {
    /// The longest life that is granted, 1h to 14d, as 24h or 1d12h.
    #[serde(default = "longest_life")]
    #[schemars(length(min = 2, max = 20), regex(pattern = DURATION))]
    #[x_kube(
        validation = Rule::new(NOT_TOO_SHORT).message("a certificate lives 1h or more"),
        validation = Rule::new(NOT_TOO_LONG).message("a certificate lives 14d or less")
    )]
    pub max: String,
    /// In which part of its life a certificate is renewed: spread from the first to the second.
    #[serde(default = "refresh")]
    #[schemars(length(equal = 2), inner(range(min = 0.17, max = 0.83)))]
    #[x_kube(validation = Rule::new("size(self) != 2 || self[0] <= self[1]").message("the first part is behind the second: swap them"))]
    pub refresh_at: Vec<f64>,
}

/// Where the CA comes from: one of these. Nothing is filled in here, so that the one can be written in place of the other.
#[derive(Clone, Debug, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.selfManaged), has(self.secret), has(self.files)].filter(it, it).size() <= 1").message("a CA comes from one place: leave one of selfManaged, secret and files, and write null for the other"))]
pub struct Authority {
    /// Podmint makes it and keeps it in Secrets of its own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_managed: Option<SelfManaged>,
    /// Somebody writes it into a Secret of Podmint's namespace, as cert-manager does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BroughtSecret>,
    /// Somebody mounts it into the signer's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<BroughtFiles>,
}

/// A CA that Podmint makes. Two PodSigners never share a Secret.
#[derive(Clone, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(OWN_DIFFER).message("secretName and rootSecretName must differ: who signs has no business with the root's key"))]
pub struct SelfManaged {
    /// The Secret of the issuing CA.
    #[serde(default = "secret_name")]
    #[schemars(length(max = 253), regex(pattern = DNS_NAME))]
    pub secret_name: String,
    /// The Secret of the root; the name of the other with `-root` where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = DNS_NAME))]
    pub root_secret_name: Option<String>,
}

/// A CA in a Secret: tls.crt (the issuing CA first, then what is between it and the root), tls.key, and ca.crt (the root).
#[derive(Clone, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(OWN_DIFFER).message("secretName and rootSecretName must differ: who signs has no business with the root's key"),
    validation = Rule::new("self.name != self.secretName && (!has(self.rootSecretName) || self.name != self.rootSecretName)").message("Podmint keeps what it signs with in Secrets of its own: give secretName or rootSecretName another name than the Secret that is brought")
)]
pub struct BroughtSecret {
    /// The Secret that is brought. It is read, and never written.
    #[schemars(length(max = 253), regex(pattern = DNS_NAME))]
    pub name: String,
    /// The Secret of what signs, and of where its rotation is.
    #[serde(default = "secret_name")]
    #[schemars(length(max = 253), regex(pattern = DNS_NAME))]
    pub secret_name: String,
    /// The Secret of what signs next; the name of the other with `-root` where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = DNS_NAME))]
    pub root_secret_name: Option<String>,
}

/// A CA in three files of the same names, the same for every replica.
#[derive(Clone, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(OWN_DIFFER).message("secretName and rootSecretName must differ: who signs has no business with the root's key"))]
pub struct BroughtFiles {
    /// The folder, from the root of the signer's container on.
    #[schemars(length(min = 2, max = 1024), regex(pattern = "^/"))]
    pub directory: String,
    /// The Secret of what signs, and of where its rotation is.
    #[serde(default = "secret_name")]
    #[schemars(length(max = 253), regex(pattern = DNS_NAME))]
    pub secret_name: String,
    /// The Secret of what signs next; the name of the other with `-root` where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = DNS_NAME))]
    pub root_secret_name: Option<String>,
}

/// What the signer says of it. One replica writes it; it follows from the spec and from the CA's Secrets, and nothing is read from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSignerStatus {
    /// The generation of the spec that the rest speaks of.
    pub observed_generation: i64,
    /// In a word: Issuing, Suspended, Waiting (for its CA, or for the admission guard), or Refused (nothing is in force).
    pub state: String,
    /// Ready, AuthorityReady, TrustPublished, RotationInProgress, Degraded.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The CA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<AuthorityStatus>,
    /// What became of each annotation by which its administrator asks something of the CA.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["annotation"]))]
    pub commands: Vec<CommandStatus>,
}

/// What became of one annotation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandStatus {
    /// Which.
    pub annotation: String,
    /// The value that was seen.
    pub value: String,
    /// Waiting, Underway, Done or Refused.
    pub progress: String,
    /// What that means, and what to do.
    #[serde(default)]
    pub message: String,
    /// Since when, by the API server's clock.
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
}

/// One thing that is so, is not so, or is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// Why, in a word.
    pub reason: String,
    /// Why, and what to do.
    #[serde(default)]
    pub message: String,
    /// Since when, by the API server's clock.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The generation of the spec that it speaks of.
    #[serde(default)]
    pub observed_generation: i64,
}

/// A CA, as its Secrets and its trust bundle show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// Until when the generation that signs can issue.
    #[schemars(extend("format" = "date-time"))]
    pub usable_until: String,
    /// The number of the issuing CA, counted from 1.
    pub number: i64,
    /// Where the rotation of the root is; stable while there is none.
    pub phase: String,
    /// Whether the rotation is kept from going on.
    pub paused: bool,
    /// What it consists of.
    pub generations: Vec<GenerationStatus>,
    /// What happens next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<NextStep>,
}

/// One certificate of the CA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationStatus {
    /// What it is there for: issuing, root, next root (published, and signs later), or previous root (published still, and signs no more).
    pub phase: String,
    /// Its name.
    pub subject: String,
    /// Its subject key identifier.
    pub subject_key_id: String,
    /// Its SHA-256.
    pub fingerprint: String,
    /// Its end.
    #[schemars(extend("format" = "date-time"))]
    pub not_after: String,
    /// Until when something can be issued under it.
    #[schemars(extend("format" = "date-time"))]
    pub usable_until: String,
    /// Of a previous root: until when it signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub signed_until: Option<String>,
    /// Of a previous root: until when it is trusted, for what it signed to live out its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub trusted_until: Option<String>,
}

/// What happens next to the CA, by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NextStep {
    /// What.
    pub step: String,
    /// When. A time that is past means: at once.
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self { max: longest_life(), refresh_at: refresh() }
    }
}

fn all_key_types() -> Vec<KeyType> {
    use KeyType::{EcdsaP256, EcdsaP384, EcdsaP521, Ed25519, Rsa3072, Rsa4096};
    vec![Rsa3072, Rsa4096, EcdsaP256, EcdsaP384, EcdsaP521, Ed25519]
}

fn both_usages() -> Vec<Usage> {
    vec![Usage::Client, Usage::Server]
}

fn longest_life() -> String {
    "24h".to_owned()
}

fn refresh() -> Vec<f64> {
    vec![0.4, 0.6]
}

fn secret_name() -> String {
    "podmint-ca".to_owned()
}

/// The CRD. Its annotation tells one schema from another, for `helm upgrade` to see that the one in the cluster is an old one.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = PodSignerObject::crd();
    let spec = serde_json::to_vec(&crd.spec).unwrap_or_default();
    let schema: String = Sha256::of(&spec).to_string().chars().take(16).collect();
    let metadata = &mut crd.metadata;
    metadata.annotations.get_or_insert_default().insert(SCHEMA.to_owned(), schema);
    metadata.labels.get_or_insert_default().insert("app.kubernetes.io/name".to_owned(), "podmint".to_owned());
    crd
}

const SCHEMA: &str = "podmint.dev/schema";

const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const SIGNER_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+/[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const TRUST_DOMAIN: &str = r"^[a-z0-9_-]+(\.[a-z0-9_-]+)*$";
const PATTERN: &str = r"^[-a-z0-9.*]+$";
const DURATION: &str = r"^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$";

/// CEL reads no days, and the API server takes only rules that cannot cost much. What cannot be computed is refused.
macro_rules! seconds {
    ($range:literal) => {
        concat!(
            "(self.contains('d') ? int(self.substring(0, self.indexOf('d'))) * 86400 : 0) + (self.endsWith('d') ? 0 : ",
            "duration(self.contains('d') ? self.substring(self.indexOf('d') + 1) : self).getSeconds()) ",
            $range
        )
    };
}
const OWN_DIFFER: &str = "!has(self.rootSecretName) || self.rootSecretName != self.secretName";
const NOT_TOO_SHORT: &str = seconds!(">= 3600");
const NOT_TOO_LONG: &str = seconds!("<= 1209600");

#[cfg(test)]
mod tests;
