//! Lists the paths that move from the old tree into the new one: paths that the host preserves, and paths that git
//! ignores, which `git clean` keeps. Python's caches do not move: Python creates them again.
//!
//! The rules are those of the new commit and those of the tree itself (`.git/info/exclude`). Paths that the rules of
//! the deployed commit ignore are data too, even if the new commit no longer ignores them. A changed file that was
//! tracked and is ignored now is also data.
//!
//! Runs as the owner of `app/`, with the mirror as git directory. Of the old tree's own `.git`, only the local rules
//! are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_git::{Git, LISTING, LONG, Repository, path_of};
use refresh_programs::process::Finished;
use refresh_settings::names::CommitId;
use refresh_system::error::{Context as _, Outcome};

use super::ignore_rules::{self, Rules};
use super::kept_path::{KeptPath, Reason};
use super::operation_request::GitLocation;
use super::own_repository;
use super::paths::{self, Tracked};
use super::untracked::{EntryType, entries, is_cache};

/// Suffixes of the companion files of databases: the first three of `SQLite`, the others of `DuckDB` and LMDB.
const COMPANIONS: [&str; 5] = ["-wal", "-shm", "-journal", ".wal", "-lock"];

/// The parameters of the list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ListKeptRequest {
    /// The location of git and of the mirror.
    pub place: GitLocation,
    /// The old tree.
    pub app: TreePath,
    /// The new commit, whose ignore rules apply.
    pub commit: CommitId,
    /// The commits that account for files of the old tree.
    pub known: Vec<CommitId>,
    /// Patterns of preserved application state.
    pub preserve: Vec<String>,
    /// Whether git-ignored paths move across.
    pub ignored: bool,
}

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The paths that move across.
    pub paths: Vec<KeptPath>,
    /// Local paths that no known commit tracks and that the new commit contains in a different version.
    pub claimed: Vec<TreePath>,
    /// The local rules of the new tree; `None` if it needs none.
    pub exclude: Option<String>,
}

/// Lists the paths that move across.
///
/// # Errors
/// The tree or the mirror cannot be read.
pub(crate) fn list(request: &ListKeptRequest) -> Outcome<Kept> {
    let git = request.place.git();
    let (app, mirror) = (request.app.as_path(), request.place.mirror.as_path());
    let incoming = paths::tracked(&git, mirror, &request.commit)?.unwrap_or_default();
    let (mut known, mut before) = (Tracked::default(), Tracked::default());
    let mut earlier = Vec::new();
    let head = own_repository::head_of_branch(app).filter(|head| !request.known.contains(head));
    for commit in request.known.iter().chain(&head) {
        let files = paths::tracked(&git, mirror, commit)?.unwrap_or_default();
        earlier.extend(ignore_rules::files(&files, &incoming));
        if *commit != request.commit {
            before.add(files.clone());
        }
        known.add(files);
    }
    let mut new = Tracked::default();
    let local = ignore_rules::of_tree(app);
    let rules = Rules::of(&git, &request.place, "rules", &incoming, &local)?;
    new.add(incoming);
    let preserve = patterns(&request.preserve)?;
    let mut walk = Walk {
        app,
        new: &new,
        known: &known,
        before: &before,
        preserve: &preserve,
        found: WalkedPaths::default(),
    };
    walk.directory(Path::new(""), false);
    let WalkedPaths { candidates, preserved, tracked, released, claimed } = walk.found;
    let mut kept: BTreeMap<PathBuf, Reason> =
        preserved.into_iter().map(|path| (path, Reason::Preserved)).collect();
    let tracked = changed(&git, request, tracked, &known);
    kept.extend(tracked.into_iter().map(|path| (path, Reason::Preserved)));
    let mut unnamed = BTreeSet::new();
    if request.ignored {
        let mut ignored = rules.ignored_below(app, &candidates)?;
        let released: BTreeMap<PathBuf, EntryType> =
            released.into_iter().map(|path| (path, EntryType::File)).collect();
        ignored.extend(changed_only(&git, request, rules.ignored(&released)?, &known));
        for (number, files) in earlier.iter().enumerate() {
            let rules = Rules::of(&git, &request.place, &format!("rules-{number}"), files, &local)?;
            let before = rules.ignored_below(app, &candidates)?;
            unnamed.extend(before.difference(&ignored).cloned());
        }
        unnamed
            .extend(ignored.iter().filter(|path| candidates.get(*path) == Some(&EntryType::Link)).cloned());
        ignored.extend(unnamed.iter().cloned());
        kept.extend(topmost(&ignored).into_iter().map(|path| (path, Reason::Ignored)));
    }
    keep_companions(app, &mut kept);
    let paths = kept.into_iter().map(|(path, reason)| KeptPath { path: path.into(), reason }).collect();
    // In an unknown tree, no path is known to be local.
    let claimed = if before.files.is_empty() { BTreeSet::new() } else { claimed };
    let claimed = changed(&git, request, claimed, &new).into_iter().map(TreePath::from).collect();
    Ok(Kept { paths, claimed, exclude: ignore_rules::exclude_of(&local, app, &unnamed) })
}

/// Returns the paths that are not below another of the paths.
fn topmost(paths: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let is_inside = |path: &Path| path.ancestors().skip(1).any(|above| paths.contains(above));
    paths.iter().filter(|path| !is_inside(path)).cloned().collect()
}

/// Returns whether the host preserves a path of the tree, or a directory above it.
///
/// # Errors
/// A pattern is not one, or they cannot be used together.
pub fn is_preserved(preserve: &[String], path: &Path) -> Outcome<bool> {
    let preserve = patterns(preserve)?;
    Ok(path.ancestors().any(|part| preserve.is_match(part)))
}

/// Reads patterns. `*` does not cross a slash, `**` does.
pub(super) fn patterns(globs: &[String]) -> Outcome<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for text in globs {
        let glob = GlobBuilder::new(text.trim_end_matches('/')).literal_separator(true).build();
        set.add(glob.context(|| format!("preserve: {text:?} is not a pattern"))?);
    }
    set.build().context(|| "preserve: the patterns cannot be used together".to_owned())
}

/// The result of a walk through the old tree.
#[derive(Debug, Default)]
struct WalkedPaths {
    /// Paths that no commit tracks.
    candidates: BTreeMap<PathBuf, EntryType>,
    /// Preserved paths that no commit tracks.
    preserved: BTreeSet<PathBuf>,
    /// Preserved paths that a commit tracks.
    tracked: BTreeSet<PathBuf>,
    /// Files that a known commit tracks and the new one does not.
    released: BTreeSet<PathBuf>,
    /// Paths that the new commit tracks and no known one does.
    claimed: BTreeSet<PathBuf>,
}

struct Walk<'a> {
    app: &'a Path,
    new: &'a Tracked,
    known: &'a Tracked,
    before: &'a Tracked,
    preserve: &'a GlobSet,
    found: WalkedPaths,
}

impl Walk<'_> {
    /// Lists a directory of the old tree; `preserved` means that a pattern covers all of it.
    fn directory(&mut self, directory: &Path, preserved: bool) {
        for (path, is_directory) in entries(self.app, directory) {
            if path == Path::new(".git") {
                continue;
            }
            let preserved = preserved || self.preserve.is_match(&path);
            let (is_new, is_known) = (self.new.has_file(&path), self.known.has_file(&path));
            if is_directory && (self.new.has_directory(&path) || self.known.has_directory(&path)) {
                self.directory(&path, preserved);
            } else if preserved && (is_new || is_known) {
                self.found.tracked.insert(path);
            } else if preserved {
                self.found.preserved.insert(path);
            } else if is_cache(self.app, &path, is_directory) {
                // Python creates it again.
            } else if is_new {
                self.found.claimed.extend((!self.before.has_file(&path)).then_some(path));
            } else if is_known {
                self.found.released.insert(path);
            } else {
                if is_directory && !self.preserve.is_empty() {
                    self.preserved_below(&path);
                }
                let kind = if is_directory { EntryType::Directory } else { self.link_or_file(&path) };
                self.found.candidates.insert(path, kind);
            }
        }
    }

    fn link_or_file(&self, path: &Path) -> EntryType {
        let leads_to_directory = fs::metadata(self.app.join(path)).is_ok_and(|found| found.is_dir());
        if leads_to_directory { EntryType::Link } else { EntryType::File }
    }

    /// Finds preserved paths in a directory that no commit tracks.
    fn preserved_below(&mut self, directory: &Path) {
        for (path, is_directory) in entries(self.app, directory) {
            if self.preserve.is_match(&path) {
                self.found.preserved.insert(path);
            } else if is_directory {
                self.preserved_below(&path);
            }
        }
    }
}

/// Returns those of `paths` that differ from each of these commits, or whose database has companion files: then the
/// file alone is not its content.
fn changed(
    git: &Git,
    request: &ListKeptRequest,
    paths: BTreeSet<PathBuf>,
    commits: &Tracked,
) -> BTreeSet<PathBuf> {
    let app = request.app.as_path();
    let has_companion = |path: &Path| companions(path).any(|it| app.join(it).symlink_metadata().is_ok());
    let (alone, mut changed): (BTreeSet<PathBuf>, BTreeSet<PathBuf>) =
        paths.into_iter().partition(|path| !has_companion(path));
    changed.extend(changed_only(git, request, alone, commits));
    changed
}

/// Returns those of `paths` that differ from each of these commits.
fn changed_only(
    git: &Git,
    request: &ListKeptRequest,
    mut paths: BTreeSet<PathBuf>,
    commits: &Tracked,
) -> BTreeSet<PathBuf> {
    let app = request.app.as_path();
    // Only plain files with plain names are compared; others count as changed.
    let is_plain = |path: &Path| {
        fs::symlink_metadata(app.join(path)).is_ok_and(|found| found.is_file())
            && !path.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b'\n' | b'"'))
    };
    let plain: Vec<PathBuf> = paths.iter().filter(|path| is_plain(path)).cloned().collect();
    if plain.is_empty() {
        return paths;
    }
    let mut input = Vec::new();
    for path in &plain {
        input.extend_from_slice(path.as_os_str().as_bytes());
        input.push(b'\n');
    }
    let repository = Repository::bare(request.place.mirror.as_path()).with_tree(app);
    let program = git.at(&repository).args(["hash-object", "--stdin-paths"]).input(input);
    let program = program.keep(LISTING).deadline(LONG);
    let Some(hashed) = git.runner().run(&program).ok().filter(Finished::succeeded) else { return paths };
    for (path, hash) in plain.iter().zip(hashed.text().lines()) {
        if commits.files.get(path).is_some_and(|objects| objects.iter().any(|object| object == hash)) {
            paths.remove(path);
        }
    }
    paths
}

/// Returns the names of possible companion files of a database.
pub(super) fn companions(path: &Path) -> impl Iterator<Item = PathBuf> {
    let beside = |ending| {
        let mut name = path.as_os_str().to_os_string();
        name.push(ending);
        PathBuf::from(name)
    };
    COMPANIONS.map(beside).into_iter()
}

/// Returns the database of a companion file.
pub(super) fn database_of(path: &Path) -> Option<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    COMPANIONS.iter().find_map(|ending| bytes.strip_suffix(ending.as_bytes())).map(path_of)
}

/// Keeps companion files together with their database: all of them move across, or none.
fn keep_companions(app: &Path, kept: &mut BTreeMap<PathBuf, Reason>) {
    let exists = |path: &Path| app.join(path).symlink_metadata().is_ok();
    let is_kept =
        |kept: &BTreeMap<PathBuf, Reason>, path: &Path| path.ancestors().any(|part| kept.contains_key(part));
    let alone: Vec<PathBuf> = kept
        .keys()
        .filter(|path| database_of(path).is_some_and(|base| exists(&base) && !is_kept(kept, &base)))
        .cloned()
        .collect();
    kept.retain(|path, _| !alone.contains(path));
    let found: Vec<(PathBuf, Reason)> = kept
        .iter()
        .flat_map(|(path, reason)| companions(path).map(|companion| (companion, *reason)))
        .filter(|(path, _)| exists(path) && !is_kept(kept, path))
        .collect();
    kept.extend(found);
}
