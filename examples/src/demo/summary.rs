//! The last words: what was just shown, whether it holds, and where to go next.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use super::args::Look;
use super::checker::{Figures, Report};
use super::scene;
use super::view::{Board, Line, Tone, paint, short};

/// What a person reads at the end.
#[must_use]
pub fn text(report: &Report, board: &Board, stop: &CancellationToken, look: Look) -> String {
    let mut lines = vec![Vec::new()];
    if stop.is_cancelled() {
        lines.push(vec![(Tone::Strong, "Stopped early; everything was ended in order.".to_owned())]);
        lines.push(Vec::new());
    }
    lines.extend(seen(report, board));
    lines.push(Vec::new());
    lines.extend(verdict(&report.disagreements));
    lines.push(Vec::new());
    lines.extend(next());
    lines.into_iter().fold(String::new(), |mut text, line| {
        // Writing to a String cannot fail.
        writeln!(text, "{}", paint(&line, look.coloured)).ok();
        text
    })
}

fn seen(report: &Report, board: &Board) -> Vec<Line> {
    let figures = &report.figures;
    let mut lines = vec![vec![(Tone::Strong, "What you just saw".to_owned())]];
    let mut say = |text: String| lines.push(vec![(Tone::Plain, format!("  {text}"))]);
    say(format!(
        "The signer answered {} certificate requests: {} issued ({} of them renewals), {} denied. It holds {}.",
        figures.requests.saturating_sub(figures.held),
        figures.issued,
        figures.renewals,
        figures.denied,
        figures.held
    ));
    if let Some(took) = board.answer_time() {
        say(format!("Half of the certificates were there within {} of being asked for.", short(took)));
    }
    say(format!(
        "{} and {} completed {} mTLS handshakes over these certificates; {} failed.",
        scene::CLIENT.name,
        scene::SERVER.name,
        figures.handshakes,
        figures.failed_handshakes
    ));
    say("Neither service was restarted, and neither ever held a secret that lives for more than a day.".to_owned());
    if report.refused > 0 {
        say(format!(
            "An impostor asked {} times for a certificate of {} and got none.",
            report.refused,
            scene::SERVER.name
        ));
    }
    if figures.held > 0 {
        say(format!(
            "{}/{} is held, not denied: a rule in the PodSigner would have it issued, with no pod made anew.",
            scene::NEWCOMER.namespace,
            scene::NEWCOMER.name
        ));
    }
    say(board.guard_note().to_owned());
    lines
}

fn verdict(disagreements: &[String]) -> Vec<Line> {
    if disagreements.is_empty() {
        let text = "Checked: API objects, audit log and the services' own counts agree.";
        return vec![vec![(Tone::Good, text.to_owned())]];
    }
    let mut lines = vec![vec![(Tone::Bad, format!("CHECK FAILED: {} things do not agree", disagreements.len()))]];
    lines.extend(disagreements.iter().take(MOST).map(|one| vec![(Tone::Bad, format!("  {one}"))]));
    if let Some(more) = disagreements.len().checked_sub(MOST).filter(|more| *more > 0) {
        lines.push(vec![(Tone::Bad, format!("  and {more} more"))]);
    }
    lines
}

fn next() -> Vec<Line> {
    let mut lines = vec![vec![(Tone::Strong, "Where to go next".to_owned())]];
    for (what, why) in [
        ("README.md", "what Podmint is, and the four answers it gives"),
        ("cargo run --release --bin demo -- --json", "the same, with one line for machines at the end"),
        (
            "cargo run --release --bin demo -- --kubeconfig FILE",
            "the same, on a real API server that you can throw away",
        ),
        ("examples/src/echo.rs", "the two services: how yours would do it"),
        ("cargo doc --open -p podmint", "the client library"),
    ] {
        lines.push(vec![(Tone::Plain, format!("  {what:<52}")), (Tone::Faint, why.to_owned())]);
    }
    lines
}

/// The one line for machines.
pub fn print_line(figures: &Figures) -> Result<()> {
    let line = serde_json::to_string(figures).context("the figures cannot be written as JSON")?;
    writeln!(std::io::stdout(), "{line}").context("could not write the figures")
}

/// More would only scroll the first, which is the cause, off the screen.
const MOST: usize = 20;
