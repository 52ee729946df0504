//! Prints the CRD of PodSigner: `deploy/check --render` writes `deploy/helm/podmint/crds` with it.

use std::io::Write as _;

fn main() -> anyhow::Result<()> {
    let yaml = serde_saphyr::to_string(&podmint_signer::resource::crd())?;
    write!(
        std::io::stdout(),
        "# Generated from signer/src/resource.rs by deploy/check --render: change that.\n{yaml}"
    )?;
    Ok(())
}
