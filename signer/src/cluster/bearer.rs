//! The token that a pod is known by, from the file where the kubelet renews it. It is read anew when a minute has passed, and at once when
//! the API server does not know it any more. kube's own way goes by the time of day: where that is set back by an hour, it sends a
//! token that has run out for as long.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use kube::{client::AuthError, config::AuthInfo};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::chain::Chain;

/// A file with a token. All clones are one.
#[derive(Clone)]
pub(super) struct TokenFile {
    path: Arc<Path>,
    latest: Arc<Mutex<Latest>>,
}

/// What was read of it last.
struct Latest {
    header: HeaderValue,
    read: Instant,
    /// The API server did not know it.
    is_refused: bool,
    /// It could not be read again, and that was said.
    is_missed: bool,
}

impl TokenFile {
    /// The file that a client of this configuration is to be known by, if that is what kube would choose, too.
    pub(super) fn of(info: &AuthInfo) -> Option<&Path> {
        let is_other =
            info.auth_provider.is_some() || info.username.is_some() && info.password.is_some() || info.token.is_some();
        info.token_file.as_deref().filter(|_| !is_other).map(Path::new)
    }

    /// # Errors
    /// When there is no token to begin with.
    pub(super) fn open(path: &Path) -> Result<Self, AuthError> {
        let latest = Latest { header: read(path)?, read: Instant::now(), is_refused: false, is_missed: false };
        Ok(Self { path: path.into(), latest: Arc::new(Mutex::new(latest)) })
    }

    /// Whoever puts a token there may take the file away again, or be in the middle of writing it: the last one counts on.
    fn header(&self) -> HeaderValue {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.is_refused || latest.read.elapsed() >= EVERY {
            latest.read = Instant::now();
            latest.is_refused = false;
            match read(&self.path) {
                Ok(header) => (latest.header, latest.is_missed) = (header, false),
                Err(error) => {
                    if !std::mem::replace(&mut latest.is_missed, true) {
                        tracing::warn!(error = %Chain(&error), "cannot read our token anew; the last one is used on");
                    }
                }
            }
        }
        latest.header.clone()
    }

    fn refused(&self) {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).is_refused = true;
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, latest: _ } = self;
        f.debug_struct("TokenFile").field("path", path).finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<HeaderValue, AuthError> {
    let unread = |error| AuthError::ReadTokenFile(error, PathBuf::from(path));
    let text = std::fs::read_to_string(path).map_err(unread)?;
    let token = text.trim();
    if token.is_empty() {
        return Err(unread(io::Error::new(io::ErrorKind::InvalidData, "it is empty")));
    }
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(AuthError::InvalidBearerToken)?;
    header.set_sensitive(true);
    Ok(header)
}

impl<S> Layer<S> for TokenFile {
    type Service = Bearer<S>;

    fn layer(&self, inner: S) -> Bearer<S> {
        Bearer { inner, token: self.clone() }
    }
}

/// Shows the token with each call. A call that is refused for it fails as any other: whoever needs it tries again, with the next one.
#[derive(Clone, Debug)]
pub(super) struct Bearer<S> {
    inner: S,
    token: TokenFile,
}

impl<S, B, R> Service<Request<B>> for Bearer<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.headers_mut().insert(AUTHORIZATION, self.token.header());
        let (called, token) = (self.inner.call(request), self.token.clone());
        Box::pin(async move {
            let reply = called.await?;
            if reply.status() == StatusCode::UNAUTHORIZED {
                token.refused();
            }
            Ok(reply)
        })
    }
}

/// As often as kube and client-go do. A kubelet puts another token there when a fifth of its life is left: two minutes at least.
const EVERY: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt;

    use super::*;

    /// A call: with what it was known, where the API server knows this token alone.
    async fn call(token: &TokenFile, known: &'static str) -> String {
        let server = tower::service_fn(move |request: Request<()>| async move {
            let shown = request.headers()[AUTHORIZATION].to_str().unwrap().to_owned();
            let code = if shown == format!("Bearer {known}") { 200 } else { 401 };
            Ok::<_, Infallible>(Response::builder().status(code).body(shown).unwrap())
        });
        let reply = token.layer(server).oneshot(Request::new(())).await.unwrap();
        format!("{} {}", reply.status().as_u16(), reply.body())
    }

    fn written(token: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), token).unwrap();
        file
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_read_anew_when_a_minute_has_passed_whatever_the_time_of_day() {
        let file = written("one\n");
        let token = TokenFile::open(file.path()).unwrap();
        std::fs::write(file.path(), "two").unwrap();
        assert_eq!(call(&token, "one").await, "200 Bearer one");
        tokio::time::advance(EVERY.saturating_sub(Duration::from_millis(1))).await;
        assert_eq!(call(&token, "one").await, "200 Bearer one");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(call(&token, "two").await, "200 Bearer two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_not_known_any_more_is_read_anew_at_once() {
        let file = written("one");
        let token = TokenFile::open(file.path()).unwrap();
        std::fs::write(file.path(), "two").unwrap();
        assert_eq!(call(&token, "two").await, "401 Bearer one");
        assert_eq!(call(&token, "two").await, "200 Bearer two");
        std::fs::write(file.path(), "three").unwrap();
        assert_eq!(call(&token, "two").await, "200 Bearer two", "a token that is known is read no sooner for it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_read_leaves_the_last_token() {
        let file = written("one");
        let token = TokenFile::open(file.path()).unwrap();
        for spoilt in [" \n", "o\0e"] {
            std::fs::write(file.path(), spoilt).unwrap();
            tokio::time::advance(EVERY).await;
            assert_eq!(call(&token, "one").await, "200 Bearer one");
        }
        std::fs::remove_file(file.path()).unwrap();
        tokio::time::advance(EVERY).await;
        assert_eq!(call(&token, "one").await, "200 Bearer one");
        std::fs::write(file.path(), "two").unwrap();
        tokio::time::advance(EVERY).await;
        assert_eq!(call(&token, "two").await, "200 Bearer two");
    }

    #[test]
    fn no_token_is_shown_to_whoever_debugs() {
        let token = TokenFile::open(written("hush").path()).unwrap();
        let shown = format!("{:?} {:?}", token.layer(()), token.header());
        assert!(!shown.contains("hush"), "{shown}");
        let broken = format!("{:?}", TokenFile::open(written("hush\0").path()).unwrap_err());
        assert!(!broken.contains("hush"), "{broken}");
    }

    #[test]
    fn who_is_known_by_something_else_is_left_to_kube() {
        let info = AuthInfo { token_file: Some("/token".to_owned()), ..AuthInfo::default() };
        assert_eq!(TokenFile::of(&info), Some(Path::new("/token")));
        assert_eq!(TokenFile::of(&AuthInfo::default()), None);
        let (one, two) = (Some("x".to_owned()), || Some("x".to_owned().into()));
        assert_eq!(TokenFile::of(&AuthInfo { token: two(), ..info.clone() }), None);
        assert_eq!(TokenFile::of(&AuthInfo { username: one.clone(), password: two(), ..info.clone() }), None);
        assert!(TokenFile::of(&AuthInfo { username: one, ..info }).is_some());
    }
}
