//! One rule of `spec.allow`, checked.

use super::{
    AllowRule, Domains, LabelPairs, Pattern, Requests,
    check::{Found, key_types, longest},
    document::{ConfigError, Path, Place},
    template::subject_text,
};
use crate::names::{CertificateName, clip};

/// Reads the rules, which are told apart by their names.
pub(super) fn allow((node, path): Found<'_>, domains: &Domains) -> Result<Box<[AllowRule]>, ConfigError> {
    let mut rules: Vec<AllowRule> = Vec::new();
    for (index, node) in Place::new(node, &path).list()?.iter().enumerate() {
        let path = Path::Item(&path, index);
        let place = Place::new(node, &path);
        let rule = rule(place, domains)?;
        if rules.iter().any(|before| before.name == rule.name) {
            return Err(place.error(format!(
                "a rule before has the name {:?}, too: the audit log must tell them apart",
                rule.name
            )));
        }
        rules.push(rule);
    }
    Ok(rules.into())
}

fn rule(place: Place<'_>, domains: &Domains) -> Result<AllowRule, ConfigError> {
    let fields = place.fields([
        "name",
        "namespaces",
        "serviceAccounts",
        "namespaceSelector",
        "nodeSelector",
        "lifetime",
        "keyTypes",
        "requests",
        "shadow",
    ])?;
    let (node, path) = fields.need("name", "messages and the audit log name the rule that admits")?;
    let at = Place::new(node, &path);
    let name = at.text()?;
    if name.is_empty() || name.len() > 63 || name.chars().any(char::is_control) {
        return Err(at.error("a name has 1 to 63 letters"));
    }
    let max = |(node, path): Found<'_>| {
        let fields = Place::new(node, &path).fields(["max"])?;
        longest(fields.need("max", "write {max: 6h}, or leave out lifetime")?)
    };
    Ok(AllowRule {
        name: name.to_owned(),
        namespaces: patterns(fields.need("namespaces", "write [\"*\"] for all of them")?)?,
        service_accounts: patterns(fields.need("serviceAccounts", "write [\"*\"] for all of them")?)?,
        namespace_labels: fields.find("namespaceSelector").map_or(Ok(Box::default()), match_labels)?,
        node_labels: fields.find("nodeSelector").map_or(Ok(Box::default()), match_labels)?,
        max_seconds: fields.find("lifetime").map(max).transpose()?,
        key_types: fields.find("keyTypes").map(key_types).transpose()?,
        requests: fields.find("requests").map_or(Ok(Requests::default()), |found| requests(found, domains))?,
        shadow: fields.find("shadow").map_or(Ok(false), |(node, path)| Place::new(node, &path).bool())?,
    })
}

fn patterns((node, path): Found<'_>) -> Result<Box<[Pattern]>, ConfigError> {
    let place = Place::new(node, &path);
    let items = place.list()?;
    if items.is_empty() {
        return Err(
            place.error("an empty list matches nothing: name at least one, or write [\"*\"], or leave out the rule")
        );
    }
    let pattern = |(index, node)| {
        let path = Path::Item(&path, index);
        let place = Place::new(node, &path);
        Pattern::parse(place.text()?).map_err(|why| place.error(why))
    };
    items.iter().enumerate().map(pattern).collect()
}

/// `matchLabels` of a selector. An empty one would match everything, which is what leaving it out means.
fn match_labels((node, path): Found<'_>) -> Result<LabelPairs, ConfigError> {
    let fields = Place::new(node, &path).fields(["matchLabels"])?;
    let (node, path) = fields.need("matchLabels", "write {matchLabels: {KEY: VALUE}}")?;
    let place = Place::new(node, &path);
    let labels = place.texts()?;
    if labels.is_empty() {
        return Err(place.error("an empty selector selects everything: name a label, or leave out the selector"));
    }
    Ok(labels)
}

fn requests((node, path): Found<'_>, domains: &Domains) -> Result<Requests, ConfigError> {
    let fields = Place::new(node, &path).fields(["services", "hostname", "podIPs", "dnsNames", "commonNames"])?;
    let bool = |key| fields.find(key).map_or(Ok(false), |(node, path)| Place::new(node, &path).bool());
    Ok(Requests {
        services: bool("services")?,
        hostname: bool("hostname")?,
        pod_ips: bool("podIPs")?,
        dns_names: fields.find("dnsNames").map_or(Ok(Box::default()), |found| dns_names(found, domains))?,
        common_names: fields.find("commonNames").map_or(Ok(Box::default()), common_names)?,
    })
}

fn dns_names((node, path): Found<'_>, domains: &Domains) -> Result<Box<[CertificateName]>, ConfigError> {
    let name = |(index, node)| {
        let path = Path::Item(&path, index);
        let place = Place::new(node, &path);
        let name = CertificateName::parse(place.text()?).map_err(|error| place.error(error.to_string()))?;
        let below = |end: &str| name.as_str().strip_suffix(end).is_some_and(|host| host.ends_with('.'));
        if !below("svc") && !below(domains.cluster.as_str()) {
            return Err(place.error(format!(
                "{name} is neither below svc nor below {}: the issuing CA may sign for nothing else",
                domains.cluster
            )));
        }
        Ok(name)
    };
    Place::new(node, &path).list()?.iter().enumerate().map(name).collect()
}

fn common_names((node, path): Found<'_>) -> Result<Box<[Box<str>]>, ConfigError> {
    let name = |(index, node)| {
        let path = Path::Item(&path, index);
        let place = Place::new(node, &path);
        let text = place.text()?;
        if text.len() > 64 {
            return Err(place.error(format!("{:?} is longer than 64 letters", clip(text))));
        }
        subject_text(text).map_err(|why| place.error(why))?;
        Ok(text.into())
    };
    Place::new(node, &path).list()?.iter().enumerate().map(name).collect()
}
