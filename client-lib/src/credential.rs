//! Our own credential: file contents in, a key that matches its certificate chain out.
//!
//! It never formats what a file holds. The buffers it reads are wiped; rustls and the crypto provider keep copies of their own.

use crate::load::LoadError;
use crate::pem::{self, Block};
use crate::source::CredentialFiles;
use crate::spiffe::SpiffeId;
use crate::svid;
use crate::x509::{self, Facts, KeyKind};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// More certificates than any chain has.
const LONGEST_CHAIN: usize = 10;

/// A key with its certificate chain, checked to belong together. Part of a [`Snapshot`](crate::Snapshot).
pub struct Credential {
    id: SpiffeId,
    serial: String,
    not_before: UnixTime,
    not_after: UnixTime,
    key_kind: KeyKind,
    certified: Arc<CertifiedKey>,
}

impl Credential {
    /// Our SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The leaf's serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// When the leaf becomes valid.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// When the leaf expires.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The kind of key, such as `ECDSA P-256`.
    pub fn key_type(&self) -> &'static str {
        self.key_kind.name()
    }

    /// The chain as the file has it, the leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// What rustls presents and signs with.
    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The same chain and so, because the key matches the leaf, the same key.
    pub(crate) fn is_same(&self, other: &Credential) -> bool {
        self.certified.cert == other.certified.cert
    }

    pub(crate) fn is_expired(&self, now: UnixTime) -> bool {
        now.as_secs() > self.not_after.as_secs()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, serial, not_before, not_after, key_kind, certified: _ } = self;
        f.debug_struct("Credential")
            .field("id", &format_args!("{id}"))
            .field("serial", serial)
            .field("not_before", &not_before.as_secs())
            .field("not_after", &not_after.as_secs())
            .field("key", &format_args!("{} (hidden)", key_kind.name()))
            .finish()
    }
}

/// Reads one bundle, or a key file and a chain file.
pub(crate) fn parse(
    files: &CredentialFiles<&[u8]>,
    paths: &CredentialFiles<&Path>,
    provider: &CryptoProvider,
) -> Result<Credential, LoadError> {
    let (key, chain) = match (files, paths) {
        (CredentialFiles::Bundle(bytes), paths) => split(bytes, paths.chain())?,
        (CredentialFiles::Pair { key, chain }, paths) => pair(key, chain, paths)?,
    };
    assemble(key, chain, paths, provider)
}

type Parts = (Zeroizing<Vec<u8>>, Vec<CertificateDer<'static>>);

fn split(bytes: &[u8], path: &Path) -> Result<Parts, LoadError> {
    let mut key = None;
    let mut chain = Vec::new();
    for block in blocks(bytes, path)? {
        match block {
            Block::Key(bytes) if key.is_none() => key = Some(bytes),
            Block::Key(_) => return Err(LoadError::SeveralKeys { path: path.into() }),
            Block::Certificate(bytes) => chain.push(CertificateDer::from(bytes)),
        }
    }
    let key = key.ok_or_else(|| LoadError::NoKey { path: path.into() })?;
    Ok((key, chain))
}

fn pair(key_file: &[u8], chain_file: &[u8], paths: &CredentialFiles<&Path>) -> Result<Parts, LoadError> {
    let (key, extra) = split(key_file, paths.key())?;
    if !extra.is_empty() {
        return Err(LoadError::StrayCertificate { path: paths.key().into() });
    }
    let mut chain = Vec::new();
    for block in blocks(chain_file, paths.chain())? {
        match block {
            Block::Certificate(bytes) => chain.push(CertificateDer::from(bytes)),
            Block::Key(_) => return Err(LoadError::StrayKey { path: paths.chain().into() }),
        }
    }
    Ok((key, chain))
}

fn blocks(bytes: &[u8], path: &Path) -> Result<Vec<Block>, LoadError> {
    pem::blocks(bytes, LONGEST_CHAIN.saturating_add(1)).map_err(|source| LoadError::Pem { path: path.into(), source })
}

fn assemble(
    key: Zeroizing<Vec<u8>>,
    chain: Vec<CertificateDer<'static>>,
    paths: &CredentialFiles<&Path>,
    provider: &CryptoProvider,
) -> Result<Credential, LoadError> {
    let path = || paths.chain().to_path_buf();
    for (index, certificate) in (1_usize..).zip(&chain) {
        Facts::read(certificate).map_err(|bad| LoadError::Certificate { path: path(), index, place: bad.0 })?;
    }
    let first = chain.first().ok_or_else(|| LoadError::NoCertificate { path: path() })?.clone();
    let leaf = Facts::read(&first).map_err(|bad| LoadError::Certificate { path: path(), index: 1, place: bad.0 })?;
    let id = svid::identity(&leaf).map_err(|source| LoadError::NotAnSvid { path: path(), source })?;

    // rustls takes the key by value and does not wipe it; our own copy is wiped here.
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let signer = provider
        .key_provider
        .load_private_key(der)
        .map_err(|_may_quote_the_key| LoadError::Key { path: paths.key().into(), kind: leaf.key.name() })?;
    let certified = CertifiedKey::new(chain, signer);
    // rustls would let "unknown" pass; for us it is no match.
    certified.keys_match().map_err(|_no_detail| LoadError::Mismatch { path: paths.key().into() })?;

    Ok(Credential {
        id,
        serial: x509::hex(leaf.serial),
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        key_kind: leaf.key,
        certified: Arc::new(certified),
    })
}
