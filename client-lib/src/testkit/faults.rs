//! What goes wrong with a pod's files and its clock, on demand.

use crate::files::{Contents, Disk, FileSource, OpenFolder, Place, PlaceKind};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The real clock, which can jump. For [`Builder::clock`](crate::Builder::clock).
#[derive(Debug, Default)]
pub struct Clock(AtomicI64);

impl Clock {
    /// It shows the real time at first.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on it differs from the real time by so many seconds; negative is the past.
    pub fn differ_by(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = UnixTime::now().as_secs().saturating_add_signed(self.0.load(Ordering::SeqCst));
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now)))
    }
}

/// What can be wrong with reading, whatever the files hold. What they hold is yours to write into a [`Volume`](super::Volume): garbage, an empty file, another key, an expired
/// certificate, a leaf for an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// No event tells of a change, as where inotify is exhausted (EMFILE) or not there.
    NoEvents,
    /// Each file is a `subPath` mount, which never changes.
    SubPath,
    /// No file is there (ENOENT), as for a moment when the kubelet removes the old generation.
    Missing,
    /// Each file ends in its middle, as where it is still being written.
    Partial,
}

/// The file system with faults. For [`Builder::files`](crate::Builder::files); clones share their faults.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use podmint::testkit::{Authority, Fault, Faults, Volume};
/// # let folder = tempfile::tempdir()?;
/// let (authority, volume, faults) = (Authority::new("prod.example.org"), Volume::new(folder.path()), Faults::new());
/// volume.write(&[("bundle.pem", authority.issue("/ns/shop/sa/cart").bundle()), ("trust.pem", authority.trust())]);
/// let source = podmint::Source::bundle(folder.path().join("bundle.pem"))
///     .trust("prod.example.org".parse()?, folder.path().join("trust.pem"));
/// let identity = source.builder().files(faults.files()).start().await?;
/// faults.begin(Fault::Missing);
/// assert_eq!(identity.reload().await.problems[0].reason, "missing");
/// faults.end(Fault::Missing);
/// assert!(identity.reload().await.problems.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Default)]
struct Plan {
    faults: BTreeSet<Fault>,
    steps: usize,
    act: Option<(usize, Box<dyn FnOnce() + Send>)>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { faults, steps, act: _ } = self;
        f.debug_struct("Plan").field("faults", faults).field("steps", steps).finish_non_exhaustive()
    }
}

impl Faults {
    /// None at first.
    pub fn new() -> Self {
        Self::default()
    }

    /// What to give to the builder.
    pub fn files(&self) -> Arc<dyn FileSource> {
        Arc::new(self.clone())
    }

    /// Puts a fault in force.
    pub fn begin(&self, fault: Fault) {
        self.plan().faults.insert(fault);
    }

    /// Ends a fault.
    pub fn end(&self, fault: Fault) {
        self.plan().faults.remove(&fault);
    }

    /// Does something once, after so many more steps of a reader: between two of its steps, as another process would. A step is to find a file, to open its folder or to read it.
    /// With the steps of a [`Writing`](super::Writing), this forces the order in which a pair of files would tear.
    pub fn after_steps(&self, steps: usize, act: impl FnOnce() + Send + 'static) {
        let mut plan = self.plan();
        let at = plan.steps + steps;
        plan.act = Some((at, Box::new(act)));
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, fault: Fault) -> bool {
        self.plan().faults.contains(&fault)
    }

    fn step(&self) {
        let mut plan = self.plan();
        plan.steps += 1;
        let steps = plan.steps;
        let act = plan.act.take_if(|(at, _)| *at < steps);
        drop(plan); // it may do as it likes, also with us
        if let Some((_, act)) = act {
            act();
        }
    }
}

impl FileSource for Faults {
    fn locate(&self, path: &Path) -> Place {
        let mut place = Disk.locate(path);
        if self.has(Fault::SubPath) {
            place.kind = PlaceKind::SubPath;
        }
        self.step();
        place
    }

    fn open(&self, place: &Place) -> io::Result<Box<dyn OpenFolder>> {
        let open = Disk.open(place)?;
        self.step();
        Ok(Box::new(Faulty { open, faults: self.clone() }))
    }

    fn has_events(&self) -> bool {
        !self.has(Fault::NoEvents)
    }
}

#[derive(Debug)]
struct Faulty {
    open: Box<dyn OpenFolder>,
    faults: Faults,
}

impl OpenFolder for Faulty {
    fn read(&self, name: &Path, limit: usize) -> io::Result<Contents> {
        let contents = self.open.read(name, limit);
        self.faults.step();
        if self.faults.has(Fault::Missing) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let contents = contents?;
        if self.faults.has(Fault::Partial) {
            let half = contents.bytes().len() / 2;
            return Ok(Contents::new(contents.bytes()[..half].to_vec(), contents.world_readable()));
        }
        Ok(contents)
    }

    fn written(&self) -> Option<UnixTime> {
        self.open.written()
    }

    fn names(&self) -> io::Result<Vec<PathBuf>> {
        self.open.names()
    }
}
