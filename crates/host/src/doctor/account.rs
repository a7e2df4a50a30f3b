//! The paths that a user may read, enter and change: the rights from modes and owners. Access control lists are not
//! read.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::Outcome;

/// A user with all its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    groups: Vec<u32>,
}

impl Account {
    /// Reads the groups of `owner` (passwd(5), group(5)).
    ///
    /// # Errors
    /// One of the files exists and cannot be read.
    pub(super) fn of(owner: Owner, layout: &Layout) -> Outcome<Self> {
        let read = |path: PathBuf| -> Outcome<String> {
            Ok(String::from_utf8_lossy(&disk::read_if_there(&path)?.unwrap_or_default()).into_owned())
        };
        let [passwd, group] = layout.accounts();
        Ok(Self::parse(owner, &read(passwd)?, &read(group)?))
    }

    fn parse(owner: Owner, passwd: &str, group: &str) -> Self {
        let field = |line: &str, at: usize| line.split(':').nth(at).unwrap_or_default().to_owned();
        let names: Vec<String> = passwd
            .lines()
            .filter(|line| field(line, 2).parse() == Ok(owner.uid))
            .map(|line| field(line, 0))
            .collect();
        let has_user =
            |line: &&str| field(line, 3).split(',').any(|member| names.iter().any(|it| it == member));
        let mut groups = vec![owner.gid];
        groups.extend(group.lines().filter(has_user).filter_map(|line| field(line, 2).parse::<u32>().ok()));
        Self { uid: owner.uid, groups }
    }

    /// Returns whether the permission bits grant all of `bits` (4 read, 2 write, 1 execute).
    pub(super) fn may(&self, found: &Metadata, bits: u32) -> bool {
        let mode = found.mode();
        let granted = if self.uid == 0 {
            return true;
        } else if found.uid() == self.uid {
            mode >> 6
        } else if self.groups.contains(&found.gid()) {
            mode >> 3
        } else {
            mode
        };
        granted & bits == bits
    }

    /// Returns whether the user may traverse a directory.
    pub(super) fn may_enter(&self, directory: &Path) -> bool {
        fs::metadata(directory).is_ok_and(|found| self.may(&found, 0o1))
    }

    /// Returns the part of a path with which the user can replace the target of the path; `None` if there is none.
    pub(super) fn replaceable_part(&self, path: &Path) -> Option<PathBuf> {
        let mut inner = path.to_path_buf();
        if fs::metadata(path).is_ok_and(|found| self.may_change(&found)) {
            return Some(inner);
        }
        for directory in path.ancestors().skip(1) {
            if let Ok(found) = fs::metadata(directory) {
                let is_sticky = found.mode() & 0o1000 != 0;
                let is_foreign = fs::symlink_metadata(&inner)
                    .is_ok_and(|it| it.uid() != self.uid && found.uid() != self.uid);
                if self.may_change(&found) && !(is_sticky && is_foreign) {
                    return Some(directory.to_path_buf());
                }
            }
            directory.clone_into(&mut inner);
        }
        let real = path.canonicalize().ok().filter(|real| real != path)?;
        self.replaceable_part(&real)
    }

    /// Returns whether the user can write a file or directory, or get the permission to write it.
    fn may_change(&self, found: &Metadata) -> bool {
        found.uid() == self.uid || self.may(found, 0o2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_from_both_files() {
        let account = Account::parse(
            Owner { uid: 998, gid: 997 },
            "root:x:0:0::/:/bin/sh\nladylinux:x:998:997::/:/usr/sbin/nologin\n",
            "lady:x:997:\nvideo:x:44:a,ladylinux\nother:x:45:lady\n",
        );
        assert_eq!(account, Account { uid: 998, groups: vec![997, 44] });
    }

    #[test]
    fn a_file_can_be_replaced_through_every_part_of_its_path() {
        let root = tempfile::tempdir().unwrap();
        let (open, closed) = (root.path().join("open"), root.path().join("closed"));
        for directory in [&open, &closed] {
            disk::make_directory(directory, 0o755).unwrap();
            disk::write_atomic(&directory.join("x"), b"", 0o755).unwrap();
        }
        disk::set_mode(root.path(), 0o755).unwrap();
        // A user who owns nothing here.
        let stranger = Account { uid: 61_900, groups: vec![61_900] };
        assert_eq!(stranger.replaceable_part(&closed.join("x")), None);
        disk::set_mode(&open, 0o777).unwrap();
        assert_eq!(stranger.replaceable_part(&open.join("x")), Some(open.clone()));
        disk::set_mode(&open, 0o1777).unwrap();
        assert_eq!(
            stranger.replaceable_part(&open.join("x")),
            None,
            "files of others in a sticky directory stay"
        );
        disk::set_mode(&open, 0o777).unwrap();
        disk::point_link(&closed.join("link"), &open.join("x")).unwrap();
        assert_eq!(stranger.replaceable_part(&closed.join("link")), Some(open.clone()));
    }
}
