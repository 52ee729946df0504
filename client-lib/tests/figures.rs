//! The figures of the feature `metrics`: each one that is described is given, and none that is not. One recorder serves the whole process, so this is one story.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

mod kit;

use kit::{DOMAIN, Pod, anyone, aws, shake, until};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use podmint::testkit::Authority;
use podmint::{Authorizer, HandshakeError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Told {
    described: Arc<Mutex<BTreeSet<String>>>,
    values: Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>,
}

impl Told {
    fn of(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = if labels.is_empty() { key.name().into() } else { format!("{}{labels:?}", key.name()) };
        Arc::clone(self.values.lock().unwrap().entry(name).or_default())
    }

    fn count(&self, name: &str) -> u64 {
        self.values.lock().unwrap().get(name).map_or(0, |value| value.load(Ordering::SeqCst))
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.count(name))
    }
}

impl Recorder for Told {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().insert(name.as_str().into());
    }
    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().insert(name.as_str().into());
    }
    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().insert(name.as_str().into());
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.of(key))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn every_figure_is_given_and_says_what_happened() {
    let told = Told::default();
    metrics::set_global_recorder(told.clone()).ok().unwrap();
    let authority = Authority::new(DOMAIN);
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    let identity = pod.builder().provider(aws()).start().await.unwrap();
    let (rule, handle) = Authorizer::swappable(anyone());
    let acceptor = identity.server(rule).acceptor().unwrap();
    let connector = identity.client(anyone()).connector().unwrap();
    let (near, far) = shake(&acceptor, &connector).await;
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!(told.count("podmint_client_handshakes_total[\"side=server\", \"result=made\"]"), 1);
    assert_eq!(told.count("podmint_client_handshakes_total[\"side=client\", \"result=made\"]"), 1);
    assert_eq!(told.count("podmint_client_key_exchanges_total[\"side=server\", \"kind=post_quantum\"]"), 1);
    assert!((told.gauge("podmint_client_connections") - 2.0).abs() < 0.1);
    handle.replace(Authorizer::one_of([]));
    until("the connection is closed", || {
        told.count("podmint_client_connections_closed_total[\"reason=not_allowed\"]") == 1
    })
    .await;
    drop((near, far));
    assert!(told.gauge("podmint_client_connections").abs() < 0.1);
    let (near, _far) = shake(&acceptor, &connector).await;
    assert!(matches!(near, Err(HandshakeError::Refused(_))));
    assert_eq!(told.count("podmint_client_handshakes_total[\"side=server\", \"result=not_allowed\"]"), 1);

    assert_eq!(told.count("podmint_client_loads_total[\"result=kept\"]"), 0);
    pod.volume.write(&[("bundle.pem", "garbage".into()), ("trust.pem", authority.trust())]);
    identity.reload().await;
    assert!(told.count("podmint_client_loads_total[\"result=kept\"]") >= 1);
    assert!(told.count("podmint_client_load_problems_total[\"part=credential\", \"reason=pem\"]") >= 1);
    assert!((told.gauge("podmint_client_generation") - 1.0).abs() < 0.1);
    let not_after = identity.snapshot().credential().not_after().as_secs();
    assert_eq!(
        told.gauge("podmint_client_credential_not_after_seconds").to_bits(),
        f64::from(u32::try_from(not_after).unwrap()).to_bits()
    );

    let listed: BTreeSet<String> = podmint::metrics::FIGURES.iter().map(|figure| figure.name.into()).collect();
    let given: BTreeSet<String> =
        told.values.lock().unwrap().keys().map(|name| name.split('[').next().unwrap().to_owned()).collect();
    assert_eq!(listed, given);
    assert_eq!(listed, *told.described.lock().unwrap());
}
