//! Lists directories and adds up their content. Links are not followed.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::error::{Context as _, Outcome};

/// Returns the names in a directory, sorted; an empty list if the directory does not exist.
///
/// # Errors
/// The directory exists and cannot be read.
pub fn names(directory: &Path) -> Outcome<Vec<OsString>> {
    let context = || format!("cannot read {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(context)?,
    };
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<Vec<_>, _>>()
        .context(context)?;
    names.sort();
    Ok(names)
}

/// The size of a file, or of a directory with its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The space on disk, in bytes.
    pub bytes: u64,
    /// The number of files and directories.
    pub entries: u64,
    /// Whether a part cannot be read, and is not included.
    pub is_partial: bool,
}

/// Adds up a file or directory. Directories that are found after `limit` entries are not read. A missing path has size 0.
pub fn usage(path: &Path, limit: u64) -> Usage {
    let mut usage = Usage::default();
    let mut waiting = vec![path.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) => {
                usage.is_partial |= error.kind() != ErrorKind::NotFound;
                continue;
            }
        };
        usage.entries += 1;
        let blocks = found.blocks() * 512;
        if !found.is_dir() {
            // A sparse file uses less space than its length, and on some file systems a short file uses no block.
            usage.bytes += found.len().min(blocks);
            continue;
        }
        usage.bytes += blocks;
        if usage.entries > limit {
            continue;
        }
        match fs::read_dir(&path) {
            Ok(entries) => waiting.extend(entries.flatten().map(|entry| entry.path())),
            Err(_) => usage.is_partial = true,
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk;

    #[test]
    fn names_are_sorted_and_a_missing_directory_has_none() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b", "a", ".c"] {
            disk::write_unsynced(&directory.path().join(name), b"", 0o644).unwrap();
        }
        assert_eq!(names(directory.path()).unwrap(), [".c", "a", "b"]);
        assert!(names(&directory.path().join("missing")).unwrap().is_empty());
        assert!(names(&directory.path().join("a")).is_err());
    }

    #[test]
    fn a_directory_is_as_large_as_its_content_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        disk::make_directory(&directory.path().join("a"), 0o755).unwrap();
        disk::write_atomic(&directory.path().join("a/b"), &[1; 10_000], 0o644).unwrap();
        std::os::unix::fs::symlink("/usr", directory.path().join("link")).unwrap();
        let found = usage(directory.path(), u64::MAX);
        assert_eq!((found.entries, found.is_partial), (4, false));
        assert!((10_000..200_000).contains(&found.bytes), "{found:?}");
        assert_eq!(usage(directory.path(), 1).entries, 3);
        assert_eq!(usage(&directory.path().join("missing"), 1), Usage::default());
    }

    #[test]
    fn a_sparse_file_counts_with_the_space_that_it_takes() {
        let directory = tempfile::tempdir().unwrap();
        let sparse = directory.path().join("sparse");
        disk::write_unsynced(&sparse, b"x", 0o644).unwrap();
        fs::File::options().write(true).open(&sparse).unwrap().set_len(1 << 40).unwrap();
        let found = usage(directory.path(), u64::MAX);
        assert!(found.bytes < 1 << 20, "{found:?}");
    }
}
