//! The next tree, prepared while the service still runs: checked out from the mirror, with its own repository and
//! bytecode, verified, and owned by the service user.
//!
//! The order matters. `chown` changes the ctime of every entry, and git would then write every file again. So the owner
//! changes first, then the verification reads the tree, and the index that it has refreshed becomes the index of the
//! tree. The conductor creates the directory, changes owners and installs the index; everything else happens in
//! operations.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_git::history::EntryKind;
use refresh_git::path::TreePath;
use refresh_git::{Git, LONG, Repository, zero_terminated};
use refresh_installation::installation::Installation;
use refresh_programs::process::{Finished, Keep, Program};
use refresh_programs::units::{Access, Role, UnitOptions};
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_system::checkpoint;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::disk::beneath;
use refresh_system::disk::beneath::Directory;
use refresh_system::error::{Context as _, Failure, Outcome};

use super::exchange::{Exchange, Plan};
use super::ignore_rules;
use super::operation_request::{GitLocation, Scratch};
use super::own_repository::BYTE_CODE;
use super::paths::{self, TrackedFile};
use super::proof::{self, ProveTreeRequest};

/// The operation that checks a commit out.
pub(crate) const OPERATION: &str = "source-prepare-tree";

/// The largest index that is copied, in bytes.
const INDEX_LIMIT: u64 = 2 << 30;

/// Compiles the sources that standard input names, each terminated by a zero byte. Nothing of the application is
/// executed.
const COMPILE: &str = "\
import importlib.util, os, py_compile, sys
tree, out, shown = sys.argv[1:4]
count = 0
for name in os.fsdecode(sys.stdin.buffer.read()).split('\\0'):
    if not name:
        continue
    source = os.path.join(tree, name)
    target = os.path.relpath(importlib.util.cache_from_source(source), tree)
    try:
        py_compile.compile(source, os.path.join(out, target), os.path.join(shown, name), doraise=True,
                           invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
        count += 1
    except (py_compile.PyCompileError, ValueError, OSError, RecursionError, MemoryError):
        pass
print(count)
";

/// A tree that is ready to be moved into `app/`.
#[derive(Debug, Clone)]
pub struct PreparedTree {
    /// Its commit.
    pub commit: CommitId,
    /// The number of files of the commit.
    pub files: u64,
    /// The number of files with bytecode.
    pub compiled: u64,
}

/// The commit to check out, and the place.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PrepareTreeRequest {
    /// The location of git and of the mirror.
    pub place: GitLocation,
    /// The empty directory to check out into.
    pub tree: TreePath,
    /// The final place of the tree, for the names in bytecode.
    pub destination: TreePath,
    /// The path of the mirror's objects for users of the finished tree.
    pub objects: TreePath,
    /// The branch of HEAD.
    pub branch: BranchName,
    /// The commit of the branch.
    pub commit: CommitId,
    /// The remote's URL, for people who work in the tree.
    pub url: Option<String>,
    /// The interpreter that compiles bytecode; `None` compiles nothing.
    pub interpreter: Option<TreePath>,
}

/// Prepares the tree of `commit` for `run`; a tree of an earlier attempt is replaced.
///
/// # Errors
/// This file system cannot hold the tree, the disk is full, or the tree differs from the commit afterwards.
pub fn prepare(
    on: &Installation,
    run: &RunId,
    branch: &BranchName,
    commit: &CommitId,
    interpreter: Option<&Path>,
) -> Outcome<PreparedTree> {
    let tree = on.layout.tree(run);
    disk::remove_tree(&tree)?;
    disk::make_directory(&on.layout.trees(), 0o700)?;
    let builder = on.units.user_of(Role::Build)?;
    disk::make_owned_directory(&tree, 0o755, &builder)?;
    let scratch = Scratch::make(&on.layout, builder)?;
    let place = GitLocation::of(on, &scratch);
    let options = UnitOptions::new(Role::Build, LONG).writes(scratch.path());
    let (writing, seen) = on.units.with_tree(&options, &tree, Access::ReadWrite)?;
    let request = PrepareTreeRequest {
        place: place.clone(),
        tree: seen.as_path().into(),
        destination: on.layout.app().into(),
        objects: on.layout.mirror().join("objects").into(),
        branch: branch.clone(),
        commit: commit.clone(),
        url: on.mirror.shown_url(),
        interpreter: interpreter.map(Into::into),
    };
    let compiled = on.units.call(&writing, OPERATION, &request)?;
    checkpoint::reach("tree:checked-out");
    beneath::give_all(&tree, on.owner)?;
    checkpoint::reach("tree:given");
    let (reading, seen) = on.units.with_tree(&options, &tree, Access::ReadOnly)?;
    let request = ProveTreeRequest { place, tree: seen.as_path().into(), commit: commit.clone() };
    let files = on.units.call(&reading, proof::OPERATION, &request)?;
    install_index(&scratch.path().join(proof::INDEX), &tree, on.owner)?;
    scratch.remove()?;
    disk::sync_file_system(&tree)?;
    checkpoint::reach("tree:ready");
    Ok(PreparedTree { commit: commit.clone(), files, compiled })
}

/// Makes `app/`, which is missing or empty, the tree of `commit`: the first deployment, with no service to stop.
///
/// # Errors
/// The errors of [`prepare`], or `app/` is not empty.
pub fn deploy_first(on: &Installation, run: &RunId, branch: &BranchName, commit: &CommitId) -> Outcome<()> {
    let app = on.layout.app();
    if std::fs::read_dir(&app).into_iter().flatten().next().is_some() {
        return Err(Failure::new(format!("{} is not empty", app.display()))
            .hint("move it away; `init` never overwrites an existing tree"));
    }
    prepare(on, run, branch, commit, None)?;
    disk::make_directory(&on.layout.run(run), 0o755)?;
    let plan = Plan { commit: commit.clone(), known: Vec::new(), kept: Vec::new() };
    Exchange::begin(&on.layout, run, on.owner, plan)?.complete()?;
    disk::remove_if_empty(&on.layout.previous_tree(run))?;
    // This is not a run: without a journal, the next run would treat it as an interrupted one.
    disk::remove_tree(&on.layout.run(run))
}

/// Installs the index that the verification has refreshed in the tree's repository.
fn install_index(index: &Path, tree: &Path, owner: Owner) -> Outcome<()> {
    let git_dir = Directory::open(tree, Path::new(".git"))?;
    let to = git_dir.reach("index");
    disk::take_copy(index, &to, 0o644, INDEX_LIMIT)?;
    disk::give(&to, &owner)
}

/// Performs [`OPERATION`]; returns the number of compiled sources.
///
/// # Errors
/// The file system does not support the names, git fails, or the disk is full.
pub(crate) fn handle(request: &PrepareTreeRequest) -> Outcome<u64> {
    let git = request.place.git();
    let tree = request.tree.as_path();
    let files = paths::tracked(&git, request.place.mirror.as_path(), &request.commit)?
        .ok_or_else(|| Failure::new(format!("the commit {} is not in the mirror", request.commit.short())))?;
    check_names(tree, &files)?;
    let git_dir = tree.join(".git");
    lay_out_repository(&git_dir, request)?;
    let index = request.place.scratch.as_path().join("checkout.index");
    let repository = Repository::bare(&git_dir).with_tree(tree).with_index(&index).passing();
    let checkout = git.at(&repository).args(["read-tree", "--reset", "-u", request.commit.as_str()]);
    let step = || format!("cannot check out {}", request.commit.short());
    git.run(&checkout.deadline(LONG), step)?;
    disk::remove_file_if_there(&index)?;
    Ok(request
        .interpreter
        .as_ref()
        .map_or(0, |interpreter| compile(&git, interpreter.as_path(), request, &files)))
}

/// Refuses names that this file system does not support, before anything is stopped.
fn check_names(tree: &Path, files: &[TrackedFile]) -> Outcome<()> {
    let step = || format!("cannot examine the file system of {}", tree.display());
    let limit = usize::try_from(rustix::fs::statvfs(tree).context(step)?.f_namemax).unwrap_or(255);
    let mut paths = files.iter().map(|file| file.path.as_path());
    match paths.find(|path| path.iter().any(|name| name.len() > limit)) {
        None => Ok(()),
        Some(path) => Err(Failure::new(format!("this file system cannot hold {}", TreePath::from(path)))
            .because(Failure::new(format!("a name in it has more than {limit} bytes")))),
    }
}

/// Writes a repository that borrows its objects from the mirror and is at the commit, on the branch.
fn lay_out_repository(git_dir: &Path, request: &PrepareTreeRequest) -> Outcome<()> {
    for directory in ["objects/info", "objects/pack", "refs/tags", "info"] {
        disk::make_directory(&git_dir.join(directory), 0o755)?;
    }
    let write = |name: &str, text: &[u8]| disk::write_unsynced(&git_dir.join(name), text, 0o644);
    let mut objects = request.objects.as_path().as_os_str().as_encoded_bytes().to_vec();
    objects.push(b'\n');
    write("objects/info/alternates", &objects)?;
    write("info/exclude", ignore_rules::STANDARD.as_bytes())?;
    write("config", configuration(request).as_bytes())?;
    let (branch, commit) = (&request.branch, &request.commit);
    write("HEAD", format!("ref: refs/heads/{branch}\n").as_bytes())?;
    for name in [format!("refs/heads/{branch}"), format!("refs/remotes/origin/{branch}")] {
        let file = git_dir.join(&name);
        disk::make_directory(file.parent().unwrap_or(git_dir), 0o755)?;
        write(&name, format!("{commit}\n").as_bytes())?;
    }
    Ok(())
}

/// Returns the configuration of the tree's repository. A rename changes the ctime of the moved entry, so git ignores
/// the ctime.
fn configuration(request: &PrepareTreeRequest) -> String {
    let (version, extensions) = if request.commit.as_str().len() == 64 {
        (1, "[extensions]\n\tobjectformat = sha256\n")
    } else {
        (0, "")
    };
    let mut text = format!(
        "[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n\
         \tlogallrefupdates = true\n\ttrustctime = false\n{extensions}"
    );
    if let Some(url) = &request.url {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let (url, branch) = (quoted(url), quoted(request.branch.as_str()));
        text.push_str(&format!(
            "[remote \"origin\"]\n\turl = \"{url}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n\
             [branch \"{branch}\"]\n\tremote = origin\n\tmerge = \"refs/heads/{branch}\"\n"
        ));
    }
    text
}

/// Compiles the Python sources of the tree; returns their number. Bytecode only saves time, so a failure is no reason
/// to refuse the tree.
fn compile(git: &Git, interpreter: &Path, request: &PrepareTreeRequest, files: &[TrackedFile]) -> u64 {
    let names = zero_terminated(files.iter().filter(|file| is_source(file)).map(|file| &file.path));
    if names.is_empty() {
        return 0;
    }
    let out: PathBuf = request.tree.as_path().join(".git").join(BYTE_CODE);
    let program = Program::new(interpreter)
        .args(["-I", "-S", "-W", "ignore", "-c", COMPILE])
        .arg(request.tree.as_path())
        .arg(&out)
        .arg(request.destination.as_path())
        .input(names)
        .keep(Keep::All(1 << 20))
        .deadline(LONG);
    let finished = git.runner().run(&program).ok().filter(Finished::succeeded);
    finished.and_then(|finished| finished.text().trim().parse().ok()).unwrap_or(0)
}

fn is_source(file: &TrackedFile) -> bool {
    matches!(file.kind, EntryKind::Regular | EntryKind::Executable)
        && file.path.extension().is_some_and(|ending| ending == "py")
}
