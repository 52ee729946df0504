//! A proxy between a signer and an API server that plays tricks a story asks for: a read with `resourceVersion=0` shows the past,
//! as an API server that lags behind etcd does; a watch begins with objects that no API server would take; a write meets a
//! conflict; and all that a network and a busy API server do ([`trouble`]). Anything else goes through unchanged.

pub mod trouble;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::server::kubeconfig;
use trouble::{Trouble, Weather};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A running proxy. It calls the API server as the client it was given, whoever calls it.
pub struct Proxy {
    port: u16,
    past: Arc<Past>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Past {
    frozen: Mutex<BTreeMap<String, Option<Bytes>>>,
    shown: Mutex<Vec<String>>,
    planted: Mutex<BTreeMap<String, Vec<u8>>>,
    conflicts: Mutex<u32>,
    weather: Weather,
}

impl Proxy {
    /// Listens on loopback.
    pub async fn start(client: kube::Client) -> Self {
        Self::start_with(client, 0).await
    }

    /// The same; `seed` decides which calls trouble befalls.
    pub async fn start_with(client: kube::Client, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let past = Arc::new(Past { weather: Weather::new(seed), ..Past::default() });
        let task = tokio::spawn(serve(listener, client, Arc::clone(&past)));
        Self { port, past, task }
    }

    /// A client that goes through the proxy.
    pub fn client(&self) -> kube::Client {
        let url = format!("http://127.0.0.1:{}", self.port).parse().expect("our own address");
        podmint_devcluster::choose_crypto();
        kube::Client::try_from(kube::Config::new(url)).expect("a client can be made")
    }

    /// A kubeconfig that leads through the proxy. Whoever uses it speaks as the proxy does.
    pub fn kubeconfig(&self) -> String {
        kubeconfig(serde_json::json!({"server": format!("http://127.0.0.1:{}", self.port)}), serde_json::json!({}))
    }

    /// From now on this befalls the calls that go through, those under way included.
    pub fn set(&self, trouble: Trouble) {
        self.past.weather.set(trouble);
    }

    /// From now on a cached read of `path` shows this object, or that there is none.
    pub fn freeze(&self, path: &str, object: Option<&serde_json::Value>) {
        let object = object.map(|object| Bytes::from(object.to_string()));
        self.past.frozen.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), object);
    }

    /// From now on every watch of `resource` begins with these objects, as if they had just been made.
    pub fn begin_watches_with(&self, resource: &str, objects: impl IntoIterator<Item = serde_json::Value>) {
        let lines =
            objects.into_iter().map(|object| format!("{}\n", serde_json::json!({"type": "ADDED", "object": object})));
        let lines = lines.collect::<String>().into_bytes();
        self.past.planted.lock().unwrap_or_else(PoisonError::into_inner).insert(resource.to_owned(), lines);
    }

    /// The next `times` status writes meet a conflict.
    pub fn conflict(&self, times: u32) {
        *self.past.conflicts.lock().unwrap_or_else(PoisonError::into_inner) = times;
    }

    /// The paths of cached reads that were shown the past.
    pub fn shown(&self) -> Vec<String> {
        self.past.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Past {
    /// Whether this is a write that is to meet a conflict.
    fn conflicts_with(&self, request: &Request<Incoming>) -> bool {
        let mut left = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_write = request.method() == Method::PUT
            && request.uri().path().contains("/podcertificaterequests/")
            && request.uri().path().ends_with("/status");
        let conflicts = is_write && *left > 0;
        *left -= u32::from(conflicts);
        conflicts
    }

    /// What a watch of this request is to begin with.
    fn planted_for(&self, request: &Request<Incoming>) -> Option<Vec<u8>> {
        let is_watch = is_watch(request);
        let resource = request.uri().path().rsplit('/').next()?;
        let planted = self.planted.lock().unwrap_or_else(PoisonError::into_inner);
        planted.get(resource).filter(|_| is_watch).cloned()
    }

    fn of(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let cached =
            request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "resourceVersion=0"));
        if !cached || request.method() != Method::GET {
            return None;
        }
        let path = request.uri().path();
        let object = self.frozen.lock().unwrap_or_else(PoisonError::into_inner).get(path)?.clone();
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        Some(match object {
            Some(object) => json(StatusCode::OK, object),
            None => json(StatusCode::NOT_FOUND, not_found(path)),
        })
    }
}

fn is_watch(request: &Request<Incoming>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|part| part == "watch=true" || part == "watch=1")
}

/// In the words of kube-apiserver, which names what it did not find: a 404 without a name is a path it does not know.
fn not_found(path: &str) -> Bytes {
    let mut parts = path.rsplit('/');
    let (name, kind) = (parts.next(), parts.next());
    let status = serde_json::json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404,
        "message": "not found", "details": {"name": name, "kind": kind},
    });
    Bytes::from(status.to_string())
}

const CONFLICT: &[u8] =
    br#"{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"Conflict","message":"the object has been modified","code":409}"#;

async fn serve(listener: TcpListener, client: kube::Client, past: Arc<Past>) {
    while let Ok((stream, _peer)) = listener.accept().await {
        let (client, past) = (client.clone(), Arc::clone(&past));
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, client.clone(), Arc::clone(&past)));
            // A caller that hangs up in the middle is no concern of the proxy.
            let _gone =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    client: kube::Client,
    past: Arc<Past>,
) -> Result<Response<Body>, std::io::Error> {
    let trouble = past.weather.pass().await?;
    if let Some(answer) = past.of(&request) {
        return Ok(answer);
    }
    let is_watch = is_watch(&request);
    if let Some((code, body, retry_after)) = past.weather.instead(trouble, &request, is_watch) {
        let mut answer = json(code, body);
        if let Some(seconds) = retry_after {
            answer.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
        }
        return Ok(answer);
    }
    let is_lost = *request.method() != Method::GET && past.weather.happens(trouble.lost);
    if past.conflicts_with(&request) {
        return Ok(json(StatusCode::CONFLICT, Bytes::from_static(CONFLICT)));
    }
    let planted = past.planted_for(&request).map(|lines| Ok(Bytes::from(lines)));
    let (mut parts, body) = request.into_parts();
    // The connection to the API server is not this one, and speaks with its own rights.
    for header in [http::header::HOST, http::header::AUTHORIZATION, http::header::CONNECTION] {
        parts.headers.remove(header);
    }
    parts.version = http::Version::default();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let sent = client.send(Request::from_parts(parts, kube::client::Body::from(body.to_vec()))).await;
    let (mut parts, body) = sent.map_err(std::io::Error::other)?.into_parts();
    if is_lost {
        // It has landed; whoever called will never know.
        body.collect().await.map_err(std::io::Error::other)?;
        return Err(std::io::Error::other("the reply is lost"));
    }
    trouble.shift_date(&mut parts.headers);
    let planted = futures::stream::iter(planted.filter(|_| parts.status.is_success()));
    let frames = planted.chain(body.into_data_stream().map_err(std::io::Error::other)).map_ok(Frame::data);
    let frames = past.weather.over(frames, trouble.cut.filter(|_| is_watch));
    let mut answer = Response::from_parts(parts, BodyExt::boxed_unsync(StreamBody::new(frames)));
    answer.headers_mut().remove(http::header::TRANSFER_ENCODING);
    *answer.version_mut() = http::Version::HTTP_11;
    Ok(answer)
}

fn json(code: StatusCode, body: Bytes) -> Response<Body> {
    let mut answer = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = code;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}
