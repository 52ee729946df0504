//! What X.509-SVID asks of a leaf certificate. Facts in, a SPIFFE ID out, or the rule that is broken.

use crate::spiffe::{BadSpiffeId, SpiffeId};
use crate::x509::Facts;

/// A rule of the X.509-SVID specification (or of RFC 5280, where it relies on it) that a leaf certificate breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAnSvid {
    /// It has no URI name (X.509-SVID section 2).
    #[error("it has no URI name, so it has no SPIFFE ID")]
    NoUri,
    /// It has several URI names (X.509-SVID section 2); those that are no text count too.
    #[error("it has {0} URI names; exactly one is allowed")]
    SeveralUris(usize),
    /// Its URI name is no SPIFFE ID (X.509-SVID section 2).
    #[error("its URI name is no SPIFFE ID: {0}")]
    BadId(#[source] BadSpiffeId),
    /// Its SPIFFE ID has no path: it names a trust domain (X.509-SVID section 3.1).
    #[error("its SPIFFE ID names a whole trust domain, not a workload")]
    NoPath,
    /// It is a CA certificate (X.509-SVID sections 4.1 and 5.2).
    #[error("it is a CA certificate")]
    IsCa,
    /// It has no key usage (X.509-SVID section 4.3).
    #[error("it has no key usage")]
    NoKeyUsage,
    /// Its key usage is not critical (X.509-SVID section 4.3).
    #[error("its key usage is not marked critical")]
    UsageNotCritical,
    /// It may not sign handshakes (X.509-SVID section 4.3).
    #[error("its key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// It may sign certificates (X.509-SVID sections 4.3 and 5.2).
    #[error("its key usage has keyCertSign")]
    MaySignCertificates,
    /// It may sign revocation lists (X.509-SVID sections 4.3 and 5.2).
    #[error("its key usage has cRLSign")]
    MaySignRevocations,
    /// Its subject is empty and its names are not critical (RFC 5280 section 4.2.1.6).
    #[error("its subject is empty but its alternative names are not marked critical")]
    NamesNotCritical,
}

impl NotAnSvid {
    /// A stable name, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoUri => "no_uri",
            Self::SeveralUris(_) => "several_uris",
            Self::BadId(_) => "bad_spiffe_id",
            Self::NoPath => "no_path",
            Self::IsCa => "leaf_is_ca",
            Self::NoKeyUsage => "no_key_usage",
            Self::UsageNotCritical => "usage_not_critical",
            Self::NoDigitalSignature => "no_digital_signature",
            Self::MaySignCertificates => "may_sign_certificates",
            Self::MaySignRevocations => "may_sign_revocations",
            Self::NamesNotCritical => "names_not_critical",
        }
    }
}

/// The SPIFFE ID of a leaf, if the leaf keeps every rule.
///
/// Absent basic constraints mean "not a CA" (the DER default), so they are accepted; Go writes leaves like that.
pub(crate) fn identity(leaf: &Facts<'_>) -> Result<SpiffeId, NotAnSvid> {
    let id = name(leaf)?;
    if leaf.basic.ca {
        return Err(NotAnSvid::IsCa);
    }
    usage(leaf)?;
    Ok(id)
}

/// The SPIFFE ID of a leaf whose other rules are not looked at: for saying whom we refuse.
pub(crate) fn name(leaf: &Facts<'_>) -> Result<SpiffeId, NotAnSvid> {
    let names = leaf.names.as_ref().ok_or(NotAnSvid::NoUri)?;
    let uri = names.first_uri.ok_or(NotAnSvid::NoUri)?;
    if names.uris > 1 {
        return Err(NotAnSvid::SeveralUris(names.uris));
    }
    let id = SpiffeId::from_bytes(uri).map_err(NotAnSvid::BadId)?;
    if id.path().is_empty() {
        return Err(NotAnSvid::NoPath);
    }
    if leaf.subject.is_empty() && !names.critical {
        return Err(NotAnSvid::NamesNotCritical);
    }
    Ok(id)
}

fn usage(leaf: &Facts<'_>) -> Result<(), NotAnSvid> {
    let usage = leaf.usage.ok_or(NotAnSvid::NoKeyUsage)?;
    if usage.cert_sign {
        return Err(NotAnSvid::MaySignCertificates);
    }
    if usage.crl_sign {
        return Err(NotAnSvid::MaySignRevocations);
    }
    if !usage.digital_signature {
        return Err(NotAnSvid::NoDigitalSignature);
    }
    if !usage.critical {
        return Err(NotAnSvid::UsageNotCritical);
    }
    Ok(())
}
