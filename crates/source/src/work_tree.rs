//! The state of `app/` and its repository, read as the service user in an operation that changes nothing.
//!
//! Its answer protects the owner of the tree and verifies nothing. The repository may be designed to block git. So each
//! git command has a short deadline, and no file is opened that could be a pipe.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_git::locks::locks;
use refresh_git::path::TreePath;
use refresh_git::{Git, Repository};
use refresh_installation::installation::Installation;
use refresh_programs::units::{Role, UnitOptions, Units};
use refresh_settings::layout::Layout;
use refresh_settings::names::CommitId;
use refresh_system::disk::Owner;
use refresh_system::disk::beneath::{Directory, Obstacle};
use refresh_system::error::Outcome;
use refresh_system::text::{quoted, quoted_path};

use super::operation_request::{DEADLINE, RepositoryRequest};
use super::own_repository::{answer, read_small};
use super::repository_obstacles::{self, REF};

/// The operation.
pub(crate) const OPERATION: &str = "source-read-work-tree";

/// The largest number of entries of a tree that are examined for obstacles to a move. The service user controls their
/// number, and must not be able to block a refresh with them.
const EXAMINED: usize = 200_000;

/// The kind of `app/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeKind {
    /// It is missing, or an empty directory.
    Absent,
    /// It is not a real directory.
    NotADirectory,
    /// It is a directory without a repository.
    NoRepository,
    /// Its `.git` is a file or link that leads elsewhere: a working tree of another repository.
    ForeignRepository,
    /// It has its own repository.
    Repository,
}

/// The content of HEAD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// A branch, with the name that follows `refs/heads/`.
    Branch(String),
    /// A commit.
    Detached(CommitId),
    /// Its content is not understood.
    Broken,
}

/// The state of the working tree and its repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeState {
    /// Its kind.
    pub kind: TreeKind,
    /// The content of HEAD, if there is a repository.
    pub head: Option<Head>,
    /// The commit of HEAD; `None` if HEAD has none.
    pub commit: Option<CommitId>,
    /// The URL from which people who work in the tree pull, if one is set. A refresh never uses it.
    pub origin: Option<String>,
    /// Lock files in `.git`.
    pub locks: Vec<TreePath>,
    /// Entries that cannot be moved or removed.
    pub immovable: Vec<ImmovableEntry>,
}

/// An entry of the working tree that cannot be moved or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImmovableEntry {
    /// Its path, absolute.
    pub path: TreePath,
    /// The reason.
    pub obstacle: Obstacle,
}

/// Returns the state of `app/` of an installation and of its repository.
///
/// # Errors
/// The errors of [`read`].
pub fn of(on: &Installation) -> Outcome<TreeState> {
    read(&on.layout, on.git(), &on.units)
}

/// Reads the state of `app/`.
///
/// # Errors
/// The operation cannot be started, or takes too long.
pub fn read(layout: &Layout, git: &Git, units: &Units) -> Outcome<TreeState> {
    let request = RepositoryRequest::new(git, layout);
    let mut state: TreeState = units.call(&UnitOptions::new(Role::Inspect, DEADLINE), OPERATION, &request)?;
    if rustix::process::geteuid().is_root() {
        // The service user cannot move these; the conductor does.
        state.immovable.retain(|entry| entry.obstacle != Obstacle::Owner);
    }
    Ok(state)
}

/// Performs [`OPERATION`].
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
    if repository_obstacles::unreadable_file(&git_dir).is_none() {
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

/// Finds the entries below `app`, at any depth, that cannot be moved or removed. The conductor finds mounts: this unit
/// has its own mounts.
fn immovable(app: &Path) -> Vec<ImmovableEntry> {
    let (mut found, mut left) = (Vec::new(), EXAMINED);
    let mut directories: Vec<PathBuf> = vec![app.to_path_buf()];
    while let Some(path) = directories.pop() {
        // A directory that cannot be read, or whose path is too long, moves with the directory above it.
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

/// Returns the command that sets the origin of the clone at `app`, for the user of this process to type. Git executes
/// the programs that the clone's configuration names, so only its owner starts git there, never root for the owner.
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
