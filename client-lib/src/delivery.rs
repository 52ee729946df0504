//! SPIFFE Filesystem Delivery: which folder, and which file in it is what.
//!
//! The specification is a draft, and its names have moved twice. All of them are in this file; of several that are there the newest counts.

use crate::source::{CredentialFiles, Named};
use crate::spiffe::TrustDomain;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Credential bundles, the newest name first: the draft of August 2026, two before it, and Google's.
pub(crate) const CREDENTIALS: [&str; 4] = [
    "credential-bundle.private-key.x509.pem",
    "credential-bundle.private-key.pem",
    "credential-bundle.pem",
    "x509.credential-bundle.private-key.pem",
];

/// What follows the trust domain in the name of its bundle, the newest first.
const TRUST: [&str; 3] = [".spiffe-trust-bundle.x509.pem", ".spiffe-trust-bundle.pem", ".trust-bundle.pem"];

/// Where the folder is if nobody says.
const FOLDERS: [&str; 2] = ["/run/secrets/workload-spiffe-credentials", "/var/run/secrets/workload-spiffe-credentials"];

/// The folder for a process with this environment.
pub(crate) fn folder(variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    let named = variable("SPIFFE_CREDENTIAL_FOLDER").filter(|folder| !folder.is_empty());
    let endpoint = || {
        let list = variable("SPIFFE_ENDPOINT")?;
        let uri = list.split(',').find_map(|uri| uri.trim().strip_prefix("file:").map(str::to_owned))?;
        Some(uri.strip_prefix("//").map_or(uri.clone(), str::to_owned))
    };
    let usual = || FOLDERS.into_iter().find(|folder| Path::new(folder).is_dir()).or(FOLDERS.first().copied());
    named.or_else(endpoint).or_else(|| usual().map(str::to_owned)).unwrap_or_default().into()
}

/// What the files of this folder are, by their names.
pub(crate) fn sort(folder: &Path, names: &[PathBuf]) -> Named {
    let there = |name: &&&str| names.iter().any(|one| one == Path::new(**name));
    // Where there is none, the newest name is the one that is missed.
    let credential = CREDENTIALS.iter().find(there).or(CREDENTIALS.first()).copied().unwrap_or_default();
    let mut trust = BTreeMap::new();
    for ending in TRUST {
        for name in names {
            let domain = name.to_str().and_then(|name| name.strip_suffix(ending));
            if let Some(domain) = domain.and_then(|domain| domain.parse::<TrustDomain>().ok()) {
                trust.entry(domain).or_insert_with(|| vec![folder.join(name)]);
            }
        }
    }
    Named { credential: CredentialFiles::Bundle(folder.join(credential)), trust }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<PathBuf> {
        all.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn the_newest_name_counts() {
        let there = names(&[
            "a.example.trust-bundle.pem",
            "a.example.spiffe-trust-bundle.x509.pem",
            "a.example.spiffe-trust-bundle.pem",
            "b.example.trust-bundle.pem",
            "NOT A DOMAIN.trust-bundle.pem",
            "credential-bundle.pem",
            "credential-bundle.private-key.pem",
            "hints.json",
        ]);
        let Named { credential, trust } = sort(Path::new("/creds"), &there);
        assert_eq!(credential, CredentialFiles::Bundle("/creds/credential-bundle.private-key.pem".into()));
        let trust: Vec<_> = trust.into_iter().map(|(domain, path)| (domain.to_string(), path)).collect();
        assert_eq!(
            trust,
            [
                ("a.example".into(), vec![PathBuf::from("/creds/a.example.spiffe-trust-bundle.x509.pem")]),
                ("b.example".into(), vec![PathBuf::from("/creds/b.example.trust-bundle.pem")]),
            ]
        );
    }

    #[test]
    fn a_variable_names_the_folder_and_so_does_an_endpoint() {
        let with = |set: &'static [(&str, &str)]| {
            folder(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(with(&[("SPIFFE_CREDENTIAL_FOLDER", "/a"), ("SPIFFE_ENDPOINT", "file:///b")]), Path::new("/a"));
        assert_eq!(with(&[("SPIFFE_ENDPOINT", "unix:///s.sock, file:///b")]), Path::new("/b"));
        assert_eq!(with(&[("SPIFFE_ENDPOINT", "file:/b")]), Path::new("/b"));
        assert_eq!(with(&[("SPIFFE_CREDENTIAL_FOLDER", "")]), with(&[]));
        assert!(with(&[]).ends_with("workload-spiffe-credentials"));
    }
}
