//! What keeps a CA from going on as it should, and what to do about it.

use std::fmt;

use time::OffsetDateTime;

use super::{brought::BroughtError, load::LoadError};
use crate::names::Sha256;

/// All labels.
pub const LABELS: [&str; 10] = [
    "signing_secret_broken",
    "root_secret_broken",
    "root_key_lost",
    "other_root",
    "roots_differ",
    "rolled_back",
    "root_ends",
    "not_yet_valid",
    "brought_ca_broken",
    "brought_ca_ends",
];

/// What keeps the CA from going on, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The signing Secret is not as we wrote it.
    SigningBroken(LoadError),
    /// The root's Secret is not as we wrote it.
    RootBroken(LoadError),
    /// Certificates of a root are about, and its key is gone.
    RootKeyLost,
    /// The Secrets hold another root than the one that is trusted.
    OtherRoot {
        /// The one in the Secrets.
        found: Sha256,
    },
    /// The Secret of the root holds another root than the signing Secret.
    RootsDiffer,
    /// An older issuing CA is back in the signing Secret.
    RolledBack {
        /// The number that was seen before.
        from: u64,
        /// The number now.
        to: u64,
    },
    /// The root itself ends.
    RootEnds(OffsetDateTime),
    /// The issuing CA, or its root, is not valid yet: somebody's clock is wrong.
    NotYetValid(OffsetDateTime),
    /// What is brought cannot be used.
    BroughtBroken {
        /// Where it is.
        from: String,
        /// Why not.
        error: BroughtError,
    },
    /// What is brought ends, and nothing newer has been brought.
    BroughtEnds {
        /// Where it is.
        from: String,
        /// Until when anything can be issued.
        at: OffsetDateTime,
    },
}

impl Trouble {
    /// For metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::SigningBroken(_) => "signing_secret_broken",
            Self::RootBroken(_) => "root_secret_broken",
            Self::RootKeyLost => "root_key_lost",
            Self::OtherRoot { .. } => "other_root",
            Self::RootsDiffer => "roots_differ",
            Self::RolledBack { .. } => "rolled_back",
            Self::RootEnds(_) => "root_ends",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::BroughtBroken { .. } => "brought_ca_broken",
            Self::BroughtEnds { .. } => "brought_ca_ends",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // To delete it would be to lose the plan of a rotation, which the newer one has written down.
            Self::SigningBroken(error @ LoadError::NewerSchema(_)) => write!(out, "{error}; it is left as it is"),
            Self::SigningBroken(error) => write!(
                out,
                "the Secret of the issuing CA is not as Podmint wrote it: {error}; restore it, or delete it to have a new issuing CA \
                 made under the same root"
            ),
            Self::RootBroken(error) => {
                write!(out, "the Secret of the root is not as Podmint wrote it: {error}; restore it from a backup")
            }
            Self::RootKeyLost => out.write_str(
                "the Secret of the root is gone while its certificates are trusted: restore it from a backup (`kubectl podmint ca \
                 restore`), or, where there is none, go on with a new root (`kubectl podmint ca reset`); Podmint does not make another \
                 root by itself beside certificates that live",
            ),
            Self::OtherRoot { found } => write!(
                out,
                "the Secrets hold the root {found}, and certificates of another one are about: somebody replaced them; restore them from a backup"
            ),
            Self::RootsDiffer => out.write_str(
                "the Secret of the root holds another root than the one above the issuing CA: restore it from a backup",
            ),
            Self::RolledBack { from, to } => write!(
                out,
                "the Secret of the issuing CA went back from generation {from} to {to}: somebody restored an old copy. It is used, for \
                 it is under the same root; `kubectl podmint rotate --intermediate` makes a new one, and this is forgotten"
            ),
            Self::RootEnds(at) => write!(out, "the root ends at {at}"),
            Self::NotYetValid(from) => {
                write!(out, "the CA is valid from {from}: the API server's clock is, or was, wrong")
            }
            Self::BroughtBroken { from, error } => write!(
                out,
                "the CA in {from} cannot be used: {error}. Whatever was brought before signs for as long as it lasts"
            ),
            Self::BroughtEnds { from, at } => write!(
                out,
                "the CA in {from} can issue until {at}, and the longest certificates would outlive it: bring its successor there; certificates are cut short until then"
            ),
        }
    }
}
