//! What the doctor says: findings, what was not seen, and how the command ends.

use std::{error::Error, fmt};

use serde_json::{Value, json};

use crate::{
    chain::Chain,
    kubectl::shown::{Shown, plain},
};

/// What came out.
#[derive(Debug)]
pub struct Report {
    /// What was looked at, in a few words.
    pub looked_at: String,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// One word for machines, the same in every version.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub place: String,
    /// What is wrong, and what comes of it.
    pub what: String,
    /// What mends it.
    pub mend: Mend,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Pods do not get certificates, or others get theirs.
    Breaks,
    /// It works, and will not for ever, or is less safe than it looks.
    Risk,
    /// Worth knowing.
    Note,
}

/// What mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mend {
    /// A command for a shell.
    Run(String),
    /// Flags for a component of the control plane, in addition to what they hold now.
    Flags {
        /// The component.
        component: &'static str,
        /// The flags.
        flags: Vec<String>,
    },
    /// What no command on this machine can do.
    Do(String),
}

/// What could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
    /// Whether it is for want of rights.
    pub for_want_of_rights: bool,
}

impl Unseen {
    pub(super) fn by(what: &str, error: &(dyn Error + 'static), for_want_of_rights: bool) -> Self {
        Self { what: what.to_owned(), why: Chain(error).to_string(), for_want_of_rights }
    }
}

/// The exit status when nothing that was seen is broken but something was not seen.
pub const COULD_NOT_LOOK: u8 = 2;

impl Shown for Report {
    fn text(&self, _wide: bool) -> String {
        self.to_string()
    }

    /// 0: nothing is broken. 1: something is. 2: nothing that was seen is, but something was not seen.
    fn exit_status(&self) -> u8 {
        if self.findings.iter().any(|finding| finding.severity == Severity::Breaks) {
            1
        } else if self.unseen.is_empty() {
            0
        } else {
            COULD_NOT_LOOK
        }
    }

    fn to_json(&self) -> Value {
        let Self { looked_at, findings, unseen } = self;
        json!({
            "lookedAt": looked_at,
            "findings": findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
            "unseen": unseen.iter().map(|Unseen { what, why, for_want_of_rights }| {
                json!({"what": what, "why": why, "forWantOfRights": for_want_of_rights})
            }).collect::<Vec<_>>(),
        })
    }
}

impl Finding {
    fn to_json(&self) -> Value {
        let Self { id, severity, place, what, mend } = self;
        let mend = match mend {
            Mend::Run(command) => json!({"run": command}),
            Mend::Flags { component, flags } => json!({"component": component, "flags": flags}),
            Mend::Do(words) => json!({"do": words}),
        };
        json!({"id": id, "severity": severity.word(), "place": place, "what": what, "mend": mend})
    }
}

impl Severity {
    const fn word(self) -> &'static str {
        match self {
            Self::Breaks => "breaks",
            Self::Risk => "risk",
            Self::Note => "note",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { looked_at, findings, unseen } = self;
        for finding in findings {
            writeln!(out, "{finding}\n")?;
        }
        for Unseen { what, why, for_want_of_rights } in unseen {
            let rights = if *for_want_of_rights { " for want of rights" } else { "" };
            writeln!(out, "NOT SEEN{rights}: {}\n  {}\n", plain(what), plain(why))?;
        }
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        writeln!(
            out,
            "Looked at {}: {} broken, {} at risk, {} to note, {} not seen.",
            plain(looked_at),
            count(Severity::Breaks),
            count(Severity::Risk),
            count(Severity::Note),
            unseen.len(),
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, severity, place, what, mend } = self;
        let word = severity.word().to_uppercase();
        writeln!(out, "{word}: {id}: {}\n  {}", plain(place), plain(what))?;
        match mend {
            Mend::Run(command) => write!(out, "  run: {}", plain(command)),
            Mend::Flags { component, flags } => write!(out, "  start {component} with: {}", plain(&flags.join(" "))),
            Mend::Do(words) => write!(out, "  do: {}", plain(words)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity) -> Finding {
        let mend = Mend::Run("kubectl version".to_owned());
        Finding { id: "x", severity, place: "cluster".to_owned(), what: "\u{1b}[2J is not so".to_owned(), mend }
    }

    fn report(severities: &[Severity], unseen: usize) -> Report {
        let one = Unseen { what: "pods".to_owned(), why: "forbidden".to_owned(), for_want_of_rights: true };
        Report {
            looked_at: "v1.37.2".to_owned(),
            findings: severities.iter().copied().map(finding).collect(),
            unseen: vec![one; unseen],
        }
    }

    #[test]
    fn the_exit_status_tells_broken_from_not_seen_from_fine() {
        assert_eq!(report(&[], 0).exit_status(), 0);
        assert_eq!(report(&[Severity::Risk, Severity::Note], 0).exit_status(), 0);
        assert_eq!(report(&[Severity::Risk], 1).exit_status(), 2);
        assert_eq!(report(&[Severity::Note, Severity::Breaks], 1).exit_status(), 1);
    }

    #[test]
    fn what_was_not_seen_is_said() {
        let said = report(&[], 1).to_string();
        assert!(said.contains("NOT SEEN for want of rights: pods\n  forbidden"), "{said}");
        assert_eq!(report(&[], 1).to_json()["unseen"][0]["forWantOfRights"], true);
    }

    #[test]
    fn a_pod_cannot_write_on_the_terminal() {
        let said = report(&[Severity::Breaks], 0).to_string();
        assert!(said.contains("[2J is not so") && !said.contains('\u{1b}'), "{said}");
    }
}
