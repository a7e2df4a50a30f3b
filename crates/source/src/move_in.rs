//! The source part of step 2, in its order: list the paths that move across, exchange the trees, run the normative
//! commands, move the listed paths (RW-5.2).

use refresh_installation::installation::Installation;
use refresh_settings::names::{CommitId, RunId};
use refresh_system::checkpoint;
use refresh_system::error::{Context as _, Outcome};

use super::aligner::Aligner;
use super::carry::Carried;
use super::exchange::{Exchange, Plan};

/// Moves the prepared tree of `commit` into `app/`; returns the paths that moved across from the old one. `known` are
/// the commits that account for files of the old tree, which becomes the previous tree of `run`. `aligner` is the unit
/// that waits for this.
///
/// # Errors
/// An entry cannot be moved, or git fails. Nothing is removed; the same run, or recovery, completes the move.
pub fn move_in(
    on: &Installation,
    run: &RunId,
    commit: &CommitId,
    known: &[CommitId],
    mut aligner: Aligner,
) -> Outcome<Carried> {
    let kept = aligner.list_kept(on, commit, known)?;
    checkpoint::reach("sync:listed");
    let plan = Plan { commit: commit.clone(), known: known.to_vec(), kept: kept.paths };
    let exchange = Exchange::begin(&on.layout, run, on.owner, plan)?;
    exchange.swap().context(|| "the prepared tree cannot be moved into app/".to_owned())?;
    aligner.reset(on, commit, kept.exclude)?;
    let mut carried = exchange.carry().context(|| "a path cannot be moved into the new tree".to_owned())?;
    carried.left.extend(kept.claimed);
    exchange.finish()?;
    aligner.end()?;
    Ok(carried)
}
