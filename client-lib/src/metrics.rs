//! Figures through the [`metrics`](https://docs.rs/metrics) facade. Feature `metrics`.
//!
//! Install an exporter as you would anyway; the figures appear in it. Two identities in one process share them: a gauge then shows the one that wrote last. Handshakes made with a
//! bare rustls config are not counted; those of acceptors, connectors, listeners and the HTTP modules are.

pub use crate::meter::{FIGURES, Figure};
