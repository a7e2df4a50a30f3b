//! Syncs, after which a change outlives a power cut. A part of the door to writing files.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Context as _, Outcome};

/// Syncs the directory that holds `path`, so that a rename or removal in it is durable.
///
/// # Errors
/// The sync fails.
pub fn sync_parent(path: &Path) -> Outcome<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    open_directory(directory)
        .and_then(|directory| directory.sync_all())
        .context(|| format!("cannot sync the directory {}", directory.display()))
}

/// Opens a directory and nothing else: what others put in its place, such as a pipe, is an error and no wait.
fn open_directory(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Syncs the whole file system that the directory `path` lies on (syncfs(2)): git and the installers do not sync what they write.
///
/// # Errors
/// `path` is missing, or a write to its disk failed.
pub fn sync_file_system(path: &Path) -> Outcome<()> {
    let context = || format!("cannot sync the file system of {}", path.display());
    let file = open_directory(path).context(context)?;
    rustix::fs::syncfs(&file).context(context)
}
