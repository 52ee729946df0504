//! The keys of the CA are in the signer's memory, and nothing carries that memory away.

use podmint_tests::{Bed, Stage};

/// The shipped binary has no room for a core dump, as the kernel sees it. (That it is not dumpable at all, the kernel shows to nobody
/// but itself: the unit test beside the call asks.)
#[test]
fn the_signer_can_leave_no_core_dump() {
    podmint_tests::run(async {
        let stage = Stage::open(&Bed::embedded().await, "dumps").await;
        let signer = stage.a_signer().start_process().await.ready().await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", signer.process().pid())).unwrap();
        let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
        assert_eq!(signer.terminate(), 0);
    });
}
