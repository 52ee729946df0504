//! Where the programs are that the stories run: Kubernetes' own and ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// The versions of `tests/kube/versions`, newest first.
pub const VERSIONS: [&str; 3] = ["1.37.2", "1.36.3", "1.35.4"];

/// The folder with `etcd` and `kube-apiserver` of this version: `KUBEBUILDER_ASSETS` if that is what it holds, else built from Go modules.
pub fn kubernetes(version: &str) -> PathBuf {
    if let Some(brought) = brought()
        && minor_of(&brought).is_some_and(|found| version.starts_with(&found))
    {
        return brought;
    }
    build(version, &[])
}

/// The folder with `kubectl`, of the newest version: brought or built.
pub fn kubectl() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| match brought() {
        Some(brought) if brought.join("kubectl").exists() => brought,
        Some(_) | None => build(VERSIONS[0], &["kubectl"]),
    });
    folder.clone()
}

/// A Go program of `tests/kube`.
pub fn go_program(name: &str) -> PathBuf {
    build(VERSIONS[0], &[name]).join(name)
}

/// Builds components of Kubernetes from Go modules, unless they are there. Without a word, etcd and kube-apiserver.
fn build(version: &str, components: &[&str]) -> PathBuf {
    // One build at a time, and the second caller finds it done.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut command = Command::new(root().join("tests/kube/build"));
    let built = command.arg(version).args(components).stderr(Stdio::inherit()).output();
    let built = built.expect("tests/kube/build can be started");
    assert!(built.status.success(), "tests/kube/build {version} failed: see its words above");
    PathBuf::from(String::from_utf8_lossy(&built.stdout).trim())
}

/// One of our own binaries, built as this process was. Cargo knows whether there is anything to do.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let built = cargo().args(["build", "--quiet", "--release", "--workspace", "--bins"]).status();
        assert!(
            built.expect("cargo can be started").success(),
            "cargo build --release --workspace --bins failed: see its words above"
        );
        target().join("release")
    });
    folder.join(name)
}

/// Cargo, to build as it built this process.
pub fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root()).env("CARGO_TARGET_DIR", target());
    for name in OF_THIS_PACKAGE {
        cargo.env_remove(name);
    }
    cargo
}

/// What cargo tells a test of the package that it belongs to. ring's build script asks for it: handed on, ring and all that stands on
/// it would be compiled anew, and once more by the next cargo that is started without it.
const OF_THIS_PACKAGE: [&str; 7] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PKG_NAME",
    "CARGO_PKG_VERSION_MAJOR",
    "CARGO_PKG_VERSION_MINOR",
    "CARGO_PKG_VERSION_PATCH",
    "CARGO_PKG_VERSION_PRE",
];

/// The clone.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the clone")
}

/// The target directory of this very run: `…/target/release/deps/it-…` or `…/target/release/bench`.
pub fn target() -> PathBuf {
    let this = std::env::current_exe().expect("a process knows its file");
    let release = this.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "release"));
    release.and_then(Path::parent).expect("the stories are built with --release").to_owned()
}

fn brought() -> Option<PathBuf> {
    from_environment("KUBEBUILDER_ASSETS")
}

/// Where `tests/run` wants the figures of each story.
pub(crate) fn tally_file() -> Option<PathBuf> {
    from_environment("PODMINT_TALLY")
}

/// What to log of the signers in this process, as `RUST_LOG` says it elsewhere: for whoever looks into a story that fails.
pub(crate) fn log_filter() -> Option<String> {
    from_environment("PODMINT_LOG").map(|filter| filter.display().to_string())
}

#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads the environment")]
fn from_environment(name: &str) -> Option<PathBuf> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// "1.37." of "Kubernetes v1.37.2".
fn minor_of(folder: &Path) -> Option<String> {
    let said = Command::new(folder.join("kube-apiserver")).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = said.trim().strip_prefix("Kubernetes v")?;
    let (minor, _patch) = version.rsplit_once('.')?;
    Some(format!("{minor}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_are_those_of_the_list() {
        let list = std::fs::read_to_string(root().join("tests/kube/versions")).unwrap();
        let listed: Vec<&str> = list.lines().filter(|line| line.starts_with("1.")).collect();
        assert_eq!(listed, VERSIONS);
    }
}
