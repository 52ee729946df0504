//! The Kubernetes API as plain JSON over a client: the stories speak every version of it, and break its rules on purpose.

use std::time::Duration;

use http::{Method, Request};
use serde_json::Value;

/// Why the API server said no.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The HTTP status code.
    pub code: u16,
    /// Its words.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// An answer of the API server.
pub type Answer = Result<Value, Refused>;

/// Reads `path`.
pub async fn get(client: &kube::Client, path: &str) -> Answer {
    send(client, Method::GET, path, None, "").await
}

/// Creates `object` below `path`.
pub async fn post(client: &kube::Client, path: &str, object: &Value) -> Answer {
    send(client, Method::POST, path, Some(object), "application/json").await
}

/// Replaces `path` by `object`.
pub async fn put(client: &kube::Client, path: &str, object: &Value) -> Answer {
    send(client, Method::PUT, path, Some(object), "application/json").await
}

/// Changes parts of `path` (JSON merge patch).
pub async fn patch(client: &kube::Client, path: &str, change: &Value) -> Answer {
    send(client, Method::PATCH, path, Some(change), "application/merge-patch+json").await
}

/// Deletes `path` at once.
pub async fn delete(client: &kube::Client, path: &str) -> Answer {
    let now = serde_json::json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    send(client, Method::DELETE, path, Some(&now), "application/json").await
}

/// Reads text that is not JSON, such as metrics.
pub async fn text(client: &kube::Client, path: &str) -> Result<String, Refused> {
    let request = Request::get(path).body(Vec::new()).expect("a path is a path");
    in_time(client.request_text(request)).await
}

async fn send(client: &kube::Client, method: Method, path: &str, body: Option<&Value>, media: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    if body.is_some() {
        request = request.header(http::header::CONTENT_TYPE, media);
    }
    let body = body.map(|object| serde_json::to_vec(object).expect("JSON can be written")).unwrap_or_default();
    in_time(client.request(request.body(body).expect("a path is a path"))).await
}

/// A connection on which nothing comes any more is told as a broken one.
async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Refused> {
    match tokio::time::timeout(LONGEST, call).await {
        Ok(answer) => answer.map_err(refused),
        Err(_) => Err(Refused { code: 0, message: format!("no answer within {LONGEST:?}") }),
    }
}

/// Longer than the minute after which an API server gives up by itself.
const LONGEST: Duration = Duration::from_secs(70);

/// Only what a server said is an answer. A broken connection is told with code 0, for those who wait for a server to come back.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is trouble on the way")]
fn refused(error: kube::Error) -> Refused {
    match error {
        kube::Error::Api(status) => Refused { code: status.code, message: status.message },
        other => Refused { code: 0, message: format!("{other:?}") },
    }
}
