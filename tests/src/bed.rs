//! What a story runs on: devcluster, or a real kube-apiserver of some version. The story cannot tell the difference.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use podmint_devcluster::{DevCluster, Versions};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::assets::VERSIONS;
use crate::server::{Kubernetes, Settings};
use crate::{Who, assets, call, install};

/// A cluster to run a story on.
#[derive(Clone)]
pub struct Bed(Arc<Ground>);

enum Ground {
    Embedded(DevCluster, Versions),
    Real(Box<Kubernetes>),
}

impl Bed {
    /// A devcluster of the story's own.
    pub async fn embedded() -> Self {
        Self::over(bare()).await
    }

    /// A devcluster that behaves as these options say.
    pub async fn over(options: podmint_devcluster::Options) -> Self {
        let versions = options.versions;
        Self(Arc::new(Ground::Embedded(DevCluster::start(options).await.expect("devcluster starts"), versions)))
    }

    /// The one server of this version that all stories of a run share. Nothing but the signer checks anything there.
    pub async fn shared(version: &'static str) -> Self {
        static SHARED: [OnceCell<Bed>; VERSIONS.len()] = [const { OnceCell::const_new() }; VERSIONS.len()];
        let place = VERSIONS.iter().position(|known| *known == version).expect("a version of the list");
        SHARED[place].get_or_init(|| Self::own(Settings::of(version))).await.clone()
    }

    /// The one server of the newest version with everything a careful administrator switches on: NodeRestriction and our guard.
    pub async fn guarded() -> Self {
        static GUARDED: OnceCell<Bed> = OnceCell::const_new();
        GUARDED
            .get_or_init(async || {
                let bed = Self::own(Settings { node_restriction: true, ..Settings::of(VERSIONS[0]) }).await;
                install::guard(&bed).await;
                bed
            })
            .await
            .clone()
    }

    /// A server of the story's own, to be stopped, upgraded or misconfigured.
    pub async fn own(settings: Settings) -> Self {
        eprintln!("starting etcd and kube-apiserver {} …", settings.version);
        Self(Arc::new(Ground::Real(Box::new(Kubernetes::start(settings).await))))
    }

    /// A client for anybody.
    pub async fn client(&self, who: &Who) -> kube::Client {
        match &*self.0 {
            Ground::Embedded(cluster, _) => cluster.client(who),
            Ground::Real(server) => server.client(who).await,
        }
    }

    /// The real server, where there is one.
    pub fn server(&self) -> Option<&Kubernetes> {
        match &*self.0 {
            Ground::Real(server) => Some(server),
            Ground::Embedded(..) => None,
        }
    }

    /// The devcluster, where there is one.
    pub fn devcluster(&self) -> Option<&DevCluster> {
        match &*self.0 {
            Ground::Embedded(cluster, _) => Some(cluster),
            Ground::Real(_) => None,
        }
    }

    /// The API server is gone, as in a power cut; what it stored stays.
    pub fn go_down(&self) {
        match &*self.0 {
            Ground::Embedded(cluster, _) => cluster.go_down(),
            Ground::Real(server) => server.stop_api(),
        }
    }

    /// It is back, at the same address.
    pub async fn come_back(&self) {
        match &*self.0 {
            Ground::Embedded(cluster, _) => cluster.come_back().await.expect("devcluster comes back"),
            Ground::Real(server) => server.start_api(server.version()).await,
        }
    }

    /// A kubeconfig of a service account, for processes.
    pub async fn kubeconfig(&self, namespace: &str, name: &str) -> String {
        match &*self.0 {
            Ground::Real(server) => server.kubeconfig(namespace, name).await,
            Ground::Embedded(cluster, _) => cluster.kubeconfig(&Who::service_account(namespace, name)),
        }
    }

    /// What leads its administrator to it, for commands that make a client of their own.
    pub async fn admin_config(&self) -> kube::Config {
        let yaml = match &*self.0 {
            Ground::Real(server) => server.admin_kubeconfig(),
            Ground::Embedded(cluster, _) => cluster.kubeconfig(&Who::Admin),
        };
        podmint_devcluster::choose_crypto();
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&yaml).expect("our own kubeconfig");
        let options = kube::config::KubeConfigOptions::default();
        kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("it leads to a server")
    }

    /// Whether its kubelets still send a public key and a proof, as those of 1.35 do.
    pub fn wants_proof(&self) -> bool {
        match &*self.0 {
            Ground::Embedded(_, versions) => *versions == Versions::V1_35,
            Ground::Real(server) => server.version().starts_with("1.35."),
        }
    }

    /// The newest version of `certificates.k8s.io` in which `resource` is served.
    pub async fn api_version(&self, resource: &str) -> &'static str {
        let admin = self.client(&Who::Admin).await;
        for version in ["v1", "v1beta1"] {
            let Ok(list) = call::get(&admin, &format!("/apis/certificates.k8s.io/{version}")).await else { continue };
            let resources = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
            if resources.iter().any(|served| served["name"] == resource) {
                return version;
            }
        }
        panic!("{resource} is served in no version of certificates.k8s.io");
    }
}

/// As bare as the real servers of the stories: nobody but the signer checks or tidies.
pub fn bare() -> podmint_devcluster::Options {
    podmint_devcluster::Options {
        node_restriction: false,
        controllers: false,
        ..podmint_devcluster::Options::default()
    }
}

/// Runs a story. All of them share one runtime, because they share servers and clients.
pub fn run(story: impl Future<Output = ()>) {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        if let Some(filter) = assets::log_filter() {
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
        }
        Runtime::new().expect("a runtime can be made")
    });
    runtime.block_on(story);
}

/// Declares stories that run on every bed. The modules they become are what `tests/run` chooses by: `devcluster`, `v1_37`
/// always, `v1_36` and `v1_35` with `--rest`.
#[macro_export]
macro_rules! on_every_bed {
    ($($(#[doc = $words:literal])* async fn $story:ident($bed:ident: $type:ty) $body:block)+) => {
        $($(#[doc = $words])* async fn $story($bed: $type) $body)+

        mod devcluster {
            $(#[test] fn $story() { $crate::run(async { super::$story($crate::Bed::embedded().await).await }); })+
        }
        mod v1_37 {
            $(#[test] fn $story() { $crate::run(async { super::$story($crate::Bed::shared("1.37.2").await).await }); })+
        }
        mod v1_36 {
            $(#[test] #[ignore = "tests/run --rest"] fn $story() { $crate::run(async { super::$story($crate::Bed::shared("1.36.3").await).await }); })+
        }
        mod v1_35 {
            $(#[test] #[ignore = "tests/run --rest"] fn $story() { $crate::run(async { super::$story($crate::Bed::shared("1.35.4").await).await }); })+
        }
    };
}
