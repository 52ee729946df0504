//! The API server's view of the hostile requests: a run in which it refused them all shows nothing of the signer.

/// What became of all requests of one kind when they were sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// What is wrong with them.
    pub kind: &'static str,
    /// Whether the API server has to take some of them.
    pub passes: bool,
    /// Those that it took.
    pub admitted: usize,
    /// Those that it did not.
    pub refused: usize,
}

pub(super) fn check(all: &[Sent], wrong: &mut Vec<String>) {
    for Sent { kind, passes, admitted, refused } in all {
        if *passes && *admitted == 0 {
            wrong.push(format!("no {kind} came as far as the signer: {refused} were refused before"));
        }
    }
}
