//! Protects the configuration that git reads in the tool's own directories: it is checked, and restored, before git
//! reads it.
//!
//! A repository's configuration can name programs (`url.ext::….insteadOf`) and lead git to other configurations. So the
//! mirror has one configuration, with known bytes, and no reference to other ones. This module may touch the mirror's
//! configuration, the entries of [`FOREIGN`], and nothing else.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use refresh_settings::users;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::text::quoted;

/// Entries that the tool's own repositories never have, and that git would use: other configurations, other objects,
/// programs.
const FOREIGN: [&str; 6] = [
    "config.worktree",
    "commondir",
    "hooks",
    "objects/info/alternates",
    "objects/info/http-alternates",
    "info/grafts",
];

/// Checks that one of the tool's own bare repositories belongs to this user or root. Writes `configuration` if the
/// repository has another one, and removes the entries of [`FOREIGN`]. Does nothing if the repository does not exist. A
/// user other than the owner can read it unchanged: only the owner can change it.
///
/// # Errors
/// The directory or its configuration is a link, belongs to other users or can be changed by them; or the configuration
/// cannot be written.
pub(super) fn restore_configuration(git_dir: &Path, configuration: &str) -> Outcome<()> {
    let Some(found) = check_own(git_dir)? else { return Ok(()) };
    let file = git_dir.join("config");
    let config = check_own(&file)?;
    check_own(&git_dir.join("objects"))?;
    check_own(&git_dir.join("objects/info"))?;
    if found.uid() != Owner::own().uid {
        return Ok(());
    }
    for name in FOREIGN {
        disk::remove_tree(&git_dir.join(name))?;
    }
    let same = config.is_some() && disk::read_if_there(&file)?.as_deref() == Some(configuration.as_bytes());
    if same { Ok(()) } else { disk::write_atomic(&file, configuration.as_bytes(), 0o644) }
}

/// Checks that an entry is not a link, belongs to this user or root, and can be changed only by its owner. Returns its
/// metadata; `None` if the entry does not exist.
///
/// # Errors
/// It is a link, or other users control it; the failure has the command that repairs it.
pub(super) fn check_own(path: &Path) -> Outcome<Option<Metadata>> {
    let step = || format!("git is not started with {}", path.display());
    let found = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.context(|| format!("cannot read the owner of {}", path.display()))?,
    };
    let refuse = |cause: String, repair: String| {
        Err(Failure::new(step())
            .because(Failure::new(format!("{} {cause}", path.display())))
            .hint(Hint::shell(repair)))
    };
    let name = quoted(&path.display().to_string());
    let own = Owner::own().uid;
    if found.is_symlink() {
        return refuse("is a symbolic link".to_owned(), format!("rm {name}"));
    }
    if found.uid() != own && found.uid() != 0 && !is_builder(found.uid()) {
        let repair = format!("chown -Rh {own} {name} && chmod -R go-w {name}");
        return refuse(format!("belongs to uid {}", found.uid()), repair);
    }
    if found.mode() & 0o022 != 0 {
        return refuse("can be changed by others than its owner".to_owned(), format!("chmod -R go-w {name}"));
    }
    Ok(Some(found))
}

/// Returns whether this is the tool's own user, which owns the mirror on a real machine.
fn is_builder(uid: u32) -> bool {
    Owner::named(users::BUILDER).ok().flatten().is_some_and(|builder| builder.uid == uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correct_configuration_is_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let git_dir = directory.path().join("x.git");
        restore_configuration(&git_dir, "[core]\n").unwrap();
        assert!(!git_dir.exists(), "no repository is made");
        disk::make_directory(&git_dir, 0o755).unwrap();
        restore_configuration(&git_dir, "[core]\n").unwrap();
        let inode = || git_dir.join("config").metadata().unwrap().ino();
        let first = inode();
        restore_configuration(&git_dir, "[core]\n").unwrap();
        assert_eq!(inode(), first);
        restore_configuration(&git_dir, "[other]\n").unwrap();
        assert_ne!(inode(), first);
    }
}
