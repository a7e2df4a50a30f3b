//! Moves preserved and git-ignored paths from the previous tree into the new one.
//!
//! The conductor uses renames through descriptors and opens no file. A path of the new commit keeps the content of the
//! commit, unless the host preserves it.

use std::path::Path;

use crate::kept_path::{KeptPath, Reason};
use refresh_git::path::TreePath;
use refresh_system::checkpoint;
use refresh_system::disk::Owner;
use refresh_system::disk::beneath::Directory;
use refresh_system::error::{Failure, Outcome};

/// The result of moving paths across.
#[derive(Debug, Default)]
pub struct Carried {
    /// The paths that are now in the new tree.
    pub moved: Vec<KeptPath>,
    /// The paths that the new commit brings itself. The old ones stay in the previous tree.
    pub left: Vec<TreePath>,
}

/// Moves `kept` from `previous` to `app`. A repetition changes nothing.
///
/// # Errors
/// A directory of a path is not a directory, or the kernel refuses a rename.
pub(super) fn carry(
    previous: &Directory,
    app: &Directory,
    kept: &[KeptPath],
    owner: Owner,
) -> Outcome<Carried> {
    let mut carried = Carried::default();
    for path in kept {
        if move_across(previous, app, path, owner)? {
            carried.moved.push(path.clone());
        } else {
            carried.left.push(path.path.clone());
        }
    }
    Ok(carried)
}

/// Moves one path; returns `false` if the new tree has its own.
fn move_across(previous: &Directory, app: &Directory, kept: &KeptPath, owner: Owner) -> Outcome<bool> {
    let path = kept.path.as_path();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Failure::new(format!("the path {} leaves its directory", path.display())));
    };
    let Ok(from) = within(previous, parent) else { return Ok(true) };
    if from.entry(name)?.is_none() {
        // An earlier attempt has already moved it.
        return Ok(true);
    }
    let Some(to) = destination(app, previous, parent, owner)? else { return Ok(false) };
    let existing = to.entry(name)?;
    match (&existing, kept.reason) {
        (None, _) => from.move_new(name, &to, name)?,
        (Some(new), Reason::Preserved)
            if !new.is_directory && from.entry(name)?.is_some_and(|old| !old.is_directory) =>
        {
            from.move_over(name, &to, name)?;
        }
        (Some(_), _) => return Ok(false),
    }
    checkpoint::reach("carry:moved");
    Ok(true)
}

/// Opens a directory below `top`, or `top` itself.
fn within(top: &Directory, below: &Path) -> Outcome<Directory> {
    if below.as_os_str().is_empty() { top.again() } else { top.enter(below) }
}

/// Opens the directory in the new tree; creates missing directories with their previous attributes. Returns `None` if
/// the new tree has a file in its place.
fn destination(
    app: &Directory,
    previous: &Directory,
    parent: &Path,
    owner: Owner,
) -> Outcome<Option<Directory>> {
    let mut below = std::path::PathBuf::new();
    let mut to = app.again()?;
    for name in parent {
        below.push(name);
        let mode = previous.enter(&below)?.mode()?;
        if to.entry(name)?.is_some_and(|entry| !entry.is_directory) {
            return Ok(None);
        }
        to = to.enter_or_make(Path::new(name), mode, owner)?;
    }
    Ok(Some(to))
}
