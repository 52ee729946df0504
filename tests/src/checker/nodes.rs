//! The kubelets' view: what became of each volume, and what is in its file.

use std::collections::BTreeMap;

use podmint_devcluster::node::State;
use podmint_examples::demo::checker::certificate;
use podmint_examples::demo::checker::request::Request;

/// A volume of a pod, as its kubelet has it at the end.
#[derive(Debug, Clone)]
pub struct Volume {
    /// The pod's UID.
    pub pod_uid: String,
    /// Where the kubelet stands with it.
    pub state: State,
    /// The credential bundle in it: key and chain, as PEM.
    pub bundle: String,
}

pub(super) fn check(requests: &[Request], volumes: &[Volume], wrong: &mut Vec<String>) {
    let mut published: BTreeMap<&str, &str> = BTreeMap::new();
    for request in requests {
        if let Some(leaf) = request.leaf() {
            published.insert(&leaf.fingerprint, &request.pod_uid);
        }
    }
    for volume in volumes {
        let mut says = |what: String| wrong.push(format!("the kubelet of pod {} {what}", volume.pod_uid));
        match volume.state {
            State::Fresh => {}
            State::Denied | State::Failed => says("was refused for ever".to_owned()),
            State::Initial | State::Wait | State::WaitRefresh => says("waits for a certificate".to_owned()),
        }
        match leaf(&volume.bundle) {
            Err(why) => says(format!("wrote a file that {why}")),
            Ok(fingerprint) if published.get(fingerprint.as_str()) != Some(&volume.pod_uid.as_str()) => {
                says("wrote a certificate that was not published for it".to_owned());
            }
            Ok(_) => {}
        }
    }
}

/// SHA-256 of the first certificate. What comes before it is the private key, which is not looked at.
fn leaf(bundle: &str) -> Result<String, String> {
    let begin = bundle.find("-----BEGIN CERTIFICATE-----").ok_or("holds no certificate")?;
    let chain = certificate::certificates(bundle.get(begin..).unwrap_or_default())?;
    Ok(certificate::leaf(&chain)?.fingerprint)
}
