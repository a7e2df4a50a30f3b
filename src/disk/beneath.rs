//! Changing whose something is in a tree that somebody else can write: reached by descriptors from its top, so that no
//! link and no exchange on the way leads anywhere else. Source: openat(2), fchownat(2).

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, chmod, chownat, fstat, open, openat};

use crate::error::{Context as _, Failure, Outcome};
use crate::process::Owner;

/// Gives one entry of the tree at `top` (the top itself where `below` is empty) to `owner`: the entry alone, nothing in
/// it. A folder is also made one that its owner can work in.
///
/// # Errors
/// A part of the way is a link or lies on another file system, or the entry is a file with a second name somewhere.
pub fn give(top: &Path, below: &Path, owner: Owner) -> Outcome<()> {
    let path = top.join(below);
    let told = || format!("cannot give {} to uid {}", path.display(), owner.uid);
    let refused = |why: &str| Err(Failure::new(told()).because(Failure::new(why.to_owned())));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut entry: OwnedFd = open(top, flags, Mode::empty()).context(told)?;
    let mut found = fstat(&entry).context(told)?;
    let device = found.st_dev;
    for part in below.components() {
        let Component::Normal(name) = part else { return refused("its path leaves the tree") };
        if kind(&found) != FileType::Directory {
            return refused("a part of its path is no folder");
        }
        entry = openat(&entry, name, flags, Mode::empty()).context(told)?;
        found = fstat(&entry).context(told)?;
        if found.st_dev != device {
            return refused("it lies on another file system");
        }
    }
    let is_folder = kind(&found) == FileType::Directory;
    if !is_folder && found.st_nlink > 1 {
        return Err(Failure::new(told())
            .because(Failure::new(format!(
                "it has {} names (hard links), and what the others are for cannot be told",
                found.st_nlink
            )))
            .hint(format!("find / -xdev -inum {} 2>/dev/null", found.st_ino)));
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    chownat(&entry, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).context(told)?;
    if is_folder && found.st_mode & 0o700 != 0o700 {
        let mode = Mode::from_raw_mode(found.st_mode & 0o7777 | 0o700);
        // A descriptor of this kind has no fchmod; its name below /proc leads to the very folder.
        chmod(format!("/proc/self/fd/{}", entry.as_raw_fd()), mode).context(told)?;
    }
    Ok(())
}

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    use crate::disk;

    const OTHER: Owner = Owner { uid: 61_874, gid: 61_875 };

    /// Tells whether files can be given away here; what is left out is said past the test runner.
    fn as_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"LEFT OUT: needs root\n");
        }
        root
    }

    #[test]
    fn one_entry_is_given_and_neither_what_is_in_it_nor_where_a_link_leads() {
        if !as_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        disk::make_folder(&top.join("a/b"), 0o755).unwrap();
        disk::write_atomic(&place.path().join("kept"), b"x", 0o600).unwrap();
        disk::point_link(&top.join("a/link"), &place.path().join("kept")).unwrap();
        disk::point_link(&top.join("out"), place.path()).unwrap();
        disk::set_mode(&top.join("a"), 0o555).unwrap();
        give(&top, Path::new("a"), OTHER).unwrap();
        let owner = |path: &str| Owner::of(&top.join(path)).unwrap();
        assert_eq!(owner("a"), OTHER);
        assert_eq!(top.join("a").metadata().unwrap().mode() & 0o7777, 0o755);
        assert_eq!(owner("a/b").uid, 0, "what is in it was given too");
        give(&top, Path::new("a/link"), OTHER).unwrap();
        assert_eq!(owner("a/link"), OTHER);
        assert_eq!(owner("../kept").uid, 0, "a link was followed");
        let told = |below: &str| give(&top, Path::new(below), OTHER).unwrap_err().chain().join(": ");
        assert!(told("out/kept").contains("no folder"));
        assert!(told("a/../../kept").contains("leaves the tree"));
        assert_eq!(owner("../kept").uid, 0);
        give(&top, Path::new(""), OTHER).unwrap();
        assert_eq!(owner(""), OTHER);
    }

    #[test]
    fn a_file_with_a_second_name_is_refused() {
        if !as_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        disk::write_atomic(&place.path().join("one"), b"x", 0o600).unwrap();
        disk::link_new(&place.path().join("one"), &place.path().join("two")).unwrap();
        let told = give(place.path(), Path::new("two"), OTHER).unwrap_err();
        assert!(told.chain().join(": ").contains("2 names"));
        assert_eq!(Owner::of(&place.path().join("one")).unwrap().uid, 0);
    }
}
