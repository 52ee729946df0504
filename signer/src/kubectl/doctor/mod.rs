//! `kubectl podmint doctor`: looks at a cluster and says what keeps pods from their certificates, each finding with what mends it.
//!
//! ```text
//! look, prove → Facts → cluster, signers, nodes, pods → Findings → report
//!  API server            decide and touch nothing
//! ```
//!
//! What could not be looked at is a result, too: it stands in the report, and a cluster of which something was not seen is never
//! called healthy. Nothing is changed; what has to be tried is tried as a dry run.

mod cluster;
mod facts;
#[cfg(test)]
mod fixture;
mod look;
mod nodes;
mod pods;
mod prove;
mod report;
mod signers;
mod workload;

use time::OffsetDateTime;

use self::facts::Facts;
pub(super) use self::look::{configs, list, text, time_of};
pub use self::{
    look::CannotLook,
    report::{COULD_NOT_LOOK, Finding, Mend, Report, Severity, Unseen},
};
use super::Installation;

/// Looks at the cluster that `config` leads to. `now` is this machine's clock.
///
/// # Errors
/// When there is no API server to ask. Whatever else cannot be seen is part of the report.
pub async fn examine(
    config: kube::Config,
    installation: &Installation,
    now: fn() -> OffsetDateTime,
) -> Result<Report, CannotLook> {
    Ok(diagnose(&look::look(config, installation, now).await?))
}

/// All findings, the worst first.
fn diagnose(facts: &Facts) -> Report {
    let mut findings = Vec::new();
    findings.extend(cluster::findings(facts));
    findings.extend(signers::findings(facts));
    findings.extend(nodes::findings(facts));
    findings.extend(pods::findings(facts));
    findings.sort_by_key(|finding| finding.severity);
    Report { looked_at: facts.looked_at(), findings, unseen: facts.unseen() }
}
