//! Signs a profile once, and believes nothing about the result: it is read back, compared word by word, linted, verified up to
//! the published roots and held against the API server's rules. The API server itself would take almost anything, for ever.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use time::OffsetDateTime;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
    x509::RelativeDistinguishedName,
};

use super::{
    approved::Approved,
    claim::Claim,
    key::PublicKey,
    leaf::{self, IssuedBy, key_identifier},
    lint,
    profile::{Profile, Words},
    rules::{self, Broken, Proposed},
};
use crate::{
    authority::{Issuer, NotYet, certificate::to_pem},
    names::Sha256,
};

/// Our own trouble: nothing leaves, the request stays pending and is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Some part is too long, or a time too far.
    #[error("the certificate cannot be encoded")]
    Unencodable,
    /// ring refused.
    #[error("could not sign the certificate")]
    Sign(#[source] rcgen::Error),
    /// Others may have moved on from this CA, or do not know how long its certificates live.
    #[error("the CA may not sign this before its keeper has looked again")]
    NotYet(#[source] NotYet),
    /// What was signed cannot be read.
    #[error("the certificate that was signed cannot be read back")]
    Unreadable,
    /// What was signed is not what was decided.
    #[error("the certificate that was signed differs from what was decided: {0}")]
    Differs(&'static str),
    /// What was signed is not as it should be.
    #[error("the certificate that was signed does not pass the lint {0}")]
    Lint(&'static str),
    /// What was signed cannot be verified.
    #[error("the certificate that was signed does not chain to a published root")]
    Chain(#[source] webpki::Error),
    /// The API server would refuse it.
    #[error("the API server would refuse what was signed")]
    Rule(#[source] Broken),
}

impl Fault {
    /// For metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unencodable => "unencodable",
            Self::Sign(_) => "sign",
            Self::NotYet(_) => "not_yet",
            Self::Unreadable => "unreadable",
            Self::Differs(_) => "differs",
            Self::Lint(_) => "lint",
            Self::Chain(_) => "chain",
            Self::Rule(_) => "rule",
        }
    }
}

/// A certificate that is as it was decided.
///
/// It cannot be made but by [`Issued::sign`], which takes the profile for good: one profile, one certificate.
/// ```
/// # use podmint_signer::{authority::Issuer, pipeline::{Fault, Issued, Profile}};
/// fn sign(profile: Profile, issuer: &Issuer) -> Result<Issued, Fault> {
///     Issued::sign(profile, issuer)
/// }
/// ```
/// ```compile_fail
/// # use podmint_signer::{authority::Issuer, pipeline::{Fault, Issued, Profile}};
/// fn sign(profile: Profile, issuer: &Issuer) -> Result<Issued, Fault> {
///     Issued::sign(profile, issuer)?;
///     Issued::sign(profile, issuer)
/// }
/// ```
pub struct Issued {
    approved: Approved,
    words: Words,
    chain_pem: String,
    fingerprint: Sha256,
    generation: u64,
}

impl Issued {
    /// Signs.
    pub fn sign(profile: Profile, issuer: &Issuer) -> Result<Self, Fault> {
        let (approved, words) = profile.into_parts();
        let claim = Arc::clone(approved.claim());
        let der = signed(&words, &claim.key, issuer)?;
        let (_, leaf) = X509Certificate::from_der(&der).map_err(|_garbage| Fault::Unreadable)?;
        compare(&words, &claim.key, &leaf)?;
        lint::all(&leaf).map_err(Fault::Lint)?;
        verify(&der, issuer, &words)?;
        let chain_pem = to_pem(&der) + issuer.generation().chain_pem();
        rules::issued(&proposed(&words, &chain_pem, &leaf, &claim), words.decided_at).map_err(Fault::Rule)?;
        let (fingerprint, generation) = (Sha256::of(&der), issuer.generation().number());
        Ok(Self { approved, words, chain_pem, fingerprint, generation })
    }

    /// Whom it is for.
    pub fn claim(&self) -> &Arc<Claim> {
        self.approved.claim()
    }

    /// Why it was admitted.
    pub fn approved(&self) -> &Approved {
        &self.approved
    }

    /// What it says.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Leaf and issuing CA, without the root.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The SHA-256 of the leaf.
    pub fn fingerprint(&self) -> Sha256 {
        self.fingerprint
    }

    /// The number of the CA that signed it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether it is too old to be published: the API server takes a `notBefore` of at most five minutes ago. Sign anew.
    pub fn is_stale(&self, now: OffsetDateTime) -> bool {
        now > self.words.decided_at.saturating_add(PUBLISH_WITHIN)
    }

    /// Whether its life is shorter than the outage that a pod should outlive.
    pub fn is_short_lived(&self) -> bool {
        self.words.not_after.unix_timestamp().saturating_sub(self.words.not_before.unix_timestamp()) < 86_400
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { approved, words, chain_pem: _, fingerprint, generation } = self;
        out.debug_struct("Issued")
            .field("approved", approved)
            .field("words", words)
            .field("fingerprint", fingerprint)
            .field("generation", generation)
            .finish()
    }
}

fn signed(words: &Words, key: &PublicKey, issuer: &Issuer) -> Result<CertificateDer<'static>, Fault> {
    let generation = issuer.generation();
    let by = IssuedBy::of(generation);
    let to_be_signed = leaf::to_be_signed(words, key, by).ok_or(Fault::Unencodable)?;
    let life = words.not_after.unix_timestamp().saturating_sub(words.not_before.unix_timestamp());
    let signature = issuer.sign(&to_be_signed, words.decided_at, life).map_err(Fault::NotYet)?.map_err(Fault::Sign)?;
    leaf::certificate(&to_be_signed, by, &signature).map(CertificateDer::from).ok_or(Fault::Unencodable)
}

/// What was signed against what was decided.
fn compare(words: &Words, key: &PublicKey, leaf: &X509Certificate<'_>) -> Result<(), Fault> {
    let Words {
        uri,
        dns_names,
        ip_addresses,
        subject,
        usages,
        serial,
        not_before,
        not_after,
        begin_refresh_at: _,
        decided_at: _,
    } = words;
    let same = |what: &'static str, same: bool| if same { Ok(()) } else { Err(Fault::Differs(what)) };
    same("serial number", leaf.raw_serial() == serial.as_bytes())?;
    same("notBefore", leaf.validity().not_before.to_datetime() == *not_before)?;
    same("notAfter", leaf.validity().not_after.to_datetime() == *not_after)?;
    same("public key", leaf.public_key().raw == key.spki())?;
    same("subject", fields(leaf) == Some(subject.fields().collect()))?;
    let names = leaf.subject_alternative_name().map_err(|_twice| Fault::Differs("names"))?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let addresses: Vec<Vec<u8>> = ip_addresses.iter().map(octets).collect();
    let wanted: Vec<GeneralName<'_>> = uri
        .iter()
        .map(|uri| GeneralName::URI(uri))
        .chain(dns_names.iter().map(|word| GeneralName::DNSName(word.name.as_str())))
        .chain(addresses.iter().map(|octets| GeneralName::IPAddress(octets)))
        .collect();
    same("names", names == wanted)?;
    let extended = leaf.extended_key_usage().ok().flatten().map(|usage| usage.value);
    same(
        "usages",
        extended.is_some_and(|found| found.client_auth == usages.client() && found.server_auth == usages.server()),
    )?;
    same("subject key identifier", subject_key(leaf) == Some(key_identifier(key).as_slice()))
}

/// The subject's fields by their number below `2.5.4`; none where it is written in any other way.
fn fields<'c>(leaf: &'c X509Certificate<'_>) -> Option<Vec<(u8, &'c str)>> {
    let field = |set: &'c RelativeDistinguishedName<'_>| {
        let mut attributes = set.iter();
        let (attribute, None) = (attributes.next()?, attributes.next()) else { return None };
        let [0x55, 0x04, number] = attribute.attr_type().as_bytes() else { return None };
        Some((*number, attribute.as_str().ok()?))
    };
    leaf.subject().iter_rdn().map(field).collect()
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum, of which one counts")]
fn subject_key<'c>(leaf: &'c X509Certificate<'_>) -> Option<&'c [u8]> {
    leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    })
}

/// As a peer's rustls will, by each of the names: this notices a bit that flipped while signing, and a name that the CA may not sign.
fn verify(der: &CertificateDer<'_>, issuer: &Issuer, words: &Words) -> Result<(), Fault> {
    let now = words.decided_at;
    let leaf = webpki::EndEntityCert::try_from(der).map_err(Fault::Chain)?;
    let between: Vec<CertificateDer<'_>> = issuer.generation().chain_ders().map(CertificateDer::from).collect();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.unix_timestamp()).unwrap_or(0)));
    let client = words.usages.client().then(webpki::KeyUsage::client_auth);
    let server = words.usages.server().then(webpki::KeyUsage::server_auth);
    let algorithms = issuer.signatures().and_all_others();
    for usage in [client, server].into_iter().flatten() {
        leaf.verify_for_usage(&algorithms, issuer.anchors(), &between, at, usage, None, None)
            .map(|_path| ())
            .map_err(Fault::Chain)?;
    }
    let names = words.dns_names.iter().map(|word| ServerName::try_from(word.name.as_str()));
    let addresses = words.ip_addresses.iter().map(|address| Ok(ServerName::from(*address)));
    names.chain(addresses).try_for_each(|name| {
        let name = name.map_err(|_odd| Fault::Differs("names"))?;
        leaf.verify_is_valid_for_subject_name(&name).map_err(Fault::Chain)
    })
}

fn proposed<'w>(words: &Words, chain_pem: &'w str, leaf: &'w X509Certificate<'w>, claim: &'w Claim) -> Proposed<'w> {
    Proposed {
        certificate_chain: chain_pem,
        leaf,
        not_before: words.not_before,
        begin_refresh_at: words.begin_refresh_at,
        not_after: words.not_after,
        key: &claim.key,
        max_expiration_seconds: claim.max_expiration_seconds,
    }
}

/// The API server allows five minutes less the backdating; this leaves two more for clocks that differ.
const PUBLISH_WITHIN: time::Duration = time::Duration::minutes(2);

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        authority::{Origin, trace},
        config::{PodSigner, Usages},
        names::{CertificateName, DnsName, SerialNumber},
        pipeline::{
            Approved, Fact, KeyType, Verified,
            honest::{
                KEY, NOW, RSA_KEY, TestKey, claim_with, config_with, honest, honest_of, issued, issuer, leaf_of,
                profile, serial, signer,
            },
        },
    };

    fn issue(key: &TestKey, issuer: &Issuer) -> Result<Issued, Fault> {
        let verified = Verified::check(honest_of(claim_with(key))).unwrap();
        let approved = Approved::admit(verified, &signer()).unwrap();
        Issued::sign(Profile::decide(approved, issuer.usable_until(), NOW, serial()).unwrap(), issuer)
    }

    #[test]
    fn keys_of_all_six_kinds_are_certified() {
        let issuer = issuer();
        for kind in KeyType::ALL {
            let issued = issue(&TestKey::new(kind), &issuer).unwrap();
            assert_eq!(issued.claim().key_type(), kind);
            assert_eq!(Sha256::of(&leaf_of(&issued)), issued.fingerprint());
            assert_eq!(issued.generation(), issuer.generation().number());
        }
    }

    /// RFC 7093, method 4 with SHA-256.
    #[test]
    fn the_subject_key_identifier_is_160_bits_of_the_hash_of_the_key() {
        let leaf = leaf_of(&issued());
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        assert_eq!(subject_key(&leaf).unwrap(), &Sha256::of(&KEY.spki()).as_bytes()[..20]);
    }

    #[test]
    fn what_a_pod_asks_for_below_a_day_is_short_lived() {
        let issuer = issuer();
        for (seconds, is_short) in [(43_200, true), (86_399, true), (86_400, false)] {
            let mut claim = claim_with(&KEY);
            claim.max_expiration_seconds = seconds;
            let mut seen = honest_of(claim);
            let Fact::Found(pod, _) = &mut seen.pod else { panic!("an honest pod is there") };
            pod.projections[0].max_expiration_seconds = seconds.into();
            let approved = Approved::admit(Verified::check(seen).unwrap(), &signer()).unwrap();
            let profile = Profile::decide(approved, issuer.usable_until(), NOW, serial()).unwrap();
            assert_eq!(Issued::sign(profile, &issuer).unwrap().is_short_lived(), is_short, "{seconds}");
        }
    }

    #[test]
    fn the_chain_is_leaf_and_issuing_ca_without_the_root() {
        let issuer = issuer();
        let issued = Issued::sign(profile(&issuer), &issuer).unwrap();
        let blocks = pem::parse_many(issued.chain_pem()).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[1].contents(), issuer.generation().chain_ders().next().unwrap());
        let roots = issuer.generation().trust_bundle();
        assert_eq!(trace(issued.chain_pem(), &roots), Origin::Ours { leaf: issued.fingerprint() });
        let others = super::super::honest::generation().trust_bundle();
        assert_eq!(trace(issued.chain_pem(), &others), Origin::Foreign { leaf: issued.fingerprint() });
        assert_eq!(trace("nothing", &roots), Origin::Unreadable);
    }

    /// With every word that there is.
    fn full(issuer: &Issuer, change: impl FnOnce(&mut PodSigner)) -> Result<Issued, Fault> {
        let mut signer = PodSigner::clone(&config_with(
            "profile: {dnsNames: [services, hostname, 'x.{namespace}.svc'], ipAddresses: [podIPs], subject: {organization: Shop, \
             organizationalUnit: '{namespace}', commonName: '{serviceAccount}'}}",
        ));
        change(&mut signer);
        let mut seen = honest();
        let Fact::Found(pod, _) = &mut seen.pod else { panic!("an honest pod is there") };
        pod.addresses = [[10, 0, 0, 7].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 7].into()].into();
        let approved = Approved::admit(Verified::check(seen).unwrap(), &Arc::new(signer)).unwrap();
        Issued::sign(Profile::decide(approved, issuer.usable_until(), NOW, serial()).unwrap(), issuer)
    }

    #[test]
    fn every_word_is_certified_as_webpki_wants_it() {
        let issuer = issuer();
        let issued = full(&issuer, |_| ()).unwrap();
        assert_eq!((issued.words().dns_names.len(), issued.words().ip_addresses.len()), (7, 2));
        for usages in [Usages::Client, Usages::Server] {
            let one = full(&issuer, |signer| (signer.wording.spiffe_path, signer.wording.usages) = (None, usages));
            let one = one.unwrap();
            assert_eq!(one.words().usages, usages);
            let roots = issuer.generation().trust_bundle();
            assert_eq!(
                trace(one.chain_pem(), &roots),
                Origin::Ours { leaf: one.fingerprint() },
                "to who did not sign it"
            );
            let spiffe = full(&issuer, |signer| signer.wording.usages = usages);
            assert!(matches!(spiffe, Err(Fault::Lint("usage_is_client_and_server_with_a_spiffe_id"))));
        }
        let subject_alone = full(&issuer, |signer| {
            (signer.wording.spiffe_path, signer.wording.pod_ips) = (None, false);
            signer.wording.dns_names = Box::default();
        });
        assert_eq!(subject_alone.unwrap().words().called(), "cart");
        let elsewhere = full(&issuer, |signer| {
            signer.wording.cluster_domain = DnsName::parse("example.org").unwrap();
        });
        assert!(matches!(elsewhere, Err(Fault::Chain(_))), "the CA may not sign for example.org");
    }

    #[test]
    fn each_word_that_differs_is_noticed() {
        let issued = full(&issuer(), |_| ()).unwrap();
        let der = leaf_of(&issued);
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        let (words, key) = (issued.words().clone(), issued.claim().key.clone());
        compare(&words, &key, &leaf).unwrap();
        let differs = |change: fn(&mut Words)| {
            let mut changed = words.clone();
            change(&mut changed);
            compare(&changed, &key, &leaf).unwrap_err().to_string()
        };
        assert!(differs(|words| words.uri.as_mut().unwrap().push('x')).ends_with("names"));
        assert!(differs(|words| words.uri = None).ends_with("names"));
        assert!(differs(|words| words.dns_names = Box::default()).ends_with("names"));
        assert!(differs(|words| words.ip_addresses = Box::default()).ends_with("names"));
        assert!(differs(|words| words.ip_addresses[0] = [10, 0, 0, 8].into()).ends_with("names"));
        assert!(differs(|words| words.subject.organization = None).ends_with("subject"));
        assert!(differs(|words| words.subject.common_name = Some("card".to_owned())).ends_with("subject"));
        assert!(differs(|words| words.usages = Usages::Client).ends_with("usages"));
        assert!(differs(|words| words.usages = Usages::Server).ends_with("usages"));
        assert!(differs(|words| words.dns_names.swap(0, 1)).ends_with("names"));
        assert!(differs(|words| words.dns_names[0].name = CertificateName::parse("a.svc").unwrap()).ends_with("names"));
        assert!(differs(|words| words.serial = SerialNumber::from_random([1; 16])).ends_with("serial number"));
        assert!(differs(|words| words.not_before += time::Duration::SECOND).ends_with("notBefore"));
        assert!(differs(|words| words.not_after -= time::Duration::SECOND).ends_with("notAfter"));
        let other = claim_with(&RSA_KEY).key;
        assert!(matches!(compare(&words, &other, &leaf), Err(Fault::Differs("public key"))));
    }

    #[test]
    fn a_flipped_bit_in_the_signature_is_noticed() {
        let issuer = issuer();
        let issued = Issued::sign(profile(&issuer), &issuer).unwrap();
        let mut der = leaf_of(&issued);
        verify(&der.clone().into(), &issuer, issued.words()).unwrap();
        *der.last_mut().unwrap() ^= 1;
        assert!(matches!(verify(&der.into(), &issuer, issued.words()), Err(Fault::Chain(_))));
    }

    #[test]
    fn a_leaf_of_another_ca_is_noticed() {
        let issued = issued();
        let other = issuer();
        assert!(matches!(verify(&leaf_of(&issued).into(), &other, issued.words()), Err(Fault::Chain(_))));
    }

    #[test]
    fn a_certificate_goes_stale_after_two_minutes() {
        let issued = issued();
        assert!(!issued.is_stale(NOW + time::Duration::minutes(2)));
        assert!(issued.is_stale(NOW + time::Duration::minutes(2) + time::Duration::SECOND));
        assert!(issued.is_short_lived());
    }

    #[test]
    fn what_one_costs() {
        let issuer = issuer();
        let profiles: Vec<Profile> = (0..200).map(|_| profile(&issuer)).collect();
        let begin = Instant::now();
        profiles.into_iter().for_each(|profile| drop(Issued::sign(profile, &issuer).unwrap()));
        println!("sign, read back, lint, verify: {:?} each", begin.elapsed() / 200);
        let begin = Instant::now();
        (0..200).for_each(|_| drop(claim_with(&KEY)));
        println!("make a request, sign and claim it: {:?} each", begin.elapsed() / 200);
    }
}
