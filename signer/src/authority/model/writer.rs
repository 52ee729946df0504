//! Whoever brings CAs: what he brings goes through the product's own checks, and comes to the model as the product sees it.

use std::sync::LazyLock;

use rcgen::KeyPair;

use super::world::ROOTS;
use crate::{
    authority::{Brought, BroughtError, SecretData, SelfManaged, Source, Wanted, foreign::Foreign, load::Means},
    names::Sha256,
    pipeline::honest::{NOW, signer},
};

/// Where the CA comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// It is made by whoever signs.
    Made,
    /// A writer has brought this one.
    Brought(Ca),
    /// What he had brought is gone, or spoilt.
    Spoilt(Ca),
}

/// An issuing CA below its root, each by number. Those that are brought count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ca {
    pub(super) root: u8,
    pub(super) issuing: u8,
}

/// All that he ever brings.
pub(super) const ALL: [Ca; 4] =
    [Ca { root: 0, issuing: 1 }, Ca { root: 0, issuing: 2 }, Ca { root: 1, issuing: 1 }, Ca { root: 2, issuing: 1 }];

impl Place {
    /// As the product reads it.
    pub(super) fn source(self) -> &'static dyn Source {
        match self {
            Self::Made => &SelfManaged,
            Self::Brought(ca) => brought(ca),
            Self::Spoilt(_) => &*SPOILT,
        }
    }

    /// What can be had of it.
    pub(super) fn brings(self) -> Option<Ca> {
        match self {
            Self::Brought(ca) => Some(ca),
            Self::Made | Self::Spoilt(_) => None,
        }
    }
}

pub(super) fn id(root: u8) -> Sha256 {
    IDS[usize::from(root)]
}

pub(super) fn number_of(id: Sha256) -> u8 {
    u8::try_from(IDS.iter().position(|known| *known == id).unwrap()).unwrap()
}

pub(super) fn issuing_id(ca: Ca) -> Sha256 {
    if ca.issuing == 0 {
        return id(ca.root);
    }
    let root = brought(ca).brings().unwrap();
    let Means::Brought(issuing) = &root.means else { panic!("it was brought") };
    issuing.fingerprint()
}

fn brought(ca: Ca) -> &'static Brought {
    let place = ALL.iter().position(|known| *known == ca).unwrap();
    &BROUGHT[place]
}

fn found(found: Result<SecretData, BroughtError>) -> Brought {
    Brought::new("the Secret my-ca".to_owned(), found, Wanted { signer: &signer(), now: NOW })
}

static ROOT_CAS: LazyLock<Vec<Foreign>> = LazyLock::new(|| (0..ROOTS).map(|_| Foreign::new()).collect());
static BROUGHT: LazyLock<Vec<Brought>> = LazyLock::new(|| {
    let issuing = |ca: Ca| ROOT_CAS[usize::from(ca.root)].issuing_of(&KeyPair::generate().unwrap(), |_| ());
    ALL.iter().map(|ca| found(Ok(issuing(*ca)))).collect()
});
static SPOILT: LazyLock<Brought> = LazyLock::new(|| found(Err(BroughtError::Absent)));
/// The last ones are nobody's.
static IDS: LazyLock<Vec<Sha256>> = LazyLock::new(|| {
    let nobodys = (0..8).skip(ROOTS).map(|number: u8| Sha256::of(&[number]));
    ROOT_CAS.iter().map(Foreign::fingerprint).chain(nobodys).collect()
});
