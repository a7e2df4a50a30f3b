//! `status`: the deployed version, present local changes, service, fence, last run.

use serde::Serialize;

use crate::cli::StatusArgs;
use crate::report::{json, outcome};
use refresh_environments::ReplacedPython;
use refresh_events::run_report;
use refresh_events::run_report::{HeldBack, LockSummary, Outage, RELEASE, Report};
use refresh_installation::exit::{Error, Success};
use refresh_installation::history;
use refresh_installation::installation::Installation;
use refresh_installation::journal::{run_lock, store};
use refresh_installation::status_file;
use refresh_installation::status_file::{Current, LastRequest, RequestOutcome};
use refresh_run::plan::Observed;
use refresh_run::relay::spool;
use refresh_service::deployed::Deployment;
use refresh_service::fence::Fence;
use refresh_service::probe;
use refresh_settings::layout::Layout;
use refresh_settings::names::{CommitId, EnvironmentName, RunId};
use refresh_source::local::LocalChanges;
use refresh_system::clock;
use refresh_system::manifest::contamination::Contamination;
use refresh_system::screen;
use refresh_system::screen::{Facts, Tone, paint, print_line};
use refresh_system::text::{count, duration, harmless_line};

use super::{held_back, open, refuse, replaced_python};

/// The output of `status --json`.
#[derive(Debug, Serialize)]
struct Status {
    schema: u32,
    deployed: Option<Deployment>,
    /// The commit of `app/`, even if it has not passed a health check.
    commit: Option<CommitId>,
    environment_name: Option<EnvironmentName>,
    environment: std::path::PathBuf,
    /// The lock from which it was built.
    lock: Option<LockSummary>,
    /// The digest of its installed files.
    digest: Option<String>,
    /// The manual change in it.
    contamination: Option<Contamination>,
    /// The interpreter that the environment was built with, if that no longer exists.
    lost_interpreter: Option<std::path::PathBuf>,
    /// The Python of the build and that of the host, if the system has replaced it.
    replaced_python: Option<ReplacedPython>,
    /// The default branch of the remote, if the followed branch is a different one and has nothing newer.
    default_branch: Option<String>,
    service: run_report::Service,
    /// The error of the kernel if the service runs and no process accepts connections at its URL.
    no_listener: Option<String>,
    /// Since when the service is down because it was asked to stop: no unattended run starts it.
    asked_to_stop: Option<jiff::Timestamp>,
    fence: Option<String>,
    #[serde(skip)]
    standing_fence: Option<Fence>,
    /// The run that halted, and whose fence a person has removed.
    unfenced: Option<RunId>,
    #[serde(skip)]
    unfenced_report: Option<Report>,
    /// The command that brings the fenced service back.
    #[serde(skip)]
    way_out: Option<String>,
    drift: LocalChanges,
    running_now: Option<RunId>,
    /// The run that is in progress by the status file; if `running_now` is none, it was killed.
    current: Option<Current>,
    last_run: Option<Report>,
    last_request: Option<LastRequest>,
    /// The commits that no unattended run deploys.
    held_back: Vec<HeldBack>,
}

/// Shows the state of an installation; changes nothing.
pub(super) fn status(layout: &Layout, args: &StatusArgs) -> Result<Success, Error> {
    let on = open(layout, "status")?;
    if args.if_python_changed {
        return replaced_python::report(&on);
    }
    let found = examine(&on).map_err(|failure| refuse(&on, "status", failure, "ladylinux-refresh doctor"))?;
    if args.json {
        print_line(&json::pretty(&found));
    } else {
        show(&on, &found);
    }
    Ok(Success::Done)
}

fn examine(on: &Installation) -> refresh_system::error::Outcome<Status> {
    let observed = Observed::of(on)?.with_drift(on, &[], None)?;
    let file = status_file::read(&on.layout);
    let holder = run_lock::held_by(&on.layout.lock_file())?.and_then(|holder| holder.run);
    let lock = match observed.environment.recorded() {
        Some(live) => on.environments().lock_of(live)?.map(|lock| lock.summary()),
        None => None,
    };
    // Only the owner can inspect the lock; all users can see the process.
    // Before the end of its preflight, a run has only its spool.
    let running_now = holder.or_else(|| file.running_now()).or_else(|| spool::in_progress(&on.layout));
    // A caller who cannot list the runs gets the rest.
    let unfenced_report = history::unfenced(&on.layout).ok().flatten().filter(|_| running_now.is_none());
    let probe = on.probe()?;
    let service = on.service_report(Some(probe.url.clone()));
    Ok(Status {
        schema: 2,
        commit: observed.tree.commit.clone(),
        environment_name: observed.live(),
        environment: on.layout.venv(),
        lock,
        digest: observed.environment.recorded().and_then(|live| live.record.digest.clone()),
        lost_interpreter: observed
            .environment
            .recorded()
            .and_then(|live| live.lost_interpreter())
            .map(|lost| lost.path.clone()),
        replaced_python: replaced_python::find(on)?,
        contamination: observed.contamination,
        default_branch: default_branch(on, file.deployed.as_ref()),
        asked_to_stop: held_back::stopped(on, observed.fence.is_some()),
        no_listener: probe::connect(&probe).err().filter(|_| service.state == "running"),
        service,
        fence: observed.fence.as_ref().map(fence_in_words),
        way_out: observed.fence.as_ref().map(|fence| history::way_out(&on.layout, fence)),
        unfenced: unfenced_report.as_ref().map(|report| report.run.clone()),
        unfenced_report,
        standing_fence: observed.fence.clone(),
        drift: observed.drift.unwrap_or_default(),
        deployed: file.deployed,
        running_now,
        current: file.current.map(|current| in_detail(on, current)),
        last_run: file.last_run,
        last_request: file.last_request,
        held_back: file.held_back,
    })
}

/// Returns the default branch that the remote had at the last fetch, if the followed branch is a different one and the
/// deployed commit was its latest. A mirror that cannot be read is a matter of `doctor`.
fn default_branch(on: &Installation, deployed: Option<&Deployment>) -> Option<String> {
    let pair = deployed?;
    let followed = on.settings.branch_to_follow(Some(pair.branch.clone()));
    on.mirror.other_default(&followed, Some(&pair.commit)).ok().flatten()
}

/// Returns the run in progress with its present part, which only its journal contains.
fn in_detail(on: &Installation, current: Current) -> Current {
    let journal = store::read(&on.layout.run(&current.run)).ok().flatten();
    let phase = journal.and_then(|read| read.last_phase()).unwrap_or(current.phase);
    Current { phase, ..current }
}

fn fence_in_words(fence: &Fence) -> String {
    match fence {
        Fence::Known(record) => {
            let reason = format!("{}, since {}", record.reason, clock::in_words(record.since));
            std::iter::once(&reason).chain(&record.cause).cloned().collect::<Vec<_>>().join(": ")
        }
        Fence::Unreadable { why } => format!("the fence's record cannot be read: {why}"),
    }
}

/// Returns the state of the installation in one line.
fn verdict(status: &Status) -> String {
    let is_deployed = status.deployed.as_ref().map(|pair| &pair.commit) == status.commit.as_ref();
    let version = status.deployed.as_ref().map(|pair| {
        let (commit, since) = (pair.commit.short(), clock::in_words(pair.refreshed_at));
        format!("{} at {commit}, refreshed {since}", pair.branch)
    });
    match (&status.running_now, &status.fence, status.service.state.as_str(), version) {
        (Some(run), ..) => format!("In progress: run {run}"),
        (None, Some(_), ..) => paint(Tone::Bad, "Failed: the service is fenced and does not start"),
        (None, None, "running", _) if status.unfenced.is_some() => {
            paint(Tone::Warning, "Running without a good health check: the last refresh failed")
        }
        (None, None, "running", Some(version)) if is_deployed => {
            format!("{} {version}", paint(Tone::Good, "Running:"))
        }
        (None, None, "running", Some(_)) => {
            paint(Tone::Warning, "Running, and app/ is at another commit than deployed")
        }
        (None, None, "running", None) => {
            format!("{} no refresh yet", paint(Tone::Warning, "Running:"))
        }
        (None, None, state, _) => paint(Tone::Warning, &format!("Not running: the service is {state}")),
    }
}

fn show(on: &Installation, status: &Status) {
    let mut facts = Facts::new(&verdict(status), screen::text_width());
    commits(on, status, &mut facts);
    if let Some(default) = &status.default_branch {
        let default = harmless_line(default);
        facts.add(
            "branch",
            &format!("brings nothing newer, and the default branch of the remote is {default}"),
        );
    }
    environment(on, status, &mut facts);
    let service = &status.service;
    let mut words = vec![service.state.clone()];
    words.extend(service.url.as_deref().map(harmless_line));
    words.extend(service.pid.map(|pid| format!("pid {pid}")));
    facts.add("service", &words.join(", "));
    if let Some(problem) = &status.no_listener {
        facts.add("", &format!("no process takes connections there: {problem}"));
    }
    if let Some(at) = status.asked_to_stop {
        let at = clock::in_words(at);
        facts.add("", &format!("stopped on request at {at}; unattended runs leave it stopped"));
    }
    fence(status, &mut facts);
    unfenced(on, status, &mut facts);
    local_changes(&status.drift, &mut facts);
    current(status, &mut facts);
    if let Some(report) = &status.last_run {
        let down = report.down_ms().map(|ms| format!(", down for {}", duration(ms))).unwrap_or_default();
        facts.add("last run", &format!("{} {}{down}", report.in_words(), clock::in_words(report.started_at)));
        facts.add("", report.run.as_str());
        if let Some(seen) = &report.outage {
            let command = seen.command.as_deref().map(|command| on.as_typed(command));
            outcome::outage(&Outage { command, ..seen.clone() }, &mut facts);
        }
    }
    if let Some(request) = &status.last_request {
        facts.add("last request", &request_in_words(request));
    }
    held_back_commits(status, &mut facts);
    facts.add("settings", &on.layout.host_file().display().to_string());
    if let Some(next) = next(on, status) {
        facts.next(&next);
    }
    screen::print_lines(&facts.lines);
}

/// Returns the next command; `None` if nothing must be done.
fn next(on: &Installation, status: &Status) -> Option<String> {
    if let Some(run) = &status.running_now {
        return Some(on.as_typed(&format!("ladylinux-refresh wait {run}")));
    }
    let stopped = || {
        let can_start = status.environment_name.is_some() && status.lost_interpreter.is_none();
        let is_stopped = status.service.state == "stopped" && status.deployed.is_some() && can_start;
        is_stopped.then(|| on.as_typed("ladylinux-refresh service start"))
    };
    let first = || {
        let is_new = status.deployed.is_none()
            || status.environment_name.is_none()
            || status.contamination.is_some()
            || status.lost_interpreter.is_some();
        is_new.then(|| on.as_typed("ladylinux-refresh run"))
    };
    let unfenced_report = status.unfenced_report.as_ref().and_then(|report| report.error.as_ref());
    status
        .way_out
        .clone()
        .or_else(|| unfenced_report.map(|error| on.as_typed(&error.next)))
        .or_else(|| killed(status).map(|_| on.as_typed("ladylinux-refresh run")))
        .or_else(stopped)
        .or_else(first)
        .or_else(|| status.no_listener.as_ref().map(|_| on.as_typed("ladylinux-refresh doctor")))
}

/// Adds the deployed commit, and the commit of `app/` if it is different.
fn commits(on: &Installation, status: &Status, facts: &mut Facts) {
    let titled = |commit: &CommitId, run: Option<&RunId>| {
        let report = run.and_then(|run| history::one(&on.layout, run).ok()?.report);
        let requested = report.and_then(|report| report.requested);
        let requested = requested.filter(|requested| requested.commit.as_ref() == Some(commit));
        let title = requested.and_then(|requested| requested.title()).unwrap_or_default();
        format!("{} {}", commit.short(), harmless_line(&title)).trim_end().to_owned()
    };
    let deployed = status.deployed.as_ref();
    if status.commit.as_ref() == deployed.map(|pair| &pair.commit)
        && let Some(pair) = deployed
    {
        facts.add("commit", &titled(&pair.commit, Some(&pair.run)));
        return;
    }
    let halted = status.last_run.as_ref().map(|report| &report.run);
    let at = status.commit.as_ref().map_or("no commit".to_owned(), |commit| titled(commit, halted));
    let label = if deployed.is_some() { "app/ is at" } else { "commit" };
    facts.add(label, &at);
    if let Some(pair) = deployed {
        facts.add("last good", &titled(&pair.commit, Some(&pair.run)));
        facts.add("", &format!("on {}, refreshed {}", pair.branch, clock::in_words(pair.refreshed_at)));
    }
}

fn environment(on: &Installation, status: &Status, facts: &mut Facts) {
    facts.add("environment", status.environment_name.as_ref().map_or("none", EnvironmentName::as_str));
    facts.add("", &status.environment.display().to_string());
    if let Some(lost) = &status.lost_interpreter {
        let lost = lost.display();
        facts.add("", &format!("its interpreter {lost} no longer exists: the service cannot start again"));
    } else if let Some(replaced) = &status.replaced_python {
        facts.add("", &harmless_line(&replaced.in_words()));
    }
    if let Some(lock) = &status.lock {
        facts.add("lock", &harmless_line(&lock.in_words()));
    }
    if let Some(found) = &status.contamination {
        let words = harmless_line(&found.in_words(5));
        facts.add("", &format!("{} {words}", paint(Tone::Bad, "changed manually:")));
        facts.add("", &format!("the next run uses another: {}", on.as_typed("ladylinux-refresh run")));
    }
}

/// Adds since when the service is fenced, and each cause.
fn fence(status: &Status, facts: &mut Facts) {
    match &status.standing_fence {
        None => {}
        Some(Fence::Unreadable { why }) => {
            facts.add("fence", &format!("its record cannot be read: {}", harmless_line(why)));
        }
        Some(Fence::Known(record)) => {
            facts.add("fence", &paint(Tone::Bad, &format!("since {}", clock::in_words(record.since))));
            for sentence in std::iter::once(&record.reason).chain(&record.cause) {
                facts.add("", &harmless_line(sentence.lines().next().unwrap_or_default()));
            }
        }
    }
}

/// Adds that a person has removed the fence of a failed run, and the possible next step.
fn unfenced(on: &Installation, status: &Status, facts: &mut Facts) {
    let Some(report) = &status.unfenced_report else { return };
    let part = report.error.as_ref().map(|error| format!(" at {}", error.phase)).unwrap_or_default();
    facts.add("unfenced", &paint(Tone::Warning, &format!("run {} failed{part}", report.run)));
    facts.add("", "the fence was removed; the version in app/ has not passed a health check");
    if status.service.state == "stopped" {
        let start = on.as_typed("ladylinux-refresh service start");
        facts.add("", &format!("to start it as it is: {start}"));
    }
}

/// Returns the run that was killed before it could report its end.
fn killed(status: &Status) -> Option<&Current> {
    // This is checked after the lock: a process that still lives has just finished.
    let of_the_past = || status.current.as_ref().filter(|current| !current.process.is_alive());
    if status.running_now.is_none() { of_the_past() } else { None }
}

/// Adds the run that is in progress, or one that was killed before it could report its end.
fn current(status: &Status, facts: &mut Facts) {
    let current = status.current.as_ref();
    if let Some(run) = &status.running_now {
        let text = match current.filter(|current| current.run == *run) {
            None => format!("run {run} is in progress"),
            Some(current) => format!(
                "{} {run} of {} is in progress since {}: {}",
                current.command,
                harmless_line(current.branch.as_str()),
                clock::in_words(current.started_at),
                current.phase
            ),
        };
        facts.add("now", &text);
    }
    if let Some(current) = killed(status) {
        facts.add(
            "now",
            &format!("run {} {} {}", current.run, paint(Tone::Bad, "was killed:"), current.phase),
        );
    }
}

/// Adds the commits that no unattended run deploys.
fn held_back_commits(status: &Status, facts: &mut Facts) {
    for held in status.held_back.iter().rev() {
        facts.add("held back", &held.title());
        facts.add("", &held.cause_in_full());
    }
    if !status.held_back.is_empty() {
        facts.add("ends with", RELEASE);
    }
}

/// Returns the outcome of the last request of the application.
fn request_in_words(request: &LastRequest) -> String {
    let word = match request.outcome {
        RequestOutcome::Refused => paint(Tone::Warning, "refused"),
        RequestOutcome::Started => "started".to_owned(),
        RequestOutcome::Done => "done".to_owned(),
        RequestOutcome::Failed => paint(Tone::Bad, "failed"),
    };
    let branch = request.branch.as_deref().map(|it| format!("{} ", harmless_line(it))).unwrap_or_default();
    let at = clock::in_words(request.at);
    let why = request.why.as_deref().map(|why| format!(": {}", harmless_line(why))).unwrap_or_default();
    format!("{branch}at {at} {word}{why}")
}

/// The largest number of named local changes.
const NAMED: usize = 10;

fn local_changes(local: &LocalChanges, facts: &mut Facts) {
    let preserved = local.items.len() - local.changes().count();
    let others = [(preserved, "preserved"), (local.ignored.len(), "ignored by git")];
    let others: Vec<String> = others
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!(", {number} {word}"))
        .collect();
    let number = if local.count() == 0 { "no changes".to_owned() } else { count(local.count(), "change") };
    facts.add("local", &format!("{number}{}", others.concat()));
    facts.list("", local.described(), local.changes().count(), NAMED);
    for tip in &local.tips {
        facts.add(
            "",
            &format!("commits that only {} reaches ({})", harmless_line(&tip.name), tip.commit.short()),
        );
    }
    if let Some(reason) = &local.not_comparable {
        facts.add("", &format!("app/ cannot be compared: {}", harmless_line(reason)));
    }
}
