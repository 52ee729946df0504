//! The stories.
use podmint_tests::{call, server::*, Who};
#[test]
fn starts() {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let t = std::time::Instant::now();
        let s = Kubernetes::start(Settings::of("1.37.2")).await;
        eprintln!("{:?}", t.elapsed());
        let c = s.client(&Who::Admin).await;
        eprintln!("{}", call::get(&c, "/apis/certificates.k8s.io/v1").await.unwrap());
        s.stop_api();
        s.start_api("1.37.2").await;
        eprintln!("{:?}", call::get(&s.client(&Who::node("n")).await, "/api/v1/nodes").await);
    });
}
