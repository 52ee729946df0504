//! The stream of changes, for applications that want to know.

use crate::snapshot::Snapshot;
use crate::spiffe::TrustDomain;
use crate::trust::Anchors;
use rustls_pki_types::UnixTime;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One change of what new handshakes use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotation {
    /// The generation in use from now on. Generations that were passed over quickly are part of this change.
    pub generation: u64,
    /// Whether key and certificate are new.
    pub credential_changed: bool,
    /// Our leaf's serial number in hexadecimal.
    pub serial: String,
    /// When our leaf expires.
    pub not_after: UnixTime,
    /// What changed in the trust bundles.
    pub trust: Vec<TrustChange>,
}

/// What changed in the bundle of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrustChange {
    /// The trust domain.
    pub domain: TrustDomain,
    /// Key identifiers of anchors that are believed from now on.
    pub added: Vec<String>,
    /// Key identifiers of anchors that are believed no more.
    pub removed: Vec<String>,
}

impl Rotation {
    fn between(before: &Snapshot, after: &Snapshot) -> Self {
        // Domains that are gone count, too.
        let domains: BTreeSet<_> = before.trust().chain(after.trust()).map(|(domain, _)| domain).collect();
        let nothing = Arc::default();
        let trust = domains.into_iter().filter_map(|domain| {
            let old = before.anchors(domain).unwrap_or(&nothing);
            let new = after.anchors(domain).unwrap_or(&nothing);
            (old != new).then(|| TrustChange {
                domain: domain.clone(),
                added: missing_from(old, new),
                removed: missing_from(new, old),
            })
        });
        Self {
            generation: after.generation(),
            credential_changed: !Arc::ptr_eq(before.credential(), after.credential()),
            serial: after.credential().serial().to_owned(),
            not_after: after.credential().not_after(),
            trust: trust.collect(),
        }
    }
}

fn missing_from(these: &Anchors, those: &Anchors) -> Vec<String> {
    those
        .iter()
        .filter(|anchor| !these.iter().any(|one| one.certificate() == anchor.certificate()))
        .map(|anchor| anchor.key_id().unwrap_or("none").to_owned())
        .collect()
}

/// The changes since it was made. A slow reader misses no difference: it gets several changes as one.
#[derive(Debug)]
pub struct Rotations {
    changes: tokio::sync::watch::Receiver<Arc<Snapshot>>,
    last: Arc<Snapshot>,
}

impl Rotations {
    pub(crate) fn new(mut changes: tokio::sync::watch::Receiver<Arc<Snapshot>>) -> Self {
        let last = Arc::clone(&changes.borrow_and_update());
        Self { changes, last }
    }

    #[cfg(feature = "hyper")]
    pub(crate) fn since(mut changes: tokio::sync::watch::Receiver<Arc<Snapshot>>, generation: u64) -> Self {
        let last = Arc::clone(&changes.borrow_and_update());
        if last.generation() != generation {
            changes.mark_changed();
        }
        Self { changes, last }
    }

    /// Waits for the next change. Nothing comes any more once the identity and all that was made from it are gone.
    pub async fn next(&mut self) -> Option<Rotation> {
        self.changes.changed().await.ok()?;
        let now = Arc::clone(&self.changes.borrow_and_update());
        let rotation = Rotation::between(&self.last, &now);
        self.last = now;
        Some(rotation)
    }
}
