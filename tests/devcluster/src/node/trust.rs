//! Trust bundles for volumes: selected, de-duplicated, shuffled and kept for a while, as a kubelet does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::der;
use crate::clock::random_below;
use crate::rules::pem;

/// All bundles of the cluster, and what was made of them lately.
#[derive(Default)]
pub(crate) struct Trust {
    /// By name: `spec`, and the labels.
    bundles: BTreeMap<String, Value>,
    kept: BTreeMap<Wanted, (Instant, String)>,
    lasts: Duration,
}

/// What a source asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    Name(String),
    /// The selector as text; nil and empty both print as nothing, and so share an entry. That is a kubelet's defect.
    Signer(String, String),
}

impl Trust {
    pub(crate) fn new(lasts: Duration) -> Self {
        Self { lasts, ..Self::default() }
    }

    /// A bundle is new, changed, or (without an object) gone.
    pub(crate) fn changed(&mut self, name: &str, bundle: Option<Value>) {
        let old = self.bundles.get(name).cloned();
        let signer = |bundle: &Value| text(bundle, "/spec/signerName").to_owned();
        let signers: BTreeSet<String> = old.iter().chain(bundle.iter()).map(signer).collect();
        // By-name entries of a bundle that has a signer are not dropped: kubernetes#141439, still so in 1.37.2.
        self.kept.retain(|wanted, _| match wanted {
            Wanted::Name(kept) => !(signers.contains("") && kept == name),
            Wanted::Signer(kept, _) => !signers.contains(kept),
        });
        match bundle {
            Some(bundle) => self.bundles.insert(name.to_owned(), bundle),
            None => self.bundles.remove(name),
        };
    }

    /// Forgets what was made; the bundles themselves stay known.
    pub(crate) fn forget_made(&mut self) {
        self.kept.clear();
    }

    /// Forgets every bundle that is not among `names`: after a new list.
    pub(crate) fn keep_only(&mut self, names: &BTreeSet<String>) {
        let gone: Vec<String> = self.bundles.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            self.changed(&name, None);
        }
    }

    /// The PEM text for a `clusterTrustBundle` source.
    pub(crate) fn anchors(&mut self, source: &Value) -> Result<String, String> {
        let optional = source.get("optional").and_then(Value::as_bool).unwrap_or(false);
        let (name, signer) = (text(source, "/name"), text(source, "/signerName"));
        let selector = source.get("labelSelector").filter(|selector| !selector.is_null());
        let wanted = if name.is_empty() {
            Wanted::Signer(signer.to_owned(), selector.map(printed).unwrap_or_default())
        } else {
            Wanted::Name(name.to_owned())
        };
        let now = Instant::now();
        if let Some((until, text)) = self.kept.get(&wanted)
            && *until > now
        {
            return Ok(text.clone());
        }
        let found: Vec<&Value> = match &wanted {
            Wanted::Name(name) => self.bundles.get(name).into_iter().collect(),
            Wanted::Signer(signer, _) => {
                let matching =
                    |bundle: &&Value| text(bundle, "/spec/signerName") == signer && selects(selector, bundle);
                self.bundles.values().filter(matching).collect()
            }
        };
        if found.is_empty() {
            return if optional {
                Ok(String::new())
            } else if name.is_empty() {
                Err(format!("combination of signerName and labelSelector matched zero ClusterTrustBundles: {signer:?}"))
            } else {
                Err(format!("clustertrustbundle {name:?} not found"))
            };
        }
        let text = joined(&found);
        self.kept.insert(wanted, (now.checked_add(self.lasts).unwrap_or(now), text.clone()));
        Ok(text)
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn printed(selector: &Value) -> String {
    if selector.as_object().is_some_and(serde_json::Map::is_empty) { String::new() } else { selector.to_string() }
}

/// Each certificate once, in no order that anybody could lean on.
fn joined(bundles: &[&Value]) -> String {
    let all = bundles.iter().flat_map(|bundle| pem::blocks(text(bundle, "/spec/trustBundle")));
    let unique: BTreeSet<Vec<u8>> = all.map(|block| block.bytes).collect();
    let mut shuffled: Vec<(u64, Vec<u8>)> = unique.into_iter().map(|bytes| (random_below(u64::MAX), bytes)).collect();
    shuffled.sort();
    shuffled.iter().map(|(_, bytes)| der::pem("CERTIFICATE", bytes)).collect()
}

/// No selector matches nothing; an empty one matches everything.
fn selects(selector: Option<&Value>, bundle: &Value) -> bool {
    let Some(selector) = selector else { return false };
    let label =
        |key: &str| bundle.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str);
    let pairs = selector.get("matchLabels").and_then(Value::as_object);
    let equal = pairs.into_iter().flatten().all(|(key, value)| label(key) == value.as_str());
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    equal
        && expressions.into_iter().flatten().all(|expression| {
            let found = label(text(expression, "/key"));
            let values = expression.get("values").and_then(Value::as_array);
            let listed = |found: &str| values.into_iter().flatten().any(|value| value.as_str() == Some(found));
            match text(expression, "/operator") {
                "In" => found.is_some_and(listed),
                "NotIn" => !found.is_some_and(listed),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bundle(signer: &str, label: &str, anchors: &[u8]) -> Value {
        let pem: String = anchors.iter().map(|anchor| der::pem("CERTIFICATE", &[*anchor])).collect();
        json!({ "metadata": { "labels": { "use": label } }, "spec": { "signerName": signer, "trustBundle": pem } })
    }

    fn trust() -> Trust {
        let mut trust = Trust::new(Duration::from_secs(300));
        trust.changed("a:b:live", Some(bundle("a/b", "live", &[1, 2])));
        trust.changed("a:b:next", Some(bundle("a/b", "next", &[2, 3])));
        trust.changed("plain", Some(bundle("", "live", &[4])));
        trust
    }

    fn anchors(trust: &mut Trust, source: Value) -> BTreeSet<Vec<u8>> {
        let text = trust.anchors(&source).unwrap();
        let all: Vec<Vec<u8>> = pem::blocks(&text).into_iter().map(|block| block.bytes).collect();
        let unique: BTreeSet<Vec<u8>> = all.iter().cloned().collect();
        assert_eq!(all.len(), unique.len(), "each anchor once");
        unique
    }

    fn set(all: &[u8]) -> BTreeSet<Vec<u8>> {
        all.iter().map(|one| vec![*one]).collect()
    }

    #[test]
    fn bundles_are_found_by_signer_and_labels() {
        let mut trust = trust();
        assert_eq!(anchors(&mut trust, json!({ "signerName": "a/b", "labelSelector": {} })), set(&[1, 2, 3]));
        let live = json!({ "signerName": "a/b", "labelSelector": { "matchLabels": { "use": "live" } } });
        assert_eq!(anchors(&mut trust, live), set(&[1, 2]));
        let not_live = json!({ "signerName": "a/b", "labelSelector": {
            "matchExpressions": [{ "key": "use", "operator": "NotIn", "values": ["live"] }] } });
        assert_eq!(anchors(&mut trust, not_live), set(&[2, 3]));
    }

    #[test]
    fn no_selector_matches_nothing() {
        assert!(trust().anchors(&json!({ "signerName": "a/b" })).is_err());
        assert_eq!(trust().anchors(&json!({ "signerName": "a/b", "optional": true })), Ok(String::new()));
        assert_eq!(trust().anchors(&json!({ "name": "gone", "optional": true })), Ok(String::new()));
    }

    #[test]
    fn a_change_shows_at_once_by_signer_but_lags_by_name() {
        let mut trust = trust();
        let by_name = json!({ "name": "a:b:live" });
        let by_signer = json!({ "signerName": "a/b", "labelSelector": { "matchLabels": { "use": "live" } } });
        assert_eq!(anchors(&mut trust, by_name.clone()), set(&[1, 2]));
        assert_eq!(anchors(&mut trust, by_signer.clone()), set(&[1, 2]));
        trust.changed("a:b:live", Some(bundle("a/b", "live", &[9])));
        assert_eq!(anchors(&mut trust, by_signer), set(&[9]));
        assert_eq!(anchors(&mut trust, by_name), set(&[1, 2]));
        assert_eq!(anchors(&mut trust, json!({ "name": "plain" })), set(&[4]));
        trust.changed("plain", Some(bundle("", "live", &[5])));
        assert_eq!(anchors(&mut trust, json!({ "name": "plain" })), set(&[5]), "without a signer name it does not lag");
    }
}
