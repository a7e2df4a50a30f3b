//! Lists what moves from the old tree into the new one: paths that the host preserves, and paths that the rules of the
//! new commit ignore, as `git clean` keeps them. Python's caches are neither: they make themselves again.
//!
//! Runs as the owner of `app/`, with the mirror as git directory; the old tree's own `.git` is never read.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Context as _, Outcome};
use crate::git::history::EntryKind;
use crate::git::path::TreePath;
use crate::git::{Git, LONG, Repository, path_of, records};
use crate::process::{Ended, Finished, Keep};
use crate::settings::names::CommitId;

use super::paths::{self, Tracked, TrackedFile};
use super::place::Place;
use super::untracked::{is_byte_code, is_tool_cache};

/// What `SQLite` keeps beside a database.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What to list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListKeptRequest {
    /// Where git and the mirror are.
    pub place: Place,
    /// The old tree.
    pub app: TreePath,
    /// The commit that comes: its rules say what is ignored.
    pub commit: CommitId,
    /// The commits that account for files of the old tree.
    pub known: Vec<CommitId>,
    /// Patterns of application state that stays.
    pub preserve: Vec<String>,
    /// Whether git-ignored paths move across.
    pub ignored: bool,
}

/// One path that moves across: a file, or a directory with everything in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeptPath {
    /// The path, below the tree.
    pub path: TreePath,
    /// Why it moves across.
    pub reason: Reason,
}

/// Why a path moves across.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A pattern of the host preserves it.
    Preserved,
    /// A rule of the new commit ignores it.
    Ignored,
}

/// Lists what moves across.
///
/// # Errors
/// The tree or the mirror cannot be read.
pub(super) fn list(request: &ListKeptRequest) -> Outcome<Vec<KeptPath>> {
    let git = request.place.git();
    let mirror = request.place.mirror.as_path();
    let coming = paths::tracked(&git, mirror, &request.commit)?.unwrap_or_default();
    let mut known = Tracked::default();
    for commit in &request.known {
        known.add(paths::tracked(&git, mirror, commit)?.unwrap_or_default());
    }
    let rules = Rules::of(&git, request, &coming)?;
    let mut new = Tracked::default();
    new.add(coming);
    let preserve = patterns(&request.preserve)?;
    let mut walk = Walk {
        app: request.app.as_path(),
        new: &new,
        known: &known,
        preserve: &preserve,
        found: Found::default(),
    };
    walk.directory(Path::new(""), false);
    let Found { mut candidates, preserved, tracked } = walk.found;
    let mut kept: BTreeMap<PathBuf, Reason> =
        preserved.into_iter().map(|path| (path, Reason::Preserved)).collect();
    let changed = tracked.into_iter().filter(|path| is_changed(&git, request, path, &known));
    kept.extend(changed.map(|path| (path, Reason::Preserved)));
    if request.ignored {
        let ignored = rules.ignored(&candidates)?;
        // A directory that is not ignored as one may hold ignored files.
        let open: Vec<PathBuf> =
            candidates.keys().filter(|path| candidates[*path] && !ignored.contains(*path)).cloned().collect();
        kept.extend(ignored.into_iter().map(|path| (path, Reason::Ignored)));
        candidates = open.iter().flat_map(|path| files_below(request.app.as_path(), path)).collect();
        kept.extend(rules.ignored(&candidates)?.into_iter().map(|path| (path, Reason::Ignored)));
    }
    keep_companions(request.app.as_path(), &mut kept);
    Ok(kept.into_iter().map(|(path, reason)| KeptPath { path: path.into(), reason }).collect())
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

/// What a walk through the old tree found.
#[derive(Debug, Default)]
struct Found {
    /// Paths that no commit tracks; `true` for a directory.
    candidates: BTreeMap<PathBuf, bool>,
    /// Preserved paths that no commit tracks.
    preserved: BTreeSet<PathBuf>,
    /// Preserved paths that a commit tracks.
    tracked: BTreeSet<PathBuf>,
}

struct Walk<'a> {
    app: &'a Path,
    new: &'a Tracked,
    known: &'a Tracked,
    preserve: &'a GlobSet,
    found: Found,
}

impl Walk<'_> {
    /// Lists a directory of the old tree; `preserved` says that a pattern covers all of it.
    fn directory(&mut self, directory: &Path, preserved: bool) {
        for (path, is_directory) in entries(self.app, directory) {
            if path == Path::new(".git") {
                continue;
            }
            let preserved = preserved || self.preserve.is_match(&path);
            let is_tracked = self.new.has_file(&path) || self.known.has_file(&path);
            if is_directory && (self.new.has_directory(&path) || self.known.has_directory(&path)) {
                self.directory(&path, preserved);
            } else if preserved && is_tracked {
                self.found.tracked.insert(path);
            } else if preserved {
                self.found.preserved.insert(path);
            } else if !is_tracked && !is_cache(&path, is_directory) {
                if is_directory && !self.preserve.is_empty() {
                    self.preserved_below(&path);
                }
                self.found.candidates.insert(path, is_directory);
            }
        }
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

/// The entries of a directory, and whether each is a real directory; none if it cannot be read.
pub(super) fn entries(app: &Path, directory: &Path) -> Vec<(PathBuf, bool)> {
    let listed = fs::read_dir(app.join(directory)).into_iter().flatten().flatten();
    let mut entries: Vec<(PathBuf, bool)> = listed
        .map(|entry| (directory.join(entry.file_name()), entry.file_type().is_ok_and(|kind| kind.is_dir())))
        .collect();
    entries.sort();
    entries
}

/// Lists the files below a directory that may be ignored one by one.
fn files_below(app: &Path, directory: &Path) -> Vec<(PathBuf, bool)> {
    let mut files = Vec::new();
    for (path, is_directory) in entries(app, directory) {
        if is_cache(&path, is_directory) || path.file_name() == Some(OsStr::new(".git")) {
            continue;
        }
        if is_directory {
            files.extend(files_below(app, &path));
        } else {
            files.push((path, false));
        }
    }
    files
}

/// Returns `true` for what Python and its tools make again by themselves.
pub(super) fn is_cache(path: &Path, is_directory: bool) -> bool {
    if is_directory {
        return path.file_name() == Some(OsStr::new("__pycache__")) || is_tool_cache(path);
    }
    is_byte_code(path)
}

/// Returns `true` if a preserved file differs from what each known commit has there.
fn is_changed(git: &Git, request: &ListKeptRequest, path: &Path, known: &Tracked) -> bool {
    let Some(objects) = known.files.get(path) else { return true };
    let file = request.app.as_path().join(path);
    if fs::symlink_metadata(&file).is_ok_and(|found| found.is_symlink()) {
        return true;
    }
    let repository = Repository::bare(request.place.mirror.as_path()).with_tree(request.app.as_path());
    let program = git.at(&repository).args(["hash-object", "--"]).arg(path).deadline(LONG);
    let hashed = git.runner().run(&program).ok().filter(Finished::succeeded);
    hashed.is_none_or(|hashed| !objects.iter().any(|object| object == hashed.text().trim()))
}

/// Keeps what `SQLite` has beside a database together with it: all of it moves across, or nothing.
fn keep_companions(app: &Path, kept: &mut BTreeMap<PathBuf, Reason>) {
    let with = |path: &Path, ending: &str| {
        let mut name = path.as_os_str().to_os_string();
        name.push(ending);
        PathBuf::from(name)
    };
    let exists = |path: &Path| app.join(path).symlink_metadata().is_ok();
    let database = |path: &Path| {
        let bytes = path.as_os_str().as_bytes();
        COMPANIONS.iter().find_map(|ending| bytes.strip_suffix(ending.as_bytes())).map(path_of)
    };
    let is_kept =
        |kept: &BTreeMap<PathBuf, Reason>, path: &Path| path.ancestors().any(|part| kept.contains_key(part));
    let alone: Vec<PathBuf> = kept
        .keys()
        .filter(|path| database(path).is_some_and(|base| exists(&base) && !is_kept(kept, &base)))
        .cloned()
        .collect();
    kept.retain(|path, _| !alone.contains(path));
    let found: Vec<(PathBuf, Reason)> = kept
        .iter()
        .flat_map(|(path, reason)| COMPANIONS.map(|ending| (with(path, ending), *reason)))
        .filter(|(path, _)| exists(path) && !is_kept(kept, path))
        .collect();
    kept.extend(found);
}

/// The rules of the new commit, in a directory that holds nothing else.
struct Rules<'a> {
    git: &'a Git,
    repository: Repository,
    tree: PathBuf,
}

impl<'a> Rules<'a> {
    /// Checks out the `.gitignore` files of the new commit.
    fn of(git: &'a Git, request: &ListKeptRequest, coming: &[TrackedFile]) -> Outcome<Self> {
        let scratch = request.place.scratch.as_path();
        let (tree, index) = (scratch.join("rules"), scratch.join("rules.index"));
        disk::remove_tree(&tree)?;
        disk::remove_file_if_there(&index)?;
        disk::make_directory(&tree, 0o700)?;
        let repository =
            Repository::bare(request.place.mirror.as_path()).with_tree(&tree).with_index(&index).passing();
        let mut list = Vec::new();
        let is_rule = |file: &&TrackedFile| {
            file.path.file_name() == Some(OsStr::new(".gitignore")) && file.kind != EntryKind::Symlink
        };
        for file in coming.iter().filter(is_rule) {
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
        Ok(Self { git, repository, tree })
    }

    /// Returns those of `paths` that the rules ignore.
    fn ignored(&self, paths: &BTreeMap<PathBuf, bool>) -> Outcome<BTreeSet<PathBuf>> {
        if paths.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut input = Vec::new();
        for (path, is_directory) in paths {
            if *is_directory {
                // A rule may be for directories only, so git has to see that it is one.
                disk::make_directory(&self.tree.join(path), 0o700)?;
            }
            // A name may begin with a colon, which would mean something else to git.
            input.extend_from_slice(b"./");
            input.extend_from_slice(path.as_os_str().as_bytes());
            input.push(0);
        }
        let program = self.git.at(&self.repository).args(["check-ignore", "--no-index", "-z", "--stdin"]);
        // This command refuses to run with literal path names.
        let program = program.env("GIT_LITERAL_PATHSPECS", "0");
        let program = program.input(input).keep(Keep::Whole(1 << 30)).deadline(LONG);
        let found = self.git.runner().run(&program)?;
        // Nothing ignored is an exit code of its own.
        if found.ended == Ended::Exited(1) && found.stderr.is_empty() {
            return Ok(BTreeSet::new());
        }
        let found = found.ok(|| "cannot apply the ignore rules of the commit".to_owned())?;
        Ok(records(&found.stdout).filter_map(|path| path.strip_prefix(b"./")).map(path_of).collect())
    }
}
