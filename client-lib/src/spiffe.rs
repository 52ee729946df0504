//! SPIFFE IDs and trust domains, parsed at the door by the grammar of the SPIFFE ID specification, section 2.

use std::fmt;
use std::str::FromStr;

/// A trust domain: the name of the authority that vouches for an identity, such as `prod.example.org`.
///
/// ```
/// use podmint::TrustDomain;
/// let domain: TrustDomain = "prod.example.org".parse()?;
/// assert_eq!(domain.as_str(), "prod.example.org");
/// assert!("Prod.Example.Org".parse::<TrustDomain>().is_err());
/// # Ok::<(), podmint::BadSpiffeId>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Box<str>);

/// A SPIFFE ID: a trust domain and a path, such as `spiffe://prod.example.org/ns/shop/sa/cart`.
///
/// Two IDs are equal when their text is: there is no case folding, no percent encoding, no normalising.
///
/// ```
/// use podmint::SpiffeId;
/// let id: SpiffeId = "spiffe://prod.example.org/ns/shop/sa/cart".parse()?;
/// assert_eq!(id.trust_domain().as_str(), "prod.example.org");
/// assert_eq!(id.path(), "/ns/shop/sa/cart");
/// assert_eq!(id.kubernetes(), Some(("shop", "cart")));
/// # Ok::<(), podmint::BadSpiffeId>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    domain: TrustDomain,
    path: Box<str>,
}

/// Why a text is no SPIFFE ID. It never repeats the text, which may come from a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadSpiffeId {
    /// More than 2048 bytes.
    #[error("it is longer than 2048 bytes")]
    TooLong,
    /// It does not start with `spiffe://`, in lower case.
    #[error("it does not start with spiffe://")]
    Scheme,
    /// The trust domain is empty or longer than 255 bytes.
    #[error("its trust domain is empty or longer than 255 bytes")]
    DomainLength,
    /// The trust domain holds something else than `a-z`, `0-9`, `.`, `_` and `-`.
    #[error("its trust domain may only hold a-z, 0-9, dots, dashes and underscores")]
    DomainCharacter,
    /// A path segment is empty, or the path ends with a slash.
    #[error("a segment of its path is empty, or the path ends with a slash")]
    EmptySegment,
    /// A path segment is `.` or `..`.
    #[error("a segment of its path is . or ..")]
    DotSegment,
    /// The path holds something else than letters, digits, `.`, `_` and `-` between its slashes.
    #[error("its path may only hold letters, digits, dots, dashes and underscores")]
    PathCharacter,
    /// It is not UTF-8.
    #[error("it is not text")]
    NotText,
}

const LONGEST: usize = 2048;
const LONGEST_DOMAIN: usize = 255;

impl TrustDomain {
    /// The name, without `spiffe://`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path with its leading slash; empty for the ID of the trust domain itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Namespace and ServiceAccount, when the path is `/ns/<namespace>/sa/<service account>`.
    pub fn kubernetes(&self) -> Option<(&str, &str)> {
        let mut parts = self.path.split('/').skip(1);
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Some((namespace, account)),
            _ => None,
        }
    }

    /// Whether this ID is `prefix` or lies below it, segment by segment.
    pub(crate) fn is_below(&self, prefix: &SpiffeId) -> bool {
        self.domain == prefix.domain
            && self.path.strip_prefix(&*prefix.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The ID in a certificate's URI name.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, BadSpiffeId> {
        if bytes.len() > LONGEST {
            return Err(BadSpiffeId::TooLong);
        }
        std::str::from_utf8(bytes).map_err(|_not_utf8| BadSpiffeId::NotText)?.parse()
    }

    /// The ID that Podmint's signer gives to a ServiceAccount.
    pub(crate) fn of_service_account(
        domain: &TrustDomain,
        namespace: &str,
        account: &str,
    ) -> Result<Self, BadSpiffeId> {
        if namespace.contains('/') || account.contains('/') {
            return Err(BadSpiffeId::PathCharacter);
        }
        format!("spiffe://{domain}/ns/{namespace}/sa/{account}").parse()
    }
}

impl FromStr for TrustDomain {
    type Err = BadSpiffeId;

    fn from_str(text: &str) -> Result<Self, BadSpiffeId> {
        if text.is_empty() || text.len() > LONGEST_DOMAIN {
            return Err(BadSpiffeId::DomainLength);
        }
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if !text.bytes().all(fits) {
            return Err(BadSpiffeId::DomainCharacter);
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for SpiffeId {
    type Err = BadSpiffeId;

    fn from_str(text: &str) -> Result<Self, BadSpiffeId> {
        if text.len() > LONGEST {
            return Err(BadSpiffeId::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(BadSpiffeId::Scheme)?;
        let (domain, path) = match rest.find('/') {
            Some(slash) => rest.split_at_checked(slash).ok_or(BadSpiffeId::NotText)?,
            None => (rest, ""),
        };
        check_path(path)?;
        Ok(Self { domain: domain.parse()?, path: path.into() })
    }
}

fn check_path(path: &str) -> Result<(), BadSpiffeId> {
    for segment in path.split('/').skip(1) {
        match segment {
            "" => return Err(BadSpiffeId::EmptySegment),
            "." | ".." => return Err(BadSpiffeId::DotSegment),
            _ => {}
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !segment.bytes().all(fits) {
            return Err(BadSpiffeId::PathCharacter);
        }
    }
    Ok(())
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.domain, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> BadSpiffeId {
        text.parse::<SpiffeId>().unwrap_err()
    }

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        for text in ["spiffe://a", "spiffe://a.b-c_d.1/x", "spiffe://a/ns/Shop/sa/x.y-z_0", "spiffe://a/..."] {
            assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn each_rule_of_the_grammar_is_kept() {
        use BadSpiffeId as Bad;
        for (text, why) in [
            ("", Bad::Scheme),
            ("http://a/b", Bad::Scheme),
            ("SPIFFE://a/b", Bad::Scheme),
            ("spiffe:///b", Bad::DomainLength),
            ("spiffe://", Bad::DomainLength),
            ("spiffe://A/b", Bad::DomainCharacter),
            ("spiffe://a:8080/b", Bad::DomainCharacter),
            ("spiffe://user@a/b", Bad::DomainCharacter),
            ("spiffe://a?q/b", Bad::DomainCharacter),
            ("spiffe://ä/b", Bad::DomainCharacter),
            ("spiffe://a/", Bad::EmptySegment),
            ("spiffe://a//b", Bad::EmptySegment),
            ("spiffe://a/b/", Bad::EmptySegment),
            ("spiffe://a/.", Bad::DotSegment),
            ("spiffe://a/b/../c", Bad::DotSegment),
            ("spiffe://a/b%41", Bad::PathCharacter),
            ("spiffe://a/b?q", Bad::PathCharacter),
            ("spiffe://a/b#f", Bad::PathCharacter),
            ("spiffe://a/b c", Bad::PathCharacter),
            ("spiffe://a/é", Bad::PathCharacter),
            ("spiffe://a/b\0", Bad::PathCharacter),
        ] {
            assert_eq!(refused(text), why, "{text}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let domain = "a".repeat(255);
        assert!(format!("spiffe://{domain}/b").parse::<SpiffeId>().is_ok());
        assert_eq!(refused(&format!("spiffe://{domain}a/b")), BadSpiffeId::DomainLength);
        let path = "b".repeat(2048 - "spiffe://a/".len());
        assert!(format!("spiffe://a/{path}").parse::<SpiffeId>().is_ok());
        assert_eq!(refused(&format!("spiffe://a/{path}b")), BadSpiffeId::TooLong);
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        let id: SpiffeId = "spiffe://a/ns/shop/sa/cart".parse().unwrap();
        let below = |prefix: &str| id.is_below(&prefix.parse().unwrap());
        assert!(below("spiffe://a") && below("spiffe://a/ns/shop") && below("spiffe://a/ns/shop/sa/cart"));
        assert!(!below("spiffe://a/ns/sho") && !below("spiffe://b/ns/shop") && !below("spiffe://a/ns/shop/sa/cart/x"));
    }

    #[test]
    fn only_the_whole_shape_is_a_kubernetes_name() {
        let kubernetes = |text: &str| text.parse::<SpiffeId>().unwrap().kubernetes().is_some();
        assert!(kubernetes("spiffe://a/ns/shop/sa/cart"));
        assert!(!kubernetes("spiffe://a/ns/shop/sa/cart/x") && !kubernetes("spiffe://a/x/ns/shop/sa/cart"));
        assert!(!kubernetes("spiffe://a/ns/shop/sa") && !kubernetes("spiffe://a"));
    }

    #[test]
    fn a_service_account_with_a_slash_is_no_other_account() {
        let domain = "a".parse().unwrap();
        assert!(SpiffeId::of_service_account(&domain, "x/sa/y", "z").is_err());
        assert!(SpiffeId::of_service_account(&domain, "x", "").is_err());
    }
}
