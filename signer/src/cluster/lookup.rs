//! Reads what a claim names: the pod, its ServiceAccount and its node. Nothing is judged here.
//!
//! A pod is read for each request. A burst names few ServiceAccounts and nodes many times: what the API server's cache has shown of one
//! within the last second serves all. Of these only the UID counts, which an object keeps for life: whoever named it was right a second ago, and
//! the API server held the request against both when it was made. Labels may change under the same UID: where a policy looks at a node's or a
//! namespace's, what was read serves only those that stood in line when the read began, for which it is no older than a read of
//! their own could be. So that there are some, nothing is read again at once: who asks meanwhile waits for the next read, and shares it.
//!
//! What was read may only accept: where it does not fit, all three are read anew by quorum. What is on hold is always read by quorum, and
//! shared among those that stood in line.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::calls::{CallError, Calls, Part};
use crate::{
    config::{AllowRule, PodSigner},
    pipeline::{
        Bare, Claim, Fact, Freshness, Holds, NamespaceFacts, NodeFacts, Observed, Pod, PodFacts, ServiceAccountFacts,
        holds::CONFIG_MAP,
    },
};

/// What a look-up could not find out, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("could not read {what}")]
pub(crate) struct LookupError {
    what: String,
    #[source]
    pub(crate) source: Arc<CallError>,
}

/// What a policy wants to know beside who and where a pod is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wants {
    pub(crate) namespace_labels: bool,
    pub(crate) node_labels: bool,
}

impl Wants {
    /// All of it.
    pub(crate) const ALL: Self = Self { namespace_labels: true, node_labels: true };
}

impl From<&PodSigner> for Wants {
    fn from(policy: &PodSigner) -> Self {
        let any = |wants: fn(&AllowRule) -> bool| policy.allow.iter().any(wants);
        Self {
            namespace_labels: any(|rule| !rule.namespace_labels.is_empty()),
            node_labels: any(|rule| !rule.node_labels.is_empty()),
        }
    }
}

/// Looks things up. All clones share their calls.
#[derive(Clone)]
pub(crate) struct Lookup {
    calls: Calls,
    accounts: Recent<ServiceAccountFacts>,
    nodes: Recent<NodeFacts>,
    namespaces: Recent<NamespaceFacts>,
    holds: Recent<Arc<Holds>>,
    holds_path: Arc<str>,
}

impl Lookup {
    /// `namespace` is the signer's.
    pub(crate) fn new(calls: Calls, namespace: &str) -> Self {
        Self {
            calls,
            accounts: Recent::default(),
            nodes: Recent::default(),
            namespaces: Recent::default(),
            holds: Recent::default(),
            holds_path: format!("/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}").into(),
        }
    }

    /// What is on hold, by a read that began after a request stood in line `since` then; none where we may not read it.
    pub(crate) async fn holds(&self, since: Instant) -> Result<Option<Arc<Holds>>, LookupError> {
        let calls = self.calls.clone();
        let begin = move |path| read_holds(calls, path).boxed();
        match self.holds.share(self.holds_path.to_string(), since, Instant::now(), begin).await {
            Ok(Fact::Found(holds, _)) => Ok(Some(holds)),
            Ok(Fact::Absent(_)) => Ok(None),
            Err(error) if error.source.is_forbidden() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the facts beside the claim, all read with the same care, of a request that stood in line `since` then; the namespace's
    /// where the policy wants them.
    pub(crate) async fn observe(
        &self,
        claim: Arc<Claim>,
        freshness: Freshness,
        since: Instant,
        wants: Wants,
    ) -> Result<Observed, LookupError> {
        let namespace = &claim.target.namespace;
        let pod = format!("/api/v1/namespaces/{namespace}/pods/{}", claim.pod);
        let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{}", claim.service_account);
        let node = format!("/api/v1/nodes/{}", claim.node);
        let its_namespace = async {
            if !wants.namespace_labels {
                return Ok(None);
            }
            let path = format!("/api/v1/namespaces/{namespace}");
            let read = self.namespaces.read(path, freshness, since, self.metadata::<NamespaceFacts>(freshness));
            Ok(match read.await? {
                Fact::Found(facts, _) => Some(facts),
                Fact::Absent(_) => None,
            })
        };
        let lately = since.checked_sub(KEPT).unwrap_or(since);
        let node_since = if wants.node_labels { since } else { lately };
        let (pod, service_account, node, its_namespace) = tokio::try_join!(
            read::<Pod, PodFacts>(self.calls.clone(), pod, freshness, Part::Whole),
            self.accounts.read(account, freshness, lately, self.metadata::<ServiceAccountFacts>(freshness)),
            self.nodes.read(node, freshness, node_since, self.metadata::<NodeFacts>(freshness)),
            its_namespace,
        )?;
        Ok(Observed { claim, pod, service_account, node, namespace: its_namespace, services: None, holds: None })
    }

    /// Reads what an object is, and nothing else of it: a Node, say, lists every image it has, tens of kilobytes that say nothing here.
    fn metadata<T: From<Bare> + Send + 'static>(
        &self,
        freshness: Freshness,
    ) -> impl FnOnce(String) -> Answer<T> + Send + use<T> {
        let calls = self.calls.clone();
        move |path| read::<Bare, T>(calls, path, freshness, Part::Metadata).boxed()
    }
}

async fn read<O: DeserializeOwned, T: From<O>>(
    calls: Calls,
    path: String,
    freshness: Freshness,
    part: Part,
) -> Result<Fact<T>, LookupError> {
    let query = match freshness {
        Freshness::Cached => "?resourceVersion=0",
        Freshness::Quorum => "",
    };
    match calls.get_part::<O>(&format!("{path}{query}"), part).await {
        Ok(object) => Ok(Fact::Found(T::from(object), freshness)),
        Err(error) if error.is_absent() => Ok(Fact::Absent(freshness)),
        Err(error) => Err(LookupError { what: path, source: Arc::new(error) }),
    }
}

/// That there is no such ConfigMap says that nothing is on hold, and is as good to share as one.
async fn read_holds(calls: Calls, path: String) -> Result<Fact<Arc<Holds>>, LookupError> {
    let holds = match calls.get::<ConfigMap>(&path).await {
        Ok(map) => Holds::read(&map.data.unwrap_or_default()),
        Err(error) if error.is_absent() => Holds::default(),
        Err(error) => return Err(LookupError { what: path, source: Arc::new(error) }),
    };
    Ok(Fact::Found(Arc::new(holds), Freshness::Quorum))
}

/// Reads of the last second, answered or on their way. No more is kept than was read within it, which is at most one for each
/// request that was looked at.
struct Recent<T>(Arc<Mutex<Readings<T>>>);

struct Readings<T> {
    by_path: HashMap<Arc<str>, Reading<T>>,
    /// In the order of their beginning, those that were replaced since as well.
    begun: VecDeque<(Instant, Arc<str>)>,
}

struct Reading<T> {
    /// In a moment, if the one before it has only just begun.
    begun: Instant,
    answer: Shared<Answer<T>>,
}

type Answer<T> = BoxFuture<'static, Result<Fact<T>, LookupError>>;

impl<T: Clone + Send + Sync + 'static> Recent<T> {
    async fn read(
        &self,
        path: String,
        freshness: Freshness,
        since: Instant,
        begin: impl FnOnce(String) -> Answer<T> + Send + 'static,
    ) -> Result<Fact<T>, LookupError> {
        match freshness {
            // Asked for because something looked wrong: it must begin after that was seen.
            Freshness::Quorum => begin(path).await,
            Freshness::Cached => self.share(path, since, Instant::now(), begin).await,
        }
    }

    fn share(
        &self,
        path: String,
        since: Instant,
        now: Instant,
        begin: impl FnOnce(String) -> Answer<T> + Send + 'static,
    ) -> Shared<Answer<T>> {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        readings.forget_old(now);
        if let Some(reading) = readings.by_path.get(path.as_str()).filter(|reading| reading.serves(since)) {
            return reading.answer.clone();
        }
        let next = readings.by_path.get(path.as_str()).and_then(|reading| reading.begun.checked_add(APART));
        let begun = next.unwrap_or(now).max(now);
        let key: Arc<str> = path.as_str().into();
        let answer = async move {
            tokio::time::sleep_until(begun).await;
            begin(path).await
        };
        let answer = answer.boxed().shared();
        readings.begun.push_back((begun, Arc::clone(&key)));
        readings.by_path.insert(key, Reading { begun, answer: answer.clone() });
        answer
    }
}

impl<T> Readings<T> {
    fn forget_old(&mut self, now: Instant) {
        while let Some((begun, path)) =
            self.begun.pop_front_if(|(begun, _)| now.saturating_duration_since(*begun) >= KEPT)
        {
            if self.by_path.get(&path).is_some_and(|reading| reading.begun == begun) {
                self.by_path.remove(&path);
            }
        }
    }
}

impl<T: Clone> Reading<T> {
    /// What was not found or could not be read is asked for anew, for it may be there by now.
    fn serves(&self, since: Instant) -> bool {
        match self.answer.peek() {
            None | Some(Ok(Fact::Found(..))) => self.begun >= since,
            Some(Ok(Fact::Absent(_)) | Err(_)) => false,
        }
    }
}

impl<T> Clone for Recent<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Readings { by_path: HashMap::new(), begun: VecDeque::new() })))
    }
}

/// How long a UID is believed. Longer than a request of a burst stands in line, as a rule; one that stands longer has its own read.
const KEPT: Duration = Duration::from_secs(1);

/// Between two reads of one thing. At four hundred requests a second each read serves eight of them instead of one; at twenty a second nobody waits.
const APART: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::fake::Fake, pipeline::honest::claim};

    const NODE: &str = "/api/v1/nodes/n1";
    const LATER: Duration = Duration::from_millis(1);

    type Numbers = Recent<u32>;

    /// What a request gets that stood in line `since` then, when its turn comes `now` and a read of its own would bring `fact`.
    async fn ask(recent: &Numbers, since: Instant, now: Instant, fact: Fact<u32>) -> Option<u32> {
        match recent.share(NODE.to_owned(), since, now, |_| async { Ok(fact) }.boxed()).await.unwrap() {
            Fact::Found(number, _) => Some(number),
            Fact::Absent(_) => None,
        }
    }

    fn found(number: u32) -> Fact<u32> {
        Fact::Found(number, Freshness::Cached)
    }

    fn kept(recent: &Numbers) -> (usize, usize) {
        let readings = recent.0.lock().unwrap();
        (readings.by_path.len(), readings.begun.len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_serves_whoever_stood_in_line_when_it_began_and_nobody_else() {
        let (recent, start) = (Numbers::default(), Instant::now());
        assert_eq!(ask(&recent, start, start + LATER, found(1)).await, Some(1));
        assert_eq!(ask(&recent, start + LATER, start + LATER * 3, found(2)).await, Some(1));
        assert_eq!(ask(&recent, start + LATER * 2, start + LATER * 3, found(3)).await, Some(3), "made after it began");
        assert_eq!(ask(&recent, start, start + KEPT * 3, found(4)).await, Some(4), "all is forgotten in time");
        assert_eq!(kept(&recent), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_again_at_once_waits_and_shares_the_next_read() {
        let (recent, start) = (Numbers::default(), Instant::now());
        assert_eq!(ask(&recent, start, start, found(0)).await, Some(0));
        let asked = (1..=9).map(|number| {
            let now = start + LATER * number;
            ask(&recent, now, now, found(number))
        });
        assert_eq!(futures::future::join_all(asked).await, [Some(1); 9]);
        assert_eq!(Instant::now(), start + APART, "it began that much later, and so did none before it");
        let now = start + APART + LATER;
        assert_eq!(ask(&recent, now, now, found(10)).await, Some(10), "made after that began");
        let late = start + APART * 9;
        assert_eq!(ask(&recent, late, late, found(11)).await, Some(11));
        assert_eq!(Instant::now(), late.max(start + APART * 2), "after a while nobody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_while_it_is_under_way_wait_for_it() {
        let (recent, start) = (Numbers::default(), Instant::now());
        let slow = |_| {
            async {
                tokio::task::yield_now().await;
                Ok(found(1))
            }
            .boxed()
        };
        let first = recent.share(NODE.to_owned(), start, start, slow);
        let (first, second) = tokio::join!(first, ask(&recent, start, start + LATER, found(2)));
        assert!(matches!(first, Ok(Fact::Found(1, _))) && second == Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn absence_and_trouble_are_not_kept() {
        let (recent, now) = (Numbers::default(), Instant::now());
        assert_eq!(ask(&recent, now, now, Fact::Absent(Freshness::Cached)).await, None);
        assert_eq!(ask(&recent, now, now, found(1)).await, Some(1));
        assert_eq!(kept(&recent), (1, 2));
        let trouble = || LookupError { what: String::new(), source: Arc::new(CallError::Late(KEPT)) };
        let other = || "/api/v1/nodes/n2".to_owned();
        recent.share(other(), now, now, move |_| async move { Err(trouble()) }.boxed()).await.unwrap_err();
        let fact = recent.share(other(), now, now, |_| async { Ok(found(7)) }.boxed()).await.unwrap();
        assert!(matches!(fact, Fact::Found(7, _)));
    }

    /// Reads of the ServiceAccount and of the node by two requests, the second made so much later.
    async fn reads(wants: Wants, later: Duration) -> (usize, usize) {
        let fake = Fake::new();
        for path in ["/api/v1/namespaces/shop/serviceaccounts/cart", "/api/v1/nodes/node-a"] {
            fake.put(path, serde_json::json!({"metadata": {"uid": "one"}}));
        }
        let lookup = Lookup::new(fake.calls(), "podmint-system");
        for _ in 0..2 {
            let since = Instant::now();
            lookup.observe(Arc::new(claim()), Freshness::Cached, since, wants).await.unwrap();
            tokio::time::advance(later).await;
        }
        (fake.count("GET /api/v1/namespaces/shop/serviceaccounts/"), fake.count("GET /api/v1/nodes/"))
    }

    #[tokio::test(start_paused = true)]
    async fn who_somebody_is_is_believed_for_a_second_and_what_a_policy_looks_at_is_not() {
        assert_eq!(reads(Wants::default(), KEPT / 2).await, (1, 1));
        assert_eq!(reads(Wants::default(), KEPT).await, (2, 2));
        assert_eq!(reads(Wants::ALL, KEPT / 2).await, (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quorum_read_is_never_shared() {
        let (recent, since) = (Numbers::default(), Instant::now());
        assert_eq!(ask(&recent, since, since, found(1)).await, Some(1));
        for number in [2, 3] {
            let begin = move |_| async move { Ok(Fact::Found(number, Freshness::Quorum)) }.boxed();
            let fact = recent.read(NODE.to_owned(), Freshness::Quorum, since, begin).await.unwrap();
            assert!(matches!(fact, Fact::Found(found, Freshness::Quorum) if found == number));
        }
    }
}
