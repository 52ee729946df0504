//! The demo: a signer at work, two services that talk over certificates that keep changing, and an impostor that is refused.
//!
//! | module | what it does |
//! |---|---|
//! | [`scene`] | who plays: names and objects |
//! | [`ground`], [`real`] | where: the embedded cluster, or a real API server that is left as it was found |
//! | [`tape`] | lists and watches everything from before the first request, for the checker and the view |
//! | [`play`] | what happens, in order |
//! | [`impostor`], [`pair`] | the three forged requests; the two services and their counts |
//! | [`reasons`] | why the signer holds a request, in its own words |
//! | [`view`] | what a person sees |
//! | [`checker`] | the verdict, and the figures of `--json` |
//!
//! Nothing that is reported is taken from the signer's word: the checker holds the API server's objects, the audit log and the two
//! services' own counts against each other.

pub mod args;
pub mod checker;
pub mod ground;
pub mod impostor;
pub mod kinds;
pub mod news;
pub mod pair;
pub mod play;
pub mod real;
pub mod reasons;
pub mod scene;
pub mod summary;
pub mod tape;
pub mod view;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use args::Args;
use checker::check;
use news::Reporter;
use pair::Counts;
use view::Board;

/// Runs the demo and says what was seen. True: no handshake failed, and everything agrees.
pub async fn run(args: &Args) -> Result<bool> {
    let look = args.look();
    let stop = stopped_by_a_signal()?;
    let (reporter, news) = Reporter::new();
    let counts = Counts::default();
    let curtain = CancellationToken::new();
    let seen = counts.clone();
    let view = view::show(Board::new(args.length()), news, look, move || seen.view(), curtain.clone());
    let view = tokio::spawn(view);
    let played = play::play(args, &counts, &reporter, &stop).await;
    curtain.cancel();
    let board = view.await.context("the view failed")?;
    let report = check(&played?);
    view::say(look, &summary::text(&report, &board, &stop, look));
    if args.json {
        summary::print_line(&report.figures)?;
    }
    Ok(report.disagreements.is_empty())
}

/// Ctrl-C and SIGTERM end the demo early, in order. A second one ends it at once.
fn stopped_by_a_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let told = stop.clone();
    tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            match first {
                None => told.cancel(),
                // One key press or `timeout` may reach us twice, through the process group.
                Some(first) if first.elapsed() < SAME_SIGNAL => continue,
                Some(_) => {
                    // Standard error may be closed; there is nobody left to tell then. 130: as a shell reports SIGINT.
                    writeln!(std::io::stderr(), "demo: ended at once; what it made is left behind").ok();
                    std::process::exit(130);
                }
            }
            first = Some(Instant::now());
        }
    });
    Ok(stop)
}

/// Nobody presses a key twice as fast.
const SAME_SIGNAL: Duration = Duration::from_millis(300);
