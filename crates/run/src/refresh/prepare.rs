//! Step 4: hooks, as the owner of the tree, in the order of their declaration (RW-5.4).

use refresh_environments::RecordedEnvironment;
use refresh_installation::installation::{Installation, Release};
use refresh_source::hook_outputs::HookTime;
use refresh_system::error::Outcome;
use refresh_system::{checkpoint, clock};

use super::account::Account;
use super::hook::{HookContext, run_hook};
use super::{hook_program, models, rehearsal};

/// Runs every hook; the first that fails ends the run. Models that staging did not verify are verified before.
///
/// # Errors
/// A model has a problem; or a hook failed, exceeded its deadline, or could not be started.
pub(crate) fn prepare(
    on: &Installation,
    account: &mut Account,
    release: &Release,
    environment: &RecordedEnvironment,
) -> Outcome<String> {
    let verified = models::ensure_verified(on, account, &release.settings, &release.commit)?;
    // Otherwise staging has reported it.
    let models = verified
        .filter(|_| !account.report.staged)
        .map(|sentence| format!(", {sentence}"))
        .unwrap_or_default();
    let context = HookContext::deployed(&on.layout);
    let hooks = &release.settings.hooks;
    if hooks.is_empty() {
        return Ok(format!("no hooks declared{models}"));
    }
    let deployment = account.deployment(&release.commit, &environment.name);
    let since = clock::await_clock_tick()?;
    let mut names = Vec::new();
    let mut left_out = hook_program::left_out(on, account, release, environment)?;
    for (number, hook) in hooks.iter().enumerate() {
        if let Some(warning) = left_out.remove(&number) {
            account.warn(warning);
            continue;
        }
        names.push(hook.name.as_str());
        account.progress(&hook.name);
        checkpoint::reach("prepare:before-hook");
        if account.staged_assets.as_ref().is_some_and(|assets| assets.cover(hook, &release.commit)) {
            rehearsal::place_assets(on, account)?;
        } else {
            run_hook(on, account, hook, &context, &deployment)?;
        }
        checkpoint::reach("prepare:after-hook");
    }
    // The record itself is made when the service runs again.
    account.hook_time = Some(HookTime { since, until: clock::await_clock_tick()? });
    Ok(match names.len() {
        0 => format!("no hook of this version{models}"),
        1 => format!("1 hook: {}{models}", names[0]),
        count => format!("{count} hooks: {}{models}", names.join(", ")),
    })
}
