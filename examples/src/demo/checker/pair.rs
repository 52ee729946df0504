//! The two services: every certificate they were shown must have been issued here, for the name they took it for.

use std::collections::BTreeMap;

use super::certificate::Leaf;
use super::evidence::{Evidence, SideFacts};
use super::request::Request;

pub(super) fn check(requests: &[Request], evidence: &Evidence, wrong: &mut Vec<String>) {
    let issued: BTreeMap<&str, &Leaf> =
        requests.iter().filter_map(Request::leaf).map(|leaf| (leaf.serial.as_str(), leaf)).collect();
    let pair = &evidence.pair;
    for (name, side) in [("client", &pair.client), ("server", &pair.server)] {
        check_side(name, side, &issued, wrong);
    }
    if pair.client.handshakes != pair.server.handshakes {
        wrong.push(format!(
            "the client counted {} handshakes, the server {}",
            pair.client.handshakes, pair.server.handshakes
        ));
    }
    if evidence.expected.whole && pair.client.handshakes == 0 {
        wrong.push("the two services never spoke".to_owned());
    }
}

fn check_side(name: &str, side: &SideFacts, issued: &BTreeMap<&str, &Leaf>, wrong: &mut Vec<String>) {
    for (serial, id) in &side.peers {
        match issued.get(serial.as_str()) {
            None => {
                wrong.push(format!("the {name} was shown a certificate of {id} that was not issued here: {serial}"))
            }
            Some(leaf) if leaf.names.as_slice() != [id.as_str()] => {
                wrong.push(format!("the {name} took the certificate {serial} of {:?} for {id}", leaf.names));
            }
            Some(_) => {}
        }
    }
    for serial in side.own.iter().filter(|serial| !issued.contains_key(serial.as_str())) {
        wrong.push(format!("the {name} used a certificate that was not issued here: {serial}"));
    }
    if side.failed > 0 {
        wrong.push(format!("{} handshakes failed at the {name}", side.failed));
    }
    if side.broken > 0 {
        wrong.push(format!("{} conversations of the {name} broke off", side.broken));
    }
    let measured = u64::try_from(side.latencies.len()).unwrap_or(u64::MAX);
    if measured != side.handshakes {
        wrong.push(format!("the {name} counted {} handshakes and measured {measured}", side.handshakes));
    }
    if side.handshakes > 0 && side.peers.is_empty() {
        wrong.push(format!("the {name} does not know with whom it spoke"));
    }
}
