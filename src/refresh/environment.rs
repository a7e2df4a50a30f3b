//! Step 3: the generation for the commit's definition ensured, `venv` switched to it (RW-5.3).

use crate::error::{Failure, Outcome};
use crate::installation::Installation;
use crate::journal::Entry;
use crate::python::{Contaminated, Contamination, Generation, Interpreter, Made, Overlap};
use crate::report;

use super::account::Account;
use super::begin::TargetState;
use super::entry;
use super::release::Release;
use super::staging::Staged;

/// Switches `venv` to the generation that the commit wants, which staging has ensured and looked through last.
///
/// # Errors
/// The environment cannot be built (without staging), or the link cannot be switched.
pub fn environment(
    on: &Installation,
    account: &mut Account,
    release: &Release,
    staged: Option<Staged>,
) -> Outcome<(Generation, String)> {
    let staged = staged.and_then(|staged| staged.generation_of(&release.commit));
    let generation = if let Some(generation) = staged {
        generation
    } else {
        let generation = ensure_generation(on, account, release)?;
        entry::check(on, release, &generation)?;
        generation
    };
    let switched = on.environments().switch(&generation.name)?;
    if let Some(adopted) = &switched.adopted {
        account.note(&format!("the former directory venv is kept as {adopted}, to return to"));
        // It had no name until now; by this one a rollback finds it.
        account.generation_before.get_or_insert_with(|| adopted.clone());
    }
    let environment = &account.environment;
    let done = if environment.built { "built" } else { "reused" };
    Ok((generation.clone(), format!("{} {done}: {}", generation.name, environment.reason)))
}

/// Ensures the generation: in staging, or in step 3 where staging is left out.
///
/// # Errors
/// It cannot be built.
pub fn ensure_generation(on: &Installation, account: &mut Account, release: &Release) -> Outcome<Generation> {
    account.progress("ensuring the environment");
    let environments = on.environments();
    let strategy = release.settings.python.strategy;
    let (generation, made, reason) = match account.target.state.clone() {
        TargetState::Latest => {
            let ensured = environments.ensure(&release.wanted(on)?, strategy, &account.run)?;
            tell(account, ensured.contaminated.into_iter());
            (ensured.generation, ensured.made, ensured.why)
        }
        TargetState::Earlier { generation: name, .. } => {
            let good = environments.good(&name)?;
            let changed = good.as_ref().map(|it| environments.examine(it)).transpose()?.flatten();
            match good {
                Some(generation) if changed.is_none() => {
                    (generation, Made::Reused, "the environment of that run".to_owned())
                }
                _ => {
                    tell(account, changed.into_iter());
                    let wanted = release.wanted(on)?;
                    let ensured = environments.ensure_again(&wanted, &name, strategy, &account.run)?;
                    tell(account, ensured.contaminated.into_iter());
                    // Staging has told it already.
                    if account.environment.lock.is_none() && environments.known(&name)?.is_none() {
                        account.warn(ensured.why.clone());
                    }
                    (ensured.generation, ensured.made, ensured.why)
                }
            }
        }
    };
    check_program(on, &generation)?;
    if account.environment.generation.as_ref() != Some(&generation.name) {
        account.record(Entry::Built { generation: generation.name.clone() })?;
    }
    let lock = on.environments().lock_of(&generation)?;
    let lock = lock.map(|lock| lock.summary());
    let (built_here, overlaps) = match generation.record.built() {
        Some(built) => (built.built_here.clone(), built.overlaps.clone()),
        None => Default::default(),
    };
    // Staging has told it already.
    if account.environment.lock.is_none() && !built_here.is_empty() {
        account.warn(format!("built from source here: {}", built_here.join(", ")));
    }
    if account.environment.lock.is_none() {
        overlaps.iter().map(Overlap::in_words).for_each(|words| account.warn(words));
    }
    // Built once is built, also when step 3 finds it done.
    let built = account.environment.built || made == Made::Built;
    let reason = if account.environment.built { account.environment.reason.clone() } else { reason };
    account.environment = report::Environment {
        path: on.layout.venv(),
        generation: Some(generation.name.clone()),
        generation_before: account.generation_before.clone(),
        interpreter: generation.record.built().map(|built| interpreter_in_words(&built.interpreter)),
        packages: Some(generation.record.packages.len()),
        built,
        reason,
        lock,
        digest: generation.record.digest.clone(),
        overlaps,
        contaminated: account.environment.contaminated.clone(),
    };
    Ok(generation)
}

/// Returns which environments somebody has changed, each once.
fn tell(account: &mut Account, contaminated: impl Iterator<Item = Contaminated>) {
    for Contaminated { generation, found } in contaminated {
        if account.environment.contaminated.iter().any(|known| known.generation == generation) {
            continue;
        }
        account.warn(format!(
            "the environment {generation} was changed by hand and is not used any more: {}",
            found.in_words(3)
        ));
        let Contamination { count, found } = found;
        account.environment.contaminated.push(report::Contaminated { generation, count, found });
    }
}

/// Refuses an environment without the program that the service is started with: known now, not after the stop.
fn check_program(on: &Installation, generation: &Generation) -> Outcome<()> {
    let Some(program) = on.service.program()? else { return Ok(()) };
    let Ok(within) = program.path.strip_prefix(on.layout.venv()) else { return Ok(()) };
    if generation.path.join(within).exists() {
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
