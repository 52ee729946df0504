//! From the tree to checked values. Each refusal says what to write instead.

use serde_saphyr::Spanned;

use super::{
    Authority, Domains, Lifetime, Origin, PodSigner,
    document::{ConfigError, Path, Place, Tree},
    profile, rule,
};
use crate::{
    names::{DnsName, NameError, SignerName, TrustDomain, clip, nearest},
    pipeline::{KeyType, refusal::kinds},
};

/// Checks each document, then all of them together.
pub(super) fn signers(documents: &[Spanned<Tree>], domains: &Domains) -> Result<Vec<PodSigner>, ConfigError> {
    let mut signers: Vec<PodSigner> = Vec::new();
    for (index, node) in documents.iter().enumerate() {
        let name = called(index, &node.value);
        let path = Path::Document(&name);
        let place = Place::new(node, &path);
        let signer = signer(place, domains)?;
        unlike(&signers, &signer, place)?;
        signers.push(signer);
    }
    Ok(signers)
}

/// How messages call a document: by its place in the stream, and by its name where one can be seen.
fn called(index: usize, tree: &Tree) -> String {
    let field = |tree: &Tree, key: &str| match tree {
        Tree::Map(entries) => entries.iter().find(|(found, _)| found.value == key).map(|(_, node)| node.value.clone()),
        Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::Text(_) | Tree::List(_) => None,
    };
    let number = index.saturating_add(1);
    match field(tree, "metadata").and_then(|metadata| field(&metadata, "name")) {
        Some(Tree::Text(name)) => format!("document {number} (PodSigner {})", clip(&name)),
        Some(_) | None => format!("document {number}"),
    }
}

fn signer(document: Place<'_>, domains: &Domains) -> Result<PodSigner, ConfigError> {
    let fields = document.fields(["apiVersion", "kind", "metadata", "spec"])?;
    literal(fields.need("apiVersion", API_VERSION)?, API_VERSION)?;
    literal(fields.need("kind", "PodSigner")?, "PodSigner")?;
    let (node, path) = fields.need("metadata", "write metadata: {name: …}")?;
    let metadata = Place::new(node, &path).fields(["name"])?;
    let name = named(metadata.need("name", "a PodSigner needs one")?, DnsName::parse)?;

    let (node, path) = fields.need("spec", "it needs at least signerName and trustDomain")?;
    let spec = Place::new(node, &path);
    let fields =
        spec.fields(["signerName", "trustDomain", "allow", "suspend", "keyTypes", "lifetime", "profile", "authority"])?;
    let hint = format!("for example {}/{name}", domains.signer);
    Ok(PodSigner {
        signer_name: signer_name(fields.need("signerName", &hint)?, domains)?,
        trust_domain: named(
            fields.need("trustDomain", "it is your cluster's name in the world, as prod.example.org")?,
            TrustDomain::parse,
        )?,
        allow: fields.find("allow").map_or(Ok(Box::default()), |found| rule::allow(found, domains))?,
        suspend: fields.find("suspend").map_or(Ok(false), |(node, path)| Place::new(node, &path).bool())?,
        key_types: fields.find("keyTypes").map_or(Ok(KeyType::ALL.into()), key_types)?,
        lifetime: fields.find("lifetime").map_or(Ok(LIFETIME), lifetime)?,
        wording: profile::wording(spec, fields.find("profile"), domains)?,
        authority: authority(spec, fields.find("authority"))?,
        wish: None,
        name,
    })
}

pub(super) type Found<'t> = (&'t Spanned<Tree>, Path<'t>);

fn literal((node, path): Found<'_>, wanted: &str) -> Result<(), ConfigError> {
    let place = Place::new(node, &path);
    let text = place.text()?;
    if text == wanted { Ok(()) } else { Err(place.error(format!("{:?} is not known: write {wanted}", clip(text)))) }
}

fn named<T>((node, path): Found<'_>, parse: fn(&str) -> Result<T, NameError>) -> Result<T, ConfigError> {
    let place = Place::new(node, &path);
    parse(place.text()?).map_err(|error| place.error(error.to_string()))
}

fn signer_name((node, path): Found<'_>, domains: &Domains) -> Result<SignerName, ConfigError> {
    let place = Place::new(node, &path);
    let name = SignerName::parse(place.text()?).map_err(|error| place.error(error.to_string()))?;
    let domain = name.domain();
    if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") {
        return Err(place.error(format!(
            "signer names below kubernetes.io belong to Kubernetes: write {}/{}",
            domains.signer,
            name.path()
        )));
    }
    if domain != domains.signer.as_str() {
        return Err(place.error(format!(
            "{domain} is not the signer domain of this installation: write {}/{}, or start with --signer-domain {domain}",
            domains.signer,
            name.path()
        )));
    }
    Ok(name)
}

pub(super) fn key_types((node, path): Found<'_>) -> Result<Box<[KeyType]>, ConfigError> {
    let place = Place::new(node, &path);
    let mut found: Vec<KeyType> = Vec::new();
    for (index, node) in place.list()?.iter().enumerate() {
        let path = Path::Item(&path, index);
        let place = Place::new(node, &path);
        let text = place.text()?;
        let kind = KeyType::parse(text).ok_or_else(|| place.error(unknown_key_type(text)))?;
        if found.contains(&kind) {
            return Err(place.error(format!("{kind} is there twice")));
        }
        found.push(kind);
    }
    if found.is_empty() {
        return Err(
            place.error(format!("without a key type nothing can be served: name some of {}", kinds(&KeyType::ALL)))
        );
    }
    Ok(found.into())
}

fn unknown_key_type(text: &str) -> String {
    let known = KeyType::ALL.map(KeyType::as_str);
    match nearest(text, known) {
        Some(nearest) => format!("{:?} is no key type; did you mean {nearest}?", clip(text)),
        None => format!("{:?} is no key type: write {}", clip(text), kinds(&KeyType::ALL)),
    }
}

fn lifetime((node, path): Found<'_>) -> Result<Lifetime, ConfigError> {
    let fields = Place::new(node, &path).fields(["max", "refreshAt"])?;
    let max_seconds = fields.find("max").map_or(Ok(LIFETIME.max_seconds), longest)?;
    let refresh = fields.find("refreshAt").map_or(Ok(None), |found| refresh(found).map(Some))?;
    let (refresh_from_permille, refresh_to_permille) =
        refresh.unwrap_or((LIFETIME.refresh_from_permille, LIFETIME.refresh_to_permille));
    Ok(Lifetime { max_seconds, refresh_from_permille, refresh_to_permille })
}

pub(super) fn longest((node, path): Found<'_>) -> Result<u32, ConfigError> {
    let place = Place::new(node, &path);
    let text = place.text()?;
    let seconds = seconds(text)
        .ok_or_else(|| place.error(format!("{:?} is no duration: write it as 24h, 90m or 1h30m", clip(text))))?;
    if seconds < 3_600 {
        return Err(
            place.error(format!("{text} is shorter than 1h, the least that Kubernetes takes: write 1h or more"))
        );
    }
    if seconds > LONGEST_SECONDS {
        return Err(place.error(format!(
            "{text} is longer than 14d: an issuing CA lives 30d and is replaced at half of that, so that longer \
             certificates would outlive it: write 14d or less"
        )));
    }
    Ok(seconds)
}

/// `1d12h30m5s`, units falling.
fn seconds(text: &str) -> Option<u32> {
    let mut rest = text;
    let mut total: u32 = 0;
    for (unit, length) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
        let Some((count, behind)) = rest.split_once(unit) else { continue };
        let plain = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count: u32 = plain.then(|| count.parse().ok()).flatten()?;
        total = total.checked_add(count.checked_mul(length)?)?;
        rest = behind;
    }
    (rest.is_empty() && !text.is_empty()).then_some(total)
}

fn refresh((node, path): Found<'_>) -> Result<(u32, u32), ConfigError> {
    let place = Place::new(node, &path);
    let wanted = "write two parts of the life, as [0.4, 0.6]";
    let [first, last] = place.list()? else { return Err(place.error(wanted)) };
    let part = |node, index| {
        let path = Path::Item(&path, index);
        let place = Place::new(node, &path);
        let part = place.number()?;
        permille(part).ok_or_else(|| {
            place.error(format!(
                "{part} is outside 0.17 to 0.83: a certificate of 1h may not be renewed in the first and the last 10 minutes"
            ))
        })
    };
    let (from, to) = (part(first, 0)?, part(last, 1)?);
    if from > to {
        return Err(place.error("the first part is behind the second: swap them"));
    }
    Ok((from, to))
}

/// A part of the life in thousandths, looked up rather than converted: no float becomes an integer here.
fn permille(part: f64) -> Option<u32> {
    (170..=830_u32).find(|permille| (f64::from(*permille) / 1000.0 - part).abs() < 0.0005)
}

/// Whose Secrets are named by default is decided here, so that `place` is where a name that is too long is told.
fn authority(place: Place<'_>, found: Option<Found<'_>>) -> Result<Authority, ConfigError> {
    let Some((node, path)) = found else { return secrets(place, Origin::SelfManaged, None, None) };
    let place = Place::new(node, &path);
    let fields = place.fields(ORIGINS)?;
    let mut named = ORIGINS.into_iter().filter_map(|origin| Some((origin, fields.find(origin)?)));
    let Some((origin, (node, path))) = named.next() else { return secrets(place, Origin::SelfManaged, None, None) };
    if let Some((other, _)) = named.next() {
        return Err(place.error(format!("a CA comes from one place: take {origin} or {other} away")));
    }
    let place = Place::new(node, &path);
    match origin {
        "secret" => {
            let fields = place.fields(["name", "secretName", "rootSecretName"])?;
            let name =
                self::named(fields.need("name", "it is the Secret that cert-manager, or you, write")?, DnsName::parse)?;
            let [own, root] = [fields.find("secretName"), fields.find("rootSecretName")];
            secrets(place, Origin::Secret(name), own, root)
        }
        "files" => {
            let fields = place.fields(["directory", "secretName", "rootSecretName"])?;
            let folder = folder(fields.need("directory", "it is where tls.crt, tls.key and ca.crt are mounted")?)?;
            let [own, root] = [fields.find("secretName"), fields.find("rootSecretName")];
            secrets(place, Origin::Files(folder), own, root)
        }
        _ => {
            let fields = place.fields(["secretName", "rootSecretName"])?;
            let [own, root] = [fields.find("secretName"), fields.find("rootSecretName")];
            secrets(place, Origin::SelfManaged, own, root)
        }
    }
}

fn folder((node, path): Found<'_>) -> Result<Box<std::path::Path>, ConfigError> {
    let place = Place::new(node, &path);
    let folder = std::path::Path::new(place.text()?);
    if folder.is_absolute() {
        Ok(folder.into())
    } else {
        Err(place.error("write it from the root on, as /var/run/podmint/ca"))
    }
}

fn secrets(
    place: Place<'_>,
    origin: Origin,
    secret: Option<Found<'_>>,
    root: Option<Found<'_>>,
) -> Result<Authority, ConfigError> {
    let parse = |text: &str| DnsName::parse(text).map_err(|error| place.error(error.to_string()));
    let secret_name = secret.map_or_else(|| parse("podmint-ca"), |found| named(found, DnsName::parse))?;
    let root_secret_name =
        root.map_or_else(|| parse(&format!("{secret_name}-root")), |found| named(found, DnsName::parse))?;
    if secret_name == root_secret_name {
        return Err(
            place.error("secretName and rootSecretName must differ: who signs has no business with the root's key")
        );
    }
    if let Origin::Secret(brought) = &origin
        && [&secret_name, &root_secret_name].contains(&brought)
    {
        return Err(place.error(format!(
            "{brought} is the Secret that is brought, and Podmint keeps what it signs with in Secrets of its own: give secretName or \
             rootSecretName another name"
        )));
    }
    Ok(Authority { origin, secret_name, root_secret_name })
}

fn kind(origin: &Origin) -> &'static str {
    match origin {
        Origin::SelfManaged => "selfManaged",
        Origin::Secret(_) => "secret",
        Origin::Files(_) => "files",
    }
}

const ORIGINS: [&str; 3] = ["selfManaged", "secret", "files"];

/// Checks one object of the API server, which has neither lines nor a number.
pub(super) fn object(tree: &Spanned<Tree>, domains: &Domains) -> Result<PodSigner, ConfigError> {
    signer(Place::new(tree, &OBJECT), domains)
}

/// Where an object is wrong that is right by itself.
pub(super) fn object_place() -> Place<'static> {
    Place::nowhere(&OBJECT)
}

/// What two PodSigners may not share.
pub(super) fn unlike<'s>(
    before: impl IntoIterator<Item = &'s PodSigner>,
    signer: &PodSigner,
    place: Place<'_>,
) -> Result<(), ConfigError> {
    for other in before {
        if other.name == signer.name {
            return Err(place.error(format!(
                "a document before is a PodSigner {}, too: give this one another metadata.name",
                signer.name
            )));
        }
        if other.signer_name == signer.signer_name {
            return Err(place.error(format!(
                "PodSigner {} has signerName {}, too: one signer name has one policy; put all rules into one of the two",
                other.name, signer.signer_name
            )));
        }
        let is_shared = |name: &&DnsName| signer.authority.secrets().any(|ours| ours == *name);
        if let Some(secret) = other.authority.secrets().find(is_shared) {
            return Err(place.error(format!(
                "PodSigner {} keeps its CA in the Secret {secret}, too: set spec.authority.{}.secretName to a name of its own, as \
                 podmint-ca-{}, and bring each a CA of its own",
                other.name,
                kind(&signer.authority.origin),
                signer.name
            )));
        }
    }
    Ok(())
}

pub(super) const API_VERSION: &str = "podmint.dev/v1alpha1";

/// Its author knows which one it is.
const OBJECT: Path<'static> = Path::Document("");

/// 24 h, renewed at 40-60 %: any pod outlives a signer outage of 9 h.
const LIFETIME: Lifetime = Lifetime { max_seconds: 86_400, refresh_from_permille: 400, refresh_to_permille: 600 };

/// 14 days: a little less than half an issuing CA's life, which is what is left of it when the next one takes over.
pub(crate) const LONGEST_SECONDS: u32 = 14 * 86_400;
