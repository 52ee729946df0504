//! Requests that lie, are huge, or come from nowhere. What the API server refuses at once is none of the signer's business: so it is
//! counted what it takes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::{Fleet, PATIENCE, RETRY};
use crate::chance::Chance;
use crate::checker::hostile::Sent;
use crate::keys::{Key, KeyType, common_name, der};
use crate::stage::RequestPlan;
use crate::{Who, call};

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    WrongNode,
    WrongAccount,
    Ghost,
    LongLife,
    Annotations,
    LargestAnnotations,
    TooLargeAnnotations,
    OurAnnotation,
    Claims,
    Mutant,
    LargestCsr,
    TooLargeCsr,
    FlippedBit,
    Noise,
    CopiedKey,
}

impl Kind {
    /// Every one: what it is called, and whether the API server has to take such requests.
    const ALL: [(Self, &str, bool); 15] = [
        (Self::WrongNode, "request with another node", true),
        (Self::WrongAccount, "request with another account", true),
        (Self::Ghost, "request for a pod that never was", true),
        (Self::LongLife, "request for a longer life", true),
        (Self::Annotations, "request with many annotations", true),
        (Self::LargestAnnotations, "request with the largest annotations", true),
        (Self::TooLargeAnnotations, "request with annotations a byte larger", false),
        (Self::OurAnnotation, "request with an annotation of ours", true),
        (Self::Claims, "CSR that claims names", true),
        (Self::Mutant, "CSR with anything in it", true),
        (Self::LargestCsr, "largest CSR", true),
        (Self::TooLargeCsr, "CSR a byte larger", false),
        (Self::FlippedBit, "CSR with a flipped bit", false),
        (Self::Noise, "CSR that is noise", false),
        (Self::CopiedKey, "copied CSR", true),
    ];
}

/// What the API server did with them.
#[derive(Debug)]
pub(super) struct Tally(Mutex<Vec<Sent>>);

impl Default for Tally {
    fn default() -> Self {
        Self(Mutex::new(Kind::ALL.map(|(_, kind, passes)| Sent { kind, passes, admitted: 0, refused: 0 }).into()))
    }
}

impl Tally {
    fn note(&self, kind: Kind, is_admitted: bool) {
        let at = Kind::ALL.iter().position(|(other, ..)| *other == kind).expect("all are there");
        let sent = &mut self.all()[at];
        *if is_admitted { &mut sent.admitted } else { &mut sent.refused } += 1;
    }

    fn all(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fleet {
    /// One or more of every kind.
    pub async fn hostile(&self, chance: &Chance) {
        let pod = chance.one_of(&self.quiet);
        let other =
            self.quiet.iter().find(|other| other.node.name != pod.node.name && other.account.name != pod.account.name);
        let other = other.expect("another node and account");
        let honest = || self.stage.request_for(pod).by(&Who::Admin);
        let (copied, ghost) = (self.objects[&other.uid]["spec"]["stubPKCS10Request"].clone(), ghost(chance));
        let annotated = |annotations| honest().with("unverifiedUserAnnotations", annotations);
        let mut plans = vec![
            (
                Kind::WrongNode,
                honest().with("nodeName", other.node.name.as_str()).with("nodeUID", other.node.uid.as_str()),
            ),
            (
                Kind::WrongAccount,
                honest()
                    .with("serviceAccountName", other.account.name.as_str())
                    .with("serviceAccountUID", other.account.uid.as_str()),
            ),
            (Kind::Ghost, honest().with("podName", "ghost").with("podUID", ghost)),
            (Kind::LongLife, honest().with("maxExpirationSeconds", 90_000)),
            (Kind::Annotations, annotated(many(chance))),
            (Kind::LargestAnnotations, annotated(large(MOST_ANNOTATIONS))),
            (Kind::TooLargeAnnotations, annotated(large(MOST_ANNOTATIONS + 1))),
            (Kind::OurAnnotation, annotated(json!({"podmint.dev/common-name": "admin"}))),
        ];
        plans.extend(
            csrs(chance).into_iter().map(|(kind, csr)| (kind, honest().with("stubPKCS10Request", base64(&csr)))),
        );
        for (kind, plan) in plans {
            self.send(kind, plan).await;
        }
        // The key of another pod, whose own request comes first.
        if self.one(&self.stage, other).await.is_some() {
            self.send(Kind::CopiedKey, honest().with("stubPKCS10Request", copied)).await;
        }
        for stranger in &self.strangers.1 {
            self.one(&self.strangers.0, stranger).await;
        }
    }

    /// What was sent so far, by kind.
    pub fn sent(&self) -> Vec<Sent> {
        self.sent.all().clone()
    }

    /// Again and again while the API server is away.
    async fn send(&self, kind: Kind, plan: RequestPlan<'_>) {
        let object = plan.object(&Key::make(KeyType::EcdsaP256));
        for _ in 0..PATIENCE {
            match call::post(&self.stage.admin, &self.stage.requests(), &object).await {
                Ok(_) => return self.sent.note(kind, true),
                Err(why) if why.code == 0 || why.code >= 429 => tokio::time::sleep(RETRY).await,
                Err(_) => return self.sent.note(kind, false),
            }
        }
    }
}

fn ghost(chance: &Chance) -> String {
    format!("{:08x}-0000-4000-8000-000000000000", chance.below(u64::from(u32::MAX)))
}

fn many(chance: &Chance) -> Value {
    (0..chance.within(2..2_000))
        .map(|number| (format!("stories.example.org/{number}"), Value::from(word(chance, 100))))
        .collect()
}

/// Annotations of so many bytes.
fn large(length: usize) -> Value {
    let key = "stories.example.org/large";
    json!({key: "v".repeat(length - key.len())})
}

/// PKCS#10 requests, each with a key of its own.
fn csrs(chance: &Chance) -> Vec<(Kind, Vec<u8>)> {
    let key = || Key::make(KeyType::EcdsaP256);
    let names = extensions(&[extension(&SUBJECT_ALT_NAME, &der(0x30, &der(0x82, b"system-masters.example.org")))]);
    let mut flipped = key().stub_request();
    let bit = chance.below(8 * length(&flipped));
    flipped[usize::try_from(bit / 8).expect("a place in it")] ^= 1 << (bit % 8);
    let mut all = vec![
        (Kind::Claims, key().request_naming(&common_name("system:masters"), &names)),
        (Kind::LargestCsr, of_length(&key(), MOST_CSR)),
        (Kind::TooLargeCsr, of_length(&key(), MOST_CSR + 1)),
        (Kind::FlippedBit, flipped),
        (Kind::Noise, bytes(chance, 10_000)),
    ];
    all.extend((0..MUTANTS).map(|_| (Kind::Mutant, key().request_naming(&subject(chance), &attributes(chance)))));
    all
}

/// A request of this length, to the byte. That of its signature is left to chance.
fn of_length(key: &Key, length: usize) -> Vec<u8> {
    let mut name = length / 2;
    loop {
        let request = key.request_naming(&common_name(&"x".repeat(name)), &[]);
        if request.len() == length {
            return request;
        }
        name = name + length - request.len();
    }
}

/// A subject that no CA would write.
fn subject(chance: &Chance) -> Vec<u8> {
    let named = || der(0x30, &[identifier(chance), value(chance, 1)].concat());
    let relative = |_| der(0x31, &several(chance, 1..3, |_| named()));
    der(0x30, &several(chance, 0..6, relative))
}

/// Attributes that nobody knows, and extensions that nobody grants.
fn attributes(chance: &Chance) -> Vec<u8> {
    let strange = || der(0x30, &[identifier(chance), der(0x31, &several(chance, 1..4, |_| value(chance, 3)))].concat());
    let asked = |_| match chance.below(3) {
        0 => extension(&SUBJECT_ALT_NAME, &der(0x30, &several(chance, 0..20, |_| name(chance)))),
        1 => extension(&identifier(chance), &value(chance, 3)),
        _ => extension(&identifier(chance), &bytes(chance, 300)),
    };
    let asked = || extensions(&[several(chance, 1..6, asked)]);
    let unknown = several(chance, 0..4, |_| strange());
    if chance.below(2) == 0 { [asked(), unknown].concat() } else { unknown }
}

/// A GeneralName.
fn name(chance: &Chance) -> Vec<u8> {
    match chance.below(4) {
        0 => der(0x82, format!("{}.example.org", word(chance, 60)).as_bytes()),
        1 => der(0x86, format!("spiffe://{}/ns/{}", word(chance, 30), word(chance, 30)).as_bytes()),
        2 => der(0x81, format!("{}@example.org", word(chance, 30)).as_bytes()),
        _ => der(0x87, &[127, 0, 0, u8::try_from(chance.below(256)).expect("a byte")]),
    }
}

fn extensions(all: &[Vec<u8>]) -> Vec<u8> {
    der(0x30, &[EXTENSION_REQUEST.to_vec(), der(0x31, &der(0x30, &all.concat()))].concat())
}

fn extension(identifier: &[u8], value: &[u8]) -> Vec<u8> {
    der(0x30, &[identifier.to_vec(), der(0x04, value)].concat())
}

fn identifier(chance: &Chance) -> Vec<u8> {
    let arcs = (0..chance.within(2..12)).map(|_| u8::try_from(chance.within(1..128)).expect("below 128"));
    der(0x06, &[0x2a].into_iter().chain(arcs).collect::<Vec<u8>>())
}

/// A string, or bytes of any type, or several of them in each other.
fn value(chance: &Chance, depth: usize) -> Vec<u8> {
    let kinds = if depth > 1 { 6 } else { 5 };
    match chance.below(kinds) {
        0 => der(0x0c, word(chance, 200).as_bytes()),
        1 => der(0x13, word(chance, 200).as_bytes()),
        2 => der(0x16, word(chance, 200).as_bytes()),
        3 => der(0x04, &bytes(chance, 200)),
        // BOOLEAN, INTEGER, NULL, OBJECT IDENTIFIER, UTF8String, UTCTime, BMPString and two that a context explains.
        4 => der(*chance.one_of(&[0x01, 0x02, 0x05, 0x06, 0x0c, 0x17, 0x1e, 0x80, 0xa3]), &bytes(chance, 20)),
        _ => der(0x30, &several(chance, 0..4, |_| value(chance, depth - 1))),
    }
}

fn several(chance: &Chance, how_many: std::ops::Range<u64>, one: impl FnMut(u64) -> Vec<u8>) -> Vec<u8> {
    (0..chance.within(how_many)).flat_map(one).collect()
}

fn word(chance: &Chance, most: u64) -> String {
    (0..chance.within(1..most)).map(|_| char::from(*chance.one_of(b"abcdefghijklmnopqrstuvwxyz0123456789"))).collect()
}

fn bytes(chance: &Chance, most: u64) -> Vec<u8> {
    (0..chance.within(1..most)).map(|_| u8::try_from(chance.below(256)).expect("a byte")).collect()
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

fn length(bytes: &[u8]) -> u64 {
    bytes.len().try_into().expect("a length")
}

const EXTENSION_REQUEST: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const SUBJECT_ALT_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x11];
/// Keys and values together; an API server takes no more.
const MOST_ANNOTATIONS: usize = 256 << 10;
/// An API server takes no more.
const MOST_CSR: usize = 10 << 10;
/// Enough that some are taken: one word that Go does not like is enough for a no.
const MUTANTS: usize = 12;

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

    use super::*;

    #[test]
    fn a_seed_decides_what_is_in_a_request_and_every_one_can_be_read() {
        let draw = |seed| {
            let chance = Chance::new(seed);
            (subject(&chance), attributes(&chance), many(&chance))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        for (kind, csr) in (0..20).flat_map(|seed| csrs(&Chance::new(seed))) {
            let is_whole =
                X509CertificationRequest::from_der(&csr).is_ok_and(|(_, csr)| csr.verify_signature().is_ok());
            assert_eq!(is_whole, !matches!(kind, Kind::FlippedBit | Kind::Noise), "{kind:?}: {}", base64(&csr));
        }
    }

    #[test]
    fn the_largest_are_as_large_as_may_be() {
        let key = Key::make(KeyType::EcdsaP256);
        assert_eq!(of_length(&key, MOST_CSR).len(), 10_240);
        let annotations = large(MOST_ANNOTATIONS);
        let bytes =
            annotations.as_object().unwrap().iter().map(|(key, value)| key.len() + value.as_str().unwrap().len());
        assert_eq!(bytes.sum::<usize>(), 262_144);
    }
}
