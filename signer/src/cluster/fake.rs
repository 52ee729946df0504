//! An API server of a hundred lines for unit tests: keeps objects by path, checks resourceVersions, lists by prefix, and answers
//! whatever a test wants instead. Rules and admission are devcluster's and the real one's business.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, header::DATE};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use time::macros::datetime;
use tokio::time::Instant;

use super::{
    calls::Calls,
    clock::{HTTP_DATE, ServerClock},
};

/// What a test wants to be answered instead of what is stored.
pub(crate) enum Instead {
    Json(u16, Value),
    /// Lines of a watch; then the stream ends, or hangs.
    Lines(Vec<String>, bool),
    /// A body that panics whoever reads it.
    Panic,
}

type Hook = Box<dyn FnMut(&Method, &str, &Value) -> Option<Instead> + Send>;

/// All clones are one server.
#[derive(Clone)]
pub(crate) struct Fake {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    hook: Arc<Mutex<Hook>>,
    /// Method and path of every call.
    pub(crate) heard: Arc<Mutex<Vec<String>>>,
    started: Instant,
    /// Seconds that its clock has jumped.
    pub(crate) ahead: Arc<Mutex<i64>>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self {
            objects: Arc::default(),
            hook: Arc::new(Mutex::new(Box::new(|_, _, _| None))),
            heard: Arc::default(),
            started: Instant::now(),
            ahead: Arc::default(),
        }
    }

    pub(crate) fn instead(&self, hook: impl FnMut(&Method, &str, &Value) -> Option<Instead> + Send + 'static) {
        *self.hook.lock().unwrap() = Box::new(hook);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().unwrap().get(path).cloned()
    }

    /// All that is stored below a path.
    pub(crate) fn all(&self, below: &str) -> Vec<Value> {
        let objects = self.objects.lock().unwrap();
        let of = objects.range(below.to_owned()..).take_while(|(path, _)| path.starts_with(below));
        of.map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.objects.lock().unwrap().remove(path);
    }

    /// How many calls began so.
    pub(crate) fn count(&self, start: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|call| call.starts_with(start)).count()
    }

    /// How many calls had this in them.
    pub(crate) fn count_of(&self, part: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|call| call.contains(part)).count()
    }

    pub(crate) fn calls(&self) -> Calls {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        Calls::new(kube::Client::new(service, "default"), ServerClock::default())
    }

    async fn answer(&self, request: Request<Body>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let path = parts.uri.to_string();
        self.heard.lock().unwrap().push(format!("{} {path}", parts.method));
        let passed = i64::try_from(self.started.elapsed().as_secs()).unwrap();
        let passed = time::Duration::seconds(passed.saturating_add(*self.ahead.lock().unwrap()));
        let date = datetime!(2026-11-23 19:00:00 UTC).saturating_add(passed);
        let date = date.format(HTTP_DATE).unwrap();
        let reply = |code, chunks, hang| reply(&date, code, chunks, hang);
        let instead = (self.hook.lock().unwrap())(&parts.method, &path, &body);
        match instead {
            Some(Instead::Json(code, value)) => reply(code, vec![value.to_string()], false),
            Some(Instead::Lines(lines, hang)) => {
                reply(200, lines.into_iter().map(|line| format!("{line}\n")).collect(), hang)
            }
            Some(Instead::Panic) => {
                let frames = stream::once(async { panic!("as a test wants it") });
                Response::new(StreamBody::new(frames).boxed_unsync())
            }
            None => {
                let (code, value) = self.store(&parts.method, path.split('?').next().unwrap(), body);
                reply(code, vec![value.to_string()], false)
            }
        }
    }

    /// What is stored, read or changed.
    pub(crate) fn store(&self, method: &Method, path: &str, mut body: Value) -> (u16, Value) {
        let path = path.replace("%3A", ":");
        let mut objects = self.objects.lock().unwrap();
        let name = path.rsplit('/').next().unwrap().to_owned();
        match *method {
            Method::GET if path.ends_with("clustertrustbundles") => {
                drop(objects);
                (200, json!({"metadata": {"resourceVersion": "9"}, "items": self.all(&path)}))
            }
            Method::GET => objects.get(&path).map_or_else(|| absent(&name), |object| (200, object.clone())),
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if objects.contains_key(&path) {
                    return refusal(409, "AlreadyExists", &name);
                }
                body["metadata"]["resourceVersion"] = "1".into();
                objects.insert(path, body.clone());
                (201, body)
            }
            Method::PUT if path.ends_with("/status") => {
                let Some(stored) = path.strip_suffix("/status").and_then(|path| objects.get_mut(path)) else {
                    return absent(&name);
                };
                let same = |field: &str| stored["metadata"][field] == body["metadata"][field];
                if !same("uid") || !same("resourceVersion") {
                    return refusal(409, "Conflict", &name);
                }
                let version: u64 = stored["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
                stored["metadata"]["resourceVersion"] = version.saturating_add(1).to_string().into();
                stored["status"] = body["status"].take();
                (200, stored.clone())
            }
            Method::PUT => {
                let Some(before) = objects.get(&path) else { return absent(&name) };
                if before["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return refusal(409, "Conflict", &name);
                }
                let version: u64 = before["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
                body["metadata"]["resourceVersion"] = version.saturating_add(1).to_string().into();
                objects.insert(path, body.clone());
                (200, body)
            }
            _ => refusal(405, "MethodNotAllowed", &name),
        }
    }
}

pub(crate) fn refusal(code: u16, reason: &str, name: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "code": code, "reason": reason, "message": reason, "details": {"name": name}}))
}

/// The API server has too much to do and asks to be left alone for so many seconds.
pub(crate) fn busy(seconds: u64) -> Instead {
    Instead::Json(429, json!({"code": 429, "details": {"retryAfterSeconds": seconds}}))
}

fn absent(name: &str) -> (u16, Value) {
    refusal(404, "NotFound", name)
}

fn reply(date: &str, code: u16, chunks: Vec<String>, hang: bool) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let frames = stream::iter(chunks).map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
    let body = if hang { frames.chain(stream::pending()).boxed() } else { frames.boxed() };
    let reply = Response::builder().status(code).header(DATE, date);
    reply.body(StreamBody::new(body).boxed_unsync()).unwrap()
}
