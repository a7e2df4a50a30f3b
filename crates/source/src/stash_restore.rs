//! Copies files of a stash back into `app/`: the stash keeps them.
//!
//! It runs as the service user. Nothing is written if one of the files cannot be written to its place. A file of `app/`
//! that equals neither the stashed file nor the original of the change stays, unless the caller uses `--overwrite`. A
//! database and its companion files are restored together or not at all.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_git::{Git, LONG, Repository, allowing};
use refresh_installation::installation::Installation;
use refresh_programs::units::{Role, UnitOptions};
use refresh_settings::names::{CommitId, RunId};
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};

use super::differences::{self, Comparer};
use super::kept::{companions, database_of};
use super::local::{ChangeKind, LocalChange, LocalName};
use super::operation_request::{GitLocation, Scratch};
use super::{compare, stash};

/// The operation.
pub(crate) const OPERATION: &str = "source-stash-restore";

/// The time limit of a copy.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The largest number of files in a refusal.
const NAMED: usize = 5;

/// The files to restore.
#[derive(Debug, Clone)]
pub struct RestoreChoice {
    /// These paths with everything below them; if empty, all changes of the stash.
    pub paths: Vec<TreePath>,
    /// Whether a different file of `app/` is replaced.
    pub overwrite: bool,
}

/// The files to restore, and their place.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RestoreStashRequest {
    /// The location of git and of the mirror.
    pub place: GitLocation,
    /// The run.
    pub run: RunId,
    /// The kept tree.
    pub stash: TreePath,
    /// The tree to write to.
    pub app: TreePath,
    /// The commit that the kept tree was compared with.
    pub base: Option<CommitId>,
    /// The changes of the stash.
    pub changes: Vec<LocalChange>,
    /// The local names of the stash.
    pub names: Vec<LocalName>,
    /// The chosen paths.
    pub paths: Vec<TreePath>,
    /// Whether a different file of `app/` is replaced.
    pub overwrite: bool,
}

/// The result of a restore.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RestoreStashResponse {
    /// The files that were written.
    pub paths: Vec<TreePath>,
    /// Files that were deleted locally; they are not deleted again.
    pub deleted: Vec<TreePath>,
    /// Names in `app/.git` that now refer to the local commits.
    pub refs: Vec<String>,
}

/// Restores files of the stash of `run`.
///
/// # Errors
/// The run has no stash, a path is not in it, or a file is in the way; then nothing is written.
pub fn restore(on: &Installation, run: &RunId, choice: RestoreChoice) -> Outcome<RestoreStashResponse> {
    let record = stash::find(&on.layout, run)?;
    Scratch::with(on, |scratch| {
        let request = RestoreStashRequest {
            place: GitLocation::of(on, scratch),
            run: run.clone(),
            stash: on.layout.stash(run).into(),
            app: on.layout.app().into(),
            base: record.changes.base,
            changes: record.changes.items,
            names: record.changes.tips,
            paths: choice.paths,
            overwrite: choice.overwrite,
        };
        let options =
            UnitOptions::new(Role::Inspect, DEADLINE).writes(scratch.path()).writes(on.layout.app());
        on.units.call(&options, OPERATION, &request)
    })
}

/// Performs [`OPERATION`].
///
/// # Errors
/// The errors of [`restore`].
pub(crate) fn handle(request: &RestoreStashRequest) -> Outcome<RestoreStashResponse> {
    let git = request.place.git();
    let mut response = RestoreStashResponse::default();
    let files = choose(request, &mut response)?;
    check(&git, request, &files)?;
    for file in files {
        copy(request, &file)?;
        response.paths.push(file.into());
    }
    if request.paths.is_empty() {
        response.refs = fetch_names(&git, request)?;
    }
    disk::sync_file_system(request.app.as_path())?;
    Ok(response)
}

/// Returns the files to copy, as paths below the tree.
fn choose(request: &RestoreStashRequest, response: &mut RestoreStashResponse) -> Outcome<BTreeSet<PathBuf>> {
    let stash = request.stash.as_path();
    let mut files = BTreeSet::new();
    let is_chosen = |path: &Path| {
        request.paths.is_empty() || request.paths.iter().any(|chosen| path.starts_with(chosen.as_path()))
    };
    let deleted = request.changes.iter().filter(|change| change.kind == ChangeKind::Deleted);
    response.deleted =
        deleted.map(|change| change.path.clone()).filter(|path| is_chosen(path.as_path())).collect();
    if request.paths.is_empty() {
        for change in &request.changes {
            if !matches!(change.kind, ChangeKind::Deleted | ChangeKind::Staged | ChangeKind::GitState) {
                collect(stash, change.path.as_path(), &mut files)?;
            }
        }
    }
    for path in request.paths.iter().map(TreePath::as_path) {
        let is_plain =
            path.components().all(|part| matches!(part, Component::Normal(name) if name != ".git"));
        let is_below_links = path
            .ancestors()
            .skip(1)
            .any(|above| stash.join(above).symlink_metadata().is_ok_and(|found| found.is_symlink()));
        let exists = is_plain && !is_below_links && stash.join(path).symlink_metadata().is_ok();
        if !exists && response.deleted.iter().any(|deleted| deleted.as_path().starts_with(path)) {
            continue;
        }
        if !exists {
            return Err(Failure::new(format!("the stash has no {}", TreePath::from(path)))
                .command("ladylinux-refresh stash show", &[&request.run]));
        }
        collect(stash, path, &mut files)?;
    }
    let companions: Vec<PathBuf> = files.iter().flat_map(|file| companions(file)).collect();
    files.extend(companions.into_iter().filter(|path| stash.join(path).symlink_metadata().is_ok()));
    Ok(files)
}

/// Adds a file, or every file below a directory.
fn collect(stash: &Path, path: &Path, files: &mut BTreeSet<PathBuf>) -> Outcome<()> {
    let at = stash.join(path);
    let step = || format!("cannot read {}", at.display());
    let found = fs::symlink_metadata(&at).context(step)?;
    if found.is_dir() {
        for entry in fs::read_dir(&at).context(step)? {
            collect(stash, &path.join(entry.context(step)?.file_name()), files)?;
        }
    } else if found.is_file() || found.is_symlink() {
        files.insert(path.to_path_buf());
    } else {
        return Err(Failure::new(format!("{} is a pipe, a socket or a device", at.display())));
    }
    Ok(())
}

/// Refuses the entire restore, before a file is written, if one of the files cannot be written to its place.
fn check(git: &Git, request: &RestoreStashRequest, files: &BTreeSet<PathBuf>) -> Outcome<()> {
    let app = request.app.as_path();
    for file in files {
        let mut above = file.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
        if let Some(above) = above.find(|above| is_no_directory(&app.join(above))) {
            let (above, file) = (TreePath::from(above), TreePath::from(file.as_path()));
            return Err(Failure::new(format!("{file} cannot be restored: {above} is not a directory")));
        }
        check_database(request, file, files)?;
    }
    if request.overwrite {
        return Ok(());
    }
    let unchanged = unchanged(git, request, files)?;
    let mut reasons = Vec::new();
    for file in files.iter().filter(|file| !unchanged.contains(*file)) {
        reasons.extend(reason_against(request, file)?.map(|reason| (file, reason)));
    }
    let Some((first, _)) = reasons.first() else { return Ok(()) };
    let named = reasons.iter().take(NAMED);
    let named: Vec<String> =
        named.map(|(file, reason)| format!("{} {reason}", TreePath::from(file.as_path()))).collect();
    let more = match reasons.len() - named.len() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Err(Failure::new(format!("{}{more}", named.join("; ")))
        .command("ladylinux-refresh stash show", &[&request.run.as_str(), first])
        .hint("add --overwrite to replace the files of app/"))
}

fn is_no_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir())
}

/// Refuses to combine a database of one time with companion files of another; no option allows that.
fn check_database(request: &RestoreStashRequest, file: &Path, files: &BTreeSet<PathBuf>) -> Outcome<()> {
    let app = request.app.as_path();
    let exists = |path: &Path| app.join(path).symlink_metadata().is_ok();
    if let Some(database) = database_of(file)
        && !files.contains(&database)
        && exists(&database)
    {
        let (file, database) = (TreePath::from(file), TreePath::from(database));
        return Err(Failure::new(format!("{file} belongs to another state of the database {database}"))
            .hint("restore the database together with it, with the service stopped"));
    }
    let newer = companions(file).find(|companion| exists(companion) && !files.contains(companion));
    match newer {
        None => Ok(()),
        Some(companion) => {
            let (file, companion) = (TreePath::from(file), TreePath::from(companion));
            Err(Failure::new(format!("{companion} in app/ belongs to another state of the database {file}"))
                .hint(format!("stop the service, and move {companion} away")))
        }
    }
}

/// Returns those of `files` that are unchanged in `app/` since the commit with which the kept tree was compared.
fn unchanged(
    git: &Git,
    request: &RestoreStashRequest,
    files: &BTreeSet<PathBuf>,
) -> Outcome<BTreeSet<PathBuf>> {
    let mirror = request.place.mirror.as_path();
    let Some(base) = &request.base else { return Ok(BTreeSet::new()) };
    let Some(tracked) = compare::files_of(git, mirror, base)? else { return Ok(BTreeSet::new()) };
    let wanted: BTreeSet<PathBuf> =
        files.iter().filter(|file| tracked.contains_key(*file)).cloned().collect();
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let (app, scratch) = (request.app.as_path(), request.place.scratch.as_path());
    differences::unchanged(&Comparer { git, mirror, tree: app, scratch }, base, &tracked, wanted)
}

/// Returns why a file must not be written to its place without `--overwrite`.
fn reason_against(request: &RestoreStashRequest, file: &Path) -> Outcome<Option<&'static str>> {
    let (from, to) = (request.stash.as_path().join(file), request.app.as_path().join(file));
    let was_tracked = request.changes.iter().any(|change| {
        let is_tracked = matches!(change.kind, ChangeKind::Modified | ChangeKind::Mode | ChangeKind::Type);
        change.path.as_path() == file && is_tracked
    });
    let Ok(found) = fs::symlink_metadata(&to) else {
        return Ok(was_tracked.then_some("was removed by a later commit"));
    };
    let kept = fs::symlink_metadata(&from).context(|| format!("cannot examine {}", from.display()))?;
    let same = if found.is_symlink() && kept.is_symlink() {
        fs::read_link(&to).ok() == fs::read_link(&from).ok()
    } else {
        found.is_file() && kept.is_file() && differences::same_bytes(&from, &to)? == Some(true)
    };
    Ok((!same).then_some("exists in app/ and differs"))
}

/// Copies one file to its place.
fn copy(request: &RestoreStashRequest, file: &Path) -> Outcome<()> {
    let (from, to) = (request.stash.as_path().join(file), request.app.as_path().join(file));
    let mut directory = PathBuf::new();
    for part in file.parent().into_iter().flatten() {
        directory.push(part);
        let at = request.app.as_path().join(&directory);
        if at.symlink_metadata().is_err() {
            let mode = fs::symlink_metadata(request.stash.as_path().join(&directory));
            let mode = mode.context(|| format!("cannot examine {}", directory.display()))?.mode() & 0o7777;
            disk::make_new_directory(&at, mode | 0o700)?;
        }
    }
    let fresh = to.with_file_name(".ladylinux-refresh-restore");
    disk::remove_tree(&fresh)?;
    disk::copy_new(&from, &fresh)?;
    if to.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        disk::exchange(&fresh, &to)?;
        return disk::remove_tree(&fresh);
    }
    disk::move_over(&fresh, &to)
}

/// Fetches local commits of the kept repository into `app/.git`, as `refs/saved/<run>/<name>`.
fn fetch_names(git: &Git, request: &RestoreStashRequest) -> Outcome<Vec<String>> {
    let mut refs = Vec::new();
    if request.names.is_empty() {
        return Ok(refs);
    }
    let own = Repository::bare(request.app.as_path().join(".git"));
    let mut program = allowing(git.at(&own), "file")
        .args(["fetch", "--quiet", "--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--"])
        .arg(request.stash.as_path().join(".git"));
    for tip in &request.names {
        let name = format!("refs/saved/{}/{}", request.run, tip.name);
        program = program.arg(format!("+{}:{name}", tip.commit));
        refs.push(name);
    }
    let step = || "the files are restored, but not the local commits".to_owned();
    git.run(&program.deadline(LONG), step)?;
    Ok(refs)
}
