//! Every word of the certificate, decided before the CA key is touched.
//!
//! Whatever is not in [`Words`] is not in a certificate.

use std::{fmt, net::IpAddr};

use time::{Duration, OffsetDateTime};

use super::{
    approved::Approved,
    dns::{self, DnsWord},
    filled::{self, Subject},
    refusal::Hold,
};
use crate::{
    config::{Lifetime, Usages},
    names::{PodUid, SerialNumber, Sha256},
};

/// How far `notBefore` lies back: clocks of peers may be this far behind. The API server takes up to 5 minutes either way.
pub const BACKDATE: Duration = Duration::seconds(60);

/// The shortest life that the API server takes.
pub const SHORTEST: Duration = Duration::hours(1);

/// The longest life with an IP address in it: the shortest that Kubernetes takes.
const ADDRESS_SECONDS: u32 = 3_600;

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
    /// The identity, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` by default: first in the SAN, which is critical
    /// beside an empty subject.
    pub uri: Option<String>,
    /// DNS names behind it in the SAN, for clients that know nothing of SPIFFE.
    pub dns_names: Box<[DnsWord]>,
    /// IP addresses behind those.
    pub ip_addresses: Box<[IpAddr]>,
    /// The subject; empty by default.
    pub subject: Subject,
    /// What it may be used for: both ends by default.
    pub usages: Usages,
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
        let (claim, signer, verified) = (approved.claim(), approved.signer(), approved.verified());
        let wording = &signer.wording;
        let path = wording.spiffe_path.as_ref();
        let uri = path.map(|path| filled::spiffe_id(&signer.trust_domain, path, verified)).transpose()?;
        let dns_names = dns::names(wording, approved.asked(), verified)?;
        let ip_addresses = filled::addresses(wants_addresses(&approved), verified);
        let subject = filled::subject(&wording.subject, approved.asked(), verified)?;
        if uri.is_none() && dns_names.is_empty() && ip_addresses.is_empty() && subject.is_empty() {
            let problem =
                "no Service selects it, it has no address yet, and there is nothing else to name it by".to_owned();
            return Err(Hold::NoSuchName { field: "dnsNames", problem });
        }
        if let Some(name) = subject.common_name.as_deref().filter(|name| dns_names.is_empty() && looks_like_host(name))
        {
            let problem = format!(
                "without a DNS name beside it, OpenSSL takes {name:?} for a host name, which the CA may not sign for: write a slash for the dot"
            );
            return Err(Hold::NoSuchName { field: "subject.commonName", problem });
        }
        let ends_first = Hold::AuthorityEndsFirst { usable_until };
        let (not_before, not_after) = times(longest(&approved), usable_until, now).ok_or_else(|| ends_first.clone())?;
        let begin_refresh_at = match &*ip_addresses {
            // It has none yet: the next one is to come as soon as Kubernetes allows.
            [] if wants_addresses(&approved) && !verified.pod().is_on_host_network => {
                not_before.checked_add(REFRESH_MARGIN)
            }
            _ => refresh(&claim.pod_uid, signer.lifetime, not_before, not_after),
        };
        let begin_refresh_at = begin_refresh_at.ok_or(ends_first)?;
        let usages = wording.usages;
        let words = Words {
            uri,
            dns_names,
            ip_addresses,
            subject,
            usages,
            serial,
            not_before,
            not_after,
            begin_refresh_at,
            decided_at: now,
        };
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

impl Words {
    /// All names, as OpenSSL writes them and in the order of the certificate, each with its reason.
    pub fn listed(&self) -> Vec<(String, String)> {
        let uri = self.uri.iter().map(|uri| (format!("URI:{uri}"), "by namespace and ServiceAccount".to_owned()));
        let dns = self.dns_names.iter().map(|DnsWord { name, because, asked_by }| {
            let asked = asked_by.map_or_else(String::new, |annotation| format!(", asked for by {annotation}"));
            (format!("DNS:{name}"), format!("{because}{asked}"))
        });
        let addresses =
            self.ip_addresses.iter().map(|address| (format!("IP:{address}"), "the pod's address".to_owned()));
        uri.chain(dns).chain(addresses).collect()
    }

    /// What to call it in a line of a log: the SPIFFE ID, else the first other name.
    pub fn called(&self) -> String {
        let dns = || self.dns_names.first().map(|word| word.name.to_string());
        let address = || self.ip_addresses.first().map(IpAddr::to_string);
        let subject = || self.subject.fields().last().map(|(_, text)| text.to_owned());
        self.uri.clone().or_else(dns).or_else(address).or_else(subject).unwrap_or_default()
    }
}

/// To OpenSSL, which then holds it against the constraints of the CA.
fn looks_like_host(common_name: &str) -> bool {
    common_name.contains('.')
        && common_name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
}

fn wants_addresses(approved: &Approved) -> bool {
    approved.signer().wording.pod_ips || approved.asked().pod_ips
}

/// An address is given to another pod once this one is gone: no certificate with one lives longer than it must.
fn longest(approved: &Approved) -> u32 {
    let granted = approved.granted_seconds();
    if wants_addresses(approved) { granted.min(ADDRESS_SECONDS) } else { granted }
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

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests count on small numbers")]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::{
        names::ServiceName,
        pipeline::{
            Fact, Verified,
            honest::{NOW, approved, config_with, honest, serial},
        },
    };

    const FAR: OffsetDateTime = datetime!(2026-12-20 00:00:00 UTC);

    const WINDOW: Lifetime = Lifetime { max_seconds: 86_400, refresh_from_permille: 400, refresh_to_permille: 600 };

    fn words(usable_until: OffsetDateTime) -> Result<Words, Hold> {
        Profile::decide(approved(), usable_until, NOW, serial()).map(|profile| profile.words().clone())
    }

    #[test]
    fn every_word_is_decided() {
        let words = words(FAR).unwrap();
        assert_eq!(words.uri.as_deref(), Some("spiffe://prod.example.org/ns/shop/sa/cart"));
        assert!(
            words.dns_names.is_empty() && words.ip_addresses.is_empty() && words.subject.is_empty(),
            "the SPIFFE ID alone, where no profile says otherwise"
        );
        assert_eq!(words.usages, Usages::Both);
        assert_eq!(words.serial, serial());
        assert_eq!(words.not_before, datetime!(2026-11-23 18:59:00 UTC));
        assert_eq!(words.not_after, datetime!(2026-11-24 06:59:00 UTC), "the life counts from notBefore");
        let share: Duration = words.begin_refresh_at - words.not_before;
        assert!((17_280..=25_920).contains(&share.whole_seconds()), "40 to 60 % of 12 h");
    }

    #[test]
    fn an_address_shortens_the_life_and_its_lack_hastens_the_renewal() {
        let signer = config_with("profile: {ipAddresses: [podIPs]}");
        let words = |addresses: &[IpAddr]| {
            let mut seen = honest();
            let Fact::Found(pod, _) = &mut seen.pod else { panic!("an honest pod is there") };
            pod.addresses = addresses.into();
            let approved = Approved::admit(Verified::check(seen).unwrap(), &signer).unwrap();
            Profile::decide(approved, FAR, NOW, serial()).unwrap().words().clone()
        };
        let without = words(&[]);
        assert_eq!(without.begin_refresh_at - without.not_before, REFRESH_MARGIN);
        let with = words(&[[10, 0, 0, 7].into()]);
        assert_eq!(*with.ip_addresses, [IpAddr::from([10, 0, 0, 7])]);
        assert!(with.begin_refresh_at - with.not_before > REFRESH_MARGIN);
        for words in [without, with] {
            assert_eq!(words.not_after - words.not_before, SHORTEST);
        }
    }

    #[test]
    fn a_certificate_without_any_name_is_not_made() {
        let signer = config_with("profile: {spiffeId: none, dnsNames: [services]}");
        let decided = |services: &[&str]| {
            let mut seen = honest();
            seen.services = Some(services.iter().map(|name| ServiceName::parse(name).unwrap()).collect());
            let approved = Approved::admit(Verified::check(seen).unwrap(), &signer).unwrap();
            Profile::decide(approved, FAR, NOW, serial()).map(|profile| profile.words().called())
        };
        assert_eq!(decided(&["front"]).as_deref(), Ok("front.shop.svc"));
        assert!(matches!(decided(&[]), Err(Hold::NoSuchName { .. })));
    }

    #[test]
    fn a_common_name_that_openssl_takes_for_a_host_name_is_held_unless_there_is_a_dns_name() {
        let decided = |separator: &str, services: &[&str]| {
            let signer = config_with(&format!(
                "profile: {{dnsNames: [services], subject: {{commonName: '{{namespace}}{separator}{{serviceAccount}}'}}}}"
            ));
            let mut seen = honest();
            seen.services = Some(services.iter().map(|name| ServiceName::parse(name).unwrap()).collect());
            let approved = Approved::admit(Verified::check(seen).unwrap(), &signer).unwrap();
            Profile::decide(approved, FAR, NOW, serial()).map(|profile| profile.words().subject.common_name.clone())
        };
        let held = decided(".", &[]).unwrap_err().to_string();
        assert!(held.contains("subject.commonName") && held.contains("\"shop.cart\""), "{held}");
        assert_eq!(decided("/", &[]).unwrap().as_deref(), Some("shop/cart"));
        assert_eq!(decided(".", &["front"]).unwrap().as_deref(), Some("shop.cart"));
    }

    #[test]
    fn a_ca_that_ends_first_cuts_the_life_and_then_holds() {
        let usable_until = datetime!(2026-11-23 21:00:00 UTC);
        let words = words(usable_until).unwrap();
        assert_eq!(words.not_after, datetime!(2026-11-23 22:01:00 UTC), "the end of the CA");
        let at = |usable_until| super::tests::words(usable_until);
        assert!(at(datetime!(2026-11-23 19:00:01 UTC)).is_ok());
        let hold = at(datetime!(2026-11-23 19:00:00 UTC)).unwrap_err();
        assert!(matches!(hold, Hold::AuthorityEndsFirst { .. }));
    }

    #[test]
    fn the_same_pod_renews_at_the_same_place_and_others_elsewhere() {
        let (from, to) = (NOW, NOW + Duration::hours(24));
        let at = |pod: &str| refresh(&PodUid::parse(pod).unwrap(), WINDOW, from, to).unwrap();
        assert_eq!(at("a"), at("a"));
        let spread: std::collections::BTreeSet<_> = (0..100).map(|pod| at(&format!("pod-{pod}"))).collect();
        assert!(spread.len() > 90, "{}", spread.len());
        let (first, last) = (*spread.first().unwrap() - from, *spread.last().unwrap() - from);
        assert!(first < Duration::minutes(24 * 60 * 42 / 100) && last > Duration::minutes(24 * 60 * 58 / 100));
    }

    proptest! {
        #[test]
        fn no_life_is_longer_than_granted_or_than_the_ca_or_shorter_than_allowed(
            granted in 3_600..7_862_400_u32,
            left in -10_000..3_000_000_i64,
            nanos in 0..1_000_000_000_i64,
            from in 170..=830_u32,
            width in 0..660_u32,
            pod in "[a-z0-9]{1,36}",
        ) {
            let now = NOW + Duration::nanoseconds(nanos);
            let usable_until = now + Duration::seconds(left);
            match times(granted, usable_until, now) {
                None => prop_assert!(left <= 0),
                Some((not_before, not_after)) => {
                    let life = not_after - not_before;
                    prop_assert!(life <= Duration::seconds(granted.into()) && life >= SHORTEST);
                    prop_assert!(not_after <= usable_until + SHORTEST + BACKDATE);
                    prop_assert!(not_before.nanosecond() == 0 && not_after.nanosecond() == 0);
                    prop_assert!(now - not_before >= BACKDATE && now - not_before < BACKDATE + Duration::SECOND);
                    let to = (from + width).min(830);
                    let window = Lifetime { max_seconds: 0, refresh_from_permille: from, refresh_to_permille: to };
                    let at = refresh(&PodUid::parse(&pod).unwrap(), window, not_before, not_after).unwrap();
                    prop_assert!(at >= not_before + REFRESH_MARGIN && at <= not_after - REFRESH_MARGIN);
                    prop_assert_eq!(at.nanosecond(), 0);
                }
            }
        }
    }
}
