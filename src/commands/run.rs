//! `run`: preflight, staging, the six steps, the report.

use std::sync::Arc;
use std::time::Instant;

use crate::bundle::{self, Given, Unusual};
use crate::cli::{BundleArgs, LockArgs, RunArgs};
use crate::clock;
use crate::error::{Failure, Outcome};
use crate::event::{Event, Phase};
use crate::exit::{Ended, Error};
use crate::installation::{self, Installation};
use crate::journal::recover;
use crate::models::verify::Summary;
use crate::plan::{Coming, Observed, confinement, preflight};
use crate::process::{Runner, interrupt};
use crate::refresh::account::{Opening, millis};
use crate::refresh::begin::{self, TargetState};
use crate::refresh::status::{self, Brief};
use crate::refresh::{self, Target};
use crate::report::screen::{complain, harmless_line};
use crate::report::{PhaseReport, shell};
use crate::service::deployed::Deployed;
use crate::service::probe::{self, ProbeResult};
use crate::settings::layers::Overrides;
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, CommitId, RunId};
use crate::settings::trust;
use crate::status_file;
use crate::units::Role;

use super::place::{self, Seat, Wanted};
use super::{lock, settings, to_type_again, unchanged};

/// Refreshes an installation.
pub(super) fn run(layout: &Layout, args: &RunArgs) -> Result<Ended, Error> {
    run_as(layout, args, None)
}

/// Refreshes an installation by a run whose name somebody has to know beforehand.
pub(super) fn run_as(layout: &Layout, args: &RunArgs, run: Option<RunId>) -> Result<Ended, Error> {
    let branch = args.branch().map(BranchName::parse).transpose().map_err(Error::Usage)?;
    super::migrate(layout, &mut |line| complain(&harmless_line(line)))?;
    let arguments = arguments(args).map_err(Error::Usage)?;
    let wish = Wish {
        overrides: Overrides {
            no_stage: args.no_stage,
            always_rebuild: args.always_rebuild_venv,
            verify_models: args.verify_models,
            strict: args.strict,
        },
        when: if args.if_changed { When::IfChanged } else { When::Always },
        lock: args.lock.clone(),
        command: "run",
        again: again(&arguments),
        bundle: given(&args.bundle),
    };
    if wish.when == When::IfChanged
        && wish.bundle.is_none()
        && place::would_be_in_a_unit(layout, &args.place)
        && let Some(ended) = unchanged::answer(layout, &wish, &args.report, run.as_ref(), branch.as_ref())
    {
        return Ok(ended);
    }
    let wanted = Wanted {
        layout,
        run,
        place: &args.place,
        report: &args.report,
        overrides: &wish.overrides,
        arguments: with_patience(arguments, &args.lock),
    };
    place::place(wanted, |seat| {
        refresh(layout, &wish, seat, |on| {
            Ok(Target { branch: choose_branch(on, branch)?, state: TargetState::Latest })
        })
    })
}

/// A run's or rollback's command line as it is typed once more. Where it reports and how it waits is left out.
pub(super) fn again(arguments: &[String]) -> String {
    let words = arguments.iter().map(|word| shell::quoted(word));
    ["ladylinux-refresh".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// The command line of a worker.
pub(super) fn with_patience(mut arguments: Vec<String>, lock: &LockArgs) -> Vec<String> {
    arguments.push(format!("--wait={}s", lock.wait.as_secs()));
    arguments
}

/// The same as the command line of a worker, which reports nothing by itself.
fn arguments(args: &RunArgs) -> Outcome<Vec<String>> {
    let flags = [
        (args.bundle.allow_older, "--allow-older"),
        (args.bundle.allow_unrelated, "--allow-unrelated"),
        (args.if_changed, "--if-changed"),
        (args.no_stage, "--no-stage"),
        (args.always_rebuild_venv, "--always-rebuild-venv"),
        (args.strict, "--strict"),
    ];
    let mut arguments = vec!["run".to_owned()];
    arguments.extend(flags.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag.to_owned()));
    arguments.extend(args.verify_models.map(|how| format!("--verify-models={}", how.word())));
    if let Some(file) = &args.bundle.bundle {
        let file = super::absolute(file);
        let file = file.to_str().ok_or_else(|| Failure::new(format!("{} is no text", file.display())))?;
        arguments.push(format!("--bundle={file}"));
    }
    arguments.extend(args.branch().map(str::to_owned));
    Ok(arguments)
}

/// The bundle that the command line names.
pub(super) fn given(args: &BundleArgs) -> Option<Given> {
    let wanted = |flag: bool| if flag { Unusual::Wanted } else { Unusual::Refused };
    args.bundle.as_deref().map(|file| Given {
        file: super::absolute(file),
        older: wanted(args.allow_older),
        unrelated: wanted(args.allow_unrelated),
    })
}

/// The branch of the bundle, where there is one; else the one asked for, else the usual one.
pub(super) fn choose_branch(on: &Installation, asked: Option<BranchName>) -> Outcome<BranchName> {
    match &on.bundle {
        Some(bundle) => bundle.branch(on, asked),
        None => Ok(asked.unwrap_or_else(|| usual_branch(on))),
    }
}

/// What the command line says about a run or a rollback.
pub(super) struct Wish {
    /// The flags that are settings.
    pub(super) overrides: Overrides,
    /// Whether a run that would change nothing does nothing.
    pub(super) when: When,
    /// How it waits.
    pub(super) lock: LockArgs,
    /// The command.
    pub(super) command: &'static str,
    /// All of what was typed.
    pub(super) again: String,
    /// What it takes instead of the network.
    pub(super) bundle: Option<Given>,
}

/// When the six steps are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Always.
    Always,
    /// Only when something is not as it should be.
    IfChanged,
}

/// The branch where none is named.
pub(super) fn usual_branch(on: &Installation) -> BranchName {
    let deployed = status_file::read(&on.layout).deployed.map(|pair| pair.branch);
    on.settings.branch_to_follow(deployed)
}

/// Does a run for the target that `choose` names once the installation is open.
pub(super) fn refresh(
    layout: &Layout,
    wish: &Wish,
    seat: &Seat,
    choose: impl FnOnce(&Installation) -> Outcome<Target>,
) -> Result<Ended, Error> {
    let start = clock::monotonic();
    installation::check_there(layout)
        .map_err(|failure| crate::exit::Refusal::of(&Phase::Preflight.to_string(), failure))?;
    let layers = settings(layout, wish.overrides.clone())?;
    let (run, events) = (seat.run.clone(), &seat.events);
    let _lock = lock(layout, wish.command, Some(&run), &wish.lock)
        .map_err(|error| to_type_again(layout, error, &wish.again))?;
    seat.open_spool(layout);

    let register = layout.run(&run).join(recover::CHILDREN);
    let runner = Runner::new(Arc::clone(events)).for_run(run.clone(), register);
    let on = Installation::open(layers, runner).map_err(Error::Usage)?.with_bundle(wish.bundle.clone());
    let done = carry_out(&on, wish, seat, start, choose);
    let tidied = interrupt::shielded(|| bundle::put_away(layout));
    if let (Ok(_), Err(failure)) = (&done, tidied) {
        events.warn(&format!("the unpacked bundle cannot be removed: {}", failure.chain().join(": ")));
    }
    done
}

/// Does a run whose installation is open and whose lock is held.
fn carry_out(
    on: &Installation,
    wish: &Wish,
    seat: &Seat,
    start: Instant,
    choose: impl FnOnce(&Installation) -> Outcome<Target>,
) -> Result<Ended, Error> {
    let (run, started_at, events) = (seat.run.clone(), seat.started_at, &seat.events);
    begin::announce(events, &run);
    events.emit(&Event::PhaseStarted { phase: Phase::Preflight });
    let checked = look(on, wish.when, &run, choose);
    let duration_ms = millis(clock::monotonic().duration_since(start));
    let preflight = |ok: bool, summary: &str| PhaseReport {
        phase: Phase::Preflight,
        duration_ms,
        ok,
        summary: summary.to_owned(),
    };
    let (target, found) = match checked {
        Ok(checked) => checked,
        Err(failure) => {
            events.emit(&Event::PhaseFailed { phase: Phase::Preflight, duration_ms, error: failure.chain() });
            let part = preflight(false, failure.summary());
            let brief = Brief {
                again: &wish.again,
                run,
                command: wish.command,
                started_at,
                preflight: part,
                models: None,
            };
            return Err(status::refused_in_preflight(on, brief, &failure));
        }
    };
    let summary = match &found {
        Found::AllThere { .. } => "everything is right already".to_owned(),
        Found::Fit { observed, .. } => format!("fit to be refreshed, the service is {}", word(observed)),
    };
    events.emit(&Event::PhaseFinished { phase: Phase::Preflight, duration_ms, summary: summary.clone() });
    let part = preflight(true, &summary);
    let (observed, aimed, warnings) = match found {
        Found::Fit { observed, aimed, warnings } => (observed, aimed, warnings),
        Found::AllThere { models } => {
            let brief =
                Brief { again: &wish.again, run, command: wish.command, started_at, preflight: part, models };
            status::unchanged(on, events, brief, &target);
            return Ok(Ended::Done);
        }
    };
    let mut known = observed.known();
    known.extend(aimed);
    let opening = Opening {
        run,
        target,
        again: wish.again.clone(),
        staged: !on.settings.strict_order,
        started_at,
        commit_before: observed.tree.commit.clone(),
        generation_before: observed.live(),
        known,
        preflight: part,
        warnings,
    };
    let planned = refresh::begin(on, opening, Arc::clone(events))
        .map_err(|failure| super::refuse(on, "preflight", failure, &wish.again))?;
    let planned = if on.settings.strict_order { planned } else { planned.stage()? };
    refresh::execute(planned)?;
    Ok(Ended::Done)
}

/// What preflight found.
enum Found {
    /// Nothing has to be done.
    AllThere {
        /// What was found when the models were looked at.
        models: Option<Summary>,
    },
    /// The installation may be refreshed.
    Fit { observed: Box<Observed>, aimed: Vec<CommitId>, warnings: Vec<String> },
}

/// Preflight: what an interrupted run left is cleaned up, then everything is only looked at.
fn look(
    on: &Installation,
    when: When,
    run: &RunId,
    choose: impl FnOnce(&Installation) -> Outcome<Target>,
) -> Outcome<(Target, Found)> {
    interrupt::check()?;
    on.units.start_beforehand(Role::Inspect);
    on.units.start_beforehand(Role::Build);
    let recovered = recover::recover(&on.layout, on.runner.events(), &on.exchanges())?;
    // This run holds the lock and has not begun, so whatever run is told to be in progress is not.
    status_file::clear_current(&on.layout)?;
    bundle::put_away(&on.layout)?;
    keep_down(on)?;
    confinement::check(on)?;
    let mut observed = Observed::of(on)?;
    let checked = preflight::check(on, &observed);
    interrupt::check()?;
    let mut warnings = checked?;
    warnings.extend(trust::ignored(&on.layout).map(|ignored| ignored.to_string()));
    for warning in &warnings {
        on.runner.events().warn(warning);
    }
    let target = choose(on)?;
    if on.settings.strict_order && target.state == TargetState::Latest {
        // Staging would find this out before the stop; without it, asking is all that can be done.
        on.check_source(&target.branch)?;
    }
    if when == When::IfChanged {
        observed = observed.with_drift(on, &recovered.aimed, None)?;
        let coming = Coming::look(on, &target, &observed, run)?;
        if coming.is_all_there(&target, &observed) && answers(on, &coming.commit)? {
            let models = refresh::models::verified(on, &coming.commit)?;
            return Ok((target, Found::AllThere { models }));
        }
    }
    Ok((target, Found::Fit { observed: Box::new(observed), aimed: recovered.aimed, warnings }))
}

/// Stops a service that a killed run left running behind the fence (RW-7.1a): whatever becomes of this run, nobody has proved
/// that one.
fn keep_down(on: &Installation) -> Outcome<()> {
    if on.is_fenced() && !on.service.is_all_down()? {
        on.runner.events().warn("the service was running behind the fence, unproved; it is stopped");
        interrupt::shielded(|| on.service.stop())?;
    }
    Ok(())
}

/// Asks the running service once, as step 5 would: one that runs and does not answer is not right.
pub(super) fn answers(on: &Installation, commit: &CommitId) -> Outcome<bool> {
    let env_file = on.env_file()?;
    let deployed = Deployed::read(&on.layout).ok().flatten();
    let probe = probe::resolve(&on.release(commit)?.settings.probe, &env_file, deployed.as_ref())?;
    Ok(matches!(probe::probe_once(&probe), ProbeResult::Good { .. }))
}

fn word(observed: &Observed) -> &'static str {
    if observed.service.running().is_some() { "running" } else { "stopped" }
}
