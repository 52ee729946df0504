//! One reading of all files: paths in, checked parts out, each with its own error.
//!
//! It decides nothing about what is published; [`snapshot`](crate::snapshot) does. It never reads key and chain from two generations.

use crate::credential::{self, Credential};
use crate::delivery;
use crate::files::{Contents, FileSource, OpenFolder, Place, PlaceKind};
use crate::pem::BadPem;
use crate::snapshot::EmptyTrust;
use crate::source::{CredentialFiles, Files, Source};
use crate::spiffe::TrustDomain;
use crate::svid::NotAnSvid;
use crate::trust::{self, Anchors};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::UnixTime;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Larger than any volume the API server's own size limits allow, small enough to read on a whim.
pub(crate) const LARGEST_FILE: usize = 1 << 20;
/// Between our opening `..data` and reading below it, the kubelet may swap and delete; it does so once a minute at most.
const ATTEMPTS: u32 = 5;

/// Why a file could not be used. The last good snapshot stays; [`Health`](crate::Health) shows this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file, or its folder, is not there.
    #[error("{path} is missing")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("could not read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file changed while it was read.
    #[error("{path} keeps changing while it is read")]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// The file is not PEM as the kubelet writes it.
    #[error("{path} is not the PEM that a kubelet writes: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Where, and what kind of fault.
        source: BadPem,
    },
    /// There is no private key.
    #[error("{path} holds no PRIVATE KEY block")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// There are several private keys.
    #[error("{path} holds more than one PRIVATE KEY block")]
    SeveralKeys {
        /// The file.
        path: PathBuf,
    },
    /// There is no certificate.
    #[error("{path} holds no CERTIFICATE block")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A private key stands where only certificates belong.
    #[error("{path} holds a PRIVATE KEY block, but it is named as a file of certificates")]
    StrayKey {
        /// The file.
        path: PathBuf,
    },
    /// A certificate stands in the key file.
    #[error("{path} holds a CERTIFICATE block, but it is named as a key file; is it a credential bundle?")]
    StrayCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate that cannot be read.
    #[error("certificate {index} in {path} is malformed at: {place}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which one, counted from one.
        index: usize,
        /// The part of the certificate.
        place: &'static str,
    },
    /// The leaf is not an X.509-SVID.
    #[error("the leaf certificate in {path} is no X.509-SVID: {source}")]
    NotAnSvid {
        /// The file.
        path: PathBuf,
        /// The rule it breaks.
        source: NotAnSvid,
    },
    /// The crypto provider cannot use the key.
    #[error(
        "the crypto provider cannot use the {kind} key in {path} (ring has no P-521; aws-lc-rs takes all of Kubernetes' key types)"
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// The leaf's kind of key.
        kind: &'static str,
    },
    /// The private key is not the leaf's.
    #[error("the private key in {path} does not belong to the leaf certificate")]
    Mismatch {
        /// The file with the key.
        path: PathBuf,
    },
    /// The new credential is expired already.
    #[error("the certificate in {path} expired {seconds} s ago; is the clock right, and does the signer renew?")]
    Expired {
        /// The file.
        path: PathBuf,
        /// For how long.
        seconds: u64,
    },
    /// The new credential is not valid yet.
    #[error("the certificate in {path} becomes valid only in {seconds} s; is the clock right?")]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// In how long.
        seconds: u64,
    },
    /// The new credential does not chain to our own anchors, and the one in use does.
    #[error(
        "the new certificate in {path} does not verify against our own anchors of {domain} ({detail}); the one in use does and stays"
    )]
    OwnChainUntrusted {
        /// The file.
        path: PathBuf,
        /// Our trust domain.
        domain: TrustDomain,
        /// The verifier's reason.
        detail: String,
    },
    /// A trust bundle with nothing in it.
    #[error(
        "the trust bundle {path} of {domain} is empty: an optional ClusterTrustBundle that matches nothing is projected so; nobody is trusted in its place"
    )]
    EmptyTrust {
        /// The file.
        path: PathBuf,
        /// The trust domain.
        domain: TrustDomain,
    },
    /// A folder without any trust bundle.
    #[error("{path} holds no trust bundle, such as <trust domain>.spiffe-trust-bundle.x509.pem")]
    NoTrust {
        /// The folder.
        path: PathBuf,
    },
    /// A trust bundle without a usable anchor.
    #[error(
        "the trust bundle {path} of {domain} holds no CA certificate that may sign certificates ({ignored} others were ignored)"
    )]
    NoAnchor {
        /// The file.
        path: PathBuf,
        /// The trust domain.
        domain: TrustDomain,
        /// How many certificates are no anchors.
        ignored: usize,
    },
}

impl LoadError {
    /// A stable name, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Read { .. } => "read",
            Self::Changing { .. } => "changing",
            Self::Pem { .. } => "pem",
            Self::NoKey { .. } => "no_key",
            Self::SeveralKeys { .. } => "several_keys",
            Self::NoCertificate { .. } => "no_certificate",
            Self::StrayKey { .. } => "stray_key",
            Self::StrayCertificate { .. } => "stray_certificate",
            Self::Certificate { .. } => "certificate",
            Self::NotAnSvid { .. } => "not_an_svid",
            Self::Key { .. } => "key",
            Self::Mismatch { .. } => "mismatch",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::OwnChainUntrusted { .. } => "own_chain_untrusted",
            Self::EmptyTrust { .. } => "empty_trust",
            Self::NoTrust { .. } => "no_trust",
            Self::NoAnchor { .. } => "no_anchor",
        }
    }

    /// Whether the next reading may well go better: a swap was under way.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Changing { .. } | Self::Mismatch { .. } => true,
            Self::Pem { source, .. } => *source == BadPem::Unfinished,
            Self::Read { .. }
            | Self::NoKey { .. }
            | Self::SeveralKeys { .. }
            | Self::NoCertificate { .. }
            | Self::StrayKey { .. }
            | Self::StrayCertificate { .. }
            | Self::Certificate { .. }
            | Self::NotAnSvid { .. }
            | Self::Key { .. }
            | Self::Expired { .. }
            | Self::NotYetValid { .. }
            | Self::OwnChainUntrusted { .. }
            | Self::EmptyTrust { .. }
            | Self::NoTrust { .. }
            | Self::NoAnchor { .. } => false,
        }
    }

    pub(crate) fn of_io(path: &Path, source: io::Error) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is the standard library's and grows")]
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::StaleNetworkFileHandle => {
                Self::Missing { path: path.into() }
            }
            io::ErrorKind::ResourceBusy => Self::Changing { path: path.into() },
            _ => Self::Read { path: path.into(), source },
        }
    }
}

/// Everything one reading found.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) credential: Result<Credential, LoadError>,
    /// Nothing if it is not known which bundles there are: a folder that could not be listed, or that holds none.
    pub(crate) trust: Option<BTreeMap<TrustDomain, Result<Anchors, LoadError>>>,
    pub(crate) seen: Seen,
    /// Where our chain is, for messages.
    pub(crate) chain_path: PathBuf,
}

/// What the files look like, apart from what they say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Where the credential is; nothing if it was never found.
    pub(crate) kind: Option<PlaceKind>,
    /// When the credential's volume was written last.
    pub(crate) written: Option<UnixTime>,
    pub(crate) world_readable: bool,
}

/// Reads all files of a source.
#[derive(Debug)]
pub(crate) struct Loader {
    pub(crate) source: Source,
    pub(crate) files: Arc<dyn FileSource>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) empty: EmptyTrust,
}

impl Loader {
    /// Reads everything; again at once, a few times, where a swap came in between.
    pub(crate) fn load(&self) -> Loaded {
        let mut loaded = self.attempt();
        for _ in 1..ATTEMPTS {
            let passing = |error: &LoadError| error.is_passing();
            let again = loaded.credential.as_ref().is_err_and(passing)
                || loaded.trust.iter().flat_map(BTreeMap::values).any(|part| part.as_ref().is_err_and(passing));
            if !again {
                break;
            }
            loaded = self.attempt();
        }
        loaded
    }

    fn attempt(&self) -> Loaded {
        let mut reading = Reading { files: &*self.files, open: BTreeMap::new(), listed: None };
        let mut seen = Seen::default();
        let listed;
        let named = match &self.source.files {
            Files::Named(named) => named,
            Files::Folder(folder) => match reading.list(folder) {
                Ok(names) => {
                    listed = delivery::sort(folder, &names);
                    &listed
                }
                Err(error) => {
                    return Loaded { credential: Err(error), trust: None, seen, chain_path: folder.clone() };
                }
            },
        };
        let credential = credential(&named.credential, &self.provider, &mut reading, &mut seen);
        let trust = named.trust.iter().map(|(domain, paths)| (domain.clone(), anchors(domain, paths, &mut reading)));
        let trust: BTreeMap<_, _> = trust.collect();
        let chain_path = named.credential.paths().chain().to_path_buf();
        if trust.is_empty() {
            let error = LoadError::NoTrust { path: chain_path.parent().unwrap_or(Path::new("")).into() };
            return Loaded { credential: credential.and(Err(error)), trust: None, seen, chain_path };
        }
        Loaded { credential, trust: Some(trust), seen, chain_path }
    }
}

/// Of all files of one domain. Only the first must hold somebody.
fn anchors(domain: &TrustDomain, paths: &[PathBuf], reading: &mut Reading<'_>) -> Result<Anchors, LoadError> {
    let mut all = Anchors::default();
    for (index, path) in paths.iter().enumerate() {
        match reading.read(path).and_then(|contents| trust::parse(contents.bytes(), path, domain)) {
            Ok(anchors) => all = all.and(anchors),
            Err(LoadError::EmptyTrust { .. }) if index > 0 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn credential(
    files: &CredentialFiles<PathBuf>,
    provider: &CryptoProvider,
    reading: &mut Reading<'_>,
    seen: &mut Seen,
) -> Result<Credential, LoadError> {
    let paths = files.paths();
    let key_place = reading.place(paths.key());
    seen.kind = Some(key_place.kind);
    let key = reading.read(paths.key())?;
    seen.world_readable = key.world_readable();
    seen.written = reading.open.get(&folder_of(&key_place)).and_then(|folder| folder.written());
    let chain;
    let files = match &paths {
        CredentialFiles::Bundle(_) => CredentialFiles::Bundle(key.bytes()),
        CredentialFiles::Pair { key: _, chain: path } => {
            chain = reading.read(path)?;
            same_key_again(&key_place, paths.key(), &key, reading)?;
            CredentialFiles::Pair { key: key.bytes(), chain: chain.bytes() }
        }
    };
    credential::parse(&files, &paths, provider)
}

/// Without generations, the key is read again after the chain: it must not have moved meanwhile.
fn same_key_again(place: &Place, path: &Path, key: &Contents, reading: &mut Reading<'_>) -> Result<(), LoadError> {
    if place.kind == PlaceKind::Volume || reading.read(path)?.bytes() == key.bytes() {
        Ok(())
    } else {
        Err(LoadError::Changing { path: path.into() })
    }
}

/// One reading: each volume is opened once.
struct Reading<'a> {
    files: &'a dyn FileSource,
    open: BTreeMap<(PathBuf, PlaceKind), Box<dyn OpenFolder>>,
    /// The folder that was listed: what is in it is read from the same generation.
    listed: Option<(PathBuf, PlaceKind)>,
}

fn folder_of(place: &Place) -> (PathBuf, PlaceKind) {
    (place.folder.clone(), place.kind)
}

impl Reading<'_> {
    /// The names in a folder, a volume or a plain one; which of them, its `..data` says.
    fn list(&mut self, folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
        let failed = |source| LoadError::of_io(folder, source);
        let place = |kind| Place { folder: folder.into(), name: PathBuf::new(), kind };
        let (kind, open) = match self.files.open(&place(PlaceKind::Volume)) {
            Ok(open) => (PlaceKind::Volume, open),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (PlaceKind::Plain, self.files.open(&place(PlaceKind::Plain)).map_err(failed)?)
            }
            Err(error) => return Err(failed(error)),
        };
        let names = open.names().map_err(failed)?;
        self.open.insert((folder.into(), kind), open);
        self.listed = Some((folder.into(), kind));
        Ok(names)
    }

    fn place(&self, path: &Path) -> Place {
        match (&self.listed, path.file_name()) {
            (Some((folder, kind)), Some(name)) if path.parent() == Some(folder) => {
                Place { folder: folder.clone(), name: name.into(), kind: *kind }
            }
            _ => self.files.locate(path),
        }
    }

    fn read(&mut self, path: &Path) -> Result<Contents, LoadError> {
        let place = self.place(path);
        let failed = |source| LoadError::of_io(path, source);
        let folder = match self.open.entry(folder_of(&place)) {
            std::collections::btree_map::Entry::Occupied(folder) => folder.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => free.insert(self.files.open(&place).map_err(failed)?),
        };
        folder.read(&place.name, LARGEST_FILE).map_err(failed)
    }
}
