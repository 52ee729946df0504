//! A template and the facts of a verified pod come in, a text comes out: of a SPIFFE ID, a DNS name or a field of the subject.

use std::{fmt, net::IpAddr};

use super::{asked::Asked, refusal::Hold, verified::Verified};
use crate::{
    config::{SubjectWording, Template, Variable, subject_text},
    names::{TrustDomain, clip},
};

/// The subject of a certificate; empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// O.
    pub organization: Option<String>,
    /// OU.
    pub organizational_unit: Option<String>,
    /// CN.
    pub common_name: Option<String>,
}

impl Subject {
    /// Its fields as X.520 numbers them below `2.5.4`, from the largest to the smallest.
    pub fn fields(&self) -> impl Iterator<Item = (u8, &str)> {
        let Self { organization, organizational_unit, common_name } = self;
        let fields = [(10, organization), (11, organizational_unit), (3, common_name)];
        fields.into_iter().filter_map(|(number, text)| Some((number, text.as_deref()?)))
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.fields().next().is_none()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { organization, organizational_unit, common_name } = self;
        let fields = [("O", organization), ("OU", organizational_unit), ("CN", common_name)];
        let fields = fields.into_iter().filter_map(|(key, text)| Some(format!("{key}={}", text.as_ref()?)));
        out.write_str(&fields.collect::<Vec<_>>().join(", "))
    }
}

/// The text of a template for this pod.
pub(super) fn fill(template: &Template, field: &'static str, verified: &Verified) -> Result<String, Hold> {
    let (claim, pod) = (verified.claim(), verified.pod());
    let value = |variable: &Variable| match variable {
        Variable::Namespace => Some(claim.target.namespace.as_str()),
        Variable::ServiceAccount => Some(claim.service_account.as_str()),
        Variable::Pod => Some(claim.pod.as_str()),
        Variable::Node => Some(claim.node.as_str()),
        Variable::Label(key) => pod.labels.get(key).map(|value| &**value).filter(|value| !value.is_empty()),
    };
    template.fill(value).map_err(|variable| Hold::NoSuchName {
        field,
        problem: format!("the pod has nothing for {variable}: set that label on it"),
    })
}

/// The SPIFFE ID. No value of a variable can hold a `/` or be `..`. SPIFFE's limit is 2048 bytes.
pub(super) fn spiffe_id(trust_domain: &TrustDomain, path: &Template, verified: &Verified) -> Result<String, Hold> {
    let uri = format!("spiffe://{trust_domain}{}", fill(path, "spiffeId", verified)?);
    if uri.len() > 2048 {
        return Err(Hold::NoSuchName { field: "spiffeId", problem: "it is longer than 2048 letters".to_owned() });
    }
    Ok(uri)
}

/// The subject; a common name that the pod asks for, and its rule names, stands in place of the profile's. RFC 5280 allows 64 letters in each of these fields.
pub(super) fn subject(wording: &SubjectWording, asked: &Asked, verified: &Verified) -> Result<Subject, Hold> {
    let filled = |field: &'static str, template: &Option<Template>| {
        let Some(template) = template else { return Ok(None) };
        let text = fill(template, field, verified)?;
        let problem = if text.len() > 64 { Some("it is longer than 64 letters") } else { subject_text(&text).err() };
        match problem {
            Some(problem) => {
                Err(Hold::NoSuchName { field, problem: format!("{:?} cannot be one: {problem}", clip(&text)) })
            }
            None => Ok(Some(text)),
        }
    };
    let SubjectWording { organization, organizational_unit, common_name } = wording;
    Ok(Subject {
        organization: filled("subject.organization", organization)?,
        organizational_unit: filled("subject.organizationalUnit", organizational_unit)?,
        common_name: match &asked.common_name {
            Some(name) => Some(name.to_string()),
            None => filled("subject.commonName", common_name)?,
        },
    })
}

/// The pod's addresses, where they are asked for. A pod on its node's own network has the node's, which are not its own.
pub(super) fn addresses(wanted: bool, verified: &Verified) -> Box<[IpAddr]> {
    let pod = verified.pod();
    if wanted && !pod.is_on_host_network { pod.addresses.clone() } else { Box::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{
        Fact, PodFacts,
        honest::{config_with, honest},
    };

    fn with(change: impl FnOnce(&mut PodFacts)) -> Verified {
        let mut seen = honest();
        let Fact::Found(pod, _) = &mut seen.pod else { panic!("an honest pod is there") };
        change(pod);
        Verified::check(seen).unwrap()
    }

    #[test]
    fn every_variable_is_a_verified_fact() {
        let signer = config_with(
            "profile: {spiffeId: '/ns/{namespace}/sa/{serviceAccount}/pod/{pod}/on/{node}/app/{label:app}', trustedLabels: [app]}",
        );
        let path = signer.wording.spiffe_path.as_ref().unwrap();
        let id = |verified: &Verified| spiffe_id(&signer.trust_domain, path, verified);
        assert_eq!(
            id(&with(|_| ())).unwrap(),
            "spiffe://prod.example.org/ns/shop/sa/cart/pod/cart-0/on/node-a/app/cart"
        );
        let without = id(&with(|pod| pod.labels.clear())).unwrap_err();
        assert!(without.to_string().contains("{label:app}"), "{without}");
        assert!(id(&with(|pod| drop(pod.labels.insert("app".into(), "".into())))).is_err(), "an empty value is none");
    }

    #[test]
    fn a_subject_has_the_fields_that_are_asked_for() {
        let signer =
            config_with("profile: {subject: {organization: Shop, commonName: '{namespace}:{serviceAccount}'}}");
        let subject = subject(&signer.wording.subject, &Asked::default(), &with(|_| ())).unwrap();
        assert_eq!(subject.fields().collect::<Vec<_>>(), [(10, "Shop"), (3, "shop:cart")]);
        let long = config_with(&format!("profile: {{subject: {{commonName: '{}-{{pod}}'}}}}", "x".repeat(60)));
        let error = super::subject(&long.wording.subject, &Asked::default(), &with(|_| ())).unwrap_err();
        assert!(error.to_string().contains("longer than 64"), "{error}");
        let trusted = config_with("profile: {trustedLabels: [app], subject: {commonName: '{label:app}'}}");
        let named = |value: &str| {
            let labelled = with(|pod| drop(pod.labels.insert("app".into(), value.into())));
            super::subject(&trusted.wording.subject, &Asked::default(), &labelled)
        };
        assert!(named("Cart_1.x").is_ok());
        assert!(named("a,O=b").is_err(), "whatever a label may hold one day");
    }

    #[test]
    fn addresses_are_the_pods_own() {
        let own: IpAddr = [10, 0, 0, 7].into();
        let at = |host: bool| with(|pod| (pod.addresses, pod.is_on_host_network) = ([own].into(), host));
        assert_eq!(*addresses(true, &at(false)), [own]);
        assert!(addresses(true, &at(true)).is_empty());
        assert!(addresses(false, &at(false)).is_empty());
    }
}
