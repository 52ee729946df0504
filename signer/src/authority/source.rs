//! Where roots and issuing CAs come from. Whoever brings them says what is next; when that is published, when it signs and when the one
//! before is withdrawn is the same for all, and decided by [`next_step`](super::next_step).

use std::fmt;

use time::{Duration, OffsetDateTime};

use super::{
    load::Root,
    make::{self, MakeError, Makings, ROOT_LIFE},
    state::{Clock, HeldRoot, Signing},
    trouble::Trouble,
    wish::Wish,
};

/// One way to come to a CA.
pub trait Source: fmt::Debug + Send + Sync {
    /// Where it is brought, as messages call it; none where we make it ourselves.
    fn place(&self) -> Option<&str>;

    /// The root that is brought now, if it is one that can be used.
    fn brings(&self) -> Option<&Root>;

    /// Whether another root than the one that signs is due.
    fn rotates(&self, signing: &Signing, clock: Clock) -> bool;

    /// Whether another issuing CA below the same root is due.
    fn renews(&self, signing: &Signing, clock: Clock) -> bool;

    /// Whether this root, which waits in the root's Secret, is the one to rotate to.
    fn takes(&self, next: HeldRoot, now: OffsetDateTime) -> bool;

    /// What of the wishes of an administrator is its business.
    fn heeds(&self, wish: Wish) -> Wish;

    /// A root to put into the root's Secret.
    fn root(&self, makings: &Makings<'_>) -> Result<Root, MakeError>;

    /// Why no root can be had of it.
    fn trouble(&self) -> Option<Trouble>;
}

/// Podmint makes roots and issuing CAs itself.
#[derive(Clone, Copy, Debug)]
pub struct SelfManaged;

impl Source for SelfManaged {
    fn place(&self) -> Option<&str> {
        None
    }

    fn brings(&self) -> Option<&Root> {
        None
    }

    fn rotates(&self, signing: &Signing, clock: Clock) -> bool {
        // The key of a root that was brought is elsewhere: there is no next issuing CA below it.
        clock.slow >= signing.rotate_at || signing.is_brought
    }

    fn renews(&self, signing: &Signing, clock: Clock) -> bool {
        clock.now >= signing.renew_at
    }

    /// One that was made long ago, for a rotation that did not come about, is not worth rotating to.
    fn takes(&self, next: HeldRoot, now: OffsetDateTime) -> bool {
        now < next.not_after.saturating_sub(ROOT_LIFE).saturating_add(NEW)
    }

    fn heeds(&self, wish: Wish) -> Wish {
        wish
    }

    fn root(&self, makings: &Makings<'_>) -> Result<Root, MakeError> {
        make::root(makings)
    }

    fn trouble(&self) -> Option<Trouble> {
        None
    }
}

/// A tenth of a root's life.
const NEW: Duration = Duration::days(365);
