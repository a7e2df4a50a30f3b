//! The state of `app/` and its repository, read as the service user in an operation that changes nothing.
//!
//! What it answers protects the owner of the tree and proves nothing. The repository may be made to hold git up, so each
//! git has a short deadline, and no file is opened that could be a pipe.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_git::locks::locks;
use refresh_git::path::TreePath;
use refresh_git::{Git, Repository};
use refresh_installation::installation::Installation;
use refresh_programs::units::{Job, Role, Units};
use refresh_settings::layout::Layout;
use refresh_settings::names::CommitId;
use refresh_system::disk::Owner;
use refresh_system::disk::beneath::{Directory, Obstacle};
use refresh_system::error::Outcome;
use refresh_system::text::{quoted, quoted_path};

use super::operation_request::{DEADLINE, RepositoryRequest};
use super::own_repository::{self, REF, answer, read_small};

/// The operation.
pub(crate) const OPERATION: &str = "source-read-work-tree";

/// How many entries of a tree are examined for what cannot be moved. The service user decides how many there are, and
/// must not be able to hold a refresh up with them.
const EXAMINED: usize = 200_000;

/// What kind of thing `app/` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeKind {
    /// Nothing, or an empty directory.
    Absent,
    /// It is not a real directory.
    NotADirectory,
    /// It is a directory without a repository.
    NoRepository,
    /// Its `.git` is a file or link that leads elsewhere: a work tree of another repository.
    ForeignRepository,
    /// It is its own repository.
    Repository,
}

/// What HEAD holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// A branch, with the name that follows `refs/heads/`.
    Branch(String),
    /// A commit.
    Detached(CommitId),
    /// Nothing that can be understood.
    Broken,
}

/// The state of the work tree and its repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeState {
    /// What it is.
    pub kind: TreeKind,
    /// What HEAD holds, in a repository.
    pub head: Option<Head>,
    /// The commit that HEAD stands for; `None` if it stands for none.
    pub commit: Option<CommitId>,
    /// The URL that people who work in the tree pull from, if one is set. A refresh never uses it.
    pub origin: Option<String>,
    /// Lock files in `.git`.
    pub locks: Vec<TreePath>,
    /// Entries that cannot be moved or removed.
    pub immovable: Vec<ImmovableEntry>,
}

/// An entry of the work tree that cannot be moved or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImmovableEntry {
    /// Its path, absolute.
    pub path: TreePath,
    /// Why.
    pub obstacle: Obstacle,
}

/// Returns the state of `app/` of an installation and of its repository.
///
/// # Errors
/// As [`read`].
pub fn of(on: &Installation) -> Outcome<TreeState> {
    read(&on.layout, on.git(), &on.units)
}

/// Reads the state of `app/`.
///
/// # Errors
/// The operation cannot be started, or takes too long.
pub fn read(layout: &Layout, git: &Git, units: &Units) -> Outcome<TreeState> {
    let request = RepositoryRequest::new(git, layout);
    let mut state: TreeState = units.call(&Job::new(Role::Inspect, DEADLINE), OPERATION, &request)?;
    if rustix::process::geteuid().is_root() {
        // The service user cannot move these; the conductor does.
        state.immovable.retain(|entry| entry.obstacle != Obstacle::Owner);
    }
    Ok(state)
}

/// Carries out [`OPERATION`].
///
/// # Errors
/// git cannot be started.
pub(crate) fn handle(request: &RepositoryRequest) -> Outcome<TreeState> {
    let app = request.app.as_path();
    let git_dir = app.join(".git");
    let mut state = TreeState {
        kind: kind_of(app),
        head: None,
        commit: None,
        origin: None,
        locks: Vec::new(),
        immovable: immovable(app),
    };
    if state.kind != TreeKind::Repository {
        return Ok(state);
    }
    state.head = Some(head_of(&git_dir));
    state.locks = locks(&git_dir).into_iter().map(TreePath::from).collect();
    if own_repository::unreadable_file(&git_dir).is_none() {
        let git = request.git();
        let ask = |arguments: &[&str]| -> Outcome<Option<String>> {
            let program = git.at(&Repository::bare(&git_dir).passing()).args(arguments);
            Ok(answer(&git, program)?.ok().map(|answered| answered.text().trim().to_owned()))
        };
        let commit = ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?;
        state.commit = commit.and_then(|text| CommitId::parse(&text).ok());
        state.origin = ask(&["config", "--get", "remote.origin.url"])?.filter(|url| !url.is_empty());
    }
    Ok(state)
}

fn kind_of(app: &Path) -> TreeKind {
    let Ok(found) = fs::symlink_metadata(app) else { return TreeKind::Absent };
    if !found.is_dir() {
        return TreeKind::NotADirectory;
    }
    match fs::symlink_metadata(app.join(".git")) {
        Ok(git) if git.is_dir() => TreeKind::Repository,
        Ok(_) => TreeKind::ForeignRepository,
        Err(_) if fs::read_dir(app).is_ok_and(|mut entries| entries.next().is_none()) => TreeKind::Absent,
        Err(_) => TreeKind::NoRepository,
    }
}

/// Reads HEAD without git, which refuses a repository whose HEAD is broken.
fn head_of(git_dir: &Path) -> Head {
    let bytes = read_small(&git_dir.join("HEAD"), REF).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    match text.strip_prefix("ref: refs/heads/") {
        Some(branch) if !branch.is_empty() => Head::Branch(branch.to_owned()),
        _ => CommitId::parse(text).map_or(Head::Broken, Head::Detached),
    }
}

/// Finds the entries below `app`, however deep, that cannot be moved or removed. What is mounted is found by the
/// conductor: this unit has its own mounts.
fn immovable(app: &Path) -> Vec<ImmovableEntry> {
    let (mut found, mut left) = (Vec::new(), EXAMINED);
    let mut directories: Vec<PathBuf> = vec![app.to_path_buf()];
    while let Some(path) = directories.pop() {
        // One that cannot be read, or is deeper than a path reaches, moves with the directory above it.
        let Ok(directory) = Directory::open(&path, Path::new("")) else { continue };
        for listed in fs::read_dir(&path).into_iter().flatten().flatten().take(left) {
            left -= 1;
            let Ok(Some(entry)) = directory.entry(&listed.file_name()) else { continue };
            let path = path.join(&entry.name);
            if let Some(obstacle) = entry.obstacle.filter(|obstacle| *obstacle != Obstacle::Mount) {
                found.push(ImmovableEntry { path: path.as_path().into(), obstacle });
            }
            if entry.is_directory {
                directories.push(path);
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Returns the command that sets the origin of the clone at `app`, to be typed by the user of this process. Git obeys what
/// the clone's configuration names, so only its owner starts git there, never root for the owner.
pub fn set_origin_command(owner: Owner, app: &Path, url: &str) -> String {
    let git = format!("git -C {} remote set-url origin {}", quoted_path(app), quoted(url));
    if owner.uid == rustix::process::geteuid().as_raw() {
        return git;
    }
    let name = owner.name().unwrap_or_else(|| format!("#{}", owner.uid));
    format!("sudo -u {} {git}", quoted(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_of_a_clone_starts_git_in_it() {
        let own = rustix::process::geteuid().as_raw();
        let command = |uid| set_origin_command(Owner { uid, gid: 0 }, Path::new("/a b"), "https://h/r;id");
        assert_eq!(command(own), "git -C '/a b' remote set-url origin 'https://h/r;id'");
        assert_eq!(command(own + 61_900), format!("sudo -u '#{}' {}", own + 61_900, command(own)));
    }
}
