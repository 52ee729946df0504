//! One call to the API server: a method, a path and JSON in; JSON or a [`CallError`] out. Every call has a time limit and a size
//! limit, and every reply sets the clock.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    Method, Request, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::BodyExt;
use hyper_timeout::TimeoutConnector;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use kube::client::{Body, ConfigExt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tower::{BoxError, ServiceBuilder};

use super::{bearer::TokenFile, clock::ServerClock};

/// A way to the API server: kube's, without its retries, and with connections that keep little. One that has brought a page of a list would
/// otherwise keep 400 KB from then on, and in time each of them has. A token in a file is read anew by the time that passes here, and not by
/// the time of day.
///
/// # Errors
/// When the API server is only reached through a proxy, or what the configuration names to authenticate with cannot be used.
pub fn client(config: kube::Config) -> Result<kube::Client, kube::Error> {
    if let Some(proxy_url) = config.proxy_url.clone().map(Box::new) {
        return Err(kube::Error::ProxyProtocolUnsupported { proxy_url });
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut tls = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    tls.set_connect_timeout(config.connect_timeout);
    let mut http = hyper_util::client::legacy::Builder::new(TokioExecutor::new());
    let http = http.http1_max_buf_size(READ_AT_ONCE).build(tls);
    let token = TokenFile::of(&config.auth_info).map(TokenFile::open).transpose().map_err(kube::Error::Auth)?;
    let other = if token.is_some() { None } else { config.auth_layer()? };
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(config.extra_headers_layer()?)
        .option_layer(token)
        .option_layer(other);
    Ok(kube::Client::new(service.map_err(BoxError::from).service(http), config.default_namespace))
}

/// How much of an object is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Whole,
    Metadata,
}

/// The way to the API server that all parts of the signer share.
#[derive(Clone)]
pub(crate) struct Calls {
    client: kube::Client,
    clock: ServerClock,
}

impl Calls {
    pub(crate) fn new(client: kube::Client, clock: ServerClock) -> Self {
        Self { client, clock }
    }

    pub(crate) fn clock(&self) -> &ServerClock {
        &self.clock
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        decode(&self.get_bytes(path).await?)
    }

    /// The same, of an object's metadata only where that is all that counts.
    pub(crate) async fn get_part<T: DeserializeOwned>(&self, path: &str, part: Part) -> Result<T, CallError> {
        let accept = match part {
            Part::Whole => JSON,
            Part::Metadata => METADATA,
        };
        decode(&self.call(Method::GET, path, accept, None).await?)
    }

    /// The reply as it came, for those who read it in parts.
    pub(crate) async fn get_bytes(&self, path: &str) -> Result<Bytes, CallError> {
        self.call(Method::GET, path, JSON, None).await
    }

    pub(crate) async fn create<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CallError> {
        decode(&self.call(Method::POST, path, JSON, Some(encode(body)?)).await?)
    }

    pub(crate) async fn replace<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CallError> {
        decode(&self.call(Method::PUT, path, JSON, Some(encode(body)?)).await?)
    }

    /// Replaces and asks for the metadata alone in return: a status that we wrote need not come back to be known.
    pub(crate) async fn replace_briefly(&self, path: &str, body: &impl Serialize) -> Result<(), CallError> {
        self.call(Method::PUT, path, METADATA, Some(encode(body)?)).await.map(drop)
    }

    /// Changes what is named and leaves the rest (a JSON merge patch).
    pub(crate) async fn merge<T: DeserializeOwned>(&self, path: &str, change: &impl Serialize) -> Result<T, CallError> {
        decode(&self.call(Method::PATCH, path, JSON, Some(encode(change)?)).await?)
    }

    /// Opens a stream of lines. Only its opening has a time limit here.
    pub(crate) async fn open(&self, path: &str) -> Result<Body, CallError> {
        let opened = async {
            let reply = self.send(Method::GET, path, JSON, None).await?;
            if reply.status() == StatusCode::OK {
                return Ok(reply.into_body());
            }
            refused(reply).await
        };
        within(CALL_LIMIT, opened).await
    }

    async fn call(&self, method: Method, path: &str, accept: &str, body: Option<Vec<u8>>) -> Result<Bytes, CallError> {
        let called = async {
            let reply = self.send(method, path, accept, body).await?;
            if !reply.status().is_success() {
                return refused(reply).await;
            }
            collect(reply.into_body(), REPLY_LIMIT).await
        };
        within(CALL_LIMIT, called).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Body>, CallError> {
        let media = if method == Method::PATCH { MERGE } else { JSON };
        let mut request = Request::builder().method(method).uri(path).header(ACCEPT, accept);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, media);
        }
        let request = request.body(Body::from(body.unwrap_or_default())).map_err(CallError::Path)?;
        let asked = Instant::now();
        let reply = self.client.send(request).await.map_err(CallError::Unreachable)?;
        self.clock.hear(reply.headers(), asked, Instant::now());
        Ok(reply)
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(CallError::Late(limit)))
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, CallError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(CallError::Unreachable)?;
        if let Ok(data) = frame.into_data() {
            if whole.len().saturating_add(data.len()) > limit {
                return Err(CallError::TooLong(limit));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

async fn refused<T>(reply: Response<Body>) -> Result<T, CallError> {
    let code = reply.status();
    let retry_after = reply
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(|seconds: u64| Duration::from_secs(seconds.min(LONGEST_RETRY_AFTER)));
    let body = collect(reply.into_body(), REFUSAL_LIMIT).await.unwrap_or_default();
    let status = serde_json::from_slice(&body).unwrap_or_else(|_| Status {
        // A proxy between us and the API server answers in words of its own.
        message: String::from_utf8_lossy(&body).chars().take(200).collect(),
        ..Status::default()
    });
    Err(CallError::Refused(Box::new(Refused { code, retry_after, status })))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(bytes).map_err(CallError::Reply)
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(body).map_err(CallError::Body)
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It may have been carried out all the same.
    #[error("no answer from the API server within {0:?}")]
    Late(Duration),
    /// It may have been carried out all the same.
    #[error("could not reach the API server")]
    Unreachable(#[source] kube::Error),
    /// The API server said no.
    #[error("{0}")]
    Refused(Box<Refused>),
    /// The reply is not what we asked for.
    #[error("could not read the API server's reply")]
    Reply(#[source] serde_json::Error),
    /// More than anything we ask for can be.
    #[error("the API server's reply is longer than {0} bytes")]
    TooLong(usize),
    /// The body could not be written.
    #[error("could not write the request to the API server")]
    Body(#[source] serde_json::Error),
    /// The path is none.
    #[error("could not form the request to the API server")]
    Path(#[source] http::Error),
}

/// The API server's own words.
#[derive(Debug)]
pub(crate) struct Refused {
    code: StatusCode,
    retry_after: Option<Duration>,
    status: Status,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the API server answered {}: {}", self.code.as_u16(), self.status.message)
    }
}

/// The part of the API's `Status` that we act on.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    #[serde(default)]
    pub(crate) code: u16,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(default)]
    name: String,
    #[serde(default)]
    causes: Vec<Cause>,
    #[serde(default)]
    retry_after_seconds: u64,
}

#[derive(Debug, Default, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    field: String,
}

impl CallError {
    fn refusal(&self) -> Option<&Refused> {
        match self {
            Self::Refused(refused) => Some(refused),
            Self::Late(_)
            | Self::Unreachable(_)
            | Self::Reply(_)
            | Self::TooLong(_)
            | Self::Body(_)
            | Self::Path(_) => None,
        }
    }

    fn code(&self) -> Option<StatusCode> {
        self.refusal().map(|refused| refused.code)
    }

    /// The object asked for is not there, though its kind is served.
    pub(crate) fn is_absent(&self) -> bool {
        self.refusal().is_some_and(|refused| refused.code == StatusCode::NOT_FOUND && refused.names_an_object())
    }

    /// The kind or its version is not served here: time to discover again.
    pub(crate) fn is_unserved(&self) -> bool {
        self.refusal().is_some_and(|refused| refused.code == StatusCode::NOT_FOUND && !refused.names_an_object())
    }

    pub(crate) fn is_conflict(&self) -> bool {
        self.code() == Some(StatusCode::CONFLICT)
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        self.code() == Some(StatusCode::FORBIDDEN)
    }

    /// The resourceVersion or continue token is too old.
    pub(crate) fn is_expired(&self) -> bool {
        self.code() == Some(StatusCode::GONE)
    }

    pub(crate) fn is_invalid(&self) -> bool {
        self.code() == Some(StatusCode::UNPROCESSABLE_ENTITY)
    }

    /// Somebody else's answer stands already, and answers are final.
    pub(crate) fn is_immutable(&self) -> bool {
        self.is_invalid()
            && self
                .refusal()
                .is_some_and(|refused| refused.any_cause(|cause| cause.message.contains("immutable after")))
    }

    /// The status strategy found that we lack `sign` on the signer name; it says so as an invalid field.
    pub(crate) fn lacks_sign(&self) -> bool {
        self.is_invalid()
            && self
                .refusal()
                .is_some_and(|refused| refused.any_cause(|cause| cause.field == "spec.signerName" && cause.forbids()))
    }

    /// The API server has more to do than it can; fewer calls at a time would help.
    pub(crate) fn is_overload(&self) -> bool {
        matches!(self, Self::Late(_))
            || matches!(
                self.code(),
                Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
            )
    }

    /// The call may have been carried out although we were not told so.
    pub(crate) fn may_have_landed(&self) -> bool {
        match self {
            Self::Late(_) | Self::Unreachable(_) | Self::Reply(_) | Self::TooLong(_) => true,
            Self::Refused(refused) => refused.code.is_server_error(),
            Self::Body(_) | Self::Path(_) => false,
        }
    }

    /// How long the API server asks us to stay away.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let refused = self.refusal()?;
        let told = refused.status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        refused.retry_after.or((told > 0).then(|| Duration::from_secs(told.min(LONGEST_RETRY_AFTER))))
    }
}

/// How long to stay away after a failure: for as long as the API server asks, if it does, and then for our own wait, which spreads those
/// who were sent away together.
pub(crate) fn stay_away(asked: Option<Duration>, wait: Duration) -> Duration {
    asked.unwrap_or_default().saturating_add(wait)
}

impl Refused {
    /// For an object the API server names it; for an unknown path it has nothing to name.
    fn names_an_object(&self) -> bool {
        self.status.details.as_ref().is_some_and(|details| !details.name.is_empty())
    }

    fn any_cause(&self, test: impl Fn(&Cause) -> bool) -> bool {
        self.status.details.as_ref().is_some_and(|details| details.causes.iter().any(test))
    }
}

impl Cause {
    fn forbids(&self) -> bool {
        self.reason == "FieldValueForbidden" || self.message.starts_with("Forbidden")
    }
}

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// An API server keeps a request no longer than a minute, and queues it at most a quarter of that; a reply later than this is lost.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// A page of a list is the longest reply we ask for; see `watch` for what happens when it is longer.
pub(crate) const REPLY_LIMIT: usize = 8 << 20;
const REFUSAL_LIMIT: usize = 256 << 10;
/// Two records of TLS.
const READ_AT_ONCE: usize = 32 << 10;
/// Seconds. Nobody sends us away for longer than a pod waits for its first mount to be tried again.
const LONGEST_RETRY_AFTER: u64 = 120;

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn refused(code: u16, status: serde_json::Value) -> CallError {
        let code = StatusCode::from_u16(code).unwrap();
        CallError::Refused(Box::new(Refused {
            code,
            retry_after: None,
            status: serde_json::from_value(status).unwrap(),
        }))
    }

    /// As a load balancer does whose API server is gone.
    #[tokio::test]
    async fn who_takes_a_connection_and_says_nothing_is_given_up() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = kube::Config::new(format!("https://{}", silent.local_addr().unwrap()).parse().unwrap());
        config.connect_timeout = Some(Duration::from_millis(50));
        let calls = Calls::new(client(config).unwrap(), ServerClock::default());
        let answer = tokio::time::timeout(CALL_LIMIT / 2, calls.get_bytes("/version")).await;
        assert!(matches!(answer, Ok(Err(CallError::Unreachable(_)))), "{answer:?}");
    }

    /// kube's own way would show the first token for another minute.
    #[tokio::test]
    async fn a_token_in_a_file_is_read_anew_when_it_is_refused() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one").unwrap();
        let mut config = kube::Config::new(format!("http://{}", server.local_addr().unwrap()).parse().unwrap());
        config.auth_info.token_file = Some(file.path().to_str().unwrap().to_owned());
        let calls = Calls::new(client(config).unwrap(), ServerClock::default());
        tokio::spawn(async move {
            loop {
                let (mut connection, _) = server.accept().await.unwrap();
                let mut heard = vec![0; 4096];
                let length = connection.read(&mut heard).await.unwrap();
                let is_known = String::from_utf8_lossy(&heard[..length]).contains("authorization: Bearer two\r\n");
                let status = if is_known { "200 OK" } else { "401 Unauthorized" };
                let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
                connection.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        std::fs::write(file.path(), "two").unwrap();
        let refused = calls.get_bytes("/version").await.unwrap_err();
        assert_eq!(refused.code(), Some(StatusCode::UNAUTHORIZED));
        assert_eq!(calls.get_bytes("/version").await.unwrap(), "{}");
    }

    #[test]
    fn an_api_server_behind_a_proxy_is_refused() {
        let mut config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
        config.proxy_url = Some("http://proxy.example.org:3128".parse().unwrap());
        let error = client(config).map(drop).unwrap_err();
        assert!(error.to_string().contains("proxy.example.org"), "{error}");
    }

    /// In the words of kube-apiserver 1.37.2.
    #[test]
    fn a_missing_object_and_a_missing_path_are_told_apart() {
        let object = refused(404, json!({"reason": "NotFound", "details": {"name": "web", "kind": "pods"}}));
        assert!(object.is_absent() && !object.is_unserved());
        let path = refused(404, json!({"reason": "NotFound", "details": {}}));
        assert!(path.is_unserved() && !path.is_absent());
        let plain = refused(404, json!({"message": "404 page not found"}));
        assert!(plain.is_unserved() && !plain.is_absent());
    }

    #[test]
    fn the_kinds_of_422_are_told_apart() {
        let beaten = "Invalid value: …: immutable after PodCertificateRequest is issued, denied, or failed";
        let beaten = refused(422, json!({"details": {"causes": [{"field": "status", "message": beaten}]}}));
        assert!(beaten.is_immutable() && !beaten.lacks_sign());
        let ours =
            "Invalid value: …: status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"";
        let ours = refused(422, json!({"details": {"causes": [{"field": "status", "message": ours}]}}));
        assert!(!ours.is_immutable() && ours.is_invalid());
        let sign = "Forbidden: User \"x\" is not permitted to \"sign\" for signer \"podmint.dev/workload\"";
        let cause = json!({"reason": "FieldValueForbidden", "field": "spec.signerName", "message": sign});
        let sign = refused(422, json!({"details": {"causes": [cause]}}));
        assert!(sign.lacks_sign() && !sign.is_immutable());
    }

    #[test]
    fn overload_and_its_wait_are_heard() {
        let busy = refused(429, json!({"details": {"retryAfterSeconds": 7}}));
        assert!(busy.is_overload() && !busy.may_have_landed());
        assert_eq!(busy.retry_after(), Some(Duration::from_secs(7)));
        let long = refused(429, json!({"details": {"retryAfterSeconds": 86_400}}));
        assert_eq!(long.retry_after(), Some(Duration::from_secs(LONGEST_RETRY_AFTER)));
        assert!(CallError::Late(CALL_LIMIT).is_overload() && CallError::Late(CALL_LIMIT).may_have_landed());
        assert!(refused(500, json!({})).may_have_landed() && !refused(409, json!({})).may_have_landed());
    }
}
