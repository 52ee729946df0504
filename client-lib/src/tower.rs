//! Rules for single routes: a tower layer that asks an authorizer about each request. Feature `tower`.
//!
//! The server's authorizer decides in the handshake who gets a connection. This one decides, request by request, what that peer may do with it. It needs the peer in the
//! request's extensions, where [`podmint::hyper::serve`](crate::hyper::serve) puts it, and answers 401 without it, 403 where the rule says no. gRPC
//! clients read these as UNAUTHENTICATED and PERMISSION_DENIED.
//!
//! ```
//! # use podmint::Authorizer;
//! # let domain: podmint::TrustDomain = "prod.example.org".parse()?;
//! let app: axum::Router = axum::Router::new()
//!     .route("/refund", axum::routing::post(|| async { "refunded" }))
//!     .route_layer(podmint::tower::RequirePeer::new(Authorizer::k8s(&domain, "shop", "till")?))
//!     .route("/price", axum::routing::get(|| async { "12" })); // for everybody whom the handshake let in
//! # Ok::<(), podmint::BadSpiffeId>(())
//! ```

use crate::authorize::Authorizer;
use crate::peer::PeerIdentity;
use http::{Request, Response, StatusCode};
use std::future::Ready;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower_layer::Layer;
use tower_service::Service;

/// Lets a request through if its peer is allowed. A [swappable](Authorizer::swappable) rule is followed from one request to the next.
#[derive(Debug, Clone)]
pub struct RequirePeer {
    rule: Authorizer,
}

impl RequirePeer {
    /// Requires a peer that this rule lets in.
    pub fn new(rule: Authorizer) -> Self {
        Self { rule }
    }
}

impl<S> Layer<S> for RequirePeer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { rule: self.rule.clone(), inner }
    }
}

/// A service behind [`RequirePeer`].
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    rule: Authorizer,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Answer<S::Future, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let status = match request.extensions().get::<PeerIdentity>() {
            Some(peer) if self.rule.allows(peer) => return Answer::Asked(Box::pin(self.inner.call(request))),
            Some(peer) => {
                tracing::info!(%peer, rule = %self.rule, path = request.uri().path(), "a request was refused");
                StatusCode::FORBIDDEN
            }
            None => StatusCode::UNAUTHORIZED,
        };
        let mut refusal = Response::new(R::default());
        *refusal.status_mut() = status;
        Answer::Refused(std::future::ready(Ok(refusal)))
    }
}

/// The answer of a [`Guarded`] service.
#[derive(Debug)]
pub enum Answer<F, O> {
    /// The service's own.
    Asked(Pin<Box<F>>),
    /// A refusal.
    Refused(Ready<O>),
}

impl<F: Future<Output = O>, O> Future for Answer<F, O> {
    type Output = O;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O> {
        match self.get_mut() {
            Self::Asked(answer) => answer.as_mut().poll(cx),
            Self::Refused(answer) => Pin::new(answer).poll(cx),
        }
    }
}
