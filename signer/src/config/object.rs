//! PodSigners as objects of the API server: each is checked as a document of a file is, and then they are held against one another.
//! What is wrong changes nothing: the last good spec of the same object stays in force.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::{Location, Spanned};

use super::{ConfigError, Domains, PodSigner, check, document::Tree};
use crate::{authority::Wish, resource::PodSignerStatus};

/// A PodSigner as it was read.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Object {
    pub(crate) metadata: Metadata,
    #[serde(default)]
    spec: Value,
    /// What was said of it before.
    #[serde(default, deserialize_with = "readable")]
    pub(crate) status: PodSignerStatus,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    #[serde(default)]
    pub(crate) generation: i64,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default)]
    creation_timestamp: Option<jiff::Timestamp>,
    #[serde(default)]
    deletion_timestamp: Option<jiff::Timestamp>,
}

/// What became of one object.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) object: Object,
    /// What is in force of it: its spec, or the last good one before.
    pub(crate) in_force: Option<Arc<PodSigner>>,
    /// Why its spec is not.
    pub(crate) refused: Option<Refused>,
}

/// Why a spec is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// In a word, as conditions and Events want it.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What is in force of each object, by its UID.
pub(crate) type InForce = BTreeMap<String, Arc<PodSigner>>;

/// Judges all objects there are. Of two with one signer name the older wins, whichever replica asks. A Secret stays with the
/// object that has it, and of two new ones the older gets it.
pub(crate) fn judge(mut objects: Vec<Object>, before: &InForce, domains: &Domains) -> Vec<Judged> {
    // One that is being deleted is as good as gone.
    objects.retain(|object| object.metadata.deletion_timestamp.is_none());
    objects.sort_by(|one, other| one.age().cmp(&other.age()));
    let mut older: Vec<Arc<PodSigner>> = Vec::new();
    let mut judged = Vec::new();
    for (place, object) in objects.iter().enumerate() {
        let younger = objects.iter().skip(place.saturating_add(1));
        let younger: Vec<&Arc<PodSigner>> = younger.filter_map(|other| before.get(&other.metadata.uid)).collect();
        let one = judge_one(object, before.get(&object.metadata.uid), &older, &younger, domains);
        older.extend(one.in_force.clone());
        judged.push(one);
    }
    judged
}

fn judge_one(
    object: &Object,
    last_good: Option<&Arc<PodSigner>>,
    older: &[Arc<PodSigner>],
    younger: &[&Arc<PodSigner>],
    domains: &Domains,
) -> Judged {
    let free = |signer: &PodSigner| {
        // A younger one with our signer name gives way, and its Secrets with it.
        let younger = younger.iter().filter(|other| other.signer_name != signer.signer_name);
        check::unlike(older.iter().chain(younger.copied()).map(|other| &**other), signer, check::object_place())
    };
    let refused = |reason, error: &ConfigError| Refused { reason, message: error.to_string() };
    let wish = Some(Wish::read(&object.metadata.annotations));
    let checked = check::object(&object.tree(), domains).map_err(|error| refused("SpecRefused", &error));
    let checked = checked.map(|signer| PodSigner { wish: wish.clone(), ..signer });
    let checked = checked.and_then(|signer| match free(&signer) {
        Ok(()) => Ok(signer),
        Err(error) => Err(refused("Conflict", &error)),
    });
    let (in_force, refused) = match checked {
        // The very same stays the very same, so that nobody takes it for a change.
        Ok(signer) => {
            (Some(last_good.filter(|good| ***good == signer).map_or_else(|| Arc::new(signer), Arc::clone)), None)
        }
        Err(refused) => {
            // What is asked of the CA counts whatever is wrong with the spec.
            let good = last_good.filter(|good| free(good).is_ok());
            let asked = |good: &Arc<PodSigner>| {
                if good.wish == wish {
                    return Arc::clone(good);
                }
                Arc::new(PodSigner { wish: wish.clone(), ..PodSigner::clone(good) })
            };
            (good.map(asked), Some(refused))
        }
    };
    Judged { object: object.clone(), in_force, refused }
}

impl Judged {
    /// Whether both are about one object, and not about two of one name.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        self.object.metadata.uid == other.object.metadata.uid
    }
}

impl Object {
    /// What orders objects by age; those of one second by UID.
    fn age(&self) -> (Option<jiff::Timestamp>, &str) {
        (self.metadata.creation_timestamp, &self.metadata.uid)
    }

    /// The document that a file would hold.
    fn tree(&self) -> Spanned<Tree> {
        let text = |text: &str| node(Tree::Text(text.to_owned()));
        node(Tree::Map(vec![
            (key("apiVersion"), text(check::API_VERSION)),
            (key("kind"), text("PodSigner")),
            (key("metadata"), node(Tree::Map(vec![(key("name"), text(&self.metadata.name))]))),
            (key("spec"), tree(&self.spec)),
        ]))
    }
}

fn tree(value: &Value) -> Spanned<Tree> {
    node(match value {
        Value::Null => Tree::Null,
        Value::Bool(value) => Tree::Bool(*value),
        Value::Number(number) => Tree::Number(number.as_f64().unwrap_or(f64::INFINITY)),
        Value::String(text) => Tree::Text(text.clone()),
        Value::Array(items) => Tree::List(items.iter().map(tree).collect()),
        Value::Object(fields) => Tree::Map(fields.iter().map(|(name, value)| (key(name), tree(value))).collect()),
    })
}

/// An object has no lines.
fn node<T>(value: T) -> Spanned<T> {
    Spanned { value, referenced: Location::UNKNOWN, defined: Location::UNKNOWN }
}

fn key(name: &str) -> Spanned<String> {
    node(name.to_owned())
}

/// A status that another version wrote says nothing to us, and is written anew.
fn readable<'de, D: serde::Deserializer<'de>>(input: D) -> Result<PodSignerStatus, D::Error> {
    let value = Value::deserialize(input)?;
    Ok(PodSignerStatus::deserialize(value).unwrap_or_default())
}

#[cfg(test)]
mod tests;
