//! Proves that the work tree is the commit: every file with the bytes, type and executable bit that a checkout gives
//! it, nothing else besides, and a repository that says the same.

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Outcome};
use crate::settings::names::CommitId;

use super::compare::{Difference, STATUS, parse_status};
use super::made::Made;
use super::path::TreePath;
use super::tree::{Place, Tree, at_once};
use super::walk::{self, Access, Accounted, Preserve};
use super::worktree::LONG;
use super::{inspect, records};

/// The worker's operation.
pub const OPERATION: &str = "git-prove";

/// How many differences a failed proof names.
const NAMED: usize = 10;

/// What a worker is asked to prove.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub place: Place,
    /// The commit.
    pub commit: CommitId,
    /// Paths that may differ or exist besides.
    pub preserved: Vec<TreePath>,
}

/// What was proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// How many files were compared and found right.
    pub files: u64,
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// The work tree is not the commit; the failure names the first differences.
pub fn handle(request: &Request) -> Outcome<Proof> {
    let tree = Tree::enter(&request.place);
    let proof = prove(&tree, request)?;
    tree.leave()?;
    Ok(proof)
}

fn prove(tree: &Tree, request: &Request) -> Outcome<Proof> {
    let commit = &request.commit;
    let files = tree
        .files(commit)?
        .ok_or_else(|| Failure::new(format!("the commit {} is not in the mirror", commit.short())))?;
    let preserve = Preserve::exactly(&request.preserved);
    let (status, compared) = at_once(|| own_status(tree), || tree.compare(commit, &files, "proof"));
    let (status, compared) = (status?, compared?);
    let mut wrong: Vec<String> = compared
        .differing
        .into_iter()
        .filter(|(path, _)| !preserve.covers(path))
        .map(|(path, difference)| format!("{}: {}", path.display(), described(difference)))
        .collect();
    let walked =
        walk::walk(&tree.app, &Accounted::of(files.keys()), &preserve, &Made::default(), Access::ReadOnly)?;
    wrong.extend(walked.strays.iter().map(|(path, _)| format!("{}: is not in the commit", path.display())));
    wrong.extend(walked.closed.iter().map(|path| format!("{}: cannot be read", path.display())));
    if records(&status).find_map(|record| record.strip_prefix(b"# branch.oid "))
        != Some(commit.as_str().as_bytes())
    {
        wrong.push("HEAD of the application's repository names another commit".to_owned());
    }
    if !matches!(inspect::head_of(&tree.git_dir()), inspect::Head::Branch(_)) {
        wrong.push("the application's repository is on no branch".to_owned());
    }
    wrong.extend(
        parse_status(&status)
            .map(|line| line.path)
            .filter(|path| !preserve.covers(path))
            .map(|path| format!("{}: the application's repository shows it as changed", path.display())),
    );
    if wrong.is_empty() {
        return Ok(Proof { files: files.len() as u64 });
    }
    let count = wrong.len();
    let mut lines = wrong;
    lines.truncate(NAMED);
    if count > NAMED {
        lines.push(format!("… and {} more", count - NAMED));
    }
    Err(Failure::new(format!("the work tree is not the commit {}: {count} differences", commit.short()))
        .because(Failure::new(lines.join("\n")))
        .hint("something writes into the work tree while the service is down: find it with `fuser -v`"))
}

/// What the application's own repository says: its commit, and the files that it takes for changed.
fn own_status(tree: &Tree) -> Outcome<Vec<u8>> {
    let status = tree.unfiltered()?.args(STATUS).arg("--branch").deadline(LONG);
    let told = || "cannot ask the application's repository for its status".to_owned();
    Ok(tree.git.run(&status, told)?.stdout)
}

fn described(difference: Difference) -> &'static str {
    match difference {
        Difference::Content => "has other bytes",
        Difference::Mode => "has another executable bit",
        Difference::Kind => "is something else than in the commit",
        Difference::Missing => "is missing",
        Difference::Unreadable => "cannot be read",
    }
}
