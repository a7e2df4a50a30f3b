//! The files of a machine, read and written from outside. Links are followed as inside the machine: never out of it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// A root directory, held open.
pub(super) struct Root(File);

impl Root {
    pub(super) fn open(path: &Path) -> Self {
        Self(File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// Reads an entire file; `None` if it does not exist.
    pub(super) fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let mut file = self.file(path, OFlags::RDONLY, 0).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Some(bytes)
    }

    /// Writes a file of root, with the directories above it.
    pub(super) fn write(&self, path: &Path, bytes: &[u8], mode: u32) {
        self.make_directories(path.parent().unwrap());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mut file =
            self.file(path, flags, mode).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        file.write_all(bytes).unwrap();
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).unwrap();
    }

    fn make_directories(&self, path: &Path) {
        let mut above = PathBuf::from("/");
        for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
            let directory = self.file(&above, OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
            // An existing one is as good as a new one.
            let _ = rustix::fs::mkdirat(&directory, part.as_os_str(), Mode::from_raw_mode(0o755));
            above.push(part);
        }
    }

    fn file(&self, path: &Path, flags: OFlags, mode: u32) -> rustix::io::Result<File> {
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, mode, ResolveFlags::IN_ROOT)
            .map(File::from)
    }
}
