//! Programs of our own in Go, built by `tests/kube/build` into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The path of a program, built now if it has to be.
pub(crate) fn program(name: &str) -> PathBuf {
    let kube = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/kube");
    let versions = std::fs::read_to_string(kube.join("versions")).unwrap();
    let newest = versions.lines().find(|line| line.starts_with("1.")).unwrap();
    let built = Command::new(kube.join("build")).args([newest, name]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Path::new(String::from_utf8(built.stdout).unwrap().trim()).join(name)
}
