//! What a person typed. The only place of the demo that reads the environment and asks what the terminal is.

use std::io::{IsTerminal, stderr, stdout};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// A signer, two nodes and two services that talk mTLS while their certificates renew every few seconds.
///
/// Needs no Kubernetes: it starts an embedded cluster in this process, on loopback, and leaves nothing behind.
#[derive(Debug, Clone, Parser)]
#[command(name = "demo", version)]
pub struct Args {
    /// End after this many seconds (1 to 86400), or as soon as everything has been shown once
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,

    /// Print one line of JSON at the end; what happens meanwhile goes to standard error
    #[arg(long)]
    pub json: bool,

    /// Run against this API server instead, with its administrator's rights. It must be one you can throw away: the demo makes
    /// its own namespaces, nodes and pods there, acts as those nodes, and removes all of it at the end
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

impl Args {
    /// How long the demo runs.
    #[must_use]
    pub fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// How the progress is shown.
    #[must_use]
    pub fn look(&self) -> Look {
        let terminal = if self.json { stderr().is_terminal() } else { stdout().is_terminal() };
        Look {
            to_stderr: self.json,
            live: terminal && word("TERM").is_none_or(|term| term != "dumb"),
            // https://no-color.org: any value but the empty one.
            coloured: terminal && word("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }
}

/// How the progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Standard output belongs to the JSON line.
    pub to_stderr: bool,
    /// A screen that is drawn again and again; otherwise lines are appended.
    pub live: bool,
    /// With colours.
    pub coloured: bool,
}

#[expect(clippy::disallowed_methods, reason = "the one place of the demo that reads the environment")]
fn word(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_seconds_unless_told() {
        let args = Args::try_parse_from(["demo"]).unwrap();
        assert_eq!((args.length(), args.json, args.kubeconfig), (Duration::from_secs(20), false, None));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (line, said) in [
            (vec!["demo", "--seconds", "0"], "--seconds"),
            (vec!["demo", "--seconds", "soon"], "soon"),
            (vec!["demo", "--jsn"], "--json"),
            (vec!["demo", "--kubeconfig"], "--kubeconfig"),
            (vec!["demo", "now"], "now"),
        ] {
            let error = Args::try_parse_from(&line).unwrap_err().to_string();
            assert!(error.contains(said), "{line:?} gave {error}");
        }
    }

    #[test]
    fn the_flags_are_a_valid_set() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }
}
