//! Syncs, after which a change survives a power cut. A part of the module that writes files.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Context as _, Outcome};

/// Syncs the directory that contains `path`: this makes a rename or removal in it durable.
///
/// # Errors
/// The sync fails.
pub fn sync_parent(path: &Path) -> Outcome<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    open_directory(directory)
        .and_then(|directory| directory.sync_all())
        .context(|| format!("cannot sync the directory {}", directory.display()))
}

/// Opens a directory and nothing else. Anything that others put in its place, such as a pipe, is an error and blocks
/// nothing.
fn open_directory(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Syncs the file system that the directory `path` is on (syncfs(2)): git and the installers do not sync the files that
/// they write.
///
/// # Errors
/// `path` is missing, or a write to its disk failed.
pub fn sync_file_system(path: &Path) -> Outcome<()> {
    let context = || format!("cannot sync the file system of {}", path.display());
    let file = open_directory(path).context(context)?;
    rustix::fs::syncfs(&file).context(context)
}
