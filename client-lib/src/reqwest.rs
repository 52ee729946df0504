//! reqwest: clients that follow the credentials. Feature `reqwest`.
//!
//! A `::reqwest::Client` keeps its connections as long as it likes and cannot be told to let go of one. So there is a new client for each generation: ask
//! [`Clients::get`] for each request.

use crate::client::ClientBuilder;
use crate::tls::Parts;
use rustls::ClientConfig;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The last minutes of a peer's certificate are for finishing what is under way.
const GRACE_SECONDS: u64 = 60;

/// `reqwest` clients, each for as long as it may be used.
///
/// A client is replaced when credentials or trust change, when the authorizer is replaced, before the first of its servers' certificates ends, and at
/// [`ClientBuilder::max_connection_age`]. A client that was replaced finishes what is under way and is then gone with its connections: do not hold on to it.
#[derive(Clone)]
pub struct Clients {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    config: ClientConfig,
    max_age: Option<Duration>,
    timeout: Duration,
    earliest: Arc<AtomicU64>,
    configure: Box<dyn Fn(::reqwest::ClientBuilder) -> ::reqwest::ClientBuilder + Send + Sync>,
    current: Mutex<Option<Current>>,
}

struct Current {
    client: ::reqwest::Client,
    generation: u64,
    rules: u64,
    made: Instant,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clients({})", self.inner.parts.authorizer)
    }
}

/// Clients for `https` URLs with the choices of this builder; `configure` makes reqwest's own. They speak HTTP/1.1; to speak HTTP/2, turn on reqwest's feature `http2` and
/// choose [`ClientBuilder::alpn`]`(["h2", "http/1.1"])`.
///
/// # Errors
/// The crypto provider has no TLS 1.3.
pub fn clients(
    client: ClientBuilder,
    configure: impl Fn(::reqwest::ClientBuilder) -> ::reqwest::ClientBuilder + Send + Sync + 'static,
) -> Result<Clients, rustls::Error> {
    let mut settings = client.settings;
    settings.default_alpn(&["http/1.1"]);
    let earliest = Arc::new(AtomicU64::new(u64::MAX));
    settings.parts.earliest = Some(Arc::clone(&earliest));
    let config = settings.parts.client_config(None)?;
    let inner = Inner {
        parts: settings.parts,
        config,
        max_age: settings.max_age,
        timeout: settings.limits.timeout,
        earliest,
        configure: Box::new(configure),
        current: Mutex::new(None),
    };
    Ok(Clients { inner: Arc::new(inner) })
}

impl Clients {
    /// The client to use now. Cheap, unless something changed.
    ///
    /// # Errors
    /// reqwest refuses what `configure` chose, or is of a version with another rustls.
    pub fn get(&self) -> ::reqwest::Result<::reqwest::Client> {
        let inner = &*self.inner;
        let mut current = inner.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &*current
            && inner.is_fit(current)
        {
            return Ok(current.client.clone());
        }
        // First what it depends on, then the client: what changes in between makes another one next time.
        let (generation, rules) = inner.epoch();
        inner.earliest.store(u64::MAX, Ordering::Relaxed);
        let builder = ::reqwest::Client::builder().connect_timeout(inner.timeout).https_only(true);
        let client = (inner.configure)(builder).tls_backend_preconfigured(inner.config.clone()).build()?;
        *current = Some(Current { client: client.clone(), generation, rules, made: Instant::now() });
        Ok(client)
    }
}

impl Inner {
    fn epoch(&self) -> (u64, u64) {
        (self.parts.identity.snapshot().generation(), self.parts.authorizer.epoch())
    }

    fn is_fit(&self, current: &Current) -> bool {
        let now = self.parts.identity.moment().now.as_secs();
        self.epoch() == (current.generation, current.rules)
            && now.saturating_add(GRACE_SECONDS) < self.earliest.load(Ordering::Relaxed)
            && self.max_age.is_none_or(|most| current.made.elapsed() < most)
    }
}
