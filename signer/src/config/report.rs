//! What a configuration means, in words that an administrator can check line by line.

use std::fmt::{self, Write};

use super::{AllowRule, Config, Lifetime, Pattern, PodSigner};
use crate::pipeline::refusal::kinds;

pub(super) fn report(config: &Config) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    if write(&mut out, config).is_err() {
        out.push_str("(the rest could not be written)\n");
    }
    out
}

fn write(out: &mut String, config: &Config) -> fmt::Result {
    let domains = config.domains();
    writeln!(out, "signer domain {}, cluster domain {}", domains.signer, domains.cluster)?;
    if config.signers().is_empty() {
        writeln!(out, "\nThere is no PodSigner: nobody gets a certificate.")?;
    }
    config.signers().iter().try_for_each(|signer| one(out, signer))
}

fn one(out: &mut String, signer: &PodSigner) -> fmt::Result {
    let PodSigner { name, signer_name, trust_domain, allow, suspend, key_types, lifetime, authority } = signer;
    writeln!(out, "\nPodSigner {name}{}", if *suspend { " (SUSPENDED: every request is held)" } else { "" })?;
    writeln!(out, "  answers    signerName {signer_name}")?;
    writeln!(out, "  names pods spiffe://{trust_domain}/ns/<namespace>/sa/<service account>")?;
    if allow.is_empty() {
        writeln!(out, "  admits     NOBODY: spec.allow is empty, so that every request is held")?;
    }
    allow.iter().try_for_each(|rule| admits(out, rule))?;
    writeln!(out, "  key types  {}", kinds(key_types))?;
    let Lifetime { max_seconds, refresh_from_permille: from, refresh_to_permille: to } = lifetime;
    writeln!(
        out,
        "  lifetime   {} at most, renewed at {} to {} of it",
        span(*max_seconds),
        percent(*from),
        percent(*to)
    )?;
    let [signing, root] = authority.names();
    writeln!(out, "  authority  made by Podmint: Secret {signing} (issuing CA, 30d), Secret {root} (root, 10 years)")
}

fn admits(out: &mut String, rule: &AllowRule) -> fmt::Result {
    let AllowRule { name, namespaces, service_accounts } = rule;
    let all = |patterns: &[Pattern]| patterns.iter().map(Pattern::to_string).collect::<Vec<_>>().join(", ");
    writeln!(
        out,
        "  admits     ServiceAccounts {} of namespaces {} (rule {name})",
        all(service_accounts),
        all(namespaces)
    )
}

fn percent(permille: u32) -> String {
    let (whole, part) = (permille / 10, permille % 10);
    if part == 0 { format!("{whole}%") } else { format!("{whole}.{part}%") }
}

/// `1d 2h`.
fn span(seconds: u32) -> String {
    let parts = [("d", seconds / 86_400), ("h", seconds / 3_600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let parts: Vec<String> =
        parts.iter().filter(|(_, count)| *count > 0).map(|(unit, count)| format!("{count}{unit}")).collect();
    parts.join(" ")
}
