//! Looking at the models before anything is touched, where the host or the command line asks for it (RW-6.2).
//!
//! Staging asks, and step 4 asks again and finds it done; without staging it is done there. Nothing is changed, whatever is
//! found (RW-6.1). On a machine root reads no model: a unit does, as the service user ([`examine()`]). What it then knows of
//! the files is kept in the state.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::event::{Event, Events, Subscriber};
use crate::installation::Installation;
use crate::models::cache::Cache;
use crate::models::engine::How;
use crate::models::examine::{self, ExamineModelsRequest, ExamineModelsResponse, KNOWN, Manifest, OPERATION};
use crate::models::manifest;
use crate::models::progress::{Progress, Reached};
use crate::models::verify::{Summary, Text, Verified};
use crate::process::{Owner, Runner, interrupt};
use crate::report::progress::Pace;
use crate::report::screen::count;
use crate::report::shell::quoted;
use crate::settings::layout::Layout;
use crate::settings::names::CommitId;
use crate::settings::{ModelCheck, Settings};
use crate::units::{Access, Bind, Job, Role, Units};

use super::account::Account;
use super::begin::TargetState;

/// How often a run tells how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// How long a unit may read: stores have terabytes, and disks may be slow.
const DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many bytes a response may have: a verdict has some hundred, and there are at most 200,000.
const LARGEST_RESPONSE: usize = 256 << 20;

/// How often a unit goes on that a signal of others interrupted.
const ATTEMPTS: usize = 3;

/// The name of the unit's lines.
const SOURCE: &str = "models";

/// Looks at the models that a commit expects, unless this run has done so. Returns what is to be told of it.
///
/// # Errors
/// There are problems, or the work is interrupted.
pub(super) fn ensure_verified(
    on: &Installation,
    account: &mut Account,
    settings: &Settings,
    commit: &CommitId,
) -> Outcome<Option<String>> {
    // A rollback is the way out of trouble, and changes no model.
    let is_way_out = account.target.state != TargetState::Latest;
    let Some(how) = how(settings).filter(|_| !is_way_out) else { return Ok(None) };
    if account.models.is_none() {
        let summary = look(on, settings, commit, how)?;
        account.models = Some(summary);
    }
    match &account.models {
        Some(summary) => accept(summary).map(|()| Some(format!("models: {}", summary.in_words()))),
        None => Ok(None),
    }
}

/// Looks at the models for a run that has nothing else to do; `None` where nobody asks for it.
///
/// # Errors
/// As [`ensure_verified`].
pub fn verified(on: &Installation, commit: &CommitId) -> Outcome<Option<Summary>> {
    let settings = on.release(commit)?.settings;
    let Some(how) = how(&settings) else { return Ok(None) };
    let summary = look(on, &settings, commit, how)?;
    accept(&summary).map(|()| Some(summary))
}

fn how(settings: &Settings) -> Option<How> {
    match settings.models.verify {
        ModelCheck::Off => None,
        ModelCheck::Presence => Some(How::Presence),
        ModelCheck::Full => Some(How::Full),
    }
}

fn look(on: &Installation, settings: &Settings, commit: &CommitId, how: How) -> Outcome<Summary> {
    // What the coming commit expects counts, not what the deployed one did.
    let text = on.mirror.read(commit, Path::new(manifest::PLACE))?.map_or(Text::Missing, Text::Bytes);
    let (manifest, stores, cache) = (Manifest::Text(text), &settings.models.stores, known(&on.layout));
    let request = ExamineModelsRequest::new(&on.layout, manifest, on.env_file(), stores, how, cache);
    let telling = Telling { runner: on.runner.clone(), last: Cell::new(None), pace: RefCell::default() };
    match examine(&on.layout, &on.runner, on.owner, request, Box::new(telling)) {
        Ok(verified) => {
            if let Err(failure) = keep(&on.layout, &verified.cache) {
                on.runner.events().note(&format!("what was read of the models is not remembered: {failure}"));
            }
            Ok(verified.summary)
        }
        Err((failure, cache)) => {
            // What was read is worth keeping, and the interruption is what counts.
            let _ = keep(&on.layout, &cache);
            Err(failure)
        }
    }
}

fn accept(summary: &Summary) -> Outcome<()> {
    if summary.problems == 0 {
        return Ok(());
    }
    let problems = count(summary.problems, "problem");
    Err(Failure::new(format!("the models are not as they should be: {problems}"))
        .because(Failure::new(summary.first_problems.join("\n")))
        .hint("ladylinux-refresh verify"))
}

/// Returns what is known of model files from earlier readings; nothing where that cannot be read.
pub fn known(layout: &Layout) -> Cache {
    let read = disk::read_at_most(&layout.models_known(), Cache::LIMIT);
    read.ok().flatten().and_then(|bytes| Cache::from_bytes(&bytes)).unwrap_or_default()
}

/// Keeps what is known of model files now.
///
/// # Errors
/// The tool's own state cannot be written.
pub fn keep(layout: &Layout, cache: &Cache) -> Outcome<()> {
    disk::write_whole(&layout.models_known(), &cache.to_bytes(), 0o600)
        .context(|| "the state of this program cannot be written".to_owned())
}

/// Examines models: on a machine in a unit as `owner`, whom `app/` belongs to; elsewhere, for callers that are not root, and
/// where all of it is root's, in this process.
///
/// # Errors
/// As [`examine::examine`]; or the unit cannot be started or was ended.
pub fn examine(
    layout: &Layout,
    runner: &Runner,
    owner: Owner,
    mut request: ExamineModelsRequest,
    progress: Box<dyn Progress + Send>,
) -> Result<Verified, (Failure, Cache)> {
    if !layout.is_real() || !rustix::process::geteuid().is_root() || owner.uid == 0 {
        return examine::examine(&request, &*progress);
    }
    let known = Arc::new(Mutex::new(request.cache.clone()));
    let relay = Relay { runner: runner.clone(), progress, known: Arc::clone(&known) };
    let runner = runner.clone().telling(Arc::new(Events::new(vec![Box::new(relay)])));
    let units = Units::new(layout, &runner, owner);
    let job = job(&request);
    for _ in 0..ATTEMPTS {
        let asked = units.call_as(&job, owner, OPERATION, &request);
        let ended = match asked {
            Ok(ExamineModelsResponse::Verified(verified)) => return Ok(*verified),
            Ok(ExamineModelsResponse::Interrupted) => interrupt::check(),
            Err(failure) => Err(failure),
        };
        request.cache = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ended.map_err(|failure| (failure, request.cache.clone()))?;
    }
    let user = owner.name().unwrap_or_else(|| owner.uid.to_string());
    let failure = Failure::new(format!("the unit that examines models was interrupted {ATTEMPTS} times"))
        .because(Failure::new(format!("only root or a process of {user} can do that")))
        .hint(format!("ps -o pid,unit,args -u {}", quoted(&user)));
    Err((failure, request.cache))
}

fn job(request: &ExamineModelsRequest) -> Job {
    let job = Job { output: LARGEST_RESPONSE, ..Job::new(Role::Inspect, DEADLINE).narrated(SOURCE) };
    // A unit has a /tmp of its own.
    let stores = request.stores().iter().map(|store| store.as_path().to_path_buf());
    let is_hidden =
        |store: &PathBuf| ["/tmp", "/var/tmp"].iter().any(|place| store.starts_with(place)) && store.exists();
    let hidden = stores.filter(is_hidden);
    hidden.fold(job, |job, store| {
        job.sees(Bind { source: store.clone(), destination: store, access: Access::ReadOnly })
    })
}

/// Makes progress of the lines of a unit, takes in what is known of files, and passes on everything else.
struct Relay {
    runner: Runner,
    progress: Box<dyn Progress + Send>,
    known: Arc<Mutex<Cache>>,
}

impl Relay {
    /// Takes a line of the unit; returns `true` if it knows the line.
    fn is_taken(&self, line: &str) -> bool {
        if let Some(reached) = Reached::from_line(line) {
            self.progress.take(&reached);
            return true;
        }
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        line.strip_prefix(KNOWN).is_some_and(|line| known().keep_line(line))
    }
}

impl Subscriber for Relay {
    fn take(&mut self, event: &Event) {
        let events = self.runner.events();
        match event {
            Event::Output { source, line, .. } if source == SOURCE && self.is_taken(line) => {}
            Event::Output { source, line, .. } => events.output(source, line),
            Event::Note { message, .. } => events.note(message),
            Event::Warning { message, .. } => events.warn(message),
            _ => {}
        }
    }
}

/// Tells the stream of events how far the reading is.
struct Telling {
    runner: Runner,
    last: Cell<Option<Duration>>,
    pace: RefCell<Pace>,
}

impl Progress for Telling {
    fn take(&self, reached: &Reached) {
        let words = self.pace.borrow_mut().words(reached);
        if reached.is_due(&self.last, TOLD_EVERY) {
            self.runner.events().progress(&format!("models: {words}"), None, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it is given, for the test to look at.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl Seen {
        fn add(&self, line: String) {
            self.0.lock().unwrap().push(line);
        }
    }

    impl Subscriber for Seen {
        fn take(&mut self, event: &Event) {
            match event {
                Event::Output { line, .. } => self.add(format!("output: {line}")),
                Event::Warning { message, .. } => self.add(format!("warning: {message}")),
                other => panic!("{other:?}"),
            }
        }
    }

    impl Progress for Seen {
        fn take(&self, reached: &Reached) {
            self.add(format!("progress: {}", reached.bytes));
        }
    }

    #[test]
    fn lines_of_the_unit_are_progress_or_known_files_and_others_are_passed_on() {
        let (seen, known) = (Seen::default(), Arc::new(Mutex::new(Cache::default())));
        let runner = Runner::new(Arc::new(Events::new(vec![Box::new(seen.clone())])));
        let relay = Relay { runner, progress: Box::new(seen.clone()), known: Arc::clone(&known) };
        let events = Events::new(vec![Box::new(relay)]);
        events.output(SOURCE, "read 1 2 3000 6000 50");
        events.output(SOURCE, &format!("known 1 2 3 4.5 6.7 sha256:{}", "a".repeat(64)));
        events.output(SOURCE, "known rubbish");
        events.output("other", "read 1 2 3000 6000 50");
        events.warn("slow");
        let expected =
            ["progress: 3000", "output: known rubbish", "output: read 1 2 3000 6000 50", "warning: slow"];
        assert_eq!(*seen.0.lock().unwrap(), expected);
        assert_eq!(known.lock().unwrap().len(), 1);
    }
}
