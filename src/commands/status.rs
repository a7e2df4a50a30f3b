//! `status`: what is deployed, local changes now, service, fence, last run.

use serde::Serialize;

use crate::cli::StatusArgs;
use crate::clock;
use crate::exit::{Ended, Error};
use crate::history;
use crate::installation::Installation;
use crate::journal::{run_lock, store};
use crate::plan::Observed;
use crate::python::Contamination;
use crate::python::lock::Summary;
use crate::report::json;
use crate::report::screen::{Tone, duration, harmless_line, paint, say};
use crate::report::{self, Report};
use crate::service::fence::Fence;
use crate::settings::layout::Layout;
use crate::settings::names::{CommitId, GenerationName, RunId};
use crate::source::local::LocalChanges;
use crate::status_file::{self, Current, DeployedPair, LastRequest, RequestOutcome};

use super::{open, refuse};

/// What `status --json` writes.
#[derive(Debug, Serialize)]
struct Status {
    schema: u32,
    deployed: Option<DeployedPair>,
    /// The commit that `app/` is at, whether or not it proved itself.
    commit: Option<CommitId>,
    generation: Option<GenerationName>,
    environment: std::path::PathBuf,
    /// The lock that it was built from.
    lock: Option<Summary>,
    /// The digest of what is installed in it.
    digest: Option<String>,
    /// What somebody changed in it by hand.
    contamination: Option<Contamination>,
    service: report::Service,
    fence: Option<String>,
    /// The command that brings the fenced service back.
    #[serde(skip)]
    way_out: Option<String>,
    drift: LocalChanges,
    running_now: Option<RunId>,
    /// The run that the status file tells of as in progress; where `running_now` is none, it was killed.
    current: Option<Current>,
    last_run: Option<Report>,
    last_request: Option<LastRequest>,
}

/// Shows the state of an installation; changes nothing.
pub(super) fn status(layout: &Layout, args: &StatusArgs) -> Result<Ended, Error> {
    let on = open(layout, "status")?;
    let found = look(&on).map_err(|failure| refuse(&on, "status", failure, "ladylinux-refresh doctor"))?;
    if args.json {
        say(&json::pretty(&found));
    } else {
        show(&on, &found);
    }
    Ok(Ended::Done)
}

fn look(on: &Installation) -> crate::error::Outcome<Status> {
    let observed = Observed::of(on)?.with_drift(on, &[], None)?;
    let file = status_file::read(&on.layout);
    let holder = run_lock::held_by(&on.layout.lock_file())?.and_then(|holder| holder.run);
    let lock = match observed.environment.generation() {
        Some(live) => on.environments().lock_of(live)?.map(|lock| lock.summary()),
        None => None,
    };
    // Only its owner can look at the lock; everybody can see the process.
    let running_now = holder.or_else(|| file.running_now());
    Ok(Status {
        schema: 1,
        commit: observed.tree.commit.clone(),
        generation: observed.live(),
        environment: on.layout.venv(),
        lock,
        digest: observed.environment.generation().and_then(|live| live.record.digest.clone()),
        contamination: observed.contamination,
        service: on.service_report(Some(on.probe_url()?)),
        fence: observed.fence.as_ref().map(fence_in_words),
        way_out: observed.fence.as_ref().map(|fence| history::way_out(&on.layout, fence)),
        drift: observed.drift.unwrap_or_default(),
        deployed: file.deployed,
        running_now,
        current: file.current.map(|current| in_detail(on, current)),
        last_run: file.last_run,
        last_request: file.last_request,
    })
}

/// The run in progress with the very part that is in hand, which only its journal has.
fn in_detail(on: &Installation, current: Current) -> Current {
    let journal = store::read(&on.layout.run(&current.run)).ok().flatten();
    let phase = journal.and_then(|read| read.last_phase()).unwrap_or(current.phase);
    Current { phase, ..current }
}

fn fence_in_words(fence: &Fence) -> String {
    fence.refusal().chain().into_iter().skip(1).collect::<Vec<_>>().join(": ")
}

/// Returns the state of the installation in one line.
fn verdict(status: &Status) -> String {
    let is_deployed = status.deployed.as_ref().map(|pair| &pair.commit) == status.commit.as_ref();
    let version = match &status.deployed {
        Some(pair) => format!("{} on {}", pair.commit.short(), pair.branch),
        None => "a version that has passed no health check yet".to_owned(),
    };
    match (&status.running_now, &status.fence, status.service.state.as_str()) {
        (Some(run), ..) => format!("In progress: run {run}"),
        (None, Some(_), _) => paint(Tone::Bad, "Failed: the service is fenced and does not start"),
        (None, None, "running") if is_deployed => paint(Tone::Good, &format!("Running: {version}")),
        (None, None, "running") => {
            paint(Tone::Warning, "Running, and app/ is at another commit than deployed")
        }
        (None, None, state) => paint(Tone::Warning, &format!("Not running: the service is {state}")),
    }
}

fn show(on: &Installation, status: &Status) {
    say(&verdict(status));
    match &status.deployed {
        None => say("deployed     nothing has proved itself yet"),
        Some(pair) => say(&format!(
            "deployed     {} on {} in {}, refreshed at {}",
            pair.commit.short(),
            pair.branch,
            pair.generation,
            clock::in_words(pair.refreshed_at)
        )),
    }
    let proved = status.deployed.as_ref().map(|pair| &pair.commit);
    if status.commit.as_ref() != proved {
        let at = status.commit.as_ref().map_or("no commit", |commit| commit.short());
        let word = if proved.is_some() { "is at another commit:" } else { "is at" };
        say(&format!("app/         {} {at}", paint(Tone::Warning, word)));
    }
    say(&format!("settings     {}", on.layout.host_file().display()));
    let generation = status.generation.as_ref().map_or("nothing".to_owned(), ToString::to_string);
    say(&format!("environment  {} → {generation}", status.environment.display()));
    if let Some(lock) = &status.lock {
        say(&format!("             locked: {}", harmless_line(&lock.in_words())));
    }
    if let Some(digest) = &status.digest {
        say(&format!("             {}", paint(Tone::Quiet, &format!("digest {digest}"))));
    }
    if let Some(found) = &status.contamination {
        let words = harmless_line(&found.in_words(5));
        say(&format!("             {} {words}", paint(Tone::Bad, "changed by hand:")));
        let run = on.as_typed("ladylinux-refresh run");
        say(&format!("             the next run uses another: {run}"));
    }
    let pid = status.service.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let url = status.service.url.clone().unwrap_or_default();
    say(&format!("service      {}{pid} {url}", status.service.state));
    if let Some(fence) = &status.fence {
        let first = fence.lines().next().unwrap_or_default();
        say(&format!("fence        {} {}", paint(Tone::Bad, "stands:"), harmless_line(first)));
    }
    show_local(&status.drift);
    show_current(on, status);
    if let Some(report) = &status.last_run {
        let down = report.downtime_ms.map(|ms| format!(", down {}", duration(ms))).unwrap_or_default();
        say(&format!("last run     {} {}{down}", report.run, report.in_words()));
        if report.error.is_some() {
            say(&format!(
                "             {}",
                on.as_typed(&format!("ladylinux-refresh history {}", report.run))
            ));
        }
    }
    if let Some(request) = &status.last_request {
        show_request(request);
    }
    if let (Some(next), None) = (&status.way_out, &status.running_now) {
        say(&format!("next         {}", harmless_line(next)));
    }
}

/// Tells of the run that is in progress, or of one that was killed before it could say how it ended.
fn show_current(on: &Installation, status: &Status) {
    let current = status
        .current
        .as_ref()
        .filter(|current| status.running_now.is_none() || status.running_now.as_ref() == Some(&current.run));
    match (&status.running_now, current) {
        (None, None) => {}
        (Some(run), None) => say(&format!("now          run {run} is in progress")),
        (Some(run), Some(current)) => say(&format!(
            "now          {} {run} of {} is in progress since {}: {}",
            current.command,
            harmless_line(current.branch.as_str()),
            clock::in_words(current.started_at),
            current.phase
        )),
        // Looked at after the lock: a process that lives on has just finished.
        (None, Some(current)) if current.process.is_alive() => {}
        (None, Some(current)) => {
            let killed = paint(Tone::Bad, "was killed:");
            say(&format!("now          run {} {killed} {}", current.run, current.phase));
            say(&format!("             {}", on.as_typed("ladylinux-refresh run")));
        }
    }
}

/// Returns what became of the application's last request.
fn show_request(request: &LastRequest) {
    let word = match request.outcome {
        RequestOutcome::Refused => paint(Tone::Warning, "refused"),
        RequestOutcome::Started => "started".to_owned(),
        RequestOutcome::Done => "done".to_owned(),
        RequestOutcome::Failed => paint(Tone::Bad, "failed"),
    };
    let branch = request.branch.as_deref().map(|it| format!("{} ", harmless_line(it))).unwrap_or_default();
    let at = clock::in_words(request.at);
    let why = request.why.as_deref().map(|why| format!(": {}", harmless_line(why))).unwrap_or_default();
    say(&format!("last request {branch}at {at} {word}{why}"));
}

fn show_local(local: &LocalChanges) {
    let preserved = local.items.len() - local.changes().count();
    let ignored = local.ignored.len();
    say(&format!("local        {} changes, {preserved} preserved, {ignored} ignored by git", local.count()));
    for change in local.changes().take(10) {
        say(&format!("             {} {}", change.kind.word(), harmless_line(&change.path.to_string())));
    }
    let changes = local.changes().count();
    if changes > 10 {
        say(&format!("             and {} more", changes - 10));
    }
    for tip in &local.tips {
        let name = harmless_line(&tip.name);
        say(&format!("             commits that only {name} reaches ({})", tip.commit.short()));
    }
    if let Some(reason) = &local.not_comparable {
        say(&format!("             app/ cannot be compared: {}", harmless_line(reason)));
    }
}
