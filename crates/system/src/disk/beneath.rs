//! Work in a tree that other users can write: reached by descriptors from its top. No link and no exchange on the way
//! can lead anywhere else. Source: openat(2), fchownat(2), renameat2(2), statx(2).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, StatxAttributes, StatxFlags, Uid, accessat,
    chmod, chownat, fchmod, fchown, fstat, mkdirat, open, openat, renameat, statat, statx, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::disk::Owner;
use crate::error::{Context as _, Failure, Outcome};
use crate::text::quoted_path;

use super::rename::rename_new;

/// How a directory on the way is opened.
const WAY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How a directory is opened that will be read or synced.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How many directories deep a removal goes before it moves deeper entries up.
const DEPTH: usize = 100;

/// Moves an entry of a directory to the directory in which the removal began, under a new name.
type MoveUp<'a> = dyn FnMut(&Directory, &OsStr, OsString) -> Outcome<()> + 'a;

/// A directory that was reached without following a link. Entries are named by one component each.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    shown: PathBuf,
}

/// One entry of a [`Directory`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// Whether it is a real directory.
    pub is_directory: bool,
    /// Why it cannot be renamed, if that is known.
    pub obstacle: Option<Obstacle>,
}

/// The reason why an entry cannot be renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// Something is mounted on it.
    Mount,
    /// It is marked immutable.
    Immutable,
    /// It is marked append-only.
    AppendOnly,
    /// It is a directory of another user, and we are not root and cannot write to it.
    Owner,
}

impl Obstacle {
    /// Returns why the entry cannot be moved.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Mount => "a file system is mounted on it",
            Self::Immutable => "it is marked immutable",
            Self::AppendOnly => "it is marked append-only",
            Self::Owner => "it belongs to another user, who has closed it",
        }
    }

    /// Returns the command that removes the obstacle.
    pub fn cure(self, path: &Path) -> String {
        let name = quoted_path(path);
        match self {
            Self::Mount => format!("umount {name}"),
            Self::Immutable => format!("chattr -i {name}"),
            Self::AppendOnly => format!("chattr -a {name}"),
            Self::Owner => format!("sudo chown -hR {} {name}", Owner::own().uid),
        }
    }
}

impl Directory {
    /// Opens `below` in `top`. Only `top` itself may lead through links.
    ///
    /// # Errors
    /// A part of the way is missing, is a link or is not a directory.
    pub fn open(top: &Path, below: &Path) -> Outcome<Self> {
        let shown = top.join(below);
        let step = || format!("cannot open the directory {}", shown.display());
        let first =
            open(top, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context(step)?;
        let top = Self { fd: first, shown: top.to_path_buf() };
        if below.as_os_str().is_empty() { Ok(top) } else { top.enter(below) }
    }

    /// Opens a directory below this one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn enter(&self, below: &Path) -> Outcome<Self> {
        let shown = self.shown.join(below);
        let step = || format!("cannot open the directory {}", shown.display());
        let names = names_of(below)?;
        let mut fd: Option<OwnedFd> = None;
        for (index, name) in names.iter().enumerate() {
            let flags = if index + 1 == names.len() { READ } else { WAY };
            let from = fd.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            fd = Some(openat(from, *name, flags, Mode::empty()).context(step)?);
        }
        let fd = fd.ok_or_else(|| Failure::new(step()))?;
        Ok(Self { fd, shown })
    }

    /// Opens a directory below this one; creates missing parts of the path, for `owner`, with the permission bits
    /// `mode`.
    ///
    /// # Errors
    /// A part of the way is a link, is not a directory or cannot be created.
    pub fn enter_or_make(&self, below: &Path, mode: u32, owner: Owner) -> Outcome<Self> {
        let step = |shown: &Path| format!("cannot make the directory {}", shown.display());
        let mut shown = self.shown.clone();
        let mut fd: Option<OwnedFd> = None;
        for name in names_of(below)? {
            shown.push(name);
            let from = fd.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let is_new = match mkdirat(from, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(Failure::new(step(&shown)).because(error)),
            };
            let next = openat(from, name, READ, Mode::empty()).context(|| step(&shown))?;
            if is_new {
                if rustix::process::geteuid().is_root() {
                    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
                    fchown(&next, Some(uid), Some(gid)).context(|| step(&shown))?;
                }
                fchmod(&next, Mode::from_raw_mode(mode)).context(|| step(&shown))?;
            }
            fd = Some(next);
        }
        let fd = fd.ok_or_else(|| Failure::new(step(&shown)))?;
        Ok(Self { fd, shown })
    }

    /// Opens the same directory once more.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn again(&self) -> Outcome<Self> {
        let step = || format!("cannot open the directory {}", self.shown.display());
        let fd = openat(&self.fd, ".", READ, Mode::empty()).context(step)?;
        Ok(Self { fd, shown: self.shown.clone() })
    }

    /// Returns the path, for messages.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// Returns a path that leads to the entry `name` of exactly this directory while it is open.
    pub fn reach(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()))
    }

    /// Opens the regular file `name` of this directory to read it. Follows no link and does not wait for a pipe.
    ///
    /// # Errors
    /// As [`super::open_regular`].
    pub fn open_regular(&self, name: &OsStr) -> Outcome<File> {
        super::open_regular(&self.reach_os(name))
    }

    /// Lists the entries, in the order of their names.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn entries(&self) -> Outcome<Vec<Entry>> {
        let mut entries = Vec::new();
        for name in self.names()? {
            entries.extend(self.entry(&name)?);
        }
        Ok(entries)
    }

    /// Lists the names in the directory, sorted.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn names(&self) -> Outcome<Vec<OsString>> {
        let step = || format!("cannot read the directory {}", self.shown.display());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).context(step)? {
            let entry = entry.context(step)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_os_string());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Examines one entry; returns `None` if it does not exist.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn entry(&self, name: &OsStr) -> Outcome<Option<Entry>> {
        let step = || format!("cannot examine {}", self.shown.join(name).display());
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let found = match statx(&self.fd, name, flags, StatxFlags::BASIC_STATS) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(Failure::new(step()).because(error)),
        };
        let has = |attribute| {
            found.stx_attributes_mask.contains(attribute) && found.stx_attributes.contains(attribute)
        };
        let is_directory = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
        let obstacle = if has(StatxAttributes::MOUNT_ROOT) {
            Some(Obstacle::Mount)
        } else if has(StatxAttributes::IMMUTABLE) {
            Some(Obstacle::Immutable)
        } else if has(StatxAttributes::APPEND) {
            Some(Obstacle::AppendOnly)
        } else if is_directory && self.is_closed_to_us(name, found.stx_uid) {
            Some(Obstacle::Owner)
        } else {
            None
        };
        Ok(Some(Entry { name: name.to_os_string(), is_directory, obstacle }))
    }

    /// Moves the entry `name` to `to_name` in `to`, which must not exist. Not durable until both are synced.
    ///
    /// # Errors
    /// `to_name` exists, or the kernel refuses.
    pub fn move_new(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> Outcome<()> {
        self.rename(name, to, to_name, false)
    }

    /// Moves the file `name` over `to_name` in `to`. Not durable until both are synced.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn move_over(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> Outcome<()> {
        self.rename(name, to, to_name, true)
    }

    /// Returns whether a border that no table of mounts shows prevents the move of the directory `name` into `to`. There
    /// `full` must be a directory with content: the kernel refuses to replace it, but reports a border first.
    pub fn has_border(&self, name: &OsStr, to: &Self, full: &OsStr) -> bool {
        renameat(&self.fd, name, &to.fd, full) == Err(Errno::XDEV)
    }

    /// Removes the entry `name` with everything in it. Follows no link and crosses no mount. Not durable until this
    /// directory is synced.
    ///
    /// # Errors
    /// Something in it is a mount point, or the kernel refuses.
    pub fn remove(&self, name: &OsStr) -> Outcome<()> {
        let device = fstat(&self.fd).context(|| format!("cannot examine {}", self.shown.display()))?.st_dev;
        // A tree can have more levels than a process can have descriptors: entries that are too deep are moved up, and
        // removed from here.
        let mut moved_up = vec![name.to_os_string()];
        while let Some(name) = moved_up.pop() {
            self.remove_entry(&name, device, 0, &mut |from, name, free| {
                let step = || format!("cannot move {}", from.shown.join(name).display());
                rename_new(&from.fd, name, &self.fd, free.as_os_str()).context(step)?;
                moved_up.push(free);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn remove_entry(&self, name: &OsStr, device: u64, depth: usize, move_up: &mut MoveUp<'_>) -> Outcome<()> {
        let step = || format!("cannot remove {}", self.shown.join(name).display());
        // Most entries are files. The kernel refuses this for a directory.
        if unlinkat(&self.fd, name, AtFlags::empty()).is_ok() {
            return Ok(());
        }
        let found = match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.context(step)?,
        };
        if kind(&found) != FileType::Directory {
            return unlinkat(&self.fd, name, AtFlags::empty()).context(step);
        }
        let is_mount = self.entry(name)?.is_some_and(|entry| entry.obstacle == Some(Obstacle::Mount));
        if is_mount || found.st_dev != device {
            return Err(Failure::new(step()).because(Failure::new("a file system is mounted there")));
        }
        if depth >= DEPTH {
            return move_up(self, name, OsString::from(format!("removing.{}", found.st_ino)));
        }
        let own = rustix::process::geteuid();
        if !own.is_root() && found.st_mode & 0o700 != 0o700 {
            chmod(self.reach_os(name), Mode::from_raw_mode(0o700)).context(step)?;
        }
        let directory = self.enter(Path::new(name))?;
        for name in directory.names()? {
            directory.remove_entry(&name, device, depth + 1, move_up)?;
        }
        unlinkat(&self.fd, name, AtFlags::REMOVEDIR).context(step)
    }

    fn rename(&self, name: &OsStr, to: &Self, to_name: &OsStr, replaces: bool) -> Outcome<()> {
        let rename = || {
            if replaces {
                renameat(&self.fd, name, &to.fd, to_name)
            } else {
                rename_new(&self.fd, name, &to.fd, to_name)
            }
        };
        match rename() {
            Ok(()) => Ok(()),
            Err(Errno::ACCESS) if self.is_closed_directory(name) => {
                // A directory that its owner cannot write to cannot get another parent, unless root moves it.
                let path = self.reach_os(name);
                let mode =
                    statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_or(0o700, |it| it.st_mode & 0o7777);
                let step = || format!("cannot move {}", self.shown.join(name).display());
                chmod(&path, Mode::from_raw_mode(mode | 0o700)).context(step)?;
                rename().context(step)?;
                chmod(to.reach_os(to_name), Mode::from_raw_mode(mode)).context(step)
            }
            Err(error) => {
                let (from, to) = (self.shown.join(name), to.shown.join(to_name));
                let failure = Failure::new(format!("cannot move {} to {}", from.display(), to.display()));
                let failure = failure.because(error);
                // No later run could move it either.
                Err(if error == Errno::XDEV {
                    failure.command_for("move it by a copy", "mv -T", &[&from, &to])
                } else {
                    failure
                })
            }
        }
    }

    fn reach_os(&self, name: &OsStr) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.fd.as_raw_fd())).join(name)
    }

    /// Returns `true` if `name` is our directory and we cannot write to it. Root can write everywhere.
    fn is_closed_directory(&self, name: &OsStr) -> bool {
        let own = rustix::process::geteuid();
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| {
            !own.is_root()
                && found.st_uid == own.as_raw()
                && kind(&found) == FileType::Directory
                && found.st_mode & 0o200 == 0
        })
    }

    /// Returns `true` if `name` is a directory of another user that we cannot write to. Then its parent cannot be
    /// changed. A read-only view of it is not an obstacle: the kernel examines the permissions first. Source:
    /// access(2).
    fn is_closed_to_us(&self, name: &OsStr, uid: u32) -> bool {
        let own = rustix::process::geteuid();
        !own.is_root()
            && uid != own.as_raw()
            && !matches!(
                accessat(&self.fd, name, Access::WRITE_OK, AtFlags::empty()),
                Ok(()) | Err(Errno::ROFS)
            )
    }

    /// Returns the permission bits of the directory.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mode(&self) -> Outcome<u32> {
        let step = || format!("cannot examine {}", self.shown.display());
        Ok(fstat(&self.fd).context(step)?.st_mode & 0o7777)
    }

    /// Adds permission bits to those of the directory, if they are missing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn grant(&self, bits: u32) -> Outcome<()> {
        let mode = self.mode()?;
        if mode & bits == bits {
            return Ok(());
        }
        let step = || format!("cannot change the mode of {}", self.shown.display());
        fchmod(&self.fd, Mode::from_raw_mode(mode | bits)).context(step)
    }

    /// Makes every change of an entry durable.
    ///
    /// # Errors
    /// The sync fails.
    pub fn sync(&self) -> Outcome<()> {
        rustix::fs::fsync(&self.fd).context(|| format!("cannot sync the directory {}", self.shown.display()))
    }

    /// Makes `owner` the owner of this directory and every entry below it.
    fn give_all(&self, owner: Owner, mount: Mount) -> Outcome<()> {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        for name in self.names()? {
            let path = self.shown.join(&name);
            let step = || format!("cannot give {} to uid {}", path.display(), owner.uid);
            let found = statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW).context(step)?;
            let is_directory = kind(&found) == FileType::Directory;
            if Mount::of(self.fd.as_fd(), &name).context(step)? != mount {
                return Err(Failure::new(step()).because(Failure::new("it is on another file system")));
            }
            if !is_directory && found.st_nlink > 1 {
                return Err(Failure::new(step()).because(Failure::new("it has a second name (hard link)")));
            }
            if is_directory {
                self.enter(Path::new(&name))?.give_all(owner, mount)?;
            } else {
                chownat(&self.fd, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).context(step)?;
            }
        }
        let step = || format!("cannot give {} to uid {}", self.shown.display(), owner.uid);
        fchown(&self.fd, Some(uid), Some(gid)).context(step)
    }
}

/// The mount that an entry is on. On an overlay the device number of a file differs from that of its directory, so the
/// device counts only if the kernel has no number of the mount (before Linux 5.8). Source: statx(2), overlayfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mount {
    Number(u64),
    Device(u64),
}

impl Mount {
    /// Returns the mount of `name` in a directory, or of the descriptor itself if `name` is empty.
    fn of(at: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        match statx(at, name, flags, StatxFlags::MNT_ID) {
            Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => {
                Ok(Self::Number(found.stx_mnt_id))
            }
            Ok(_) | Err(Errno::NOSYS | Errno::PERM) => Ok(Self::Device(statat(at, name, flags)?.st_dev)),
            Err(error) => Err(error),
        }
    }
}

/// Opens the regular file at an absolute path to read it. No part of the path may be a link: a user who can write to a
/// directory on the way must not choose the file that is read.
///
/// # Errors
/// The path leads to something else or through a link, or the kernel refuses.
pub fn open_without_links(path: &Path) -> Outcome<File> {
    let refused = || Failure::new(format!("{} is no absolute path of a file", path.display()));
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(refused)?;
    let parent = parent.strip_prefix("/").map_err(|_| refused())?;
    Directory::open(Path::new("/"), parent)?.open_regular(name)
}

/// The names that a relative path consists of.
fn names_of(path: &Path) -> Outcome<Vec<&OsStr>> {
    path.components()
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(Failure::new(format!("the path {} leaves its directory", path.display()))),
        })
        .collect()
}

/// Makes `owner` the owner of the tree at `top`, which no other user can reach: every entry, never through a link.
///
/// # Errors
/// A file has a second name, an entry is on another file system, or the kernel refuses.
pub fn give_all(top: &Path, owner: Owner) -> Outcome<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let directory = Directory::open(top, Path::new(""))?;
    let mount = Mount::of(directory.fd.as_fd(), OsStr::new(""));
    directory.give_all(owner, mount.context(|| format!("cannot examine {}", top.display()))?)
}

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

#[cfg(test)]
mod tests;
