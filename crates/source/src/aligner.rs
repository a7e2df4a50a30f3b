//! The unit that works in `app/` in step 2, and the conductor's side of it. It is started before the stop and waits:
//! nothing must be started while the service is down.

use refresh_git::LONG;
use refresh_installation::installation::Installation;
use refresh_programs::units::{Role, UnitOptions, Waiting};
use refresh_settings::IgnoredFiles;
use refresh_settings::names::CommitId;
use refresh_system::error::{Failure, Outcome};

use super::align::{self, AlignRequest, AlignResponse, ResetRequest};
use super::exchange;
use super::kept::{Kept, ListKeptRequest};
use super::kept_beforehand::{self, KeptBeforehand};
use super::operation_request::{GitLocation, Scratch};

/// A waiting unit with the rights of the service user, which writes to `app/` and its scratch directory.
#[derive(Debug)]
pub struct Aligner {
    waiting: Waiting,
    scratch: Scratch,
    beforehand: Option<KeptBeforehand>,
}

impl Aligner {
    /// Starts the unit. It gets no information about later requests.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(on: &Installation) -> Outcome<Self> {
        exchange::ensure_app(&on.layout, on.owner)?;
        let scratch = Scratch::make(&on.layout, on.owner)?;
        let options = UnitOptions::new(Role::Align, LONG).writes(on.layout.app()).writes(scratch.path());
        let waiting = on.units.wait_in_unit(&options, align::OPERATION, &AlignRequest::Ready)?;
        Ok(Self { waiting, scratch, beforehand: None })
    }

    /// Lists, while the service still runs, what will move across. A failure only costs time: then the list is made
    /// after the stop.
    ///
    /// A different unit does this; it only reads, and ends before this returns. The service user may take over programs
    /// that run as itself, and the waiting unit, which writes, starts none before the stop.
    pub fn list_beforehand(&mut self, on: &Installation, commit: &CommitId, known: &[CommitId]) {
        self.beforehand = list_in_unit(on, commit, known).ok().flatten();
    }

    /// Lists the paths that move from the old tree into the new one.
    ///
    /// # Errors
    /// The tree cannot be read, or git fails.
    pub(crate) fn list_kept(
        &mut self,
        on: &Installation,
        commit: &CommitId,
        known: &[CommitId],
    ) -> Outcome<Kept> {
        let request = request(on, &self.scratch, commit, known);
        let request = AlignRequest::List { request, beforehand: self.beforehand.take() };
        match self.waiting.ask(&request)? {
            AlignResponse::Kept(kept) => Ok(kept),
            _ => Err(another()),
        }
    }

    /// Writes the local ignore rules of the new tree, and runs the normative commands in it.
    ///
    /// # Errors
    /// git fails.
    pub(crate) fn reset(
        &mut self,
        on: &Installation,
        commit: &CommitId,
        exclude: Option<String>,
    ) -> Outcome<()> {
        let request = AlignRequest::Reset(ResetRequest {
            place: GitLocation::of(on, &self.scratch),
            app: on.layout.app().into(),
            commit: commit.clone(),
            exclude,
        });
        match self.waiting.ask(&request)? {
            AlignResponse::Reset => Ok(()),
            _ => Err(another()),
        }
    }

    /// Ends the unit and removes its scratch directory.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub(crate) fn end(self) -> Outcome<()> {
        self.waiting.end();
        self.scratch.remove()
    }
}

fn request(on: &Installation, scratch: &Scratch, commit: &CommitId, known: &[CommitId]) -> ListKeptRequest {
    ListKeptRequest {
        place: GitLocation::of(on, scratch),
        app: on.layout.app().into(),
        commit: commit.clone(),
        known: known.to_vec(),
        preserve: on.settings.preserve.clone(),
        ignored: on.settings.ignored == IgnoredFiles::Keep,
    }
}

fn list_in_unit(on: &Installation, commit: &CommitId, known: &[CommitId]) -> Outcome<Option<KeptBeforehand>> {
    Scratch::with(on, |scratch| {
        let options = UnitOptions::new(Role::Inspect, kept_beforehand::DEADLINE).writes(scratch.path());
        on.units.call(&options, kept_beforehand::OPERATION, &request(on, scratch, commit, known))
    })
}

fn another() -> Failure {
    Failure::new("the operation answered another request")
}
