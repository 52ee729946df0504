//! Where credentials and trust come from: paths, as the pod's volumes mount them.

use crate::delivery;
use crate::identity::{Builder, PodIdentity, StartError};
use crate::spiffe::TrustDomain;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files of a pod's identity: its credential, and a trust bundle for each trust domain that it believes.
///
/// The credential is either a *credential bundle* (a `podCertificate` source's `credentialBundlePath`: the key, then the chain) or a key
/// file and a chain file. All files may be in one volume or in several. Prefer the bundle, and a volume of its own for trust: the kubelet writes a volume only
/// when all of its sources are well, so a refused certificate would freeze the trust anchors beside it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let identity = podmint::Source::bundle("/var/run/podmint/credential/bundle.pem")
///     .trust("prod.example.org".parse()?, "/var/run/podmint/trust/prod.pem")
///     .trust("partner.example.net".parse()?, "/var/run/podmint/trust/partner.pem")
///     .start()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Source {
    pub(crate) files: Files,
    /// Named twice: which file is meant?
    pub(crate) ambiguous: Option<TrustDomain>,
}

#[derive(Debug, Clone)]
pub(crate) enum Files {
    Named(Named),
    /// Whatever this folder holds, by the names of [`delivery`].
    Folder(PathBuf),
}

/// Every file by its path.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) credential: CredentialFiles<PathBuf>,
    /// Behind the first, those of [`Source::also_trust`].
    pub(crate) trust: BTreeMap<TrustDomain, Vec<PathBuf>>,
}

/// One file or two; of paths, or of their contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CredentialFiles<T> {
    Bundle(T),
    Pair { key: T, chain: T },
}

impl<T: Copy> CredentialFiles<T> {
    pub(crate) fn key(&self) -> T {
        match self {
            Self::Bundle(one) => *one,
            Self::Pair { key, chain: _ } => *key,
        }
    }

    pub(crate) fn chain(&self) -> T {
        match self {
            Self::Bundle(one) => *one,
            Self::Pair { key: _, chain } => *chain,
        }
    }
}

impl CredentialFiles<PathBuf> {
    pub(crate) fn paths(&self) -> CredentialFiles<&Path> {
        match self {
            Self::Bundle(path) => CredentialFiles::Bundle(path),
            Self::Pair { key, chain } => CredentialFiles::Pair { key, chain },
        }
    }
}

impl Source {
    /// A credential bundle: the private key and the certificate chain in one file.
    pub fn bundle(path: impl Into<PathBuf>) -> Self {
        Self::new(CredentialFiles::Bundle(path.into()))
    }

    /// A key file and a certificate chain file. Both are read from one generation of their volume.
    pub fn key_and_chain(key: impl Into<PathBuf>, chain: impl Into<PathBuf>) -> Self {
        Self::new(CredentialFiles::Pair { key: key.into(), chain: chain.into() })
    }

    /// A folder in the layout of SPIFFE Filesystem Delivery (a draft: spiffe/spiffe pull request 376): one credential bundle and, for each trust domain, a bundle named after it,
    /// as in `prod.example.org.spiffe-trust-bundle.x509.pem`. The names of earlier drafts are read, too; of several the newest counts.
    ///
    /// Trust domains come and go with their files: once a file is gone, nobody of its domain is let in any more. A folder without any trust bundle is taken for a fault, and
    /// the last good state stays.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self { files: Files::Folder(path.into()), ambiguous: None }
    }

    /// The folder that SPIFFE Filesystem Delivery tells this process: `SPIFFE_CREDENTIAL_FOLDER`, else the first `file:` URI in `SPIFFE_ENDPOINT`, else
    /// `/run/secrets/workload-spiffe-credentials`, else the same below `/var/run`. It reads these two variables of the environment.
    pub fn discover() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the specification names these variables; `discover_with` takes them as an argument"
        )]
        Self::discover_with(|name| std::env::var(name).ok())
    }

    /// [`Source::discover`] with another environment.
    pub fn discover_with(variable: impl Fn(&str) -> Option<String>) -> Self {
        Self::folder(delivery::folder(variable))
    }

    fn new(credential: CredentialFiles<PathBuf>) -> Self {
        Self { files: Files::Named(Named { credential, trust: BTreeMap::new() }), ambiguous: None }
    }

    /// Believe members of `domain` whose chain ends in a certificate of this file, and nobody else of that domain.
    ///
    /// Each domain has one file, but for [`Source::also_trust`]. Naming a domain twice, or beside a [`Source::folder`], which names its own, is an error at the start.
    #[must_use]
    pub fn trust(mut self, domain: TrustDomain, path: impl Into<PathBuf>) -> Self {
        let named_before = match &mut self.files {
            Files::Named(named) => named.trust.insert(domain.clone(), vec![path.into()]).is_some(),
            Files::Folder(_) => true,
        };
        if named_before {
            self.ambiguous = Some(domain);
        }
        self
    }

    /// Believe members of `domain` whose chain ends in a certificate of this file, too: while their certificates move from one authority to another, and both
    /// give the same SPIFFE IDs. Call it behind [`Source::trust`] of the same domain.
    ///
    /// The files stay apart, and each comes from whoever answers for it. An empty one adds nobody: that is how the other authority is withdrawn without a restart. If one
    /// is missing or spoilt, the last good anchors of the domain stay, and [`Health`](crate::Health) says so.
    #[must_use]
    pub fn also_trust(mut self, domain: TrustDomain, path: impl Into<PathBuf>) -> Self {
        match &mut self.files {
            Files::Named(named) => named.trust.entry(domain).or_default().push(path.into()),
            Files::Folder(_) => self.ambiguous = Some(domain),
        }
        self
    }

    /// Chooses provider, clock, intervals and limits before the start.
    pub fn builder(self) -> Builder {
        Builder::new(self)
    }

    /// Starts with the defaults: reads everything, waits for the first good snapshot, and then follows the files.
    ///
    /// # Errors
    /// Nothing good within the time-out of [`Builder::start_timeout`]; the error says what is missing and why it may be.
    pub async fn start(self) -> Result<PodIdentity, StartError> {
        self.builder().start().await
    }

    pub(crate) fn names_no_trust(&self) -> bool {
        match &self.files {
            Files::Named(named) => named.trust.is_empty(),
            Files::Folder(_) => false,
        }
    }

    /// A path in every folder to watch.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        match &self.files {
            Files::Named(Named { credential, trust }) => {
                let credential = credential.paths();
                let both = [credential.key(), credential.chain()].map(Path::to_path_buf);
                both.into_iter().chain(trust.values().flatten().cloned()).collect()
            }
            Files::Folder(folder) => vec![folder.join(delivery::CREDENTIALS.first().unwrap_or(&""))],
        }
    }
}
