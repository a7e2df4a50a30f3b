//! Verifies that a prepared tree equals the commit: every file has the bytes, type and executable bit of a checkout,
//! and there is no other file.
//!
//! Runs as a user who cannot write to the tree, with the mirror as git directory and its own index. The index that it
//! leaves in the scratch directory has the times of all files, so a later reset finds nothing to write.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_git::{LISTING, LONG, Repository, path_of, records};
use refresh_settings::names::CommitId;
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};

use super::differences::converted;
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

/// Performs [`OPERATION`]; returns the number of files in the index.
///
/// # Errors
/// The tree differs from the commit; the failure names the first differences.
pub fn handle(request: &ProveTreeRequest) -> Outcome<u64> {
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
        // A file with line endings that its attributes would change differs for git in every clone. It is right if a
        // second checkout writes the same bytes.
        let differing = converted(&git, mirror, scratch, tree, &differing)?;
        wrong.extend(
            differing
                .keys()
                .map(|path| format!("{}: differs from the commit", TreePath::from(path.as_path()))),
        );
    }
    if wrong.is_empty() {
        return Ok(files);
    }
    let count = wrong.len();
    wrong.truncate(NAMED);
    if count > NAMED {
        wrong.push(format!("… and {} more", count - NAMED));
    }
    Err(Failure::new(format!("the prepared tree is not the commit {}", request.commit.short()))
        .because(Failure::new(wrong.join("\n"))))
}
