//! HTTP/1.1 on loopback: connections, bodies, headers, and the way of a call through the other files.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::access::{Tokens, authorize};
use super::failure::{Answer, Failure};
use super::fault::{Faults, Verb};
use super::kind::{self, Kind, Served};
use super::route::Call;
use super::store::Store;
use super::write::Write;
use super::{admit, read};
use crate::clock::{Clock, http_date, rfc3339, uuid};
use crate::options::{Options, Versions};

/// The largest request body, as on the real server.
const MAX_BODY: usize = 3 * 1024 * 1024;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What every connection shares. Outlives an outage, as etcd does.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) options: Options,
    pub(crate) store: Arc<Store>,
    pub(crate) faults: Faults,
    pub(crate) tokens: Tokens,
    clock: Clock,
    served: Vec<Served>,
}

impl Api {
    pub(crate) fn new(options: Options) -> Self {
        let store = Arc::new(Store::new(options.watch_window));
        let clock = Clock::ahead(options.clock_ahead_seconds);
        let created = rfc3339(clock.now());
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let namespace = json!({
                "metadata": { "name": name, "uid": uuid(), "creationTimestamp": created, "generation": 1,
                    "labels": { "kubernetes.io/metadata.name": name } },
                "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" },
            });
            if let Value::Object(fields) = namespace
                && store.put(Kind::Namespace, &(String::new(), name.to_owned()), fields, None).is_err()
            {
                tracing::warn!(name, "a first namespace could not be made");
            }
            if options.controllers {
                admit::default_account(&store, name, &created);
            }
        }
        Self {
            served: kind::served(options.versions),
            faults: Faults::new(Arc::clone(&store)),
            tokens: Tokens::default(),
            clock,
            store,
            options,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let path = request.uri().path().to_owned();
        let mut response = match self.plain(request.method(), &path) {
            Some(document) => self.document(&request, &path, document),
            None => self.resource(request).await?,
        };
        let date = http_date(self.clock.now());
        if let Ok(date) = date.parse() {
            response.headers_mut().insert(http::header::DATE, date);
        }
        Ok(response)
    }

    /// Discovery and health: documents that are no resource.
    fn plain(&self, method: &Method, path: &str) -> Option<Value> {
        if method != Method::GET {
            return None;
        }
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match segments.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Some("ok".into()),
            ["version"] => Some(self.version()),
            ["api"] => Some(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })),
            ["api", version] => kind::resource_list(&self.served, "", version),
            ["apis"] => Some(kind::group_list(&self.served)),
            ["apis", group] => kind::api_group(&self.served, group),
            ["apis", group, version] => kind::resource_list(&self.served, group, version),
            _ => None,
        }
    }

    fn version(&self) -> Value {
        let minor = match self.options.versions {
            Versions::V1_35 => "35",
            Versions::V1_36 => "36",
            Versions::V1_37 | Versions::V1_37WithBeta => "37",
        };
        json!({
            "major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.0-devcluster"), "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "any",
        })
    }

    /// Health and version are for everybody; discovery needs a token.
    fn document(&self, request: &Request<Incoming>, path: &str, document: Value) -> Response<Body> {
        if path.starts_with("/api")
            && let Err(failure) = self.tokens.identify(request.headers())
        {
            return refused(&failure);
        }
        match document.as_str() {
            Some(text) => answered(200, "text/plain; charset=utf-8", Bytes::from(text.to_owned())),
            None => answered(200, JSON, Bytes::from(document.to_string())),
        }
    }

    async fn resource(&self, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let uri = request.uri();
        let call = match Call::parse(&self.served, request.method(), uri.path(), uri.query().unwrap_or_default()) {
            Ok(call) => call,
            Err(failure) => return Ok(refused(&failure)),
        };
        let resource = call.resource();
        if let Some(failure) = self.faults.called(call.verb, &resource) {
            self.faults.answered(&resource, failure.code);
            return if failure.code == 0 { Err(Cut) } else { Ok(refused(&failure)) };
        }
        let response = match self.carry_out(&call, request).await {
            Ok(response) => response,
            Err(failure) => refused(&failure),
        };
        self.faults.answered(&resource, response.status().as_u16());
        Ok(response)
    }

    async fn carry_out(&self, call: &Call, request: Request<Incoming>) -> Answer<Response<Body>> {
        let who = self.tokens.identify(request.headers())?;
        authorize(&self.options, &self.store, &who, call)?;
        match call.verb {
            Verb::Get => Ok(answered(200, JSON, read::get(&self.store, call).await?)),
            Verb::List => Ok(answered(200, JSON, read::list(&self.store, call).await?)),
            Verb::Watch => {
                let lines = read::watch(Arc::clone(&self.store), call, self.options.bookmark_every).await?;
                let body = StreamBody::new(lines.map(|line| Ok(Frame::data(line)))).boxed_unsync();
                let mut response = Response::new(body);
                response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(JSON));
                Ok(response)
            }
            Verb::Create | Verb::Update | Verb::Patch | Verb::Delete => {
                let content_type =
                    request.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
                let content_type =
                    content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
                let body = collected(request.into_body()).await?;
                let write =
                    Write { store: &self.store, options: &self.options, who: &who, call, now: self.clock.now() };
                let (code, object) = write.run(&content_type, &body)?;
                Ok(answered(code, JSON, object))
            }
        }
    }
}

const JSON: &str = "application/json";

/// The connection is to be cut without an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut by a story")]
struct Cut;

async fn collected(body: Incoming) -> Answer<Bytes> {
    let limited = Limited::new(body, MAX_BODY);
    match limited.collect().await {
        Ok(all) => Ok(all.to_bytes()),
        Err(_) => {
            let message = format!("Request entity too large: limit is {MAX_BODY}");
            Err(Failure::new(413, "RequestEntityTooLarge", message))
        }
    }
}

fn answered(code: u16, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

fn refused(failure: &Failure) -> Response<Body> {
    let mut response = answered(failure.code, JSON, Bytes::from(failure.status().to_string()));
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Serves until `stop`; then every connection is dropped, watches with it.
pub(crate) async fn serve(api: Arc<Api>, address: SocketAddr, stop: CancellationToken) -> Result<SocketAddr> {
    let listener = listen(address).await.with_context(|| format!("could not listen on {address}"))?;
    let bound = listener.local_addr().context("could not learn the port")?;
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(connection(Arc::clone(&api), stream, stop.clone()));
                }
                Err(error) => tracing::warn!(%error, "could not accept a connection"),
            }
        }
    });
    Ok(bound)
}

/// After an outage the port may still be in use by connections that are closing.
async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn connection(api: Arc<Api>, stream: TcpStream, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no nodelay");
    }
    let service = hyper::service::service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { api.answer(request).await }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new());
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = serving => if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        },
        () = stop.cancelled() => {}
    }
}
