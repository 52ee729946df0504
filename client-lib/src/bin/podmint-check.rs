//! `podmint-check [PATH]`: reads a pod's identity as a service would and says in plain words what is right, what is wrong and how to mend it.

use podmint::TrustDomain;
use podmint::check::{Level, check};
use rustls::time_provider::DefaultTimeProvider;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: podmint-check [PATH] [--trust DOMAIN=FILE]...

PATH                 the folder with the credential, or the credential bundle itself
                     (default: where SPIFFE Filesystem Delivery says)
--trust DOMAIN=FILE  the trust bundle of a trust domain; needed where there are several
                     and their names do not say whose they are

Exit code: 0 all is well, 1 it works but look at it, 2 a service could not start
from it, 64 wrong usage.
";

fn main() -> ExitCode {
    let (text, code) = match arguments() {
        Some((path, trust)) => report(path, trust),
        None => (USAGE.into(), 64),
    };
    // Whoever closed standard output still has the exit code.
    std::io::stdout().lock().write_all(text.as_bytes()).ok();
    ExitCode::from(code)
}

type Trust = Vec<(TrustDomain, PathBuf)>;

fn arguments() -> Option<(Option<PathBuf>, Trust)> {
    let (mut path, mut trust) = (None, Vec::new());
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--trust" {
            let pair = arguments.next()?;
            let (domain, file) = pair.to_str()?.split_once('=')?;
            trust.push((domain.parse().ok()?, file.into()));
        } else if path.is_some() || argument.to_string_lossy().starts_with('-') {
            return None;
        } else {
            path = Some(PathBuf::from(argument));
        }
    }
    (path.is_some() || trust.is_empty()).then_some((path, trust))
}

fn report(path: Option<PathBuf>, trust: Trust) -> (String, u8) {
    let Some(provider) = podmint::default_provider() else {
        return ("podmint-check was built without a crypto provider\n".into(), 2);
    };
    let findings = check(path.as_deref(), trust, provider, &DefaultTimeProvider);
    let mut text = String::new();
    for finding in &findings {
        let mark = match finding.level {
            Level::Good => "ok     ",
            Level::Look => "LOOK   ",
            Level::Wrong | _ => "WRONG  ",
        };
        text += &format!("{mark}{}\n", finding.what);
        text.extend(finding.mend.map(|mend| format!("       to mend it: {mend}\n")));
    }
    let worst = findings.iter().map(|finding| finding.level).max();
    let (code, word) = match worst {
        None | Some(Level::Good) => (0, "all is well"),
        Some(Level::Look) => (1, "it works, but look at it"),
        Some(_) => (2, "a service could not start from this"),
    };
    (format!("{text}{word}\n"), code)
}
