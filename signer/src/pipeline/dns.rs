//! The DNS names of a certificate, each with the fact that justifies it. Every one is below the pod's own namespace, so that
//! whoever rules a namespace, and may make Services and label pods there, gives names of that namespace alone.
//!
//! There is no `<service>.<namespace>` without `svc`: the issuing CA may sign for names below `svc` and the cluster domain only,
//! since a two-part name could be anybody's in the world outside.

use std::fmt;

use super::{
    asked::{ADD_POD_FQDN, Asked, DNS_NAMES, SERVICE_NAMES},
    filled::fill,
    refusal::Hold,
    verified::Verified,
};
use crate::{
    config::{DnsSource, Template, Wording},
    names::{CertificateName, Hostname, ServiceName, clip},
};

/// A DNS name, and why it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsWord {
    /// The name.
    pub name: CertificateName,
    /// The fact that it rests on.
    pub because: Because,
    /// The annotation by which the pod asked for it, and its rule granted it; none where the profile gives it to all.
    pub asked_by: Option<&'static str>,
}

/// The fact that a DNS name rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// The selector of this Service matches the pod's labels.
    Service(ServiceName),
    /// The pod has this hostname, and its subdomain is this Service, which selects it.
    Hostname(Hostname, ServiceName),
    /// This template of the profile, filled with verified facts.
    Template(Template),
    /// The rule names it word for word.
    Rule,
}

impl fmt::Display for Because {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(out, "Service {service} selects the pod"),
            Self::Hostname(hostname, service) => {
                write!(out, "the pod's hostname is {hostname}, its subdomain Service {service}, which selects it")
            }
            Self::Template(template) => write!(out, "by {template}"),
            Self::Rule => out.write_str("the rule names it"),
        }
    }
}

/// All that the wording asks for and the facts justify, in the order of the wording; then what the pod asks for and is granted.
pub(super) fn names(wording: &Wording, asked: &Asked, verified: &Verified) -> Result<Box<[DnsWord]>, Hold> {
    let services = match verified.services() {
        _ if !wording.wants_services() && asked.services.is_empty() && !asked.hostname => &[],
        services => services.ok_or(Hold::ServicesNotKnown)?,
    };
    if services.len() > MOST_SERVICES {
        return Err(Hold::TooManyServices { found: services.len(), most: MOST_SERVICES });
    }
    let mut names = Names { words: Vec::new(), wording, verified };
    for source in &wording.dns_names {
        match source {
            DnsSource::Services => services.iter().for_each(|service| names.service(service, None)),
            DnsSource::Hostname => names.hostname(services, None),
            DnsSource::Template(template) => names.template(template)?,
        }
    }
    for service in &asked.services {
        if !services.contains(service) {
            return Err(Hold::NotSelected(service.clone()));
        }
        names.service(service, Some(SERVICE_NAMES));
    }
    if asked.hostname {
        names.hostname(services, Some(ADD_POD_FQDN));
    }
    for name in &asked.dns_names {
        names.add(name.clone(), &Because::Rule, Some(DNS_NAMES));
    }
    Ok(names.words.into())
}

struct Names<'n> {
    words: Vec<DnsWord>,
    wording: &'n Wording,
    verified: &'n Verified,
}

impl Names<'_> {
    fn service(&mut self, service: &ServiceName, asked_by: Option<&'static str>) {
        self.both(service.as_str(), &Because::Service(service.clone()), asked_by);
    }

    /// As CoreDNS answers for it: a Service that selects the pod and has the name of the pod's subdomain.
    fn hostname(&mut self, services: &[ServiceName], asked_by: Option<&'static str>) {
        let pod = self.verified.pod();
        if let Some((hostname, subdomain)) = pod.hostname.as_ref().zip(pod.subdomain.as_ref())
            && services.contains(subdomain)
        {
            let because = Because::Hostname(hostname.clone(), subdomain.clone());
            self.both(&format!("{hostname}.{subdomain}"), &because, asked_by);
        }
    }

    /// A value with a dot in it would be more than the one part that the template gives it.
    fn template(&mut self, template: &Template) -> Result<(), Hold> {
        let text = fill(template, "dnsNames", self.verified)?;
        match CertificateName::parse(&text) {
            Ok(name) if name.as_str().split('.').count() == template.parts() => {
                self.add(name, &Because::Template(template.clone()), None);
                Ok(())
            }
            Ok(_) | Err(_) => Err(Hold::NoSuchName {
                field: "dnsNames",
                problem: format!(
                    "{template} would be {:?}, and each value must be one part of a DNS name: lower-case letters, digits and `-`, 63 at most",
                    clip(&text)
                ),
            }),
        }
    }

    /// `<host>.<namespace>.svc`, and the same in the cluster domain. A name that is too long for the DNS is nobody's: it is left out.
    fn both(&mut self, host: &str, because: &Because, asked_by: Option<&'static str>) {
        let short = format!("{host}.{}.svc", self.verified.claim().target.namespace);
        let full = format!("{short}.{}", self.wording.cluster_domain);
        for name in [short, full] {
            if let Ok(name) = CertificateName::parse(&name) {
                self.add(name, because, asked_by);
            }
        }
    }

    fn add(&mut self, name: CertificateName, because: &Because, asked_by: Option<&'static str>) {
        if !self.words.iter().any(|word| word.name == name) {
            self.words.push(DnsWord { name, because: because.clone(), asked_by });
        }
    }
}

/// Each gives two names of up to 253 letters; this many fit into a chain that the API server takes, and into a handshake.
pub(super) const MOST_SERVICES: usize = 50;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        names::DnsName,
        pipeline::{
            Fact, Observed, PodFacts,
            honest::{config_with, honest, signer},
        },
    };

    fn wording(sources: &[DnsSource]) -> Wording {
        Wording { dns_names: sources.into(), ..signer().wording.clone() }
    }

    fn with(change: impl FnOnce(&mut Observed)) -> Verified {
        let mut seen = honest();
        change(&mut seen);
        Verified::check(seen).unwrap()
    }

    fn pod(seen: &mut Observed) -> &mut PodFacts {
        let Fact::Found(pod, _) = &mut seen.pod else { panic!("an honest pod is there") };
        pod
    }

    fn texts(wording: &Wording, verified: &Verified) -> Vec<String> {
        names(wording, &Asked::default(), verified).unwrap().iter().map(|word| word.name.to_string()).collect()
    }

    #[test]
    fn nothing_is_given_that_was_not_asked_for() {
        assert_eq!(texts(&wording(&[]), &with(|_| ())), [""; 0]);
        assert_eq!(texts(&wording(&[]), &with(|seen| seen.services = None)), [""; 0]);
    }

    #[test]
    fn each_service_gives_its_two_names_in_the_pods_own_namespace() {
        assert_eq!(
            texts(&wording(&[DnsSource::Services]), &with(|_| ())),
            ["carts.shop.svc", "carts.shop.svc.cluster.local", "front.shop.svc", "front.shop.svc.cluster.local"]
        );
        assert_eq!(
            texts(&wording(&[DnsSource::Services]), &with(|seen| seen.services = Some(Box::default()))),
            [""; 0]
        );
    }

    #[test]
    fn a_hostname_counts_below_a_service_that_selects_the_pod() {
        let wording = wording(&[DnsSource::Hostname]);
        let both = ["cart-0.carts.shop.svc", "cart-0.carts.shop.svc.cluster.local"];
        assert_eq!(texts(&wording, &with(|_| ())), both);
        assert_eq!(texts(&wording, &with(|seen| pod(seen).hostname = None)), [""; 0]);
        assert_eq!(texts(&wording, &with(|seen| pod(seen).subdomain = None)), [""; 0]);
        let elsewhere = with(|seen| pod(seen).subdomain = Some(ServiceName::parse("bank").unwrap()));
        assert_eq!(texts(&wording, &elsewhere), [""; 0], "no Service of that name selects the pod");
    }

    #[test]
    fn a_template_gives_one_name_of_the_pods_namespace_or_holds() {
        let named = |host: &str, label: &str| {
            let signer =
                config_with(&format!("profile: {{trustedLabels: [team], dnsNames: ['{host}.{{namespace}}.svc']}}"));
            let verified = with(|seen| drop(pod(seen).labels.insert("team".into(), label.into())));
            names(&signer.wording, &Asked::default(), &verified).map(|words| words[0].name.to_string())
        };
        assert_eq!(named("{pod}", "").as_deref(), Ok("cart-0.shop.svc"));
        assert_eq!(named("x-{label:team}", "blue").as_deref(), Ok("x-blue.shop.svc"));
        for bad in ["a.b", "Blue", "a_b", &"a".repeat(63), ""] {
            assert!(matches!(named("x-{label:team}", bad), Err(Hold::NoSuchName { .. })), "{bad}");
        }
    }

    #[test]
    fn what_is_asked_for_is_verified_like_the_rest() {
        let asked = |change: fn(&mut Asked)| {
            let mut asked = Asked::default();
            change(&mut asked);
            names(&wording(&[]), &asked, &with(|_| ()))
                .map(|words| words.iter().map(|word| (word.name.to_string(), word.asked_by)).collect::<Vec<_>>())
        };
        let of =
            |host: &str, by| ["svc", "svc.cluster.local"].map(|end| (format!("{host}.shop.{end}"), Some(by))).to_vec();
        let service = |name: &str| ServiceName::parse(name).unwrap();
        assert_eq!(
            asked(|asked| asked.services = [ServiceName::parse("front").unwrap()].into()),
            Ok(of("front", SERVICE_NAMES))
        );
        assert_eq!(
            asked(|asked| asked.services = [ServiceName::parse("bank").unwrap()].into()),
            Err(Hold::NotSelected(service("bank")))
        );
        assert_eq!(asked(|asked| asked.hostname = true), Ok(of("cart-0.carts", ADD_POD_FQDN)));
        let rule = asked(|asked| asked.dns_names = [CertificateName::parse("a.bank.svc").unwrap()].into());
        assert_eq!(rule, Ok(vec![("a.bank.svc".to_owned(), Some(DNS_NAMES))]));
    }

    #[test]
    fn services_that_are_not_known_or_too_many_hold() {
        let wording = wording(&[DnsSource::Services]);
        let unknown = with(|seen| seen.services = None);
        assert_eq!(names(&wording, &Asked::default(), &unknown), Err(Hold::ServicesNotKnown));
        let many = |count: usize| {
            let services = (0..count).map(|number| ServiceName::parse(&format!("s{number}")).unwrap()).collect();
            names(&wording, &Asked::default(), &with(|seen| seen.services = Some(services))).map(|words| words.len())
        };
        assert_eq!(many(MOST_SERVICES), Ok(2 * MOST_SERVICES));
        assert!(matches!(many(MOST_SERVICES + 1), Err(Hold::TooManyServices { .. })));
    }

    proptest! {
        /// Whatever the facts: each name is a Service's that selects the pod, in the pod's namespace, and one that can be written.
        #[test]
        fn no_name_without_a_fact(
            services in prop::collection::btree_set("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", 0..6),
            hostname in prop::option::of("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"),
            subdomain in prop::option::of("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"),
            cluster in "[a-z0-9]{1,80}(\\.[a-z]{1,56}){0,3}",
        ) {
            let services: Vec<ServiceName> = services.iter().map(|name| ServiceName::parse(name).unwrap()).collect();
            let verified = with(|seen| {
                seen.services = Some(services.clone().into());
                pod(seen).hostname = hostname.map(|name| Hostname::parse(&name).unwrap());
                pod(seen).subdomain = subdomain.map(|name| ServiceName::parse(&name).unwrap());
            });
            let mut wording = wording(&[DnsSource::Services, DnsSource::Hostname]);
            wording.cluster_domain = DnsName::parse(&cluster).unwrap();
            for word in &names(&wording, &Asked::default(), &verified).unwrap() {
                let (host, rest) = word.name.as_str().split_once(".shop.svc").unwrap();
                prop_assert!(rest.is_empty() || rest.strip_prefix('.') == Some(&*cluster));
                match &word.because {
                    Because::Service(service) => {
                        prop_assert!(services.contains(service));
                        prop_assert_eq!(host, service.as_str());
                    }
                    Because::Hostname(hostname, service) => {
                        prop_assert!(services.contains(service));
                        prop_assert_eq!(Some(hostname), verified.pod().hostname.as_ref());
                        prop_assert_eq!(host, format!("{hostname}.{service}"));
                    }
                    Because::Template(_) | Because::Rule => prop_assert!(false, "there is none"),
                }
                prop_assert!(word.name.as_str().len() <= 253 && word.name.as_str().split('.').all(|part| part.len() <= 63));
            }
        }
    }
}
