//! The Python environment: what a commit asks for, the lock of it, and the environments that are built from locks.
//!
//! An environment is built by uv as a fresh directory below `environments/`, at its final path, read-only once good, never
//! changed and never moved afterwards. `venv` is a symbolic link to the live one; changing environments is one atomic
//! rename.
//!
//! The caller (root, in a run) writes records, locks and manifests, the link, and removes directories. Everything that
//! executes uv or Python, or reads what others wrote, is an operation ([`answer`]): done by a process of the user that the
//! environments belong to.
//!
//! The way through: [`definitions::read`] → [`Interpreter::find`] → [`Environments::wanted`] → [`Environments::ensure`]
//! (lock → build) → [`Environments::switch`].

mod build;
pub mod bundled;
mod compare;
mod construct;
pub mod contamination;
pub mod definitions;
mod discard;
mod fetch;
pub mod generation;
mod imports;
pub mod interpreter;
mod job;
pub mod lock;
mod lock_operation;
mod network;
mod overlaps;
pub mod overview;
mod own_lock;
mod project;
mod pylock;
mod reading;
pub mod record;
pub mod requirements;
mod resolve;
mod switch;
mod trouble;
mod uv;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use build::{Contaminated, Ensured, Made};
pub use contamination::Contamination;
pub use definitions::Definitions;
pub use generation::{Current, Environments, Generation, Wanted};
pub use interpreter::Interpreter;
pub use lock::Lock;
pub use overlaps::Overlap;
pub use record::{Package, Record};
pub use switch::Switched;

use crate::disk;
use crate::error::Outcome;
use crate::process::{Owner, Runner, worker};
use crate::settings::Python;
use crate::settings::layout::Layout;
use crate::units::{Job, Role, Units};
use job::Setup;

/// How much longer than the operation its process may take.
const GRACE: Duration = Duration::from_secs(60);

/// How many bytes a response may have: a manifest has some hundred for each file.
const LARGEST_RESPONSE: usize = 256 << 20;

/// Where and for whom environments are made.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Reports what happens.
    pub runner: &'a Runner,
    /// The paths.
    pub layout: &'a Layout,
    /// The settings.
    pub python: &'a Python,
    /// Whom the environments belong to, and as whom everything in them is made.
    pub owner: Owner,
    /// Whether no network is used.
    pub offline: bool,
    /// Does the operations.
    pub units: &'a Units,
}

impl Site<'_> {
    /// Does an operation that builds; what uv writes meanwhile is narrated.
    fn call<Q: Serialize, A: DeserializeOwned>(&self, operation: &str, request: &Q) -> Outcome<A> {
        let job = self.job(Role::Build).writes(self.layout.environments()).writes(self.layout.uv());
        let job = job.narrated("uv");
        self.call_as(&job, self.owner, operation, request)
    }

    /// Has an operation done for `owner`.
    fn call_as<Q: Serialize, A: DeserializeOwned>(
        &self,
        job: &Job,
        owner: Owner,
        operation: &str,
        request: &Q,
    ) -> Outcome<A> {
        self.units.call_as(job, owner, operation, request)
    }

    /// Makes the job of an operation that only reads.
    fn job(&self, role: Role) -> Job {
        // The operation gives up by itself before.
        let job = Job::new(role, self.python.deadline + GRACE);
        Job { output: LARGEST_RESPONSE, ..job }
    }

    /// Has the operation done that reads what a commit brings; it only reads.
    ///
    /// # Errors
    /// The operation's own failure.
    pub(crate) fn read_release<Q: Serialize, A: DeserializeOwned>(
        &self,
        operation: &str,
        request: &Q,
    ) -> Outcome<A> {
        self.call_as(&self.job(Role::Build), self.owner, operation, request)
    }

    /// Takes together what operations are told, and makes sure of the directories that they write in.
    fn setup(&self) -> Outcome<Setup> {
        disk::make_directory(&self.layout.store(), 0o755)?;
        for directory in [self.layout.environments(), self.layout.uv()] {
            if !disk::is_directory(&directory)? {
                disk::make_owned_directory(&directory, 0o755, &self.owner)?;
            } else if Owner::own().uid == 0 && Owner::of(&directory)? != self.owner {
                // Only root can have made it, in a place that is root's. What another user has cached is of no use.
                disk::give(&directory, &self.owner)?;
                disk::remove_tree(&self.layout.uv().join("cache"))?;
            }
        }
        Ok(Setup::of(self))
    }
}

/// Does an operation of this room: reads its request and returns its answer; `None` where it is not one of them.
pub fn answer(operation: &str, request: &[u8]) -> Option<Vec<u8>> {
    Some(match operation {
        interpreter::OPERATION => worker::answer(request, |request| interpreter::handle(&request)),
        fetch::OPERATION => worker::answer(request, |request| fetch::handle(&request)),
        lock_operation::OPERATION => worker::answer(request, |request| lock_operation::handle(&request)),
        construct::OPERATION => worker::answer(request, |request| construct::handle(&request)),
        compare::COMPARE => worker::answer(request, |request| compare::compare(&request)),
        compare::DESCRIBE => worker::answer(request, |request| compare::describe(&request)),
        imports::OPERATION => worker::answer(request, |request| imports::handle(&request)),
        bundled::PACK => worker::answer(request, |request| bundled::pack(&request)),
        bundled::UNPACK => worker::answer(request, |request| bundled::unpack(&request)),
        _ => return None,
    })
}
