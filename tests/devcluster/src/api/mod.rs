//! The API server: in memory, one resourceVersion counter, HTTP on loopback.

pub(crate) mod access;
pub(crate) mod admit;
pub(crate) mod failure;
pub(crate) mod fault;
pub(crate) mod kind;
pub(crate) mod object;
pub(crate) mod read;
pub(crate) mod route;
pub(crate) mod selector;
pub(crate) mod server;
pub(crate) mod store;
pub(crate) mod write;
