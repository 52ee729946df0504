//! A terminal that is drawn again in place. What stood there before the demo stays above it.

use std::io::{Write, stderr, stdout};

use rustix::termios::tcgetwinsize;

use super::board::Board;
use super::draw::{draw, paint};
use crate::demo::args::Look;

pub(super) struct Screen {
    look: Look,
    drawn: usize,
}

impl Screen {
    /// The cursor is hidden until this is dropped.
    pub(super) fn new(look: Look) -> Self {
        super::say(look, "\x1b[?25l");
        Self { look, drawn: 0 }
    }

    pub(super) fn draw(&mut self, board: &Board) {
        let (columns, rows) = size(self.look);
        // The last column and the last row stay empty: filling them makes some terminals scroll.
        let lines = draw(board, columns.saturating_sub(1), rows.saturating_sub(1));
        let mut frame = if self.drawn > 0 { format!("\x1b[{}A\r", self.drawn) } else { String::new() };
        for line in &lines {
            frame.push_str(&paint(line, self.look.coloured));
            frame.push_str("\x1b[K\n");
        }
        frame.push_str("\x1b[J");
        self.drawn = lines.len();
        super::say(self.look, &frame);
        if self.look.to_stderr { stderr().flush() } else { stdout().flush() }.ok();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        super::say(self.look, "\x1b[?25h");
    }
}

/// Columns and rows; the usual 80 by 24 where the terminal does not say.
fn size(look: Look) -> (usize, usize) {
    let size = if look.to_stderr { tcgetwinsize(stderr()) } else { tcgetwinsize(stdout()) };
    match size {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        Ok(_) | Err(_) => (80, 24),
    }
}
