//! The source part of step 2, in its order: list what moves across, exchange the trees, run the normative commands, move
//! the listed paths (RW-5.2).

use crate::checkpoint;
use crate::error::{Context as _, Failure, Outcome};
use crate::installation::Installation;
use crate::settings::IgnoredFiles;
use crate::settings::names::{CommitId, RunId};
use crate::units::{Job, Role, Waiting};

use super::align::{self, AlignRequest, AlignResponse, ResetRequest};
use super::carry::Carried;
use super::exchange::{self, Exchange, Plan};
use super::kept::{KeptPath, ListKeptRequest};
use super::place::{Place, Scratch};
use super::prepared_tree::LONG;

/// What step 2 did to `app/`.
#[derive(Debug)]
pub struct MovedIn {
    /// How many files the normative commands wrote again; 0 if the prepared tree was right.
    pub rewritten: u64,
    /// What moved across from the old tree.
    pub carried: Carried,
}

/// The unit that works in `app/` as its owner. It is started before the stop, since a sandbox takes its time, and waits.
#[derive(Debug)]
pub struct Aligner {
    waiting: Waiting,
    scratch: Scratch,
    place: Place,
}

impl Aligner {
    /// Starts the unit.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(on: &Installation) -> Outcome<Self> {
        exchange::ensure_app(&on.layout, on.owner)?;
        let scratch = Scratch::make(&on.layout, &on.owner)?;
        let job = Job::new(Role::Align, LONG).writes(on.layout.app()).writes(scratch.path());
        let waiting = on.units.wait_in_unit(&job, align::OPERATION, &AlignRequest::Ready)?;
        let place = on.source_place(&scratch);
        Ok(Self { waiting, scratch, place })
    }

    /// Ends the unit and removes what it has written beside `app/`.
    ///
    /// # Errors
    /// The scratch directory cannot be removed.
    fn end(self) -> Outcome<()> {
        self.waiting.end();
        self.scratch.remove()
    }

    /// Lists what moves from the old tree into the new one.
    fn list_kept(
        &mut self,
        on: &Installation,
        commit: &CommitId,
        known: &[CommitId],
    ) -> Outcome<Vec<KeptPath>> {
        let request = AlignRequest::List(ListKeptRequest {
            place: self.place.clone(),
            app: on.layout.app().into(),
            commit: commit.clone(),
            known: known.to_vec(),
            preserve: on.settings.preserve.clone(),
            ignored: on.settings.ignored == IgnoredFiles::Keep,
        });
        match self.waiting.ask(&request)? {
            AlignResponse::Kept(kept) => Ok(kept),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs the normative commands in the new tree; returns how many files they wrote again.
    fn reset(&mut self, on: &Installation, commit: &CommitId) -> Outcome<u64> {
        let request = AlignRequest::Reset(ResetRequest {
            place: self.place.clone(),
            app: on.layout.app().into(),
            commit: commit.clone(),
        });
        match self.waiting.ask(&request)? {
            AlignResponse::Reset { rewritten } => Ok(rewritten),
            other => Err(unexpected(&other)),
        }
    }
}

/// Moves the prepared tree of `commit` into `app/`. `known` are the commits that account for files of the old tree, which is
/// in the previous tree of `run` afterwards.
///
/// # Errors
/// An entry cannot be moved, or git fails. Nothing is removed; the same run, or recovery, completes what was begun.
pub fn move_in(
    on: &Installation,
    run: &RunId,
    commit: &CommitId,
    known: &[CommitId],
    mut aligner: Aligner,
) -> Outcome<MovedIn> {
    let kept = aligner.list_kept(on, commit, known)?;
    checkpoint::reach("sync:listed");
    let plan = Plan { commit: commit.clone(), known: known.to_vec(), kept };
    let exchange = Exchange::begin(&on.layout, run, on.owner, plan)?;
    exchange.swap().context(|| "the prepared tree cannot be moved into app/".to_owned())?;
    let rewritten = aligner.reset(on, commit)?;
    let carried = exchange.carry().context(|| "a path cannot be moved into the new tree".to_owned())?;
    exchange.finish()?;
    aligner.end()?;
    Ok(MovedIn { rewritten, carried })
}

/// The failure for a response to another request.
fn unexpected(response: &AlignResponse) -> Failure {
    Failure::new(format!("the operation answered another request: {response:?}"))
}
