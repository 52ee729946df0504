//! What server and client builders have in common, written once.

use crate::authorize::Authorizer;
use crate::handshake::Limits;
use crate::identity::PodIdentity;
use crate::tls::Parts;
use std::time::Duration;

/// The choices of one server or client.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) parts: Parts,
    pub(crate) limits: Limits,
    pub(crate) max_age: Option<Duration>,
}

impl Settings {
    pub(crate) fn new(identity: PodIdentity, authorizer: Authorizer) -> Self {
        Self { parts: Parts::new(identity, authorizer), limits: Limits::default(), max_age: None }
    }

    /// The protocols of a framework, unless others were chosen.
    #[cfg(any(feature = "hyper", feature = "reqwest"))]
    pub(crate) fn default_alpn(&mut self, protocols: &[&str]) {
        if self.parts.alpn.is_empty() {
            self.parts.alpn = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        }
    }
}

/// The methods of a builder with a field `settings`.
macro_rules! setters {
    ($builder:ty) => {
        impl $builder {
            /// The application protocols (RFC 7301), the preferred one first.
            #[must_use]
            pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
                self.settings.parts.alpn = protocols.into_iter().map(Into::into).collect();
                self
            }

            /// Speaks TLS 1.2, too, for peers that have no TLS 1.3. Without this only TLS 1.3 is spoken.
            ///
            /// TLS 1.2 shows certificates, and with them who talks to whom, to whoever listens on the wire; and it has no post-quantum key exchange. Its sessions
            /// are not resumed either, and the extended master secret (RFC 7627) is required.
            #[must_use]
            pub fn allow_tls12(mut self) -> Self {
                self.settings.parts.tls12 = true;
                self
            }

            /// How long a handshake may take (10 s).
            #[must_use]
            pub fn handshake_timeout(mut self, timeout: std::time::Duration) -> Self {
                self.settings.limits.timeout = timeout;
                self
            }

            /// How many handshakes may be under way at once (1024).
            #[must_use]
            pub fn max_handshakes(mut self, at_once: usize) -> Self {
                self.settings.limits.at_once = at_once;
                self
            }

            /// The greatest age of a connection, ten per cent more or less. In any case a connection ends with its peer's certificate.
            #[must_use]
            pub fn max_connection_age(mut self, age: std::time::Duration) -> Self {
                self.settings.max_age = Some(age);
                self
            }
        }
    };
}
pub(crate) use setters;
