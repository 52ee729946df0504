//! Whether peers would take what a CA signs for a PodSigner, before it signs for anybody: a certificate of nobody, as long as the
//! others, is made, verified as a peer's rustls does, and thrown away.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

use super::{
    dns::{Because, DnsWord},
    filled::Subject,
    key::PublicKey,
    leaf::{self, IssuedBy},
    profile::{BACKDATE, SHORTEST, Words},
};
use crate::{
    authority::Generation,
    config::PodSigner,
    names::{CertificateName, SerialNumber},
};

/// Signs by `sign`, for the public key `spki`, and verifies; none where nothing could be encoded or signed.
pub(crate) fn probe(
    generation: &Generation,
    sign: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    spki: &[u8],
    signer: &PodSigner,
    now: OffsetDateTime,
) -> Option<Result<(), webpki::Error>> {
    let words = words(signer, now)?;
    let by = IssuedBy::of(generation);
    let to_be_signed = leaf::to_be_signed(&words, &PublicKey::parse(spki).ok()?, by)?;
    let der = leaf::certificate(&to_be_signed, by, &sign(&to_be_signed)?)?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.unix_timestamp()).ok()?));
    Some(verify(&der.into(), generation, &words, at))
}

fn verify(der: &CertificateDer<'_>, generation: &Generation, words: &Words, at: UnixTime) -> Result<(), webpki::Error> {
    let root = CertificateDer::from(generation.root_der());
    let anchors = [webpki::anchor_from_trusted_cert(&root)?];
    let between: Vec<CertificateDer<'_>> = generation.chain_ders().map(CertificateDer::from).collect();
    let leaf = webpki::EndEntityCert::try_from(der)?;
    let client = words.usages.client().then(webpki::KeyUsage::client_auth);
    let server = words.usages.server().then(webpki::KeyUsage::server_auth);
    [client, server].into_iter().flatten().try_for_each(|usage| {
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &between, at, usage, None, None).map(|_path| ())
    })
}

/// What such a PodSigner would say of a pod: every kind of name that it gives.
fn words(signer: &PodSigner, now: OffsetDateTime) -> Option<Words> {
    let wording = &signer.wording;
    let asks = |rule: &crate::config::AllowRule| rule.requests.services || rule.requests.hostname;
    let gives = !wording.dns_names.is_empty() || signer.allow.iter().any(asks);
    let below = [String::new(), format!(".{}", wording.cluster_domain)];
    let ours = below.iter().filter(|_| gives);
    let ours = ours.filter_map(|domain| CertificateName::parse(&format!("podmint.podmint.svc{domain}")).ok());
    let granted = signer.allow.iter().flat_map(|rule| rule.requests.dns_names.iter().cloned());
    let word = |name| DnsWord { name, because: Because::Rule, asked_by: None };
    let not_before = now.replace_nanosecond(0).ok()?.checked_sub(BACKDATE)?;
    Some(Words {
        uri: wording.spiffe_path.as_ref().map(|_| format!("spiffe://{}/ns/podmint/sa/podmint", signer.trust_domain)),
        dns_names: ours.chain(granted).map(word).collect(),
        ip_addresses: Box::default(),
        subject: Subject::default(),
        usages: wording.usages,
        serial: SerialNumber::from_random([1; 16]),
        not_before,
        not_after: not_before.checked_add(SHORTEST)?,
        begin_refresh_at: not_before,
        decided_at: now,
    })
}
