//! What people see of a CA: its parts, where the rotation is, and what happens next.

use time::OffsetDateTime;

use super::{
    load::Generation,
    plan::{Mended, Rotation, STABLE},
    rotation::{Timing, next_event},
    source::Source,
    state::Name,
    wish::Wish,
};
use crate::names::Sha256;

/// What a part of the CA is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It signs certificates.
    Issuing,
    /// It is above the one that signs.
    Root,
    /// It is published, and will sign.
    NextRoot,
    /// It is published still, and signs no more.
    PreviousRoot,
}

/// One certificate of the CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What it is there for.
    pub role: Role,
    /// Its subject, as RFC 4514 writes it.
    pub subject: String,
    /// Its subject key identifier.
    pub key_identifier: String,
    /// The SHA-256 of the certificate.
    pub fingerprint: Sha256,
    /// Its end.
    pub not_after: OffsetDateTime,
    /// Until when something can be issued under it.
    pub usable_until: OffsetDateTime,
}

/// A CA as it was just seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// `stable`, or the phase of the rotation of the root.
    pub phase: &'static str,
    /// The number of the issuing CA.
    pub number: u64,
    /// Its parts.
    pub parts: Vec<Shown>,
    /// What happens next.
    pub next: Name,
    /// When. A time that is past means: at once.
    pub next_at: OffsetDateTime,
    /// Where it is brought; none where we make it ourselves.
    pub brought: Option<String>,
    /// What was asked for when it was seen: an annotation that came later is not in force yet.
    pub wish: Wish,
    /// The wish for a rotation that was granted last.
    pub asked: Option<String>,
    /// What was found wrong with the Secrets last and was set right by itself.
    pub mended: Option<Mended>,
    /// Until when the previous root signed, and until when it is trusted.
    pub drains: Option<(OffsetDateTime, OffsetDateTime)>,
}

impl View {
    /// Of this one.
    pub fn of(generation: &Generation, source: &dyn Source, wish: &Wish, timing: Timing) -> Self {
        let plan = &generation.signing().plan;
        let (next, next_at) = next_event(generation.signing(), wish, timing);
        Self {
            phase: plan.rotation.map_or(STABLE, Rotation::phase),
            number: plan.number,
            parts: generation.shown(),
            next,
            next_at,
            brought: source.place().map(str::to_owned),
            wish: wish.clone(),
            asked: plan.asked.clone(),
            mended: plan.mended,
            drains: match plan.rotation {
                Some(Rotation::Drain { since, longest, .. }) => {
                    Some((since, since.saturating_add(timing.drain(longest))))
                }
                Some(Rotation::Prepare { .. } | Rotation::Distribute { .. } | Rotation::Sign { .. }) | None => None,
            },
        }
    }
}

impl Role {
    /// For the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issuing => "issuing",
            Self::Root => "root",
            Self::NextRoot => "next root",
            Self::PreviousRoot => "previous root",
        }
    }
}
