//! From a path and a query to what is meant.

use std::collections::BTreeMap;

use http::Method;

use super::failure::{Answer, Failure};
use super::fault::Verb;
use super::kind::{Kind, Served};
use super::selector::Selector;

/// A call of one resource.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) verb: Verb,
    pub(crate) served: Served,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) status: bool,
    pub(crate) selector: Selector,
    pub(crate) query: Query,
}

/// The query's parameters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(key), decoded(value))
        });
        Self(pairs.collect())
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.0.get(key).map(String::as_str).unwrap_or_default()
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(self.text(key), "true" | "1" | "True" | "t")
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.text(key).parse().ok()
    }
}

/// Percent- and plus-decoding. What is malformed stays as it is.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let hex = [bytes.next().unwrap_or(b'%'), bytes.next().unwrap_or(b'%')];
                let value = std::str::from_utf8(&hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                out.push(value.unwrap_or(b'%'));
            }
            plain => out.push(plain),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Call {
    /// `resource` or `resource/status`, as RBAC and [`Faults`](super::fault::Faults) name it.
    pub(crate) fn resource(&self) -> String {
        let plural = self.served.kind.plural();
        if self.status { format!("{plural}/status") } else { plural.to_owned() }
    }

    pub(crate) fn key(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }

    /// Reads the path of a resource. `all` is what is served.
    pub(crate) fn parse(all: &[Served], method: &Method, path: &str, query: &str) -> Answer<Self> {
        let absent = || Failure::new(404, "NotFound", "the server could not find the requested resource");
        let segments: Vec<String> = path.split('/').filter(|segment| !segment.is_empty()).map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(absent()),
        };
        let (namespace, rest) = match rest {
            // `namespaces/x` and `namespaces/x/status` are the object; everything longer is inside.
            ["namespaces", namespace, inside @ ..] if !inside.is_empty() && inside != ["status"] => {
                (*namespace, inside)
            }
            _ => ("", rest),
        };
        let (plural, name, sub) = match rest {
            [plural] => (*plural, "", None),
            [plural, name] => (*plural, *name, None),
            [plural, name, sub] => (*plural, *name, Some(*sub)),
            _ => return Err(absent()),
        };
        let kind = Kind::from_plural(plural).ok_or_else(absent)?;
        let known = |one: &&Served| one.kind == kind && one.group == group && one.version == version;
        let served = *all.iter().find(known).ok_or_else(absent)?;
        let status = sub == Some("status");
        let misplaced = !namespace.is_empty() && !kind.namespaced();
        let homeless = namespace.is_empty() && kind.namespaced() && !name.is_empty();
        if misplaced || homeless || (sub.is_some() && !(status && kind.has_status())) {
            return Err(absent());
        }
        let query = Query::parse(query);
        let verb = verb(method, name, &query)?;
        let selector = Selector::parse(kind, namespace, query.text("fieldSelector"), query.text("labelSelector"))?;
        Ok(Self { verb, served, namespace: namespace.to_owned(), name: name.to_owned(), status, selector, query })
    }
}

fn verb(method: &Method, name: &str, query: &Query) -> Answer<Verb> {
    match (method.as_str(), name.is_empty()) {
        ("GET", false) => Ok(Verb::Get),
        ("GET", true) if query.flag("watch") => Ok(Verb::Watch),
        ("GET", true) => Ok(Verb::List),
        ("POST", true) => Ok(Verb::Create),
        ("PUT", false) => Ok(Verb::Update),
        ("PATCH", false) => Ok(Verb::Patch),
        ("DELETE", false) => Ok(Verb::Delete),
        _ => Err(Failure::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )),
    }
}
