//! Reads what a claim names: the pod, its ServiceAccount and its node. Nothing is judged here, and nothing is remembered: a fact
//! is as old as the one call that brought it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use serde::de::DeserializeOwned;

use super::calls::{CallError, Calls, Part};
use crate::pipeline::{
    Bare, Claim, Fact, Freshness, NamespaceFacts, NodeFacts, Observed, Pod, PodFacts, ServiceAccountFacts,
};

/// What a look-up could not find out, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("could not read {what}")]
pub(crate) struct LookupError {
    what: String,
    #[source]
    pub(crate) source: Arc<CallError>,
}

/// Looks things up. All clones share their calls.
#[derive(Clone)]
pub(crate) struct Lookup {
    calls: Calls,
    accounts: Flights<ServiceAccountFacts>,
    nodes: Flights<NodeFacts>,
    namespaces: Flights<NamespaceFacts>,
}

impl Lookup {
    pub(crate) fn new(calls: Calls) -> Self {
        Self { calls, accounts: Flights::default(), nodes: Flights::default(), namespaces: Flights::default() }
    }

    /// Sets the facts beside the claim, all read with the same care; the namespace's where they count.
    pub(crate) async fn observe(
        &self,
        claim: Arc<Claim>,
        freshness: Freshness,
        wants_namespace: bool,
    ) -> Result<Observed, LookupError> {
        let namespace = &claim.target.namespace;
        let pod = format!("/api/v1/namespaces/{namespace}/pods/{}", claim.pod);
        let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{}", claim.service_account);
        let node = format!("/api/v1/nodes/{}", claim.node);
        let its_namespace = async {
            if !wants_namespace {
                return Ok(None);
            }
            let path = format!("/api/v1/namespaces/{namespace}");
            let read = self.namespaces.join(path, freshness, |path| {
                read::<Bare, NamespaceFacts>(self.calls.clone(), path, freshness, Part::Metadata).boxed()
            });
            Ok(match read.await? {
                Fact::Found(facts, _) => Some(facts),
                Fact::Absent(_) => None,
            })
        };
        let (pod, service_account, node, its_namespace) = tokio::try_join!(
            read::<Pod, PodFacts>(self.calls.clone(), pod, freshness, Part::Whole),
            self.accounts.join(account, freshness, |path| {
                read::<Bare, ServiceAccountFacts>(self.calls.clone(), path, freshness, Part::Metadata).boxed()
            }),
            // A Node lists every image it has: tens of kilobytes that say nothing here.
            self.nodes.join(node, freshness, |path| {
                read::<Bare, NodeFacts>(self.calls.clone(), path, freshness, Part::Metadata).boxed()
            }),
            its_namespace,
        )?;
        Ok(Observed { claim, pod, service_account, node, namespace: its_namespace, services: None })
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

/// Calls on their way. A burst of requests from one node asks for that node once at a time, not once for each: whoever comes
/// while the answer is under way waits for the same one. An answer that has come is never used again.
struct Flights<T>(Arc<Mutex<HashMap<Flight, WeakShared<Answer<T>>>>>);

type Flight = (String, Freshness);
type Answer<T> = BoxFuture<'static, Result<Fact<T>, LookupError>>;

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    async fn join(
        &self,
        path: String,
        freshness: Freshness,
        begin: impl FnOnce(String) -> Answer<T>,
    ) -> Result<Fact<T>, LookupError> {
        // A quorum read is asked for because something looked wrong: it must begin after that was seen.
        if freshness == Freshness::Quorum {
            return begin(path).await;
        }
        let flight = (path.clone(), freshness);
        let answer = {
            let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match under_way.get(&flight).and_then(WeakShared::upgrade).filter(|answer| answer.peek().is_none()) {
                Some(answer) => answer,
                None => {
                    let answer: Shared<Answer<T>> = begin(path).shared();
                    if let Some(weak) = answer.downgrade() {
                        under_way.insert(flight.clone(), weak);
                    }
                    answer
                }
            }
        };
        let fact = answer.await;
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.get(&flight).is_some_and(|weak| weak.upgrade().is_none_or(|answer| answer.peek().is_some())) {
            under_way.remove(&flight);
        }
        fact
    }
}

impl<T> Clone for Flights<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use super::*;

    async fn ask(flights: &Flights<u32>, calls: &Arc<AtomicU32>, freshness: Freshness) -> u32 {
        let calls = Arc::clone(calls);
        let begin = |_| {
            async move {
                let number = calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(Fact::Found(number, freshness))
            }
            .boxed()
        };
        match flights.join("/api/v1/nodes/n1".to_owned(), freshness, begin).await.unwrap() {
            Fact::Found(number, _) => number,
            Fact::Absent(_) => u32::MAX,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_a_cached_read_under_way_and_never_one_that_ended() {
        let (flights, calls) = (Flights::default(), Arc::default());
        let cached = || ask(&flights, &calls, Freshness::Cached);
        assert_eq!(tokio::join!(cached(), cached(), cached()), (0, 0, 0));
        assert_eq!(cached().await, 1);
        assert!(flights.0.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_quorum_read_is_never_shared() {
        let (flights, calls) = (Flights::default(), Arc::default());
        let quorum = || ask(&flights, &calls, Freshness::Quorum);
        assert_eq!(tokio::join!(quorum(), quorum()), (0, 1));
    }
}
