//! The verified identity of the other end, as the application sees it.

use crate::spiffe::{SpiffeId, TrustDomain};
use crate::svid;
use crate::x509::{self, Facts};
use rustls_pki_types::UnixTime;
use std::fmt;

/// Who is on the other end of a connection. Its `Display` is the SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    id: SpiffeId,
    serial: String,
    not_after: UnixTime,
}

impl PeerIdentity {
    pub(crate) fn new(id: SpiffeId, leaf: &Facts<'_>) -> Self {
        Self { id, serial: x509::hex(leaf.serial), not_after: leaf.not_after }
    }

    /// The peer of a finished handshake that was made with a config of this library.
    ///
    /// For frameworks that hand you the rustls connection. It reads the certificate and verifies nothing: on a connection made with another config, which did not
    /// verify the peer, what it returns proves nothing. Nothing comes back while the handshake is under way.
    pub fn of_verified(connection: &rustls::CommonState) -> Option<Self> {
        if connection.is_handshaking() {
            return None;
        }
        let leaf = connection.peer_certificates()?.first()?;
        let facts = Facts::read(leaf).ok()?;
        let id = svid::identity(&facts).ok()?;
        Some(Self::new(id, &facts))
    }

    /// The SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The trust domain that vouches for it.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.id.trust_domain()
    }

    /// Namespace and ServiceAccount, if the ID has the shape that Podmint's signer gives.
    pub fn kubernetes(&self) -> Option<(&str, &str)> {
        self.id.kubernetes()
    }

    /// The serial number of its certificate in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// When its certificate expires.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    #[cfg(test)]
    pub(crate) fn for_test(id: SpiffeId) -> Self {
        let not_after = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1));
        Self { id, serial: "01".into(), not_after }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}
