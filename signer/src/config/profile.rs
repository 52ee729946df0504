//! `spec.profile`, checked: whatever passes here makes certificates that the API server, webpki, Go and OpenSSL take, or holds a
//! request because of the pod's own names.

use super::{
    DnsSource, Domains, SubjectWording, Usages, Wording,
    check::Found,
    document::{ConfigError, Path, Place},
    template::{DEFAULT_PATH, Template},
};
use crate::names::{clip, nearest};

/// Without a profile: the SPIFFE ID alone.
pub(super) fn wording(place: Place<'_>, found: Option<Found<'_>>, domains: &Domains) -> Result<Wording, ConfigError> {
    let default = Template::spiffe_path(DEFAULT_PATH, &[]).map_err(|why| place.error(why))?;
    let mut wording = Wording {
        spiffe_path: Some(default),
        dns_names: Box::default(),
        pod_ips: false,
        usages: Usages::Both,
        subject: SubjectWording::default(),
        cluster_domain: domains.cluster.clone(),
    };
    let Some((node, path)) = found else { return Ok(wording) };
    let place = Place::new(node, &path);
    let fields = place.fields(["spiffeId", "dnsNames", "ipAddresses", "usages", "subject", "trustedLabels"])?;
    let trusted = fields.find("trustedLabels").map_or(Ok(Box::default()), trusted_labels)?;
    if let Some(found) = fields.find("spiffeId") {
        wording.spiffe_path = spiffe_path(found, &trusted)?;
    }
    wording.dns_names =
        fields.find("dnsNames").map_or(Ok(Box::default()), |found| dns_names(found, &trusted, domains))?;
    wording.pod_ips = fields.find("ipAddresses").map_or(Ok(false), pod_ips)?;
    wording.usages = fields.find("usages").map_or(Ok(Usages::Both), usages)?;
    wording.subject = fields.find("subject").map_or(Ok(SubjectWording::default()), |found| subject(found, &trusted))?;
    together(&wording, place)?;
    Ok(wording)
}

/// What holds of the whole.
fn together(wording: &Wording, place: Place<'_>) -> Result<(), ConfigError> {
    if wording.spiffe_path.is_some() && wording.usages != Usages::Both {
        return Err(place.error(
            "a certificate with a SPIFFE ID must be for clients and servers (X.509-SVID, 4.4): leave out usages, or set spiffeId: none",
        ));
    }
    if wording.spiffe_path.is_none() && wording.dns_names.is_empty() && !wording.pod_ips && wording.subject.is_empty() {
        return Err(place.error("a certificate needs a name: with spiffeId: none, set dnsNames or subject"));
    }
    Ok(())
}

fn spiffe_path((node, path): Found<'_>, trusted: &[Box<str>]) -> Result<Option<Template>, ConfigError> {
    let place = Place::new(node, &path);
    match place.text()? {
        "none" => Ok(None),
        text => Template::spiffe_path(text, trusted).map(Some).map_err(|why| place.error(why)),
    }
}

fn dns_names(
    (node, path): Found<'_>,
    trusted: &[Box<str>],
    domains: &Domains,
) -> Result<Box<[DnsSource]>, ConfigError> {
    let mut sources: Vec<DnsSource> = Vec::new();
    for (index, node) in Place::new(node, &path).list()?.iter().enumerate() {
        let path = Path::Item(&path, index);
        let place = Place::new(node, &path);
        let source = match place.text()? {
            "services" => DnsSource::Services,
            "hostname" => DnsSource::Hostname,
            text if !text.contains('.') => {
                return Err(place.error(unknown(text, "a source of DNS names", &DnsSource::WORDS)));
            }
            text => DnsSource::Template(
                Template::dns_name(text, trusted, &domains.cluster).map_err(|why| place.error(why))?,
            ),
        };
        if sources.contains(&source) {
            return Err(place.error(format!("{source} is there twice")));
        }
        if sources.len() >= MOST_SOURCES {
            return Err(place.error(format!("these are more than {MOST_SOURCES}: a certificate has room for no more")));
        }
        sources.push(source);
    }
    Ok(sources.into())
}

fn unknown(text: &str, what: &str, known: &[&'static str]) -> String {
    match nearest(text, known.iter().copied()) {
        Some(nearest) => format!("{:?} is not {what}; did you mean {nearest}?", clip(text)),
        None => format!("{:?} is not {what}: write some of {}", clip(text), known.join(", ")),
    }
}

/// A list of words, of which each may be there once.
fn words((node, path): Found<'_>, what: &str, known: &[&'static str]) -> Result<Vec<&'static str>, ConfigError> {
    let mut found: Vec<&'static str> = Vec::new();
    for (index, node) in Place::new(node, &path).list()?.iter().enumerate() {
        let path = Path::Item(&path, index);
        let place = Place::new(node, &path);
        let text = place.text()?;
        let word = known.iter().find(|word| **word == text).ok_or_else(|| place.error(unknown(text, what, known)))?;
        if found.contains(word) {
            return Err(place.error(format!("{word} is there twice")));
        }
        found.push(word);
    }
    Ok(found)
}

fn pod_ips(found: Found<'_>) -> Result<bool, ConfigError> {
    Ok(!words(found, "a source of IP addresses", &["podIPs"])?.is_empty())
}

fn usages(found: Found<'_>) -> Result<Usages, ConfigError> {
    let (node, path) = &found;
    let empty =
        Place::new(node, path).error("without a usage it is good for nothing: write [client], [server] or both");
    let found = words(found, "a usage", &["client", "server"])?;
    match (found.contains(&"client"), found.contains(&"server")) {
        (true, true) => Ok(Usages::Both),
        (true, false) => Ok(Usages::Client),
        (false, true) => Ok(Usages::Server),
        (false, false) => Err(empty),
    }
}

fn subject((node, path): Found<'_>, trusted: &[Box<str>]) -> Result<SubjectWording, ConfigError> {
    let fields = Place::new(node, &path).fields(["organization", "organizationalUnit", "commonName"])?;
    let template = |key| {
        let Some((node, path)) = fields.find(key) else { return Ok(None) };
        let place = Place::new(node, &path);
        Template::subject(place.text()?, trusted).map(Some).map_err(|why| place.error(why))
    };
    Ok(SubjectWording {
        organization: template("organization")?,
        organizational_unit: template("organizationalUnit")?,
        common_name: template("commonName")?,
    })
}

fn trusted_labels((node, path): Found<'_>) -> Result<Box<[Box<str>]>, ConfigError> {
    let key = |(index, node)| {
        let path = Path::Item(&path, index);
        let place = Place::new(node, &path);
        let text = place.text()?;
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if text.is_empty() || text.len() > 317 || !text.bytes().all(letter) {
            return Err(place.error(format!("{:?} is no key of a label", clip(text))));
        }
        Ok(text.into())
    };
    Place::new(node, &path).list()?.iter().enumerate().map(key).collect()
}

const MOST_SOURCES: usize = 16;
