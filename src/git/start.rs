//! Makes `app/` from nothing, out of the mirror. A clone that is killed half-way leaves a repository, which the next
//! refresh aligns like any other.

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Failure, Outcome};
use crate::settings::names::{BranchName, CommitId};

use super::tree::{Place, Tree};
use super::{align, allowing, worktree};

/// The worker's operation.
pub const OPERATION: &str = "git-start";

/// What a worker is asked to make.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub place: Place,
    /// The branch to be on.
    pub branch: BranchName,
    /// The commit to be at.
    pub commit: CommitId,
    /// The remote's URL, for people who work in the tree; a refresh never reads it.
    pub url: Option<String>,
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// The folder is not empty, or git fails.
pub fn handle(request: &Request) -> Outcome<()> {
    let tree = Tree::enter(&request.place);
    let git_dir = tree.git_dir();
    if std::fs::read_dir(&tree.app).into_iter().flatten().next().is_some() {
        return Err(Failure::new(format!("{} is not empty", tree.app.display()))
            .hint("move it away; nothing in it is ever overwritten by a clone"));
    }
    align::init(&git_dir, &request.branch, &request.commit)?;
    if let Some(url) = &request.url {
        let file = git_dir.join("config");
        let mut text = disk::read_if_there(&file)?.unwrap_or_default();
        let url = url.replace('\\', "\\\\").replace('"', "\\\"");
        let branch = request.branch.as_str().replace('"', "\\\"");
        text.extend(
            format!(
                "[remote \"origin\"]\n\turl = \"{url}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n[branch \"{branch}\"]\n\tremote = origin\n\tmerge = refs/heads/{branch}\n"
            )
            .bytes(),
        );
        disk::write_atomic(&file, &text, 0o644)?;
    }
    let own = || tree.own().env("GIT_DIR", &git_dir).env("GIT_INDEX_FILE", git_dir.join("index"));
    let refspec = format!("+{}:refs/remotes/origin/{}", request.commit, request.branch);
    let fetch = allowing(own(), "file")
        .args(["fetch", "--quiet", "--no-tags", "--no-auto-gc"])
        .args(["--no-write-fetch-head", "--"])
        .arg(&tree.mirror)
        .arg(&refspec);
    tree.git.run(&fetch.deadline(worktree::LONG), || "cannot fetch into the new work tree".to_owned())?;
    let reset = own().args(["reset", "--quiet", "--hard", request.commit.as_str(), "--"]);
    tree.git.run(&reset.deadline(worktree::LONG), || "cannot check the new work tree out".to_owned())?;
    tree.leave()
}
