//! Label and field selectors, as `labelSelector` and `fieldSelector` carry them.

use serde_json::Value;

use super::failure::{Answer, Failure};
use super::kind::Kind;
use super::object::{Fields, Object, at};

/// What a list or watch shows. Empty selects everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    fields: Vec<FieldTerm>,
    labels: Vec<LabelTerm>,
    namespace: Option<String>,
}

#[derive(Clone, Debug)]
struct FieldTerm {
    path: String,
    value: String,
    wanted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelTerm {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Has(String),
    HasNot(String),
}

impl Selector {
    /// Reads both selectors; a field the kind does not offer is refused as the real server does.
    pub(crate) fn parse(kind: Kind, namespace: &str, fields: &str, labels: &str) -> Answer<Self> {
        Ok(Self {
            fields: field_terms(kind, fields)?,
            labels: label_terms(labels)?,
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        })
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| object.meta("namespace") == wanted)
            && self.fields.iter().all(|term| term.matches(&object.fields))
            && labels_match(&self.labels, &object.fields)
    }

    /// The value a field is pinned to, if it is: what the node authorizer looks at.
    pub(crate) fn pinned(&self, path: &str) -> Option<&str> {
        self.fields.iter().find(|term| term.wanted && term.path == path).map(|term| term.value.as_str())
    }
}

impl FieldTerm {
    fn matches(&self, fields: &Fields) -> bool {
        let path: Vec<&str> = self.path.split('.').collect();
        let found = match at(fields, &path) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(flag)) => flag.to_string(),
            // A flag that is not set is written as false.
            None | Some(_) if path.ends_with(&["unschedulable"]) || path.ends_with(&["hostNetwork"]) => {
                "false".to_owned()
            }
            None | Some(_) => String::new(),
        };
        (found == self.value) == self.wanted
    }
}

fn field_terms(kind: Kind, text: &str) -> Answer<Vec<FieldTerm>> {
    let mut terms = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (path, value, wanted) = split_field(part).ok_or_else(|| {
            Failure::bad_request(format!("invalid field selector: {part:?}; can't understand '{part}'"))
        })?;
        if !kind.selectable().contains(&path) {
            return Err(Failure::bad_request(format!(
                "Unable to find {:?} that match label selector \"\", field selector {text:?}: field label not supported: {path}",
                kind.plural()
            )));
        }
        terms.push(FieldTerm { path: path.to_owned(), value: unescaped(value), wanted });
    }
    Ok(terms)
}

fn split_field(part: &str) -> Option<(&str, &str, bool)> {
    if let Some((path, value)) = part.split_once("!=") {
        return Some((path, value, false));
    }
    let (path, value) = part.split_once("==").or_else(|| part.split_once('='))?;
    Some((path, value, true))
}

fn unescaped(value: &str) -> String {
    value.replace("\\,", ",").replace("\\=", "=").replace("\\\\", "\\")
}

fn label_terms(text: &str) -> Answer<Vec<LabelTerm>> {
    split_outside_parentheses(text)
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            label_term(part).ok_or_else(|| Failure::bad_request(format!("unable to parse requirement: {part:?}")))
        })
        .collect()
}

fn label_term(part: &str) -> Option<LabelTerm> {
    let set = |text: &str| -> Option<Vec<String>> {
        let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|one| one.trim().to_owned()).collect())
    };
    if let Some((key, values)) = part.split_once(" notin ") {
        return Some(LabelTerm::NotIn(key.trim().to_owned(), set(values)?));
    }
    if let Some((key, values)) = part.split_once(" in ") {
        return Some(LabelTerm::In(key.trim().to_owned(), set(values)?));
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Some(LabelTerm::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(LabelTerm::In(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    let plain = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if let Some(key) = part.strip_prefix('!').map(str::trim) {
        return plain(key).then(|| LabelTerm::HasNot(key.to_owned()));
    }
    plain(part).then(|| LabelTerm::Has(part.to_owned()))
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.split(move |c| {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        c == ',' && !inside
    })
    .collect()
}

fn labels_match(terms: &[LabelTerm], fields: &Fields) -> bool {
    let label =
        |key: &str| at(fields, &["metadata", "labels"]).and_then(|labels| labels.get(key)).and_then(Value::as_str);
    terms.iter().all(|term| match term {
        LabelTerm::In(key, values) => label(key).is_some_and(|value| values.iter().any(|one| one == value)),
        LabelTerm::NotIn(key, values) => label(key).is_none_or(|value| values.iter().all(|one| one != value)),
        LabelTerm::Has(key) => label(key).is_some(),
        LabelTerm::HasNot(key) => label(key).is_none(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(labels: Value) -> Object {
        let Value::Object(fields) = json!({ "metadata": { "name": "web", "namespace": "shop", "labels": labels }, "spec": { "nodeName": "n1" } })
        else {
            panic!("an object");
        };
        Object::new(fields, 1)
    }

    fn selects(fields: &str, labels: &str) -> bool {
        Selector::parse(Kind::Pod, "", fields, labels).unwrap().matches(&pod(json!({ "app": "web", "tier": "front" })))
    }

    #[test]
    fn fields_are_compared_as_text() {
        assert!(selects("spec.nodeName=n1", "") && selects("spec.nodeName==n1,metadata.name!=db", ""));
        assert!(!selects("spec.nodeName=n2", "") && !selects("spec.nodeName!=n1", ""));
        assert!(selects("status.phase=", ""), "an absent text is empty");
    }

    #[test]
    fn a_field_that_is_not_offered_is_refused() {
        let refused = Selector::parse(Kind::Request, "", "spec.podUID=1", "").unwrap_err();
        assert_eq!(refused.code, 400);
        assert!(refused.message.ends_with("field label not supported: spec.podUID"));
        assert!(Selector::parse(Kind::Request, "", "metadata.namespace=shop", "").is_err());
    }

    #[test]
    fn labels_have_six_forms() {
        for yes in
            ["app=web", "app==web,tier", "app!=db", "app in (web, db),tier notin (back)", "!gone", "other notin (x)"]
        {
            assert!(selects("", yes), "{yes}");
        }
        for no in ["app=db", "gone", "!app", "app notin (web)", "app in (db)", "app!=web"] {
            assert!(!selects("", no), "{no}");
        }
        assert!(Selector::parse(Kind::Pod, "", "", "a b c").is_err());
    }
}
