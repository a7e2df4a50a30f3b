//! Copies all objects into the application's repository: it borrows nothing from the mirror any more. Runs as the owner
//! of the working tree and writes only below `app/.git`.

use std::time::Duration;

use refresh_git::{Git, Repository};
use refresh_installation::installation::Installation;
use refresh_programs::units::{Role, UnitOptions};
use refresh_system::disk;
use refresh_system::error::Outcome;
use refresh_system::text::quoted_path;

use super::operation_request::RepositoryRequest;

/// The time limit for packing all objects.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The worker's operation.
pub(crate) const OPERATION: &str = "source-own-objects";

/// Copies every object that the application's repository borrows into it, and ends the borrowing.
///
/// # Errors
/// An object is missing, or the repository cannot be written; then it still borrows.
pub fn take(on: &Installation) -> Outcome<()> {
    let git = Git::new(&on.runner, &on.layout)?;
    let request = RepositoryRequest::new(&git, &on.layout);
    let options = UnitOptions::new(Role::Align, DEADLINE).writes(on.layout.app());
    on.units.call_as(&options, on.owner, OPERATION, &request)
}

/// Performs the worker's side of [`OPERATION`].
///
/// # Errors
/// The errors of [`take`].
pub(crate) fn handle(request: &RepositoryRequest) -> Outcome<()> {
    let app = request.app.as_path();
    let directory = app.join(".git");
    let borrowing = directory.join("objects/info/alternates");
    if disk::read_if_there(&borrowing)?.is_none() {
        return Ok(());
    }
    let git = request.git();
    let repository = Repository::bare(&directory).with_tree(app);
    let context = |what: &str| format!("cannot {what} in {}", quoted_path(&directory));
    // Without -l, borrowed objects are packed as well; without -d, no existing pack is removed.
    let pack = git.at(&repository).args(["repack", "-a", "-q"]);
    git.run(&pack, || context("pack the objects"))?;
    let aside = directory.join("objects/info/alternates.ended");
    disk::move_over(&borrowing, &aside)?;
    let check = git.at(&repository).args(["fsck", "--connectivity-only", "--no-dangling", "--no-progress"]);
    if let Err(failure) = git.run(&check, || context("find every object")) {
        disk::move_over(&aside, &borrowing)?;
        return Err(failure);
    }
    disk::remove_file_durably(&aside)
}
