//! The lock files of a repository, and the processes that work in it. The module reads names only, and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use refresh_programs::process::ProcessId;
use refresh_programs::process::identity::all_pids;

/// How many entries are examined. The owner of a repository decides how many it has, and must not be able to block
/// others.
const EXAMINED: usize = 100_000;

/// Returns the lock files in a git directory, sorted, as absolute paths.
pub fn locks(git_dir: &Path) -> Vec<PathBuf> {
    let mut left = EXAMINED;
    let mut found = Vec::new();
    // Apart from its own files, git locks only refs.
    let mut directories = vec![git_dir.join("refs")];
    let is_lock = |path: &Path| path.extension().is_some_and(|ending| ending == "lock");
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    found.extend(entries(git_dir).take(left).map(|entry| entry.path()).filter(|path| is_lock(path)));
    while let Some(directory) = directories.pop() {
        for entry in entries(&directory).take(left) {
            left -= 1;
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(path);
            } else if is_lock(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Returns the processes that work in the repository of the tree at `app`: they have a lock file open, or they are a
/// git with its working directory in the tree. Only names of links below `/proc` are read, nothing in the tree itself.
pub fn holders(app: &Path) -> Vec<String> {
    let git_dir = app.join(".git");
    let own = ProcessId::own().pid;
    all_pids()
        .into_iter()
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let directory = PathBuf::from(format!("/proc/{pid}"));
            let is_git = fs::read_link(directory.join("exe"))
                .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == "git"));
            let inside = fs::read_link(directory.join("cwd")).is_ok_and(|cwd| cwd.starts_with(app));
            is_git && inside
                || fs::read_dir(directory.join("fd")).into_iter().flatten().flatten().any(|fd| {
                    fs::read_link(fd.path()).is_ok_and(|file| {
                        file.starts_with(&git_dir) && file.extension().is_some_and(|ending| ending == "lock")
                    })
                })
        })
        .filter_map(|pid| ProcessId::of(pid).map(|process| format!("{pid} ({})", process.command())))
        .collect()
}
