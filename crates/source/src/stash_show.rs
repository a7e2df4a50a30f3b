//! Shows a stash: the diff of git between the commit of the comparison and the kept tree.
//!
//! It runs as the service user, reads the kept tree and the mirror, and writes only in its scratch directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_git::{Git, Repository, zero_terminated};
use refresh_installation::installation::Installation;
use refresh_programs::process::Keep;
use refresh_settings::names::{CommitId, RunId};
use refresh_system::error::{Failure, Outcome};

use super::differences::{self, Comparer, RAW};
use super::local::{ChangeKind, LocalChange};
use super::operation_request::{GitLocation, inspect};
use super::{compare, stash, untracked};

/// The operation.
pub(crate) const OPERATION: &str = "source-stash-show";

/// The longest diff that is shown, in bytes.
const SHOWN: usize = 4 << 20;

/// The longest diff that git may write, in bytes.
const WRITTEN: usize = 256 << 20;

/// The largest number of untracked files in a diff.
const FILES: usize = 1000;

/// The parameters of the diff.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShowStashRequest {
    /// The location of git and of the mirror.
    pub place: GitLocation,
    /// The kept tree.
    pub tree: TreePath,
    /// The commit that it was compared with.
    pub base: CommitId,
    /// The changes of the stash.
    pub changes: Vec<LocalChange>,
    /// The path to show; `None`: all.
    pub path: Option<TreePath>,
}

/// The diff.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShowStashResponse {
    /// The output of git.
    pub diff: Vec<u8>,
    /// Whether the output was longer.
    pub truncated: bool,
}

/// Returns the diff of the stash of `run`, of one path or of all.
///
/// # Errors
/// The run has no stash, it was never compared, or git fails.
pub fn show(on: &Installation, run: &RunId, path: Option<&Path>) -> Outcome<ShowStashResponse> {
    let record = stash::find(&on.layout, run)?;
    let tree = on.layout.stash(run);
    let Some(base) = record.changes.base else {
        let reason = record.changes.not_comparable.unwrap_or_default();
        return Err(
            Failure::new(format!("the stash of run {run} was not compared")).because(Failure::new(reason))
        );
    };
    let (tree, changes, path) = (tree.into(), record.changes.items, path.map(TreePath::from));
    inspect(on, OPERATION, |place| ShowStashRequest { place, tree, base, changes, path })
}

/// Performs [`OPERATION`].
///
/// # Errors
/// The path is not in the tree, the mirror lacks the commit, or git fails.
pub(crate) fn handle(request: &ShowStashRequest) -> Outcome<ShowStashResponse> {
    let git = request.place.git();
    let (tree, scratch) = (request.tree.as_path(), request.place.scratch.as_path());
    let mirror = request.place.mirror.as_path();
    let base = &request.base;
    let step = || "cannot show the differences".to_owned();
    let mut files = compare::files_of(&git, mirror, base)?
        .ok_or_else(|| Failure::new(format!("the commit {} is not in the mirror", base.short())))?;
    let path = request.path.as_ref().map(TreePath::as_path);
    if let Some(path) = path {
        let is_tracked =
            files.range(path.to_path_buf()..).next().is_some_and(|(file, _)| file.starts_with(path));
        if !is_tracked && tree.join(path).symlink_metadata().is_err() {
            return Err(Failure::new(format!("the stash has no {}", TreePath::from(path))));
        }
    }
    // Paths that have moved to the next tree, and paths that a sparse checkout leaves out, are not changes.
    let changed: BTreeSet<&Path> = request.changes.iter().map(|change| change.path.as_path()).collect();
    files.retain(|file, _| changed.contains(file.as_path()) || tree.join(file).symlink_metadata().is_ok());
    let comparer = Comparer { git: &git, mirror, tree, scratch };
    let index = scratch.join("show.index");
    let repository = comparer.scratch_repository(RAW, base)?.with_tree(tree).with_index(&index);
    let fill = git.at(&repository).args(["update-index", "-z", "--index-info"]);
    git.run(&fill.input(differences::index_info(&files)), step)?;
    let list = zero_terminated(untracked_files(tree, request).iter());
    if !list.is_empty() {
        let add = ["add", "-N", "-f", "--ignore-errors", "--pathspec-from-file=-", "--pathspec-file-nul"];
        // Files that cannot be read are listed with the changes.
        git.runner().run(&git.at(&repository).args(add).input(list))?;
    }
    diff(&git, &repository, path)
}

fn diff(git: &Git, repository: &Repository, path: Option<&Path>) -> Outcome<ShowStashResponse> {
    let program = git.at(repository).args(["-c", "core.bigFileThreshold=16m", "diff", "--no-ext-diff"]);
    let mut program = program
        .args(["--no-textconv", "--no-color", "--no-renames", "--ignore-submodules=all"])
        .args(["--src-prefix=a/", "--dst-prefix=b/", "--"]);
    if let Some(path) = path {
        program = program.arg(path);
    }
    let written = git.run(&program.keep(Keep::All(WRITTEN)), || "cannot show the differences".to_owned())?;
    let mut diff = written.stdout;
    let truncated = diff.len() > SHOWN;
    diff.truncate(SHOWN);
    Ok(ShowStashResponse { diff, truncated })
}

/// Returns the untracked files that the diff shows as new. Files of nested repositories belong to these.
fn untracked_files(tree: &Path, request: &ShowStashRequest) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for change in &request.changes {
        if !matches!(change.kind, ChangeKind::Untracked | ChangeKind::UntrackedDirectory) {
            continue;
        }
        let at = change.path.as_path();
        let start = match request.path.as_ref().map(TreePath::as_path) {
            None => at,
            Some(wanted) if at.starts_with(wanted) => at,
            Some(wanted) if wanted.starts_with(at) => wanted,
            Some(_) => continue,
        };
        files.extend(untracked::files_below(tree, start, FILES));
    }
    files.retain(|file| is_shown(tree, file));
    files.truncate(FILES);
    files
}

fn is_shown(tree: &Path, file: &Path) -> bool {
    let is_plain = tree.join(file).symlink_metadata().is_ok_and(|found| {
        // An unreadable file would end the entire diff.
        found.is_symlink() || found.is_file() && fs::File::open(tree.join(file)).is_ok()
    });
    let mut above = file.ancestors().skip(1).filter(|part| !part.as_os_str().is_empty());
    is_plain
        && !above
            .any(|part| part.ends_with(".git") || tree.join(part).join(".git").symlink_metadata().is_ok())
}
