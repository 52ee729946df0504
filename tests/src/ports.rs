//! Ports of loopback for processes that are told theirs and bind it later, some of them again after a restart. They are none of those that the kernel
//! gives away by itself, and no two test processes take from one block: its first port is held for as long as they live.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// How many ports a process claims at a time.
const BLOCK: u16 = 64;

/// A port that nobody has and that nobody else of the tests is given.
pub fn free() -> u16 {
    static OURS: Mutex<(Vec<TcpListener>, Range<u16>)> = Mutex::new((Vec::new(), 0..0));
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(port) = ours.1.find(|port| bind(*port).is_some()) {
            return port;
        }
        let (claim, block) = claim();
        ours.0.push(claim);
        ours.1 = block;
    }
}

fn claim() -> (TcpListener, Range<u16>) {
    let given_away = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let range = beside(&given_away);
    let blocks = (range.end - range.start) / BLOCK;
    let mut random = [0; 2];
    aws_lc_rs::rand::fill(&mut random).expect("the system gives random bytes");
    let begin = u16::from_ne_bytes(random) % blocks;
    let firsts = (begin..blocks).chain(0..begin).map(|block| range.start + block * BLOCK);
    let claimed = firsts.filter_map(|first| Some((bind(first)?, first + 1..first + BLOCK))).next();
    claimed.expect("some block of ports is free")
}

fn bind(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}

/// The larger part of the ports below and above those that the kernel gives away; where that is too small, some of those, too.
fn beside(given_away: &str) -> Range<u16> {
    let mut ends = given_away.split_whitespace().filter_map(|end| end.parse::<u16>().ok());
    let (low, high) = (ends.next().unwrap_or(32_768), ends.next().unwrap_or(60_999));
    let [below, above] = [LOWEST..low.max(LOWEST), high.saturating_add(1)..u16::MAX];
    let larger = if below.len() < above.len() { above } else { below };
    if larger.len() < 16 * usize::from(BLOCK) { LOWEST..32_768 } else { larger }
}

/// Those of well-known services are below it.
const LOWEST: u16 = 11_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_or_given_away_by_the_kernel() {
        let mut ports: Vec<u16> = (0..200).map(|_| free()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 200);
        for (given_away, beside_it) in [
            ("32768\t60999\n", 11_000..32_768),
            ("15000 30000", 30_001..u16::MAX),
            ("1024 65535", 11_000..32_768),
            ("", 11_000..32_768),
        ] {
            assert_eq!(beside(given_away), beside_it, "{given_away}");
        }
    }
}
