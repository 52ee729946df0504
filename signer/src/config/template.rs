//! Texts with variables, as `/ns/{namespace}/sa/{serviceAccount}`. A variable stands for a fact that the API server vouches for.
//!
//! Two pods that differ in what a template names get different texts: where two variables could run into each other, so that
//! `a-b` and `c` look like `a` and `b-c`, the template is refused.

use std::fmt;

use crate::names::{DnsName, clip, nearest};

/// A text with variables, checked for the use that it is put to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Box<[Piece]>);

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Value(Variable),
}

/// What a variable stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// The namespace of the pod.
    Namespace,
    /// The ServiceAccount of the pod.
    ServiceAccount,
    /// The name of the pod.
    Pod,
    /// The name of the node.
    Node,
    /// A label of the pod that the administrator declares trustworthy.
    Label(Box<str>),
}

impl Variable {
    fn parse(text: &str, trusted: &[Box<str>]) -> Result<Self, String> {
        match text {
            "namespace" => Ok(Self::Namespace),
            "serviceAccount" => Ok(Self::ServiceAccount),
            "pod" => Ok(Self::Pod),
            "node" => Ok(Self::Node),
            _ => match text.strip_prefix("label:") {
                Some(key) if trusted.iter().any(|trusted| **trusted == *key) => Ok(Self::Label(key.into())),
                Some(key) => Err(format!(
                    "labels are chosen by the pod's author: where something in the cluster sees to it that {:?} is true, add it to \
                     profile.trustedLabels",
                    clip(key)
                )),
                None => Err(match nearest(text, KNOWN) {
                    Some(nearest) => format!("there is no variable {{{}}}; did you mean {{{nearest}}}?", clip(text)),
                    None => {
                        format!("there is no variable {{{}}}: the variables are {{{}}}", clip(text), KNOWN.join("}, {"))
                    }
                }),
            },
        }
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace => out.write_str("{namespace}"),
            Self::ServiceAccount => out.write_str("{serviceAccount}"),
            Self::Pod => out.write_str("{pod}"),
            Self::Node => out.write_str("{node}"),
            Self::Label(key) => write!(out, "{{label:{key}}}"),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => out.write_str(text),
            Piece::Value(variable) => write!(out, "{variable}"),
        })
    }
}

impl Template {
    /// The path of a SPIFFE ID. Each part between slashes holds one variable at most, and one is the namespace alone.
    pub(super) fn spiffe_path(text: &str, trusted: &[Box<str>]) -> Result<Self, String> {
        let template = Self::parse(text, trusted)?;
        let shape = template.shape();
        let Some(path) = shape.strip_prefix('/') else {
            return Err(format!("write the path alone, as {DEFAULT_PATH}: the trust domain is put in front of it"));
        };
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-_/".contains(&byte);
        template.letters(letter, "a SPIFFE ID has letters, digits, `.`, `-` and `_` between its slashes")?;
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("no part between slashes may be empty, `.` or `..`, and none ends with `/`".to_owned());
        }
        one_a_part(path.split('/'), "each part between slashes")?;
        if !path.split('/').any(|part| part == "{namespace}") {
            return Err("one part must be {namespace}: else pods of two namespaces would have one identity".to_owned());
        }
        Ok(template)
    }

    /// A DNS name below the pod's namespace in the cluster's DNS.
    pub(super) fn dns_name(text: &str, trusted: &[Box<str>], cluster: &DnsName) -> Result<Self, String> {
        let template = Self::parse(text, trusted)?;
        let ends = [
            ".{namespace}.svc".to_owned(),
            format!(".{{namespace}}.svc.{cluster}"),
            format!(".{{namespace}}.pod.{cluster}"),
        ];
        let shape = template.shape();
        let Some(host) = ends.iter().find_map(|end| shape.strip_suffix(end.as_str())) else {
            return Err(format!(
                "a DNS name must end in {}: the issuing CA may sign for nothing else, and nobody gets a name of another namespace",
                ends.join(" or ")
            ));
        };
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        template.letters(letter, "a DNS name has lower-case letters, digits and `-` between its dots; no wildcards")?;
        if host.split('.').any(|part| part.is_empty() || part.starts_with('-') || part.ends_with('-')) {
            return Err("no part between dots may be empty, or begin or end with `-`".to_owned());
        }
        one_a_part(host.split('.'), "each part between dots")?;
        Ok(template)
    }

    /// A field of the subject.
    pub(super) fn subject(text: &str, trusted: &[Box<str>]) -> Result<Self, String> {
        let template = Self::parse(text, trusted)?;
        template.letters(is_subject_letter, "a field of the subject has letters, digits, spaces and `.-_:/@`")?;
        subject_text(&template.to_string())?;
        let shape = template.shape();
        let parts = shape.split([':', '/', '@', ' ']);
        // `{serviceAccount}.{namespace}`: a namespace has no dot, so that two of them are told apart by it.
        let by_dot = |part: &str| {
            part.split_once("}.{").is_some_and(|(first, last)| {
                !first.contains('}') && !last.contains('{') && (first == "{namespace" || last == "namespace}")
            })
        };
        one_a_part(parts.filter(|part| !by_dot(part)), "each part between `:`, `/`, `@` or spaces")?;
        Ok(template)
    }

    /// The text for a pod; the variable that has no value where there is one.
    pub(crate) fn fill<'f>(&self, value: impl Fn(&Variable) -> Option<&'f str>) -> Result<String, &Variable> {
        self.0.iter().try_fold(String::new(), |mut filled, piece| {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Value(variable) => filled.push_str(value(variable).ok_or(variable)?),
            }
            Ok(filled)
        })
    }

    /// How many parts of a DNS name it makes.
    pub(crate) fn parts(&self) -> usize {
        self.shape().split('.').count()
    }

    /// The variables in it.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Value(variable) => Some(variable),
        })
    }

    fn parse(text: &str, trusted: &[Box<str>]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let Some((variable, after)) = behind.split_once('}') else {
                return Err("a `{` is not closed: a variable is written {namespace}".to_owned());
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(Piece::Value(Variable::parse(variable, trusted)?));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        if pieces.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self(pieces.into()))
    }

    /// The text with nothing between braces that could be taken for what is around them: a label's key may hold `/` and `.`.
    fn shape(&self) -> String {
        let parts = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.to_string(),
            Piece::Value(Variable::Label(_)) => "{label}".to_owned(),
            Piece::Value(variable) => variable.to_string(),
        });
        parts.collect()
    }

    fn letters(&self, letter: impl Fn(u8) -> bool, wanted: &str) -> Result<(), String> {
        let plain = self.0.iter().all(|piece| match piece {
            Piece::Text(text) => text.bytes().all(&letter),
            Piece::Value(_) => true,
        });
        if plain { Ok(()) } else { Err(wanted.to_owned()) }
    }
}

fn one_a_part<'t>(mut parts: impl Iterator<Item = &'t str>, each: &str) -> Result<(), String> {
    if parts.any(|part| part.matches('{').count() > 1) {
        return Err(format!("{each} may hold one variable: two could run into each other, and pods share a name"));
    }
    Ok(())
}

/// What may stand in a field of the subject: text that no program that reads it takes for more than one field.
pub(crate) fn subject_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || !text.bytes().all(|byte| is_subject_letter(byte) || b"{}".contains(&byte)) {
        return Err("it is empty, or has other characters than letters, digits, spaces and `.-_:/@`");
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        return Err("it begins or ends with a space");
    }
    if text.to_ascii_lowercase().starts_with("system:") {
        return Err("names that begin with `system:` belong to Kubernetes");
    }
    Ok(())
}

fn is_subject_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" .-_:/@".contains(&byte)
}

const KNOWN: [&str; 5] = ["namespace", "serviceAccount", "pod", "node", "label:KEY"];

/// The path of the identities of Istio and SPIRE, too.
pub(super) const DEFAULT_PATH: &str = "/ns/{namespace}/sa/{serviceAccount}";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cluster() -> DnsName {
        DnsName::parse("cluster.local").unwrap()
    }

    fn dns(text: &str) -> Result<Template, String> {
        Template::dns_name(text, &["team".into()], &cluster())
    }

    fn path(text: &str) -> Result<Template, String> {
        Template::spiffe_path(text, &["team".into()])
    }

    fn subject(text: &str) -> Result<Template, String> {
        Template::subject(text, &["team".into()])
    }

    #[track_caller]
    fn refused(template: Result<Template, String>, word: &str) {
        let error = template.unwrap_err();
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }

    #[test]
    fn a_template_is_filled_with_what_its_variables_stand_for() {
        let template = path("/ns/{namespace}/team/{label:team}/sa/{serviceAccount}").unwrap();
        let filled = template.fill(|variable| match variable {
            Variable::Namespace => Some("shop"),
            Variable::ServiceAccount => Some("cart"),
            Variable::Label(key) => (&**key == "team").then_some("blue"),
            Variable::Pod | Variable::Node => None,
        });
        assert_eq!(filled.as_deref(), Ok("/ns/shop/team/blue/sa/cart"));
        let without = template.fill(|variable| matches!(variable, Variable::Namespace).then_some("shop"));
        assert_eq!(without, Err(&Variable::Label("team".into())));
        assert_eq!(template.to_string(), "/ns/{namespace}/team/{label:team}/sa/{serviceAccount}");
    }

    #[test]
    fn a_variable_that_is_none_is_told_with_the_one_that_was_meant() {
        refused(path("/ns/{namespce}"), "did you mean {namespace}?");
        refused(path("/ns/{labels}"), "the variables are {namespace}, {serviceAccount}, {pod}, {node}, {label:KEY}");
        refused(path("/ns/{namespace"), "not closed");
        refused(path("/ns/{namespace}/{label:tier}"), "profile.trustedLabels");
        refused(path(""), "empty");
    }

    #[test]
    fn a_path_keeps_namespaces_apart() {
        assert!(path(DEFAULT_PATH).is_ok());
        assert!(path("/ns/{namespace}/pod/{pod}").is_ok());
        refused(path("/sa/{serviceAccount}"), "{namespace}");
        refused(path("/x-{namespace}"), "{namespace}");
        refused(path("/{namespace}-{serviceAccount}"), "run into each other");
        refused(path("spiffe://a/{namespace}"), "the path alone");
        refused(path("/{namespace}/"), "`/`");
        refused(path("/../{namespace}"), "`..`");
        refused(path("/a b/{namespace}"), "letters");
        refused(path("/a%2f/{namespace}"), "letters");
    }

    #[test]
    fn a_dns_name_is_in_the_pods_own_namespace() {
        for good in [
            "{pod}.{namespace}.svc",
            "db-{label:team}.{namespace}.svc.cluster.local",
            "{pod}.{namespace}.pod.cluster.local",
        ] {
            assert!(dns(good).is_ok(), "{good}");
        }
        for bad in [
            "{pod}.kube-system.svc",
            "{serviceAccount}.{pod}.svc",
            "{namespace}.svc",
            "{pod}.{namespace}",
            "{pod}.{namespace}.svc.example.org",
            "api.example.org",
            "{pod}.x-{namespace}.svc",
        ] {
            refused(dns(bad), "must end in");
        }
        refused(dns("*.{namespace}.svc"), "no wildcards");
        refused(dns("A.{namespace}.svc"), "lower-case");
        refused(dns("{pod}{node}.{namespace}.svc"), "run into each other");
        refused(dns("a..{namespace}.svc"), "empty");
        refused(dns("-{pod}.{namespace}.svc"), "`-`");
    }

    #[test]
    fn a_subject_is_one_field_and_nobodys_else() {
        for good in
            ["{serviceAccount}", "{namespace}:{serviceAccount}", "{serviceAccount}.{namespace}", "team {label:team}"]
        {
            assert!(subject(good).is_ok(), "{good}");
        }
        refused(subject("{namespace}-{serviceAccount}"), "run into each other");
        refused(subject("{pod}.{serviceAccount}"), "run into each other");
        refused(subject("{pod}.{namespace}.{serviceAccount}"), "run into each other");
        refused(subject("{label:team}{label:team}"), "run into each other");
        refused(subject("system:{serviceAccount}"), "Kubernetes");
        refused(subject("System:masters"), "Kubernetes");
        refused(subject("a,O=b"), "letters");
        refused(subject(" a"), "space");
    }

    fn filled(template: &Template, (namespace, account, pod): &(String, String, String)) -> String {
        let value = |variable: &Variable| match variable {
            Variable::Namespace => Some(namespace.as_str()),
            Variable::ServiceAccount => Some(account.as_str()),
            Variable::Pod => Some(pod.as_str()),
            Variable::Node | Variable::Label(_) => None,
        };
        template.fill(value).unwrap()
    }

    proptest! {
        /// Different pods get different texts, whatever the template that is accepted.
        #[test]
        fn an_accepted_template_runs_nothing_together(
            text in "/?(\\{(namespace|serviceAccount|pod)\\}(|-|:|\\.|/|a)){1,3}(|/\\{namespace\\}|/a)",
        ) {
            let namespaces = ["a", "a-a", "aa", "a-a-a"].map(str::to_owned);
            let names = ["a", "a-a", "a.a", "aa", "a-a.a"].map(str::to_owned);
            for template in [path(&text), subject(&text)].into_iter().flatten() {
                let mut whose = std::collections::BTreeMap::new();
                for (namespace, account, pod) in namespaces
                    .iter()
                    .flat_map(|namespace| names.iter().map(move |account| (namespace, account)))
                    .flat_map(|(namespace, account)| names.iter().map(move |pod| (namespace, account, pod)))
                {
                    let used: Vec<&String> = template
                        .variables()
                        .filter_map(|variable| match variable {
                            Variable::Namespace => Some(namespace),
                            Variable::ServiceAccount => Some(account),
                            Variable::Pod => Some(pod),
                            Variable::Node | Variable::Label(_) => None,
                        })
                        .collect();
                    let text = filled(&template, &(namespace.clone(), account.clone(), pod.clone()));
                    let before = whose.entry(text).or_insert_with(|| used.clone());
                    prop_assert_eq!(&*before, &used);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            drop((path(&text), dns(&text), subject(&text)));
        }
    }
}
