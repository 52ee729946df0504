//! Trouble on demand, and counts of what was called: for stories about bad days.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::failure::Failure as ApiFailure;
use super::kind::Kind;
use super::store::Store;

/// What a call wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read many.
    List,
    /// Follow changes.
    Watch,
    /// Make one.
    Create,
    /// Replace one.
    Update,
    /// Change parts of one.
    Patch,
    /// Remove one.
    Delete,
}

impl Verb {
    /// As RBAC spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// Calls that are to fail.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which verb; `None` is every verb.
    pub verb: Option<Verb>,
    /// Which resource, such as `pods` or `podcertificaterequests/status`.
    pub resource: String,
    /// The HTTP status: 429, 500, 503, … With 0 the connection is cut without an answer.
    pub code: u16,
    /// How many calls fail; then all is well again.
    pub times: u32,
    /// The `Retry-After` header, in seconds.
    pub retry_after: Option<u32>,
}

/// A handle to make trouble with. Resources are named by their plural.
#[derive(Clone, Debug)]
pub struct Faults {
    store: Arc<Store>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    failures: Vec<Failure>,
    calls: BTreeMap<(Verb, String), u64>,
    refused: BTreeMap<(String, u16), u64>,
}

impl Faults {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, state: Arc::default() }
    }

    /// The next calls of this sort fail.
    pub fn fail(&self, failure: Failure) {
        self.lock().failures.push(failure);
    }

    /// Reads with `resourceVersion=0` see the resource as it was this long ago. Zero ends it.
    pub fn lag(&self, resource: &str, by: Duration) {
        self.each(resource, |kind| self.store.set_lag(kind, by));
    }

    /// Every open watch of the resource ends.
    pub fn close_watches(&self, resource: &str) {
        self.each(resource, |kind| self.store.hang_up(kind));
    }

    /// Forgets the past: watching or listing from an older resourceVersion gets 410.
    pub fn compact(&self, resource: &str) {
        self.each(resource, |kind| self.store.compact(kind));
    }

    /// No more trouble. Counts stay.
    pub fn clear(&self) {
        self.lock().failures.clear();
        for kind in Kind::all() {
            self.store.set_lag(kind, Duration::ZERO);
        }
    }

    /// How often the resource was called so.
    #[must_use]
    pub fn calls(&self, verb: Verb, resource: &str) -> u64 {
        self.lock().calls.get(&(verb, resource.to_owned())).copied().unwrap_or(0)
    }

    /// How many calls of the resource were answered with this HTTP status, 400 and above.
    #[must_use]
    pub fn refused(&self, resource: &str, code: u16) -> u64 {
        self.lock().refused.get(&(resource.to_owned(), code)).copied().unwrap_or(0)
    }

    /// Counts a call; gives the failure that is to be its answer, if one is due.
    pub(crate) fn called(&self, verb: Verb, resource: &str) -> Option<ApiFailure> {
        let mut state = self.lock();
        let count = state.calls.entry((verb, resource.to_owned())).or_default();
        *count = count.saturating_add(1);
        let due = state.failures.iter_mut().find(|failure| {
            failure.times > 0 && failure.resource == resource && failure.verb.is_none_or(|wanted| wanted == verb)
        })?;
        due.times = due.times.saturating_sub(1);
        let mut answer = ApiFailure::new(due.code, reason(due.code), "made to fail by a story");
        answer.retry_after = due.retry_after;
        Some(answer)
    }

    pub(crate) fn answered(&self, resource: &str, code: u16) {
        if code >= 400 {
            let mut state = self.lock();
            let count = state.refused.entry((resource.to_owned(), code)).or_default();
            *count = count.saturating_add(1);
        }
    }

    fn each(&self, resource: &str, act: impl Fn(Kind)) {
        match Kind::from_plural(resource) {
            Some(kind) => act(kind),
            None => tracing::warn!(resource, "no such resource here"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn reason(code: u16) -> &'static str {
    match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}
