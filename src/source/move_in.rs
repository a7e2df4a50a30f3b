//! The source part of step 2, in its order: list what moves across, exchange the trees, run the normative commands, move
//! the listed paths (RW-5.2).

use crate::checkpoint;
use crate::error::{Context as _, Failure, Outcome};
use crate::installation::Installation;
use crate::process::worker;
use crate::settings::IgnoredFiles;
use crate::settings::names::{CommitId, RunId};

use super::align::{self, AlignRequest, AlignResponse, ResetRequest};
use super::carry::Carried;
use super::exchange::{Exchange, Plan};
use super::kept::{KeptPath, ListKeptRequest};
use super::place::Scratch;

/// What step 2 did to `app/`.
#[derive(Debug)]
pub struct MovedIn {
    /// How many files the normative commands wrote again; 0 if the prepared tree was right.
    pub rewritten: u64,
    /// What moved across from the old tree.
    pub carried: Carried,
}

/// Moves the prepared tree of `commit` into `app/`. `known` are the commits that account for files of the old tree, which is
/// in the previous tree of `run` afterwards.
///
/// # Errors
/// An entry cannot be moved, or git fails. Nothing is removed; the same run, or recovery, completes what was begun.
pub fn move_in(on: &Installation, run: &RunId, commit: &CommitId, known: &[CommitId]) -> Outcome<MovedIn> {
    let scratch = Scratch::make(&on.layout, &on.owner)?;
    let known: Vec<CommitId> = known.iter().filter(|known| *known != commit).cloned().collect();
    let kept = list_kept(on, commit, &known, &scratch)?;
    checkpoint::reach("sync:listed");
    let plan = Plan { commit: commit.clone(), known, kept };
    let exchange = Exchange::begin(&on.layout, run, on.owner, plan)?;
    exchange.swap().context(|| "the prepared tree cannot be moved into app/".to_owned())?;
    let rewritten = reset(on, commit, &scratch)?;
    let carried = exchange.carry().context(|| "a path cannot be moved into the new tree".to_owned())?;
    exchange.finish()?;
    scratch.remove()?;
    Ok(MovedIn { rewritten, carried })
}

/// Lists what moves from the old tree into the new one.
fn list_kept(
    on: &Installation,
    commit: &CommitId,
    known: &[CommitId],
    scratch: &Scratch,
) -> Outcome<Vec<KeptPath>> {
    let request = AlignRequest::List(ListKeptRequest {
        place: on.source_place(scratch),
        app: on.layout.app().into(),
        commit: commit.clone(),
        known: known.to_vec(),
        preserve: on.settings.preserve.clone(),
        ignored: on.settings.ignored == IgnoredFiles::Keep,
    });
    match worker::ask(&on.runner, on.owner, align::OPERATION, &request)? {
        AlignResponse::Kept(kept) => Ok(kept),
        AlignResponse::Reset { .. } => Err(Failure::new("the operation answered another request")),
    }
}

/// Runs the normative commands in the new tree; returns how many files they wrote again.
fn reset(on: &Installation, commit: &CommitId, scratch: &Scratch) -> Outcome<u64> {
    let request = AlignRequest::Reset(ResetRequest {
        place: on.source_place(scratch),
        app: on.layout.app().into(),
        commit: commit.clone(),
    });
    match worker::ask(&on.runner, on.owner, align::OPERATION, &request)? {
        AlignResponse::Reset { rewritten } => Ok(rewritten),
        AlignResponse::Kept(_) => Err(Failure::new("the operation answered another request")),
    }
}
