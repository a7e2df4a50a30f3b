//! Compares tracked files on disk with a commit, by content: the bytes, the type and the executable bit of a checkout.
//!
//! The comparison has two passes. The first compares raw bytes with the blobs. It uses its own index and disables
//! attributes: no attribute can hide a difference. A file that differs there may still be right, because the checkout
//! converts it (line endings, encodings). The second pass checks these files out with their attributes and compares
//! them. It reads the tree and writes only in its scratch directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refresh_git::history::EntryKind;
use refresh_git::{Git, LISTING, LONG, Repository, path_of, records, zero_terminated};
use refresh_settings::names::CommitId;
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};

use super::local::ChangeKind;
use super::paths::TrackedFile;

/// Disables every conversion. An encoding can only be left unspecified: "false" is an error for git.
pub(super) const RAW: &str = "* -text !eol !ident !filter !working-tree-encoding\n";

/// Queries git for the differences between the index and the tree; refreshes the index in the same pass.
const STATUS: [&str; 6] =
    ["status", "--porcelain=v2", "-z", "--no-renames", "--untracked-files=no", "--ignore-submodules=all"];

/// The tracked files of a commit, by path.
pub(super) type Files = BTreeMap<PathBuf, TrackedFile>;

/// The tracked files that differ from a commit.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// The files, and how each differs.
    pub(super) files: BTreeMap<PathBuf, ChangeKind>,
    /// Unreadable paths and warnings of git.
    pub(super) warnings: Vec<String>,
}

/// A tree, and the place of its comparison.
#[derive(Debug)]
pub(super) struct Comparer<'a> {
    pub(super) git: &'a Git,
    pub(super) mirror: &'a Path,
    pub(super) tree: &'a Path,
    pub(super) scratch: &'a Path,
}

impl Comparer<'_> {
    /// Compares the tree with `files` of `commit`.
    pub(super) fn compare(&self, commit: &CommitId, files: &Files) -> Outcome<Differences> {
        let step = || format!("cannot compare the tree with {}", commit.short());
        let index = self.scratch.join("compare.index");
        disk::remove_file_if_there(&index)?;
        let raw = self.scratch_repository(RAW, commit)?.with_tree(self.tree).with_index(&index);
        let fill = self.git.at(&raw).args(["update-index", "-z", "--index-info"]).input(index_info(files));
        self.git.run(&fill, step)?;
        // Without optional locks it would not keep the refreshed index.
        let status = self.git.at(&raw).env("GIT_OPTIONAL_LOCKS", "1").args(STATUS);
        let listed = self.git.run(&status.keep(LISTING).deadline(LONG), step)?;
        let warnings = listed.stderr.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let warnings = warnings.map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        let mut differences = Differences { files: parse_differences(&listed.stdout), warnings };
        self.drop_converted(files, &mut differences.files, &index)?;
        Ok(differences)
    }

    /// Returns a git directory in the scratch directory with the objects of the mirror and `attributes`; creates it if
    /// necessary.
    pub(super) fn scratch_repository(&self, attributes: &str, like: &CommitId) -> Outcome<Repository> {
        let directory = self.scratch.join("raw.git");
        let repository = Repository::bare(&directory).passing().borrowing(self.mirror.join("objects"));
        if directory.exists() {
            return Ok(repository);
        }
        for part in ["objects", "refs", "info"] {
            disk::make_directory(&directory.join(part), 0o700)?;
        }
        let config = if like.as_str().len() == 64 {
            "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n"
        } else {
            "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
        };
        disk::write_unsynced(&directory.join("config"), config.as_bytes(), 0o600)?;
        disk::write_unsynced(&directory.join("info/attributes"), attributes.as_bytes(), 0o600)?;
        disk::write_unsynced(&directory.join("HEAD"), b"ref: refs/heads/none\n", 0o600)?;
        Ok(repository)
    }

    /// Removes the files from `differing` that equal the converted blob of a checkout.
    fn drop_converted(
        &self,
        files: &Files,
        differing: &mut BTreeMap<PathBuf, ChangeKind>,
        index: &Path,
    ) -> Outcome<()> {
        let is_doubtful = |(path, kind): (&PathBuf, &ChangeKind)| {
            let is_file = files.get(path).is_some_and(|file| file.kind != EntryKind::Symlink);
            (is_file && matches!(kind, ChangeKind::Modified | ChangeKind::Mode)).then(|| path.clone())
        };
        let doubtful: Vec<PathBuf> = differing.iter().filter_map(is_doubtful).collect();
        if doubtful.is_empty() {
            return Ok(());
        }
        let mirror = Repository::bare(self.mirror).with_index(index).passing();
        differing.retain(|path, _| doubtful.binary_search(path).is_err());
        differing.extend(converted(self.git, mirror, self.scratch, self.tree, &doubtful)?);
        Ok(())
    }
}

/// Checks `files` of the index of `repository` out once more, and returns those that differ in `tree`.
pub(super) fn converted(
    git: &Git,
    repository: Repository,
    scratch: &Path,
    tree: &Path,
    files: &[PathBuf],
) -> Outcome<BTreeMap<PathBuf, ChangeKind>> {
    let expected = scratch.join("expected");
    disk::remove_tree(&expected)?;
    disk::make_directory(&expected, 0o700)?;
    // In an empty working tree git reads the attributes from the index, and so from the commit.
    let program =
        git.at(&repository.with_tree(&expected)).args(["checkout-index", "-q", "-f", "-z", "--stdin"]);
    let program = program.input(zero_terminated(files.iter())).deadline(LONG);
    git.run(&program, || "cannot check files out to compare them".to_owned())?;
    let mut differing = BTreeMap::new();
    for path in files {
        let kind = difference(&expected.join(path), &tree.join(path))?;
        differing.extend(kind.map(|kind| (path.clone(), kind)));
    }
    disk::remove_tree(&expected)?;
    Ok(differing)
}

/// Compares a file with the one that a checkout writes.
fn difference(expected: &Path, actual: &Path) -> Outcome<Option<ChangeKind>> {
    // A pipe must not be opened: the open would wait for a writer.
    let file = |path: &Path| fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file);
    let (Some(wanted), Some(found)) = (file(expected), file(actual)) else {
        return Ok(Some(ChangeKind::Type));
    };
    let is_executable = |file: &fs::Metadata| file.mode() & 0o100 != 0;
    Ok(match same_bytes(expected, actual)? {
        None => Some(ChangeKind::Unreadable),
        Some(false) => Some(ChangeKind::Modified),
        Some(true) if is_executable(&found) != is_executable(&wanted) => Some(ChangeKind::Mode),
        Some(true) => None,
    })
}

/// Returns the input of `update-index -z --index-info` for a set of files.
pub(super) fn index_info(files: &Files) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(files.len() * 90);
    for (path, file) in files {
        bytes.extend_from_slice(format!("{} {} 0\t", file.kind.mode(), file.object).as_bytes());
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
    }
    bytes
}

/// Reads `status --porcelain=v2 -z`: `1 XY <sub> <mode HEAD> <mode index> <mode disk> <hash> <hash> <path>`.
fn parse_differences(bytes: &[u8]) -> BTreeMap<PathBuf, ChangeKind> {
    let difference = |record: &[u8]| {
        let words: Vec<&[u8]> = record.splitn(9, |byte| *byte == b' ').collect();
        let [b"1", letters, _, _, index, disk, _, _, path] = words[..] else { return None };
        let kind = match letters.get(1)? {
            b'.' => return None,
            b'D' => ChangeKind::Deleted,
            b'T' => ChangeKind::Type,
            _ if index != disk => ChangeKind::Mode,
            _ => ChangeKind::Modified,
        };
        Some((path_of(path), kind))
    };
    records(bytes).filter_map(difference).collect()
}

/// Returns whether two files have the same bytes; `None` if the second cannot be read.
pub(super) fn same_bytes(expected: &Path, actual: &Path) -> Outcome<Option<bool>> {
    let step = |path: &Path| format!("cannot read {}", path.display());
    let mut one = fs::File::open(expected).context(|| step(expected))?;
    let mut other = match fs::File::open(actual) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return Err(Failure::new(step(actual)).because(error)),
    };
    let length =
        |file: &fs::File, path: &Path| file.metadata().map(|found| found.len()).context(|| step(path));
    if length(&one, expected)? != length(&other, actual)? {
        return Ok(Some(false));
    }
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = one.read(&mut left).context(|| step(expected))?;
        if count == 0 {
            return Ok(Some(true));
        }
        if other.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return Ok(Some(false));
        }
    }
}

/// Returns those of `paths` that have the same content in `commit`.
pub(super) fn unchanged(
    comparer: &Comparer<'_>,
    commit: &CommitId,
    files: &Files,
    paths: BTreeSet<PathBuf>,
) -> Outcome<BTreeSet<PathBuf>> {
    // The attributes determine the content of a checkout.
    let is_attributes = |path: &Path| path.file_name().is_some_and(|name| name == ".gitattributes");
    let subset: Files = files
        .iter()
        .filter(|(path, _)| paths.contains(*path) || is_attributes(path))
        .map(|(path, file)| (path.clone(), file.clone()))
        .collect();
    let differing = comparer.compare(commit, &subset)?.files;
    Ok(paths.into_iter().filter(|path| subset.contains_key(path) && !differing.contains_key(path)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_distinguished_and_unchanged_files_left_out() {
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
        let found: Vec<(PathBuf, ChangeKind)> = parse_differences(text.as_bytes()).into_iter().collect();
        let expected = [
            ("a file", ChangeKind::Modified),
            ("b", ChangeKind::Mode),
            ("c", ChangeKind::Type),
            ("d", ChangeKind::Deleted),
        ];
        assert_eq!(found, expected.map(|(path, kind)| (PathBuf::from(path), kind)));
    }
}
