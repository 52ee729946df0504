//! What reads bytes from outside, against bytes that are nearly right: an entry for each reader with what must hold whatever comes, and a mutator with a seed that drives it.
//!
//! It runs on stable Rust, in every test run for a second and in `tests/run --long` for minutes. A failure names the seed, the round and the input.

#![expect(clippy::arithmetic_side_effects, reason = "helpers of tests: a failure is the test's failure")]

use crate::der::{self, Reader};
use crate::pem::{self, Block};
use crate::spiffe::SpiffeId;
use crate::svid;
use crate::testkit::{self, Authority, raw_extension, wrap};
use crate::x509::Facts;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use rcgen::{BasicConstraints, CertificateParams, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType};

/// What one reader must keep to, for any input.
type Entry = fn(&[u8]);

/// Blocks are found or a fault that says nothing of what the file holds; what is found can be written and found again.
fn any_pem(file: &[u8]) {
    const MOST: usize = 8;
    match pem::blocks(file, MOST) {
        Ok(blocks) => {
            assert!(blocks.len() <= MOST);
            let text: String = blocks.iter().map(write).collect();
            let again = pem::blocks(text.as_bytes(), MOST).unwrap();
            assert!(again.iter().map(inside).eq(blocks.iter().map(inside)));
            assert!(blocks.iter().all(|block| !inside(block).1.is_empty()), "an empty block");
        }
        Err(bad) => assert!(bad.to_string().len() < 100, "{bad}"),
    }
}

fn inside(block: &Block) -> (&'static str, &[u8]) {
    match block {
        Block::Key(bytes) => ("PRIVATE KEY", bytes),
        Block::Certificate(bytes) => ("CERTIFICATE", bytes),
    }
}

fn write(block: &Block) -> String {
    let (label, bytes) = inside(block);
    testkit::pem(label, bytes)
}

/// The walk ends, its facts lie within the input, and it sees each name that webpki and x509-parser see.
fn any_certificate(der: &[u8]) {
    let Ok(facts) = Facts::read(der) else { return };
    let within = |part: &[u8]| der.as_ptr_range().contains(&part.as_ptr()) || part.is_empty();
    assert!(within(facts.serial) && within(facts.subject));
    let uris = facts.names.as_ref().map_or(0, |names| names.uris);
    if let Ok(id) = svid::identity(&facts) {
        assert_eq!(uris, 1);
        assert!(!facts.basic.ca && facts.usage.is_some_and(|usage| usage.critical && usage.digital_signature));
        assert_eq!(SpiffeId::from_bytes(id.to_string().as_bytes()), Ok(id));
    }
    if let Ok(end) = webpki::EndEntityCert::try_from(&rustls_pki_types::CertificateDer::from(der)) {
        assert!(end.valid_uri_names().count() <= uris, "webpki sees more URI names");
    }
    if let Ok(([], theirs)) = x509_parser::parse_x509_certificate(der) {
        crate::x509::agrees_with_x509_parser(&facts, &theirs);
    }
}

/// An ID is taken if, and only if, the grammar in other words takes it; and it is the text that came.
fn any_spiffe_id(text: &[u8]) {
    let ours = SpiffeId::from_bytes(text);
    assert_eq!(ours.is_ok(), by_the_grammar(text), "{ours:?}");
    if let Ok(id) = ours {
        assert_eq!(id.to_string().as_bytes(), text);
    }
}

/// SPIFFE ID section 2, once more: with sets of characters and without our parser.
fn by_the_grammar(text: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(b"spiffe://") else { return false };
    let mut parts = rest.split(|byte| *byte == b'/');
    let domain = parts.next().unwrap_or_default();
    let all = |part: &[u8], set: &str| !part.is_empty() && part.iter().all(|byte| set.as_bytes().contains(byte));
    const LOWER: &str = "abcdefghijklmnopqrstuvwxyz0123456789.-_";
    const BOTH: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    text.len() <= 2048
        && domain.len() <= 255
        && all(domain, LOWER)
        && parts.all(|part| all(part, BOTH) && part != b"." && part != b"..")
}

/// Changes good samples a little, or a lot. The same seed gives the same inputs.
pub(crate) struct Mutator {
    random: TestRng,
    samples: Vec<Vec<u8>>,
    /// Texts that mean something to the reader.
    words: &'static [&'static [u8]],
}

impl Mutator {
    pub(crate) fn new(seed: u8, samples: Vec<Vec<u8>>, words: &'static [&'static [u8]]) -> Self {
        Self { random: TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]), samples, words }
    }

    /// A number below `end`, which is not zero.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.random.next_u32()).unwrap() % end
    }

    fn sample(&mut self) -> Vec<u8> {
        let which = self.below(self.samples.len());
        self.samples[which].clone()
    }

    /// A run of bytes somewhere in an input: mostly short, and empty in an empty one.
    fn run(&mut self, input: &[u8]) -> std::ops::Range<usize> {
        let from = self.below(input.len() + 1);
        let longest = if self.below(4) == 0 { input.len() } else { 4 };
        from..(from + self.below(longest + 1)).min(input.len())
    }

    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut input = self.sample();
        let times = if self.below(2) == 0 { 1 } else { 1 + self.below(4) };
        for _ in 0..times {
            let run = self.run(&input);
            match self.below(7) {
                0 => input.iter_mut().skip(run.start).take(1).for_each(|byte| *byte ^= 1 << (run.len() % 8)),
                1 => {
                    let byte = u8::try_from(self.below(256)).unwrap();
                    input.insert(run.start, byte);
                }
                2 => drop(input.drain(run)),
                3 => {
                    let again = input[run.clone()].to_vec();
                    drop(input.splice(run.end..run.end, again));
                }
                4 if !self.words.is_empty() => {
                    let word = self.words[self.below(self.words.len())];
                    drop(input.splice(run, word.iter().copied()));
                }
                5 => {
                    let other = self.sample();
                    let from = self.run(&other);
                    drop(input.splice(run, other[from].iter().copied()));
                }
                _ => {
                    if let Some(changed) = self.change_value(&input) {
                        input = changed;
                    }
                }
            }
        }
        input
    }

    /// One value of a DER tree dropped, doubled or replaced, with the lengths around it mended: what gets past the outermost reader.
    fn change_value(&mut self, der: &[u8]) -> Option<Vec<u8>> {
        let mut left = self.below(40);
        self.walk(der, &mut left, 0)
    }

    fn walk(&mut self, der: &[u8], left: &mut usize, depth: usize) -> Option<Vec<u8>> {
        let mut reader = Reader::new(der, "fuzz");
        let mut before = Vec::new();
        while !reader.is_empty() {
            let value = reader.any().ok()?;
            let rest = der.get(before.len() + value.whole.len()..)?;
            if *left == 0 {
                let other = self.sample();
                let from = self.run(&other);
                let new = match self.below(4) {
                    0 => Vec::new(),
                    1 => [value.whole, value.whole].concat(),
                    2 => wrap(value.tag, &other[from]),
                    _ => wrap(u8::try_from(self.below(256)).unwrap(), value.content),
                };
                return Some([&before[..], &new, rest].concat());
            }
            *left -= 1;
            let holds_values = value.tag & 0x20 != 0 || value.tag == der::OCTET_STRING;
            if holds_values
                && depth < 12
                && let Some(changed) = self.walk(value.content, left, depth + 1)
            {
                return Some([&before[..], &wrap(value.tag, &changed), rest].concat());
            }
            before.extend_from_slice(value.whole);
        }
        None
    }
}

fn drive(entry: Entry, mutator: impl Fn(u8) -> Mutator, seeds: u8, rounds: usize) {
    for seed in 0..seeds {
        let mut mutator = mutator(seed);
        for round in 0..rounds {
            let input = mutator.next();
            let held = std::panic::catch_unwind(|| entry(&input));
            assert!(held.is_ok(), "seed {seed}, round {round}: {}", crate::x509::hex(&input));
        }
    }
}

fn pems(seed: u8) -> Mutator {
    // No key: a failure prints its input.
    let certificate = Authority::new("prod").trust();
    let key = testkit::pem("PRIVATE KEY", b"no key at all, but as long as one could be if it were one");
    let both = format!("{key}{certificate}{certificate}");
    let samples = [certificate.replace('\n', "\r\n"), certificate, key, both].map(String::into_bytes);
    Mutator::new(
        seed,
        samples.into(),
        &[b"-----BEGIN CERTIFICATE-----\n", b"-----END PRIVATE KEY-----", b"-----", b"\n", b"=", b"==\n", b" ", b"\r"],
    )
}

/// Certificates of every shape that the walk looks into.
pub(crate) fn certificates(seed: u8) -> Mutator {
    let root = Authority::with_root("prod", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(3));
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("svc".into())],
            excluded_subtrees: Vec::new(),
        });
    });
    let leaf = |change: fn(&mut CertificateParams)| root.issue_with("/ns/shop/sa/cart", change).chain;
    let samples = [
        root.trust(),
        leaf(|_| {}),
        leaf(|params| params.subject_alt_names.push(SanType::URI("https://example.org".try_into().unwrap()))),
        leaf(|params| params.subject_alt_names.push(SanType::DnsName("cart.shop.svc".try_into().unwrap()))),
        leaf(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
        leaf(|params| params.custom_extensions.push(raw_extension(&[1, 3, 6, 1, 4, 1, 99999, 1], false, vec![5, 0]))),
    ];
    let samples = samples.iter().flat_map(|text| pem::blocks(text.as_bytes(), 3).unwrap());
    Mutator::new(
        seed,
        samples.map(|block| inside(&block).1.to_vec()).collect(),
        &[
            b"\x86\x04a:b/",
            b"\x86\x02\xff\xfe",
            b"\x06\x03\x55\x1d\x11",
            b"\x06\x03\x55\x1d\x0f",
            b"\x06\x03\x55\x1d\x13",
            b"\x01\x01\xff",
            b"\x30\x00",
            b"\x30\x80",
            b"\x03\x02\x05\xa0",
        ],
    )
}

fn ids(seed: u8) -> Mutator {
    let long = format!("spiffe://prod.example.org/{}", "x".repeat(2048 - 26));
    let domain = format!("spiffe://{}/a", "d".repeat(255));
    let samples = ["spiffe://prod.example.org/ns/shop/sa/cart", "spiffe://a", "spiffe://a/b", &long, &domain];
    Mutator::new(
        seed,
        samples.map(|text| text.as_bytes().to_vec()).into(),
        &[b"/", b"//", b"/.", b"/..", b"%2e", b"spiffe://", b":80", b"?", b"#", b"@", b"A", b"\xc3\xa9", b"\0", b"..."],
    )
}

#[test]
fn bytes_from_outside_break_no_reader() {
    drive(any_pem, pems, 1, 20_000);
    drive(any_certificate, certificates, 1, 20_000);
    drive(any_spiffe_id, ids, 1, 20_000);
}

#[test]
#[ignore = "takes minutes: tests/run --long"]
fn bytes_from_outside_break_no_reader_for_long() {
    drive(any_pem, pems, 8, 500_000);
    drive(any_certificate, certificates, 8, 500_000);
    drive(any_spiffe_id, ids, 8, 500_000);
}
