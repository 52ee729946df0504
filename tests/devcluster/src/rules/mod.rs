//! The API server's rules for certificate requests, trust bundles and projected sources, written from `pod-certificates.md`
//! and the Go sources, and independently of the signer's own copy: the two check each other.

pub(crate) mod answer;
pub(crate) mod bundle;
pub(crate) mod key;
pub(crate) mod names;
pub(crate) mod pem;
pub(crate) mod pod;
pub(crate) mod pss;
pub(crate) mod request;
pub(crate) mod x509;

#[cfg(test)]
mod tests;
