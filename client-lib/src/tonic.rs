//! tonic: the peer of a call, and a channel whose connections follow the credentials. Feature `tonic`.
//!
//! tonic's own transport is not needed. Generated servers, and `Routes` of several, are tower services for [`podmint::hyper::serve`](crate::hyper::serve); generated clients take
//! a [`Channel`] in `with_origin(channel, uri)`, where the URI is `https`.

use crate::client::ClientBuilder;
use crate::hyper::Client;
use crate::peer::PeerIdentity;
use ::tonic::{Request, Status};

/// A pooling HTTP/2 client for tonic's generated clients.
pub type Channel = Client<::tonic::body::Body>;

/// A channel to whichever server an origin names. A rotation, changed trust and a server's GOAWAY make new calls use a new connection; calls under way are finished.
///
/// # Errors
/// The crypto provider has no TLS 1.3.
pub fn channel(client: ClientBuilder) -> Result<Channel, rustls::Error> {
    Channel::new(client.alpn(["h2"]), true)
}

/// Who calls.
///
/// # Errors
/// UNAUTHENTICATED where the request has no peer, which happens only behind another server than [`podmint::hyper::serve`](crate::hyper::serve).
pub fn peer<T>(request: &Request<T>) -> Result<&PeerIdentity, Box<Status>> {
    let peer = request.extensions().get();
    peer.ok_or_else(|| Box::new(Status::unauthenticated("the connection has no verified peer")))
}
