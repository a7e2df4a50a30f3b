//! The paths that git ignores in a tree: by the rules of a commit, and by the local rules of the tree
//! (`.git/info/exclude`).
//!
//! Runs as the owner of `app/`. git applies the rules of a commit in an otherwise empty subdirectory of the scratch
//! directory. So nothing in the tree can change them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use refresh_git::history::EntryKind;
use refresh_git::{Git, LISTING, LONG, Repository, path_of, records};
use refresh_programs::process::ChildEnd;
use refresh_system::disk;
use refresh_system::error::Outcome;

use super::operation_request::GitLocation;
use super::own_repository::read_small;
use super::paths::TrackedFile;
use super::repository_obstacles::REF;
use super::untracked::{EntryType, entries, is_cache};

/// The local rules of a prepared tree: bytecode is moved in beside the sources, and people do not need to see it.
pub(super) const STANDARD: &str = "__pycache__/\n";

/// The largest file of local rules that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// The rules of one commit, and the local ones.
pub(super) struct Rules<'a> {
    git: &'a Git,
    repository: Repository,
    tree: PathBuf,
    exclude: PathBuf,
}

fn is_rule(file: &TrackedFile) -> bool {
    file.path.file_name() == Some(OsStr::new(".gitignore")) && file.kind != EntryKind::Symlink
}

/// Returns the files of rules of a commit, if they differ from those of the new one.
pub(super) fn files(commit: &[TrackedFile], new: &[TrackedFile]) -> Option<Vec<TrackedFile>> {
    let rules =
        |files: &[TrackedFile]| files.iter().filter(|file| is_rule(file)).cloned().collect::<Vec<_>>();
    let contents = |files: &[TrackedFile]| {
        files.iter().map(|it| (it.path.clone(), it.object.clone())).collect::<Vec<_>>()
    };
    let (own, other) = (rules(commit), rules(new));
    (contents(&own) != contents(&other)).then_some(own)
}

/// Returns the local rules of a tree.
pub(super) fn of_tree(app: &Path) -> String {
    let text = local_file(app).and_then(|file| read_small(&file, LARGEST)).unwrap_or_default();
    String::from_utf8(text).unwrap_or_default()
}

/// Returns the file of the local rules of a tree. It is in its repository, also if `.git` is a link, or a file that
/// names the repository of a linked working tree (gitrepository-layout(5)).
pub(super) fn local_file(app: &Path) -> Option<PathBuf> {
    let git = app.join(".git");
    let named = |file: &Path, mark: &str| {
        let text = String::from_utf8(read_small(file, REF)?).ok()?;
        Some(text.trim().strip_prefix(mark)?.trim().to_owned())
    };
    let directory = if git.is_dir() { git } else { app.join(named(&git, "gitdir:")?) };
    let common = match named(&directory.join("commondir"), "") {
        Some(common) => directory.join(common),
        None => directory,
    };
    let info = common.join("info");
    info.is_dir().then(|| info.join("exclude"))
}

/// Returns the local rules of the next tree: those of this one, and one rule for each path that no other rule covers.
/// `None` if they are the standard ones.
pub(super) fn exclude_of(local: &str, app: &Path, unnamed: &BTreeSet<PathBuf>) -> Option<String> {
    let is_rule = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    let mut lines: Vec<String> = local.lines().filter(is_rule).map(str::to_owned).collect();
    for path in unnamed {
        let Some(text) = path.to_str().filter(|text| !text.contains(['\n', '\r'])) else { continue };
        let mut rule = String::from("/");
        for letter in text.chars() {
            if "\\*?[] !#".contains(letter) {
                rule.push('\\');
            }
            rule.push(letter);
        }
        if fs::symlink_metadata(app.join(path)).is_ok_and(|found| found.is_dir()) {
            rule.push('/');
        }
        lines.push(rule);
    }
    lines.retain(|line| line.as_str() != STANDARD.trim_end());
    if lines.is_empty() {
        return None;
    }
    let mut seen = BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    Some(format!("{STANDARD}{}\n", lines.join("\n")))
}

impl<'a> Rules<'a> {
    /// Checks out the `.gitignore` files among `files` to the directory `name` of the scratch directory.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub(super) fn of(
        git: &'a Git,
        place: &GitLocation,
        name: &str,
        files: &[TrackedFile],
        local: &str,
    ) -> Outcome<Self> {
        let scratch = place.scratch.as_path();
        let (tree, index) = (scratch.join(name), scratch.join(format!("{name}.index")));
        let exclude = scratch.join("rules.exclude");
        disk::remove_tree(&tree)?;
        disk::remove_file_if_there(&index)?;
        disk::make_directory(&tree, 0o700)?;
        disk::remove_file_if_there(&exclude)?;
        disk::write_unsynced(&exclude, local.as_bytes(), 0o600)?;
        let repository =
            Repository::bare(place.mirror.as_path()).with_tree(&tree).with_index(&index).passing();
        let mut list = Vec::new();
        for file in files.iter().filter(|file| is_rule(file)) {
            list.extend_from_slice(format!("100644 {} 0\t", file.object).as_bytes());
            list.extend_from_slice(file.path.as_os_str().as_bytes());
            list.push(0);
        }
        if !list.is_empty() {
            let step = || "cannot read the ignore rules of the commit".to_owned();
            let fill = git.at(&repository).args(["update-index", "-z", "--index-info"]).input(list);
            git.run(&fill, step)?;
            git.run(&git.at(&repository).args(["checkout-index", "-q", "-f", "-a"]), step)?;
        }
        Ok(Self { git, repository, tree, exclude })
    }

    /// Returns those of `paths` that the rules ignore, and the ignored files in directories that are not ignored
    /// themselves.
    ///
    /// # Errors
    /// git fails.
    pub(super) fn ignored_below(
        &self,
        app: &Path,
        paths: &BTreeMap<PathBuf, EntryType>,
    ) -> Outcome<BTreeSet<PathBuf>> {
        let mut ignored = self.ignored(paths)?;
        let open = |(path, kind): &(&PathBuf, &EntryType)| {
            **kind == EntryType::Directory && !ignored.contains(*path)
        };
        let inside: BTreeMap<PathBuf, EntryType> =
            paths.iter().filter(open).flat_map(|(path, _)| files_below(app, path)).collect();
        ignored.extend(self.ignored(&inside)?);
        let mut by_themselves = BTreeSet::new();
        for (path, _) in
            paths.iter().filter(|(path, kind)| **kind == EntryType::Directory && !ignored.contains(*path))
        {
            add_ignoring_themselves(app, path, &mut by_themselves);
        }
        ignored.extend(by_themselves);
        Ok(ignored)
    }

    /// Returns those of `paths` that the rules ignore.
    ///
    /// # Errors
    /// git fails.
    pub(super) fn ignored(&self, paths: &BTreeMap<PathBuf, EntryType>) -> Outcome<BTreeSet<PathBuf>> {
        if paths.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut input = Vec::new();
        for (path, kind) in paths {
            if *kind != EntryType::File {
                // A rule may apply only to directories, so the path must be a directory for git.
                disk::make_directory(&self.tree.join(path), 0o700)?;
            }
            // A name may begin with a colon, which has a special meaning for git.
            input.extend_from_slice(b"./");
            input.extend_from_slice(path.as_os_str().as_bytes());
            input.push(0);
        }
        let mut excludes = std::ffi::OsString::from("core.excludesFile=");
        excludes.push(&self.exclude);
        let program = self.git.at(&self.repository).arg("-c").arg(excludes);
        let program = program.args(["check-ignore", "--no-index", "-z", "--stdin"]);
        // This command refuses to run with literal path names.
        let program = program.env("GIT_LITERAL_PATHSPECS", "0");
        let program = program.input(input).keep(LISTING).deadline(LONG);
        let found = self.git.runner().run(&program)?;
        // If nothing is ignored, the exit code is 1.
        if found.ended == ChildEnd::Exited(1) && found.stderr.is_empty() {
            return Ok(BTreeSet::new());
        }
        let found = found.ok(|| "cannot apply the ignore rules of the commit".to_owned())?;
        Ok(records(&found.stdout).filter_map(|path| path.strip_prefix(b"./")).map(path_of).collect())
    }
}

/// Adds the directories at or below `directory` that ignore all their content: with an untracked `.gitignore` in them,
/// which many tools write beside their data.
fn add_ignoring_themselves(app: &Path, directory: &Path, found: &mut BTreeSet<PathBuf>) {
    if ignores_all(&app.join(directory).join(".gitignore")) {
        found.insert(directory.to_path_buf());
        return;
    }
    for (path, is_directory) in entries(app, directory) {
        if is_directory && !is_cache(app, &path, true) && path.file_name() != Some(OsStr::new(".git")) {
            add_ignoring_themselves(app, &path, found);
        }
    }
}

/// Returns whether a file of rules ignores everything in its directory, possibly except itself.
fn ignores_all(file: &Path) -> bool {
    let text = read_small(file, REF).and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let rules: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
    let is_exception =
        |rule: &&str| rule.starts_with('!') && !matches!(*rule, "!.gitignore" | "!/.gitignore");
    rules.iter().any(|rule| matches!(*rule, "*" | "/*" | "**")) && !rules.iter().any(is_exception)
}

/// Lists the files below a directory that may be ignored one by one.
fn files_below(app: &Path, directory: &Path) -> Vec<(PathBuf, EntryType)> {
    let mut files = Vec::new();
    for (path, is_directory) in entries(app, directory) {
        if is_cache(app, &path, is_directory) || path.file_name() == Some(OsStr::new(".git")) {
            continue;
        }
        if is_directory {
            files.extend(files_below(app, &path));
        } else {
            files.push((path, EntryType::File));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_rules_are_read_from_the_repository_that_a_linked_tree_names() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            disk::make_directory(path.parent().unwrap(), 0o755).unwrap();
            disk::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
        };
        let rules = |app: &str| of_tree(&directory.path().join(app));
        write("main/.git/info/exclude", "data/\n");
        write("main/.git/worktrees/app/commondir", "../..\n");
        write("app/.git", "gitdir: ../main/.git/worktrees/app\n");
        write("own/x", "");
        disk::point_link(&directory.path().join("own/.git"), Path::new("../main/.git")).unwrap();
        write("none/.git", "gitdir: nowhere\n");
        write("bare/x", "");
        for (app, expected) in
            [("main", "data/\n"), ("app", "data/\n"), ("own", "data/\n"), ("none", ""), ("bare", "")]
        {
            assert_eq!(rules(app), expected, "{app}");
        }
    }

    #[test]
    fn local_rules_go_on_and_each_path_without_a_rule_gets_one() {
        let app = tempfile::tempdir().unwrap();
        disk::make_directory(&app.path().join("old data"), 0o755).unwrap();
        let unnamed = [".env", "old data", "a*b"].map(PathBuf::from).into();
        let text = exclude_of("# mine\n__pycache__/\nlocal/\n", app.path(), &unnamed).unwrap();
        assert_eq!(text, "__pycache__/\nlocal/\n/.env\n/a\\*b\n/old\\ data/\n");
        assert_eq!(exclude_of(&text, app.path(), &unnamed).as_deref(), Some(text.as_str()));
        assert_eq!(exclude_of(STANDARD, app.path(), &BTreeSet::new()), None);
    }
}
