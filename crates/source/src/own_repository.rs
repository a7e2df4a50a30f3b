//! Reads the repository in a tree that a refresh has replaced, or will replace: local branches, tags and stashes whose
//! commits the mirror does not have, commits that only the log of HEAD names, staged changes, hooks, settings,
//! operations in progress.
//!
//! Its content belongs to the service user and may be designed to block git (a pipe or a huge file as a ref). So it is
//! examined first, and each git command has a short deadline. If git gives no answer, the entire tree is kept.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use refresh_git::{Git, LISTING, Repository, path_of, records};
use refresh_programs::process::{Finished, Program};
use refresh_settings::names::CommitId;
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};

use super::local::{ChangeKind, LocalChange, LocalName};
use super::repository_obstacles::{LOG, NAMES, REF, obstacle};
use super::untracked;

/// The time limit of one git command on such a repository.
const QUICK: Duration = Duration::from_secs(10);

/// The files and directories in `.git` that mean an operation in progress, or change the behavior of a checkout.
const OPERATION_FILES: [&str; 20] = [
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
];

/// The directory in `.git` for bytecode until the tree is in place.
pub(super) const BYTE_CODE: &str = "bytecode";

/// The entries of `.git` that git makes again, or that are read apart from the rest. A run that is killed before its
/// reset leaves the prepared bytecode.
const ENTRIES_OF_GIT: [&str; 23] = [
    BYTE_CODE,
    "HEAD",
    "ORIG_HEAD",
    "FETCH_HEAD",
    "COMMIT_EDITMSG",
    "TAG_EDITMSG",
    "MERGE_RR",
    "branches",
    "config",
    "description",
    "fsmonitor--daemon",
    "fsmonitor--daemon.ipc",
    "gc.log",
    "gc.pid",
    "hooks",
    "index",
    "info",
    "logs",
    "objects",
    "packed-refs",
    "refs",
    "reftable",
    "shallow",
];

/// The sections of the configuration that git and its servers write, also for a new clone.
const SECTIONS_OF_GIT: [&str; 12] = [
    "branch.",
    "extensions.",
    "feature.",
    "fetch.",
    "gc.",
    "index.",
    "lfs.",
    "maintenance.",
    "pack.",
    "receive.",
    "remote.origin.",
    "submodule.",
];

/// The keys of the section `core` that git writes, or that only change its speed.
const CORE_OF_GIT: [&str; 14] = [
    "bare",
    "filemode",
    "fsmonitor",
    "ignorecase",
    "logallrefupdates",
    "precomposeunicode",
    "repositoryformatversion",
    "sharedrepository",
    "sparsecheckout",
    "sparsecheckoutcone",
    "splitindex",
    "symlinks",
    "trustctime",
    "untrackedcache",
];

/// The options of `git rev-list` for the names of the mirror that the remote or the last bundle has. Without a wildcard,
/// git would complete the name of a ref to `refs/bundle/*`.
const NAMES_OF_REMOTE: [&str; 2] = ["--branches", "--glob=refs/bundl[e]"];

/// The content of a repository that the mirror lacks.
#[derive(Debug, Default)]
pub(super) struct OwnRepository {
    /// The commit that HEAD names, if the mirror has it.
    pub(super) head: Option<CommitId>,
    /// The local names.
    pub(super) tips: Vec<LocalName>,
    /// Staged changes, hooks, settings, operations in progress.
    pub(super) items: Vec<LocalChange>,
    /// Why it cannot be read; `None` if it was.
    pub(super) unknown: Option<String>,
}

/// Why a repository is not read.
enum Unread {
    /// It cannot be read, for this reason.
    Unknown(String),
    /// git cannot be started.
    Failure(Failure),
}

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Reads the repository of `tree`.
///
/// # Errors
/// git cannot be started.
pub(super) fn read(git: &Git, tree: &Path, mirror: &Path, known: &[CommitId]) -> Outcome<OwnRepository> {
    match read_known(git, tree, mirror, known) {
        Ok(read) => Ok(read),
        Err(Unread::Unknown(why)) => Ok(OwnRepository { unknown: Some(why), ..OwnRepository::default() }),
        Err(Unread::Failure(failure)) => Err(failure),
    }
}

fn read_known(git: &Git, tree: &Path, mirror: &Path, known: &[CommitId]) -> Result<OwnRepository, Unread> {
    let git_dir = tree.join(".git");
    match fs::symlink_metadata(&git_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(OwnRepository::default()),
        Ok(found) if found.is_dir() => {}
        _ => return Err(Unread::Unknown("its .git is not a directory".to_owned())),
    }
    if let Some(obstacle) = obstacle(&git_dir) {
        return Err(Unread::Unknown(obstacle));
    }
    let own = Repository::bare(&git_dir).with_index(git_dir.join("index")).passing();
    let format = "--format=%(objectname) %(*objectname) %(objecttype) %(refname)";
    let listed = ask(git, git.at(&own).args(["for-each-ref", format]))?;
    let mut names = parse_names(&listed.text());
    let head = head_commit(&git_dir, &names);
    let has_head = head.is_some();
    if let Some(commit) = &head {
        names.insert(0, LocalName { name: "HEAD".to_owned(), commit: commit.clone() });
    }
    replace_stash(&git_dir, &mut names);
    names.extend(linked_heads(&git_dir));
    let own_branch = branch_of_head(&git_dir);
    let is_of_head = |tip: &LocalName| tip.name == "HEAD" || own_branch.as_ref() == Some(&tip.name);
    let (of_head, others) = names.into_iter().partition(is_of_head);
    let mut tips = local_names(git, mirror, &git_dir, of_head, known, &["--all"])?;
    let head = head.filter(|commit| tips.iter().all(|tip| tip.commit != *commit));
    // A later run releases the commits of earlier runs: a name that only they explain is a local one.
    tips.extend(local_names(git, mirror, &git_dir, others, &[], &NAMES_OF_REMOTE)?);
    let tips = once_per_commit(tips);
    let mut items = Vec::new();
    if has_head && git_dir.join("index").exists() {
        let staged = ["diff-index", "--cached", "--name-only", "--no-renames", "-z", "HEAD", "--"];
        let staged = ask(git, git.at(&own).args(staged))?;
        items.extend(records(&staged.stdout).map(|path| item(path_of(path), ChangeKind::Staged)));
    }
    items.extend(state(&git_dir).into_iter().map(|path| item(path, ChangeKind::GitState)));
    if has_settings(git, &own, &git_dir)? {
        items.push(item(Path::new(".git/config").to_path_buf(), ChangeKind::GitState));
    }
    if has_unnamed_commits(git, mirror, &git_dir, &tips, known)? {
        items.push(item(Path::new(".git/logs/HEAD").to_path_buf(), ChangeKind::GitState));
    }
    Ok(OwnRepository { head, tips, items, unknown: None })
}

/// Returns whether a person has added settings: a remote, an alias, a name. A new repository does not have them.
fn has_settings(git: &Git, own: &Repository, git_dir: &Path) -> Result<bool, Unread> {
    let config = git_dir.join("config");
    if config.symlink_metadata().is_err() {
        return Ok(false);
    }
    let list = ["--no-includes", "--list", "--name-only", "-z"];
    let listed = ask(git, git.at(own).args(["config", "--file"]).arg(config).args(list))?;
    let keys: Vec<String> =
        records(&listed.stdout).map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    Ok(keys.iter().any(|key| !is_of_git(key)))
}

/// Returns whether only the log of HEAD names a local commit: one that a person has reset, amended or rebased.
fn has_unnamed_commits(
    git: &Git,
    mirror: &Path,
    git_dir: &Path,
    tips: &[LocalName],
    known: &[CommitId],
) -> Result<bool, Unread> {
    let reachable: Vec<CommitId> = known.iter().chain(tips.iter().map(|tip| &tip.commit)).cloned().collect();
    let mut logged: BTreeSet<CommitId> = read_log(git_dir, "HEAD").into_iter().collect();
    for commit in &reachable {
        logged.remove(commit);
    }
    let names = logged.into_iter().map(|commit| LocalName { name: String::new(), commit }).collect();
    Ok(!local_names(git, mirror, git_dir, names, &reachable, &["--all"])?.is_empty())
}

/// Returns whether git itself writes a key of the configuration.
fn is_of_git(key: &str) -> bool {
    match key.strip_prefix("core.") {
        Some(key) => CORE_OF_GIT.contains(&key),
        None => SECTIONS_OF_GIT.iter().any(|section| key.starts_with(section)),
    }
}

fn item(path: PathBuf, kind: ChangeKind) -> LocalChange {
    LocalChange { path: path.into(), kind, preserved: false }
}

/// Runs a git command. Its answer counts only if it succeeded in time and without warnings.
pub(super) fn answer(git: &Git, program: Program) -> Outcome<Result<Finished, String>> {
    let finished = git.runner().run(&program.keep(LISTING).deadline(QUICK))?;
    Ok(if finished.succeeded() && finished.stderr.is_empty() {
        Ok(finished)
    } else {
        let failure = finished.failure("git cannot read its repository");
        Err(failure.chain().join(": "))
    })
}

fn ask(git: &Git, program: Program) -> Result<Finished, Unread> {
    answer(git, program)?.map_err(Unread::Unknown)
}

/// Returns the commit that HEAD names.
fn head_commit(git_dir: &Path, names: &[LocalName]) -> Option<CommitId> {
    match branch_of_head(git_dir) {
        Some(name) => names.iter().find(|known| known.name == name).map(|known| known.commit.clone()),
        None => CommitId::parse(&read_ref(&git_dir.join("HEAD"))?).ok(),
    }
}

/// Returns the branch that HEAD names: `heads/main`.
fn branch_of_head(git_dir: &Path) -> Option<String> {
    read_ref(&git_dir.join("HEAD"))?.strip_prefix("ref: refs/").map(str::to_owned)
}

/// Returns the commits of linked working trees that are on no branch.
fn linked_heads(git_dir: &Path) -> Vec<LocalName> {
    let linked = fs::read_dir(git_dir.join("worktrees")).into_iter().flatten().flatten().take(NAMES);
    let head = |entry: fs::DirEntry| {
        let commit = CommitId::parse(&read_ref(&entry.path().join("HEAD"))?).ok()?;
        Some(LocalName { name: format!("worktrees/{}", entry.file_name().to_str()?), commit })
    };
    linked.filter_map(head).collect()
}

/// Returns the text of a file with one ref.
fn read_ref(path: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&read_small(path, REF)?).trim().to_owned())
}

/// Returns the commit of the branch that HEAD of a tree names, if a file contains it. A halted run leaves a commit that
/// no record of a good run names.
pub(super) fn head_of_branch(tree: &Path) -> Option<CommitId> {
    let git_dir = tree.join(".git");
    let read =
        |name: &str| read_small(&git_dir.join(name), REF).and_then(|text| String::from_utf8(text).ok());
    let head = read("HEAD")?;
    let branch = head.trim().strip_prefix("ref: ").filter(|name| is_plain(name))?;
    CommitId::parse(read(branch)?.trim()).ok()
}

/// Returns `true` for the name of a branch that cannot lead out of the directory.
fn is_plain(name: &str) -> bool {
    name.starts_with("refs/heads/")
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Replaces `refs/stash`, which is only the newest stash, by all stashes of its log.
fn replace_stash(git_dir: &Path, names: &mut Vec<LocalName>) {
    let newest = names.iter().position(|name| name.name == "stash").map(|at| names.remove(at));
    let commits = read_log(git_dir, "refs/stash").into_iter().rev().enumerate();
    let stashes: Vec<LocalName> =
        commits.map(|(index, commit)| LocalName { name: format!("stash/{index}"), commit }).collect();
    if stashes.is_empty() {
        names.extend(newest.map(|tip| LocalName { name: "stash/0".to_owned(), ..tip }));
    }
    names.extend(stashes);
}

/// Returns the names whose commits are reachable neither from a known commit nor from the names of the mirror that
/// `options` of `git rev-list` select.
fn local_names(
    git: &Git,
    mirror: &Path,
    git_dir: &Path,
    names: Vec<LocalName>,
    known: &[CommitId],
    options: &[&str],
) -> Result<Vec<LocalName>, Unread> {
    if names.is_empty() {
        return Ok(names);
    }
    let mut list = String::new();
    for tip in &names {
        list.push_str(&format!("{}\n", tip.commit));
    }
    for commit in known {
        list.push_str(&format!("^{commit}\n"));
    }
    let both = Repository::bare(mirror).borrowing(git_dir.join("objects"));
    // A stash without its objects cannot be kept.
    let program = git.at(&both).args(["rev-list", "--ignore-missing", "--stdin", "--not"]).args(options);
    let listed = ask(git, program.input(list.into_bytes()))?.text();
    let local: BTreeSet<&str> = listed.lines().collect();
    let tips = names.into_iter().filter(|tip| local.contains(tip.commit.as_str())).collect();
    Ok(once_per_commit(tips))
}

/// Returns hooks of people, operations in progress and content that git does not make again (submodules, large files,
/// linked working trees), as paths below the tree.
fn state(git_dir: &Path) -> Vec<PathBuf> {
    let exists = |name: &&str| git_dir.join(name).symlink_metadata().is_ok();
    let operations = OPERATION_FILES.iter().copied().filter(exists).map(PathBuf::from);
    let hooks = fs::read_dir(git_dir.join("hooks")).into_iter().flatten().flatten();
    let hooks = hooks.map(|entry| Path::new("hooks").join(entry.file_name()));
    let hooks = hooks.filter(|hook| hook.extension().is_none_or(|ending| ending != "sample"));
    let entries = fs::read_dir(git_dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let others: BTreeSet<PathBuf> = entries.filter(|name| !is_name_of_git(name)).map(PathBuf::from).collect();
    let others = others.into_iter().filter(|name| !untracked::files_below(git_dir, name, 1).is_empty());
    operations.chain(hooks).chain(others).map(|path| Path::new(".git").join(path)).collect()
}

/// Returns whether git itself makes an entry of `.git`, or [`OPERATION_FILES`] names it.
fn is_name_of_git(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let is_temporary =
        name.starts_with("sharedindex.") || Path::new(name).extension().is_some_and(|end| end == "lock");
    is_temporary || ENTRIES_OF_GIT.contains(&name) || OPERATION_FILES.contains(&name)
}

/// Reads a file of at most `limit` bytes; follows no link and does not wait for the writer of a pipe.
pub(super) fn read_small(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let file = disk::open_with(path, OFlags::NOFOLLOW | OFlags::NONBLOCK).ok()?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Keeps one name of each commit: a branch, tag or stash rather than HEAD or a name that a restore wrote.
fn once_per_commit(mut tips: Vec<LocalName>) -> Vec<LocalName> {
    let rank = |tip: &LocalName| match tip.name.as_str() {
        "HEAD" => 1,
        name if name.starts_with("saved/") => 2,
        _ => 0,
    };
    tips.sort_by_key(rank);
    let mut seen = BTreeSet::new();
    tips.retain(|tip| seen.insert(tip.commit.as_str().to_owned()));
    tips
}

/// Reads the list of refs; names that follow the remote, and names without a commit, are left out.
fn parse_names(text: &str) -> Vec<LocalName> {
    let name = |line: &str| {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [object, peeled, kind, name] = words[..] else { return None };
        let name = name.strip_prefix("refs/").filter(|name| !name.starts_with("remotes/"))?;
        let commit = match kind {
            "commit" => object,
            "tag" => peeled,
            _ => return None,
        };
        Some(LocalName { name: name.to_owned(), commit: CommitId::parse(commit).ok()? })
    };
    text.lines().filter_map(name).collect()
}

/// Returns the commits in the log of a name, the newest last.
fn read_log(git_dir: &Path, name: &str) -> Vec<CommitId> {
    parse_log(&read_small(&git_dir.join("logs").join(name), LOG).unwrap_or_default())
}

/// Reads the log of a name: the second word of each line is the commit.
fn parse_log(bytes: &[u8]) -> Vec<CommitId> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().filter_map(|line| CommitId::parse(line.split(' ').nth(1)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_commits_are_read_and_those_of_the_remote_left_out() {
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let text = format!(
            "{one}  commit refs/heads/a b\n{one} {two} tag refs/tags/v1\n{one}  commit refs/remotes/origin/x\n{one}  blob refs/b\n"
        );
        let names = parse_names(&text);
        assert_eq!(names.len(), 2);
        assert_eq!(names[0].name, "heads/a b");
        assert_eq!(names[1].commit.as_str(), two);
    }

    #[test]
    fn a_commit_of_several_names_is_named_once_by_its_branch() {
        let commit = |digit: &str| CommitId::parse(&digit.repeat(40)).unwrap();
        let tip = |name: &str, digit: &str| LocalName { name: name.to_owned(), commit: commit(digit) };
        let tips =
            vec![tip("HEAD", "1"), tip("saved/r/heads/x", "1"), tip("heads/x", "1"), tip("stash/0", "2")];
        let names: Vec<String> = once_per_commit(tips).into_iter().map(|tip| tip.name).collect();
        assert_eq!(names, ["heads/x", "stash/0"]);
    }

    #[test]
    fn byte_code_that_a_killed_run_left_in_the_repository_is_no_local_change() {
        let git_dir = tempfile::tempdir().unwrap();
        for file in ["bytecode/lib/__pycache__/m.cpython-312.pyc", "modules/lib/HEAD"] {
            let path = git_dir.path().join(file);
            disk::make_directory(path.parent().unwrap(), 0o755).unwrap();
            disk::write_unsynced(&path, b"x", 0o644).unwrap();
        }
        assert_eq!(state(git_dir.path()), [PathBuf::from(".git/modules")]);
    }

    #[test]
    fn the_commits_of_a_log_are_found_the_newest_last() {
        let (zero, one, two) = ("0".repeat(40), "1".repeat(40), "2".repeat(40));
        let log = format!("{zero} {one} A <a@b> 1 +0000\tfirst\n{one} {two} A <a@b> 2 +0000\tsecond\n");
        let commits = parse_log(log.as_bytes());
        assert_eq!(commits.iter().map(CommitId::as_str).collect::<Vec<_>>(), [one, two]);
    }
}
