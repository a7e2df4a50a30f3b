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
        // Refreshes the index and tells what differs in one go. Without optional locks it would not keep the index.
        let status = self.git.at(&raw).env("GIT_OPTIONAL_LOCKS", "1").args(STATUS);
        let listed =
            self.git.run(&status.keep(Keep::Whole(1 << 30)).deadline(super::worktree::LONG), told)?;
        let mut differing = parse_differences(&listed.stdout);
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

/// Asks git for the status of tracked files.
pub(super) const STATUS: [&str; 6] =
    ["status", "--porcelain=v2", "-z", "--no-renames", "--untracked-files=no", "--ignore-submodules=all"];

/// A line of the status that tells of a tracked file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StatusLine<'a> {
    /// How the index differs from HEAD, then how the file differs from the index; a dot stands for not at all.
    pub(super) letters: [u8; 2],
    /// The modes in the index and on disk.
    modes: [&'a [u8]; 2],
    /// The path.
    pub(super) path: PathBuf,
}

/// Reads `status --porcelain=v2 -z`: `1 XY <sub> <mode HEAD> <mode index> <mode disk> <hash> <hash> <path>`. Lines of
/// what is not merged hold two words more, headers begin with `#`.
pub(super) fn parse_status(bytes: &[u8]) -> impl Iterator<Item = StatusLine<'_>> {
    records(bytes).filter_map(|record| {
        let words = match record.first()? {
            b'1' => 9,
            b'u' => 11,
            _ => return None,
        };
        let words: Vec<&[u8]> = record.splitn(words, |byte| *byte == b' ').collect();
        let (letters, path) = (words.get(1)?, words.last()?);
        let letters = [*letters.first()?, *letters.get(1)?];
        Some(StatusLine { letters, modes: [words.get(4)?, words.get(5)?], path: path_of(path) })
    })
}

/// The differences between the index and what is on disk.
fn parse_differences(bytes: &[u8]) -> BTreeMap<PathBuf, Difference> {
    parse_status(bytes)
        .filter_map(|line| {
            let difference = match line.letters[1] {
                b'.' => return None,
                b'D' => Difference::Missing,
                b'T' => Difference::Kind,
                _ if line.modes[0] != line.modes[1] => Difference::Mode,
                _ => Difference::Content,
            };
            Some((line.path, difference))
        })
        .collect()
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
    fn differences_are_told_apart_and_what_is_right_is_left_out() {
        let zero = "0".repeat(40);
        let line = |letters: &str, modes: &str, path: &str| {
            format!("1 {letters} N... 000000 {modes} {zero} {zero} {path}\0")
        };
        let text = line("A.", "100644 100644", "right")
            + &line("AM", "100644 100644", "a file")
            + &line("AM", "100644 100755", "b")
            + &line("AT", "100644 120000", "c")
            + &line("AD", "100644 000000", "d")
            + "# branch.oid (initial)\0? stray\0";
        let found: Vec<(PathBuf, Difference)> = parse_differences(text.as_bytes()).into_iter().collect();
        let wanted = [
            ("a file", Difference::Content),
            ("b", Difference::Mode),
            ("c", Difference::Kind),
            ("d", Difference::Missing),
        ];
        assert_eq!(found, wanted.map(|(path, difference)| (PathBuf::from(path), difference)));
    }

    #[test]
    fn what_is_not_merged_is_read_with_its_path() {
        let zero = "0".repeat(40);
        let text = format!("u UU N... 100644 100644 100644 100644 {zero} {zero} {zero} a b\0");
        assert_eq!(parse_status(text.as_bytes()).next().unwrap().path, Path::new("a b"));
    }
}
