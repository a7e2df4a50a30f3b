//! Compares a tree (the previous tree of a run, or `app/`) with the commits that account for its files.
//!
//! A path is no local change if a known commit tracks it and it equals a checkout of that commit. Python's caches and
//! unchanged products of hooks are not local changes either. The comparison runs as the service user, reads the tree
//! and the mirror, and writes only in its scratch directory. Its answer protects files of the service user, and
//! verifies nothing: paths that cannot be compared are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_git::{Git, path_of, records};
use refresh_installation::installation::Installation;
use refresh_settings::IgnoredFiles;
use refresh_settings::names::{CommitId, RunId};
use refresh_system::disk;
use refresh_system::error::Outcome;

use super::differences::{self, Comparer, Files};
use super::hook_record::{self, HookOutputs};
use super::kept::{self, ListKeptRequest};
use super::kept_path::{KeptPath, Reason};
use super::local::{ChangeKind, LocalChange, LocalChanges};
use super::operation_request::{GitLocation, inspect};
use super::paths::{self, Tracked};
use super::untracked::{self, Accounts, Untracked};
use super::{own_repository, repository_obstacles, stash_record};

/// The operation.
pub(crate) const OPERATION: &str = "source-compare";

/// The parameters of the comparison.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CompareRequest {
    /// The location of git and of the mirror.
    pub place: GitLocation,
    /// The tree.
    pub tree: TreePath,
    /// The commits that account for files, the likeliest first.
    pub known: Vec<CommitId>,
    /// The paths that move from the tree to the next one.
    pub moves: Moves,
    /// The files that hooks wrote.
    pub outputs: HookOutputs,
    /// Commits of local names that a stash already contains.
    pub held: Vec<CommitId>,
}

/// The paths that move from a tree to the next one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Moves {
    /// They have moved, and are missing in the tree.
    Moved(Vec<KeptPath>),
    /// They would move.
    Would {
        /// The commit whose ignore rules apply; `None`: the commit of the tree.
        commit: Option<CommitId>,
        /// Patterns of preserved application state.
        preserve: Vec<String>,
        /// Whether git-ignored paths move.
        ignored: bool,
    },
}

/// The result of a comparison.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct CompareResponse {
    /// The differences.
    pub changes: LocalChanges,
    /// The disk space of the tree, in bytes; counted only for a moved tree with local changes.
    pub size: u64,
}

/// Compares `app/` with the known commits, for read-only commands. A tree that cannot be compared is a result, not a
/// failure.
pub fn app(on: &Installation, known: &[CommitId], incoming: Option<&CommitId>) -> LocalChanges {
    let moves = Moves::Would {
        commit: incoming.cloned(),
        preserve: on.settings.preserve.clone(),
        ignored: on.settings.ignored == IgnoredFiles::Keep,
    };
    match ask(on, None, known.to_vec(), moves) {
        Ok(response) => response.changes,
        Err(failure) => LocalChanges::not_comparable(failure.chain().join(": ")),
    }
}

/// Compares `app/`, or the previous tree of a run, in an operation.
///
/// # Errors
/// The operation fails, or takes too long.
pub(super) fn ask(
    on: &Installation,
    previous: Option<&RunId>,
    known: Vec<CommitId>,
    moves: Moves,
) -> Outcome<CompareResponse> {
    let tree = previous.map_or_else(|| on.layout.app(), |run| on.layout.previous_tree(run));
    let outputs = hook_record::read(&on.layout, previous);
    let held =
        stash_record::list(&on.layout).unwrap_or_default().into_iter().flat_map(|record| record.changes.tips);
    let held = held.map(|tip| tip.commit).collect();
    inspect(on, OPERATION, |place| CompareRequest { place, tree: tree.into(), known, moves, outputs, held })
}

/// Performs [`OPERATION`].
///
/// # Errors
/// git or the scratch directory cannot be used.
pub(crate) fn handle(request: &CompareRequest) -> Outcome<CompareResponse> {
    let git = request.place.git();
    let (tree, mirror) = (request.tree.as_path(), request.place.mirror.as_path());
    let own = own_repository::read(&git, tree, mirror, &request.known)?;
    let mut known = request.known.clone();
    if let Some(head) = own.head {
        known.retain(|commit| *commit != head);
        known.insert(0, head);
    }
    let mut changes = compare(&git, request, &known)?;
    let named: BTreeSet<TreePath> = changes.items.iter().map(|item| item.path.clone()).collect();
    changes.items.extend(own.items.into_iter().filter(|item| !named.contains(&item.path)));
    changes.tips = own.tips.into_iter().filter(|tip| !request.held.contains(&tip.commit)).collect();
    changes.not_comparable = changes.not_comparable.or(own.unknown);
    let is_kept = matches!(request.moves, Moves::Moved(_)) && !changes.is_none();
    let size = if is_kept { disk::usage(tree, u64::MAX).bytes } else { 0 };
    Ok(CompareResponse { changes, size })
}

/// Compares the files of a tree, without its repository.
///
/// # Errors
/// As [`handle`].
pub(super) fn files(request: &CompareRequest) -> Outcome<LocalChanges> {
    compare(&request.place.git(), request, &request.known)
}

/// The differences found so far.
struct Differences {
    differing: BTreeMap<PathBuf, ChangeKind>,
    untracked: Untracked,
}

fn compare(git: &Git, request: &CompareRequest, known: &[CommitId]) -> Outcome<LocalChanges> {
    let (tree, mirror) = (request.tree.as_path(), request.place.mirror.as_path());
    let comparer = Comparer { git, mirror, tree, scratch: request.place.scratch.as_path() };
    let mut readable = known.iter().filter_map(|commit| match files_of(git, mirror, commit) {
        Ok(files) => files.map(|files| Ok((commit, files))),
        Err(failure) => Some(Err(failure)),
    });
    let Some((base, files)) = readable.next().transpose()? else {
        return Ok(LocalChanges::not_comparable("the mirror has no commit to compare it with".to_owned()));
    };
    let kept = kept_paths(request, base, known)?;
    let outputs = match request.moves {
        Moves::Moved(_) => request.outputs.clone().of_moved_tree(),
        Moves::Would { .. } => request.outputs.clone(),
    };
    let mut tracked = Tracked::default();
    tracked.add(files.values().cloned().collect());
    // A path that should have moved but is still in the tree counts as content: the next tree has its own version.
    let none = BTreeMap::new();
    let (still, moved) = match request.moves {
        Moves::Moved(_) => (&none, &kept),
        Moves::Would { .. } => (&kept, &none),
    };
    let walk = |tracked: &Tracked| {
        untracked::walk(tree, &Accounts { tracked, kept: still, moved, outputs: &outputs })
    };
    let raw = comparer.compare(base, &files)?;
    let left_out = left_out(&comparer, base)?;
    let mut found = Differences { differing: raw.files, untracked: walk(&tracked) };
    found.differing.retain(|path, kind| {
        let has_moved = covers(moved, path).is_some();
        !(untracked::is_byte_code(tree, path, moved)
            || outputs.vouch(tree, path)
            || *kind == ChangeKind::Deleted && (has_moved || left_out.contains(path)))
    });
    while !(found.differing.is_empty() && found.untracked.entries.is_empty()) {
        let Some((commit, others)) = readable.next().transpose()? else { break };
        let new = explain(&comparer, commit, &others, &files, &mut found)?;
        if !new.is_empty() {
            tracked.add(others.into_values().filter(|file| new.contains(&file.path)).collect());
            found.untracked = walk(&tracked);
        }
    }
    let unreadable = found.untracked.unreadable.first();
    let unreadable = unreadable.map(|path| format!("{} cannot be read", TreePath::from(tree.join(path))));
    let warned = raw.warnings.first().map(|line| format!("git: {line}"));
    Ok(LocalChanges {
        base: Some(base.clone()),
        not_comparable: unreadable.or(warned),
        ..listed(found, &kept)
    })
}

/// Lists the tracked files that a sparse checkout of the tree leaves out. Only the index is read, and nothing else of
/// its repository.
fn left_out(comparer: &Comparer<'_>, base: &CommitId) -> Outcome<BTreeSet<PathBuf>> {
    let git_dir = comparer.tree.join(".git");
    let has = |name: &str| git_dir.join(name).symlink_metadata().is_ok_and(|found| found.is_file());
    if !(has("info/sparse-checkout") && has("index"))
        || repository_obstacles::unreadable_file(&git_dir).is_some()
    {
        return Ok(BTreeSet::new());
    }
    let repository = comparer.scratch_repository(differences::RAW, base)?.with_index(git_dir.join("index"));
    let program = comparer.git.at(&repository).args(["-c", "advice.sparseIndexExpanded=false"]);
    let program = program.args(["ls-files", "-t", "-z"]);
    // If the mirror lacks the directories that the index leaves out, there is no answer: then they count as local
    // changes.
    let Ok(listed) = own_repository::answer(comparer.git, program)? else { return Ok(BTreeSet::new()) };
    // An entry that is left out has the mark S (git-ls-files(1)).
    Ok(records(&listed.stdout).filter_map(|record| record.strip_prefix(b"S ")).map(path_of).collect())
}

/// Removes the differences that `commit` explains from `found`. Returns the files of `commit` that are on disk and not
/// in `base`.
fn explain(
    comparer: &Comparer<'_>,
    commit: &CommitId,
    others: &Files,
    base: &Files,
    found: &mut Differences,
) -> Outcome<BTreeSet<PathBuf>> {
    let is_wanted = |path: &&PathBuf| {
        (found.differing.contains_key(*path) || !base.contains_key(*path))
            && comparer.tree.join(path).symlink_metadata().is_ok()
    };
    let candidates: BTreeSet<PathBuf> = others.keys().filter(is_wanted).cloned().collect();
    let same = if candidates.is_empty() {
        BTreeSet::new()
    } else {
        differences::unchanged(comparer, commit, others, candidates)?
    };
    found.differing.retain(|path, kind| {
        !(same.contains(path) || *kind == ChangeKind::Deleted && !others.contains_key(path))
    });
    Ok(same.into_iter().filter(|path| !base.contains_key(path)).collect())
}

/// Returns the paths that move, or have moved, to the next tree.
fn kept_paths(
    request: &CompareRequest,
    base: &CommitId,
    known: &[CommitId],
) -> Outcome<BTreeMap<PathBuf, Reason>> {
    let kept = match &request.moves {
        Moves::Moved(kept) => kept.clone(),
        Moves::Would { commit, preserve, ignored } => {
            let commit = commit.as_ref().unwrap_or(base).clone();
            kept::list(&ListKeptRequest {
                place: request.place.clone(),
                app: request.tree.clone(),
                known: known.iter().filter(|known| **known != commit).cloned().collect(),
                commit,
                preserve: preserve.clone(),
                ignored: *ignored,
            })?
            .paths
        }
    };
    Ok(kept.into_iter().map(|kept| (kept.path.as_path().to_path_buf(), kept.reason)).collect())
}

/// Returns why `path`, or a directory above it, moves to the next tree.
fn covers(kept: &BTreeMap<PathBuf, Reason>, path: &Path) -> Option<Reason> {
    path.ancestors().find_map(|part| kept.get(part)).copied()
}

fn listed(found: Differences, kept: &BTreeMap<PathBuf, Reason>) -> LocalChanges {
    let tracked = found.differing.into_iter().map(|(path, kind)| {
        let preserved = kind != ChangeKind::Deleted && covers(kept, &path) == Some(Reason::Preserved);
        LocalChange { path: path.into(), kind, preserved }
    });
    let untracked = found.untracked.entries.into_iter().map(|(path, is_directory)| {
        let kind = if is_directory { ChangeKind::UntrackedDirectory } else { ChangeKind::Untracked };
        LocalChange { path: path.into(), kind, preserved: false }
    });
    let preserved = found.untracked.kept.iter().filter(|(_, reason)| *reason == Reason::Preserved);
    let preserved = preserved.map(|(path, _)| {
        let path = path.as_path().into();
        LocalChange { path, kind: ChangeKind::Untracked, preserved: true }
    });
    let items = tracked.chain(untracked).chain(preserved).collect();
    let ignored = found.untracked.kept.iter().filter(|(_, reason)| *reason == Reason::Ignored);
    let ignored = ignored.map(|(path, _)| path.as_path().into()).collect();
    LocalChanges { items, ignored, ..LocalChanges::default() }
}

/// Returns the files of a commit by path; `None` if the mirror does not have the commit.
pub(super) fn files_of(git: &Git, mirror: &Path, commit: &CommitId) -> Outcome<Option<Files>> {
    let files = paths::tracked(git, mirror, commit)?;
    Ok(files.map(|files| files.into_iter().map(|file| (file.path.clone(), file)).collect()))
}
