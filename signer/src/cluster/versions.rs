//! Which versions of `certificates.k8s.io` the API server serves: found at the start and again whenever a path is gone, so that
//! the cluster may be upgraded under us.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

use super::calls::{CallError, Calls};
use crate::pace::Pace;

/// A version of the certificates API that we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Kubernetes 1.37 and later.
    V1,
    /// Kubernetes 1.35 and 1.36; later ones where it is switched on.
    V1beta1,
}

impl Version {
    /// As in a path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1beta1 => "v1beta1",
        }
    }
}

/// What the API server serves; `v1` before `v1beta1` where it serves both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    /// Where certificate requests are read and answered.
    pub(crate) requests: Option<Version>,
    /// `v1beta1` can be asked for the keys that `v1` does not show.
    pub(crate) beta_requests: bool,
    /// Where trust bundles are read and written.
    pub(crate) bundles: Option<Version>,
}

/// Knows the versions. All clones share what one finds.
#[derive(Clone)]
pub(crate) struct Versions {
    calls: Calls,
    pace: Pace,
    served: Arc<watch::Sender<Served>>,
    /// When discovery last ended; held while it runs, so that many who find a path gone cause one discovery.
    last: Arc<Mutex<Option<Instant>>>,
}

impl Versions {
    pub(crate) fn new(calls: Calls, pace: Pace) -> Self {
        Self { calls, pace, served: Arc::new(watch::Sender::default()), last: Arc::default() }
    }

    pub(crate) fn served(&self) -> Served {
        *self.served.borrow()
    }

    /// Asks again, unless somebody did a moment ago.
    pub(crate) async fn discover(&self) -> Result<Served, CallError> {
        let mut last = self.last.lock().await;
        if last.is_some_and(|last| last.elapsed() < self.pace.of(SPACING)) {
            return Ok(self.served());
        }
        let asked = tokio::try_join!(self.resources(Version::V1), self.resources(Version::V1beta1));
        // Those who wait for this one do not each wait for one that fails.
        *last = Some(Instant::now());
        let (v1, beta) = asked?;
        let served = choose(&v1, &beta);
        self.served.send_if_modified(|known| {
            let changed = *known != served;
            *known = served;
            changed
        });
        Ok(served)
    }

    async fn resources(&self, version: Version) -> Result<ResourceList, CallError> {
        match self.calls.get(&format!("/apis/{GROUP}/{}", version.as_str())).await {
            Err(error) if error.is_unserved() || error.is_absent() => Ok(ResourceList::default()),
            other => other,
        }
    }
}

fn choose(v1: &ResourceList, beta: &ResourceList) -> Served {
    let newest = |resource: &str| match (v1.has(resource), beta.has(resource)) {
        (true, _) => Some(Version::V1),
        (false, true) => Some(Version::V1beta1),
        (false, false) => None,
    };
    Served { requests: newest(REQUESTS), beta_requests: beta.has(REQUESTS), bundles: newest(BUNDLES) }
}

#[derive(Debug, Default, Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Debug, Deserialize)]
struct Resource {
    name: String,
}

impl ResourceList {
    fn has(&self, resource: &str) -> bool {
        self.resources.iter().any(|served| served.name == resource)
    }
}

pub(crate) const GROUP: &str = "certificates.k8s.io";
pub(crate) const REQUESTS: &str = "podcertificaterequests";
pub(crate) const BUNDLES: &str = "clustertrustbundles";

/// An upgrade takes seconds; asking more often would only add to an API server's load while it starts.
const SPACING: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> ResourceList {
        ResourceList { resources: names.iter().map(|name| Resource { name: (*name).to_owned() }).collect() }
    }

    #[test]
    fn the_newest_version_served_is_chosen_for_each_kind() {
        let (none, both) = (list(&["certificatesigningrequests"]), list(&[REQUESTS, BUNDLES]));
        let v1 = Some(Version::V1);
        let beta = Some(Version::V1beta1);
        assert_eq!(choose(&both, &none), Served { requests: v1, beta_requests: false, bundles: v1 });
        assert_eq!(choose(&none, &both), Served { requests: beta, beta_requests: true, bundles: beta });
        assert_eq!(choose(&both, &both), Served { requests: v1, beta_requests: true, bundles: v1 });
        assert_eq!(
            choose(&list(&[BUNDLES]), &list(&[REQUESTS])),
            Served { requests: beta, beta_requests: true, bundles: v1 }
        );
        assert_eq!(choose(&none, &none), Served::default());
    }
}
