//! The plan: what `state.json` in the signing Secret says beside its certificates. Everything that outlives a process is here, so
//! that any replica can go on where another one stopped.

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::load::LoadError;
use crate::names::Sha256;

/// Where the CA is, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Of the issuing CA; counted from 1, one more for each.
    pub number: u64,
    /// The rotation of the root that is going on.
    pub rotation: Option<Rotation>,
    /// The longest life in seconds that anybody may have granted under this root. Nobody grants more before it says so here.
    pub longest: u32,
    /// The wish for a rotation that was granted last.
    pub asked: Option<String>,
    /// What was found wrong with the Secrets last and was set right by itself.
    pub mended: Option<Mended>,
}

/// That a Secret was not as it was left, though nothing had to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mended {
    /// What it was.
    pub fault: Fault,
    /// When it was found, by the API server's clock.
    pub at: OffsetDateTime,
    /// Whether it was certain which root had signed last: then the next one has not.
    pub is_certain: bool,
}

/// What can be set right without anybody's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The signing Secret was gone, or empty.
    Lost,
    /// The signing Secret was of before a step of the rotation.
    OldCopy,
}

/// A rotation of the root, between its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rotation {
    /// The next root is made; it is being published.
    Prepare {
        /// The next root.
        next: Sha256,
    },
    /// The next root was read back beside the one that signs. Consumers learn of it.
    Distribute {
        /// The next root.
        next: Sha256,
        /// When it was read back first.
        since: OffsetDateTime,
    },
    /// The new root signs.
    Sign {
        /// The one that signed before.
        previous: Sha256,
        /// The longest life in seconds that was granted under the previous one.
        longest: u32,
    },
    /// It was seen to sign. What was issued under the previous one lives out its life.
    Drain {
        /// The one that signed before.
        previous: Sha256,
        /// When the new one was read back: a time that was written with the switch might be long before that was written.
        since: OffsetDateTime,
        /// The longest life in seconds that was granted under the previous one.
        longest: u32,
    },
}

impl Rotation {
    /// The root that is published beside the one that signs.
    pub fn other(self) -> Sha256 {
        match self {
            Self::Prepare { next } | Self::Distribute { next, .. } => next,
            Self::Sign { previous, .. } | Self::Drain { previous, .. } => previous,
        }
    }

    /// The root that does not sign yet.
    pub fn next(self) -> Option<Sha256> {
        match self {
            Self::Prepare { next } | Self::Distribute { next, .. } => Some(next),
            Self::Sign { .. } | Self::Drain { .. } => None,
        }
    }

    /// The root that signed before this one.
    pub fn previous(self) -> Option<Sha256> {
        match self {
            Self::Prepare { .. } | Self::Distribute { .. } => None,
            Self::Sign { previous, .. } | Self::Drain { previous, .. } => Some(previous),
        }
    }

    /// For metrics, logs and the status.
    pub fn phase(self) -> &'static str {
        match self {
            Self::Prepare { .. } => PREPARE,
            Self::Distribute { .. } => DISTRIBUTE,
            Self::Sign { .. } => SIGN,
            Self::Drain { .. } => DRAIN,
        }
    }
}

/// Where no rotation is going on.
pub const STABLE: &str = "stable";
const PREPARE: &str = "prepare";
const DISTRIBUTE: &str = "distribute";
const SIGN: &str = "sign";
const DRAIN: &str = "drain";
/// All phases.
pub const PHASES: [&str; 5] = [STABLE, PREPARE, DISTRIBUTE, SIGN, DRAIN];

/// `state.json`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema: u64,
    generation: u64,
    root: String,
    #[serde(default, skip_serializing_if = "is_nought")]
    longest_seconds: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotation: Option<WrittenRotation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mended: Option<WrittenMended>,
    /// Whether the issuing CA and its root were brought.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    brought: bool,
}

#[derive(Debug, Deserialize, Serialize)]
struct WrittenMended {
    fault: String,
    at: String,
    /// Versions that do not write it went on with the root of an old copy, whichever had signed last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    certain: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRotation {
    phase: String,
    /// The root beside the one that signs.
    root: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(default, skip_serializing_if = "is_nought")]
    longest_seconds: u32,
}

/// Only to see whether we may read the rest.
#[derive(Deserialize)]
struct Schema {
    schema: u64,
}

impl Plan {
    /// One without a rotation.
    pub fn new(number: u64, longest: u32) -> Self {
        Self { number, rotation: None, longest, asked: None, mended: None }
    }

    /// Reads a plan, the name of the root that signs, and whether that was brought. What we do not know we must not touch: a rolled-back version would
    /// destroy it.
    pub(super) fn read(json: &[u8]) -> Result<(Self, Sha256, bool), LoadError> {
        let Schema { schema } = serde_json::from_slice(json).map_err(|_garbage| LoadError::State)?;
        if schema > BROUGHT {
            return Err(LoadError::NewerSchema(schema));
        }
        let written: Written = serde_json::from_slice(json).map_err(|_garbage| LoadError::State)?;
        let Written { schema: _, generation, root, longest_seconds, asked, rotation, mended, brought } = written;
        let rotation = rotation.map(|rotation| rotation.read().ok_or(LoadError::State)).transpose()?;
        // Nothing depends on it: one that we cannot read is none.
        let mended = mended.and_then(WrittenMended::read);
        let plan = Self { number: generation, rotation, longest: longest_seconds, asked, mended };
        Ok((plan, Sha256::parse(&root).ok_or(LoadError::State)?, brought))
    }

    /// What to write, where this root signs.
    pub(super) fn write(&self, root: Sha256, brought: bool) -> Result<Vec<u8>, serde_json::Error> {
        let Self { number, rotation, longest, asked, mended } = self;
        // A version that knows no rotations would withdraw the next root. It must not touch what it does not know.
        let schema = match rotation {
            _ if brought => BROUGHT,
            Some(_) => ROTATING,
            None => STEADY,
        };
        serde_json::to_vec(&Written {
            schema,
            generation: *number,
            root: root.to_string(),
            longest_seconds: *longest,
            asked: asked.clone(),
            rotation: rotation.map(WrittenRotation::of),
            mended: mended.map(WrittenMended::of),
            brought,
        })
    }
}

impl WrittenRotation {
    fn of(rotation: Rotation) -> Self {
        let (since, longest_seconds) = match rotation {
            Rotation::Prepare { .. } => (None, 0),
            Rotation::Distribute { since, .. } => (Some(since), 0),
            Rotation::Sign { longest, .. } => (None, longest),
            Rotation::Drain { since, longest, .. } => (Some(since), longest),
        };
        let since = since.map(rfc3339);
        Self { phase: rotation.phase().to_owned(), root: rotation.other().to_string(), since, longest_seconds }
    }

    fn read(self) -> Option<Rotation> {
        let Self { phase, root, since, longest_seconds: longest } = self;
        let other = Sha256::parse(&root)?;
        let since = || OffsetDateTime::parse(since.as_deref()?, &Rfc3339).ok();
        match phase.as_str() {
            PREPARE => Some(Rotation::Prepare { next: other }),
            DISTRIBUTE => Some(Rotation::Distribute { next: other, since: since()? }),
            SIGN => Some(Rotation::Sign { previous: other, longest }),
            DRAIN => Some(Rotation::Drain { previous: other, since: since()?, longest }),
            _ => None,
        }
    }
}

impl WrittenMended {
    fn of(Mended { fault, at, is_certain: certain }: Mended) -> Self {
        Self { fault: fault.as_str().to_owned(), at: rfc3339(at), certain }
    }

    fn read(self) -> Option<Mended> {
        let fault = [Fault::Lost, Fault::OldCopy].into_iter().find(|fault| fault.as_str() == self.fault)?;
        Some(Mended { fault, at: OffsetDateTime::parse(&self.at, &Rfc3339).ok()?, is_certain: self.certain })
    }
}

impl Fault {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::OldCopy => "oldCopy",
        }
    }
}

/// Years have four digits here, so that this never fails; were it to, the plan would be refused when it is read.
fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_nought(number: &u32) -> bool {
    *number == 0
}

/// The schema of a plan without a rotation: versions that know none read and write it.
const STEADY: u64 = 1;
/// The schema of a plan with one.
const ROTATING: u64 = 2;
/// The schema of a plan of a CA that was brought, and the newest that we read: versions that make every CA themselves would try to
/// make the next one under a root whose key nobody has.
const BROUGHT: u64 = 3;
