//! What depends on a previous root: pods whose certificate was seen to be of it, and pods that may have one, because they are older
//! than the switch and their request is gone (Kubernetes keeps requests for a quarter of an hour).

use std::fmt;

use serde_json::Value;

use super::{CaError, Desk, failed};
use crate::{
    authority::{Origin, fingerprints, trace},
    cluster::versions::{GROUP, REQUESTS},
    kubectl::doctor::{list, text},
    names::SignerName,
    resource::GenerationStatus,
};

/// What depends on it.
#[derive(Debug)]
pub(super) struct Depends {
    root: String,
    signed_until: Option<String>,
    trusted_until: Option<String>,
    lives: Vec<Dependant>,
    perhaps: Vec<Dependant>,
    renewed: usize,
}

/// A pod, and until when its certificate lives, at the latest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dependant {
    pod: String,
    until: String,
}

pub(super) async fn on(desk: &Desk, root: &GenerationStatus) -> Result<Depends, CaError> {
    let Some(version) = desk.served.requests else {
        return Err(CaError::Unfit("the API server serves no podcertificaterequests".to_owned()));
    };
    let bundle = desk.bundle().await?;
    let certificate = bundle.as_ref().and_then(|bundle| of(bundle.text(), &root.fingerprint));
    let Some(certificate) = certificate else {
        return Err(CaError::Unfit(format!("the trust bundle does not hold the root {}", root.fingerprint)));
    };
    let pods: Vec<Value> = list(&desk.calls, "/api/v1/pods").await.map_err(|error| failed("list pods", &error))?;
    let path = format!("/apis/{GROUP}/{}/{REQUESTS}", version.as_str());
    let requests: Vec<Value> =
        list(&desk.calls, &path).await.map_err(|error| failed("list podcertificaterequests", &error))?;
    Ok(Depends::of(root, &certificate, &desk.signer()?.signer_name, &pods, &requests))
}

impl Depends {
    fn of(root: &GenerationStatus, certificate: &str, signer: &SignerName, pods: &[Value], requests: &[Value]) -> Self {
        let mut depends = Self {
            root: format!("{} ({})", root.subject, root.fingerprint),
            signed_until: root.signed_until.clone(),
            trusted_until: root.trusted_until.clone(),
            lives: Vec::new(),
            perhaps: Vec::new(),
            renewed: 0,
        };
        for pod in pods.iter().filter(|pod| mounts(pod, signer)) {
            let uid = text(pod, "/metadata/uid");
            let name = format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
            let of_pod = requests.iter().filter(|request| {
                text(request, "/spec/podUID") == uid && text(request, "/spec/signerName") == signer.as_str()
            });
            let issued: Vec<&Value> =
                of_pod.filter(|request| !text(request, "/status/certificateChain").is_empty()).collect();
            let is_of_it = |request: &&&Value| {
                matches!(trace(text(request, "/status/certificateChain"), certificate), Origin::Ours { .. })
            };
            // Which of its volumes a request was for does not stand in it: the last to end counts.
            let until = issued.iter().filter(is_of_it).map(|request| text(request, "/status/notAfter")).max();
            let is_older =
                root.signed_until.as_deref().is_none_or(|until| text(pod, "/metadata/creationTimestamp") < until);
            match until {
                Some(until) => depends.lives.push(Dependant { pod: name, until: until.to_owned() }),
                None if issued.is_empty() && is_older => {
                    let until = root.trusted_until.clone().unwrap_or_else(|| "its certificate ends".to_owned());
                    depends.perhaps.push(Dependant { pod: name, until });
                }
                None => depends.renewed = depends.renewed.saturating_add(1),
            }
        }
        depends.lives.sort_unstable();
        depends.perhaps.sort_unstable();
        depends
    }
}

/// Whether the pod has, or is to have, a certificate by this name.
fn mounts(pod: &Value, signer: &SignerName) -> bool {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten();
    let sources = volumes.filter_map(|volume| volume.pointer("/projected/sources").and_then(Value::as_array)).flatten();
    let is_over = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    !is_over && sources.into_iter().any(|source| text(source, "/podCertificate/signerName") == signer.as_str())
}

/// The certificate of this fingerprint in a bundle.
fn of(bundle: &str, fingerprint: &str) -> Option<String> {
    let all = pem::parse_many(bundle).ok()?;
    all.iter().map(pem::encode).find(|one| fingerprints(one).iter().any(|it| it.to_string() == fingerprint))
}

impl fmt::Display for Depends {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { root, signed_until, trusted_until, lives, perhaps, renewed } = self;
        writeln!(out, "Previous root {root}")?;
        match signed_until {
            Some(until) => writeln!(out, "  signed until {until}")?,
            None => writeln!(out, "  signed until a moment ago")?,
        }
        if let Some(until) = trusted_until {
            writeln!(out, "  is withdrawn by itself at {until}, when the last certificate of it has ended")?;
        }
        writeln!(
            out,
            "Once it is withdrawn, whoever presents a certificate of it is refused, minutes later at the latest."
        )?;
        section(out, "pods whose certificate is of it", lives)?;
        section(
            out,
            "pods that are older than the switch, and whose request is gone: they may not have renewed",
            perhaps,
        )?;
        writeln!(out, "  {renewed} pods have a certificate of the new root")
    }
}

fn section(out: &mut fmt::Formatter<'_>, what: &str, pods: &[Dependant]) -> fmt::Result {
    writeln!(out, "  {} {what}", pods.len())?;
    pods.iter().take(SHOWN).try_for_each(|Dependant { pod, until }| writeln!(out, "    {pod}   until {until}"))?;
    match pods.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "    and {more} more"),
    }
}

/// More than that nobody reads.
const SHOWN: usize = 50;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pipeline::{Issued, honest};

    #[test]
    fn a_pod_depends_on_a_root_as_far_as_can_be_seen() {
        let (old, new) = (honest::issuer(), honest::issuer());
        let chain = |issuer| Issued::sign(honest::profile(issuer), issuer).unwrap().chain_pem().to_owned();
        let signer = SignerName::parse("podmint.dev/workload").unwrap();
        let pod = |name: &str, created: &str, by: &str, phase: &str| {
            json!({
                "metadata": {"namespace": "shop", "name": name, "uid": name, "creationTimestamp": created},
                "spec": {"volumes": [{"name": "x"}, {"projected": {"sources": [{"podCertificate": {"signerName": by}}]}}]},
                "status": {"phase": phase},
            })
        };
        let request = |pod: &str, chain: &str, until: &str| {
            json!({
                "spec": {"podUID": pod, "signerName": "podmint.dev/workload"},
                "status": {"certificateChain": chain, "notAfter": until},
            })
        };
        let (before, after, ours) = ("2026-11-23T10:00:00Z", "2026-11-23T12:00:00Z", "podmint.dev/workload");
        let pods = [
            pod("lives", before, ours, "Running"),
            pod("perhaps", before, ours, "Running"),
            pod("renewed", before, ours, "Running"),
            pod("young", after, ours, "Pending"),
            pod("over", before, ours, "Succeeded"),
            pod("stranger", before, "other.org/x", "Running"),
        ];
        let (of_old, of_new) = (chain(&old), chain(&new));
        let requests = [
            request("lives", &of_old, "2026-11-24T01:00:00Z"),
            request("lives", &of_old, "2026-11-24T02:00:00Z"),
            request("renewed", &of_new, "2026-11-24T03:00:00Z"),
            request("renewed", "", ""),
        ];
        let root = GenerationStatus {
            signed_until: Some("2026-11-23T11:00:00Z".to_owned()),
            trusted_until: Some("2026-11-24T11:02:00Z".to_owned()),
            ..GenerationStatus::default()
        };
        let depends = Depends::of(&root, &old.generation().trust_bundle(), &signer, &pods, &requests);
        let of = |all: &[Dependant]| all.iter().map(|it| format!("{} {}", it.pod, it.until)).collect::<Vec<_>>();
        assert_eq!(of(&depends.lives), ["shop/lives 2026-11-24T02:00:00Z"]);
        assert_eq!(of(&depends.perhaps), ["shop/perhaps 2026-11-24T11:02:00Z"]);
        assert_eq!(depends.renewed, 2);
    }
}
