//! From the board to lines of text, for a given width and height. Pure: what is tested here is what a person reads.

use std::time::Duration;

use super::board::{Attempt, Board, PairView};
use crate::demo::scene;

/// A line: pieces, each in one tone.
pub type Line = Vec<(Tone, String)>;

/// What a piece of text means; colours follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// Headings.
    Strong,
    /// Less important.
    Faint,
    /// As it should be.
    Good,
    /// Worth a look: held.
    Wait,
    /// Denied, or failed.
    Bad,
}

/// The whole screen.
pub(super) fn draw(board: &Board, width: usize, height: usize) -> Vec<Line> {
    let mut lines = head(board, width);
    lines.extend(counts(board));
    lines.push(Vec::new());
    lines.extend(pair(board, &board.pair));
    lines.push(Vec::new());
    lines.extend(impostor(&board.attempts));
    lines.extend(held(board));
    lines.extend(recent(board, height.saturating_sub(lines.len())));
    lines.truncate(height);
    lines.into_iter().map(|line| cut(line, width)).collect()
}

fn head(board: &Board, width: usize) -> Vec<Line> {
    let left = match (board.ended, board.length.checked_sub(board.age())) {
        (Some(age), _) => format!("ended after {} s", age.as_secs()),
        (None, Some(left)) => format!("{} s left", left.as_secs().saturating_add(1)),
        (None, None) => "ending".to_owned(),
    };
    let ground = if board.ground.is_empty() { "starting" } else { &board.ground };
    let used = "Podmint demo  ".len().saturating_add(ground.chars().count()).saturating_add(left.len());
    let gap = " ".repeat(width.saturating_sub(used).max(2));
    vec![
        vec![
            (Tone::Strong, "Podmint demo  ".to_owned()),
            (Tone::Faint, ground.to_owned()),
            (Tone::Plain, gap),
            (Tone::Strong, left),
        ],
        vec![(Tone::Faint, "─".repeat(width))],
    ]
}

fn counts(board: &Board) -> Vec<Line> {
    let held = board.held().len();
    let mut line = vec![
        (Tone::Plain, format!("Requests {}   ", board.requests)),
        (Tone::Good, format!("issued {}", board.issued)),
        (Tone::Plain, format!(" ({} renewals)   ", board.renewals)),
        (if board.denied > 0 { Tone::Bad } else { Tone::Plain }, format!("denied {}   ", board.denied)),
        (if held > 0 { Tone::Wait } else { Tone::Plain }, format!("held {held}")),
    ];
    if let Some(took) = board.answer_time() {
        line.push((Tone::Faint, format!("   answered in {}", short(took))));
    }
    match &board.step {
        Some(step) => vec![line, vec![(Tone::Faint, format!("{step} …"))]],
        None => vec![line],
    }
}

fn pair(board: &Board, pair: &PairView) -> Vec<Line> {
    let mut lines =
        vec![vec![(Tone::Strong, "Two services talk mTLS while their certificates keep changing".to_owned())]];
    for (who, player, sees) in
        [("client", scene::CLIENT, &pair.client_sees), ("server", scene::SERVER, &pair.server_sees)]
    {
        let name = format!("{}/{}", player.namespace, player.name);
        lines.push(match (sees, board.running.get(&name)) {
            (Some((id, number)), _) => {
                vec![
                    plain(format!("  {who} sees ")),
                    (Tone::Good, id.clone()),
                    (Tone::Faint, format!(" (no. {number})")),
                ]
            }
            (None, Some(node)) => vec![plain(format!("  {who} {name} runs on {node}"))],
            (None, None) => vec![(Tone::Faint, format!("  {who} {name} waits for its first certificate"))],
        });
    }
    let failed = if pair.failed > 0 { Tone::Bad } else { Tone::Plain };
    let mut line =
        vec![plain(format!("  {} handshakes, ", pair.handshakes)), (failed, format!("{} failed", pair.failed))];
    if let (Some(p50), Some(p99)) = (pair.p50, pair.p99) {
        line.push((Tone::Faint, format!("   median {}, 99 of 100 within {}", short(p50), short(p99))));
    }
    lines.push(line);
    if let Some(failure) = &pair.failure {
        lines.push(vec![(Tone::Bad, format!("  {}", clean(failure)))]);
    }
    lines
}

fn impostor(attempts: &[Attempt]) -> Vec<Line> {
    let title = format!("An impostor asks for the certificate of {}/{}", scene::SERVER.namespace, scene::SERVER.name);
    let mut lines = vec![vec![(Tone::Strong, title)]];
    if attempts.is_empty() {
        lines.push(vec![(Tone::Faint, "  not yet".to_owned())]);
    }
    for attempt in attempts {
        let what = plain(format!("  {}: ", attempt.what));
        match &attempt.outcome {
            None => lines.push(vec![what, (Tone::Faint, "…".to_owned())]),
            Some(outcome) => {
                let (tone, word) =
                    if outcome.refused { (Tone::Good, "refused by ") } else { (Tone::Bad, "NOT refused by ") };
                lines.push(vec![what, (tone, format!("{word}{}", outcome.by))]);
                lines.push(vec![(Tone::Faint, format!("    {}", clean(&outcome.why)))]);
            }
        }
    }
    lines
}

fn held(board: &Board) -> Vec<Line> {
    let held = board.held();
    let mut lines = Vec::new();
    if !held.is_empty() {
        lines.push(Vec::new());
        lines.push(vec![(Tone::Strong, "Held, not denied: it is issued as soon as the cause is mended".to_owned())]);
    }
    for one in held {
        let what = format!("  {} waits {} s", one.pod, one.since.as_secs());
        lines.push(vec![(Tone::Wait, what), (Tone::Faint, format!(": {}", clean(&one.why)))]);
    }
    lines
}

/// As many of the last things as there is room for, behind a blank line and a heading.
fn recent(board: &Board, room: usize) -> Vec<Line> {
    let room = room.saturating_sub(2);
    if room == 0 || board.recent.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![Vec::new(), vec![(Tone::Strong, "Lately".to_owned())]];
    for entry in board.recent.iter().skip(board.recent.len().saturating_sub(room)) {
        let at = format!("  {:>5.1} s  ", entry.at.as_secs_f64());
        lines.push(vec![(Tone::Faint, at), (entry.tone, clean(&entry.text))]);
    }
    lines
}

fn plain(text: String) -> (Tone, String) {
    (Tone::Plain, text)
}

/// Text of others, without anything that would move the cursor.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// A duration, as short as a person reads it.
#[must_use]
pub fn short(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    match milliseconds {
        below if below < 9.95 => format!("{below:.1} ms"),
        below if below < 999.5 => format!("{below:.0} ms"),
        above => format!("{:.1} s", above / 1e3),
    }
}

/// Cuts a line to the width, so that the terminal never wraps it.
fn cut(line: Line, width: usize) -> Line {
    let mut room = width;
    let mut kept = Line::new();
    for (tone, text) in line {
        let length = text.chars().count();
        if length <= room {
            room = room.saturating_sub(length);
            kept.push((tone, text));
        } else {
            let mut text: String = text.chars().take(room.saturating_sub(1)).collect();
            text.push('…');
            kept.push((tone, text));
            break;
        }
    }
    kept
}

/// The line as text, with or without colours.
#[must_use]
pub fn paint(line: &Line, coloured: bool) -> String {
    let mut painted = String::new();
    for (tone, text) in line {
        match code(*tone).filter(|_| coloured) {
            Some(code) => painted.extend(["\x1b[", code, "m", text, "\x1b[0m"]),
            None => painted.push_str(text),
        }
    }
    painted
}

fn code(tone: Tone) -> Option<&'static str> {
    match tone {
        Tone::Plain => None,
        Tone::Strong => Some("1"),
        Tone::Faint => Some("2"),
        Tone::Good => Some("32"),
        Tone::Wait => Some("33"),
        Tone::Bad => Some("31"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::news::{News, Request};

    fn request(name: &str, pod: &str) -> Request {
        Request {
            uid: format!("uid-of-{name}"),
            name: name.to_owned(),
            pod: pod.to_owned(),
            node: "demo-node-a".to_owned(),
        }
    }

    fn busy() -> Board {
        let mut board = Board::new(Duration::from_secs(20));
        let (first, again, forged) = (
            request("req-1", "demo-pay/echo-server"),
            request("req-2", "demo-pay/echo-server"),
            request("req-3", "demo-pay/echo-server"),
        );
        board.hear(News::Ground("embedded cluster".to_owned()));
        board.hear(News::Running { pod: "demo-shop/echo-client".to_owned(), node: "demo-node-b".to_owned() });
        for one in [&first, &again, &forged] {
            board.hear(News::Requested(one.clone()));
        }
        board.hear(News::Issued { request: first, renewal: false, took: Duration::from_micros(4321) });
        board.hear(News::Issued { request: again, renewal: true, took: Duration::from_micros(4321) });
        board.hear(News::Denied { request: forged, reason: "WrongNode".to_owned(), message: "no\x1b[2J".to_owned() });
        board.hear(News::Attempt { number: 0, what: "the kubelet of demo-node-b, from its own node".to_owned() });
        board.hear(News::Outcome {
            number: 0,
            refused: true,
            by: "the signer".to_owned(),
            why: "pod is on\x1b[2J another node".to_owned(),
        });
        board.pair.client_sees = Some((scene::SERVER.spiffe_id(), 2));
        board
    }

    fn text(board: &Board, width: usize, height: usize) -> String {
        draw(board, width, height).iter().map(|line| paint(line, false) + "\n").collect()
    }

    #[test]
    fn a_person_reads_who_was_issued_what_and_who_was_refused() {
        let text = text(&busy(), 100, 40);
        for expected in [
            "Requests 3   issued 2 (1 renewals)   denied 1   held 0   answered in 4.3 ms",
            "client sees spiffe://demo.podmint.dev/ns/demo-pay/sa/echo-server (no. 2)",
            "server demo-pay/echo-server waits for its first certificate",
            "the kubelet of demo-node-b, from its own node: refused by the signer\n    pod is on [2J another node",
            "req-3 for demo-pay/echo-server denied: WrongNode",
        ] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
    }

    #[test]
    fn nothing_is_wider_or_higher_than_the_terminal() {
        for (width, height) in [(20, 5), (79, 23), (200, 60)] {
            let lines = draw(&busy(), width, height);
            assert!(lines.len() <= height, "{} lines of {height}", lines.len());
            for line in &lines {
                let painted = paint(line, false);
                assert!(painted.chars().count() <= width, "{painted:?} is wider than {width}");
            }
        }
    }

    #[test]
    fn text_of_others_cannot_move_the_cursor() {
        assert!(!text(&busy(), 200, 60).contains('\x1b'));
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let line = vec![(Tone::Bad, "no".to_owned()), (Tone::Plain, " way".to_owned())];
        assert_eq!(paint(&line, true), "\x1b[31mno\x1b[0m way");
        assert_eq!(paint(&line, false), "no way");
    }
}
