//! Compares files on disk with a commit, by content: the bytes, the type and the executable bit that a checkout
//! would give them.
//!
//! Two passes. The first compares raw bytes against the blobs, with a private index and with attributes switched
//! off, so that neither flags in `app/.git`'s index nor attributes can hide a difference. What differs there may
//! still be right, because the checkout converts it (line endings, encodings); the second pass checks out just these
//! files by their own rules and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::Keep;
use crate::settings::names::CommitId;

use super::history::EntryKind;
use super::tree::{Files, Tree};
use super::{Repository, path_of, records};

/// Switches every conversion off. An encoding can only be left unspecified: "false" is an error to git.
const RAW: &str = "* -text !eol !ident !filter !working-tree-encoding\n";

/// How a file on disk differs from a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Difference {
    /// Other bytes.
    Content,
    /// The executable bit only.
    Mode,
    /// Something else is there: a link for a file, a file for a link.
    Kind,
    /// Nothing is there.
    Missing,
    /// It cannot be read, so nobody knows.
    Unreadable,
}

/// The result of a comparison.
#[derive(Debug)]
pub(super) struct Compared {
    /// The paths that differ.
    pub(super) differing: BTreeMap<PathBuf, Difference>,
    /// Paths whose raw bytes are not the blob's and right all the same, because the checkout converts them.
    pub(super) converted: BTreeSet<PathBuf>,
    /// The private index: the entries of the commit, refreshed for each file whose raw bytes are right.
    pub(super) index: PathBuf,
}

impl Tree {
    /// Compares what is on disk with `files` of `commit`; `name` tells this comparison's scratch files from others.
    pub(super) fn compare(&self, commit: &CommitId, files: &Files, name: &str) -> Outcome<Compared> {
        let told = || format!("cannot compare the work tree with {}", commit.short());
        let index = self.scratch.join(format!("{name}.index"));
        let raw = self.scratch_repository("raw.git", RAW, commit)?.with_tree(&self.app).with_index(&index);
        let fill = self.git.at(&raw).args(["update-index", "-z", "--index-info"]).input(index_info(files));
        self.git.run(&fill, told)?;
        // Exit code 1 says that something differs, which the next command tells in detail.
        let refresh = self.git.at(&raw).args(["update-index", "-q", "--really-refresh"]);
        let refresh = self.git.runner().run(&refresh.deadline(super::worktree::LONG))?;
        if !matches!(refresh.ended, crate::process::Ended::Exited(0 | 1)) {
            return Err(refresh.failure(&told()));
        }
        let list =
            self.git.at(&raw).args(["diff-files", "--raw", "-z", "--no-renames", "--ignore-submodules"]);
        let listed = self.git.run(&list.keep(Keep::Whole(1 << 30)).deadline(super::worktree::LONG), told)?;
        let mut differing = parse_raw_differences(&listed.stdout);
        let converted = self.forgive_conversions(files, &mut differing, &index, name)?;
        Ok(Compared { differing, converted, index })
    }

    /// Takes those files out of `differing` that hold what a checkout writes after converting the blob.
    fn forgive_conversions(
        &self,
        files: &Files,
        differing: &mut BTreeMap<PathBuf, Difference>,
        index: &Path,
        name: &str,
    ) -> Outcome<BTreeSet<PathBuf>> {
        let mut converted = BTreeSet::new();
        let doubtful: Vec<PathBuf> = differing
            .iter()
            .filter(|(path, difference)| {
                matches!(difference, Difference::Content | Difference::Mode)
                    && files.get(*path).is_some_and(|file| file.kind != EntryKind::Symlink)
            })
            .map(|(path, _)| path.clone())
            .collect();
        if doubtful.is_empty() {
            return Ok(converted);
        }
        let expected = self.scratch.join(format!("{name}.expected"));
        disk::make_folder(&expected, 0o700)?;
        let repository = Repository { git_dir: self.mirror.clone(), ..self.both() };
        // In an empty work tree the attributes come from the index, that is from the commit.
        let repository = repository.with_tree(&expected).with_index(index);
        let mut list = Vec::new();
        for path in &doubtful {
            list.extend_from_slice(path.as_os_str().as_bytes());
            list.push(0);
        }
        let program =
            self.git.at(&repository).args(["checkout-index", "-q", "-f", "-z", "--stdin"]).input(list);
        self.git.run(&program.deadline(super::worktree::LONG), || {
            "cannot check files out to compare them".to_owned()
        })?;
        for path in doubtful {
            if !fs::symlink_metadata(self.app.join(&path)).is_ok_and(|found| found.is_file()) {
                // A pipe must not even be opened: that would wait for a writer.
                differing.insert(path, Difference::Kind);
                continue;
            }
            let executable = files.get(&path).is_some_and(|file| file.kind == EntryKind::Executable);
            match same_bytes(&expected.join(&path), &self.app.join(&path))? {
                None => {
                    differing.insert(path, Difference::Unreadable);
                }
                Some(false) => {
                    differing.insert(path, Difference::Content);
                }
                Some(true) if is_executable(&self.app.join(&path))? != executable => {
                    differing.insert(path, Difference::Mode);
                }
                Some(true) => {
                    differing.remove(&path);
                    converted.insert(path);
                }
            }
        }
        disk::remove_tree(&expected)?;
        Ok(converted)
    }
}

/// The input of `update-index -z --index-info` for a set of files.
fn index_info(files: &Files) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(files.len() * 90);
    for (path, file) in files {
        bytes.extend_from_slice(format!("{} {} 0\t", file.kind.mode(), file.object).as_bytes());
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
    }
    bytes
}

/// Reads `diff-files --raw -z`: `:<mode> <mode> <hash> <hash> <status>` and a path, in turn.
fn parse_raw_differences(bytes: &[u8]) -> BTreeMap<PathBuf, Difference> {
    let mut parts = records(bytes);
    let mut differing = BTreeMap::new();
    while let (Some(head), Some(path)) = (parts.next(), parts.next()) {
        let head = String::from_utf8_lossy(head);
        let words: Vec<&str> = head.trim_start_matches(':').split(' ').collect();
        let difference = match words.last().copied() {
            Some("D") => Difference::Missing,
            Some("T") => Difference::Kind,
            _ if words.first() != words.get(1) => Difference::Mode,
            _ => Difference::Content,
        };
        differing.insert(path_of(path), difference);
    }
    differing
}

/// Tells whether two files hold the same bytes; `None` where the second cannot be read.
pub(super) fn same_bytes(expected: &Path, actual: &Path) -> Outcome<Option<bool>> {
    let told = |path: &Path| format!("cannot read {}", path.display());
    let mut one = fs::File::open(expected).context(|| told(expected))?;
    let mut other = match fs::File::open(actual) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return Err(Failure::new(told(actual)).because(error)),
    };
    let length =
        |file: &fs::File, path: &Path| file.metadata().map(|found| found.len()).context(|| told(path));
    if length(&one, expected)? != length(&other, actual)? {
        return Ok(Some(false));
    }
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = one.read(&mut left).context(|| told(expected))?;
        if count == 0 {
            return Ok(Some(true));
        }
        if other.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return Ok(Some(false));
        }
    }
}

fn is_executable(path: &Path) -> Outcome<bool> {
    let found = fs::symlink_metadata(path).context(|| format!("cannot look at {}", path.display()))?;
    Ok(found.permissions().mode() & 0o100 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_differences_are_told_apart() {
        let zero = "0".repeat(40);
        let line =
            |modes: &str, status: &str, path: &str| format!(":{modes} {zero} {zero} {status}\0{path}\0");
        let text = line("100644 100644", "M", "a")
            + &line("100644 100755", "M", "b")
            + &line("100644 120000", "T", "c")
            + &line("100644 000000", "D", "d");
        let found: Vec<Difference> = parse_raw_differences(text.as_bytes()).into_values().collect();
        assert_eq!(found, [Difference::Content, Difference::Mode, Difference::Kind, Difference::Missing]);
    }
}
