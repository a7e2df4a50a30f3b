//! Makes the application's repository hold all of its objects: nothing is borrowed from the mirror any more. Runs as the
//! owner of the work tree and writes below `app/.git` only.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::Outcome;
use crate::event::Events;
use crate::installation::Installation;
use crate::process::Runner;
use crate::report::shell::quoted_path;
use crate::units::{Job, Role};

use super::path::TreePath;
use super::{Git, Repository};

/// How long it may take to pack all objects.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The worker's operation.
pub const OPERATION: &str = "git-own-objects";

/// Where the objects come from and where they go.
#[derive(Debug, Serialize, Deserialize)]
pub struct OwnObjectsRequest {
    /// The git program.
    program: TreePath,
    /// Where its configuration lies.
    home: TreePath,
    /// The work tree.
    app: TreePath,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnObjects {
    /// Whether objects were borrowed before.
    pub were_borrowed: bool,
}

/// Copies every object that the application's repository borrows into it, and ends the borrowing.
///
/// # Errors
/// An object is missing, or the repository cannot be written; it borrows as before then.
pub fn take(on: &Installation) -> Outcome<OwnObjects> {
    let git = Git::new(&on.runner, &on.layout)?;
    let path = |path: PathBuf| TreePath::from(path);
    let request =
        OwnObjectsRequest { program: path(git.program), home: path(git.home), app: path(on.layout.app()) };
    let job = Job::new(Role::Align, DEADLINE).writes(on.layout.app());
    on.units.call_as(&job, on.owner, OPERATION, &request)
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// As [`take`].
pub fn handle(request: &OwnObjectsRequest) -> Outcome<OwnObjects> {
    let app = request.app.as_path();
    let directory = app.join(".git");
    let borrowing = directory.join("objects/info/alternates");
    if disk::read_if_there(&borrowing)?.is_none() {
        return Ok(OwnObjects { were_borrowed: false });
    }
    let runner = Runner::new(Arc::new(Events::silent()));
    let git = Git::found(&runner, request.program.as_path().into(), request.home.as_path().into());
    let repository = Repository::bare(&directory).with_tree(app);
    let context = |what: &str| format!("cannot {what} in {}", quoted_path(&directory));
    // Without -l what is borrowed is packed as well; without -d nothing that was there is removed.
    let pack = git.at(&repository).args(["repack", "-a", "-q"]);
    git.run(&pack, || context("pack the objects"))?;
    let aside = directory.join("objects/info/alternates.ended");
    disk::move_over(&borrowing, &aside)?;
    let check = git.at(&repository).args(["fsck", "--connectivity-only", "--no-dangling", "--no-progress"]);
    if let Err(failure) = git.run(&check, || context("find every object")) {
        disk::move_over(&aside, &borrowing)?;
        return Err(failure);
    }
    disk::remove_file_durably(&aside)?;
    Ok(OwnObjects { were_borrowed: true })
}
