//! Step 6: commit, environment path, service status, and the rest of the report (RW-5.6); the same report for a run
//! that halted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::bundle::Bundle;
use crate::checkpoint;
use crate::clock;
use crate::error::{Failure, Outcome};
use crate::event::{Event, Events, Phase};
use crate::exit;
use crate::history;
use crate::installation::Installation;
use crate::journal::Entry;
use crate::journal::record::Ending;
use crate::manifest::{Manifest, Scan};
use crate::models::verify::Summary;
use crate::report::screen::size;
use crate::report::{self, PhaseReport, Report};
use crate::service::fence::{self, Halt};
use crate::settings::names::{BranchName, CommitId, RunId};
use crate::source::hook_outputs;
use crate::source::stash::{self, StashRecord};
use crate::source::work_tree::Head;
use crate::status_file;

use super::account::{Account, millis};
use super::begin::TargetState;
use super::page;
use super::rehearsal;

/// How many entries of the protected paths are looked at; a store with more is looked at in part.
const INVENTORY_LIMIT: usize = 200_000;

/// From which size on the stash is worth a warning, in bytes.
const STASH_LARGE: u64 = 5 << 30;

/// How many paths of local changes a report names.
const NAMED: usize = 50;

/// The protected paths as they are while the service is down: names, sizes, modes, times.
#[derive(Debug)]
pub struct Inventory {
    roots: Vec<(PathBuf, Manifest)>,
}

/// Which of the protected paths are looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// All of them: no hook has run yet, so nothing may have changed.
    All,
    /// All but persistent data, which hooks are there to change.
    AllButData,
}

impl Inventory {
    /// Looks at every protected path (RW-3.2, RW-6.1), the tool's own state left out. One that cannot be looked at is a
    /// warning: it says nothing against the refresh, only that nothing is claimed of it.
    pub fn take(on: &Installation, account: &mut Account) -> Self {
        let layout = &on.layout;
        let mut roots = Vec::new();
        for root in layout.protected() {
            match look(&root) {
                Ok(manifest) => roots.push((root, manifest)),
                Err(failure) => account.warn(format!(
                    "{} cannot be compared before and after: {}",
                    root.display(),
                    failure.chain().join(": ")
                )),
            }
        }
        account.protected.entries = roots.iter().map(|(_, manifest)| manifest.entries().len()).sum();
        Self { roots }
    }

    /// Looks again and adds to the account what differs.
    pub fn compare(&self, on: &Installation, account: &mut Account, again: Again) {
        for (root, before) in &self.roots {
            if again == Again::AllButData && *root == on.layout.persistent() {
                continue;
            }
            // What cannot be looked at now could be before: that is a change too.
            let after = look(root).unwrap_or_default();
            let found = before.compare(&after);
            let changed = found.changed.iter().map(|(path, _)| path);
            for path in found.added.iter().chain(&found.removed).chain(changed) {
                let path = root.join(path).display().to_string();
                if !account.protected.changed.contains(&path) {
                    account.protected.changed.push(path);
                }
            }
        }
    }
}

fn look(root: &Path) -> Outcome<Manifest> {
    Scan::metadata().at_most(INVENTORY_LIMIT).of(root)
}

/// Settles the tool's own stores after a success: what no kept run needs any more is removed. Trouble is a warning.
pub fn settle(on: &Installation, account: &mut Account) -> String {
    record_hook_outputs(on, account);
    rehearsal::discard(on, account);
    settle_previous(on, account);
    checkpoint::reach("status:before-pruning");
    if let Err(failure) = history::prune(on, &account.run) {
        account.warn(format!("old runs and environments cannot be pruned: {}", failure.chain().join(": ")));
    }
    if !account.protected.changed.is_empty() {
        account.warn(
            "protected paths changed while the service was down; this program does not write there".into(),
        );
    }
    match advice(on, account) {
        Ok(lines) => lines.into_iter().for_each(|line| account.warn(line)),
        Err(failure) => account.warn(format!("the stash cannot be read: {}", failure.chain().join(": "))),
    }
    let commit = account.commit.as_ref().map_or("unknown", |commit| commit.short());
    let generation = account.environment.generation.as_ref().map_or("no environment", |name| name.as_str());
    format!("{commit} on {} in {generation}", account.branch())
}

/// Records what hooks wrote into `app/`. Without the record the next run keeps it: more than needed, never less.
fn record_hook_outputs(on: &Installation, account: &mut Account) {
    let (Some(time), Some(commit)) = (account.hook_time.take(), account.commit.clone()) else { return };
    if let Err(failure) = hook_outputs::record(on, &commit, time) {
        let reason = failure.chain().join(": ");
        account.note(&format!("what the hooks wrote into app/ could not be recorded: {reason}"));
    }
    checkpoint::reach("status:recorded");
}

/// Keeps or removes the previous trees of this run and of earlier ones. Trouble is a warning: the trees stay.
fn settle_previous(on: &Installation, account: &mut Account) {
    let (kept, failures) = match stash::settle(on, &account.known) {
        Ok(settled) => settled,
        Err(failure) => (Vec::new(), vec![failure]),
    };
    for failure in failures {
        account.warn(format!("the previous tree is not settled: {}", failure.chain().join(": ")));
    }
    let mut looks = Vec::new();
    for record in &kept {
        let changes = &record.changes;
        account.saved.count += changes.count().max(1);
        account.saved.paths.extend(changes.changes().map(|change| change.path.to_string()));
        account.saved.paths.extend(changes.tips.iter().map(|tip| tip.name.clone()));
        account.saved.place = Some(on.layout.stash(&record.run));
        looks.push(on.as_typed(&format!("ladylinux-refresh stash show {}", record.run)));
        if let Some(reason) = &changes.not_comparable {
            account.warn(format!(
                "the tree of run {} is kept whole, as it cannot be compared: {reason}",
                record.run
            ));
        }
    }
    if account.saved.count > 0 && account.saved.paths.is_empty() {
        account.saved.paths.push(".".to_owned());
    }
    account.saved.paths.truncate(NAMED);
    account.saved.look = looks.pop();
}

/// Points out a file that is kept run after run, with the line to add, and a stash that has grown large.
fn advice(on: &Installation, account: &Account) -> Outcome<Vec<String>> {
    if account.saved.count == 0 {
        return Ok(Vec::new());
    }
    let stashes = stash::list(&on.layout)?;
    let mut lines = Vec::new();
    let paths = |record: &StashRecord| -> BTreeSet<String> {
        record.changes.changes().map(|change| change.path.to_string()).collect()
    };
    if let [.., before, last] = stashes.as_slice()
        && last.run == account.run
    {
        let again: Vec<String> = paths(last).intersection(&paths(before)).cloned().collect();
        if let Some(first) = again.first() {
            lines.push(format!(
                "{first} is kept run after run; if the application keeps its state there, add to {}: preserve = {again:?}",
                on.layout.host_file().display()
            ));
        }
    }
    let total: u64 = stashes.iter().map(|record| record.size).sum();
    if total > STASH_LARGE {
        let show = on.as_typed("ladylinux-refresh stash list");
        lines.push(format!("the stash takes {}; list it, and drop old runs: {show}", size(total)));
    }
    Ok(lines)
}

/// Ends a run that succeeded.
pub fn finish(on: &Installation, mut account: Account) -> Report {
    let report = make(on, &account, Ending::Refreshed, 0, None);
    publish(on, &mut account, &report, None);
    report
}

/// Ends a run whose step failed: service stopped, fence explained, full report (RW-7.1).
pub fn halted(on: &Installation, mut account: Account, phase: Phase, failure: &Failure) -> exit::Error {
    record_hook_outputs(on, &mut account);
    rehearsal::discard(on, &mut account);
    let previous = on.layout.previous_tree(&account.run);
    if previous.exists() {
        // To compare it now would keep the service down for longer.
        account.note(&format!("the previous tree is in {}: the next run compares it", previous.display()));
        account.saved.place = Some(previous);
    }
    if !on.is_fenced() && phase == Phase::Stop {
        // The fence itself could not be raised, so nothing was stopped: that is a refusal.
        return refused(on, account, failure);
    }
    let reason = format!("run {} halted at {phase}", account.run);
    // This also raises the fence again, should its fall have failed half-way.
    let commit = if phase == Phase::Stop { &account.commit_before } else { &account.commit };
    let halt = Halt { phase, commit: commit.clone() };
    if let Err(unwritten) = fence::explain(&on.layout, &account.run, &reason, failure, halt) {
        account.warn(format!("the fence stands, but its reason cannot be written: {unwritten}"));
    }
    // While the sockets are still held: no connection finds them closed.
    match page::show(on) {
        Ok(true) => account.note("visitors get a page until the service is back"),
        Ok(false) => {}
        Err(warning) => account.warn(warning),
    }
    on.service.close_next_socket();
    let code = failure.interrupted_by().and_then(|signal| u8::try_from(128 + signal).ok()).unwrap_or(1);
    let error = told(on, phase, failure, &next_after_halt(on, &account));
    let report = make(on, &account, Ending::Halted, code, Some(error));
    publish(on, &mut account, &report, Some(failure));
    exit::Error::Run(Box::new(report))
}

/// Ends a run whose staging failed: the refresh was not started.
pub fn refused(on: &Installation, mut account: Account, failure: &Failure) -> exit::Error {
    let code = failure.interrupted_by().and_then(|signal| u8::try_from(128 + signal).ok()).unwrap_or(3);
    let phase = account.phases.last().map_or(Phase::Staging, |part| part.phase);
    let error = told(on, phase, failure, &account.again);
    let report = make(on, &account, Ending::Refused, code, Some(error));
    publish(on, &mut account, &report, Some(failure));
    exit::Error::Run(Box::new(report))
}

/// A run that ended before it had an account.
#[derive(Debug)]
pub struct Brief<'a> {
    /// The command that asks for the same once more.
    pub again: &'a str,
    /// The run.
    pub run: RunId,
    /// What was typed.
    pub command: &'static str,
    /// When it began, in UTC.
    pub started_at: jiff::Timestamp,
    /// What preflight took and found.
    pub preflight: PhaseReport,
    /// What was found when the models were looked at.
    pub models: Option<Summary>,
}

/// Ends a run that preflight refused: nothing was touched, and nothing is written.
pub fn refused_in_preflight(on: &Installation, brief: Brief<'_>, failure: &Failure) -> exit::Error {
    let code = failure.interrupted_by().and_then(|signal| u8::try_from(128 + signal).ok()).unwrap_or(3);
    let error = told(on, Phase::Preflight, failure, brief.again);
    let report = brief_report(on, brief, None, Ending::Refused, code, Some(error));
    on.runner.events().emit(&Event::RunFinished { report: Box::new(report.clone()) });
    exit::Error::Run(Box::new(report))
}

/// Ends a run that found everything right already: nothing was done, and nothing is written.
pub fn unchanged(on: &Installation, events: &Events, brief: Brief<'_>, target: &super::Target) {
    let report = brief_report(on, brief, Some(target.branch.clone()), Ending::Unchanged, 0, None);
    events.emit(&Event::RunFinished { report: Box::new(report) });
}

fn brief_report(
    on: &Installation,
    brief: Brief<'_>,
    branch: Option<BranchName>,
    result: Ending,
    exit_code: u8,
    error: Option<report::Error>,
) -> Report {
    let (commit, held) = held(on);
    let live = on.live();
    Report {
        schema: report::SCHEMA,
        run: brief.run,
        command: brief.command.to_owned(),
        result,
        exit_code,
        changed: false,
        staged: false,
        started_at: brief.started_at,
        finished_at: clock::now(),
        branch: branch.or(held).unwrap_or_else(BranchName::main),
        commit: commit.clone(),
        commit_before: commit,
        bundle: on.bundle.as_ref().map(Bundle::told),
        environment: report::Environment {
            path: on.layout.venv(),
            generation: live.clone(),
            generation_before: live,
            digest: on.live_generation().and_then(|live| live.record.digest),
            ..report::Environment::default()
        },
        service: on.service_report(None),
        downtime_ms: None,
        downtime: None,
        connections: None,
        phases: vec![brief.preflight],
        models: brief.models,
        saved: report::Saved::default(),
        preserved: Vec::new(),
        ignored: Vec::new(),
        protected: report::Protected::default(),
        confinement: on.units.enforcement().ok(),
        warnings: Vec::new(),
        error,
    }
}

/// The commit that `app/` is at, as far as that can be told.
fn head(on: &Installation) -> Option<CommitId> {
    held(on).0
}

/// The commit that `app/` is at, and the branch that it is on, else that was deployed, as far as that can be told.
fn held(on: &Installation) -> (Option<CommitId>, Option<BranchName>) {
    let deployed = || status_file::read(&on.layout).deployed.map(|pair| pair.branch);
    let Ok(tree) = on.tree_state() else { return (None, deployed()) };
    let branch = match &tree.head {
        Some(Head::Branch(name)) => BranchName::parse(name).ok(),
        _ => None,
    };
    (tree.commit, branch.or_else(deployed))
}

fn told(on: &Installation, phase: Phase, failure: &Failure, next: &str) -> report::Error {
    let mut hints: Vec<String> = failure.hints().iter().map(|hint| on.as_typed(hint)).collect();
    // A cause that knows the very command to type knows better than the step that it happened in.
    let known = hints.iter().position(|hint| hint.starts_with("ladylinux-refresh "));
    let next = match known {
        Some(index) if phase.step().is_none() => hints.remove(index),
        _ => on.as_typed(next),
    };
    report::Error { phase, chain: failure.chain(), hints, next }
}

/// After a halt: back to the last good pair where there is one, else again when the cause is mended.
fn next_after_halt(on: &Installation, account: &Account) -> String {
    let live = on.live();
    let moved = match status_file::read(&on.layout).deployed {
        Some(pair) => Some(pair.commit) != head(on) || Some(pair.generation) != live,
        // Before the first success there is only what was there before the first run.
        None => account
            .generation_before
            .as_ref()
            .is_some_and(|before| Some(before) != live.as_ref() && history::is_adopted(&on.layout, before)),
    };
    match account.target.state {
        TargetState::Latest if moved => "ladylinux-refresh rollback".to_owned(),
        TargetState::Latest => account.again.clone(),
        TargetState::Earlier { .. } => "ladylinux-refresh run".to_owned(),
    }
}

/// Writes report and status, closes the journal, tells the stream. Nothing here can make a result worse.
fn publish(on: &Installation, account: &mut Account, report: &Report, failure: Option<&Failure>) {
    let directory = on.layout.run(&account.run);
    let open = report.open(failure);
    let written =
        history::write_report(&directory, &open).and_then(|()| status_file::set_last_run(&on.layout, &open));
    if let Err(failure) = written {
        account.warn(format!("the report cannot be written: {}", failure.chain().join(": ")));
    }
    checkpoint::reach("status:published");
    if let Err(failure) = account.record(Entry::Ended { ending: report.result }) {
        account.warn(format!("the journal cannot be closed: {}", failure.chain().join(": ")));
    }
    account.emit(&Event::RunFinished { report: Box::new(report.clone()) });
}

fn make(
    on: &Installation,
    account: &Account,
    result: Ending,
    exit_code: u8,
    error: Option<report::Error>,
) -> Report {
    // Until `app/` is proved to be what was aimed at, what is told is what it holds.
    let (commit, branch) = match &account.commit {
        Some(commit) => (Some(commit.clone()), None),
        None => held(on),
    };
    let live = on.live();
    let environment = report::Environment {
        path: on.layout.venv(),
        generation: live.clone(),
        generation_before: account.generation_before.clone(),
        digest: on.live_generation().and_then(|live| live.record.digest),
        ..account.environment.clone()
    };
    let changed =
        commit != account.commit_before || live != account.generation_before || account.saved.count > 0;
    Report {
        schema: report::SCHEMA,
        run: account.run.clone(),
        command: account.target.command().to_owned(),
        result,
        exit_code,
        changed,
        staged: account.staged,
        started_at: account.started_at,
        finished_at: clock::now(),
        branch: branch.unwrap_or_else(|| account.branch().clone()),
        commit,
        commit_before: account.commit_before.clone(),
        bundle: on.bundle.as_ref().map(Bundle::told),
        environment,
        service: report::Service { others: account.others.clone(), ..on.service_report(account.url.clone()) },
        downtime_ms: account.downtime.map(millis),
        downtime: downtime_parts(account),
        connections: account.connections,
        phases: account.phases.clone(),
        models: account.models.clone(),
        saved: account.saved.clone(),
        preserved: account.preserved.clone(),
        ignored: account.ignored.clone(),
        protected: account.protected.clone(),
        confinement: on.units.enforcement().ok(),
        warnings: account.warnings.clone(),
        error,
    }
}

/// Divides the downtime of a run that has one.
fn downtime_parts(account: &Account) -> Option<report::DowntimeParts> {
    let (total, start) = (millis(account.downtime?), millis(account.start_took?));
    Some(report::DowntimeParts::of(total, start, &account.phases))
}
