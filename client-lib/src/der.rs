//! Reads DER strictly, one value after the other. It borrows, never copies, never panics.
//!
//! Only what X.509 needs: definite, minimal lengths and tags below 31. Anything else is refused.

/// Bytes that are not the DER that was expected there; says where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadDer(pub(crate) &'static str);

/// One value: its tag, what is inside, and all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// What is left to read of a run of values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    place: &'static str,
}

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;

impl<'a> Reader<'a> {
    /// `place` names the structure in errors.
    pub(crate) fn new(bytes: &'a [u8], place: &'static str) -> Self {
        Self { rest: bytes, place }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value, whatever it is.
    pub(crate) fn any(&mut self) -> Result<Value<'a>, BadDer> {
        let start = self.rest;
        let tag = self.byte()?;
        if tag & 0x1f == 0x1f {
            return Err(self.bad()); // tags of several bytes do not occur in certificates
        }
        let length = self.length()?;
        let (content, rest) = self.rest.split_at_checked(length).ok_or(self.bad())?;
        self.rest = rest;
        let used = start.len().checked_sub(rest.len()).ok_or(self.bad())?;
        let whole = start.get(..used).ok_or(self.bad())?;
        Ok(Value { tag, content, whole })
    }

    /// The next value, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<Value<'a>, BadDer> {
        let value = self.any()?;
        if value.tag == tag { Ok(value) } else { Err(self.bad()) }
    }

    /// The next value if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Value<'a>>, BadDer> {
        match self.rest.first() {
            Some(next) if *next == tag => self.any().map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// Nothing may follow.
    pub(crate) fn end(self) -> Result<(), BadDer> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad()) }
    }

    pub(crate) fn bad(&self) -> BadDer {
        BadDer(self.place)
    }

    fn byte(&mut self) -> Result<u8, BadDer> {
        let (first, rest) = self.rest.split_first().ok_or(self.bad())?;
        self.rest = rest;
        Ok(*first)
    }

    /// Short form, or one to three length bytes without a leading zero (16 MiB is more than any certificate).
    fn length(&mut self) -> Result<usize, BadDer> {
        let first = self.byte()?;
        let (count, smallest) = match first {
            0..=0x7f => return Ok(usize::from(first)),
            0x81 => (1, 0x80),
            0x82 => (2, 0x100),
            0x83 => (3, 0x1_0000),
            _ => return Err(self.bad()),
        };
        let mut length = 0_u32;
        for _ in 0..count {
            length = (length << 8) | u32::from(self.byte()?);
        }
        if length < smallest {
            return Err(self.bad());
        }
        usize::try_from(length).map_err(|_overflow| self.bad())
    }
}

/// A value wrapped in nothing else: reads it and refuses what follows it.
pub(crate) fn only<'a>(bytes: &'a [u8], tag: u8, place: &'static str) -> Result<&'a [u8], BadDer> {
    let mut reader = Reader::new(bytes, place);
    let value = reader.expect(tag)?;
    reader.end()?;
    Ok(value.content)
}

/// TRUE and FALSE. DER leaves a default FALSE out; many certificates write it all the same, and it means no harm.
pub(crate) fn boolean(content: &[u8], place: &'static str) -> Result<bool, BadDer> {
    match content {
        [0x00] => Ok(false),
        [0xff] => Ok(true),
        _ => Err(BadDer(place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Result<Value<'_>, BadDer> {
        Reader::new(bytes, "test").any()
    }

    #[test]
    fn a_value_is_its_tag_and_content() {
        let value = first(&[0x04, 0x02, 0xaa, 0xbb, 0xcc]).unwrap();
        assert_eq!((value.tag, value.content), (0x04, &[0xaa, 0xbb][..]));
        assert_eq!(value.whole, &[0x04, 0x02, 0xaa, 0xbb]);
    }

    #[test]
    fn lengths_are_definite_minimal_and_present() {
        for bad in [
            &[0x04, 0x80][..],                  // indefinite
            &[0x04, 0x81, 0x05, 1, 2, 3, 4, 5], // fits the short form
            &[0x04, 0x82, 0x00, 0x01, 1],       // leading zero
            &[0x04, 0x84, 0, 0, 0, 1, 1],       // longer than we read
            &[0x04, 0x03, 1, 2],                // cut short
            &[0x04],
            &[],
        ] {
            assert!(first(bad).is_err(), "{bad:02x?}");
        }
        let long = [&[0x04, 0x81, 0x80][..], &[7; 0x80]].concat();
        assert_eq!(first(&long).unwrap().content.len(), 0x80);
    }

    #[test]
    fn tags_of_several_bytes_are_refused() {
        assert!(first(&[0x1f, 0x01, 0x00]).is_err());
    }

    #[test]
    fn nothing_may_follow_a_lone_value() {
        assert!(only(&[0x30, 0x00, 0x00], SEQUENCE, "test").is_err());
        assert_eq!(only(&[0x30, 0x00], SEQUENCE, "test"), Ok(&[][..]));
    }

    #[test]
    fn a_boolean_is_one_of_two_bytes() {
        assert_eq!(boolean(&[0xff], "test"), Ok(true));
        assert_eq!(boolean(&[0x00], "test"), Ok(false));
        assert!(boolean(&[0x01], "test").is_err());
        assert!(boolean(&[], "test").is_err());
    }
}
