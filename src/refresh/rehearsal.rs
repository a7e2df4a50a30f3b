//! The rehearsal: staged hooks run in a copy of the commit, with the next environment, while the service still runs.
//!
//! Staged checks leave nothing. What staged `assets` hooks wrote is kept beside the run and copied into `app/` in step 4, in
//! the place of the hook itself.

use std::path::PathBuf;

use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Outcome};
use crate::installation::Installation;
use crate::journal::recover::STAGED_TREE;
use crate::python::Generation;
use crate::settings::names::{CommitId, RunId};
use crate::settings::{Hook, HookKind};
use crate::source::staged_assets;
use crate::units::Role;

use super::account::Account;
use super::release::Release;
use super::{entry, prepare};

/// The products of staged `assets` hooks.
#[derive(Debug)]
pub struct StagedAssets {
    commit: CommitId,
    is_placed: bool,
}

impl StagedAssets {
    /// Returns whether a hook's products for a commit are among them.
    pub fn cover(&self, hook: &Hook, commit: &CommitId) -> bool {
        is_staged_asset(hook) && self.commit == *commit
    }
}

fn is_staged_asset(hook: &Hook) -> bool {
    hook.stage && hook.kind == HookKind::Assets
}

/// Where the copy is, and later the products.
fn place_of(on: &Installation, run: &RunId) -> PathBuf {
    on.layout.run(run).join(STAGED_TREE)
}

/// Runs the import check and the staged hooks in a copy of the commit; returns how many there were.
///
/// # Errors
/// The copy cannot be made, or one of them failed.
pub fn rehearse(
    on: &Installation,
    account: &mut Account,
    release: &Release,
    generation: &Generation,
) -> Outcome<usize> {
    let copy = place_of(on, &account.run);
    let import = entry::import_hook(on, release, &copy)?;
    let declared = release.settings.hooks.iter().filter(|hook| hook.stage);
    let hooks: Vec<&Hook> = import.iter().chain(declared).collect();
    if hooks.is_empty() {
        return Ok(0);
    }
    on.mirror.export(&release.commit, &copy, on.units.user_of(Role::Rehearse)?)?;
    let since = clock::between_changes()?;
    let stage = prepare::Place::staged(on, copy.clone(), generation.path.clone());
    let rehearsed =
        hooks.iter().try_for_each(|hook| prepare::run_hook(on, account, hook, &stage, generation));
    let has_assets = hooks.iter().any(|hook| is_staged_asset(hook));
    if rehearsed.is_ok() && has_assets {
        checkpoint::reach("staging:assets built");
        let files =
            staged_assets::keep(on, &copy, since).context(|| "cannot keep the staged assets".to_owned())?;
        account.note(&format!("{files} files of staged assets wait for step 4"));
        account.staged_assets = Some(StagedAssets { commit: release.commit.clone(), is_placed: false });
    } else {
        disk::remove_tree(&copy)?;
    }
    // The report describes what `app/` holds, which is not what failed.
    rehearsed.context(|| format!("{} on {} did not pass", release.commit.short(), account.branch()))?;
    Ok(hooks.len())
}

/// Copies the products into `app/`, once for all hooks that wrote them.
///
/// # Errors
/// They cannot be copied.
pub fn place_assets(on: &Installation, account: &mut Account) -> Outcome<()> {
    let products = place_of(on, &account.run);
    let Some(assets) = account.staged_assets.as_mut().filter(|assets| !assets.is_placed) else {
        return Ok(());
    };
    staged_assets::place(on, &products).context(|| "cannot copy the staged assets into app/".to_owned())?;
    assets.is_placed = true;
    checkpoint::reach("prepare:assets placed");
    Ok(())
}

/// Removes what is left beside the run. A failure is a warning.
pub fn discard(on: &Installation, account: &mut Account) {
    if account.staged_assets.take().is_some()
        && let Err(failure) = disk::remove_tree(&place_of(on, &account.run))
    {
        account.warn(format!("the staged assets cannot be removed: {}", failure.chain().join(": ")));
    }
}
