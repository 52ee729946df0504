//! A kubelet's AtomicWriter: the files of a volume are replaced all at once, by renaming one symbolic link.
//!
//! ```text
//! <volume>/..2026_09_30_10_00_00.123456789/bundle.pem    the file
//! <volume>/..data       -> ..2026_09_30_10_00_00.123456789
//! <volume>/bundle.pem   -> ..data/bundle.pem
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use crate::clock::{Clock, random_below};

/// One file: what is in it and who may read it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
}

/// Files by their path below the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// How far a write has come: told to an observer after each step, so that a test can look at every state in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The new directory and its files are there; nobody sees them.
    Written,
    /// `..data_tmp` points to it.
    Linked,
    /// It was renamed to `..data`: readers see the new files.
    Swapped,
    /// Links of new files are made, those of files that are gone removed.
    Visible,
    /// The old directory is gone.
    Cleaned,
}

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
const MAX_NAME: usize = 255;

/// Makes the volume hold exactly these files. Says whether anything was written: equal contents are left alone.
///
/// # Errors
/// If a path is bad or the file system refuses; readers then still see the old files.
pub(crate) fn write(volume: &Path, payload: &Payload, mut after: impl FnMut(Step)) -> Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let data = volume.join(DATA);
    let old = match fs::read_link(&data) {
        Ok(old) => Some(volume.join(old)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let removed = old.as_deref().map_or_else(|| Ok(BTreeSet::new()), |old| paths_to_remove(old, payload))?;
    let same = match &old {
        Some(old) => removed.is_empty() && contents_equal(old, payload)?,
        None => false,
    };
    if same {
        // The links are made sure of even so.
        make_links(volume, payload)?;
        return Ok(false);
    }
    let new = new_directory(volume)?;
    write_files(&new, payload)?;
    after(Step::Written);
    swap(volume, &new, &data, &mut after)?;
    make_links(volume, payload)?;
    remove_links(volume, &removed)?;
    after(Step::Visible);
    if let Some(old) = old {
        // At once: whoever still has the real path open by name loses it.
        fs::remove_dir_all(old)?;
    }
    after(Step::Cleaned);
    Ok(true)
}

fn check(path: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::new(ErrorKind::InvalidInput, format!("invalid path: {why}: {path}")));
    if path.is_empty() {
        return bad("must not be empty");
    }
    if path.starts_with('/') {
        return bad("must be relative path");
    }
    if path.split('/').any(|part| part == "..") {
        return bad("must not contain '..'");
    }
    if path.split('/').any(|part| part.len() > MAX_NAME) {
        return bad("filenames must be less than or equal to 255 characters");
    }
    if path.starts_with("..") {
        return bad("must not start with '..'");
    }
    Ok(())
}

/// What the old directory has and the payload has not: files, and folders that are in no path any more.
fn paths_to_remove(old: &Path, payload: &Payload) -> Result<BTreeSet<PathBuf>> {
    let mut wanted = BTreeSet::new();
    for path in payload.keys() {
        wanted.extend(Path::new(path).ancestors().map(Path::to_path_buf));
    }
    let mut gone = BTreeSet::new();
    collect(old, Path::new(""), &mut gone)?;
    gone.retain(|path| !wanted.contains(path));
    Ok(gone)
}

fn collect(root: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, found)?;
        }
        found.insert(path);
    }
    Ok(())
}

/// Contents only: a changed mode is not noticed, as a kubelet does not.
fn contents_equal(old: &Path, payload: &Payload) -> Result<bool> {
    for (path, file) in payload {
        match fs::read(old.join(path)) {
            Ok(bytes) if bytes == file.bytes => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// A directory named after the time, to the second, and some digits that make it new.
fn new_directory(volume: &Path) -> Result<PathBuf> {
    let time = Clock::default().now().strftime("..%Y_%m_%d_%H_%M_%S.").to_string();
    loop {
        let path = volume.join(format!("{time}{}", random_below(1_000_000_000)));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                return Ok(path);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_files(directory: &Path, payload: &Payload) -> Result<()> {
    use std::io::Write as _;
    for (path, file) in payload {
        let full = directory.join(path);
        if let Some(parent) = full.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(file.mode).open(&full)?;
        out.write_all(&file.bytes)?;
        // Again, because the process' umask took some bits away.
        out.set_permissions(fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// The one moment in which readers pass from the old files to the new.
fn swap(volume: &Path, new: &Path, data: &Path, after: &mut impl FnMut(Step)) -> Result<()> {
    let link = volume.join(NEW_DATA);
    let target = new.file_name().map(PathBuf::from).unwrap_or_default();
    symlink(target, &link).inspect_err(|_| discard(new))?;
    after(Step::Linked);
    fs::rename(&link, data).inspect_err(|_| {
        if let Err(error) = fs::remove_file(&link) {
            tracing::warn!(%error, "a link was left behind");
        }
        discard(new);
    })?;
    after(Step::Swapped);
    Ok(())
}

fn discard(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        tracing::warn!(%error, "a directory was left behind");
    }
}

/// Only the first element of a path is linked.
fn make_links(volume: &Path, payload: &Payload) -> Result<()> {
    for path in payload.keys() {
        let Some(first) = path.split('/').next() else { continue };
        let link = volume.join(first);
        match fs::read_link(&link) {
            Err(error) if error.kind() == ErrorKind::NotFound => symlink(Path::new(DATA).join(first), link)?,
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(())
}

fn remove_links(volume: &Path, removed: &BTreeSet<PathBuf>) -> Result<()> {
    let top = removed
        .iter()
        .filter(|path| path.components().filter(|part| matches!(part, Component::Normal(_))).count() == 1);
    for path in top {
        fs::remove_file(volume.join(path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(all: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { bytes: text.as_bytes().to_vec(), mode: 0o600 };
        all.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    fn names(volume: &Path) -> Vec<String> {
        let mut all: Vec<String> =
            fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    fn stamped(volume: &Path) -> usize {
        names(volume).iter().filter(|name| name.starts_with("..2")).count()
    }

    fn quiet(volume: &Path, payload: &Payload) -> bool {
        write(volume, payload, |_| ()).unwrap()
    }

    #[test]
    fn readers_see_old_files_until_the_rename_and_new_ones_after() {
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path();
        assert!(quiet(root, &files(&[("a", "old"), ("b", "old")])));
        let mut seen = Vec::new();
        let written = write(root, &files(&[("a", "new"), ("b", "new")]), |step| {
            let both = ["a", "b"].map(|name| fs::read_to_string(root.join(name)).unwrap());
            seen.push((step, both, stamped(root), root.join("..data_tmp").is_symlink()));
        });
        assert!(written.unwrap());
        let old = || ["old", "old"].map(str::to_owned);
        let new = || ["new", "new"].map(str::to_owned);
        let expected = vec![
            (Step::Written, old(), 2, false),
            (Step::Linked, old(), 2, true),
            (Step::Swapped, new(), 2, false),
            (Step::Visible, new(), 2, false),
            (Step::Cleaned, new(), 1, false),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_layout_is_a_kubelets() {
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path();
        quiet(root, &files(&[("bundle.pem", "x"), ("deep/er/file", "y")]));
        let target = |name: &str| fs::read_link(root.join(name)).unwrap().into_os_string().into_string().unwrap();
        assert_eq!(target("bundle.pem"), "..data/bundle.pem");
        assert_eq!(target("deep"), "..data/deep");
        assert!(target("..data").starts_with("..2") && !target("..data").contains('/'));
        let mode = |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("..data"), mode("bundle.pem"), mode("deep/er/file")), (0o755, 0o600, 0o600));
        assert_eq!(names(root).len(), 4);
    }

    #[test]
    fn equal_contents_are_not_written_and_a_lost_link_comes_back() {
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path();
        quiet(root, &files(&[("a", "x")]));
        let before = fs::read_link(root.join("..data")).unwrap();
        fs::remove_file(root.join("a")).unwrap();
        let mut same = files(&[("a", "x")]);
        same.get_mut("a").unwrap().mode = 0o644;
        assert!(!quiet(root, &same));
        assert_eq!(fs::read_link(root.join("..data")).unwrap(), before);
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "x");
        assert_eq!(fs::metadata(root.join("a")).unwrap().permissions().mode() & 0o777, 0o600, "modes are not compared");
    }

    #[test]
    fn a_file_that_is_no_longer_wanted_goes_with_its_link() {
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path();
        quiet(root, &files(&[("a", "x"), ("deep/b", "y")]));
        assert!(quiet(root, &files(&[("a", "x")])), "the contents that are left are equal, but something is gone");
        assert_eq!(names(root).iter().filter(|name| !name.starts_with("..")).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let volume = tempfile::tempdir().unwrap();
        let long = "x".repeat(256);
        for bad in ["", "/a", "../a", "a/../b", "..a", long.as_str()] {
            assert!(write(volume.path(), &files(&[(bad, "x")]), |_| ()).is_err(), "{bad}");
        }
        assert!(names(volume.path()).is_empty());
    }

    #[test]
    fn a_failed_swap_leaves_the_old_files_and_no_rubbish() {
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path();
        quiet(root, &files(&[("a", "old")]));
        fs::write(root.join("..data_tmp"), "in the way").unwrap();
        assert!(write(root, &files(&[("a", "new")]), |_| ()).is_err());
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "old");
        assert_eq!(stamped(root), 1);
    }
}
