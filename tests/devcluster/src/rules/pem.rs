//! PEM as Go's `encoding/pem` reads it: a block that is not well formed is skipped without a word.
//!
//! A stricter reader would refuse chains that the API server takes, and so hide what a client may meet.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) label: String,
    pub(crate) has_headers: bool,
    pub(crate) bytes: Vec<u8>,
}

/// The well-formed blocks of a text.
pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((block, after)) = next(rest) {
        found.push(block);
        rest = after;
    }
    found
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"\n-----END ";
const DASHES: &[u8] = b"-----";
/// Go does not look at the unused bits of the last character.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

fn next(mut rest: &[u8]) -> Option<(Block, &[u8])> {
    loop {
        let end = find(rest, END)?;
        let after_end = rest.get(end.checked_add(END.len())?..)?;
        match block(rest.get(..end)?, after_end) {
            Some((block, remainder)) => return Some((block, remainder)),
            None => rest = after_end,
        }
    }
}

/// Reads the block between the last BEGIN before an END and that END.
fn block<'a>(before_end: &[u8], after_end: &'a [u8]) -> Option<(Block, &'a [u8])> {
    let begin = rfind(before_end, BEGIN)?;
    let at_line_start = begin == 0 || before_end.get(begin.checked_sub(1)?) == Some(&b'\n');
    if !at_line_start {
        return None;
    }
    let (type_line, mut body) = line(before_end.get(begin.checked_add(BEGIN.len())?..)?);
    let label = type_line.strip_suffix(DASHES)?;
    let mut has_headers = false;
    loop {
        let (head, following) = line(body);
        if body.is_empty() || !head.contains(&b':') {
            break;
        }
        has_headers = true;
        // The header line shares its newline with the END line: Go gives up on the block.
        if following.is_empty() && !body.contains(&b'\n') {
            return None;
        }
        body = following;
    }
    let trailer = after_end.strip_prefix(label)?.strip_prefix(DASHES)?;
    let (end_of_line, remainder) = line(trailer);
    if !end_of_line.is_empty() {
        return None;
    }
    let encoded: Vec<u8> = body.iter().copied().filter(|byte| !b" \t\r\n".contains(byte)).collect();
    let bytes = LENIENT.decode(encoded).ok()?;
    let label = String::from_utf8_lossy(label).into_owned();
    Some((Block { label, has_headers, bytes }, remainder))
}

/// One line without its end and trailing blanks, and what follows it.
fn line(data: &[u8]) -> (&[u8], &[u8]) {
    let mut halves = data.splitn(2, |byte| *byte == b'\n');
    let first = halves.next().unwrap_or_default();
    let rest = halves.next().unwrap_or_default();
    let first = first.strip_suffix(b"\r").unwrap_or(first);
    let length = first.iter().rposition(|byte| !b" \t".contains(byte)).map_or(0, |last| last.saturating_add(1));
    (first.get(..length).unwrap_or_default(), rest)
}

fn find(data: &[u8], what: &[u8]) -> Option<usize> {
    data.windows(what.len()).position(|window| window == what)
}

fn rfind(data: &[u8], what: &[u8]) -> Option<usize> {
    data.windows(what.len()).rposition(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Vec<String> {
        blocks(text).into_iter().map(|block| block.label).collect()
    }

    const GOOD: &str = "-----BEGIN A-----\nAAAA\n-----END A-----\n";

    #[test]
    fn text_between_blocks_and_headers_are_read_over() {
        let text = format!("hello\n{GOOD}words\n-----BEGIN B-----\nKey: value\n\nAAAA\n-----END B-----");
        let found = blocks(&text);
        assert_eq!(labels(&text), ["A", "B"]);
        assert!(!found[0].has_headers && found[1].has_headers);
        assert_eq!(found[1].bytes, [0, 0, 0]);
    }

    #[test]
    fn a_malformed_block_vanishes() {
        for bad in [
            "-----BEGIN B-----\n!!!!\n-----END B-----\n",
            "-----BEGIN B-----\nAAAA\n-----END C-----\n",
            "-----BEGIN B----\nAAAA\n-----END B-----\n",
            "-----BEGIN B-----\nAAAA\n-----END B----- x\n",
            "x-----BEGIN B-----\nAAAA\n-----END B-----\n",
            "-----BEGIN B-----\nAAAA\n",
        ] {
            assert_eq!(labels(&format!("{bad}{GOOD}")), ["A"], "{bad}");
            assert_eq!(labels(&format!("{GOOD}{bad}")), ["A"], "{bad}");
        }
    }

    #[test]
    fn an_empty_block_is_a_block() {
        assert_eq!(labels("-----BEGIN A-----\n-----END A-----\n"), ["A"]);
    }
}
