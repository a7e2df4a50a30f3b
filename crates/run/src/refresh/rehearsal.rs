//! The rehearsal: staged hooks run in a copy of the commit, with the next environment, while the service still runs.
//!
//! Staged checks leave no files. The products of staged `assets` hooks are kept beside the run and copied into `app/`
//! in step 4, instead of running the hook there.

use std::path::PathBuf;

use refresh_environments::RecordedEnvironment;
use refresh_installation::installation::{Installation, Release};
use refresh_installation::journal::recover::STAGED_TREE;
use refresh_programs::units::Role;
use refresh_settings::Hook;
use refresh_settings::names::RunId;
use refresh_source::staged_assets;
use refresh_system::error::{Context as _, Outcome};
use refresh_system::{checkpoint, clock, disk};

use super::account::Account;
use super::entry;
use super::hook::{HookContext, run_hook};
use super::hook_program;
use super::staged_assets::{StagedAssets, is_staged_asset};

/// Returns the path of the copy, and later of the products.
fn place_of(on: &Installation, run: &RunId) -> PathBuf {
    on.layout.run(run).join(STAGED_TREE)
}

/// Runs the import check and the staged hooks in a copy of the commit; returns their number.
///
/// # Errors
/// The copy cannot be created, or one of the hooks failed.
pub(crate) fn rehearse(
    on: &Installation,
    account: &mut Account,
    release: &Release,
    environment: &RecordedEnvironment,
) -> Outcome<usize> {
    hook_program::check(on, account, release, environment)?;
    let copy = place_of(on, &account.report.run);
    let import = entry::import_hook(on, release, &copy)?;
    let left_out = hook_program::left_out(on, account, release, environment)?;
    let all = release.settings.hooks.iter().enumerate();
    let declared = all.filter(|(number, hook)| hook.stage && !left_out.contains_key(number));
    let hooks: Vec<&Hook> = import.iter().chain(declared.map(|(_, hook)| hook)).collect();
    if hooks.is_empty() {
        return Ok(0);
    }
    on.mirror.export(&release.commit, &copy, on.units.user_of(Role::Rehearse)?)?;
    let since = clock::await_clock_tick()?;
    let deployment = account.deployment(&release.commit, &environment.name);
    let stage = HookContext::staged(on, copy.clone(), environment.path.clone());
    let rehearsed = hooks.iter().try_for_each(|hook| run_hook(on, account, hook, &stage, &deployment));
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
    // The report describes the content of `app/`, not the commit that failed.
    rehearsed.context(|| format!("{} on {} did not pass", release.commit.short(), account.branch()))?;
    Ok(hooks.len())
}

/// Copies the products into `app/`, once for all hooks that wrote them.
///
/// # Errors
/// They cannot be copied.
pub(crate) fn place_assets(on: &Installation, account: &mut Account) -> Outcome<()> {
    let products = place_of(on, &account.report.run);
    let Some(assets) = account.staged_assets.as_mut().filter(|assets| !assets.is_placed) else {
        return Ok(());
    };
    staged_assets::place(on, &products).context(|| "cannot copy the staged assets into app/".to_owned())?;
    assets.is_placed = true;
    checkpoint::reach("prepare:assets placed");
    Ok(())
}

/// Removes the copy and the products. A failure is a warning.
pub(crate) fn discard(on: &Installation, account: &mut Account) {
    if account.staged_assets.take().is_some()
        && let Err(failure) = disk::remove_tree(&place_of(on, &account.report.run))
    {
        account.warn(format!("the staged assets cannot be removed: {}", failure.chain().join(": ")));
    }
}
