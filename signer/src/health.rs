//! `/livez`, `/readyz` and `/metrics`. Ready means that no part holds its token any more; live means that the controller's loop
//! has turned lately.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// What the parts of the signer have to say about themselves. All clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    /// How many tokens of each part are held.
    pending: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    beat: Arc<Mutex<Instant>>,
}

/// Held by a part that is not up yet. Dropping it says that the part is up.
#[derive(Debug)]
pub(crate) struct Token {
    health: Health,
    part: &'static str,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self { pending: Arc::default(), beat: Arc::new(Mutex::new(Instant::now())) }
    }

    /// A part may hold several, one for each thing that it brings up.
    pub(crate) fn token(&self, part: &'static str) -> Token {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let held = pending.entry(part).or_default();
        *held = held.saturating_add(1);
        drop(pending);
        Token { health: self.clone(), part }
    }

    /// The controller's loop has turned.
    pub(crate) fn beat(&self) {
        *self.beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn pending(&self) -> Vec<&'static str> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn is_live(&self, now: Instant) -> bool {
        let beat = *self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(beat) < LONGEST_TURN
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let mut pending = self.health.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = pending.get_mut(self.part) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                pending.remove(self.part);
            }
        }
    }
}

/// Serves until stopped. A connection that is slow, idle or one too many costs the signer nothing.
pub(crate) async fn serve(listener: TcpListener, health: Health, metrics: Metrics, stop: CancellationToken) {
    let places = Arc::new(Places::default());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection for metrics and health");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Over the limit the connection is dropped here and the caller sees it close.
        let Some(place) = places.take(peer.ip()) else { continue };
        let (health, metrics) = (health.clone(), metrics.clone());
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let reply = answer(request.method(), request.uri().path(), &health, &metrics);
                async move { Ok::<_, Infallible>(reply) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .header_read_timeout(HEADERS)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION, connection).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics and health broke off"),
            }
            drop(place);
        });
    }
}

/// The connections that there are, by peer: one that takes all it can get leaves room for the kubelet's probes.
#[derive(Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

struct Place {
    places: Arc<Places>,
    peer: IpAddr,
}

impl Places {
    fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, its) = (taken.values().sum::<usize>(), taken.get(&peer).copied().unwrap_or_default());
        if all >= CONNECTIONS || its >= OF_ONE {
            return None;
        }
        taken.insert(peer, its.saturating_add(1));
        Some(Place { places: Arc::clone(self), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.peer) {
            Some(its) if *its > 1 => *its = its.saturating_sub(1),
            _ => drop(taken.remove(&self.peer)),
        }
    }
}

fn answer(method: &Method, path: &str, health: &Health, metrics: &Metrics) -> Response<Full<bytes::Bytes>> {
    if method != Method::GET {
        let mut reply = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
        reply.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET"));
        return reply;
    }
    match path {
        "/livez" if health.is_live(Instant::now()) => plain(StatusCode::OK, "ok\n".to_owned()),
        "/livez" => plain(StatusCode::SERVICE_UNAVAILABLE, "the controller's loop does not turn\n".to_owned()),
        "/readyz" => match health.pending().as_slice() {
            [] => plain(StatusCode::OK, "ok\n".to_owned()),
            pending => plain(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", pending.join(", "))),
        },
        "/metrics" => match metrics.text() {
            Ok(text) => {
                let mut reply = plain(StatusCode::OK, text);
                reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(OPEN_METRICS));
                reply
            }
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => plain(StatusCode::NOT_FOUND, "/livez, /readyz or /metrics\n".to_owned()),
    }
}

fn plain(code: StatusCode, text: String) -> Response<Full<bytes::Bytes>> {
    let mut reply = Response::new(Full::new(text.into()));
    *reply.status_mut() = code;
    reply
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The loop turns at least once a second; a machine that is starved of CPU may take a while longer.
const LONGEST_TURN: Duration = Duration::from_secs(30);
/// Two scrapers, two probes and a person, with room to spare.
const CONNECTIONS: usize = 16;
const OF_ONE: usize = 4;
const HEADERS: Duration = Duration::from_secs(5);
/// One reply.
const CONNECTION: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, health: &Health) -> StatusCode {
        answer(&Method::GET, path, health, &Metrics::new()).status()
    }

    #[test]
    fn ready_means_that_no_part_holds_a_token() {
        let health = Health::new();
        let (watch, trust) = (health.token("watch"), health.token("trust"));
        let other_watch = health.token("watch");
        assert_eq!(get("/readyz", &health), StatusCode::SERVICE_UNAVAILABLE);
        drop(watch);
        assert_eq!(health.pending(), ["trust", "watch"], "each of two watches holds a token");
        drop(other_watch);
        assert_eq!(health.pending(), ["trust"]);
        assert_eq!(get("/readyz", &health), StatusCode::SERVICE_UNAVAILABLE);
        drop(trust);
        assert_eq!(get("/readyz", &health), StatusCode::OK);
    }

    #[test]
    fn live_means_that_the_loop_turned_lately() {
        let health = Health::new();
        let beat = *health.beat.lock().unwrap();
        assert!(health.is_live(beat.checked_add(Duration::from_secs(29)).unwrap()));
        assert!(!health.is_live(beat.checked_add(Duration::from_secs(31)).unwrap()));
    }

    #[test]
    fn one_peer_leaves_places_to_others() {
        let places = Arc::new(Places::default());
        let [greedy, probe] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let held: Vec<Place> = (0..CONNECTIONS).map_while(|_| places.take(greedy)).collect();
        assert_eq!(held.len(), OF_ONE);
        drop(places.take(probe).unwrap());
        drop(held);
        assert!(places.0.lock().unwrap().is_empty());
        let crowd = (0..=u8::MAX).map_while(|number| places.take(IpAddr::from([10, 0, 1, number])));
        assert_eq!(crowd.collect::<Vec<_>>().len(), CONNECTIONS);
    }

    #[test]
    fn only_known_paths_are_served_and_only_read() {
        let health = Health::new();
        assert_eq!(get("/metrics", &health), StatusCode::OK);
        assert_eq!(get("/", &health), StatusCode::NOT_FOUND);
        assert_eq!(answer(&Method::POST, "/livez", &health, &Metrics::new()).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
