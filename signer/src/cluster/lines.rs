//! The lines of a watch, as they come in: each has a size limit, and silence has a time limit.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

/// Reads a body line by line. A line that is too long is passed over as [`Line::TooLong`]; the next one is read again.
pub(crate) struct Lines<B> {
    body: B,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    scanned: usize,
    /// In the middle of a line that is too long.
    skipping: bool,
}

/// What a body holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Without its line end.
    Whole(Bytes),
    /// More than any object can be; it was thrown away.
    TooLong,
    /// Nothing came for as long as we were ready to wait.
    Silence,
    /// The body ended, in the middle of a line or between two, with the error if there was one.
    End(Option<String>),
}

impl<B: Body<Data = Bytes, Error: fmt::Display> + Unpin> Lines<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body, buffer: BytesMut::new(), scanned: 0, skipping: false }
    }

    /// The next line. Safe to cancel: what was read stays in the buffer.
    pub(crate) async fn next(&mut self, silence: Duration) -> Line {
        loop {
            if let Some(line) = self.buffered() {
                return line;
            }
            match tokio::time::timeout(silence, self.body.frame()).await {
                Err(_) => return Line::Silence,
                Ok(None) => return Line::End(None),
                Ok(Some(Err(error))) => return Line::End(Some(error.to_string())),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn buffered(&mut self) -> Option<Line> {
        loop {
            let unscanned = self.buffer.get(self.scanned..)?;
            let Some(offset) = unscanned.iter().position(|byte| *byte == b'\n') else {
                self.scanned = self.buffer.len();
                if self.scanned > LONGEST {
                    self.forget();
                    self.skipping = true;
                }
                if self.skipping {
                    self.forget();
                }
                return None;
            };
            let end = self.scanned.saturating_add(offset).saturating_add(1);
            let mut line = self.buffer.split_to(end).freeze();
            self.scanned = 0;
            line.truncate(end.saturating_sub(1));
            if std::mem::take(&mut self.skipping) || line.len() > LONGEST {
                return Some(Line::TooLong);
            }
            if !line.is_empty() {
                return Some(Line::Whole(line));
            }
        }
    }

    fn forget(&mut self) {
        self.buffer.clear();
        self.scanned = 0;
    }
}

/// Twice what etcd takes for one object.
const LONGEST: usize = 3 << 20;

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    type Frames = stream::BoxStream<'static, Result<Frame<Bytes>, &'static str>>;

    fn lines(chunks: Vec<Vec<u8>>, then: Result<(), &'static str>) -> Lines<StreamBody<Frames>> {
        let frames = stream::iter(chunks).map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
        Lines::new(StreamBody::new(frames.chain(stream::iter(then.err()).map(Err)).boxed()))
    }

    fn whole(text: &str) -> Line {
        Line::Whole(Bytes::from(text.to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_put_together_from_pieces() {
        let mut lines = lines(vec![b"one\ntw".to_vec(), b"o".to_vec(), b"\n\nthree\nfo".to_vec()], Ok(()));
        for expected in ["one", "two", "three"] {
            assert_eq!(lines.next(SOON).await, whole(expected));
        }
        assert_eq!(lines.next(SOON).await, Line::End(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_too_long_is_passed_over() {
        let huge = vec![b'x'; LONGEST / 2 + 1];
        let mut lines = lines(vec![b"one\n".to_vec(), huge.clone(), huge.clone(), huge, b"x\ntwo\n".to_vec()], Ok(()));
        assert_eq!(lines.next(SOON).await, whole("one"));
        assert_eq!(lines.next(SOON).await, Line::TooLong);
        assert_eq!(lines.next(SOON).await, whole("two"));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_a_broken_connection_are_told_apart() {
        let mut broken = lines(vec![b"one\n".to_vec()], Err("reset"));
        assert_eq!(broken.next(SOON).await, whole("one"));
        assert!(matches!(broken.next(SOON).await, Line::End(Some(_))));
        let mut silent = Lines::new(StreamBody::new(Frames::from(stream::pending().boxed())));
        assert_eq!(silent.next(SOON).await, Line::Silence);
    }
}
