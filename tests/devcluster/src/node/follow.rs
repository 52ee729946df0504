//! The four watches of a node agent, as one stream.

use std::ops::Range;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, Error, Event, watcher};

use super::options::{Kubelet, NodeOptions};
use super::request::{request_resource, resource};

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Pods,
    Requests,
    TrustBundles,
    Node,
}

pub(crate) type News = (Topic, Result<Event<DynamicObject>, Error>);

/// Follows everything a node has to know. A watch that breaks is taken up again, with backoff.
pub(crate) async fn follow(client: &kube::Client, options: &NodeOptions) -> SelectAll<BoxStream<'static, News>> {
    let on_node = format!("spec.nodeName={}", options.name);
    let mut all = SelectAll::new();
    let one = |topic, kind: &ApiResource, config| one(client, topic, kind, config, &options.pace.watch_backoff);
    all.push(one(Topic::Pods, &resource("", "v1", "Pod"), Config::default().fields(&on_node)));
    all.push(one(Topic::Requests, &request_resource(options.kubelet), Config::default().fields(&on_node)));
    let itself = format!("metadata.name={}", options.name);
    all.push(one(Topic::Node, &resource("", "v1", "Node"), Config::default().fields(&itself)));
    if let Some(version) = trust_version(client, options.kubelet).await {
        let bundles = resource("certificates.k8s.io", version, "ClusterTrustBundle");
        all.push(one(Topic::TrustBundles, &bundles, Config::default()));
    }
    all
}

fn one(
    client: &kube::Client,
    topic: Topic,
    kind: &ApiResource,
    config: Config,
    backoff: &Range<Duration>,
) -> BoxStream<'static, News> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), kind);
    let backoff = Doubling { first: backoff.start, longest: backoff.end, next: backoff.start };
    watcher(api, config).backoff(backoff).map(move |news| (topic, news)).boxed()
}

/// Waits that double, until something comes.
struct Doubling {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.longest);
        Some(wait)
    }
}

impl Backoff for Doubling {
    fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Trust bundles are discovered, once: a kubelet that finds no version it knows does without for its whole life.
async fn trust_version(client: &kube::Client, kubelet: Kubelet) -> Option<&'static str> {
    let known: &[&str] = match kubelet {
        Kubelet::V1_37 => &["v1", "v1beta1"],
        Kubelet::V1_36 | Kubelet::V1_35 => &["v1beta1"],
    };
    for version in known {
        let listed = client.list_api_group_resources(&format!("certificates.k8s.io/{version}")).await;
        if listed.is_ok_and(|list| list.resources.iter().any(|resource| resource.name == "clustertrustbundles")) {
            return Some(version);
        }
    }
    tracing::warn!("the API server has no trust bundles: volumes that want one will not be made");
    None
}
