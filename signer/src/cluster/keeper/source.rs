//! Where the CA comes from, as it is now: made here, or read from a Secret or a folder. Whatever cannot be read is told like whatever
//! cannot be used, and keeps nobody from signing with what was brought before.

use std::{io, path::Path, sync::Arc};

use k8s_openapi::ByteString;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;

use super::Keeper;
use crate::{
    authority::{
        Brought, BroughtError, SecretData, SelfManaged, Source, Wanted,
        brought::{FIELDS, MOST},
    },
    chain::Chain,
    config::Origin,
};

impl Keeper {
    pub(super) async fn source(&self, now: OffsetDateTime) -> Arc<dyn Source> {
        let authority = &self.signer.authority;
        let found = match &authority.origin {
            Origin::SelfManaged => return Arc::new(SelfManaged),
            Origin::Secret(name) => match self.secrets.read(name).await {
                Ok(secret) => secret.and_then(|secret| secret.data).ok_or(BroughtError::Absent),
                Err(error) => Err(BroughtError::Unread(Chain(&error).to_string())),
            },
            Origin::Files(folder) => files(folder).await,
        };
        let place = authority.brought().unwrap_or_default();
        Arc::new(Brought::new(place, found, Wanted { signer: &self.signer, now }))
    }
}

/// All three as they were at one time: a kubelet changes a mounted folder by turning the link `..data` to another.
async fn files(folder: &Path) -> Result<SecretData, BroughtError> {
    let now = tokio::fs::canonicalize(folder.join("..data")).await.unwrap_or_else(|_plain| folder.to_owned());
    let mut data = SecretData::new();
    for field in FIELDS {
        match file(&now.join(field)).await {
            Ok(content) => drop(data.insert(field.to_owned(), ByteString(content))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BroughtError::Unread(format!("{field}: {error}"))),
        }
    }
    Ok(data)
}

/// No more of it than is enough to see that it is too large.
async fn file(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let most = u64::try_from(MOST).unwrap_or(u64::MAX).saturating_add(1);
    tokio::fs::File::open(path).await?.take(most).read_to_end(&mut content).await?;
    Ok(content)
}
