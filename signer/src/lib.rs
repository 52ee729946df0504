//! The Podmint signer.

mod chain;
pub mod names;
pub mod config;
pub mod cluster;
pub mod pipeline;
pub mod authority;
pub mod pace;
pub mod args;
pub mod audit;
mod controller;
mod health;
pub mod metrics;
pub mod run;
mod vitals;
