//! What a pod asks for in the `userAnnotations` of its `podCertificate` source: requests, never claims. Each is granted only where
//! the rule that admits the pod allows exactly that, and what it rests on is verified like any other name.

use super::{claim::Claim, refusal::Hold};
use crate::{
    config::{AllowRule, DnsSource, Requests, Wording},
    names::{CertificateName, ServiceName, clip, nearest},
};

/// What was asked for and may be granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The pod's addresses.
    pub pod_ips: bool,
    /// The pod's host name.
    pub hostname: bool,
    /// These Services, each of which has to select the pod.
    pub services: Box<[ServiceName]>,
    /// These DNS names, which the rule names.
    pub dns_names: Box<[CertificateName]>,
    /// This common name, which the rule names.
    pub common_name: Option<Box<str>>,
}

/// `kubernetes.io/add-pod-ip`, as of the signer planned for Kubernetes itself: `true` or `false`.
pub const ADD_POD_IP: &str = "kubernetes.io/add-pod-ip";
/// `kubernetes.io/add-pod-fqdn`, likewise: `true` or `false`.
pub const ADD_POD_FQDN: &str = "kubernetes.io/add-pod-fqdn";
/// `kubernetes.io/service-names`, likewise: names of Services of the pod's namespace, with commas between.
pub const SERVICE_NAMES: &str = "kubernetes.io/service-names";
/// `podmint.dev/dns-names`: DNS names, with commas between.
pub const DNS_NAMES: &str = "podmint.dev/dns-names";
/// `podmint.dev/common-name`: the common name of the subject.
pub const COMMON_NAME: &str = "podmint.dev/common-name";

const KNOWN: [&str; 5] = [ADD_POD_IP, ADD_POD_FQDN, SERVICE_NAMES, DNS_NAMES, COMMON_NAME];

/// The first annotation that Podmint does not know, with the one that may have been meant.
pub(super) fn unknown(claim: &Claim) -> Option<(String, Option<&'static str>)> {
    let (key, _) = claim.annotations.iter().find(|(key, _)| !KNOWN.contains(&&**key))?;
    Some((key.to_string(), nearest(key, KNOWN)))
}

/// What is asked for, where this rule allows it or the profile gives it to all; held otherwise, so that nobody starts without a name that he needs.
pub(super) fn granted(claim: &Claim, rule: &AllowRule, wording: &Wording) -> Result<Asked, Hold> {
    let Requests { services, hostname, pod_ips, dns_names, common_names } = &rule.requests;
    let given = |wanted: &DnsSource| wording.dns_names.iter().any(|source| source == wanted);
    let mut asked = Asked::default();
    for (key, value) in &claim.annotations {
        let allows =
            |allowed: bool, what: &'static str| if allowed { Ok(()) } else { Err(not_granted(key, what, rule)) };
        match &**key {
            ADD_POD_IP if flag(ADD_POD_IP, value)? => {
                allows(*pod_ips || wording.pod_ips, "podIPs: true")?;
                asked.pod_ips = true;
            }
            ADD_POD_FQDN if flag(ADD_POD_FQDN, value)? => {
                allows(*hostname || given(&DnsSource::Hostname), "hostname: true")?;
                asked.hostname = true;
            }
            SERVICE_NAMES => {
                allows(*services || given(&DnsSource::Services), "services: true")?;
                asked.services =
                    list(SERVICE_NAMES, value, |text| ServiceName::parse(text).map_err(|error| error.to_string()))?;
            }
            DNS_NAMES => {
                asked.dns_names =
                    list(DNS_NAMES, value, |text| CertificateName::parse(text).map_err(|error| error.to_string()))?;
                allows(
                    asked.dns_names.iter().all(|name| dns_names.contains(name)),
                    "dnsNames, with each of these names",
                )?;
            }
            COMMON_NAME => {
                allows(common_names.contains(value), "commonNames, with this name")?;
                asked.common_name = Some(value.clone());
            }
            // Unknown ones were answered before.
            _ => {}
        }
    }
    Ok(asked)
}

fn flag(key: &'static str, value: &str) -> Result<bool, Hold> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Hold::AnnotationValue { key, problem: format!("{:?} is neither true nor false", clip(value)) }),
    }
}

fn list<T: PartialEq>(
    key: &'static str,
    value: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Box<[T]>, Hold> {
    let mut items = Vec::new();
    for text in value.split(',') {
        let item = parse(text.trim()).map_err(|problem| Hold::AnnotationValue { key, problem })?;
        if items.len() >= MOST {
            return Err(Hold::AnnotationValue { key, problem: format!("it has more than {MOST} names") });
        }
        if !items.contains(&item) {
            items.push(item);
        }
    }
    Ok(items.into())
}

fn not_granted(key: &str, what: &'static str, rule: &AllowRule) -> Hold {
    Hold::NotGranted { key: key.to_owned(), rule: rule.name.clone(), what }
}

/// As [`MOST_SERVICES`](super::dns::MOST_SERVICES).
const MOST: usize = super::dns::MOST_SERVICES;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::honest::{claim, config_with, config_with_rule};

    /// What these annotations get by a rule with these requests.
    fn asked(requests: &str, annotations: &[(&str, &str)]) -> Result<Asked, Hold> {
        let signer = config_with_rule(requests);
        let annotations = annotations.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        granted(&Claim { annotations, ..claim() }, &signer.allow[0], &signer.wording)
    }

    #[test]
    fn nothing_is_granted_that_the_rule_does_not_name() {
        for (annotation, value) in [
            (ADD_POD_IP, "true"),
            (ADD_POD_FQDN, "true"),
            (SERVICE_NAMES, "front"),
            (DNS_NAMES, "a.shop.svc"),
            (COMMON_NAME, "root"),
        ] {
            let hold = asked("{}", &[(annotation, value)]).unwrap_err();
            assert!(matches!(hold, Hold::NotGranted { .. }), "{hold}");
            assert!(hold.to_string().contains(annotation) && hold.to_string().contains("\"shops\""), "{hold}");
        }
        assert_eq!(asked("{}", &[(ADD_POD_IP, "false"), (ADD_POD_FQDN, "false")]), Ok(Asked::default()));
    }

    #[test]
    fn what_the_profile_gives_to_all_may_be_asked_for_by_any_rule() {
        let asked = |profile: &str, annotation: &str, value: &str| {
            let signer = config_with(profile);
            let claim = Claim { annotations: [(annotation.into(), value.into())].into(), ..claim() };
            granted(&claim, &signer.allow[0], &signer.wording)
        };
        for (profile, annotation, value) in [
            ("profile: {dnsNames: [hostname]}", ADD_POD_FQDN, "true"),
            ("profile: {dnsNames: [services]}", SERVICE_NAMES, "front"),
            ("profile: {ipAddresses: [podIPs]}", ADD_POD_IP, "true"),
        ] {
            assert!(asked(profile, annotation, value).is_ok(), "{profile}");
        }
        for (profile, annotation, value) in [
            ("profile: {dnsNames: [services]}", ADD_POD_FQDN, "true"),
            ("profile: {dnsNames: [hostname]}", SERVICE_NAMES, "front"),
            ("profile: {dnsNames: [hostname, services]}", ADD_POD_IP, "true"),
        ] {
            assert!(matches!(asked(profile, annotation, value), Err(Hold::NotGranted { .. })), "{profile}");
        }
    }

    #[test]
    fn what_the_rule_names_is_granted_word_for_word() {
        let all = "{services: true, hostname: true, podIPs: true, dnsNames: [a.bank.svc, b.shop.svc], commonNames: [cart_rw]}";
        let got = asked(
            all,
            &[
                (ADD_POD_IP, "true"),
                (ADD_POD_FQDN, "true"),
                (SERVICE_NAMES, "front, carts,front"),
                (DNS_NAMES, "a.bank.svc"),
                (COMMON_NAME, "cart_rw"),
            ],
        )
        .unwrap();
        assert!(got.pod_ips && got.hostname);
        assert_eq!(got.services.iter().map(ServiceName::as_str).collect::<Vec<_>>(), ["front", "carts"]);
        assert_eq!(got.dns_names.iter().map(CertificateName::as_str).collect::<Vec<_>>(), ["a.bank.svc"]);
        assert_eq!(got.common_name.as_deref(), Some("cart_rw"));
        for (annotation, value) in [
            (DNS_NAMES, "a.bank.svc,c.bank.svc"),
            (DNS_NAMES, "a.bank.svc.cluster.local"),
            (COMMON_NAME, "cart_rw "),
            (COMMON_NAME, "Cart_rw"),
            (COMMON_NAME, ""),
        ] {
            assert!(matches!(asked(all, &[(annotation, value)]), Err(Hold::NotGranted { .. })), "{annotation} {value}");
        }
    }

    #[test]
    fn a_value_of_another_form_is_told() {
        let all = "{services: true, podIPs: true, dnsNames: [a.bank.svc]}";
        for (annotation, value) in [
            (ADD_POD_IP, "yes"),
            (ADD_POD_IP, "True"),
            (SERVICE_NAMES, ""),
            (SERVICE_NAMES, "front,"),
            (SERVICE_NAMES, "front.bank"),
            (SERVICE_NAMES, "Front"),
            (DNS_NAMES, "*.bank.svc"),
            (DNS_NAMES, "\u{430}.bank.svc"),
            (DNS_NAMES, &"a.".repeat(200)),
        ] {
            let hold = asked(all, &[(annotation, value)]).unwrap_err();
            assert!(matches!(hold, Hold::AnnotationValue { .. }), "{annotation} {value}: {hold}");
        }
        let many: Vec<String> = (0..=MOST).map(|number| format!("s{number}")).collect();
        assert!(matches!(asked(all, &[(SERVICE_NAMES, &many.join(","))]), Err(Hold::AnnotationValue { .. })));
    }
}
