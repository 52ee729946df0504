//! The handle to a running cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tokio_util::sync::CancellationToken;

use crate::api::fault::Faults;
use crate::api::server::{Api, serve};
use crate::options::{Identity, Options};

/// A running API server. It ends when this is dropped.
#[derive(Debug)]
pub struct DevCluster {
    api: Arc<Api>,
    address: SocketAddr,
    serving: Mutex<CancellationToken>,
}

impl DevCluster {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(options: Options) -> Result<Self> {
        let api = Arc::new(Api::new(options));
        let stop = CancellationToken::new();
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let address =
            serve(Arc::clone(&api), any_port, stop.clone()).await.context("the embedded API server did not start")?;
        Ok(Self { api, address, serving: Mutex::new(stop) })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bearer token of `who`.
    #[must_use]
    pub fn token(&self, who: &Identity) -> String {
        self.api.tokens.of(who)
    }

    /// A client that speaks as `who`.
    ///
    /// # Errors
    /// If the client cannot be built.
    pub fn try_client(&self, who: &Identity) -> Result<kube::Client> {
        let url = self.url().parse().context("the URL of the embedded API server")?;
        let mut config = kube::Config::new(url);
        config.auth_info.token = Some(self.token(who).into());
        "default".clone_into(&mut config.default_namespace);
        choose_crypto();
        kube::Client::try_from(config).context("a client of the embedded API server")
    }

    /// A client that speaks as `who`.
    ///
    /// # Panics
    /// If the client cannot be built, which does not happen with a loopback URL. Needs a tokio runtime.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test helper; the fallible form is beside it")]
    pub fn client(&self, who: &Identity) -> kube::Client {
        self.try_client(who).expect("a loopback URL makes a client")
    }

    /// A kubeconfig for other processes, token inside.
    #[must_use]
    pub fn kubeconfig(&self, who: &Identity) -> String {
        let (url, token, user) = (self.url(), self.token(who), who.user_name());
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: devcluster\nclusters:\n- name: devcluster\n  cluster:\n    server: {url}\n\
             users:\n- name: \"{user}\"\n  user:\n    token: {token}\ncontexts:\n- name: devcluster\n  context:\n    cluster: devcluster\n    \
             user: \"{user}\"\n    namespace: default\n"
        )
    }

    /// Trouble on demand, and counts of calls.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.api.faults.clone()
    }

    /// An outage: nothing listens, every connection is cut. What is stored stays.
    pub fn go_down(&self) {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    /// The end of an outage, on the same port.
    ///
    /// # Errors
    /// If somebody else took the port.
    pub async fn come_back(&self) -> Result<()> {
        let stop = CancellationToken::new();
        serve(Arc::clone(&self.api), self.address, stop.clone())
            .await
            .context("the embedded API server did not come back")?;
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        serving.cancel();
        *serving = stop;
        Ok(())
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        self.go_down();
    }
}

/// Makes ring the process's cryptography unless another choice was made: kube's client asks rustls for one even over plain HTTP,
/// and there is none by itself where two are compiled in.
pub fn choose_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Whoever loses a race here loses it to the same choice.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}
