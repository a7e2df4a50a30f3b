//! The Python environment: the requirements of a commit, their lock, and the environments that are built from locks.
//!
//! uv builds an environment as a new directory below `environments/`, at its final path. A good environment is
//! read-only, and is never changed or moved. `venv` is a symbolic link to the live one; changing environments is one
//! atomic rename.
//!
//! The caller (root, in a run) writes records, locks and manifests, the link, and removes directories. Everything that
//! executes uv or Python, or reads files of other users, is an operation ([`answer`]). A process of the user that owns
//! the environments performs it.
//!
//! The way through: [`reading::read`] → [`Interpreter::find`] → [`Environments::wanted`] → [`Environments::ensure`]
//! (lock → build) → [`Environments::switch`].

mod author_hashes;
mod build;
pub mod bundled;
mod compare;
mod construct;
pub mod definitions;
mod fetch;
mod find_project_lockfile;
mod imports;
mod install_error;
pub(crate) mod interpreter;
pub mod list;
pub mod lock;
mod lock_operation;
mod locked;
mod network;
mod overlaps;
mod project;
mod project_lockfile;
mod prune;
mod pylock;
pub mod reading;
pub(crate) mod record;
pub(crate) mod recorded_environments;
mod replaced;
pub(crate) mod requirements;
mod resolution_checks;
mod resolve;
mod site;
mod switch;
mod tree_source;
mod uv;
mod uv_operation;

pub use build::Ensured;
pub use build::{BuildOutcome, Contaminated};
pub use definitions::Definitions;
pub use interpreter::Interpreter;
pub use lock::Lock;
pub use locked::Locked;
pub use record::Record;
pub use recorded_environments::{EnvironmentSpec, Environments, RecordedEnvironment, VenvState};
pub use replaced::ReplacedPython;
pub use site::Site;
pub use tree_source::{DefinitionFilter, TreeSource};

use std::path::PathBuf;

use refresh_programs::process::worker;

/// Performs an operation of this crate: reads its request and returns its answer. `None` if the crate has no such
/// operation.
pub fn answer(operation: &str, request: &[u8]) -> Option<Vec<u8>> {
    Some(match operation {
        interpreter::OPERATION => worker::answer(request, |path: PathBuf| interpreter::handle(&path)),
        fetch::OPERATION => worker::answer(request, |request| fetch::handle(&request)),
        lock_operation::OPERATION => worker::answer(request, |request| lock_operation::handle(&request)),
        construct::OPERATION => worker::answer(request, |request| construct::handle(&request)),
        compare::COMPARE => worker::answer(request, |request| compare::compare(&request)),
        compare::DESCRIBE => worker::answer(request, |path: PathBuf| compare::describe(&path)),
        imports::OPERATION => worker::answer(request, |request| imports::handle(&request)),
        bundled::PACK => worker::answer(request, |request| bundled::pack(&request)),
        bundled::UNPACK => {
            worker::answer(request, |(setup, file): (_, PathBuf)| bundled::unpack(&setup, &file))
        }
        _ => return None,
    })
}
