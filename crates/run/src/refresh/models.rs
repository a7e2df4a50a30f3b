//! Verifies the models before anything is changed, if the host or the command line requests it (RW-6.2).
//!
//! Staging verifies the models, and step 4 finds them verified; without staging, step 4 verifies them. Nothing is
//! changed, whatever the findings (RW-6.1). On a real machine root reads no model: a unit reads them, as the service
//! user ([`examine()`]). The digests of the files are then kept in the state.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::plan::Target;
use refresh_events::event::{Event, Events, Subscriber};
use refresh_events::run_report::ModelsSummary;
use refresh_installation::installation::Installation;
use refresh_models::cache::DigestCache;
use refresh_models::examine;
use refresh_models::examine::{ExamineModelsRequest, OPERATION, PROGRESS};
use refresh_models::manifest;
use refresh_models::verify::{Depth, Verified};
use refresh_programs::process::Runner;
use refresh_programs::units::{Access, Bind, Role, UnitOptions, Units};
use refresh_settings::layout::Layout;
use refresh_settings::names::CommitId;
use refresh_settings::{ModelCheck, Settings};
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::count;

use super::account::Account;

/// The time limit of a unit: stores have terabytes, and disks may be slow.
const DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The largest response in bytes: a verdict has some hundred, and there are at most 200,000.
const LARGEST_RESPONSE: usize = 256 << 20;

/// The source name of the lines of the unit.
const SOURCE: &str = "models";

/// Verifies the models that a commit expects, unless this run has done so. Returns the sentence for the step.
///
/// # Errors
/// A model has a problem, or the run is interrupted.
pub(super) fn ensure_verified(
    on: &Installation,
    account: &mut Account,
    settings: &Settings,
    commit: &CommitId,
) -> Outcome<Option<String>> {
    // A rollback must work after a failure, and changes no model.
    let is_rollback = matches!(account.target, Target::Earlier(_));
    let Some(depth) = depth(settings).filter(|_| !is_rollback) else { return Ok(None) };
    if account.report.models.is_none() {
        account.report.models = Some(verify(on, settings, commit, depth)?);
    }
    match &account.report.models {
        Some(summary) => accept(summary).map(|()| Some(format!("models: {}", summary.in_words()))),
        None => Ok(None),
    }
}

/// Verifies the models for a run that has nothing else to do; returns `None` if it is not requested.
///
/// # Errors
/// The errors of [`ensure_verified`].
pub fn verified(on: &Installation, commit: &CommitId) -> Outcome<Option<ModelsSummary>> {
    let settings = on.release(commit)?.settings;
    let Some(depth) = depth(&settings) else { return Ok(None) };
    let summary = verify(on, &settings, commit, depth)?;
    accept(&summary).map(|()| Some(summary))
}

fn depth(settings: &Settings) -> Option<Depth> {
    match settings.models.verify {
        ModelCheck::Off => None,
        ModelCheck::Presence => Some(Depth::Presence),
        ModelCheck::Full => Some(Depth::Full),
    }
}

fn verify(on: &Installation, settings: &Settings, commit: &CommitId, depth: Depth) -> Outcome<ModelsSummary> {
    // The models of the incoming commit count, not those of the deployed one.
    let text = Ok(on.mirror.read(commit, Path::new(manifest::PATH))?);
    let how = (depth, known(&on.layout));
    let request =
        ExamineModelsRequest::new(&on.layout, Some(text), on.env_file(), &settings.models.stores, how);
    let runner = on.runner.clone();
    let report = move |progress: &str| {
        runner.events().progress(&format!("models: {progress}"), None, None);
    };
    let verified = examine(&on.layout, &on.runner, on.owner, request, Box::new(report))?;
    if let Err(failure) = keep(&on.layout, &verified.cache) {
        on.runner.events().note(&format!("the digests of the models are not kept: {failure}"));
    }
    Ok(verified.summary)
}

fn accept(summary: &ModelsSummary) -> Outcome<()> {
    if summary.problems == 0 {
        return Ok(());
    }
    let problems = count(summary.problems, "problem");
    Err(Failure::new(format!("the models are not as they should be: {problems}"))
        .because(Failure::new(summary.first_problems.join("\n")))
        .command("ladylinux-refresh verify", &[]))
}

/// Returns the digests of model files from earlier runs; an empty cache if they cannot be read.
pub fn known(layout: &Layout) -> DigestCache {
    let read = disk::read_at_most(&layout.models_known(), DigestCache::LIMIT);
    read.ok().flatten().map(|bytes| DigestCache::from_bytes(&bytes)).unwrap_or_default()
}

/// Writes the digests of model files.
///
/// # Errors
/// The tool's own state cannot be written.
pub fn keep(layout: &Layout, cache: &DigestCache) -> Outcome<()> {
    disk::replace_file(&layout.models_known(), &cache.to_bytes(), 0o600)
        .context(|| "the state of this program cannot be written".to_owned())
}

/// Examines models. On a real machine a unit does this as `owner`, who owns `app/`. Elsewhere, for callers other than
/// root, and if everything belongs to root, this process does it.
///
/// # Errors
/// The run is interrupted; or the unit cannot be started or was ended.
pub fn examine(
    layout: &Layout,
    runner: &Runner,
    owner: Owner,
    request: ExamineModelsRequest,
    report: Box<dyn Fn(&str) + Send>,
) -> Outcome<Verified> {
    if !layout.is_real() || !rustix::process::geteuid().is_root() || owner.uid == 0 {
        return examine::examine(request, &*report);
    }
    let lines = UnitLines { runner: runner.clone(), report };
    let runner = runner.clone().with_events(Arc::new(Events::new(vec![Box::new(lines)])));
    Units::new(layout, &runner, owner).call_as(&options(&request), owner, OPERATION, &request)
}

fn options(request: &ExamineModelsRequest) -> UnitOptions {
    let options = UnitOptions {
        output: LARGEST_RESPONSE,
        ..UnitOptions::new(Role::Inspect, DEADLINE).narrated(SOURCE)
    };
    // A unit has its own /tmp.
    let is_hidden =
        |store: &PathBuf| ["/tmp", "/var/tmp"].iter().any(|place| store.starts_with(place)) && store.exists();
    let hidden = request.stores().filter(is_hidden);
    hidden.fold(options, |options, store| {
        options.sees(Bind { source: store.clone(), destination: store, access: Access::ReadOnly })
    })
}

/// Reports the progress from the lines of a unit, and passes on all other lines.
struct UnitLines {
    runner: Runner,
    report: Box<dyn Fn(&str) + Send>,
}

impl Subscriber for UnitLines {
    fn take(&mut self, event: &Event) {
        let events = self.runner.events();
        match event {
            Event::Output { source, line, .. } => match line.strip_prefix(PROGRESS) {
                Some(progress) if source == SOURCE => (self.report)(progress),
                _ => events.output(source, line),
            },
            Event::Note { message, .. } => events.note(message),
            Event::Warning { message, .. } => events.warn(message),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps the lines of every event.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Seen {
        fn take(&mut self, event: &Event) {
            let line = match event {
                Event::Output { line, .. } => format!("output: {line}"),
                Event::Warning { message, .. } => format!("warning: {message}"),
                other => panic!("{other:?}"),
            };
            self.0.lock().unwrap().push(line);
        }
    }

    #[test]
    fn progress_of_the_unit_is_reported_and_other_lines_are_passed_on() {
        let (seen, progress) = (Seen::default(), Arc::new(Mutex::new(Vec::new())));
        let runner = Runner::new(Arc::new(Events::new(vec![Box::new(seen.clone())])));
        let reported = Arc::clone(&progress);
        let report = Box::new(move |progress: &str| reported.lock().unwrap().push(progress.to_owned()));
        let events = Events::new(vec![Box::new(UnitLines { runner, report })]);
        events.output(SOURCE, "read 1 B of 2 B");
        events.output("other", "read 1 B of 3 B");
        events.output(SOURCE, "other");
        events.warn("slow");
        assert_eq!(*progress.lock().unwrap(), ["1 B of 2 B"]);
        let expected = ["output: read 1 B of 3 B", "output: other", "warning: slow"];
        assert_eq!(*seen.0.lock().unwrap(), expected);
    }
}
