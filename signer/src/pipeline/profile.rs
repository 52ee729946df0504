//! Every word of the certificate, decided before the CA key is touched.
//!
//! Profiles of later issues (DNS names, other key usages) add to [`Words`]; whatever is not in there is not in a certificate.

use std::fmt;

use time::{Duration, OffsetDateTime};

use super::{approved::Approved, refusal::Hold};
use crate::{
    config::Lifetime,
    names::{PodUid, SerialNumber, Sha256},
};

/// How far `notBefore` lies back: clocks of peers may be this far behind. The API server takes up to 5 minutes either way.
pub const BACKDATE: Duration = Duration::seconds(60);

/// The shortest life that the API server takes.
pub const SHORTEST: Duration = Duration::hours(1);

/// How long before and after the two ends of its life a certificate must not be renewed, by the API server's rule.
pub const REFRESH_MARGIN: Duration = Duration::minutes(10);

/// A certificate to be.
///
/// It cannot be made but by [`Profile::decide`]:
/// ```
/// # use podmint_signer::{names::SerialNumber, pipeline::{Approved, Hold, Profile}};
/// # use time::OffsetDateTime;
/// fn decide(approved: Approved, usable_until: OffsetDateTime, now: OffsetDateTime) -> Result<Profile, Hold> {
///     Profile::decide(approved, usable_until, now, SerialNumber::from_random([7; 16]))
/// }
/// ```
/// ```compile_fail
/// # use podmint_signer::{names::SerialNumber, pipeline::{Approved, Hold, Profile}};
/// # use time::OffsetDateTime;
/// fn decide(approved: Approved, usable_until: OffsetDateTime, now: OffsetDateTime) -> Result<Profile, Hold> {
///     Ok(Profile { approved, words: unimplemented!() })
/// }
/// ```
pub struct Profile {
    approved: Approved,
    words: Words,
}

/// What a certificate says, but for the key and the CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The one name, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`: a critical URI SAN beside an empty subject.
    pub uri: String,
    /// The serial number.
    pub serial: SerialNumber,
    /// From when on it is valid.
    pub not_before: OffsetDateTime,
    /// Until when, inclusive.
    pub not_after: OffsetDateTime,
    /// When the kubelet is to begin to renew it.
    pub begin_refresh_at: OffsetDateTime,
    /// When this was decided, by the API server's clock.
    pub decided_at: OffsetDateTime,
}

impl Profile {
    /// Decides. `usable_until` is the CA's, `now` the API server's time.
    pub fn decide(
        approved: Approved,
        usable_until: OffsetDateTime,
        now: OffsetDateTime,
        serial: SerialNumber,
    ) -> Result<Self, Hold> {
        let (claim, signer) = (approved.claim(), approved.signer());
        let uri =
            spiffe_id(signer.trust_domain.as_str(), claim.target.namespace.as_str(), claim.service_account.as_str())?;
        let ends_first = Hold::AuthorityEndsFirst { usable_until };
        let (not_before, not_after) =
            times(approved.granted_seconds(), usable_until, now).ok_or_else(|| ends_first.clone())?;
        let begin_refresh_at = refresh(&claim.pod_uid, signer.lifetime, not_before, not_after).ok_or(ends_first)?;
        let words = Words { uri, serial, not_before, not_after, begin_refresh_at, decided_at: now };
        Ok(Self { approved, words })
    }

    /// What was approved.
    pub fn approved(&self) -> &Approved {
        &self.approved
    }

    /// What it will say.
    pub fn words(&self) -> &Words {
        &self.words
    }

    pub(super) fn into_parts(self) -> (Approved, Words) {
        let Self { approved, words } = self;
        (approved, words)
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { approved, words } = self;
        out.debug_struct("Profile").field("approved", approved).field("words", words).finish()
    }
}

/// Namespace and ServiceAccount are DNS names, so that no part can hold a `/`, a `%` or be `..`. SPIFFE's limit is 2048 bytes.
fn spiffe_id(trust_domain: &str, namespace: &str, service_account: &str) -> Result<String, Hold> {
    let uri = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}");
    if uri.len() > 2048 { Err(Hold::NoSuchIdentity) } else { Ok(uri) }
}

/// The life counts from the backdated `notBefore`, for that is how the API server measures `maxExpirationSeconds`. A CA that
/// ends first cuts it short; `None` where less than the shortest life would be left.
fn times(
    granted_seconds: u32,
    usable_until: OffsetDateTime,
    now: OffsetDateTime,
) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let whole = now.replace_nanosecond(0).ok()?;
    if whole >= usable_until {
        return None;
    }
    let not_before = whole.checked_sub(BACKDATE)?;
    let wanted = not_before.checked_add(Duration::seconds(i64::from(granted_seconds)))?;
    let last = usable_until.checked_add(SHORTEST)?.checked_add(BACKDATE)?.replace_nanosecond(0).ok()?;
    let not_after = wanted.min(last);
    (not_after.checked_sub(SHORTEST)? >= not_before).then_some((not_before, not_after))
}

/// Somewhere in the PodSigner's window, always the same place for the same pod: pods that came in a burst do not come back as
/// one.
fn refresh(
    pod: &PodUid,
    lifetime: Lifetime,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Option<OffsetDateTime> {
    let life = not_after.unix_timestamp().checked_sub(not_before.unix_timestamp())?;
    let share = |permille: u32| life.checked_mul(i64::from(permille))?.checked_div(1000);
    let (from, to) = (share(lifetime.refresh_from_permille)?, share(lifetime.refresh_to_permille)?);
    let width = to.checked_sub(from)?.checked_add(1)?;
    let hash = Sha256::of(pod.as_str().as_bytes());
    let chance = i64::from(u32::from_be_bytes(*hash.as_bytes().first_chunk()?));
    let offset = from.checked_add(chance.checked_rem(width)?)?;
    let at = not_before.checked_add(Duration::seconds(offset))?;
    let (first, last) = (not_before.checked_add(REFRESH_MARGIN)?, not_after.checked_sub(REFRESH_MARGIN)?);
    Some(at.clamp(first, last))
}
