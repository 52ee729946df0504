//! What every story ends with: not one status that the signer wrote was refused by validation. On a real server this is the
//! server's own record, on devcluster its count; the signer's word is only compared with it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use crate::server::StatusWrite;
use crate::{Stage, assets};

/// Checks it for the signer of this story, and adds the figures to the file that `tests/run` sums up.
///
/// # Panics
/// When a write was refused as invalid.
pub fn no_status_was_rejected(stage: &Stage) {
    let (written, invalid) = match (stage.bed.server(), stage.bed.devcluster()) {
        (Some(server), _) => {
            let writes = server.status_writes(&stage.signer_account.user_name());
            (
                writes.len().try_into().expect("a count"),
                writes.into_iter().filter(is_invalid).map(|write| format!("{write:?}")).collect(),
            )
        }
        (None, Some(cluster)) => {
            let status = "podcertificaterequests/status";
            let refused = cluster.faults().refused(status, 422);
            let told = (refused > 0).then(|| format!("devcluster refused {refused}"));
            (cluster.faults().calls(podmint_devcluster::Verb::Update, status), Vec::from_iter(told))
        }
        (None, None) => panic!("a bed is one or the other"),
    };
    note(stage, written, invalid.len());
    assert!(invalid.is_empty(), "status writes of the signer were rejected by validation: {invalid:?}");
}

/// The right to sign is judged at the same place as the status' form, and a lost race is refused as a change of what is final.
/// Neither says that the signer wrote nonsense.
fn is_invalid(write: &StatusWrite) -> bool {
    let other_cause = write.message.contains("not permitted to \"sign\"") || write.message.contains("immutable");
    write.code == 422 && !other_cause
}

fn note(stage: &Stage, written: u64, invalid: usize) {
    let Some(path) = assets::tally_file() else { return };
    add(&path, &format!("{} {written} {invalid}\n", stage.namespace));
}

/// In one write: other stories add to the same file meanwhile, and what is written in pieces ends within their lines.
fn add(path: &Path, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the tally can be written");
    let written = file.write(line.as_bytes()).expect("the tally can be written");
    assert_eq!(written, line.len(), "a line of the tally was cut short");
}

#[cfg(test)]
mod tests {
    use super::add;

    #[test]
    fn lines_written_at_one_time_stay_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tally");
        std::thread::scope(|threads| {
            for story in 0..8 {
                let path = &path;
                threads.spawn(move || (0..500).for_each(|_| add(path, &format!("story-{story} 12345 0\n"))));
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4000);
        for line in text.lines() {
            let [story, "12345", "0"] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("a torn line: {line:?}")
            };
            assert!(story.starts_with("story-") && story.len() == 7, "a torn line: {line:?}");
        }
    }
}
