//! What an administrator has put on hold: nothing new is issued for these pods, whatever the rules say. It is read from one ConfigMap of
//! the signer's namespace; each entry stands alone. One that cannot be understood holds nobody, hides none of the others, and is told.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};

use super::claim::Claim;
use crate::names::{NameError, Namespace, NodeName, PodName, ServiceAccountName, Sha256, clip};

/// The name of the ConfigMap.
pub const CONFIG_MAP: &str = "podmint-holds";

/// All holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    holds: Box<[HeldBy]>,
    malformed: Box<[MalformedHold]>,
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBy {
    /// Its key in the ConfigMap.
    pub key: String,
    /// Whose pods.
    pub scope: Scope,
    /// Why, in the words of whoever did it.
    pub reason: Option<String>,
    /// Since when, in his command's words.
    pub since: Option<String>,
}

/// Whose pods a hold is for. By name: one that is made anew is held as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One pod.
    Pod(Namespace, PodName),
    /// All that run as this ServiceAccount.
    ServiceAccount(Namespace, ServiceAccountName),
    /// All on this node.
    Node(NodeName),
    /// All of this namespace.
    Namespace(Namespace),
}

/// An entry that holds nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedHold {
    /// Its key in the ConfigMap.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Why a scope is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// Another kind.
    #[error("{0:?} cannot be held: it must be pod, serviceaccount, node or namespace")]
    Kind(String),
    /// Pods and ServiceAccounts have a namespace.
    #[error("a {0} needs a namespace")]
    NoNamespace(&'static str),
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Holds {
    /// Reads the entries of the ConfigMap.
    pub fn read(data: &BTreeMap<String, String>) -> Self {
        let (mut holds, mut malformed) = (Vec::new(), Vec::new());
        for (key, text) in data {
            match HeldBy::read(key, text) {
                Ok(hold) => holds.push(hold),
                Err(problem) => malformed.push(MalformedHold { key: clip(key), problem }),
            }
        }
        Self { holds: holds.into(), malformed: malformed.into() }
    }

    /// The hold that this claim falls under.
    pub fn of(&self, claim: &Claim) -> Option<&HeldBy> {
        self.holds.iter().find(|hold| hold.scope.contains(claim))
    }

    /// Those that are understood.
    pub fn all(&self) -> &[HeldBy] {
        &self.holds
    }

    /// Those that are not.
    pub fn malformed(&self) -> &[MalformedHold] {
        &self.malformed
    }
}

impl HeldBy {
    /// Why and since when do not matter to what is held: whatever stands there, the hold counts.
    fn read(key: &str, text: &str) -> Result<Self, String> {
        let entry: Value = serde_saphyr::from_str(text)
            .map_err(|error| format!("it is no YAML: {}", clip(&error.to_string()).escape_debug()))?;
        let word = |field: &str| entry.get(field).and_then(Value::as_str);
        let must = |field: &str| word(field).ok_or_else(|| format!("it has no text as its {field:?}"));
        let scope = Scope::parse(must("kind")?, word("namespace"), must("name")?).map_err(|error| error.to_string())?;
        let reason = word("reason").map(str::to_owned);
        // A time, or what else is short and shows on a terminal as what it is.
        let since = word("since").filter(|since| since.len() < 40 && since.bytes().all(|byte| byte.is_ascii_graphic()));
        let since = since.map(str::to_owned);
        Ok(Self { key: key.to_owned(), scope, reason, since })
    }

    /// What is written for it.
    pub fn text(&self) -> String {
        self.to_json().to_string()
    }

    /// Its words, but for the key.
    pub fn to_json(&self) -> Value {
        let Self { key: _, scope, reason, since } = self;
        json!({
            "kind": scope.kind(), "namespace": scope.namespace(), "name": scope.name(), "reason": reason, "since": since,
        })
    }
}

impl Scope {
    /// Reads a kind, as kubectl spells and shortens it, and a name.
    ///
    /// # Errors
    /// When it is no kind of these, or a name is none.
    pub fn parse(kind: &str, namespace: Option<&str>, name: &str) -> Result<Self, ScopeError> {
        let within = |what: &'static str| {
            let namespace = namespace.ok_or(ScopeError::NoNamespace(what))?;
            Ok::<_, ScopeError>(Namespace::parse(namespace)?)
        };
        match kind.to_ascii_lowercase().as_str() {
            "pod" | "pods" | "po" => Ok(Self::Pod(within("pod")?, PodName::parse(name)?)),
            "serviceaccount" | "serviceaccounts" | "sa" => {
                Ok(Self::ServiceAccount(within("serviceaccount")?, ServiceAccountName::parse(name)?))
            }
            "node" | "nodes" | "no" => Ok(Self::Node(NodeName::parse(name)?)),
            "namespace" | "namespaces" | "ns" => Ok(Self::Namespace(Namespace::parse(name)?)),
            _ => Err(ScopeError::Kind(clip(kind))),
        }
    }

    fn contains(&self, claim: &Claim) -> bool {
        let here = &claim.target.namespace;
        match self {
            Self::Pod(namespace, pod) => namespace == here && *pod == claim.pod,
            Self::ServiceAccount(namespace, account) => namespace == here && *account == claim.service_account,
            Self::Node(node) => *node == claim.node,
            Self::Namespace(namespace) => namespace == here,
        }
    }

    /// `pod`, and so on.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pod(..) => "pod",
            Self::ServiceAccount(..) => "serviceaccount",
            Self::Node(_) => "node",
            Self::Namespace(_) => "namespace",
        }
    }

    /// The namespace of what is held, where it has one.
    pub fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Pod(namespace, _) | Self::ServiceAccount(namespace, _) => Some(namespace),
            Self::Node(_) | Self::Namespace(_) => None,
        }
    }

    /// The name of what is held.
    pub fn name(&self) -> &str {
        match self {
            Self::Pod(_, name) => name.as_str(),
            Self::ServiceAccount(_, name) => name.as_str(),
            Self::Node(name) => name.as_str(),
            Self::Namespace(name) => name.as_str(),
        }
    }

    /// The key of its entry. Names that are together longer than a key may be are cut to what is unique of them.
    pub fn key(&self) -> String {
        let namespace = self.namespace().map(|namespace| format!("{namespace}.")).unwrap_or_default();
        let key = format!("{}.{namespace}{}", self.kind(), self.name());
        if key.len() <= LONGEST_KEY { key } else { format!("{}.{}", self.kind(), Sha256::of(key.as_bytes())) }
    }
}

/// As the command takes it: `node/worker-3`, `pod/cart-0 -n shop`.
impl fmt::Display for Scope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.kind(), self.name())?;
        self.namespace().map_or(Ok(()), |namespace| write!(out, " -n {namespace}"))
    }
}

impl fmt::Display for HeldBy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key: _, scope, reason, since } = self;
        write!(out, "{} {}", scope.kind(), scope.name())?;
        scope.namespace().map_or(Ok(()), |namespace| write!(out, " of namespace {namespace}"))?;
        out.write_str(" is on hold")?;
        since.as_ref().map_or(Ok(()), |since| write!(out, " since {since}"))?;
        reason.as_ref().map_or(Ok(()), |reason| write!(out, " ({:?})", clip(reason)))
    }
}

/// Of a key in a ConfigMap.
const LONGEST_KEY: usize = 253;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::honest::claim;

    fn read(text: &str) -> Holds {
        Holds::read(&[("a".to_owned(), text.to_owned())].into())
    }

    #[test]
    fn a_hold_is_for_exactly_those_it_names() {
        for (text, holds) in [
            ("{kind: pod, namespace: shop, name: cart-0}", true),
            ("{kind: pod, namespace: shop, name: cart-1}", false),
            ("{kind: pod, namespace: bank, name: cart-0}", false),
            ("{kind: serviceaccount, namespace: shop, name: cart}", true),
            ("{kind: serviceaccount, namespace: bank, name: cart}", false),
            ("{kind: serviceaccount, namespace: shop, name: cart-0}", false),
            ("{kind: node, name: node-a}", true),
            ("{kind: node, name: node-ab}", false),
            ("{kind: namespace, name: shop}", true),
            ("{kind: namespace, name: sho}", false),
            (r#"{"kind": "Node", "name": "node-a", "reason": "taken over", "since": "2026-11-26T04:00:00Z"}"#, true),
        ] {
            let read = read(text);
            assert_eq!((read.all().len(), read.malformed()), (1, &[][..]), "{text}");
            assert_eq!(read.of(&claim()).is_some(), holds, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told_and_hides_nothing() {
        for text in [
            "",
            "node-a",
            "{kind: node}",
            "{kind: nod, name: node-a}",
            "{kind: pod, name: cart-0}",
            "{kind: node, name: 7}",
            "{kind: node, name: Node_A}",
            "{kind: node, name: \"\"}",
            "{kind: [node], name: node-a}",
            "[{kind: node, name: node-a}]",
            "{kind: node, name: node-a",
            "\u{0}",
        ] {
            let data = [("a", text), ("b", "{kind: namespace, name: shop}")];
            let read = Holds::read(&data.map(|(key, text)| (key.to_owned(), text.to_owned())).into());
            assert_eq!((read.malformed().len(), read.malformed()[0].key.as_str()), (1, "a"), "{text}");
            assert!(read.of(&claim()).is_some(), "{text}");
        }
    }

    #[test]
    fn why_and_since_when_never_end_a_hold() {
        let held = read("{kind: node, name: node-a, reason: [1], since: {a: b}, until: tomorrow}");
        assert_eq!(held.of(&claim()).unwrap().to_string(), "node node-a is on hold");
    }

    #[test]
    fn a_hold_says_who_why_and_since_when() {
        let held = read("{kind: pod, namespace: shop, name: cart-0, reason: stolen, since: today}");
        let held = held.of(&claim()).unwrap();
        assert_eq!(held.to_string(), "pod cart-0 of namespace shop is on hold since today (\"stolen\")");
        assert_eq!((held.scope.to_string(), held.scope.key()), ("pod/cart-0 -n shop".into(), "pod.shop.cart-0".into()));
    }

    #[test]
    fn a_key_is_one_that_a_config_map_takes() {
        let long = Scope::parse("po", Some(&"n".repeat(63)), &"p".repeat(253)).unwrap();
        let other = Scope::parse("po", Some(&"n".repeat(63)), &format!("{}q", "p".repeat(252))).unwrap();
        assert!(long.key().len() <= LONGEST_KEY && long.key() != other.key());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(name in "[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", reason in proptest::option::of("\\PC{0,40}")) {
            for scope in [Scope::parse("sa", Some("shop"), &name), Scope::parse("no", None, &name)] {
                let scope = scope.unwrap();
                let hold = HeldBy { key: scope.key(), scope, reason: reason.clone(), since: Some("now".to_owned()) };
                let read = Holds::read(&[(hold.key.clone(), hold.text())].into());
                prop_assert_eq!(read.all(), std::slice::from_ref(&hold));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            drop(read(&text));
        }
    }
}
