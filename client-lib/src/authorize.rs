//! Which verified identities are let in. There is no default: one has to be named, and an empty list admits nobody.

use crate::connections::Connections;
use crate::peer::PeerIdentity;
use crate::spiffe::{BadSpiffeId, SpiffeId, TrustDomain};
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Decides which peers are let in, once their certificate is verified.
///
/// ```
/// use podmint::Authorizer;
/// let domain = "prod.example.org".parse()?;
/// let shop = Authorizer::id_prefix("spiffe://prod.example.org/ns/shop".parse()?);
/// let cart = Authorizer::k8s(&domain, "shop", "cart")?;
/// let all_but_cart = Authorizer::all_of([shop, Authorizer::not(cart)]);
/// # Ok::<(), podmint::BadSpiffeId>(())
/// ```
#[derive(Clone)]
pub struct Authorizer(Rule);

#[derive(Clone)]
enum Rule {
    AnyIn(TrustDomain),
    OneOf(BTreeSet<SpiffeId>),
    Prefix(SpiffeId),
    AllOf(Vec<Authorizer>),
    AnyOf(Vec<Authorizer>),
    Not(Box<Authorizer>),
    Asked(Arc<str>, Arc<dyn Fn(&PeerIdentity) -> bool + Send + Sync>),
    Swapped(Arc<Swap>),
}

/// A rule that can be replaced, and whose open connections are to be looked at again then.
struct Swap {
    rule: ArcSwap<Authorizer>,
    /// Which replacement of a rule, of all in this process, was its last.
    epoch: AtomicU64,
    users: Mutex<Vec<Weak<Connections>>>,
}

/// All replacements of rules in this process.
static REPLACEMENTS: AtomicU64 = AtomicU64::new(0);

impl Authorizer {
    /// Every workload of a trust domain.
    pub fn any_in(domain: TrustDomain) -> Self {
        Self(Rule::AnyIn(domain))
    }

    /// Exactly this identity.
    pub fn id(id: SpiffeId) -> Self {
        Self::one_of([id])
    }

    /// One of these identities; nobody if there are none.
    pub fn one_of(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self(Rule::OneOf(ids.into_iter().collect()))
    }

    /// This identity and all below it, by whole path segments: `/ns/shop` covers `/ns/shop/sa/cart` and not `/ns/shopping`.
    pub fn id_prefix(prefix: SpiffeId) -> Self {
        Self(Rule::Prefix(prefix))
    }

    /// The pods of a Kubernetes ServiceAccount, as Podmint's signer names them.
    ///
    /// # Errors
    /// Namespace or account cannot be part of a SPIFFE ID.
    pub fn k8s(domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, BadSpiffeId> {
        SpiffeId::of_service_account(domain, namespace, service_account).map(Self::id)
    }

    /// Who passes all of these; nobody if there are none.
    pub fn all_of(rules: impl IntoIterator<Item = Authorizer>) -> Self {
        Self(Rule::AllOf(rules.into_iter().collect()))
    }

    /// Who passes one of these; nobody if there are none.
    pub fn any_of(rules: impl IntoIterator<Item = Authorizer>) -> Self {
        Self(Rule::AnyOf(rules.into_iter().collect()))
    }

    /// Who does not pass this. On its own it lets in every other verified peer of every trust domain named in the [`Source`](crate::Source).
    #[expect(clippy::should_implement_trait, reason = "it reads as a rule among rules; `!rule` hides a negation")]
    pub fn not(rule: Authorizer) -> Self {
        Self(Rule::Not(Box::new(rule)))
    }

    /// Whom your own code lets in; `name` says in logs and errors what it is. It runs in the handshake: it must not block.
    pub fn from_fn(name: &str, rule: impl Fn(&PeerIdentity) -> bool + Send + Sync + 'static) -> Self {
        Self(Rule::Asked(name.into(), Arc::new(rule)))
    }

    /// A rule that can be replaced while it is in use, and the handle that replaces it.
    pub fn swappable(first: Authorizer) -> (Self, AuthorizerHandle) {
        let (rule, epoch, users) = (ArcSwap::from_pointee(first), AtomicU64::new(0), Mutex::new(Vec::new()));
        let shared = Arc::new(Swap { rule, epoch, users });
        (Self(Rule::Swapped(Arc::clone(&shared))), AuthorizerHandle(shared))
    }

    /// Whether this peer is let in.
    pub fn allows(&self, peer: &PeerIdentity) -> bool {
        match &self.0 {
            Rule::AnyIn(domain) => peer.id().trust_domain() == domain,
            Rule::OneOf(ids) => ids.contains(peer.id()),
            Rule::Prefix(prefix) => peer.id().is_below(prefix),
            Rule::AllOf(rules) => !rules.is_empty() && rules.iter().all(|rule| rule.allows(peer)),
            Rule::AnyOf(rules) => rules.iter().any(|rule| rule.allows(peer)),
            Rule::Not(rule) => !rule.allows(peer),
            Rule::Asked(_, rule) => rule(peer),
            Rule::Swapped(swap) => swap.rule.load().allows(peer),
        }
    }

    /// Grows whenever a rule inside is replaced.
    #[cfg(feature = "reqwest")]
    pub(crate) fn epoch(&self) -> u64 {
        match &self.0 {
            Rule::AnyIn(_) | Rule::OneOf(_) | Rule::Prefix(_) | Rule::Asked(..) => 0,
            Rule::AllOf(rules) | Rule::AnyOf(rules) => rules.iter().map(Self::epoch).max().unwrap_or(0),
            Rule::Not(rule) => rule.epoch(),
            Rule::Swapped(swap) => swap.epoch.load(Ordering::Acquire).max(swap.rule.load().epoch()),
        }
    }

    /// The same rule with `now` in every place of one that can be replaced.
    fn with(self, swap: &Arc<Swap>, now: &Authorizer) -> Self {
        let all = |rules: Vec<Self>| rules.into_iter().map(|rule| rule.with(swap, now)).collect();
        Self(match self.0 {
            Rule::Swapped(other) if Arc::ptr_eq(&other, swap) => return now.clone(),
            Rule::AllOf(rules) => Rule::AllOf(all(rules)),
            Rule::AnyOf(rules) => Rule::AnyOf(all(rules)),
            Rule::Not(rule) => Rule::Not(Box::new(rule.with(swap, now))),
            other @ (Rule::AnyIn(_) | Rule::OneOf(_) | Rule::Prefix(_) | Rule::Asked(..) | Rule::Swapped(_)) => other,
        })
    }

    /// These connections want to know when a rule inside is replaced.
    pub(crate) fn tell(&self, connections: &Arc<Connections>) {
        match &self.0 {
            Rule::AnyIn(_) | Rule::OneOf(_) | Rule::Prefix(_) | Rule::Asked(..) => {}
            Rule::AllOf(rules) | Rule::AnyOf(rules) => rules.iter().for_each(|rule| rule.tell(connections)),
            Rule::Not(rule) => rule.tell(connections),
            Rule::Swapped(swap) => {
                let mut users = swap.users();
                users.retain(|user| user.strong_count() > 0);
                if !users.iter().any(|user| user.as_ptr() == Arc::as_ptr(connections)) {
                    users.push(Arc::downgrade(connections));
                }
                drop(users);
                swap.rule.load().tell(connections);
            }
        }
    }
}

impl Swap {
    fn users(&self) -> MutexGuard<'_, Vec<Weak<Connections>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces the rule of [`Authorizer::swappable`]. Handshakes from then on follow the new one, and open connections whose peer it does not let in are closed.
#[derive(Clone)]
pub struct AuthorizerHandle(Arc<Swap>);

impl fmt::Debug for AuthorizerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorizerHandle({})", self.0.rule.load())
    }
}

impl AuthorizerHandle {
    /// Puts another rule in force. It may hold the rule that is replaced: there it stands for what was in force until now, so that
    /// `any_of([rule.clone(), more])` lets in one more.
    pub fn replace(&self, rule: Authorizer) {
        let rule = rule.with(&self.0, &self.0.rule.load());
        let users: Vec<_> = self.0.users().iter().filter_map(Weak::upgrade).collect();
        for user in users {
            rule.tell(&user); // it may hold replaceable rules itself
        }
        self.0.rule.store(Arc::new(rule));
        let epoch = REPLACEMENTS.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        self.0.epoch.fetch_max(epoch, Ordering::Release);
        for user in self.0.users().iter().filter_map(Weak::upgrade) {
            user.recheck_soon();
        }
    }
}

impl fmt::Display for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::AnyIn(domain) => write!(f, "any workload of {domain}"),
            Rule::OneOf(ids) => list(f, "nobody", " or ", ids.iter()),
            Rule::Prefix(prefix) => write!(f, "{prefix} and all below it"),
            Rule::AllOf(rules) => list(f, "nobody", " and ", rules.iter()),
            Rule::AnyOf(rules) => list(f, "nobody", " or ", rules.iter()),
            Rule::Not(rule) => write!(f, "not ({rule})"),
            Rule::Asked(name, _) => f.write_str(name),
            Rule::Swapped(swap) => swap.rule.load().fmt(f),
        }
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorizer({self})")
    }
}

/// At most a handful: messages stay readable.
const MOST_NAMED: usize = 5;

fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    none: &str,
    between: &str,
    items: impl ExactSizeIterator<Item = T>,
) -> fmt::Result {
    let more = items.len().saturating_sub(MOST_NAMED);
    if items.len() == 0 {
        return f.write_str(none);
    }
    for (index, item) in items.take(MOST_NAMED).enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write!(f, "{item}")?;
    }
    if more > 0 { write!(f, "{between}{more} more") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str) -> PeerIdentity {
        PeerIdentity::for_test(id.parse().unwrap())
    }

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    const CART: &str = "spiffe://prod/ns/shop/sa/cart";

    #[test]
    fn each_rule_lets_in_what_it_says() {
        let domain: TrustDomain = "prod".parse().unwrap();
        let cart = || Authorizer::k8s(&domain, "shop", "cart").unwrap();
        let prefix = || Authorizer::id_prefix(id("spiffe://prod/ns/shop"));
        for (rule, other) in [
            (Authorizer::any_in(domain.clone()), "spiffe://test/ns/shop/sa/cart"),
            (Authorizer::id(id(CART)), "spiffe://prod/ns/shop/sa/cart2"),
            (Authorizer::one_of([id("spiffe://prod/x"), id(CART)]), "spiffe://prod/y"),
            (prefix(), "spiffe://prod/ns/shopping/sa/cart"),
            (cart(), "spiffe://prod/ns/shop/sa/till"),
            (Authorizer::all_of([prefix(), cart()]), "spiffe://prod/ns/shop/sa/till"),
            (Authorizer::any_of([cart(), Authorizer::id(id("spiffe://prod/x"))]), "spiffe://prod/y"),
            (Authorizer::not(Authorizer::id(id("spiffe://prod/x"))), "spiffe://prod/x"),
            (Authorizer::from_fn("carts", |peer| peer.id().path().ends_with("/cart")), "spiffe://prod/x"),
        ] {
            assert!(rule.allows(&peer(CART)), "{rule}");
            assert!(!rule.allows(&peer(other)), "{rule}");
        }
    }

    #[test]
    fn an_empty_list_lets_in_nobody() {
        for rule in [Authorizer::one_of([]), Authorizer::all_of([]), Authorizer::any_of([])] {
            assert!(!rule.allows(&peer(CART)));
            assert_eq!(rule.to_string(), "nobody");
        }
    }

    #[test]
    fn a_replaced_rule_is_in_force_at_once() {
        let (rule, handle) = Authorizer::swappable(Authorizer::id(id(CART)));
        assert!(rule.allows(&peer(CART)));
        handle.replace(Authorizer::one_of([]));
        assert!(!rule.allows(&peer(CART)));
    }

    /// "Let one more in", as it is written.
    #[test]
    fn a_rule_that_holds_itself_stands_for_what_was_in_force() {
        let (rule, handle) = Authorizer::swappable(Authorizer::id(id(CART)));
        let connections = Arc::default();
        rule.tell(&connections);
        let more = Authorizer::id(id("spiffe://prod.example.org/ns/shop/sa/more"));
        handle.replace(Authorizer::any_of([rule.clone(), more]));
        assert!(rule.allows(&peer(CART)));
        handle.replace(Authorizer::not(rule.clone()));
        assert!(!rule.allows(&peer(CART)));
    }

    #[test]
    fn long_lists_are_cut_in_messages() {
        let rule = Authorizer::one_of((0..7).map(|n| id(&format!("spiffe://prod/{n}"))));
        assert!(rule.to_string().ends_with("spiffe://prod/4 or 2 more"), "{rule}");
    }
}
