//! axum: [`PeerIdentity`] as an extractor. Feature `axum`.
//!
//! Serve a `Router` with [`podmint::hyper::serve`](crate::hyper::serve), which closes connections in good order before they end; `axum::serve` cannot. A handler that asks for a
//! `PeerIdentity` answers 401 where there is none, which happens only behind another server; `Option<PeerIdentity>` takes both.
//!
//! ```
//! use podmint::PeerIdentity;
//! async fn hello(peer: PeerIdentity) -> String {
//!     format!("hello {peer}")
//! }
//! let app: axum::Router = axum::Router::new().route("/", axum::routing::get(hello));
//! ```

use crate::peer::PeerIdentity;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use http::StatusCode;
use http::request::Parts;
use std::convert::Infallible;

impl<S: Sync> FromRequestParts<S> for PeerIdentity {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or((StatusCode::UNAUTHORIZED, "the connection has no verified peer"))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for PeerIdentity {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}
