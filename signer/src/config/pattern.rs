//! A name with `*` in it, each of which stands for any text, also none.

use std::fmt;

/// What a name is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Takes a pattern that could match a DNS name; says why not, if it could not.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.*".contains(&byte);
        if text.is_empty() {
            return Err("it is empty and matches nothing; `*` matches everything");
        }
        if text.len() > 253 {
            return Err("it is longer than any name");
        }
        if !text.bytes().all(letter) {
            return Err(
                "it can match no name: names hold lower-case letters, digits, `-` and `.`; `*` stands for any text",
            );
        }
        Ok(Self(text.into()))
    }

    /// Whether the whole of a name matches.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // The earliest place for each inner part leaves the most for those behind it.
        let inner = parts.try_fold(rest, |rest, part| rest.split_once(part).map(|(_, behind)| behind));
        inner.is_some_and(|rest| rest.ends_with(last))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_star_stands_for_any_text_and_the_rest_for_itself() {
        assert!(matches("shop", "shop"));
        assert!(!matches("shop", "shops"));
        assert!(!matches("shop", "a-shop"));
        assert!(matches("*", "anything"));
        assert!(matches("team-*", "team-"));
        assert!(matches("team-*", "team-blue"));
        assert!(!matches("team-*", "a-team-blue"));
        assert!(matches("*-team", "blue-team"));
        assert!(!matches("*-team", "blue-teams"));
        assert!(matches("a*b*c", "abc"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(!matches("a*b*c", "a-c-b"));
        assert!(!matches("ab*ba", "aba"), "no letter counts twice");
        assert!(!matches("a*bc*c", "abc"), "no letter counts twice");
    }

    #[test]
    fn what_can_match_no_name_is_refused() {
        for text in ["", "Shop", "shop?", "a b", "[a]", &"a".repeat(254)] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn it_is_the_plain_recursive_definition(pattern in "[ab*]{1,8}", name in "[ab]{0,10}") {
            fn plain(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern.split_first(), name.split_first()) {
                    (None, _) => name.is_empty(),
                    (Some((b'*', rest)), _) => (0..=name.len()).any(|from| plain(rest, &name[from..])),
                    (Some((letter, rest)), Some((first, behind))) => letter == first && plain(rest, behind),
                    (Some(_), None) => false,
                }
            }
            prop_assert_eq!(matches(&pattern, &name), plain(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
