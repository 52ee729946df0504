//! YAML as a tree that knows its lines, and a walker over it that remembers which keys were asked for: whatever is left in the
//! end is unknown, and is refused by name.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

use super::LabelPairs;
use crate::names::{clip, nearest};

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    document: String,
    field: String,
    line: u64,
    problem: String,
}

impl ConfigError {
    /// The line, counted from 1; 0 in an object of the API server, which has none.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The field, as `spec.lifetime.max`; empty where it is the whole document.
    pub fn field(&self) -> &str {
        &self.field
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { document, field, line, problem } = self;
        let line = if *line == 0 { String::new() } else { format!("line {line}") };
        let place: Vec<&str> =
            [&line, document, field].into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        match place.as_slice() {
            [] => out.write_str(problem),
            place => write!(out, "{}: {problem}", place.join(", ")),
        }
    }
}

/// A value of YAML.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

/// Reads all documents. Empty ones (as after a last `---`) are left out.
pub(super) fn read(yaml: &str) -> Result<Vec<Spanned<Tree>>, ConfigError> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_multiple_with_options(yaml, options).map_err(|error| {
        let error = error.without_snippet();
        ConfigError {
            document: String::new(),
            field: String::new(),
            line: error.location().map_or(0, |at| at.line()),
            problem: error.to_string(),
        }
    })
}

/// A place in a document: what it holds, and how one calls it.
#[derive(Clone, Copy)]
pub(super) struct Place<'t> {
    tree: &'t Tree,
    line: u64,
    path: &'t Path<'t>,
}

/// How a place is called, from the inside out.
pub(super) enum Path<'t> {
    Document(&'t str),
    Key(&'t Path<'t>, &'t str),
    Item(&'t Path<'t>, usize),
}

impl Path<'_> {
    fn document(&self) -> &str {
        match self {
            Path::Document(document) => document,
            Path::Key(above, _) | Path::Item(above, _) => above.document(),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Document(_) => Ok(()),
            Path::Key(Path::Document(_), key) => out.write_str(key),
            Path::Key(above, key) => write!(out, "{above}.{key}"),
            Path::Item(above, index) => write!(out, "{above}[{index}]"),
        }
    }
}

impl<'t> Place<'t> {
    pub(super) fn new(node: &'t Spanned<Tree>, path: &'t Path<'t>) -> Self {
        Self { tree: &node.value, line: node.referenced.line(), path }
    }

    /// The place of an object as a whole.
    pub(super) fn nowhere(path: &'t Path<'t>) -> Self {
        Self { tree: &Tree::Null, line: 0, path }
    }

    /// An error about this place.
    pub(super) fn error(&self, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            document: self.path.document().to_owned(),
            field: self.path.to_string(),
            line: self.line,
            problem: problem.into(),
        }
    }

    pub(super) fn text(&self) -> Result<&'t str, ConfigError> {
        match self.tree {
            Tree::Text(text) => Ok(text),
            Tree::Number(_) | Tree::Bool(_) => Err(self.error("a text is wanted here: write it in quotes")),
            Tree::Null | Tree::List(_) | Tree::Map(_) => Err(self.error("a text is wanted here")),
        }
    }

    pub(super) fn bool(&self) -> Result<bool, ConfigError> {
        match self.tree {
            Tree::Bool(value) => Ok(*value),
            Tree::Null | Tree::Number(_) | Tree::Text(_) | Tree::List(_) | Tree::Map(_) => {
                Err(self.error("write true or false"))
            }
        }
    }

    pub(super) fn number(&self) -> Result<f64, ConfigError> {
        match self.tree {
            Tree::Number(value) => Ok(*value),
            Tree::Null | Tree::Bool(_) | Tree::Text(_) | Tree::List(_) | Tree::Map(_) => {
                Err(self.error("a number is wanted here"))
            }
        }
    }

    pub(super) fn list(&self) -> Result<&'t [Spanned<Tree>], ConfigError> {
        match self.tree {
            Tree::List(items) => Ok(items),
            Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::Text(_) | Tree::Map(_) => {
                Err(self.error("a list is wanted here: write [...], or one `- ` line for each item"))
            }
        }
    }

    /// A mapping of any keys to texts, sorted.
    pub(super) fn texts(&self) -> Result<LabelPairs, ConfigError> {
        let Tree::Map(entries) = self.tree else {
            return Err(self.error("a mapping of keys to values is wanted here"));
        };
        let text = |(key, node): &(Spanned<String>, Spanned<Tree>)| match &node.value {
            Tree::Text(text) => Ok((key.value.as_str().into(), text.as_str().into())),
            Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::List(_) | Tree::Map(_) => {
                let problem = format!("{:?} needs a text: write it in quotes", clip(&key.value));
                Err(ConfigError { line: node.referenced.line(), ..self.error(problem) })
            }
        };
        let mut texts: Box<[_]> = entries.iter().map(text).collect::<Result<_, _>>()?;
        texts.sort_unstable();
        Ok(texts)
    }

    /// The fields of a mapping. All that may be there are named, so that others can be refused.
    pub(super) fn fields<const N: usize>(&self, known: [&'static str; N]) -> Result<Fields<'t, N>, ConfigError> {
        let Tree::Map(entries) = self.tree else {
            return Err(self.error(format!("a mapping is wanted here, with the keys {}", known.join(", "))));
        };
        if let Some((key, _)) = entries.iter().find(|(key, _)| !known.contains(&key.value.as_str())) {
            return Err(ConfigError { line: key.referenced.line(), ..self.error(unknown(&key.value, &known)) });
        }
        Ok(Fields { place: *self, known, entries })
    }
}

fn unknown(key: &str, known: &[&'static str]) -> String {
    let key_text = clip(key);
    match nearest(key, known.iter().copied()) {
        Some(nearest) => format!("there is no key {key_text:?} here; did you mean {nearest:?}?"),
        None => format!("there is no key {key_text:?} here; the keys are {}", known.join(", ")),
    }
}

/// The fields of a mapping, by name.
pub(super) struct Fields<'t, const N: usize> {
    place: Place<'t>,
    known: [&'static str; N],
    entries: &'t [(Spanned<String>, Spanned<Tree>)],
}

impl<'t, const N: usize> Fields<'t, N> {
    /// A field and its path, if it is there. `null` is not.
    pub(super) fn find(&self, key: &'static str) -> Option<(&'t Spanned<Tree>, Path<'t>)> {
        debug_assert!(self.known.contains(&key), "a key that is read is a key that is known");
        let (_, node) = self.entries.iter().find(|(found, _)| found.value == key)?;
        (!matches!(node.value, Tree::Null)).then_some((node, Path::Key(self.place.path, key)))
    }

    /// The same, of a field that must be there.
    pub(super) fn need(&self, key: &'static str, why: &str) -> Result<(&'t Spanned<Tree>, Path<'t>), ConfigError> {
        self.find(key).ok_or_else(|| self.place.error(format!("{key} is missing: {why}")))
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Tree;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("any value")
            }

            fn visit_unit<E: Error>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }

            fn visit_none<E: Error>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Bool(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Tree, E> {
                Ok(Tree::Number(i32::try_from(value).map_or(f64::INFINITY, f64::from)))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Tree, E> {
                Ok(Tree::Number(u32::try_from(value).map_or(f64::INFINITY, f64::from)))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Tree, E> {
                Ok(Tree::Number(value))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Tree, E> {
                Ok(Tree::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Tree::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Tree::Map(entries))
            }
        }

        input.deserialize_any(Any)
    }
}
