//! Verifies that a prepared tree equals the commit: every file has the bytes, type and executable bit of a checkout,
//! and there is no other file.
//!
//! Runs as a user who cannot write to the tree, with the mirror as git directory and its own index. The index that it
//! leaves in the scratch directory has the times of all files, so a later reset finds nothing to write.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_git::{Git, LISTING, LONG, Repository, path_of, records};
use refresh_settings::names::CommitId;
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};

use super::differences::check_out_again;
use super::operation_request::GitLocation;

/// The operation that verifies a tree.
pub(crate) const OPERATION: &str = "source-prove-tree";

/// The name of the index in the scratch directory.
pub(crate) const INDEX: &str = "proof.index";

/// The largest number of differences in a failure.
const NAMED: usize = 10;

/// The parameters of the verification.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProveTreeRequest {
    /// The location of git and of the mirror.
    pub place: GitLocation,
    /// The prepared tree.
    pub tree: TreePath,
    /// The commit that it must equal.
    pub commit: CommitId,
}

/// The result of the verification.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProveTreeResponse {
    /// The number of files in the index.
    pub files: u64,
}

/// Performs [`OPERATION`].
///
/// # Errors
/// The tree differs from the commit; the failure names the first differences.
pub fn handle(request: &ProveTreeRequest) -> Outcome<ProveTreeResponse> {
    let git = request.place.git();
    let (tree, scratch) = (request.tree.as_path(), request.place.scratch.as_path());
    let index = scratch.join(INDEX);
    disk::remove_file_if_there(&index)?;
    let mirror = Repository::bare(request.place.mirror.as_path()).with_index(&index).passing();
    let repository = mirror.clone().with_tree(tree);
    let step = || format!("cannot verify the prepared tree of {}", request.commit.short());
    let at = |arguments: &[&str]| git.at(&repository).args(arguments).keep(LISTING).deadline(LONG);
    git.run(&at(&["read-tree", request.commit.as_str()]), step)?;
    // The exit code is 1 if a file differs; the next command reports that.
    git.runner().run(&at(&["update-index", "-q", "--refresh"]))?;
    let differing = git.run(&at(&["diff-files", "--name-only", "-z", "--no-renames"]), step)?;
    let differing: Vec<PathBuf> = records(&differing.stdout).map(path_of).collect();
    let untracked = git.run(&at(&["ls-files", "--others", "-z"]), step)?;
    let entries = git.run(&at(&["ls-files", "-z"]), step)?;
    let files = records(&entries.stdout).count() as u64;
    let mut wrong: Vec<String> = records(&untracked.stdout)
        .map(|path| format!("{}: is not in the commit", TreePath::from(path_of(path))))
        .collect();
    if !differing.is_empty() {
        wrong.extend(converted_differently(&git, &mirror, tree, scratch, &differing)?);
    }
    if wrong.is_empty() {
        return Ok(ProveTreeResponse { files });
    }
    let count = wrong.len();
    wrong.truncate(NAMED);
    if count > NAMED {
        wrong.push(format!("… and {} more", count - NAMED));
    }
    Err(Failure::new(format!("the prepared tree is not the commit {}", request.commit.short()))
        .because(Failure::new(wrong.join("\n"))))
}

/// Checks files out once more and compares bytes. A file with line endings that its attributes would change differs for
/// git in every clone; it is right if a second checkout writes the same bytes.
fn converted_differently(
    git: &Git,
    mirror: &Repository,
    tree: &Path,
    scratch: &Path,
    differing: &[PathBuf],
) -> Outcome<Vec<String>> {
    let expected = scratch.join("expected");
    check_out_again(git, mirror.clone(), &expected, differing)?;
    let mut wrong = Vec::new();
    for path in differing {
        if !is_same_file(&expected.join(path), &tree.join(path))? {
            wrong.push(format!("{}: differs from the commit", TreePath::from(path.as_path())));
        }
    }
    disk::remove_tree(&expected)?;
    Ok(wrong)
}

fn is_same_file(expected: &Path, actual: &Path) -> Outcome<bool> {
    let step = || format!("cannot compare {}", actual.display());
    let Ok(found) = fs::symlink_metadata(actual) else { return Ok(false) };
    let wanted = fs::symlink_metadata(expected).context(step)?;
    let mode = |found: &fs::Metadata| found.permissions().mode() & 0o111 != 0;
    if !found.is_file() || !wanted.is_file() || mode(&found) != mode(&wanted) || found.len() != wanted.len() {
        return Ok(false);
    }
    Ok(fs::read(expected).context(step)? == fs::read(actual).context(step)?)
}
