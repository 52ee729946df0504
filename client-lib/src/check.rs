//! What `podmint-check` says: a folder in, findings in plain words out. It shows no contents of files.

use crate::credential;
use crate::delivery;
use crate::files::{Disk, FileSource as _, Place, PlaceKind};
use crate::health::{self, Age, Updates};
use crate::identity::{self, describe};
use crate::load::{LoadError, Loader, Seen};
use crate::pem::{self, Block};
use crate::snapshot::{self, EmptyTrust, OwnChain, Rules, Snapshot};
use crate::source::{CredentialFiles, Source};
use crate::spiffe::TrustDomain;
use crate::verify::Moment;
use rustls::crypto::CryptoProvider;
use rustls::time_provider::TimeProvider;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do about it; nothing if it is good.
    pub mend: Option<&'static str>,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// As it should be.
    Good,
    /// It works, and will not for long, or not as well as it could.
    Look,
    /// A service could not start from it.
    Wrong,
}

impl Finding {
    fn good(what: String) -> Self {
        Self { level: Level::Good, what, mend: None }
    }

    fn look(what: impl Into<String>, mend: &'static str) -> Self {
        Self { level: Level::Look, what: what.into(), mend: Some(mend) }
    }

    fn wrong(what: impl Into<String>, mend: &'static str) -> Self {
        Self { level: Level::Wrong, what: what.into(), mend: Some(mend) }
    }
}

/// Reads an identity once, as a service would, and says how it is.
///
/// `path` is a folder as a pod mounts it, or a credential bundle; nothing stands for [`Source::discover`]. In a folder that is not of SPIFFE Filesystem Delivery, files
/// that end in `.pem` are taken for what their blocks say. A single file of certificates is the bundle of our own trust domain; otherwise `trust` says which is whose.
pub fn check(
    path: Option<&Path>,
    trust: Vec<(TrustDomain, PathBuf)>,
    provider: Arc<CryptoProvider>,
    clock: &dyn TimeProvider,
) -> Vec<Finding> {
    let source = match path {
        None => Ok(Source::discover()),
        Some(path) => guess(path, trust, &provider),
    };
    match source {
        Ok(source) if source.ambiguous.is_some() => {
            vec![Finding::wrong("a trust domain is named twice", "name one bundle for each trust domain")]
        }
        Ok(source) => read(source, provider, identity::now(clock)),
        Err(finding) => vec![finding],
    }
}

fn read(source: Source, provider: Arc<CryptoProvider>, now: rustls_pki_types::UnixTime) -> Vec<Finding> {
    let loader = Loader { source, files: Arc::new(Disk), provider, empty: EmptyTrust::KeepLast };
    let moment = Moment { now, skew: Duration::from_secs(60) };
    let loaded = loader.load();
    let seen = loaded.seen;
    let step = snapshot::advance(None, loaded, Rules { loader: &loader, moment });
    let mut findings: Vec<_> =
        step.faults.iter().map(|fault| Finding::wrong(describe(&fault.error), mend(&fault.error))).collect();
    if let Some(snapshot) = step.next {
        credential_findings(&snapshot, moment, &mut findings);
        trust_findings(&snapshot, &step.own_chain, &mut findings);
        findings.push(updates_finding(&snapshot, &seen, moment));
    }
    findings.extend(seen.world_readable.then(|| {
        Finding::look(
            "every user in the pod may read the private key",
            "set fsGroup in the pod's securityContext: the files are then that group's alone (0640). defaultMode: 0440 without it shuts out whoever is not root",
        )
    }));
    findings.push(match rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC) {
        Ok(_instance) => Finding::good("changes are noticed at once (inotify)".into()),
        Err(error) => Finding::look(
            format!("changes are noticed by the poll alone, within ten seconds: inotify says {error}"),
            "raise fs.inotify.max_user_instances on the node, if ten seconds matter",
        ),
    });
    findings
}

fn credential_findings(snapshot: &Snapshot, moment: Moment, findings: &mut Vec<Finding>) {
    let credential = snapshot.credential();
    let left = credential.not_after().as_secs().saturating_sub(moment.now.as_secs());
    findings.push(Finding::good(format!(
        "this pod is {}, with a key of the type {} that belongs to its certificate {}",
        credential.id(),
        credential.key_type(),
        credential.serial()
    )));
    let ends = format!("the certificate ends in {}", in_words(left));
    const LATE: &str = "look at the pod's events and its PodCertificateRequests: after a request that was denied or failed, only a new pod gets a new certificate";
    findings.push(match health::age(credential, moment.now) {
        Age::Fresh => Finding::good(ends),
        Age::Due => Finding::good(format!("{ends}; a renewal is due")),
        Age::Overdue => Finding::look(format!("{ends}, and its renewal is overdue"), LATE),
        Age::Expired => Finding::wrong("the certificate has ended", LATE),
    });
}

fn trust_findings(snapshot: &Snapshot, own: &OwnChain, findings: &mut Vec<Finding>) {
    for (domain, anchors) in snapshot.trust() {
        findings.push(Finding::good(format!("{} anchors for {domain}", anchors.len())));
        if anchors.ignored() > 0 {
            findings.push(Finding::look(
                format!("{} certificates in the bundle of {domain} are no CAs and are ignored", anchors.ignored()),
                "take them out of the ClusterTrustBundle: a leaf in it vouches for nobody",
            ));
        }
    }
    findings.push(match own {
        OwnChain::Trusted => Finding::good("our own chain verifies against our own anchors".into()),
        OwnChain::Untrusted(why) => Finding::look(
            format!("our own chain does not verify against our own anchors: {why}"),
            "peers with the same anchors will refuse us: is the trust bundle of the signer that issued the certificate?",
        ),
        OwnChain::Unchecked => Finding::look(
            format!("there is no trust bundle for our own trust domain, {}", snapshot.id().trust_domain()),
            "name it, unless all peers are of other domains",
        ),
    });
}

fn updates_finding(snapshot: &Snapshot, seen: &Seen, moment: Moment) -> Finding {
    match (health::updates(snapshot, seen, moment.now), seen.kind) {
        (Updates::NeverSubPath, _) => Finding::look(
            "the files are mounted with subPath: they will never change",
            "mount the whole volume: volumeMounts without subPath",
        ),
        (Updates::Frozen, _) => Finding::look(
            "the volume has not been written since the certificate was due: the kubelet has stopped",
            "look at the pod's events; a new pod gets a new start. Trust bundles in the same volume are frozen, too",
        ),
        (Updates::Expected, Some(PlaceKind::Volume)) => {
            Finding::good("the files are in a projected volume, which changes as a whole".into())
        }
        (Updates::Expected, Some(PlaceKind::Plain | PlaceKind::SubPath) | None) => Finding::look(
            "the files are in a plain folder, not in a projected volume",
            "fine on a laptop; in a pod, mount the projected volume itself",
        ),
    }
}

fn in_words(seconds: u64) -> String {
    let of = |unit: u64| seconds.checked_div(unit).unwrap_or(0);
    match seconds {
        0..=119 => format!("{seconds} seconds"),
        120..=7199 => format!("{} minutes", of(60)),
        7200..=172_799 => format!("{} hours", of(3600)),
        _ => format!("{} days", of(86_400)),
    }
}

/// How to mend what a reading met.
fn mend(error: &LoadError) -> &'static str {
    match error {
        LoadError::Missing { .. } => {
            "check the paths against the pod's volumes and volumeMounts. A podCertificate or clusterTrustBundle source is dropped silently where its \
             feature is off: it needs Kubernetes 1.37, or the gates PodCertificateRequest and ClusterTrustBundleProjection before"
        }
        LoadError::Read { .. } => "give this user the right to read it: fsGroup in the pod's securityContext",
        LoadError::Changing { .. } => "something writes the file in place; write beside it and rename",
        LoadError::Pem { .. } => "write what a kubelet writes: PKCS#8 PRIVATE KEY and CERTIFICATE blocks, nothing else",
        LoadError::NoKey { .. } | LoadError::StrayCertificate { .. } => {
            "use credentialBundlePath for one file, or keyPath and certificateChainPath for two"
        }
        LoadError::SeveralKeys { .. } => {
            "one credential bundle for each signer: give each podCertificate source a path of its own"
        }
        LoadError::NoCertificate { .. } => {
            "is it the file of keyPath? The chain is in certificateChainPath, or in a credential bundle"
        }
        LoadError::StrayKey { .. } => {
            "name the trust bundle here, not the credential: a private key must not be handed out as trust"
        }
        LoadError::Certificate { .. } => {
            "the file is damaged or the signer broken: look at status.certificateChain of the PodCertificateRequest"
        }
        LoadError::NotAnSvid { .. } => {
            "the signer must issue X.509-SVIDs: one URI name with a SPIFFE ID, critical key usage digitalSignature, no CA"
        }
        LoadError::Key { .. } => "use the crypto provider aws-lc-rs, or another keyType in the podCertificate source",
        LoadError::Mismatch { .. } => {
            "key and chain are of two generations: use a credential bundle, or mount the volume without subPath"
        }
        LoadError::Expired { .. } | LoadError::NotYetValid { .. } => {
            "compare the clocks of node and signer; look at the pod's PodCertificateRequests"
        }
        LoadError::OwnChainUntrusted { .. } => "publish the new root before signing with it",
        LoadError::EmptyTrust { .. } | LoadError::NoTrust { .. } => {
            "check signerName and labelSelector of the clusterTrustBundle source: `kubectl get clustertrustbundles`"
        }
        LoadError::NoAnchor { .. } => {
            "put the root CA into the ClusterTrustBundle: CA:TRUE with keyCertSign (which `openssl req -x509` leaves out: -addext keyUsage=critical,keyCertSign)"
        }
    }
}

/// A source for a folder with files under any names.
fn guess(path: &Path, trust: Vec<(TrustDomain, PathBuf)>, provider: &CryptoProvider) -> Result<Source, Finding> {
    if !path.is_dir() {
        return with_trust(CredentialFiles::Bundle(path.into()), Vec::new(), trust, provider);
    }
    let files = files_in(path);
    let names: Vec<_> = files.iter().filter_map(|file| file.file_name().map(PathBuf::from)).collect();
    if trust.is_empty() && !delivery::sort(path, &names).trust.is_empty() {
        return Ok(Source::folder(path));
    }
    let (mut bundles, mut keys, mut chains) = (Vec::new(), Vec::new(), Vec::new());
    let mut unread = None;
    for file in files {
        match blocks_of(&file) {
            Ok((true, true)) => bundles.push(file),
            Ok((true, false)) => keys.push(file),
            Ok((false, true)) => chains.push(file),
            Ok((false, false)) => {}
            Err(error) => unread = unread.or(Some(error)),
        }
    }
    if let (true, true, Some(error)) = (bundles.is_empty(), keys.is_empty(), unread) {
        return Err(Finding::wrong(describe(&error), mend(&error)));
    }
    match (bundles.as_slice(), keys.as_slice()) {
        ([bundle], []) => with_trust(CredentialFiles::Bundle(bundle.clone()), chains, trust, provider),
        ([], [key]) => {
            let key = key.clone();
            let own = chains.iter().position(|chain| leads(&key, chain, provider));
            let Some(own) = own else {
                return Err(Finding::wrong(
                    format!("no certificate chain beside {} belongs to it", key.display()),
                    "project certificateChainPath beside keyPath, or a credential bundle",
                ));
            };
            let chain = chains.remove(own);
            with_trust(CredentialFiles::Pair { key, chain }, chains, trust, provider)
        }
        ([], []) => Err(Finding::wrong(
            format!("{} holds no private key", path.display()),
            "a podCertificate source is dropped silently where its feature is off: it needs Kubernetes 1.37, or the gate PodCertificateRequest before; \
             look also at the pod's events and its PodCertificateRequests",
        )),
        _ => Err(Finding::wrong(
            format!("{} holds several private keys", path.display()),
            "name the credential bundle itself, and its trust bundles with --trust",
        )),
    }
}

fn with_trust(
    credential: CredentialFiles<PathBuf>,
    chains: Vec<PathBuf>,
    trust: Vec<(TrustDomain, PathBuf)>,
    provider: &CryptoProvider,
) -> Result<Source, Finding> {
    let domain = own_domain(&credential, provider);
    let source = match credential {
        CredentialFiles::Bundle(bundle) => Source::bundle(bundle),
        CredentialFiles::Pair { key, chain } => Source::key_and_chain(key, chain),
    };
    if !trust.is_empty() {
        let mut named = BTreeSet::new();
        return Ok(trust.into_iter().fold(source, |source, (domain, file)| {
            // A domain that is named again has moved from one authority to another, or is about to.
            if named.insert(domain.clone()) { source.trust(domain, file) } else { source.also_trust(domain, file) }
        }));
    }
    match (domain, chains.as_slice()) {
        // Without a good credential there is nothing to say about trust yet.
        (Err(error), _) => Err(Finding::wrong(describe(&error), mend(&error))),
        (Ok(domain), [only]) => Ok(source.trust(domain, only)),
        (Ok(_), []) => Err(Finding::wrong(
            "there is no trust bundle",
            "project a clusterTrustBundle source beside the credential, or name it: --trust DOMAIN=FILE. The source is dropped silently where \
             the gate ClusterTrustBundleProjection is off; an optional one that matches nothing is an empty file",
        )),
        (Ok(_), [_, _, ..]) => Err(Finding::wrong(
            "there are several files of certificates, and their names do not say whose they are",
            "say which is whose: --trust DOMAIN=FILE for each",
        )),
    }
}

fn own_domain(files: &CredentialFiles<PathBuf>, provider: &CryptoProvider) -> Result<TrustDomain, LoadError> {
    let paths = files.paths();
    let key = contents(paths.key())?;
    let chain = contents(paths.chain())?;
    let both = match &paths {
        CredentialFiles::Bundle(_) => CredentialFiles::Bundle(key.bytes()),
        CredentialFiles::Pair { .. } => CredentialFiles::Pair { key: key.bytes(), chain: chain.bytes() },
    };
    credential::parse(&both, &paths, provider).map(|credential| credential.id().trust_domain().clone())
}

fn leads(key: &Path, chain: &Path, provider: &CryptoProvider) -> bool {
    own_domain(&CredentialFiles::Pair { key: key.into(), chain: chain.into() }, provider).is_ok()
}

fn contents(path: &Path) -> Result<crate::files::Contents, LoadError> {
    let place: Place = Disk.locate(path);
    let read = Disk.open(&place).and_then(|folder| folder.read(&place.name, crate::load::LARGEST_FILE));
    read.map_err(|error| LoadError::of_io(path, error))
}

/// Whether a file holds a key, and certificates. One without PEM in it is not meant.
fn blocks_of(file: &Path) -> Result<(bool, bool), LoadError> {
    let contents = contents(file)?;
    let blocks = match pem::blocks(contents.bytes(), 1001) {
        Ok(blocks) => blocks,
        Err(source) if contents.bytes().starts_with(b"-----BEGIN ") => {
            return Err(LoadError::Pem { path: file.into(), source });
        }
        Err(_) => return Ok((false, false)),
    };
    let key = blocks.iter().any(|block| matches!(block, Block::Key(_)));
    Ok((key, blocks.iter().any(|block| matches!(block, Block::Certificate(_)))))
}

/// Under whatever names; what begins with two dots is a kubelet's own.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_own = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(|path| !is_own(path) && path.is_file()).collect();
    files.sort();
    files
}
