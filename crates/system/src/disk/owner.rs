//! Owners of files: a user and a group. It reads `/etc/passwd` and the owners of files.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Failure, Outcome};

/// The user and group that own files, and as which work on them is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

impl Owner {
    /// Returns the owner of a file or directory (of a link itself, not of its target).
    ///
    /// # Errors
    /// `path` does not exist, or cannot be examined.
    pub fn of(path: &Path) -> Outcome<Self> {
        Self::of_existing(path)?.ok_or_else(|| Failure::new(format!("{} does not exist", path.display())))
    }

    /// Returns the owner of a file or directory; `None` if it does not exist.
    ///
    /// # Errors
    /// It cannot be read, or its parent is not a directory.
    pub fn of_existing(path: &Path) -> Outcome<Option<Self>> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            found => {
                let found = found.context(|| format!("cannot read {}", path.display()))?;
                Ok(Some(Self { uid: found.uid(), gid: found.gid() }))
            }
        }
    }

    /// Returns the user's name, from `/etc/passwd` (passwd(5)); `None` if the user has none there.
    pub fn name(self) -> Option<String> {
        let text = fs::read("/etc/passwd").ok()?;
        String::from_utf8_lossy(&text).lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, uid) = (fields.next()?, fields.nth(1)?);
            (uid.parse() == Ok(self.uid)).then(|| name.to_owned())
        })
    }

    /// Finds a user by name in `/etc/passwd` (passwd(5)); `None` if no user has the name.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn named(name: &str) -> Outcome<Option<Self>> {
        let text = fs::read("/etc/passwd").context(|| "cannot read /etc/passwd".to_owned())?;
        Ok(parse_passwd(&String::from_utf8_lossy(&text), name))
    }

    /// Returns the user that this process runs as.
    pub fn own() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// Returns whether work can be done as this owner: we are this user, or root.
    pub fn can_be_assumed(self) -> bool {
        let own = rustix::process::geteuid();
        own.is_root() || own.as_raw() == self.uid
    }
}

fn parse_passwd(text: &str, name: &str) -> Option<Owner> {
    let line = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line[0] == name)?;
    Some(Owner { uid: line.get(2)?.parse().ok()?, gid: line.get(3)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_complete_name() {
        let text = "root:x:0:0:root:/root:/bin/sh\nladylinux:x:998:997::/nonexistent:/usr/sbin/nologin\n";
        assert_eq!(parse_passwd(text, "ladylinux"), Some(Owner { uid: 998, gid: 997 }));
        assert_eq!(parse_passwd(text, "lady"), None);
    }
}
