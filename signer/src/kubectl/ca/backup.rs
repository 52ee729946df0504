//! `kubectl podmint ca backup`: both Secrets of a CA and its trust bundle, as one file that `restore` reads. Only what could be restored
//! is written.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{CaError, Desk, data};
use crate::{
    authority::{Generation, LoadError, Roots, SecretData},
    kubectl::Installation,
};

/// What the file holds. It is as secret as the CA.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Backup {
    /// The form of this file.
    schema: u32,
    pub(super) pod_signer: String,
    pub(super) signer_name: String,
    /// By the API server's clock.
    pub(super) taken: String,
    pub(super) signing: SecretData,
    pub(super) root: SecretData,
    /// The PEM of the trust bundle.
    pub(super) trust_bundle: String,
}

/// A backup, and what may be said of it.
pub struct Taken {
    /// The file: it holds private keys.
    pub file: Zeroizing<Vec<u8>>,
    /// For people: no key.
    pub text: String,
}

/// What a backup holds, loaded and found to belong together.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) generation: Generation,
    pub(super) roots: Roots,
}

/// Reads a CA.
///
/// # Errors
/// When its user may not read the Secrets, and when what is in them could not be restored.
pub async fn backup(config: kube::Config, installation: Installation, signer: &str) -> Result<Taken, CaError> {
    Desk::open(config, installation, signer).await?.backup().await
}

impl Desk {
    pub(super) async fn backup(&self) -> Result<Taken, CaError> {
        let signer = self.signer()?;
        let bundle = self.bundle().await?.map(|bundle| bundle.text().to_owned());
        let [signing, root] = signer.authority.names();
        // In the order of the signer: what is in one is not older than what speaks of it.
        let signing_data = self.secret(signing).await?.as_ref().map(data).unwrap_or_default();
        let root_data = self.secret(root).await?.as_ref().map(data).unwrap_or_default();
        let backup = Backup {
            schema: SCHEMA,
            pod_signer: self.name().to_owned(),
            signer_name: signer.signer_name.to_string(),
            taken: self.now()?,
            signing: signing_data,
            root: root_data,
            trust_bundle: bundle.unwrap_or_default(),
        };
        let keys = backup.keys().map_err(|why| {
            CaError::Unfit(format!("what is there could not be restored, so that no backup was written: {why}"))
        })?;
        let file = serde_json::to_vec(&backup).map_err(|error| CaError::Unfit(error.to_string()))?;
        let text = format!(
            "PodSigner {}: {}; taken at {}. Whoever reads this file has the CA: keep it where you keep such things.\n",
            self.name(),
            keys.said(),
            backup.taken
        );
        Ok(Taken { file: Zeroizing::new(file), text })
    }
}

impl Backup {
    pub(super) fn read(file: &[u8]) -> Result<Self, CaError> {
        #[derive(Deserialize)]
        struct Schema {
            schema: u32,
        }
        let no = |why: String| CaError::Unfit(format!("this is no backup of a CA: {why}"));
        if file.trim_ascii().is_empty() {
            return Err(no("the file is empty".to_owned()));
        }
        // serde's messages tell places and kinds, and values only of what has another type than it should.
        let place = |error: serde_json::Error| {
            no(format!(
                "`kubectl podmint ca backup` writes no such thing as stands at line {}, column {}",
                error.line(),
                error.column()
            ))
        };
        let Schema { schema } = serde_json::from_slice(file).map_err(place)?;
        if schema != SCHEMA {
            return Err(no(format!("its schema is {schema}, and this version reads {SCHEMA}")));
        }
        serde_json::from_slice(file).map_err(place)
    }

    /// Loads both, and holds one against the other.
    pub(super) fn keys(&self) -> Result<Keys, String> {
        let of = |secret: &'static str| move |error: LoadError| format!("the Secret of the {secret}: {error}");
        let generation = Generation::load(&self.signing).map_err(of("issuing CA"))?;
        let roots = Roots::load(&self.root).map_err(of("root"))?;
        if roots.find(generation.root_fingerprint()).is_none() {
            return Err(format!(
                "the Secret of the root holds the key of {}, and the issuing CA is under {}",
                roots.held().current.fingerprint,
                generation.root_fingerprint()
            ));
        }
        Ok(Keys { generation, roots })
    }
}

impl Keys {
    /// In a few words.
    pub(super) fn said(&self) -> String {
        let generation = &self.generation;
        let number = generation.number();
        let phase = generation.signing().plan.rotation.map_or("", |rotation| rotation.phase());
        let phase = if phase.is_empty() { String::new() } else { format!(", in a rotation, phase {phase}") };
        format!("generation {number} under the root {}{phase}", generation.root_fingerprint())
    }
}

const SCHEMA: u32 = 1;
