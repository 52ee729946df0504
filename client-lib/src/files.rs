//! Reading files of a projected volume from one generation.
//!
//! The kubelet swaps a whole volume by renaming one symbolic link, `..data`. Opening that link once and reading below it gives files that
//! belong together; following the visible paths one by one does not.

use rustix::fs::{Mode, OFlags};
use rustls_pki_types::UnixTime;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// Where a file is: in which folder, and under which name in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The folder that is opened: the volume, or the file's own folder.
    pub folder: PathBuf,
    /// The file's name in the folder, or below the volume's `..data`.
    pub name: PathBuf,
    /// What kind of folder it is.
    pub kind: PlaceKind,
}

/// How a file gets its new contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PlaceKind {
    /// A projected volume: whole generations behind `..data`.
    Volume,
    /// A plain folder, as on a laptop: files are replaced one by one.
    Plain,
    /// A single file mounted with `subPath`: it never changes.
    SubPath,
}

/// What reads the files. [`Disk`] is the real one; tests bring their own to force an order of events.
pub trait FileSource: fmt::Debug + Send + Sync {
    /// Finds out where a file is. It must not fail: what is missing is a plain folder.
    fn locate(&self, path: &Path) -> Place;

    /// Opens a folder, so that what is read from it is of one generation if it has generations.
    ///
    /// # Errors
    /// The folder, or its `..data`, is not there or may not be read.
    fn open(&self, place: &Place) -> io::Result<Box<dyn OpenFolder>>;

    /// Whether inotify can tell of changes in these folders. A source that is no file system says no; the poll is enough.
    fn has_events(&self) -> bool {
        true
    }
}

/// An open folder.
pub trait OpenFolder: fmt::Debug {
    /// Reads a whole file with one open.
    ///
    /// # Errors
    /// It is not there, is larger than `limit` ([`io::ErrorKind::FileTooLarge`]) or changed while it was read
    /// ([`io::ErrorKind::ResourceBusy`]).
    fn read(&self, name: &Path, limit: usize) -> io::Result<Contents>;

    /// When this generation was written, if the folder has generations.
    fn written(&self) -> Option<UnixTime>;

    /// The names of everything in it. Only a [`Source::folder`](crate::Source::folder) asks for it.
    ///
    /// # Errors
    /// It cannot be listed, or this source of files has no lists.
    fn names(&self) -> io::Result<Vec<PathBuf>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A file's bytes. They may be a key, so they are wiped when dropped and never shown.
pub struct Contents {
    bytes: Zeroizing<Vec<u8>>,
    world_readable: bool,
}

impl Contents {
    /// `world_readable`: whether others than owner and group may read the file.
    pub fn new(bytes: Vec<u8>, world_readable: bool) -> Self {
        Self { bytes: Zeroizing::new(bytes), world_readable }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether others than owner and group may read the file.
    pub fn world_readable(&self) -> bool {
        self.world_readable
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, world_readable } = self;
        f.debug_struct("Contents")
            .field("bytes", &format_args!("{} (hidden)", bytes.len()))
            .field("world_readable", world_readable)
            .finish()
    }
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

const DATA: &str = "..data";

/// More than the files of any volume.
const MOST_NAMES: usize = 10_000;

impl FileSource for Disk {
    fn locate(&self, path: &Path) -> Place {
        if let Some(place) = in_volume(path) {
            return place;
        }
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        let name = path.file_name().unwrap_or_default();
        let mounted = std::fs::read_to_string("/proc/self/mountinfo")
            .is_ok_and(|table| std::fs::canonicalize(path).is_ok_and(|path| is_pinned(&table, &path)));
        Place {
            folder: folder.into(),
            name: name.into(),
            kind: if mounted { PlaceKind::SubPath } else { PlaceKind::Plain },
        }
    }

    fn open(&self, place: &Place) -> io::Result<Box<dyn OpenFolder>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&place.folder, flags, Mode::empty())?;
        match place.kind {
            PlaceKind::Volume => {
                let generation = rustix::fs::openat(&folder, DATA, flags, Mode::empty())?;
                let written = rustix::fs::fstat(&generation)?.st_mtime;
                let written = Duration::from_secs(u64::try_from(written).unwrap_or(0));
                Ok(Box::new(OnDisk {
                    folder: generation,
                    written: Some(UnixTime::since_unix_epoch(written)),
                    links: OFlags::NOFOLLOW,
                }))
            }
            PlaceKind::Plain | PlaceKind::SubPath => {
                Ok(Box::new(OnDisk { folder, written: None, links: OFlags::empty() }))
            }
        }
    }
}

/// The volume a path leads into: the folder whose entry on the path is a link below its own `..data`.
fn in_volume(path: &Path) -> Option<Place> {
    path.ancestors()
        .find_map(|entry| {
            let top = entry.file_name()?;
            let link = std::fs::read_link(entry).ok()?;
            let inside = link.strip_prefix(DATA).ok()?;
            let folder = entry.parent()?;
            (inside == Path::new(top)).then(|| Place {
                folder: if folder == Path::new("") { PathBuf::from(".") } else { folder.into() },
                name: Path::new(top).join(path.strip_prefix(entry).unwrap_or(Path::new(""))),
                kind: PlaceKind::Volume,
            })
        })
        .map(|place| Place { name: place.name.components().collect(), ..place })
}

/// Whether a table in the form of `/proc/self/mountinfo` has a mount exactly at this path, or above it one of a folder within a
/// generation of a volume (`..2026_11_28_…`): both stay as they are when the kubelet swaps generations.
fn is_pinned(table: &str, path: &Path) -> bool {
    table.lines().any(|line| {
        let mut fields = line.split(' ').skip(3).map(unescaped);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else { return false };
        let is_generation = || root.split('/').any(|part| part.starts_with(".."));
        OsStr::new(&point) == path.as_os_str() || (path.starts_with(&point) && is_generation())
    })
}

/// The kernel writes blanks, tabs, line ends and backslashes in octal.
fn unescaped(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[derive(Debug)]
struct OnDisk {
    folder: OwnedFd,
    written: Option<UnixTime>,
    links: OFlags,
}

impl OpenFolder for OnDisk {
    fn read(&self, name: &Path, limit: usize) -> io::Result<Contents> {
        // Non-blocking, so that a pipe in the place of a file cannot hold us.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | self.links;
        let file = File::from(rustix::fs::openat(&self.folder, name, flags, Mode::empty())?);
        let about = rustix::fs::fstat(&file)?;
        if !rustix::fs::FileType::from_raw_mode(about.st_mode).is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let size = usize::try_from(about.st_size).unwrap_or(usize::MAX);
        if size > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large"));
        }
        // One byte of room beyond the end lets the read see the end without growing, which would leave a copy behind.
        let room = size.saturating_add(1);
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        file.take(u64::try_from(room).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
        if bytes.len() != size {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "it changed while it was read"));
        }
        Ok(Contents { bytes, world_readable: about.st_mode & 0o004 != 0 })
    }

    fn written(&self) -> Option<UnixTime> {
        self.written
    }

    fn names(&self) -> io::Result<Vec<PathBuf>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.folder, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder)?.take(MOST_NAMES) {
            names.push(PathBuf::from(OsStr::from_bytes(entry?.file_name().to_bytes())));
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn volume() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("..1/deep")).unwrap();
        std::fs::write(root.join("..1/a.pem"), "one").unwrap();
        std::fs::write(root.join("..1/deep/b.pem"), "two").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/a.pem", root.join("a.pem")).unwrap();
        symlink("..data/deep", root.join("deep")).unwrap();
        folder
    }

    #[test]
    fn a_file_of_a_volume_is_found_below_its_data_link() {
        let folder = volume();
        for (path, name) in [("a.pem", "a.pem"), ("deep/b.pem", "deep/b.pem")] {
            let place = Disk.locate(&folder.path().join(path));
            assert_eq!(place.kind, PlaceKind::Volume);
            assert_eq!((place.folder.as_path(), place.name.as_path()), (folder.path(), Path::new(name)));
        }
    }

    #[test]
    fn an_open_generation_outlives_the_swap() {
        let folder = volume();
        let place = Disk.locate(&folder.path().join("a.pem"));
        let pinned = Disk.open(&place).unwrap();
        std::fs::create_dir(folder.path().join("..2")).unwrap();
        std::fs::write(folder.path().join("..2/a.pem"), "three").unwrap();
        symlink("..2", folder.path().join("..data_tmp")).unwrap();
        std::fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
        assert_eq!(pinned.read(&place.name, 10).unwrap().bytes(), b"one");
        assert_eq!(Disk.open(&place).unwrap().read(&place.name, 10).unwrap().bytes(), b"three");
        std::fs::remove_dir_all(folder.path().join("..1")).unwrap();
        assert_eq!(pinned.read(&place.name, 10).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_plain_file_may_be_a_link_but_a_generation_holds_none() {
        let folder = volume();
        symlink("/etc/hostname", folder.path().join("..1/evil")).unwrap();
        symlink("..data/evil", folder.path().join("evil")).unwrap();
        let place = Disk.locate(&folder.path().join("evil"));
        assert!(Disk.open(&place).unwrap().read(&place.name, 1 << 20).is_err());

        std::fs::write(folder.path().join("real"), "x").unwrap();
        symlink("real", folder.path().join("link")).unwrap();
        let place = Disk.locate(&folder.path().join("link"));
        assert_eq!(place.kind, PlaceKind::Plain);
        assert_eq!(Disk.open(&place).unwrap().read(&place.name, 10).unwrap().bytes(), b"x");
    }

    #[test]
    fn size_is_bounded_and_only_files_are_read() {
        let folder = volume();
        let place = Disk.locate(&folder.path().join("a.pem"));
        let open = Disk.open(&place).unwrap();
        assert_eq!(open.read(Path::new("a.pem"), 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(open.read(Path::new("deep"), 2).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_pipe_does_not_hold_the_reader() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let place = Disk.locate(&pipe);
        assert_eq!(Disk.open(&place).unwrap().read(&place.name, 2).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_sub_path_is_a_mount_of_a_file_or_of_a_folder_within_a_generation() {
        let table =
            "36 35 98:0 / /mnt/my\\040app/bundle.pem rw - tmpfs tmpfs rw\n37 35 98:0 / /mnt2 rw - tmpfs tmpfs rw\n";
        assert!(is_pinned(table, Path::new("/mnt/my app/bundle.pem")));
        assert!(is_pinned(table, Path::new("/mnt2")));
        assert!(!is_pinned(table, Path::new("/mnt2/bundle.pem")));
        assert!(!is_pinned("", Path::new("/mnt2")));
        let folder = "38 35 98:0 /..2026_11_28_08_50_00.123/spiffe /run/spiffe ro - tmpfs tmpfs rw\n";
        assert!(is_pinned(folder, Path::new("/run/spiffe/bundle.pem")));
        assert!(!is_pinned(folder, Path::new("/run/spiffes/bundle.pem")));
    }

    #[test]
    fn contents_are_never_shown() {
        let shown = format!("{:?}", Contents::new(b"c2VjcmV0".to_vec(), false));
        assert!(!shown.contains("c2V") && !shown.contains("99"), "{shown}");
    }
}
