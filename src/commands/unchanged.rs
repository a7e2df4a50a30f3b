//! `run --if-changed` where nothing has changed: answered without a unit for the run, since there is no run.
//!
//! The remote is asked while everything else is read. Nothing is written but the events of the answer. Where anything is not
//! as it should be, or cannot be read, a run finds out and reports it.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::ReportArgs;
use crate::clock;
use crate::error::{Failure, Outcome};
use crate::event::{Event, Events, Phase};
use crate::exit::Ended;
use crate::installation::{self, Installation};
use crate::journal::run_lock::{self, Taken};
use crate::models::verify::Summary;
use crate::plan::{Coming, Observed, confinement, preflight};
use crate::process::Runner;
use crate::refresh::account::millis;
use crate::refresh::begin::{self, TargetState};
use crate::refresh::status::{self, Brief};
use crate::refresh::{self, Target};
use crate::report::PhaseReport;
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, RunId};
use crate::settings::trust;
use crate::status_file;
use crate::units::Role;

use super::run::{Wish, answers, choose_branch};
use super::{place, settings};

/// What is found where nothing has changed: the models, where a run would examine them.
struct Nothing {
    models: Option<Summary>,
}

/// Answers, where nothing has changed; returns `None` where a run has to find out.
pub(super) fn answer(
    layout: &Layout,
    wish: &Wish,
    report: &ReportArgs,
    run: Option<&RunId>,
    branch: Option<&BranchName>,
) -> Option<Ended> {
    let start = clock::monotonic();
    let run = run.cloned().unwrap_or_else(place::new_name);
    installation::check_there(layout).ok()?;
    let layers = settings(layout, wish.overrides.clone()).ok()?;
    let Ok(Taken::Ours(_lock)) =
        run_lock::take(&layout.lock_file(), wish.command, Some(&run), Duration::ZERO)
    else {
        return None;
    };
    let on = Installation::open(layers, Runner::new(Arc::new(Events::silent()))).ok()?;
    let target = Target { branch: choose_branch(&on, branch.cloned()).ok()?, state: TargetState::Latest };
    let Nothing { models } = read_all(&on, &target).ok()??;
    Some(place::here(layout, run, report, |seat| {
        let events = &seat.events;
        begin::announce(events, &seat.run);
        events.emit(&Event::PhaseStarted { phase: Phase::Preflight });
        let summary = "everything is right already".to_owned();
        let duration_ms = millis(clock::monotonic().duration_since(start));
        events.emit(&Event::PhaseFinished { phase: Phase::Preflight, duration_ms, summary: summary.clone() });
        let brief = Brief {
            again: &wish.again,
            run: seat.run.clone(),
            command: wish.command,
            started_at: seat.started_at,
            preflight: PhaseReport { phase: Phase::Preflight, duration_ms, ok: true, summary },
            models,
        };
        status::unchanged(&on, events, brief, &target);
    }))
}

/// Reads everything that a run would find; returns `None` where something is not as it should be.
fn read_all(on: &Installation, target: &Target) -> Outcome<Option<Nothing>> {
    let is_under_way = status_file::read(&on.layout).current.is_some();
    if on.is_fenced() || is_under_way || trust::ignored(&on.layout).is_some() {
        return Ok(None);
    }
    let (mirror, branch) = (on.mirror.clone(), target.branch.clone());
    let tip = std::thread::spawn(move || mirror.remote_tip(&branch));
    confinement::check(on)?;
    on.units.start_beforehand(Role::Inspect);
    on.units.start_beforehand(Role::Build);
    let observed = Observed::of(on)?;
    if !preflight::check(on, &observed)?.is_empty() {
        return Ok(None);
    }
    let observed = observed.with_drift(on, &[], None)?;
    let Some(deployed) = &observed.deployed else { return Ok(None) };
    let coming = Coming::deployed(on, &observed, &deployed.commit)?;
    let is_all_there = coming.is_some_and(|coming| coming.is_all_there(target, &observed));
    if !is_all_there || !answers(on, &deployed.commit)? {
        return Ok(None);
    }
    let models = refresh::models::verified(on, &deployed.commit)?;
    let tip = tip.join().map_err(|_| Failure::new("the remote could not be asked"))??;
    Ok((tip == deployed.commit).then_some(Nothing { models }))
}
