//! Every reason not to issue. A [`Denial`] is final: the kubelet never asks again for that volume, not even for a pod that runs.
//! A [`Hold`] leaves the request pending: it hangs on us, or on a cache that may lag. They are two types, so that nothing that
//! is held can be denied by a slip.
//!
//! Messages speak to whoever can change something: the pod's author or the administrator. They hold no secrets; conditions and
//! Events can be read by many.

use std::fmt;

use time::OffsetDateTime;

use super::{
    holds::{CONFIG_MAP, HeldBy},
    key::KeyType,
};
use crate::names::{NameError, NodeName, PodUid, ServiceAccountName, ServiceName, SignerName, clip};

/// Final: written to the API server as `Denied`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The request itself is broken.
    Malformed(Malformed),
    /// Whoever made the request did not prove that he holds the key.
    ProofFailed(ProofFailed),
    /// A key of a kind that Podmint does not know.
    UnsupportedKey,
    /// The pod is bound to another node.
    WrongNode {
        /// The node that the request names.
        asked: NodeName,
        /// The node that the pod is bound to.
        bound: NodeName,
    },
    /// The pod runs as another ServiceAccount.
    WrongServiceAccount {
        /// The ServiceAccount that the request names.
        asked: ServiceAccountName,
        /// The one that the pod has.
        has: Option<ServiceAccountName>,
    },
    /// The pod is a kubelet's copy of a file on its node.
    MirrorPod,
    /// No volume of the pod asks for this.
    NotProjected(NotProjected),
    /// The pod has ended. No Event: nobody waits for this certificate.
    Finished,
    /// The pod, which has not started, tells Podmint something that Podmint does not understand.
    UnknownAnnotation {
        /// Its key.
        key: String,
        /// A key that Podmint knows and that may have been meant.
        nearest: Option<&'static str>,
    },
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A field is absent.
    Missing(&'static str),
    /// A field is of another JSON type.
    Type(&'static str),
    /// A field holds no name of its kind.
    Name(&'static str, NameError),
    /// `maxExpirationSeconds` is out of range.
    Expiration(i64),
    /// A field is not base64, or far too long.
    Base64(&'static str),
    /// No PKCS#10 request.
    Csr,
    /// No public key.
    Key(&'static str),
    /// An RSA key that no sound library makes.
    WeakKey,
}

/// Which proof failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofFailed {
    /// The signature of the PKCS#10 request.
    Csr,
    /// The signature over the pod's UID.
    Possession,
}

/// What no `podCertificate` source of the pod agrees to: the first difference to the source that comes nearest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotProjected {
    /// No source names this signer.
    Signer(SignerName),
    /// The sources want keys of other kinds.
    KeyType {
        /// What the request has.
        asked: KeyType,
    },
    /// The sources want other annotations.
    Annotations,
    /// The sources allow less.
    Expiration {
        /// What the request asks for, in seconds.
        asked: u32,
        /// The most that a source allows.
        most: i64,
    },
}

/// Not now: the request stays pending, and is looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// `v1` hides the keys of kubelets of 1.35 and older, and `v1beta1` is not served.
    KeyNotVisible,
    /// There is no pod of that name (yet, or any more).
    PodNotFound,
    /// A pod of that name lives, but it is another one.
    OtherPod {
        /// The UID that the request names.
        asked: PodUid,
    },
    /// The pod is bound to no node yet.
    PodNotBound,
    /// There is no such ServiceAccount.
    ServiceAccountNotFound(ServiceAccountName),
    /// The ServiceAccount was made anew.
    OtherServiceAccount(ServiceAccountName),
    /// There is no such node.
    NodeNotFound(NodeName),
    /// The node was made anew.
    OtherNode(NodeName),
    /// A pod that runs tells Podmint something that this version does not understand.
    UnknownAnnotation {
        /// Its key.
        key: String,
        /// A key that Podmint knows and that may have been meant.
        nearest: Option<&'static str>,
    },
    /// An administrator has put its pod on hold.
    OnHold(HeldBy),
    /// The signer may not read what is on hold.
    HoldsNotKnown,
    /// No PodSigner is configured for this signer name.
    NoSuchSigner(SignerName),
    /// The PodSigner is suspended.
    Suspended {
        /// The PodSigner.
        policy: String,
    },
    /// No rule admits this ServiceAccount.
    NotAdmitted {
        /// The PodSigner.
        policy: String,
        /// The pod's namespace.
        namespace: String,
        /// The pod's ServiceAccount.
        service_account: ServiceAccountName,
        /// Whether there is any rule at all.
        any_rule: bool,
        /// The rule that names it, and is for other namespaces' labels or other nodes.
        almost: Option<String>,
        /// The rule in shadow that would admit it.
        shadow: Option<String>,
    },
    /// Keys of this kind are not certified here.
    KeyTypeNotServed {
        /// The PodSigner.
        policy: String,
        /// The rule, where it is the rule that does not.
        rule: Option<String>,
        /// What the request has.
        asked: KeyType,
        /// What would do.
        served: Vec<KeyType>,
    },
    /// The profile makes no name of this pod that can stand in a certificate.
    NoSuchName {
        /// Which field of the profile.
        field: &'static str,
        /// Why not.
        problem: String,
    },
    /// The value of an annotation is not of the form that it must have.
    AnnotationValue {
        /// Which.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The pod asks for something by annotation that its rule does not grant.
    NotGranted {
        /// The annotation.
        key: String,
        /// The rule.
        rule: String,
        /// What the rule would have to allow.
        what: &'static str,
    },
    /// The pod asks for the name of a Service that does not select it.
    NotSelected(ServiceName),
    /// Nobody knows yet, or any more, which Services there are.
    ServicesNotKnown,
    /// So many Services select the pod that their names fit into no certificate.
    TooManyServices {
        /// How many.
        found: usize,
        /// How many fit.
        most: usize,
    },
    /// The issuing CA ends too soon for the shortest certificate that Kubernetes takes.
    AuthorityEndsFirst {
        /// Until when it could issue.
        usable_until: OffsetDateTime,
    },
    /// There is no CA to sign with.
    AuthorityUnusable,
    /// The key of the root is stolen, and another one does not sign yet.
    KeyStolen,
    /// The root is not yet, or no longer, in the ClusterTrustBundle.
    TrustNotPublished,
    /// The admission policy that lets only kubelets ask is not there.
    GuardMissing,
    /// The audit log cannot be written.
    AuditUnwritable,
    /// The same public key is in a live request of another pod.
    KeyOnAnotherPod,
}

impl Denial {
    /// For metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::ProofFailed(_) => "proof_failed",
            Self::UnsupportedKey => "unsupported_key",
            Self::WrongNode { .. } => "wrong_node",
            Self::WrongServiceAccount { .. } => "wrong_service_account",
            Self::MirrorPod => "mirror_pod",
            Self::NotProjected(_) => "not_projected",
            Self::Finished => "finished",
            Self::UnknownAnnotation { .. } => "unknown_annotation",
        }
    }

    /// The reason of the condition. Two of them are Kubernetes' own.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "Malformed",
            Self::ProofFailed(_) => "ProofOfPossessionFailed",
            Self::UnsupportedKey => "UnsupportedKeyType",
            Self::WrongNode { .. } => "WrongNode",
            Self::WrongServiceAccount { .. } => "WrongServiceAccount",
            Self::MirrorPod => "MirrorPod",
            Self::NotProjected(_) => "NotProjected",
            Self::Finished => "PodFinished",
            Self::UnknownAnnotation { .. } => "InvalidUnverifiedUserAnnotations",
        }
    }

    /// Whether it is no news to anybody: no Event.
    pub fn is_quiet(&self) -> bool {
        matches!(self, Self::Finished)
    }
}

impl Hold {
    /// For metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::KeyNotVisible => "key_not_visible",
            Self::PodNotFound => "pod_not_found",
            Self::OtherPod { .. } => "other_pod",
            Self::PodNotBound => "pod_not_bound",
            Self::ServiceAccountNotFound(_) => "service_account_not_found",
            Self::OtherServiceAccount(_) => "other_service_account",
            Self::NodeNotFound(_) => "node_not_found",
            Self::OtherNode(_) => "other_node",
            Self::UnknownAnnotation { .. } => "unknown_annotation",
            Self::OnHold(_) => "on_hold",
            Self::HoldsNotKnown => "holds_not_known",
            Self::NoSuchSigner(_) => "no_such_signer",
            Self::Suspended { .. } => "suspended",
            Self::NotAdmitted { .. } => "not_admitted",
            Self::KeyTypeNotServed { .. } => "key_type_not_served",
            Self::NoSuchName { .. } => "no_such_name",
            Self::AnnotationValue { .. } => "annotation_value",
            Self::NotGranted { .. } => "not_granted",
            Self::NotSelected(_) => "not_selected",
            Self::ServicesNotKnown => "services_not_known",
            Self::TooManyServices { .. } => "too_many_services",
            Self::AuthorityEndsFirst { .. } => "authority_ends_first",
            Self::AuthorityUnusable => "authority_unusable",
            Self::KeyStolen => "key_stolen",
            Self::TrustNotPublished => "trust_not_published",
            Self::GuardMissing => "guard_missing",
            Self::AuditUnwritable => "audit_unwritable",
            Self::KeyOnAnotherPod => "key_on_another_pod",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => write!(out, "the request is malformed: {malformed}"),
            Self::ProofFailed(proof) => write!(out, "{proof}"),
            Self::UnsupportedKey => {
                write!(out, "keys of this kind are not supported: set keyType to {}", kinds(&KeyType::ALL))
            }
            Self::WrongNode { asked, bound } => {
                write!(out, "the request names node {asked}, but the pod is bound to node {bound}")
            }
            Self::WrongServiceAccount { asked, has: Some(has) } => {
                write!(out, "the request names ServiceAccount {asked}, but the pod runs as {has}")
            }
            Self::WrongServiceAccount { asked, has: None } => {
                write!(out, "the request names ServiceAccount {asked}, but the pod has none")
            }
            Self::MirrorPod => out
                .write_str("the pod is a static pod of its node; those get no certificates: run it as an ordinary pod"),
            Self::NotProjected(difference) => write!(out, "the pod does not ask for this: {difference}"),
            Self::Finished => out.write_str("the pod has finished"),
            Self::UnknownAnnotation { key, nearest } => unknown_annotation(out, key, *nearest),
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(field) => write!(out, "spec.{field} is missing"),
            Self::Type(field) => write!(out, "spec.{field} is of the wrong type"),
            Self::Name(field, error) => write!(out, "spec.{field}: {error}"),
            Self::Expiration(seconds) => {
                write!(out, "spec.maxExpirationSeconds is {seconds}, and must be from 3600 to 7862400")
            }
            Self::Base64(field) => write!(out, "spec.{field} is not base64 of at most 10240 bytes"),
            Self::Csr => out.write_str("spec.stubPKCS10Request is no PKCS#10 request in DER"),
            Self::Key(field) => write!(out, "spec.{field} holds no public key in DER"),
            Self::WeakKey => out.write_str(
                "the RSA key is weak: its modulus must be odd, its exponent odd and from 65537 to 2147483647",
            ),
        }
    }
}

impl fmt::Display for ProofFailed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Csr => "spec.stubPKCS10Request is not signed with its own key",
            Self::Possession => "spec.proofOfPossession is no signature over the pod's UID with spec.pkixPublicKey",
        })
    }
}

impl fmt::Display for NotProjected {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signer(signer) => {
                write!(out, "none of its volumes has a podCertificate source with signerName {signer}")
            }
            Self::KeyType { asked } => {
                write!(out, "no podCertificate source of its volumes with this signer has keyType {asked}")
            }
            Self::Annotations => {
                out.write_str("spec.unverifiedUserAnnotations are not the userAnnotations of its podCertificate source")
            }
            Self::Expiration { asked, most } => {
                write!(out, "maxExpirationSeconds is {asked}, and its podCertificate source allows {most}")
            }
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyNotVisible => out.write_str(
                "the request comes from a kubelet of Kubernetes 1.35 or older, whose keys certificates.k8s.io/v1 does not show: \
                 start kube-apiserver with --runtime-config=certificates.k8s.io/v1beta1=true, or upgrade the node",
            ),
            Self::PodNotFound => out.write_str("the API server knows no pod of this name (yet)"),
            Self::OtherPod { asked } => {
                write!(out, "the request is for the pod with UID {asked}, and the pod of this name is another one (now)")
            }
            Self::PodNotBound => out.write_str("the pod is not bound to a node (yet)"),
            Self::ServiceAccountNotFound(account) => {
                write!(out, "there is no ServiceAccount {account} (any more): create it, or restart the pod with another")
            }
            Self::OtherServiceAccount(account) => {
                write!(out, "ServiceAccount {account} was deleted and created again: the next request will name the new one")
            }
            Self::NodeNotFound(node) => write!(out, "the API server knows no node {node} (yet)"),
            Self::OtherNode(node) => {
                write!(out, "node {node} was deleted and created again: the next request will name the new one")
            }
            Self::UnknownAnnotation { key, nearest } => unknown_annotation(out, key, *nearest),
            Self::OnHold(held) => {
                write!(out, "{held}: nothing new is issued until `kubectl podmint release {}`", held.scope)
            }
            Self::HoldsNotKnown => write!(
                out,
                "the signer may not read what is on hold (ConfigMap {CONFIG_MAP} of its namespace), and issues nothing meanwhile: apply \
                 deploy/kustomize/rbac.yaml (get on configmaps)"
            ),
            Self::NoSuchSigner(signer) => {
                write!(out, "no PodSigner is configured for signerName {signer}: add one, or correct the pod's volume")
            }
            Self::Suspended { policy } => {
                write!(out, "PodSigner {policy} is suspended: set its spec.suspend to false")
            }
            Self::NotAdmitted { policy, namespace, service_account, almost: Some(rule), shadow: _, any_rule: _ } => write!(
                out,
                "PodSigner {policy} does not admit ServiceAccount {service_account} of namespace {namespace}: its rule {rule:?} names it, \
                 but is not for a namespace or a node with these labels: see namespaceSelector and nodeSelector there"
            ),
            Self::NotAdmitted { policy, namespace, service_account, shadow: Some(rule), almost: _, any_rule: _ } => write!(
                out,
                "PodSigner {policy} does not admit ServiceAccount {service_account} of namespace {namespace} yet: its rule {rule:?} would, \
                 but is in shadow: take shadow: true away from it"
            ),
            Self::NotAdmitted { policy, namespace, service_account, any_rule, almost: None, shadow: None } => {
                let problem = if *any_rule { "no rule" } else { "its list is empty, so no rule" };
                write!(
                    out,
                    "PodSigner {policy} does not admit ServiceAccount {service_account} of namespace {namespace} ({problem} in \
                     spec.allow matches): add a rule there with namespaces: [\"{namespace}\"] and serviceAccounts: \
                     [\"{service_account}\"]"
                )
            }
            Self::KeyTypeNotServed { policy, rule, asked, served } => {
                let by = rule.as_ref().map(|rule| format!(" by its rule {rule:?}")).unwrap_or_default();
                let list = if rule.is_some() { "that rule's keyTypes" } else { "the PodSigner's spec.keyTypes" };
                write!(
                    out,
                    "PodSigner {policy} does not serve {asked} keys{by}: set keyType in the pod's volume to {}, or add {asked} to {list}",
                    kinds(served)
                )
            }
            Self::NoSuchName { field, problem } => {
                write!(out, "the PodSigner's spec.profile.{field} makes no name for this pod: {problem}")
            }
            Self::AnnotationValue { key, problem } => {
                write!(out, "the value of {key} in userAnnotations of the pod's podCertificate source is not good: {problem}")
            }
            Self::NotGranted { key, rule, what } => write!(
                out,
                "the pod asks for more than it may have by the annotation {:?}: its rule {rule:?} would need requests with {what}; or \
                 remove the annotation from the pod's podCertificate source",
                clip(key)
            ),
            Self::NotSelected(service) => write!(
                out,
                "the pod asks for the name of Service {service}, which does not select it (yet): compare its spec.selector with the pod's \
                 labels"
            ),
            Self::ServicesNotKnown => out.write_str(
                "the signer does not see the Services of the cluster (yet), whose names its profile asks for: if this lasts, see its log, and apply \
                 deploy/kustomize/rbac.yaml (list and watch on services)",
            ),
            Self::TooManyServices { found, most } => write!(
                out,
                "{found} Services select the pod, and a certificate has room for the names of {most}: delete some, or narrow their \
                 selectors"
            ),
            Self::AuthorityEndsFirst { usable_until } => {
                write!(out, "the issuing CA could sign until {usable_until}; it is to be renewed by the signer: see its log")
            }
            Self::AuthorityUnusable => out.write_str("the signer has no CA to sign with: see its log and its health page"),
            Self::TrustNotPublished => {
                out.write_str("the root is not in the ClusterTrustBundle (yet): see the signer's log and its health page")
            }
            Self::KeyStolen => out.write_str(
                "the key of the root is given up for stolen: certificates are issued again when another root signs",
            ),
            Self::GuardMissing => out.write_str(
                "the admission policy that lets only kubelets ask for certificates is missing or unbound: run \
                 `kubectl podmint guard | kubectl apply -f -` with this installation's --signer-domain and --namespace, or start the signer \
                 with --admission-guard=off",
            ),
            Self::AuditUnwritable => out.write_str("the signer's audit log cannot be written: see its log"),
            Self::KeyOnAnotherPod => {
                out.write_str("a live request of another pod has the same public key: delete the pod, and find out who copied the key")
            }
        }
    }
}

fn unknown_annotation(out: &mut fmt::Formatter<'_>, key: &str, nearest: Option<&str>) -> fmt::Result {
    write!(out, "Podmint does not know the annotation {:?}", clip(key))?;
    match nearest {
        Some(nearest) => write!(out, "; did you mean {nearest:?}?"),
        None => out.write_str(": remove it from userAnnotations of the pod's podCertificate source"),
    }
}

/// `A, B or C`.
pub(crate) fn kinds(kinds: &[KeyType]) -> String {
    match kinds {
        [] => "nothing".to_owned(),
        [only] => only.to_string(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(|kind| kind.as_str()).collect();
            format!("{} or {last}", first.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_to_change() {
        let hold = Hold::UnknownAnnotation { key: "podmint.dev/dsn".to_owned(), nearest: Some("podmint.dev/dns") };
        assert_eq!(
            hold.to_string(),
            "Podmint does not know the annotation \"podmint.dev/dsn\"; did you mean \"podmint.dev/dns\"?"
        );
        assert!(Hold::GuardMissing.to_string().contains("kubectl podmint guard | kubectl apply -f -"));
        assert!(Hold::KeyNotVisible.to_string().contains("--runtime-config=certificates.k8s.io/v1beta1=true"));
    }

    #[test]
    fn text_from_outside_is_cut_and_escaped() {
        let denial = Denial::UnknownAnnotation { key: "\u{1b}[31m\n".to_owned() + &"x".repeat(5_000), nearest: None };
        let message = denial.to_string();
        assert!(message.len() < 300 && !message.contains(['\u{1b}', '\n']), "{message:?}");
    }

    #[test]
    fn lists_read_as_a_person_writes_them() {
        assert_eq!(kinds(&[]), "nothing");
        assert_eq!(kinds(&[KeyType::Ed25519]), "ED25519");
        assert_eq!(kinds(&[KeyType::Rsa3072, KeyType::Rsa4096, KeyType::Ed25519]), "RSA3072, RSA4096 or ED25519");
    }
}
