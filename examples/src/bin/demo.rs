//! `cargo run --release --bin demo`: see [`podmint_examples::demo`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use podmint_examples::demo;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = demo::args::Args::parse();
    // The screen belongs to the demo; RUST_LOG brings the log of everything in it to standard error.
    if let Ok(filter) = EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    match played(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            // Standard error may be closed; the exit status says it, too.
            writeln!(std::io::stderr(), "demo: {why:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn played(args: &demo::args::Args) -> anyhow::Result<bool> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.install_default().map_err(|_installed| anyhow::anyhow!("another crypto provider is installed already"))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(demo::run(args))
}
