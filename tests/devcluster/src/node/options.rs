//! What a caller chooses about a node agent, and what it hears back.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// Which kubelet is imitated: what it sends as key material, and which API version it speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kubelet {
    /// v1 and a stub PKCS#10.
    #[default]
    V1_37,
    /// v1beta1 and a stub PKCS#10.
    V1_36,
    /// v1beta1, public key and proof of possession; the owner reference says `core/v1`, as that kubelet wrongly does.
    V1_35,
}

/// Who a volume's files belong to: what a real kubelet derives from the pod's security context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// No uid common to all containers, no fsGroup: files keep the volume's default mode (0644).
    #[default]
    DefaultMode,
    /// Every container runs as one explicit user: 0600.
    OneUser,
    /// The pod has an fsGroup: 0600 with group read added, 0640.
    FsGroup,
}

/// How a [`NodeAgent`](super::NodeAgent) is set up.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The node's name. Its Node object is made if it is not there.
    pub name: String,
    /// Volumes appear at `<volumes_root>/<namespace>/<pod>/<volume>`.
    pub volumes_root: PathBuf,
    /// How long it waits for what.
    pub pace: Pace,
    /// Which kubelet it imitates.
    pub kubelet: Kubelet,
    /// How files are owned.
    pub ownership: Ownership,
    /// What its delays are drawn from, to draw the same ones again; by itself from the system.
    pub seed: Option<u64>,
}

impl NodeOptions {
    /// A 1.37 kubelet at [`Pace::prompt`].
    #[must_use]
    pub fn new(name: &str, volumes_root: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            volumes_root: volumes_root.into(),
            pace: Pace::prompt(),
            kubelet: Kubelet::default(),
            ownership: Ownership::default(),
            seed: None,
        }
    }
}

/// Every wait of a node agent. Dates in certificates are never compressed: they are the API server's.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Time between two passes that look whether something is due for refresh.
    pub refresh_pass: Range<Duration>,
    /// How long after `beginRefreshAt` a refresh may be delayed.
    pub refresh_jitter: Range<Duration>,
    /// How long after its creation a request that has vanished is given up for lost.
    pub abandon_after: Range<Duration>,
    /// Time between two syncs of a running pod's volumes. Zero: as soon as there is something new.
    pub pod_sync: Range<Duration>,
    /// First and longest wait after a mount that failed.
    pub mount_backoff: Range<Duration>,
    /// First and longest wait after a request that could not be made.
    pub create_backoff: Range<Duration>,
    /// How long the selected and shuffled trust anchors are kept.
    pub trust_cache: Duration,
    /// First and longest wait before a watch that broke is taken up again.
    pub watch_backoff: Range<Duration>,
    /// What the time left until `beginRefreshAt` is divided by: more than 1 for who wants to see many lives of a certificate.
    pub sooner: u32,
}

impl Pace {
    /// As a real kubelet: a refresh reaches the files within about eight minutes.
    #[must_use]
    pub fn kubelet() -> Self {
        let seconds = |from: u64, to: u64| Duration::from_secs(from)..Duration::from_secs(to);
        Self {
            refresh_pass: seconds(60, 120),
            refresh_jitter: seconds(0, 300),
            abandon_after: seconds(600, 900),
            pod_sync: seconds(60, 90),
            mount_backoff: Duration::from_millis(500)..Duration::from_secs(122),
            create_backoff: Duration::from_millis(5)..Duration::from_secs(1000),
            trust_cache: Duration::from_secs(300),
            watch_backoff: Duration::from_millis(800)..Duration::from_secs(30),
            sooner: 1,
        }
    }

    /// A real kubelet's waits, divided by `factor` (0 counts as 1).
    #[must_use]
    pub fn compressed(factor: u32) -> Self {
        let shorter = |wait: Duration| wait.checked_div(factor.max(1)).unwrap_or(wait);
        let both = |range: &Range<Duration>| shorter(range.start)..shorter(range.end);
        let real = Self::kubelet();
        Self {
            refresh_pass: both(&real.refresh_pass),
            refresh_jitter: both(&real.refresh_jitter),
            abandon_after: both(&real.abandon_after),
            pod_sync: both(&real.pod_sync),
            mount_backoff: both(&real.mount_backoff),
            create_backoff: both(&real.create_backoff),
            trust_cache: shorter(real.trust_cache),
            watch_backoff: both(&real.watch_backoff),
            sooner: real.sooner,
        }
    }

    /// For a demo: a certificate is in its file as soon as it is issued; everything else sixty times as fast.
    #[must_use]
    pub fn prompt() -> Self {
        let none = Duration::ZERO..Duration::ZERO;
        let short = Duration::from_millis(20)..Duration::from_millis(500);
        Self { refresh_jitter: none.clone(), pod_sync: none, mount_backoff: short, ..Self::compressed(60) }
    }
}

/// What a node agent did, for a live view. Slow readers lose the oldest; the channel counts how many.
#[derive(Clone, Debug)]
pub struct NodeEvent {
    /// The node.
    pub node: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The volume, where the event is about one.
    pub volume: String,
    /// What happened.
    pub what: What,
}

/// See [`NodeEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A request was created. `renewal` says that the pod had a certificate before.
    Requested {
        /// Name of the request.
        request: String,
        /// Whether this replaces a certificate.
        renewal: bool,
    },
    /// A request was answered with a certificate.
    Issued {
        /// Name of the request.
        request: String,
        /// Whether this replaces a certificate.
        renewal: bool,
    },
    /// A request was denied: final for this pod, until the agent restarts.
    Denied {
        /// Name of the request.
        request: String,
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
    /// A request failed: final for this pod, until the agent restarts.
    Failed {
        /// Name of the request.
        request: String,
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
    /// A request vanished unanswered and was given up for lost.
    Lost {
        /// Name of the request.
        request: String,
    },
    /// The files of a volume changed.
    FilesWritten,
    /// All volumes of the pod are there: it runs.
    Running,
    /// Something did not work and will be tried again.
    Error {
        /// What, in words.
        message: String,
    },
}
