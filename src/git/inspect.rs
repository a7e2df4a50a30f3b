//! Looks at the work tree and its repository, and changes nothing.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, IFlags, Mode, OFlags, ioctl_getflags, open};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Failure, Outcome};
use crate::process::identity::all_pids;
use crate::process::{Owner, ProcessId};
use crate::report::shell::quoted_path;
use crate::settings::names::CommitId;

use super::path::TreePath;
use super::tree::{Place, Tree, is_there};

/// The worker's operation for [`handle`].
pub const OPERATION: &str = "git-inspect";
/// The worker's operation for [`handle_unremovable`].
pub const UNREMOVABLE: &str = "git-unremovable";

/// The worker's operation for [`handle_origin`].
pub const ORIGIN: &str = "git-origin";

/// What a worker is asked to look at.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub place: Place,
}

/// What kind of thing `app/` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeKind {
    /// There is nothing, or an empty folder.
    Absent,
    /// It is not a real folder.
    NotAFolder,
    /// It is a folder without a repository.
    NoRepository,
    /// Its `.git` is a file or link that leads elsewhere: a work tree of another repository.
    ForeignRepository,
    /// It is a repository of its own.
    Repository,
}

/// What HEAD says.
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
    /// What HEAD says, in a repository.
    pub head: Option<Head>,
    /// The commit that HEAD stands for; `None` where it stands for none.
    pub commit: Option<CommitId>,
    /// Whether the history was cut off.
    pub shallow: bool,
    /// Repositories inside the tree, by the folder that holds `.git`.
    pub nested: Vec<TreePath>,
    /// Lock files in `.git`.
    pub locks: Vec<TreePath>,
    /// Files in `.git` of operations in progress (a merge, a rebase …), and those that bend what a checkout does.
    pub operations: Vec<String>,
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// The tree cannot be read.
pub fn handle(request: &Request) -> Outcome<TreeState> {
    let tree = Tree::enter(&request.place);
    let kind = kind_of(&tree.app);
    let git_dir = tree.git_dir();
    let in_repository = kind == TreeKind::Repository;
    let can_be_read = in_repository && is_without_pipes(&git_dir);
    let state = TreeState {
        kind,
        head: in_repository.then(|| if can_be_read { head_of(&git_dir) } else { Head::Broken }),
        commit: if can_be_read { tree.head()? } else { None },
        shallow: is_there(&git_dir.join("shallow")),
        nested: nested_repositories(&tree.app),
        locks: if in_repository {
            locks(&git_dir).into_iter().map(TreePath::from).collect()
        } else {
            Vec::new()
        },
        operations: operation_files(&git_dir).into_iter().map(str::to_owned).collect(),
    };
    tree.leave()?;
    Ok(state)
}

/// Does the worker's side of [`ORIGIN`]: reads the URL that people who work in the tree pull from. A refresh never asks.
///
/// # Errors
/// git cannot be started.
pub fn handle_origin(request: &Request) -> Outcome<Option<String>> {
    let tree = Tree::enter(&request.place);
    let program = tree.own().args(["config", "--get", "remote.origin.url"]);
    let found = tree.git.runner().run(&program)?;
    tree.leave()?;
    Ok(found.succeeded().then(|| found.text().trim().to_owned()).filter(|url| !url.is_empty()))
}

/// Tells whether git can ask for HEAD without waiting for ever: what it reads on the way is no pipe, socket or device.
fn is_without_pipes(git_dir: &Path) -> bool {
    let read = ["HEAD", "config", "packed-refs", "shallow", "info/exclude", "objects/info/alternates"];
    let is_plain = |name: &str| match fs::metadata(git_dir.join(name)) {
        Ok(found) => found.is_file() || found.is_dir(),
        Err(_) => true,
    };
    read.into_iter().all(is_plain)
}

fn kind_of(app: &Path) -> TreeKind {
    let Ok(found) = fs::symlink_metadata(app) else { return TreeKind::Absent };
    if !found.is_dir() {
        return TreeKind::NotAFolder;
    }
    match fs::symlink_metadata(app.join(".git")) {
        Ok(git) if git.is_dir() => TreeKind::Repository,
        Ok(_) => TreeKind::ForeignRepository,
        Err(_) if fs::read_dir(app).is_ok_and(|mut entries| entries.next().is_none()) => TreeKind::Absent,
        Err(_) => TreeKind::NoRepository,
    }
}

/// The failure for a work tree that is none.
pub(super) fn no_repository(app: &Path) -> Failure {
    Failure::new(format!("{} is not a git repository of its own", app.display()))
        .hint("move it away and run `ladylinux-refresh init --repo URL`, which clones it anew")
}

/// Reads HEAD without git, which refuses a repository whose HEAD is broken.
pub(super) fn head_of(git_dir: &Path) -> Head {
    let text = fs::read_to_string(git_dir.join("HEAD")).unwrap_or_default();
    let text = text.trim();
    match text.strip_prefix("ref: refs/heads/") {
        Some(branch) if !branch.is_empty() => Head::Branch(branch.to_owned()),
        _ => CommitId::parse(text).map_or(Head::Broken, Head::Detached),
    }
}

/// The files and folders in `.git` that stand for an operation in progress, or bend what a checkout does.
pub(crate) fn operation_files(git_dir: &Path) -> Vec<&'static str> {
    [
        "MERGE_HEAD",
        "MERGE_MSG",
        "MERGE_MODE",
        "AUTO_MERGE",
        "SQUASH_MSG",
        "CHERRY_PICK_HEAD",
        "REVERT_HEAD",
        "REBASE_HEAD",
        "BISECT_LOG",
        "BISECT_START",
        "BISECT_NAMES",
        "BISECT_TERMS",
        "BISECT_EXPECTED_REV",
        "BISECT_ANCESTORS_OK",
        "rebase-merge",
        "rebase-apply",
        "sequencer",
        "info/attributes",
        "info/sparse-checkout",
        "info/grafts",
    ]
    .into_iter()
    .filter(|name| is_there(&git_dir.join(name)))
    .collect()
}

/// The lock files in `.git`, absolute.
pub fn locks(git_dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let is_lock = |path: &Path| path.extension().is_some_and(|ending| ending == "lock");
    for entry in fs::read_dir(git_dir).into_iter().flatten().flatten() {
        if is_lock(&entry.path()) {
            found.push(entry.path());
        }
    }
    locks_below(&git_dir.join("refs"), &mut found);
    found.sort();
    found
}

fn locks_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            locks_below(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "lock") {
            found.push(path);
        }
    }
}

/// Repositories below the tree, to a depth at which people make them.
fn nested_repositories(app: &Path) -> Vec<TreePath> {
    let mut found = Vec::new();
    let mut folders = vec![(app.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_folder || entry.file_name() == ".git" {
                continue;
            }
            if is_there(&entry.path().join(".git")) {
                found.push(entry.path().strip_prefix(app).unwrap_or(&entry.path()).into());
            } else if depth < 3 {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    found.sort();
    found
}

/// Processes that are at work in the repository: a lock file is open, or git runs with its working directory in the
/// tree. Only names of links below `/proc` are read, nothing in the tree itself.
pub fn holders(app: &Path) -> Vec<String> {
    let git_dir = app.join(".git");
    let own = ProcessId::own().pid;
    all_pids()
        .into_iter()
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let folder = PathBuf::from(format!("/proc/{pid}"));
            let is_git = fs::read_link(folder.join("exe"))
                .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == "git"));
            let inside = fs::read_link(folder.join("cwd")).is_ok_and(|cwd| cwd.starts_with(app));
            is_git && inside
                || fs::read_dir(folder.join("fd")).into_iter().flatten().flatten().any(|fd| {
                    fs::read_link(fd.path()).is_ok_and(|file| {
                        file.starts_with(&git_dir) && file.extension().is_some_and(|ending| ending == "lock")
                    })
                })
        })
        .filter_map(|pid| ProcessId::of(pid).map(|process| format!("{pid} ({})", process.command())))
        .collect()
}

/// Something in the work tree that its owner cannot remove, read, or let git write to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unremovable {
    /// Where, absolute.
    pub path: TreePath,
    /// Why.
    pub reason: String,
    /// What kind of obstacle it is.
    pub obstacle: Obstacle,
    /// The command that repairs it.
    pub repair: String,
}

/// What keeps the owner of the tree from removing something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// It belongs to somebody else.
    Owner,
    /// A flag of the file system, or its mode.
    Other,
}

/// What repairs an obstacle of the first kind.
const REPAIR: &str = "ladylinux-refresh init --repair-layout";

/// Does the worker's side of [`UNREMOVABLE`].
///
/// # Errors
/// The tree cannot be read.
pub fn handle_unremovable(request: &Request) -> Outcome<Vec<Unremovable>> {
    let app = request.place.app.as_path();
    let mut found = Vec::new();
    let as_root = rustix::process::geteuid().is_root();
    let git_dir = app.join(".git");
    Removal { owner: Owner::own(), as_root, git_dir, found: &mut found }.folder(app)?;
    Ok(found)
}

struct Removal<'a> {
    owner: Owner,
    as_root: bool,
    /// Where git does not only remove, but write.
    git_dir: PathBuf,
    found: &'a mut Vec<Unremovable>,
}

impl Removal<'_> {
    /// Looks at a folder and at everything in it, for what keeps the owner from emptying it.
    fn folder(&mut self, folder: &Path) -> Outcome<()> {
        let told = || format!("cannot look at {}", folder.display());
        let found = match fs::symlink_metadata(folder) {
            // Deeper than a path reaches. It moves with what is above it.
            Err(error) if error.kind() == ErrorKind::InvalidFilename => return Ok(()),
            found => found.context(told)?,
        };
        let mode = found.permissions().mode();
        self.flags(folder);
        let foreign = found.uid() != self.owner.uid && !self.as_root;
        let entries = fs::read_dir(folder);
        let empty =
            entries.as_ref().is_ok_and(|_| fs::read_dir(folder).is_ok_and(|mut all| all.next().is_none()));
        let closed = foreign
            && (!empty || folder.starts_with(&self.git_dir))
            && may_not(folder, Access::WRITE_OK | Access::EXEC_OK);
        if closed {
            let reason =
                format!("it belongs to uid {} and the owner of the tree may not write in it", found.uid());
            self.add(folder, reason, Obstacle::Owner, REPAIR.to_owned());
        }
        let Ok(entries) = entries else {
            // The owner closed it to himself and can open it again.
            return Ok(());
        };
        for entry in entries {
            let entry = entry.context(told)?;
            let Ok(inside) = entry.metadata() else { continue };
            // Who is given the folder can remove all that is in it, sticky or not.
            if mode & 0o1000 != 0 && foreign && !closed && inside.uid() != self.owner.uid {
                let reason = format!("it belongs to uid {} in a sticky folder", inside.uid());
                self.add(&entry.path(), reason, Obstacle::Owner, REPAIR.to_owned());
            } else if inside.is_dir() {
                self.folder(&entry.path())?;
            } else if inside.is_file() {
                self.flags(&entry.path());
                self.file(&entry.path(), &inside);
            }
        }
        Ok(())
    }

    /// Looks whether a file can be read, or else it could not be saved; and written, where it is the log of a ref: git
    /// appends to those. A refresh would halt at either, with the service down.
    fn file(&mut self, path: &Path, found: &fs::Metadata) {
        let foreign = found.uid() != self.owner.uid;
        let what = if may_not(path, Access::READ_OK) {
            "the owner of the tree may not read it"
        } else if foreign && path.starts_with(self.git_dir.join("logs")) && may_not(path, Access::WRITE_OK) {
            "git, as the owner of the tree, may not append to it"
        } else {
            return;
        };
        if foreign {
            let reason = format!("it belongs to uid {} and {what}", found.uid());
            self.add(path, reason, Obstacle::Owner, REPAIR.to_owned());
        } else {
            self.add_command(path, what, "chmod u+r");
        }
    }

    /// Looks for the flags that keep even root from removing a file.
    fn flags(&mut self, path: &Path) {
        let Ok(file) =
            open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        else {
            return;
        };
        let Ok(flags) = ioctl_getflags(&file) else { return };
        if flags.contains(IFlags::IMMUTABLE) {
            self.add_command(path, "it is marked immutable", "chattr -i");
        } else if flags.contains(IFlags::APPEND) {
            self.add_command(path, "it is marked append-only", "chattr -a");
        }
    }

    fn add_command(&mut self, path: &Path, reason: &str, command: &str) {
        let repair = format!("{command} {}", quoted_path(path));
        self.add(path, reason.to_owned(), Obstacle::Other, repair);
    }

    fn add(&mut self, path: &Path, reason: String, obstacle: Obstacle, repair: String) {
        self.found.push(Unremovable { path: path.into(), reason, obstacle, repair });
    }
}

/// Returns `true` where the kernel refuses this access to us. The unit that asks sees the tree read-only; the kernel checks
/// the permissions first, so `EROFS` means that they allow it. Source: access(2).
fn may_not(path: &Path, access: Access) -> bool {
    !matches!(rustix::fs::access(path, access), Ok(()) | Err(Errno::ROFS))
}

/// A line of the kernel's table of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The file system: its device numbers, as text.
    pub device: String,
    /// What of the file system is mounted there: `/` for all of it, a folder for a bind mount.
    pub part: PathBuf,
}

/// Returns the mounts of our own mount namespace, an upper one after those that it covers.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn mounts() -> Outcome<Vec<Mount>> {
    let table = fs::read("/proc/self/mountinfo").context(|| "cannot read the table of mounts".to_owned())?;
    Ok(parse_mounts(&table))
}

/// Returns the mount points at or below `folder`.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn mounts_below(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    Ok(mounts()?.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(&folder)).collect())
}

/// Returns where a real path lies, whatever it is mounted as: the file system and the path in that.
pub fn place_on_disk(mounts: &[Mount], path: &Path) -> Option<(String, PathBuf)> {
    let over = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    // Of equal ones the last counts: it covers the others.
    let mount = over.max_by_key(|mount| mount.point.components().count())?;
    Some((mount.device.clone(), mount.part.join(path.strip_prefix(&mount.point).ok()?)))
}

/// Reads the table of mounts. Source: proc(5).
fn parse_mounts(table: &[u8]) -> Vec<Mount> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            Some(Mount {
                device: String::from_utf8_lossy(words.get(2)?).into_owned(),
                part: unescaped(words.get(3)?),
                point: unescaped(words.get(4)?),
            })
        })
        .collect()
}

/// Reads a path of the table, in which spaces and the like are written in octal.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let octal = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let Some(byte) = octal {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    super::path_of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_spaces_are_read() {
        let table = b"36 35 98:0 /a /mnt\\040two rw - ext4 /dev/x rw\n1 2 0:1 / / rw - t t rw\n";
        let points: Vec<PathBuf> = parse_mounts(table).into_iter().map(|mount| mount.point).collect();
        assert_eq!(points, [PathBuf::from("/mnt two"), PathBuf::from("/")]);
    }

    #[test]
    fn a_bind_mount_is_known_by_where_it_lies_on_disk() {
        let table = b"1 0 8:1 / / rw - ext4 d rw\n2 1 8:1 /srv/app/m /models rw - ext4 d rw\n3 1 0:9 / /x rw - tmpfs t rw\n4 1 0:8 / /x rw - tmpfs t rw\n";
        let mounts = parse_mounts(table);
        let place = |path: &str| place_on_disk(&mounts, Path::new(path)).unwrap();
        assert_eq!(place("/models/big"), ("8:1".to_owned(), PathBuf::from("/srv/app/m/big")));
        assert_eq!(place("/srv/app"), ("8:1".to_owned(), PathBuf::from("/srv/app")));
        assert_eq!(place("/x").0, "0:8");
    }
}
