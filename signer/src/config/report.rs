//! What a configuration means, in words that an administrator can check line by line.

use std::fmt::{self, Write};

use super::{AllowRule, Config, DnsSource, Lifetime, Pattern, PodSigner, Requests, TrustDomain, Usages, Wording};
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
    let PodSigner { name, signer_name, trust_domain, allow, suspend, key_types, lifetime, wording, authority, wish: _ } =
        signer;
    writeln!(out, "\nPodSigner {name}{}", if *suspend { " (SUSPENDED: every request is held)" } else { "" })?;
    writeln!(out, "  answers    signerName {signer_name}")?;
    words(out, trust_domain, wording)?;
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
    match authority.brought() {
        None => writeln!(
            out,
            "  authority  made by Podmint: Secret {signing} (issuing CA, 30d), Secret {root} (root, 10 years)"
        ),
        Some(from) => writeln!(
            out,
            "  authority  brought in {from} (tls.crt, tls.key, ca.crt); copied into the Secrets {signing} (what signs) and {root} (what \
             signs next)"
        ),
    }
}

fn words(out: &mut String, trust_domain: &TrustDomain, wording: &Wording) -> fmt::Result {
    let Wording { spiffe_path, dns_names, pod_ips, usages, subject, cluster_domain } = wording;
    match spiffe_path {
        Some(path) => writeln!(out, "  names pods spiffe://{trust_domain}{path}")?,
        None => writeln!(out, "  names pods without a SPIFFE ID")?,
    }
    dns_names.iter().try_for_each(|source| {
        let (host, when) = match source {
            DnsSource::Services => ("{service}", "of each Service whose selector matches the pod's labels"),
            DnsSource::Hostname => {
                ("{hostname}.{subdomain}", "where such a Service has the name of the pod's subdomain")
            }
            DnsSource::Template(template) => return writeln!(out, "             {template}"),
        };
        writeln!(out, "             {host}.{{namespace}}.svc and {host}.{{namespace}}.svc.{cluster_domain} {when}")
    })?;
    if *pod_ips {
        writeln!(
            out,
            "             the pod's IP addresses, once it has them; such certificates live for an hour at most"
        )?;
    }
    let fields = subject.fields().into_iter().filter_map(|(field, template)| Some(format!("{field} {}", template?)));
    let fields: Vec<String> = fields.collect();
    if !fields.is_empty() {
        writeln!(out, "  subject    {}", fields.join(", "))?;
    }
    match usages {
        Usages::Both => Ok(()),
        Usages::Server => writeln!(out, "  usages     servers only"),
        Usages::Client => writeln!(out, "  usages     clients only"),
    }
}

fn admits(out: &mut String, rule: &AllowRule) -> fmt::Result {
    let AllowRule {
        name,
        namespaces,
        service_accounts,
        namespace_labels,
        node_labels,
        max_seconds,
        key_types,
        requests,
        shadow,
    } = rule;
    let all = |patterns: &[Pattern]| patterns.iter().map(Pattern::to_string).collect::<Vec<_>>().join(", ");
    let labels = |labels: &[(Box<str>, Box<str>)]| {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
    };
    writeln!(
        out,
        "  {}     ServiceAccounts {} of namespaces {} (rule {name})",
        if *shadow { "SHADOW" } else { "admits" },
        all(service_accounts),
        all(namespaces)
    )?;
    if !namespace_labels.is_empty() {
        writeln!(out, "             where the namespace has the labels {}", labels(namespace_labels))?;
    }
    if !node_labels.is_empty() {
        writeln!(out, "             on nodes with the labels {}", labels(node_labels))?;
    }
    if let Some(seconds) = max_seconds {
        writeln!(out, "             for {} at most", span(*seconds))?;
    }
    if let Some(key_types) = key_types {
        writeln!(out, "             with {} keys", kinds(key_types))?;
    }
    let Requests { services, hostname, pod_ips, dns_names, common_names } = requests;
    let flags =
        [(services, "names of Services that select them"), (hostname, "their host name"), (pod_ips, "their addresses")];
    let flags = flags.iter().filter(|(asked, _)| **asked).map(|(_, what)| (*what).to_owned());
    let names = dns_names.iter().map(|name| format!("DNS name {name}"));
    let common = common_names.iter().map(|name| format!("common name {name}"));
    let asked: Vec<String> = flags.chain(names).chain(common).collect();
    if asked.is_empty() {
        return Ok(());
    }
    writeln!(out, "             which may ask for {}", asked.join(", "))
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
