//! As much DER as a key and an empty certification request need.

/// Tag, length, contents.
pub(crate) fn tagged(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(contents.len()) {
        Ok(short) if short < 128 => out.push(short),
        Ok(_) | Err(_) => {
            let length: Vec<u8> = contents.len().to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            // At most eight bytes, so it fits.
            out.push(u8::try_from(length.len()).unwrap_or(8) | 0x80);
            out.extend(length);
        }
    }
    out.extend_from_slice(contents);
    out
}

pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

pub(crate) fn integer(bytes: &[u8]) -> Vec<u8> {
    tagged(2, bytes)
}

pub(crate) fn oid(encoded: &[u8]) -> Vec<u8> {
    tagged(6, encoded)
}

pub(crate) fn null() -> Vec<u8> {
    tagged(5, &[])
}

pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tagged(3, &[&[0], bytes].concat())
}

/// The first element: its tag, its contents, and what follows.
pub(crate) fn read(data: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = data.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 128 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length =
            bytes.iter().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))?;
        (length, rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// One PEM block with lines of 64 characters and newlines, as Go writes it.
pub(crate) fn pem(label: &str, bytes: &[u8]) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while let Some((line, following)) = rest.split_at_checked(64) {
        out.push_str(line);
        out.push('\n');
        rest = following;
    }
    if !rest.is_empty() {
        out.push_str(rest);
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}
