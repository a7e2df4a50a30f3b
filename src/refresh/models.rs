//! Looking at the models before anything is touched, where the host or the command line asks for it (RW-6.2).
//!
//! Staging asks, and step 4 asks again and finds it done; without staging it is done there. Nothing is changed, whatever is
//! found (RW-6.1).

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::event::Events;
use crate::installation::Installation;
use crate::models::cache::Cache;
use crate::models::engine::{self, How};
use crate::models::manifest;
use crate::models::progress::{Progress, Reached};
use crate::models::verify::{self, Summary, Text};
use crate::report::progress::Pace;
use crate::report::screen::count;
use crate::settings::layout::Layout;
use crate::settings::names::CommitId;
use crate::settings::{ModelCheck, Settings};

use super::account::Account;
use super::begin::TargetState;

/// How often a run tells how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(1);

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
        let summary = look(on, settings, commit, how, account.events())?;
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
    let summary = look(on, &settings, commit, how, on.runner.events())?;
    accept(&summary).map(|()| Some(summary))
}

fn how(settings: &Settings) -> Option<How> {
    match settings.models.verify {
        ModelCheck::Off => None,
        ModelCheck::Presence => Some(How::Presence),
        ModelCheck::Full => Some(How::Full),
    }
}

fn look(
    on: &Installation,
    settings: &Settings,
    commit: &CommitId,
    how: How,
    events: &Events,
) -> Outcome<Summary> {
    // What the coming commit expects counts, not what the deployed one did.
    let text = on.mirror.read(commit, Path::new(manifest::PLACE))?.map_or(Text::Missing, Text::Bytes);
    let gathered = verify::gather(&on.layout, &text, on.env_file(), &settings.models.stores)?;
    let telling = Telling { events, last: Cell::new(None), pace: RefCell::default() };
    match verify::verify(gathered, how, &known(&on.layout), engine::all_threads(), &telling) {
        Ok(verified) => {
            if let Err(failure) = keep(&on.layout, &verified.cache) {
                events.note(&format!("what was read of the models is not remembered: {failure}"));
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

/// Tells the stream of events how far the reading is.
struct Telling<'a> {
    events: &'a Events,
    last: Cell<Option<Duration>>,
    pace: RefCell<Pace>,
}

impl Progress for Telling<'_> {
    fn take(&self, reached: &Reached) {
        let words = self.pace.borrow_mut().words(reached);
        // The headers are looked at after the files, and their time begins anew.
        let is_due = |last: Duration| reached.elapsed >= last + TOLD_EVERY || reached.elapsed < last;
        let is_due = self.last.get().is_none_or(is_due);
        if is_due {
            self.last.set(Some(reached.elapsed));
            self.events.progress(&format!("models: {words}"), None, None);
        }
    }
}
