//! Where there is no terminal: one short line for each thing worth knowing, and a count now and then.

use std::collections::BTreeSet;
use std::time::Duration;

use super::board::Board;
use super::draw::{clean, short};
use crate::demo::news::News;

#[derive(Default)]
pub(super) struct Lines {
    counted: Duration,
    told: BTreeSet<String>,
}

impl Lines {
    /// Every few seconds how far it is, and every hold once.
    pub(super) fn tick(&mut self, board: &Board) -> Vec<String> {
        let held = board.held();
        let mut lines: Vec<String> = held
            .iter()
            .filter(|one| self.told.insert(format!("{} {}", one.request, one.why)))
            .map(|one| at(board, &format!("held: {}: {}", one.pod, clean(&one.why))))
            .collect();
        if board.age().saturating_sub(self.counted) >= COUNT_EVERY && board.pair.handshakes > 0 {
            self.counted = board.age();
            let pair = &board.pair;
            lines.push(at(
                board,
                &format!(
                    "{} requests: {} issued ({} renewals), {} denied, {} held; {} handshakes, {} failed",
                    board.requests,
                    board.issued,
                    board.renewals,
                    board.denied,
                    held.len(),
                    pair.handshakes,
                    pair.failed
                ),
            ));
        }
        lines
    }

    /// One thing that happened, unless it happens all the time.
    pub(super) fn tell(&mut self, board: &Board, news: &News) -> Option<String> {
        let text = match news {
            News::Step(what) => format!("{what} …"),
            News::Ground(what) if *what != board.ground => what.clone(),
            News::Running { pod, node } => format!("{pod} runs on {node}"),
            News::Issued { request, renewal: false, took } => {
                format!("issued: {} for {} in {}", request.name, request.pod, short(*took))
            }
            News::Attempt { what, .. } => format!("impostor: {what}"),
            News::Outcome { refused: true, by, why, .. } => format!("refused by {by}: {why}"),
            News::Outcome { refused: false, by, why, .. } => format!("NOT refused by {by}: {why}"),
            News::Trouble(what) => format!("trouble: {what}"),
            // A denial is told by its attempt, a hold when it has lasted, a renewal by the count.
            News::Playing
            | News::Ground(_)
            | News::Requested(_)
            | News::Issued { renewal: true, .. }
            | News::Denied { .. }
            | News::Held { .. } => return None,
        };
        Some(at(board, &clean(&text)))
    }
}

fn at(board: &Board, text: &str) -> String {
    format!("{:>5.1} s  {text}\n", board.age().as_secs_f64())
}

/// Often enough to see that it lives.
const COUNT_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_counted_not_listed() {
        let (mut lines, board) = (Lines::default(), Board::new(Duration::from_secs(20)));
        let request = crate::demo::news::Request {
            uid: "one".to_owned(),
            name: "req-1".to_owned(),
            pod: "demo-pay/echo-server".to_owned(),
            node: "demo-node-a".to_owned(),
        };
        let issued = |renewal| News::Issued { request: request.clone(), renewal, took: Duration::from_millis(5) };
        let first = lines.tell(&board, &issued(false)).unwrap();
        assert!(first.ends_with("issued: req-1 for demo-pay/echo-server in 5.0 ms\n"), "{first}");
        assert_eq!(lines.tell(&board, &issued(true)), None);
    }
}
