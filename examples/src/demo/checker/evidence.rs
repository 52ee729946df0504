//! What the checker is given: facts as they were seen, not yet believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

/// Everything that was seen during a run.
#[derive(Debug, Default, Clone)]
pub struct Evidence {
    /// The signer all of this is about.
    pub signer_name: String,
    /// What its identities begin with, behind `spiffe://`.
    pub trust_domain: String,
    /// The pods, by UID, as the API server gave them.
    pub pods: BTreeMap<String, PodFacts>,
    /// Every certificate request for this signer.
    pub requests: Vec<RequestFacts>,
    /// Every version of every trust bundle of this signer.
    pub bundles: Vec<BundleFacts>,
    /// The lines of the audit log, in order.
    pub trail: Vec<Value>,
    /// What the two services counted.
    pub pair: PairFacts,
    /// What the impostor tried.
    pub attempts: Vec<AttemptFacts>,
    /// What this run should have shown.
    pub expected: Expected,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub account: String,
    /// Its node.
    pub node: String,
}

/// A certificate request.
#[derive(Debug, Clone, Default)]
pub struct RequestFacts {
    /// Every version that was seen, oldest first, as JSON.
    pub versions: Vec<Value>,
}

/// A version of a trust bundle.
#[derive(Debug, Clone)]
pub struct BundleFacts {
    /// Its resourceVersion.
    pub revision: u64,
    /// Its certificates.
    pub pem: String,
}

/// What the two services counted, each for itself.
#[derive(Debug, Clone, Default)]
pub struct PairFacts {
    /// The one that calls.
    pub client: SideFacts,
    /// The one that is called.
    pub server: SideFacts,
}

/// What one service counted.
#[derive(Debug, Clone, Default)]
pub struct SideFacts {
    /// Handshakes completed.
    pub handshakes: u64,
    /// Handshakes failed.
    pub failed: u64,
    /// Conversations that broke off.
    pub broken: u64,
    /// How long each completed handshake took.
    pub latencies: Vec<Duration>,
    /// The certificates it was shown: serial number, as hexadecimal digits, and who the other side was taken for.
    pub peers: BTreeMap<String, String>,
    /// The serial numbers of the certificates it showed.
    pub own: BTreeSet<String>,
}

/// One attempt of the impostor.
#[derive(Debug, Clone)]
pub struct AttemptFacts {
    /// In words.
    pub what: String,
    /// The public key it asked with, as SubjectPublicKeyInfo.
    pub key: Vec<u8>,
    /// Whether it was refused, by whomever.
    pub refused: bool,
    /// Whether it was the signer that refused.
    pub denied_by_signer: bool,
}

/// What a run should have shown.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// UIDs of pods that no rule of the PodSigner admits.
    pub held_pods: BTreeSet<String>,
    /// Whether there was time for renewals.
    pub renewals: bool,
    /// Whether it ran to its end; false when a person stopped it early.
    pub whole: bool,
}
