//! The immutable state that handshakes read, and the rule by which a reading of the files becomes the next one.

use crate::credential::Credential;
use crate::load::{LoadError, Loaded, Loader};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::trust::Anchors;
use crate::verify::{self, Moment, Side};
use rustls_pki_types::UnixTime;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Credential and trust as of one generation. It never changes; the next generation is another snapshot.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    loaded_at: UnixTime,
    credential: Arc<Credential>,
    trust: BTreeMap<TrustDomain, Arc<Anchors>>,
}

impl Snapshot {
    /// Counts up from one with every change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When it was read.
    pub fn loaded_at(&self) -> UnixTime {
        self.loaded_at
    }

    /// Our SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        self.credential.id()
    }

    /// Our credential.
    pub fn credential(&self) -> &Arc<Credential> {
        &self.credential
    }

    /// The anchors of a trust domain; nothing for a domain that was not named at the start.
    pub fn anchors(&self, domain: &TrustDomain) -> Option<&Arc<Anchors>> {
        self.trust.get(domain)
    }

    /// Every trust domain with its anchors.
    pub fn trust(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<Anchors>)> {
        self.trust.iter()
    }
}

/// What to do when a trust bundle that had anchors becomes an empty file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EmptyTrust {
    /// Keep the last anchors and show it in the health: a ClusterTrustBundle deleted by mistake is no outage.
    #[default]
    KeepLast,
    /// Believe nobody of that domain any more: emptying the file is a kill switch.
    TrustNobody,
}

/// Whether our own chain verifies against our own anchors.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnChain {
    /// It does.
    Trusted,
    /// It does not: peers with the same anchors will refuse us.
    Untrusted(String),
    /// There is no trust bundle for our own trust domain to check against.
    Unchecked,
}

/// What is wrong with one part of what was read.
#[derive(Debug)]
pub(crate) struct Fault {
    /// A trust domain's bundle, or our credential.
    pub(crate) domain: Option<TrustDomain>,
    pub(crate) error: LoadError,
}

/// The outcome of a reading.
#[derive(Debug)]
pub(crate) struct Step {
    /// Set when something changed.
    pub(crate) next: Option<Arc<Snapshot>>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) own_chain: OwnChain,
}

/// What the rule looks at besides the files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) loader: &'a Loader,
    pub(crate) moment: Moment,
}

/// The rule: each part on its own replaces its predecessor when it is good; a part that is not leaves the last good one in place.
pub(crate) fn advance(last: Option<&Arc<Snapshot>>, loaded: Loaded, rules: Rules<'_>) -> Step {
    let mut faults = Vec::new();
    let Loaded { credential, trust, seen: _, chain_path } = loaded;
    let Some(trust) = trust else {
        faults.extend(credential.err().map(|error| Fault { domain: None, error }));
        let own_chain = last.map_or(OwnChain::Unchecked, |last| own_chain(&last.credential, &last.trust, rules));
        return Step { next: None, faults, own_chain };
    };

    let bundles = trust.len();
    let trust: BTreeMap<_, _> = trust
        .into_iter()
        .filter_map(|(domain, read)| {
            let before = last.and_then(|last| last.trust.get(&domain));
            let anchors = next_anchors(&domain, read, before, rules.loader.empty, &mut faults)?;
            Some((domain, anchors))
        })
        .collect();
    let before = last.map(|last| &last.credential);
    let credential = next_credential(credential, before, &chain_path, &trust, rules, &mut faults);

    // A domain that has just come, and whose first bundle is not good, is a fault and holds nothing else up.
    let complete = trust.len() == bundles || (last.is_some() && !trust.is_empty());
    let Some(credential) = credential.filter(|_| complete) else {
        return Step { next: None, faults, own_chain: OwnChain::Unchecked };
    };
    let own_chain = own_chain(&credential, &trust, rules);
    let is_new = last.is_none_or(|last| {
        !Arc::ptr_eq(&last.credential, &credential)
            || trust.len() != last.trust.len()
            || trust
                .iter()
                .any(|(domain, anchors)| last.trust.get(domain).is_none_or(|before| !Arc::ptr_eq(before, anchors)))
    });
    let next = is_new.then(|| {
        Arc::new(Snapshot {
            generation: last.map_or(0, |last| last.generation).saturating_add(1),
            loaded_at: rules.moment.now,
            credential,
            trust,
        })
    });
    Step { next, faults, own_chain }
}

fn next_anchors(
    domain: &TrustDomain,
    read: Result<Anchors, LoadError>,
    before: Option<&Arc<Anchors>>,
    empty: EmptyTrust,
    faults: &mut Vec<Fault>,
) -> Option<Arc<Anchors>> {
    let (anchors, error) = match read {
        Ok(anchors) => (Some(anchors), None),
        // Only what once had anchors can be emptied: a start needs a good bundle.
        Err(error @ LoadError::EmptyTrust { .. }) if before.is_some() && empty == EmptyTrust::TrustNobody => {
            (Some(Anchors::default()), Some(error))
        }
        Err(error) => (None, Some(error)),
    };
    faults.extend(error.map(|error| Fault { domain: Some(domain.clone()), error }));
    match (anchors, before) {
        (Some(anchors), Some(before)) if anchors == **before => Some(Arc::clone(before)),
        (Some(anchors), _) => Some(Arc::new(anchors)),
        (None, before) => before.map(Arc::clone),
    }
}

fn next_credential(
    read: Result<Credential, LoadError>,
    before: Option<&Arc<Credential>>,
    chain_path: &Path,
    trust: &BTreeMap<TrustDomain, Arc<Anchors>>,
    rules: Rules<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Arc<Credential>> {
    let checked = read.and_then(|credential| match before {
        Some(before) if before.is_same(&credential) => Ok(Arc::clone(before)),
        before => worth_taking(credential, before, chain_path, trust, rules),
    });
    match checked {
        Ok(credential) => Some(credential),
        Err(error) => {
            faults.push(Fault { domain: None, error });
            before.map(Arc::clone)
        }
    }
}

/// A credential that differs from the one in use must be valid now. If it does not chain to our own anchors it is still better than nothing,
/// and better than one that does not either; but it replaces none that does.
fn worth_taking(
    credential: Credential,
    before: Option<&Arc<Credential>>,
    chain_path: &Path,
    trust: &BTreeMap<TrustDomain, Arc<Anchors>>,
    rules: Rules<'_>,
) -> Result<Arc<Credential>, LoadError> {
    let path = || chain_path.to_path_buf();
    let Moment { now, skew } = rules.moment;
    if credential.is_expired(now) {
        let seconds = now.as_secs().saturating_sub(credential.not_after().as_secs());
        return Err(LoadError::Expired { path: path(), seconds });
    }
    if credential.not_before().as_secs() > now.as_secs().saturating_add(skew.as_secs()) {
        let seconds = credential.not_before().as_secs().saturating_sub(now.as_secs());
        return Err(LoadError::NotYetValid { path: path(), seconds });
    }
    let credential = Arc::new(credential);
    let is_trusted = |one: &Arc<Credential>| own_chain(one, trust, rules) == OwnChain::Trusted;
    match (own_chain(&credential, trust, rules), before) {
        (OwnChain::Untrusted(detail), Some(before)) if is_trusted(before) => {
            let domain = credential.id().trust_domain().clone();
            Err(LoadError::OwnChainUntrusted { path: path(), domain, detail })
        }
        (OwnChain::Trusted | OwnChain::Untrusted(_) | OwnChain::Unchecked, _) => Ok(credential),
    }
}

fn own_chain(credential: &Credential, trust: &BTreeMap<TrustDomain, Arc<Anchors>>, rules: Rules<'_>) -> OwnChain {
    let Some(anchors) = trust.get(credential.id().trust_domain()) else {
        return OwnChain::Unchecked;
    };
    let Some((leaf, intermediates)) = credential.chain().split_first() else {
        return OwnChain::Unchecked;
    };
    // A leaf for one side only is whole, if a signer gives out such.
    let check = |side| verify::chain(leaf, intermediates, anchors, side, rules.moment, &rules.loader.provider);
    match check(Side::Client).or_else(|fault| check(Side::Server).map_err(|_same| fault)) {
        Ok(()) => OwnChain::Trusted,
        Err(fault) => OwnChain::Untrusted(fault.to_string()),
    }
}
