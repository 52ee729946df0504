//! The objects: a table for each kind, one counter of resourceVersions for all, and a log to watch and to look back in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::kind::Kind;
use super::object::{Fields, Object};

/// Namespace (empty for cluster-scoped kinds) and name.
pub(crate) type Key = (String, String);
pub(crate) type View = BTreeMap<Key, Arc<Object>>;

/// One change. The two states let a watch with a selector see an object enter and leave, and let us look back.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) when: Instant,
    pub(crate) key: Key,
    pub(crate) before: Option<Arc<Object>>,
    pub(crate) after: Option<Arc<Object>>,
}

/// Why a write did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwritten {
    /// It is there already.
    Exists,
    /// It is not there.
    Missing,
    /// It has changed in the meantime.
    Changed,
}

/// The versions a look back asks for are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// The oldest version that is still known.
    pub(crate) oldest: u64,
}

#[derive(Debug)]
pub(crate) struct Store {
    inner: Mutex<Inner>,
    window: usize,
}

#[derive(Debug)]
struct Inner {
    version: u64,
    tables: BTreeMap<Kind, Table>,
}

#[derive(Debug)]
struct Table {
    objects: View,
    log: VecDeque<Change>,
    /// Changes up to this version are no longer in the log.
    dropped: u64,
    /// Who comes with a version older than this is told that it is too old. At least `dropped`.
    floor: u64,
    /// Cached reads see the table as it was this long ago.
    lag: Duration,
    /// Tells watchers the newest version.
    news: watch::Sender<u64>,
    /// Tells watchers to end.
    hang_up: watch::Sender<u64>,
}

impl Store {
    pub(crate) fn new(window: usize) -> Self {
        let table = || Table {
            objects: View::new(),
            log: VecDeque::new(),
            dropped: 0,
            floor: 0,
            lag: Duration::ZERO,
            news: watch::Sender::new(0),
            hang_up: watch::Sender::new(0),
        };
        let tables = Kind::all().into_iter().map(|kind| (kind, table())).collect();
        Self { inner: Mutex::new(Inner { version: 1, tables }), window: window.max(1) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table<T>(&self, kind: Kind, look: impl FnOnce(&Table, u64) -> T, absent: T) -> T {
        let inner = self.lock();
        let version = inner.version;
        inner.tables.get(&kind).map_or(absent, |table| look(table, version))
    }

    fn table_mut(&self, kind: Kind, change: impl FnOnce(&mut Table, u64)) {
        let mut inner = self.lock();
        let version = inner.version;
        if let Some(table) = inner.tables.get_mut(&kind) {
            change(table, version);
        }
    }

    /// The newest resourceVersion of all.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    pub(crate) fn get(&self, kind: Kind, key: &Key) -> Option<Arc<Object>> {
        self.table(kind, |table, _| table.objects.get(key).cloned(), None)
    }

    /// What a cached read sees: the object as it was before the lag.
    pub(crate) fn get_cached(&self, kind: Kind, key: &Key) -> Option<Arc<Object>> {
        self.table(kind, |table, _| table.cached(key), None)
    }

    /// The whole table with the version it stands for.
    pub(crate) fn all(&self, kind: Kind) -> (View, u64) {
        self.table(kind, |table, version| (table.objects.clone(), version), (View::new(), 0))
    }

    /// What a cached list sees.
    pub(crate) fn all_cached(&self, kind: Kind) -> (View, u64) {
        self.table(kind, Table::all_cached, (View::new(), 0))
    }

    /// The table as it was at `version`.
    pub(crate) fn all_at(&self, kind: Kind, version: u64) -> Result<View, Compacted> {
        self.table(kind, |table, _| table.view_at(version), Ok(View::new()))
    }

    /// Writes one object: `expected` is the version it replaces, none to create.
    pub(crate) fn put(
        &self,
        kind: Kind,
        key: &Key,
        fields: Fields,
        expected: Option<u64>,
    ) -> Result<Arc<Object>, Unwritten> {
        let mut inner = self.lock();
        let version = inner.version.saturating_add(1);
        let Some(table) = inner.tables.get_mut(&kind) else { return Err(Unwritten::Missing) };
        let before = table.objects.get(key).cloned();
        check(before.as_deref(), expected)?;
        let after = Arc::new(Object::new(fields, version));
        table.objects.insert(key.clone(), Arc::clone(&after));
        table.record(version, key, before, Some(Arc::clone(&after)), self.window);
        inner.version = version;
        Ok(after)
    }

    /// Removes one object, if it still is at `expected`. Gives it back as watchers see it.
    pub(crate) fn remove(&self, kind: Kind, key: &Key, expected: u64) -> Result<Arc<Object>, Unwritten> {
        let mut inner = self.lock();
        let version = inner.version.saturating_add(1);
        let Some(table) = inner.tables.get_mut(&kind) else { return Err(Unwritten::Missing) };
        let before = table.objects.get(key).cloned();
        check(before.as_deref(), Some(expected))?;
        table.objects.remove(key);
        let last = before.as_ref().map(|object| object.at(version));
        table.record(version, key, before, None, self.window);
        inner.version = version;
        last.ok_or(Unwritten::Missing)
    }

    /// The changes after `version`, at most `limit`. A watch that is under way is not ended by [`Self::compact`].
    pub(crate) fn since(&self, kind: Kind, version: u64, limit: usize) -> Result<Vec<Change>, Compacted> {
        self.table(
            kind,
            |table, _| {
                if version < table.dropped {
                    return Err(Compacted { oldest: table.dropped });
                }
                let from = table.log.partition_point(|change| change.version <= version);
                Ok(table.log.iter().skip(from).take(limit).cloned().collect())
            },
            Ok(Vec::new()),
        )
    }

    /// Whether a watch may start after `version`.
    pub(crate) fn reaches_back(&self, kind: Kind, version: u64) -> Result<(), Compacted> {
        let floor = self.table(kind, |table, _| table.floor, 0);
        if version < floor { Err(Compacted { oldest: floor }) } else { Ok(()) }
    }

    /// The newest version of all, if this kind has no change after `position`: what a bookmark may carry.
    pub(crate) fn version_seen(&self, kind: Kind, position: u64) -> u64 {
        self.table(
            kind,
            |table, version| {
                if table.log.back().is_some_and(|last| last.version > position) { position } else { version }
            },
            position,
        )
    }

    /// Wakes when the kind changes; wakes when watches of the kind are to end.
    pub(crate) fn subscribe(&self, kind: Kind) -> (watch::Receiver<u64>, watch::Receiver<u64>) {
        let none = || (watch::Sender::new(0).subscribe(), watch::Sender::new(0).subscribe());
        self.table(kind, |table, _| (table.news.subscribe(), table.hang_up.subscribe()), none())
    }

    pub(crate) fn set_lag(&self, kind: Kind, lag: Duration) {
        self.table_mut(kind, |table, _| table.lag = lag);
    }

    pub(crate) fn hang_up(&self, kind: Kind) {
        self.table_mut(kind, |table, _| table.hang_up.send_modify(|count| *count = count.saturating_add(1)));
    }

    /// Forgets every change so far: older versions can be neither watched nor listed.
    pub(crate) fn compact(&self, kind: Kind) {
        self.table_mut(kind, |table, version| table.floor = version);
    }
}

fn check(before: Option<&Object>, expected: Option<u64>) -> Result<(), Unwritten> {
    match (before, expected) {
        (Some(_), None) => Err(Unwritten::Exists),
        (None, Some(_)) => Err(Unwritten::Missing),
        (Some(object), Some(version)) if object.version != version => Err(Unwritten::Changed),
        (Some(_), Some(_)) | (None, None) => Ok(()),
    }
}

impl Table {
    fn record(
        &mut self,
        version: u64,
        key: &Key,
        before: Option<Arc<Object>>,
        after: Option<Arc<Object>>,
        window: usize,
    ) {
        let when = Instant::now();
        self.log.push_back(Change { version, when, key: key.clone(), before, after });
        while self.log.len() > window {
            if let Some(oldest) = self.log.pop_front() {
                self.dropped = oldest.version;
                self.floor = self.floor.max(oldest.version);
            }
        }
        self.news.send_replace(version);
    }

    fn cached(&self, key: &Key) -> Option<Arc<Object>> {
        let newer = self.log.iter().rev().take_while(|change| change.when.elapsed() < self.lag);
        let undone = newer.filter(|change| &change.key == key).last();
        undone.map_or_else(|| self.objects.get(key).cloned(), |change| change.before.clone())
    }

    fn all_cached(&self, current: u64) -> (View, u64) {
        if self.lag.is_zero() {
            return (self.objects.clone(), current);
        }
        let newer = || self.log.iter().rev().take_while(|change| change.when.elapsed() < self.lag);
        let first_unseen = newer().last().map(|change| change.version.saturating_sub(1));
        (self.undo(newer()), first_unseen.unwrap_or(current))
    }

    fn view_at(&self, version: u64) -> Result<View, Compacted> {
        if version < self.floor {
            return Err(Compacted { oldest: self.floor });
        }
        Ok(self.undo(self.log.iter().rev().take_while(|change| change.version > version)))
    }

    /// The table without these changes, which come newest first.
    fn undo<'a>(&self, changes: impl Iterator<Item = &'a Change>) -> View {
        let mut view = self.objects.clone();
        for change in changes {
            match &change.before {
                Some(before) => view.insert(change.key.clone(), Arc::clone(before)),
                None => view.remove(&change.key),
            };
        }
        view
    }
}
