//! What a person sees while it runs: a screen that is drawn again in place, or a few appended lines where there is no terminal.

mod board;
mod draw;
mod lines;
mod screen;

use std::io::Write;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use super::args::Look;
use super::news::News;
pub use board::{Board, PairView};
pub use draw::{Line, Tone, paint, short};
use lines::Lines;
use screen::Screen;

/// Shows the news until `stop`, and returns what stood on the board at the end. `pair` is asked at each drawing.
pub async fn show(
    mut board: Board,
    mut news: Receiver<News>,
    look: Look,
    pair: impl Fn() -> PairView,
    stop: CancellationToken,
) -> Board {
    let mut shown = Shown::new(look);
    let mut ticks = tokio::time::interval(if look.live { FRAME } else { Duration::from_secs(1) });
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {
                board.pair = pair();
                shown.tick(&board);
            }
            Some(one) = news.recv() => {
                shown.tell(&board, &one);
                board.hear(one);
            }
        }
    }
    while let Ok(one) = news.try_recv() {
        shown.tell(&board, &one);
        board.hear(one);
    }
    board.pair = pair();
    board.finish();
    shown.last(&board);
    board
}

/// Writes text where the progress goes. A closed pipe is no reason to stop: the run goes on to its verdict.
pub fn say(look: Look, text: &str) {
    let written = if look.to_stderr {
        std::io::stderr().write_all(text.as_bytes())
    } else {
        std::io::stdout().write_all(text.as_bytes())
    };
    written.ok();
}

/// Eight a second: smooth to the eye, nothing to the processor.
const FRAME: Duration = Duration::from_millis(125);

enum Shown {
    Live(Screen),
    Appended(Look, Lines),
}

impl Shown {
    fn new(look: Look) -> Self {
        if look.live { Self::Live(Screen::new(look)) } else { Self::Appended(look, Lines::default()) }
    }

    fn tick(&mut self, board: &Board) {
        match self {
            Self::Live(screen) => screen.draw(board),
            Self::Appended(look, lines) => lines.tick(board).into_iter().for_each(|line| say(*look, &line)),
        }
    }

    fn tell(&mut self, board: &Board, news: &News) {
        match self {
            Self::Live(_) => {}
            Self::Appended(look, lines) => lines.tell(board, news).into_iter().for_each(|line| say(*look, &line)),
        }
    }

    fn last(&mut self, board: &Board) {
        match self {
            Self::Live(screen) => screen.draw(board),
            Self::Appended(..) => {}
        }
    }
}
