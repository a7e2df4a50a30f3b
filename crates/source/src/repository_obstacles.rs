//! Entries of a repository that could block git, found without opening a file: a pipe or a huge file as a ref.

use std::fs;
use std::path::Path;

use refresh_git::path::TreePath;

/// The largest number of names in such a repository.
pub(super) const NAMES: usize = 100_000;

/// The largest size of a file with one ref, in bytes.
pub(super) const REF: u64 = 4 << 10;

/// The number of bytes that are read of a log.
pub(super) const LOG: u64 = 64 << 20;

/// The files that git reads completely, with the largest size of each in bytes.
const FILES: [(&str, u64); 8] = [
    ("HEAD", REF),
    ("config", 1 << 20),
    ("packed-refs", 64 << 20),
    ("logs/HEAD", LOG),
    ("logs/refs/stash", LOG),
    ("objects/info/alternates", 1 << 20),
    ("shallow", 64 << 20),
    ("index", 1 << 30),
];

/// Returns the reason why git could not answer, as far as it can be found without opening a file.
pub(super) fn obstacle(git_dir: &Path) -> Option<String> {
    if let Some(reason) = unreadable_file(git_dir) {
        return Some(reason);
    }
    for name in ["commondir", "config.worktree"] {
        if git_dir.join(name).symlink_metadata().is_ok() {
            return Some(format!("its .git has the file {name}"));
        }
    }
    let mut count = 0;
    obstacle_in_refs(git_dir, Path::new("refs"), &mut count)
}

/// Returns the reason why git cannot read one of the files that it reads completely.
pub(super) fn unreadable_file(git_dir: &Path) -> Option<String> {
    FILES.iter().find_map(|(name, limit)| obstacle_in(git_dir, Path::new(name), *limit))
}

/// Returns the reason why a file cannot be read completely: it is not a regular file, or too large.
fn obstacle_in(git_dir: &Path, name: &Path, limit: u64) -> Option<String> {
    let shown = || TreePath::from(Path::new(".git").join(name));
    match fs::symlink_metadata(git_dir.join(name)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Ok(found) if !found.is_file() => Some(format!("{} is not a regular file", shown())),
        Ok(found) if found.len() > limit => Some(format!("{} has {} bytes", shown(), found.len())),
        Ok(_) => None,
        Err(error) => Some(format!("{}: {error}", shown())),
    }
}

fn obstacle_in_refs(git_dir: &Path, directory: &Path, count: &mut usize) -> Option<String> {
    let entries = match fs::read_dir(git_dir.join(directory)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!(".git/{}: {error}", TreePath::from(directory))),
    };
    for entry in entries.flatten() {
        *count += 1;
        let path = directory.join(entry.file_name());
        if *count > NAMES || path.components().count() > 100 {
            return Some("its repository has too many names".to_owned());
        }
        let found = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            obstacle_in_refs(git_dir, &path, count)
        } else {
            obstacle_in(git_dir, &path, REF)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}
