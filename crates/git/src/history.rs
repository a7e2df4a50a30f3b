//! The commits of the mirror: their files, their contents, and the changes between two of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use refresh_programs::process::{ProcessId, Program};
use refresh_settings::names::CommitId;
use refresh_system::clock;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::quoted;

use super::mirror::Mirror;
use super::mirror_call::Call;
use super::path::TreePath;
use super::submodule;
pub use super::tree_entry::{EntryKind, TreeEntry};
use super::{LISTING, LONG, Repository, path_of, records, zero_terminated};

/// One commit, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitLine {
    /// Its hash.
    pub id: CommitId,
    /// The first line of its message.
    pub subject: String,
    /// Its author.
    pub author: String,
    /// When it was written, in seconds since 1970.
    pub authored: i64,
}

/// One file that differs between two commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// `A`, `M`, `D` or `T`.
    pub status: char,
    /// Its path.
    pub path: TreePath,
}

/// The changes between two commits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Changes {
    /// The commits that are added, newest first, at most [`LISTED`].
    pub commits: Vec<CommitLine>,
    /// How many commits are added.
    pub coming: u64,
    /// How many commits are dropped because the branch was rewritten.
    pub dropped: u64,
    /// The files that differ.
    pub files: Vec<FileChange>,
}

/// The format of a commit for [`parse_log`].
const COMMIT_LINE: &str = "--format=%H%x09%at%x09%an%x09%s";

/// How many commits [`Changes`] lists at most.
pub const LISTED: usize = 100;

impl Mirror {
    /// Lists the files of a commit with their sizes.
    ///
    /// # Errors
    /// The commit is not in the mirror.
    pub fn files(&self, commit: &CommitId) -> Outcome<Arc<[TreeEntry]>> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, files)) = listed.as_ref().filter(|(known, _)| known == commit) {
            return Ok(Arc::clone(files));
        }
        let files: Arc<[TreeEntry]> = match &self.unit {
            Some(unit) => unit.ask::<Vec<TreeEntry>>(Call::Files { commit: commit.clone() })?.into(),
            None => self.list(commit, &["-r", "-l"], &[])?.into(),
        };
        *listed = Some((commit.clone(), Arc::clone(&files)));
        Ok(files)
    }

    /// Reads one file of a commit; `None` if the commit has no file at `path`.
    ///
    /// # Errors
    /// The commit is not in the mirror, or `path` is not a file in it.
    pub fn read(&self, commit: &CommitId, path: &Path) -> Outcome<Option<Vec<u8>>> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::Read { commit: commit.clone(), path: path.to_path_buf().into() });
        }
        match self.entry(commit, path)? {
            Some(entry) => self.content(commit, &entry).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the text of a symbolic link in a commit; `None` if `path` is not a link in it.
    ///
    /// # Errors
    /// The commit is not in the mirror.
    pub fn link(&self, commit: &CommitId, path: &Path) -> Outcome<Option<PathBuf>> {
        match self.entry(commit, path)? {
            Some(entry) if entry.kind == EntryKind::Symlink => {
                Ok(Some(path_of(&self.content(commit, &entry)?)))
            }
            _ => Ok(None),
        }
    }

    /// Finds the file at `path`: in the list of the commit if it is known, else git lists that one path.
    fn entry(&self, commit: &CommitId, path: &Path) -> Outcome<Option<TreeEntry>> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let files = match listed {
            Some((known, files)) if known == *commit => files,
            _ => self.list(commit, &[], &[path])?.into(),
        };
        let found = files.iter().find(|entry| entry.path == path).cloned();
        if found.is_none() && files.iter().any(|entry| entry.path.starts_with(path)) {
            return Err(Failure::new(format!("{} of {} is a directory", path.display(), commit.short())));
        }
        Ok(found)
    }

    fn list(&self, commit: &CommitId, options: &[&str], paths: &[&Path]) -> Outcome<Vec<TreeEntry>> {
        let program = self.bare()?.args(["ls-tree", "-z", "--full-tree"]).args(options);
        let program = paths.iter().fold(program.args([commit.as_str(), "--"]), Program::arg);
        let listed = self.git.run(&program, || format!("cannot list the files of {}", commit.short()))?;
        parse_tree(&listed.stdout)
    }

    fn content(&self, commit: &CommitId, entry: &TreeEntry) -> Outcome<Vec<u8>> {
        let program = self.bare()?.args(["cat-file", "blob", &entry.object]);
        let context = || format!("cannot read {} of {}", entry.path.display(), commit.short());
        Ok(self.git.run(&program, context)?.stdout)
    }

    /// Returns the paths of the text files of a commit that contain `text`.
    ///
    /// # Errors
    /// The commit is not in the mirror.
    pub fn files_with(&self, commit: &CommitId, text: &str) -> Outcome<Vec<PathBuf>> {
        if let Some(unit) = &self.unit {
            let call = Call::Mentions { commit: commit.clone(), text: text.to_owned() };
            let paths: Vec<TreePath> = unit.ask(call)?;
            return Ok(paths.iter().map(|path| path.as_path().to_path_buf()).collect());
        }
        let context = || format!("cannot search {}", commit.short());
        let program =
            self.bare()?.args(["grep", "-l", "-z", "-I", "-F", "-w", "-e", text, commit.as_str(), "--"]);
        let found = self.git.runner().run(&program)?;
        // If git finds nothing, it exits with code 1 and no output.
        if found.ended == refresh_programs::process::ChildEnd::Exited(1) && found.stderr.is_empty() {
            return Ok(Vec::new());
        }
        let found = found.ok(context)?;
        let prefix = format!("{commit}:");
        Ok(records(&found.stdout).filter_map(|it| it.strip_prefix(prefix.as_bytes())).map(path_of).collect())
    }

    /// Returns the changes between two commits of the mirror.
    ///
    /// # Errors
    /// One of them is not in the mirror.
    pub fn changes(&self, from: &CommitId, to: &CommitId) -> Outcome<Changes> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::Changes { from: from.clone(), to: to.clone() });
        }
        let context = || format!("cannot compare {} and {}", from.short(), to.short());
        let range = format!("{from}...{to}");
        let count = self.bare()?.args(["rev-list", "--left-right", "--count", &range, "--"]);
        let (dropped, coming) =
            parse_counts(&self.git.run(&count, context)?.text()).ok_or_else(|| Failure::new(context()))?;
        let range = format!("{from}..{to}");
        let log = self.bare()?.args(["log", "-z", COMMIT_LINE, &format!("--max-count={LISTED}"), &range]);
        let commits = parse_log(&self.git.run(&log.arg("--"), context)?.stdout);
        let diff =
            self.bare()?.args(["diff-tree", "-r", "-z", "--name-status", "--no-renames", from.as_str()]);
        let files = parse_name_status(&self.git.run(&diff.args([to.as_str(), "--"]), context)?.stdout);
        Ok(Changes { commits, coming, dropped, files })
    }

    /// Returns a commit of the mirror, for people.
    ///
    /// # Errors
    /// The commit is not in the mirror.
    pub fn commit_line(&self, commit: &CommitId) -> Outcome<CommitLine> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::CommitLine { commit: commit.clone() });
        }
        let context = || format!("cannot read commit {}", commit.short());
        let log = self.bare()?.args(["log", "-z", COMMIT_LINE, "--max-count=1", commit.as_str(), "--"]);
        let lines = parse_log(&self.git.run(&log, context)?.stdout);
        lines.into_iter().next().ok_or_else(|| Failure::new(context()))
    }

    /// Returns the time of the last commit, up to `commit`, that changed one of these files; `None` if no commit did.
    ///
    /// # Errors
    /// The commit is not in the mirror.
    pub fn last_change<'a>(
        &self,
        commit: &CommitId,
        files: impl Iterator<Item = &'a Path>,
    ) -> Outcome<Option<jiff::Timestamp>> {
        if let Some(unit) = &self.unit {
            let files = files.map(|file| file.to_path_buf().into()).collect();
            return unit.ask(Call::LastChange { commit: commit.clone(), files });
        }
        let context = || format!("cannot read the history of {}", commit.short());
        let program = self.bare()?.args(["--literal-pathspecs", "log", "--max-count=1", "--format=%ct"]);
        let program = files.fold(program.args([commit.as_str(), "--"]), Program::arg);
        let seconds = self.git.run(&program.deadline(LONG), context)?.text();
        let Ok(seconds) = seconds.trim().parse() else { return Ok(None) };
        jiff::Timestamp::from_second(seconds).context(context).map(Some)
    }

    /// Writes a checked-out copy of a commit to `directory`, which must not exist, for `owner`.
    ///
    /// # Errors
    /// The directory exists, the disk is full, or the commit is not in the mirror.
    pub fn export(&self, commit: &CommitId, directory: &Path, owner: Owner) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.export(commit, directory, owner);
        }
        disk::make_owned_directory(directory, 0o700, &owner)?;
        self.check_out(commit, directory, Some(owner))
    }

    /// Writes a checked-out copy of a commit to `directory`, which exists and is empty.
    pub(super) fn export_into(&self, commit: &CommitId, directory: &Path) -> Outcome<()> {
        self.check_out(commit, directory, None)
    }

    fn check_out(&self, commit: &CommitId, directory: &Path, owner: Option<Owner>) -> Outcome<()> {
        let context = || format!("cannot check out {} to {}", commit.short(), directory.display());
        let index = directory.join(".index");
        self.guard()?;
        let repository = Repository::bare(self.path()).with_tree(directory).with_index(&index);
        for step in [&["read-tree", commit.as_str()][..], &["checkout-index", "--all", "--force", "--quiet"]]
        {
            let program = self.git.at(&repository).args(step).deadline(LONG);
            let program = match owner {
                Some(owner) => program.owner(owner),
                None => program,
            };
            self.git.run(&program, context)?;
        }
        disk::remove_file_if_there(&index)
    }

    /// Refuses a commit whose checkout needs features that this program does not have: submodules, large file storage
    /// or another filter. A `.gitmodules` without a submodule is no reason for a refusal, nor is a line of
    /// `.gitattributes` without a file.
    ///
    /// # Errors
    /// The refusal, which names the path and the filter.
    pub fn check_supported(&self, commit: &CommitId) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::CheckSupported { commit: commit.clone() });
        }
        let files = self.files(commit)?;
        if let Some(entry) = files.iter().find(|entry| entry.kind == EntryKind::Submodule) {
            let known = self.read(commit, Path::new(".gitmodules"))?.unwrap_or_default();
            let is_known = submodule::is_known(&String::from_utf8_lossy(&known), &entry.path);
            let orphan = || submodule::orphan(commit, &entry.path);
            return Err(if is_known { unsupported(commit, "a submodule", &entry.path) } else { orphan() });
        }
        if let Some((path, driver)) = self.find_filter(commit, &files)? {
            let what = if driver == "lfs" {
                "Git LFS".to_owned()
            } else {
                format!("the filter {}", quoted(&driver))
            };
            return Err(unsupported(commit, &what, &path));
        }
        self.find_pointer(&files)?.map_or(Ok(()), |path| Err(unsupported(commit, "Git LFS", &path)))
    }

    /// Finds a file for which the attributes of the commit require a filter, and the filter.
    fn find_filter(&self, commit: &CommitId, files: &[TreeEntry]) -> Outcome<Option<(PathBuf, String)>> {
        let is_attributes =
            |entry: &&TreeEntry| entry.path.file_name().is_some_and(|name| name == ".gitattributes");
        let mut named = false;
        for entry in files.iter().filter(is_attributes) {
            let text = self.read(commit, &entry.path)?.unwrap_or_default();
            named |= String::from_utf8_lossy(&text).contains("filter");
        }
        if !named {
            return Ok(None);
        }
        let scratch = Path::new("/tmp").join(format!(
            "ladylinux-refresh-{}-{}",
            ProcessId::own().pid,
            clock::now().as_nanosecond()
        ));
        disk::make_new_directory(&scratch, 0o700)?;
        let found = self.filters(commit, files, &scratch.join("index"));
        disk::remove_tree(&scratch)?;
        Ok(parse_filter(&found?))
    }

    /// Returns git's output for the attribute `filter` of every file, with the attributes that the commit itself
    /// contains.
    fn filters(&self, commit: &CommitId, files: &[TreeEntry], index: &Path) -> Outcome<Vec<u8>> {
        let step = || format!("cannot read the attributes of {}", commit.short());
        let paths = zero_terminated(files.iter().map(|entry| &entry.path));
        let fill = self.bare()?.env("GIT_INDEX_FILE", index).args(["read-tree", commit.as_str()]);
        self.git.run(&fill, step)?;
        let ask = self.bare()?.env("GIT_INDEX_FILE", index);
        let ask = ask.args(["check-attr", "--cached", "--stdin", "-z", "filter"]).input(paths);
        Ok(self.git.run(&ask.keep(LISTING), step)?.stdout)
    }

    /// Finds a file whose entire content is a pointer of Git LFS. Such files are between 100 and 200 bytes long.
    fn find_pointer(&self, files: &[TreeEntry]) -> Outcome<Option<PathBuf>> {
        let small: Vec<&TreeEntry> = files
            .iter()
            .filter(|entry| {
                entry.kind != EntryKind::Symlink && entry.size.is_some_and(|size| (100..400).contains(&size))
            })
            .collect();
        let objects: BTreeSet<&str> = small.iter().map(|entry| entry.object.as_str()).collect();
        if objects.is_empty() {
            return Ok(None);
        }
        let list = objects.into_iter().collect::<Vec<_>>().join("\n") + "\n";
        let program = self.bare()?.args(["cat-file", "--batch"]).input(list.into_bytes());
        let contents = self.git.run(&program, || "cannot read small files of the commit".to_owned())?.stdout;
        let pointer = find_pointer_object(&contents);
        Ok(pointer.and_then(|object| {
            small.iter().find(|entry| entry.object == object).map(|entry| entry.path.clone())
        }))
    }
}

/// Reads `ls-tree -z`, with or without `-l`.
///
/// # Errors
/// git wrote a line of another form.
pub fn parse_tree(bytes: &[u8]) -> Outcome<Vec<TreeEntry>> {
    records(bytes)
        .map(|record| {
            let tab = record.iter().position(|byte| *byte == b'\t');
            let (head, path) = record.split_at(tab.unwrap_or(record.len()));
            let head = String::from_utf8_lossy(head);
            let mut words = head.split_whitespace();
            let kind = words.next().and_then(EntryKind::of_mode);
            let object = words.nth(1).map(str::to_owned);
            let size = words.next().and_then(|size| size.parse().ok());
            match (kind, object, path) {
                (Some(kind), Some(object), [b'\t', path @ ..]) => {
                    Ok(TreeEntry { path: path_of(path), kind, object, size })
                }
                _ => {
                    // A directory, in a listing that is not recursive, is not a file.
                    Err(Failure::new(format!(
                        "git listed {:?}, which is no file",
                        String::from_utf8_lossy(record)
                    )))
                }
            }
        })
        .collect::<Outcome<Vec<_>>>()
        .context(|| "the list of files cannot be read".to_owned())
}

/// Returns the refusal of a commit.
fn unsupported(commit: &CommitId, what: &str, path: &Path) -> Failure {
    let path = TreePath::from(path);
    Failure::new(format!("{} uses {what} ({path}), which is not supported", commit.short()))
        .hint("commit the files themselves, or follow a branch without it")
}

/// Finds a filtered file and its filter in the output of `check-attr -z` (path, attribute, value).
fn parse_filter(bytes: &[u8]) -> Option<(PathBuf, String)> {
    let mut words = bytes.split(|byte| *byte == 0);
    while let (Some(path), Some(_), Some(value)) = (words.next(), words.next(), words.next()) {
        // A value-less attribute names no filter.
        if !matches!(value, b"unspecified" | b"unset" | b"set") {
            return Some((path_of(path), String::from_utf8_lossy(value).into_owned()));
        }
    }
    None
}

fn parse_counts(text: &str) -> Option<(u64, u64)> {
    let (left, right) = text.trim().split_once('\t')?;
    Some((left.parse().ok()?, right.parse().ok()?))
}

fn parse_log(bytes: &[u8]) -> Vec<CommitLine> {
    records(bytes)
        .filter_map(|record| {
            let text = String::from_utf8_lossy(record);
            let mut parts = text.splitn(4, '\t');
            let id = CommitId::parse(parts.next()?.trim()).ok()?;
            let authored = parts.next()?.parse().ok()?;
            let author = parts.next()?.to_owned();
            Some(CommitLine {
                id,
                authored,
                author,
                subject: parts.next().unwrap_or_default().trim_end().to_owned(),
            })
        })
        .collect()
}

fn parse_name_status(bytes: &[u8]) -> Vec<FileChange> {
    let mut parts = records(bytes);
    let mut changes = Vec::new();
    while let (Some(status), Some(path)) = (parts.next(), parts.next()) {
        let status = status.first().map_or('?', |byte| char::from(*byte));
        changes.push(FileChange { status, path: path_of(path).into() });
    }
    changes
}

/// Finds an object that is a pointer of Git LFS in the output of `cat-file --batch`.
fn find_pointer_object(mut bytes: &[u8]) -> Option<String> {
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut words = head.split(' ');
        let object = words.next()?.to_owned();
        let size: usize = words.nth(1)?.parse().ok()?;
        let content = bytes.get(end + 1..end + 1 + size)?;
        if content.starts_with(b"version https://git-lfs.github.com/spec/") {
            return Some(object);
        }
        bytes = bytes.get(end + 2 + size..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789012345678901234567890123456789";

    #[test]
    fn trees_are_read_with_names_of_any_bytes() {
        let mut bytes = format!("100755 blob {HASH}      12\ta b\0").into_bytes();
        bytes.extend(format!("120000 blob {HASH}\t").bytes().chain(*b"\xff\0"));
        let entries = parse_tree(&bytes).unwrap();
        assert_eq!(entries[0].kind, EntryKind::Executable);
        assert_eq!(entries[0].size, Some(12));
        assert_eq!(entries[1].path, path_of(b"\xff"));
        assert!(parse_tree(format!("040000 tree {HASH}\td\0").as_bytes()).is_err());
    }

    #[test]
    fn a_filter_is_found_by_its_value() {
        let none = b"a\0filter\0unspecified\0b\0filter\0unset\0";
        assert_eq!(parse_filter(none), None);
        let some = b"a\0filter\0unspecified\0b c\0filter\0lfs\0";
        assert_eq!(parse_filter(some), Some((PathBuf::from("b c"), "lfs".to_owned())));
    }

    #[test]
    fn pointers_of_large_file_storage_are_found_between_other_files() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        let batch = format!("aa blob 3\nx\ny\nbb blob {}\n{pointer}\n", pointer.len());
        assert_eq!(find_pointer_object(batch.as_bytes()).as_deref(), Some("bb"));
        assert_eq!(find_pointer_object(b"aa blob 3\nx\ny\n"), None);
    }

    #[test]
    fn logs_and_statuses_are_read() {
        let log = format!("{HASH}\t12\tAda\tsubject\twith tab\0");
        let commit = &parse_log(log.as_bytes())[0];
        assert_eq!((commit.subject.as_str(), commit.author.as_str()), ("subject\twith tab", "Ada"));
        assert_eq!(parse_name_status(b"M\0a\0D\0b\0").len(), 2);
    }
}
