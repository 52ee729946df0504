//! `podmint-dev DIR NAMESPACE/ACCOUNT...`: credentials for services on a laptop, with no cluster, renewing every few minutes. Never for production: the root's key is in its memory.
//!
//! Each service gets a folder DIR/NAMESPACE/ACCOUNT in the layout of SPIFFE Filesystem Delivery, written with the kubelet's own steps.

use podmint::testkit::{Authority, Volume};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
usage: podmint-dev DIR NAMESPACE/ACCOUNT... [--trust-domain DOMAIN] [--life SECONDS]

Writes and renews credentials below DIR for each service, until it is ended:
  SPIFFE_CREDENTIAL_FOLDER=DIR/NAMESPACE/ACCOUNT your-service
DOMAIN is dev.podmint.test by default, and a certificate lives 300 s; half of that is left when it is renewed.
";

struct Arguments {
    folder: PathBuf,
    services: Vec<String>,
    domain: String,
    life: u32,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        std::io::stderr().write_all(USAGE.as_bytes()).ok();
        return ExitCode::from(64);
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "podmint-dev: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Option<Arguments> {
    let mut arguments = std::env::args().skip(1);
    let mut found =
        Arguments { folder: PathBuf::new(), services: Vec::new(), domain: "dev.podmint.test".into(), life: 300 };
    let mut named = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--trust-domain" => found.domain = arguments.next()?,
            "--life" => found.life = arguments.next()?.parse().ok().filter(|life| (10..=86_400).contains(life))?,
            flag if flag.starts_with('-') => return None,
            _ => named.push(argument),
        }
    }
    found.domain.parse::<podmint::TrustDomain>().ok()?;
    let mut named = named.into_iter();
    found.folder = named.next()?.into();
    for service in named {
        // It becomes a folder's name and a SPIFFE ID.
        let (namespace, account) = service.split_once('/')?;
        let domain = found.domain.parse().ok()?;
        podmint::Authorizer::k8s(&domain, namespace, account).ok()?;
        found.services.push(service);
    }
    (!found.services.is_empty()).then_some(found)
}

fn run(arguments: &Arguments) -> std::io::Result<()> {
    let authority = Authority::new(&arguments.domain);
    let mut volumes = Vec::new();
    for service in &arguments.services {
        let folder = arguments.folder.join(service);
        // Keys of this authority are worth nothing elsewhere; still nobody else needs to read them.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.and_then(|()| remove_unfinished(&folder)).map_err(|error| {
            std::io::Error::new(error.kind(), format!("could not prepare the folder {}: {error}", folder.display()))
        })?;
        volumes.push((service, Volume::new(folder)));
    }
    let mut out = std::io::stdout();
    for round in 0_u64.. {
        for (service, volume) in &volumes {
            let (namespace, account) = service.split_once('/').unwrap_or_default();
            let path = format!("/ns/{namespace}/sa/{account}");
            let issued = authority.issue_valid(&path, -5, i64::from(arguments.life));
            volume.write(&[
                ("credential-bundle.private-key.x509.pem", issued.bundle()),
                (&format!("{}.spiffe-trust-bundle.x509.pem", arguments.domain), authority.trust()),
            ]);
            if round == 0 {
                writeln!(out, "SPIFFE_CREDENTIAL_FOLDER={}", volume.path().display())?;
            }
        }
        if round == 0 {
            writeln!(out, "renewing every {} s", arguments.life / 2)?;
            out.flush()?;
        }
        std::thread::sleep(Duration::from_secs(u64::from(arguments.life / 2)));
    }
    Ok(())
}

/// What an earlier run left half done would stand in the way of the next write.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(folder.join("..data_tmp")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
