//! Which Services select a pod: an index of Services alone, never of pods. Finding those of one pod takes a look at each of its
//! labels, however many Services there are.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use super::facts::Labels;
use crate::names::{Namespace, ServiceName};

/// A Service that selects pods. One without a selector, with an empty one, or of type ExternalName selects none and is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace: it selects pods of no other.
    pub namespace: Namespace,
    /// Its name.
    pub name: ServiceName,
    /// What a pod's labels must hold, all of it.
    pub selector: Box<[(Box<str>, Box<str>)]>,
}

/// All Services of the cluster that select pods.
#[derive(Debug, Default)]
pub struct Services {
    named: HashMap<(Namespace, ServiceName), Arc<Service>>,
    /// Each Service once, below one pair of its selector: a pod that lacks that pair is not selected. The keys are hashes, so
    /// that no text is kept twice; what is found is compared whole.
    buckets: HashMap<u64, Vec<Arc<Service>>>,
    hasher: RandomState,
}

impl Services {
    /// Adds a Service, in place of the one of that name.
    pub fn set(&mut self, service: Service) {
        self.remove(&service.namespace, &service.name);
        let pair = |(key, value): &(Box<str>, Box<str>)| self.bucket(&service.namespace, key, value);
        // The rarest pair, so that `app.kubernetes.io/part-of: shop` does not gather all of a namespace.
        let load = |bucket: &u64| self.buckets.get(bucket).map_or(0, Vec::len);
        let Some(bucket) = service.selector.iter().map(pair).min_by_key(load) else { return };
        let service = Arc::new(service);
        self.named.insert((service.namespace.clone(), service.name.clone()), Arc::clone(&service));
        self.buckets.entry(bucket).or_default().push(service);
    }

    /// Forgets a Service.
    pub fn remove(&mut self, namespace: &Namespace, name: &ServiceName) {
        let Some(service) = self.named.remove(&(namespace.clone(), name.clone())) else { return };
        for (key, value) in &service.selector {
            let bucket = self.bucket(namespace, key, value);
            if let Some(services) = self.buckets.get_mut(&bucket) {
                services.retain(|kept| !Arc::ptr_eq(kept, &service));
                if services.is_empty() {
                    self.buckets.remove(&bucket);
                }
            }
        }
    }

    /// The Services whose selector these labels satisfy, sorted by name.
    pub fn selecting(&self, namespace: &Namespace, labels: &Labels) -> Box<[ServiceName]> {
        let candidates = labels
            .iter()
            .filter_map(|(key, value)| self.buckets.get(&self.bucket(namespace, key, value)))
            .flatten()
            .filter(|service| service.namespace == *namespace && service.selects(labels));
        let mut found: Vec<ServiceName> = candidates.map(|service| service.name.clone()).collect();
        found.sort_unstable();
        found.dedup();
        found.into()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    fn bucket(&self, namespace: &Namespace, key: &str, value: &str) -> u64 {
        self.hasher.hash_one((namespace, key, value))
    }
}

impl Service {
    fn selects(&self, labels: &Labels) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn service(namespace: &str, name: &str, selector: &[(&str, &str)]) -> Service {
        Service {
            namespace: Namespace::parse(namespace).unwrap(),
            name: ServiceName::parse(name).unwrap(),
            selector: selector.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        }
    }

    fn of(services: &Services, namespace: &str, labels: &[(&str, &str)]) -> Vec<String> {
        let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let found = services.selecting(&Namespace::parse(namespace).unwrap(), &labels);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_service_selects_pods_of_its_namespace_that_have_all_its_labels() {
        let mut services = Services::default();
        services.set(service("shop", "cart", &[("app", "cart")]));
        services.set(service("shop", "cart-v2", &[("app", "cart"), ("version", "2")]));
        services.set(service("bank", "cart", &[("app", "cart")]));
        services.set(service("shop", "all", &[]));
        assert_eq!(of(&services, "shop", &[("app", "cart")]), ["cart"]);
        assert_eq!(of(&services, "shop", &[("app", "cart"), ("version", "2")]), ["cart", "cart-v2"]);
        assert_eq!(of(&services, "shop", &[("app", "Cart")]), [""; 0]);
        assert_eq!(of(&services, "other", &[("app", "cart")]), [""; 0]);
        assert_eq!(of(&services, "shop", &[]), [""; 0], "an empty selector selects nothing");
    }

    #[test]
    fn what_changes_or_goes_is_forgotten() {
        let mut services = Services::default();
        services.set(service("shop", "cart", &[("app", "cart"), ("tier", "web")]));
        services.set(service("shop", "cart", &[("app", "basket")]));
        assert_eq!(of(&services, "shop", &[("app", "cart"), ("tier", "web")]), [""; 0]);
        assert_eq!(of(&services, "shop", &[("app", "basket")]), ["cart"]);
        let basket = service("shop", "cart", &[]);
        services.remove(&basket.namespace, &basket.name);
        assert_eq!((services.len(), services.buckets.len()), (0, 0));
    }

    #[test]
    fn a_pair_that_all_share_does_not_gather_them() {
        let mut services = Services::default();
        for number in 0..1_000 {
            let name = format!("s-{number}");
            services.set(service("shop", &name, &[("app.kubernetes.io/part-of", "shop"), ("app", &name)]));
        }
        assert_eq!(of(&services, "shop", &[("app.kubernetes.io/part-of", "shop"), ("app", "s-7")]), ["s-7"]);
        let fullest = services.buckets.values().map(Vec::len).max().unwrap();
        assert!(fullest <= 2, "{fullest} in one bucket");
    }

    #[test]
    fn what_ten_thousand_cost() {
        let mut services = Services::default();
        let begin = std::time::Instant::now();
        for number in 0..10_000 {
            let (name, namespace) = (format!("service-{number}"), format!("team-{}", number % 100));
            services.set(service(
                &namespace,
                &name,
                &[("app.kubernetes.io/name", &name), ("app.kubernetes.io/part-of", &namespace)],
            ));
        }
        let texts = |service: &Arc<Service>| {
            service.selector.iter().map(|(key, value)| key.len() + value.len() + 32).sum::<usize>()
                + 2 * (service.namespace.as_str().len() + service.name.as_str().len())
        };
        let fixed = services.named.capacity() * (size_of::<(Namespace, ServiceName)>() + size_of::<Arc<Service>>() + 1)
            + services.buckets.capacity() * (size_of::<u64>() + size_of::<Vec<Arc<Service>>>() + 1)
            + services.len() * (size_of::<Service>() + 16 + 4 * size_of::<Arc<Service>>());
        let bytes = fixed + services.named.values().map(texts).sum::<usize>();
        println!("10,000 Services: about {bytes} bytes, made in {:?}", begin.elapsed());
        let begin = std::time::Instant::now();
        for number in 0..10_000 {
            let (name, namespace) = (format!("service-{number}"), format!("team-{}", number % 100));
            let labels = [
                ("app.kubernetes.io/name", &*name),
                ("app.kubernetes.io/part-of", &*namespace),
                ("pod-template-hash", "x"),
            ];
            assert_eq!(of(&services, &namespace, &labels), std::slice::from_ref(&name));
        }
        println!("finding those of one pod: {:?}", begin.elapsed() / 10_000);
    }

    proptest! {
        /// The index finds what a look at every Service would find, whatever was set and removed before.
        #[test]
        fn it_is_the_plain_definition(
            steps in prop::collection::vec(("[ab]", "[st]", prop::collection::btree_map("[kl]", "[vw]", 0..3), any::<bool>()), 0..24),
            labels in prop::collection::btree_map("[kl]", "[vw]", 0..3),
        ) {
            let mut services = Services::default();
            let mut plain: BTreeMap<(String, String), BTreeMap<String, String>> = BTreeMap::new();
            for (namespace, name, selector, there) in steps {
                let pairs: Vec<(&str, &str)> = selector.iter().map(|(key, value)| (&**key, &**value)).collect();
                let one = service(&namespace, &name, &pairs);
                if there {
                    services.set(one);
                    plain.insert((namespace, name), selector);
                } else {
                    services.remove(&one.namespace, &one.name);
                    plain.remove(&(namespace, name));
                }
            }
            let pairs: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (&**key, &**value)).collect();
            for namespace in ["a", "b"] {
                let expected: Vec<String> = plain
                    .iter()
                    .filter(|((of, _), selector)| of == namespace && !selector.is_empty())
                    .filter(|(_, selector)| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
                    .map(|((_, name), _)| name.clone())
                    .collect();
                prop_assert_eq!(of(&services, namespace, &pairs), expected);
            }
        }
    }
}
