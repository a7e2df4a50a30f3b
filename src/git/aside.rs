//! Moves a repository that lies inside the work tree out of it.

use serde::{Deserialize, Serialize};

use crate::disk::{self, Moved};
use crate::error::{Failure, Outcome};
use crate::report::shell::quoted_path;

use super::path::TreePath;

/// The worker's operation.
pub const OPERATION: &str = "git-aside";

/// What a worker is asked to move.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The folder, in the work tree.
    pub from: TreePath,
    /// Its new name, which nothing has yet.
    pub to: TreePath,
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// The folder cannot be renamed to that name.
pub fn handle(request: &Request) -> Outcome<()> {
    let (from, to) = (request.from.as_path(), request.to.as_path());
    if disk::move_new(from, to)? == Moved::OtherFileSystem {
        return Err(Failure::new(format!(
            "{} lies on another file system than {}",
            from.display(),
            to.display()
        ))
        .hint(format!(
            "look what is in it, then move it away yourself: mv {} /var/tmp/",
            quoted_path(from)
        )));
    }
    disk::sync_parent(from)?;
    disk::sync_parent(to)
}
