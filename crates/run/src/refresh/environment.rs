//! Step 3: provides the environment for the commit's definition, and switches `venv` to it (RW-5.3).

use crate::plan::Target;
use refresh_environments::{BuildOutcome, Contaminated, EnvironmentSpec, Interpreter, RecordedEnvironment};
use refresh_events::run_report;
use refresh_events::run_report::Overlap;
use refresh_installation::history;
use refresh_installation::installation::{Installation, Release};
use refresh_installation::journal::Entry;
use refresh_service::deployed::Deployment;
use refresh_system::error::{Failure, Outcome};
use refresh_system::manifest::contamination::Contamination;

use super::account::Account;
use super::entry;
use super::staged::Staged;

/// Switches `venv` to the environment that the commit needs. Staging has provided it and examined it at its end.
///
/// # Errors
/// The environment cannot be built (without staging), or the link cannot be switched.
pub(crate) fn environment(
    on: &Installation,
    account: &mut Account,
    release: &Release,
    staged: Option<Staged>,
) -> Outcome<(RecordedEnvironment, String)> {
    let staged = staged.and_then(|staged| staged.environment_of(&release.commit));
    let environment = if let Some(environment) = staged {
        environment
    } else {
        let environment = ensure_environment(on, account, release)?;
        entry::check(on, release, &environment)?;
        environment
    };
    let switched = on.environments().switch(&environment.name)?;
    if let Some(adopted) = &switched.adopted {
        account.note(&format!("the former directory venv is kept as {adopted}, to return to"));
        // It had no name until now; a rollback finds it by this one.
        account.report.environment.name_before.get_or_insert_with(|| adopted.clone());
    }
    let reported = &account.report.environment;
    let done = if reported.built { "built" } else { "reused" };
    Ok((environment.clone(), format!("{} {done}: {}", environment.name, reported.reason)))
}

/// Provides the environment: in staging, or in step 3 if staging is left out.
///
/// # Errors
/// It cannot be built.
pub(crate) fn ensure_environment(
    on: &Installation,
    account: &mut Account,
    release: &Release,
) -> Outcome<RecordedEnvironment> {
    account.progress("providing the environment");
    let (environment, made, reason) = environment_of_target(on, account, release)?;
    check_program(on, &environment)?;
    if account.report.environment.name.as_ref() != Some(&environment.name) {
        account.record(Entry::Built { environment: environment.name.clone() })?;
    }
    let lock = on.environments().lock_of(&environment)?.map(|lock| lock.summary());
    let (from_source, overlaps) = match environment.record.built() {
        Some(built) => (built.from_source.clone(), built.overlaps.clone()),
        None => Default::default(),
    };
    // Otherwise staging has already reported it.
    if account.report.environment.lock.is_none() {
        if !from_source.is_empty() {
            account.warn(format!("built from source here: {}", from_source.join(", ")));
        }
        overlaps.iter().map(Overlap::in_words).for_each(|words| account.warn(words));
    }
    // If staging has built it, it counts as built, even if step 3 finds it complete.
    let built = account.report.environment.built || made == BuildOutcome::Built;
    let reason =
        if account.report.environment.built { account.report.environment.reason.clone() } else { reason };
    account.report.environment = run_report::Environment {
        path: on.layout.venv(),
        name: Some(environment.name.clone()),
        name_before: account.report.environment.name_before.clone(),
        interpreter: environment.record.built().map(|built| interpreter_in_words(&built.interpreter)),
        packages: Some(environment.record.packages.len()),
        built,
        reason,
        lock,
        digest: environment.record.digest.clone(),
        overlaps,
        contaminated: account.report.environment.contaminated.clone(),
    };
    Ok(environment)
}

/// Provides the environment of the target; returns it, how it was obtained, and why.
fn environment_of_target(
    on: &Installation,
    account: &mut Account,
    release: &Release,
) -> Outcome<(RecordedEnvironment, BuildOutcome, String)> {
    let environments = on.environments();
    let strategy = release.settings.python.strategy;
    let Target::Earlier(Deployment { environment: name, .. }) = account.target.clone() else {
        let ensured = environments.ensure(&release.wanted(on)?, strategy, &account.report.run)?;
        report_contaminated(account, ensured.contaminated.into_iter());
        return Ok((ensured.environment, ensured.made, ensured.why));
    };
    let good = environments.good(&name)?;
    let changed = good.as_ref().map(|it| environments.examine(it)).transpose()?.flatten();
    if let (Some(environment), None) = (good, &changed) {
        let is_adopted = environment.record.built().is_none();
        let why = if is_adopted { "it is from before the first run" } else { "the environment of that run" };
        return Ok((environment, BuildOutcome::Reused, why.to_owned()));
    }
    report_contaminated(account, changed.into_iter());
    let wanted = release.wanted(on)?;
    let ensured = environments
        .rebuild_from_lock(&wanted, &name, strategy, &account.report.run)
        .or_else(|failure| Err(without_interpreter(on, account, &wanted, failure)?))?;
    report_contaminated(account, ensured.contaminated.into_iter());
    // Otherwise staging has already reported it.
    if account.report.environment.lock.is_none() && environments.known(&name)?.is_none() {
        account.warn(ensured.why.clone());
    }
    Ok((ensured.environment, ensured.made, ensured.why))
}

/// Explains that the environment of a rollback cannot be built again if its interpreter no longer exists: its packages
/// may not exist for another interpreter, and no hint of the installer helps.
///
/// # Errors
/// The interpreter is not the cause; then the failure is unchanged.
fn without_interpreter(
    on: &Installation,
    account: &Account,
    wanted: &EnvironmentSpec,
    failure: Failure,
) -> Outcome<Failure> {
    let Target::Earlier(pair) = &account.target else { return Err(failure) };
    let known = on.environments().known(&pair.environment).ok().flatten();
    let Some(lost) = known.as_ref().and_then(RecordedEnvironment::lost_interpreter) else {
        return Err(failure);
    };
    if failure.interrupted_by().is_some() {
        return Err(failure);
    }
    let explained = Failure::new(format!(
        "the environment {} was made with {}, and {} no longer exists; for {} it cannot be built",
        pair.environment,
        interpreter_in_words(lost),
        lost.path.display(),
        interpreter_in_words(wanted.interpreter())
    ))
    .because(failure.without_hints())
    .hint(format!("install {} again to return to that run", interpreter_in_words(lost)));
    Ok(match history::ready_pair(on, account.report.commit_before.as_ref()) {
        Some(ready) => explained.command("ladylinux-refresh rollback", &[&ready.run]),
        None => explained.command("ladylinux-refresh status", &[]),
    })
}

/// Reports the environments that were changed manually, each once.
fn report_contaminated(account: &mut Account, contaminated: impl Iterator<Item = Contaminated>) {
    for Contaminated { name, found } in contaminated {
        if account.report.environment.contaminated.iter().any(|known| known.name == name) {
            continue;
        }
        account.warn(format!(
            "the environment {name} was changed manually and is not used any more: {}",
            found.in_words(3)
        ));
        let Contamination { count, found } = found;
        account.report.environment.contaminated.push(run_report::Contaminated { name, count, found });
    }
}

/// Refuses an environment without the program of the service: this is found now, not after the stop.
fn check_program(on: &Installation, environment: &RecordedEnvironment) -> Outcome<()> {
    let Some(program) = on.service.program()? else { return Ok(()) };
    let Ok(within) = program.path.strip_prefix(on.layout.venv()) else { return Ok(()) };
    if environment.path.join(within).exists() {
        return Ok(());
    }
    let what = format!("the environment has no {}, which the service is started with", within.display());
    Err(Failure::new(what)
        .hint(program.change)
        .hint("or add the package that brings it to the application's requirements"))
}

fn interpreter_in_words(interpreter: &Interpreter) -> String {
    format!("{} {}", interpreter.implementation, interpreter.version)
}
