//! What others may have written, against bytes that are nearly right: the Secrets of a CA, one that is brought, and chains that were
//! published under our signer name. Whatever comes, it ends in a CA that signs what our peers take, or in an error that tells no key.
//!
//! On stable Rust, for a second in every test run and for minutes with `tests/run --long`. A failure names seed and round.

#![expect(clippy::arithmetic_side_effects, reason = "counters of a test")]

use k8s_openapi::ByteString;
use pem::Pem;
use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};

use super::{
    Brought, Generation, Makings, Origin, Plan, Roots, SecretData, SelfManaged, Source, Wanted, foreign::Foreign,
    load::Means, make, trace,
};
use crate::{
    names::Sha256,
    pipeline::{
        Fault, Issued, Profile,
        honest::{NOW, approved, domains, generation, issued, issuer_of, makings, serial, signer},
    },
};

/// Bytes that mean something in PEM, DER or JSON.
const TELLING: &[u8] = b"\n\r-= {}\",:19\x00\x01\x30\x31\x80\x82\xff";

struct Dice(TestRng);

impl Dice {
    fn new(seed: u8) -> Self {
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u32()).unwrap() % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        match self.below(3) {
            0 => u8::try_from(self.below(256)).unwrap(),
            _ => TELLING[self.below(TELLING.len())],
        }
    }

    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        let (at, end) = (self.below(bytes.len()), self.below(bytes.len() + 1));
        match self.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), self.byte()),
            2 => drop(bytes.drain(at.min(end)..at.max(end).min(at.min(end) + 9))),
            3 => bytes.extend_from_within(at.min(end)..),
            _ => {
                let byte = self.byte();
                bytes.get_mut(at).into_iter().for_each(|old| *old = byte);
            }
        }
    }

    /// Below the PEM as often as in it, where it is some.
    fn change(&mut self, bytes: &mut Vec<u8>) {
        let mut blocks = pem::parse_many(&bytes).unwrap_or_default();
        if blocks.is_empty() || self.below(3) == 0 {
            return self.spoil(bytes);
        }
        let at = self.below(blocks.len());
        let mut der = blocks[at].contents().to_vec();
        self.spoil(&mut der);
        blocks[at] = Pem::new(blocks[at].tag(), der);
        *bytes = pem::encode_many(&blocks).into_bytes();
    }

    fn change_one(&mut self, data: &mut SecretData) {
        let fields: Vec<String> = data.keys().cloned().collect();
        let [field, other] = [(); 2].map(|()| fields[self.below(fields.len())].clone());
        match self.below(12) {
            0 => drop(data.remove(&field)),
            1 => drop(data.insert(field, data[&other].clone())),
            _ => self.change(&mut data.get_mut(&field).unwrap().0),
        }
    }
}

/// The text of an error, in a log for everybody to read: short, and with nothing of the key in it.
fn tells_no_key(error: &str, data: &SecretData) {
    assert!(error.len() < 500, "{error}");
    let key = data.get("tls.key").map(|ByteString(key)| String::from_utf8_lossy(key).into_owned()).unwrap_or_default();
    for line in key.lines().filter(|line| line.len() > 20 && !line.starts_with("-----")) {
        assert!(!error.contains(line), "{error}");
    }
}

fn roots(data: &SecretData) -> bool {
    match Roots::load(data) {
        Ok(roots) => {
            assert_eq!(Roots::load(&roots.data()).unwrap().held(), roots.held(), "what it writes of them");
            true
        }
        Err(error) => {
            tells_no_key(&error.to_string(), data);
            false
        }
    }
}

/// One that loads signs what chains to what it publishes.
fn signing(data: &SecretData) -> bool {
    let generation = match Generation::load(data) {
        Ok(generation) => generation,
        Err(error) => {
            tells_no_key(&error.to_string(), data);
            return false;
        }
    };
    let again = Generation::load(&generation.data().unwrap()).unwrap();
    assert_eq!((again.number(), again.fingerprint()), (generation.number(), generation.fingerprint()));
    let bundle = generation.trust_bundle();
    let issuer = issuer_of(generation);
    if let Ok(profile) = Profile::decide(approved(), issuer.usable_until(), NOW, serial()) {
        match Issued::sign(profile, &issuer) {
            Ok(issued) => {
                assert_eq!(trace(issued.chain_pem(), &bundle), Origin::Ours { leaf: issued.fingerprint() });
            }
            // The plan in the Secret says for how long.
            Err(Fault::NotYet(_)) => {}
            Err(fault) => panic!("it does not sign: {fault}"),
        }
    }
    true
}

/// One that is taken signs, by way of our own Secret.
fn brought(data: &SecretData) -> bool {
    let found = Brought::new("the Secret my-ca".to_owned(), Ok(data.clone()), Wanted { signer: &signer(), now: NOW });
    match found.brings() {
        Some(root) => {
            let Means::Brought(issuing) = &root.means else { panic!("it was brought") };
            let (issuing, above) = (issuing.again().unwrap(), root.certificate.clone());
            let generation = Generation::new(Plan::new(1, 86_400), true, issuing, above, None).unwrap();
            signing(&generation.data().unwrap())
        }
        None => {
            tells_no_key(&found.trouble().unwrap().to_string(), data);
            false
        }
    }
}

/// Changes what is honest, round after round; some of it has to pass, and some not.
fn holds_for(rounds: usize, seed: u8, honest: &SecretData, judge: fn(&SecretData) -> bool) {
    assert!(judge(honest));
    let mut dice = Dice::new(seed);
    let passed = (0..rounds).filter(|round| {
        let mut data = honest.clone();
        (0..=dice.below(3)).for_each(|_| dice.change_one(&mut data));
        std::panic::catch_unwind(|| judge(&data)).unwrap_or_else(|_| {
            // Keys are others each time: what it was is not found again by the seed alone.
            let text: Vec<_> = data.iter().map(|(field, bytes)| (field, String::from_utf8_lossy(&bytes.0))).collect();
            panic!("seed {seed}, round {round}: {text:#?}")
        })
    });
    let passed = passed.count();
    assert!(passed > 0 && passed < rounds / 2, "one-sided: {passed} of {rounds}");
}

fn all_hold_for(rounds: usize, seed: u8) {
    let (signer, domains) = (signer(), domains());
    let makings: Makings<'_> = makings(&signer, &domains, NOW);
    let root = Roots::first(make::root(&makings).unwrap()).with_next(SelfManaged.root(&makings).unwrap());
    holds_for(rounds, seed, &root.data(), roots);
    holds_for(rounds, seed, &generation().data().unwrap(), signing);
    holds_for(rounds / 4, seed, &Foreign::new().issuing(), brought);
    chains_hold_for(rounds, seed);
}

/// A chain is ours only with the very leaf that we signed.
fn chains_hold_for(rounds: usize, seed: u8) {
    let issued = issued();
    let roots = pem::parse_many(issued.chain_pem()).unwrap()[1].to_string();
    let ours = Origin::Ours { leaf: issued.fingerprint() };
    assert_eq!(trace(issued.chain_pem(), &roots), ours);
    let mut dice = Dice::new(seed);
    for round in 0..rounds {
        let mut chain = issued.chain_pem().as_bytes().to_vec();
        (0..=dice.below(2)).for_each(|_| dice.change(&mut chain));
        let chain = String::from_utf8_lossy(&chain);
        match trace(&chain, &roots) {
            Origin::Ours { leaf } => assert_eq!(leaf, issued.fingerprint(), "seed {seed}, round {round}: {chain}"),
            Origin::Foreign { leaf } => {
                let first = pem::parse_many(&*chain).unwrap().swap_remove(0);
                assert_eq!(leaf, Sha256::of(first.contents()), "seed {seed}, round {round}");
            }
            Origin::Unreadable => {}
        }
        // As roots, too: whatever stands in a bundle.
        assert_ne!(trace(issued.chain_pem(), &chain), Origin::Unreadable, "seed {seed}, round {round}");
    }
}

#[test]
fn whatever_stands_in_secrets_and_chains_ends_in_a_ca_that_signs_or_in_an_error() {
    all_hold_for(400, 1);
}

#[test]
#[ignore = "tests/run --long"]
fn whatever_stands_in_secrets_and_chains_for_long() {
    (2..40).for_each(|seed| all_hold_for(4_000, seed));
}
