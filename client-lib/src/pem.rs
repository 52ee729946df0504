//! PEM as the kubelet writes it (RFC 7468, strict form): blocks of base64 and nothing else.
//!
//! Text between blocks, headers inside them, unknown labels and trailing bits are refused. An error holds a line number and a
//! label from a fixed list, never what the file holds: it may be a key.

use zeroize::Zeroizing;

/// A decoded block.
pub(crate) enum Block {
    /// `PRIVATE KEY` (PKCS#8), wiped when dropped.
    Key(Zeroizing<Vec<u8>>),
    /// `CERTIFICATE`.
    Certificate(Vec<u8>),
}

/// Why a file is not PEM as we take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPem {
    /// Something stands outside the blocks.
    #[error("line {line}: there is something outside the PEM blocks")]
    Outside {
        /// Counted from one.
        line: usize,
    },
    /// A block of a kind that does not belong here.
    #[error("line {line}: a block of the kind {label}, which does not belong here")]
    Label {
        /// Counted from one.
        line: usize,
        /// The label if it is a well-known one.
        label: &'static str,
    },
    /// A block that is not base64, has headers, or is empty.
    #[error("line {line}: the block is not plain base64")]
    Base64 {
        /// Counted from one.
        line: usize,
    },
    /// The last block has no end.
    #[error("the last block has no end: the file looks cut short")]
    Unfinished,
    /// More blocks than we read.
    #[error("it holds more than {limit} blocks")]
    TooMany {
        /// The most that are read.
        limit: usize,
    },
}

/// Reads every block of a file.
pub(crate) fn blocks(file: &[u8], limit: usize) -> Result<Vec<Block>, BadPem> {
    let mut found = Vec::new();
    let mut open: Option<Open> = None;
    for (number, text) in (1_usize..).zip(lines(file)) {
        open = match open {
            None if text.is_empty() => None,
            None => Some(Open::start(text, number)?),
            Some(block) if text.starts_with(b"-----") => {
                if found.len() >= limit {
                    return Err(BadPem::TooMany { limit });
                }
                found.push(block.finish(text, number)?);
                None
            }
            Some(mut block) => {
                if text.is_empty() {
                    return Err(BadPem::Base64 { line: number });
                }
                block.text.extend_from_slice(text);
                Some(block)
            }
        };
    }
    if open.is_some() {
        return Err(BadPem::Unfinished);
    }
    Ok(found)
}

/// Lines without their ends and trailing blanks; both kinds of line end.
fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.strip_suffix(b"\n").unwrap_or(file).split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end)
}

/// A block whose end has not been seen.
struct Open {
    is_key: bool,
    line: usize,
    text: Zeroizing<Vec<u8>>,
}

const KEY: &[u8] = b"PRIVATE KEY";
const CERTIFICATE: &[u8] = b"CERTIFICATE";

impl Open {
    fn start(text: &[u8], line: usize) -> Result<Self, BadPem> {
        let label = label(text, b"-----BEGIN ").ok_or(BadPem::Outside { line })?;
        let is_key = match label {
            KEY => true,
            CERTIFICATE => false,
            _ => return Err(BadPem::Label { line, label: well_known(label) }),
        };
        // Room for the longest key (RSA 4096), so that growing leaves no copies of it behind.
        let text = Zeroizing::new(Vec::with_capacity(if is_key { 8192 } else { 0 }));
        Ok(Self { is_key, line, text })
    }

    fn finish(self, text: &[u8], line: usize) -> Result<Block, BadPem> {
        let expected = if self.is_key { KEY } else { CERTIFICATE };
        if label(text, b"-----END ") != Some(expected) {
            return Err(BadPem::Base64 { line });
        }
        let bytes = decode(&self.text).ok_or(BadPem::Base64 { line: self.line })?;
        Ok(if self.is_key { Block::Key(Zeroizing::new(bytes)) } else { Block::Certificate(bytes) })
    }
}

fn label<'a>(text: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    text.strip_prefix(start)?.strip_suffix(b"-----")
}

/// The label, if it is one that people mix up with ours. Another text is not repeated.
fn well_known(label: &[u8]) -> &'static str {
    const LABELS: [&str; 9] = [
        "EC PRIVATE KEY",
        "RSA PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "PUBLIC KEY",
        "EC PARAMETERS",
        "CERTIFICATE REQUEST",
        "TRUSTED CERTIFICATE",
        "X509 CERTIFICATE",
        "X509 CRL",
    ];
    LABELS.into_iter().find(|known| known.as_bytes() == label).unwrap_or("unknown")
}

/// Base64 with padding and no stray bits. By hand, because the result must be wiped and an error must not quote its input.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut groups = text.chunks_exact(4).peekable();
    while let Some(group) = groups.next() {
        let padding = group.iter().rev().take_while(|byte| **byte == b'=').count();
        if padding > 2 || (padding > 0 && groups.peek().is_some()) {
            return None;
        }
        let kept = group.get(..4_usize.checked_sub(padding)?)?;
        let mut value = 0_u32;
        for byte in kept {
            value = (value << 6) | u32::from(six_bits(*byte)?);
        }
        let [_, first, second, third] = match padding {
            0 => value,
            1 => value << 6,
            _ => value << 12,
        }
        .to_be_bytes();
        let whole = [first, second, third];
        let (these, stray) = whole.split_at_checked(3_usize.checked_sub(padding)?)?;
        if stray.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(these);
    }
    Some(bytes)
}

fn six_bits(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => byte.checked_sub(b'A'),
        b'a'..=b'z' => byte.checked_sub(b'a')?.checked_add(26),
        b'0'..=b'9' => byte.checked_sub(b'0')?.checked_add(52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(file: &str) -> Result<String, BadPem> {
        let kinds = blocks(file.as_bytes(), 4)?.into_iter().map(|block| match block {
            Block::Key(bytes) => format!("key {}", bytes.len()),
            Block::Certificate(bytes) => format!("certificate {}", bytes.len()),
        });
        Ok(kinds.collect::<Vec<_>>().join(", "))
    }

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
    const SECRET: &str = "-----BEGIN PRIVATE KEY-----\nAAECAw==\n-----END PRIVATE KEY-----\n";

    #[test]
    fn blocks_come_in_their_order() {
        assert_eq!(shape(&format!("{SECRET}{ONE}\n{ONE}")).unwrap(), "key 4, certificate 3, certificate 3");
        assert_eq!(shape("").unwrap(), "");
        assert_eq!(shape(&format!("{SECRET}{ONE}").replace('\n', "\r\n")).unwrap(), "key 4, certificate 3");
        assert_eq!(shape(ONE.trim_end()).unwrap(), "certificate 3");
    }

    #[test]
    fn nothing_but_blocks_is_accepted() {
        for text in
            ["x\n", "# note\n", "\u{feff}", "AAEC\n", "-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE----\n"]
        {
            assert!(matches!(shape(&format!("{text}{ONE}")), Err(BadPem::Outside { line: 1 })), "{text}");
        }
        assert_eq!(shape(&format!("{ONE}junk")), Err(BadPem::Outside { line: 4 }));
    }

    #[test]
    fn a_cut_block_is_unfinished() {
        assert_eq!(shape("-----BEGIN PRIVATE KEY-----\nAAEC\n"), Err(BadPem::Unfinished));
    }

    #[test]
    fn wrong_blocks_are_named_only_when_well_known() {
        let named = |label: &str| shape(&format!("-----BEGIN {label}-----\nAAEC\n-----END {label}-----\n"));
        assert_eq!(named("EC PRIVATE KEY"), Err(BadPem::Label { line: 1, label: "EC PRIVATE KEY" }));
        assert_eq!(named("MIGHAgEAMBMGByqG"), Err(BadPem::Label { line: 1, label: "unknown" }));
    }

    #[test]
    fn the_inside_is_plain_base64() {
        for inside in
            ["", "AAE", "AA=C", "A===", "AAF=", "AB==", "AAEC====", "AA-_", "Proc-Type: 4\n\nAAEC", "AA\n\nEC", " AAEC"]
        {
            let file = format!("-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n");
            assert!(matches!(shape(&file), Err(BadPem::Base64 { .. })), "{inside}");
        }
    }

    #[test]
    fn a_block_ends_as_it_began() {
        let mixed = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END PRIVATE KEY-----\n";
        assert_eq!(shape(mixed), Err(BadPem::Base64 { line: 3 }));
    }

    #[test]
    fn the_number_of_blocks_is_bounded() {
        assert!(shape(&ONE.repeat(4)).is_ok());
        assert_eq!(shape(&ONE.repeat(5)), Err(BadPem::TooMany { limit: 4 }));
    }

    #[test]
    fn base64_decodes_every_byte() {
        let file = "-----BEGIN CERTIFICATE-----\n//79+/o=\n-----END CERTIFICATE-----\n";
        match blocks(file.as_bytes(), 1).unwrap().pop().unwrap() {
            Block::Certificate(bytes) => assert_eq!(bytes, [0xff, 0xfe, 0xfd, 0xfb, 0xfa]),
            Block::Key(_) => panic!("a certificate was read as a key"),
        }
    }
}
