//! What belongs into a pod's projected volumes, all or nothing.

use std::path::PathBuf;

use serde_json::Value;

use super::atomic::{File, Payload};
use super::options::{NodeOptions, Ownership};
use super::record::Record;
use super::trust::Trust;

/// A projected volume with at least one source that we serve.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) name: String,
    default_mode: u32,
    sources: Vec<Source>,
}

/// One source, with its place in the list: a record is kept for each place.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) index: usize,
    pub(crate) what: Projected,
}

#[derive(Clone, Debug)]
pub(crate) enum Projected {
    Certificate(Value),
    TrustBundle(Value),
}

impl Volume {
    /// The volumes of a pod that hold credentials. Tokens, ConfigMaps, Secrets and the downward API are left out.
    pub(crate) fn of(pod: &Value) -> Vec<Self> {
        let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
        volumes.into_iter().flatten().filter_map(Self::read).collect()
    }

    fn read(volume: &Value) -> Option<Self> {
        let projected = volume.get("projected")?;
        let sources = projected.get("sources").and_then(Value::as_array)?;
        let sources: Vec<Source> = sources
            .iter()
            .enumerate()
            .filter_map(|(index, source)| {
                let certificate = source.get("podCertificate").cloned().map(Projected::Certificate);
                let what =
                    certificate.or_else(|| source.get("clusterTrustBundle").cloned().map(Projected::TrustBundle))?;
                Some(Source { index, what })
            })
            .collect();
        let default_mode =
            projected.get("defaultMode").and_then(Value::as_u64).and_then(|mode| u32::try_from(mode).ok());
        (!sources.is_empty()).then(|| Self {
            name: text(volume, "name").to_owned(),
            default_mode: default_mode.unwrap_or(0o644),
            sources,
        })
    }

    /// The certificate sources, with their places.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = (usize, &Value)> {
        self.sources.iter().filter_map(|source| match &source.what {
            Projected::Certificate(projection) => Some((source.index, projection)),
            Projected::TrustBundle(_) => None,
        })
    }

    pub(crate) fn has_trust(&self) -> bool {
        self.sources.iter().any(|source| matches!(source.what, Projected::TrustBundle(_)))
    }

    /// Every file of the volume, or the first reason why it cannot be made.
    pub(crate) fn payload<'a>(
        &self,
        ownership: Ownership,
        trust: &mut Trust,
        record: impl Fn(usize) -> Option<&'a Record>,
    ) -> Result<Payload, String> {
        let mode = match ownership {
            Ownership::DefaultMode => self.default_mode,
            Ownership::OneUser => 0o600,
            Ownership::FsGroup => 0o640,
        };
        let mut payload = Payload::new();
        let mut put = |path: &str, bytes: String| {
            if !path.is_empty() {
                payload.insert(path.to_owned(), File { bytes: bytes.into_bytes(), mode });
            }
        };
        for source in &self.sources {
            match &source.what {
                Projected::Certificate(projection) => {
                    let record = record(source.index).ok_or("no credentials yet")?;
                    let credential = record.credential()?;
                    put(text(projection, "keyPath"), credential.key.clone());
                    put(text(projection, "certificateChainPath"), credential.chain.clone());
                    put(text(projection, "credentialBundlePath"), format!("{}{}", credential.key, credential.chain));
                }
                Projected::TrustBundle(projection) => put(text(projection, "path"), trust.anchors(projection)?),
            }
        }
        Ok(payload)
    }
}

/// Where a volume's files are.
pub(crate) fn path(options: &NodeOptions, namespace: &str, pod: &str, volume: &str) -> PathBuf {
    options.volumes_root.join(namespace).join(pod).join(volume)
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
