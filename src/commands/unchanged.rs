//! `run --if-changed` if nothing has changed: answered without a unit for the run, because there is no run.
//!
//! The remote is queried while everything else is read. Only the events of the answer are written. If anything is not
//! up to date, or cannot be read, a run determines and reports it.

use std::time::Duration;

use crate::cli::ReportArgs;
use refresh_events::run_report::{ModelsSummary, Report};
use refresh_host::host::presence;
use refresh_installation::exit::Success;
use refresh_installation::installation::Installation;
use refresh_installation::journal::run_lock;
use refresh_installation::journal::run_lock::Taken;
use refresh_installation::status_file;
use refresh_programs::process::Runner;
use refresh_programs::units::Role;
use refresh_run::plan::space::Makes;
use refresh_run::plan::{Incoming, Observed, Target, confinement, preflight};
use refresh_run::refresh;
use refresh_run::refresh::{begin, status};
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_settings::trust;
use refresh_system::clock;
use refresh_system::error::{Failure, Outcome};

use super::local_run::LocalRun;
use super::run_request::{RunRequest, start_probe_beforehand};
use super::{reporter, settings};

/// The findings if nothing has changed.
struct UpToDate {
    /// The findings on the models, if the settings require their verification.
    models: Option<ModelsSummary>,
}

/// Answers if nothing has changed; returns `None` if a run is necessary.
pub(super) fn answer(
    layout: &Layout,
    request: &RunRequest,
    report: &ReportArgs,
    run: &RunId,
) -> Option<Success> {
    let start = clock::monotonic();
    presence::check_there(layout).ok()?;
    let layers = settings(layout, request.overrides.clone()).ok()?;
    let taken = run_lock::take(&layout.lock_file(), request.command(), Some(run), Duration::ZERO);
    let Ok(Taken::Ours(_lock)) = taken else { return None };
    let on = Installation::open(layers, Runner::silent()).ok()?;
    let target = request.target(&on).ok()?;
    let UpToDate { models } = read_all(&on, &target).ok()??;
    let local = LocalRun::new(layout, run.clone(), vec![reporter(report)]);
    local.open_spool(layout);
    let mut report = Report::new(run.clone(), request.command(), local.started_at);
    let summary = "everything is up to date".to_owned();
    begin::preflight(&local.events, &mut report, start, || Ok(((), summary))).ok()?;
    (report.branch, report.models) = (target.branch().clone(), models);
    status::unchanged(&on, &local.events, report);
    local.end(&Ok(Success::Done));
    Some(Success::Done)
}

/// Reads everything that a run would find; returns `None` if something is not up to date.
fn read_all(on: &Installation, target: &Target) -> Outcome<Option<UpToDate>> {
    let is_under_way = status_file::read(&on.layout).current.is_some();
    if on.is_fenced() || is_under_way || trust::ignored(&on.layout).is_some() {
        return Ok(None);
    }
    let (mirror, branch) = (on.mirror.clone(), target.branch().clone());
    let tip = std::thread::spawn(move || mirror.remote_tip(&branch));
    confinement::check(on)?;
    // The query of the remote takes longest: only one other unit starts beside its unit.
    on.units.start_beforehand(Role::Inspect);
    let observed = Observed::of(on)?;
    on.units.start_beforehand(Role::Build);
    start_probe_beforehand(on);
    if !preflight::check(on, &observed, Makes::New)?.is_empty() {
        return Ok(None);
    }
    let observed = observed.with_drift(on, &[], None)?;
    let Some(deployed) = &observed.deployed else { return Ok(None) };
    let incoming = Incoming::deployed(on, &observed, &deployed.commit)?;
    let is_up_to_date = incoming.is_some_and(|incoming| incoming.is_up_to_date(target, &observed));
    // Preflight has already checked the health of the service.
    if !is_up_to_date {
        return Ok(None);
    }
    let models = refresh::models::verified(on, &deployed.commit)?;
    let tip = tip.join().map_err(|_| Failure::new("the remote could not be asked"))??;
    Ok((tip == deployed.commit).then_some(UpToDate { models }))
}
