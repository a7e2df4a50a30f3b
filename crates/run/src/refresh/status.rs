//! Step 6: commit, environment path, service status, and the rest of the report (RW-5.6); the same report for a run
//! that halted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::plan::Target;
use refresh_events::event::{Event, Events};
use refresh_events::run_report;
use refresh_events::run_report::{HeldBack, Phase, Report, RunResult};
use refresh_installation::installation::Installation;
use refresh_installation::journal::Entry;
use refresh_installation::{exit, history, status_file};
use refresh_service::fence;
use refresh_service::fence::Halt;
use refresh_settings::names::{BranchName, CommitId};
use refresh_source::hook_outputs;
use refresh_source::stash;
use refresh_source::stash::StashRecord;
use refresh_source::work_tree;
use refresh_source::work_tree::Head;
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::manifest::{Manifest, Scan};
use refresh_system::text::size;
use refresh_system::{checkpoint, clock, hint};

use super::account::Account;
use super::{again, page, rehearsal};

/// The largest number of entries of the protected paths that are inspected; a larger store is inspected in part.
const INVENTORY_LIMIT: usize = 200_000;

/// The size in bytes from which the stash causes a warning.
const STASH_LARGE: u64 = 5 << 30;

/// The largest number of paths of local changes in a report.
const NAMED: usize = 50;

/// The state of the protected paths while the service is down: names, sizes, modes, times.
#[derive(Debug)]
pub(crate) struct Inventory {
    roots: Vec<(PathBuf, Manifest)>,
}

/// The protected paths that are inspected again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InventoryScope {
    /// All of them: no hook has run yet, so nothing may have changed.
    All,
    /// All but persistent data, which hooks may change.
    AllButData,
}

impl Inventory {
    /// Inspects every protected path (RW-3.2, RW-6.1), except the tool's own state. A path that cannot be inspected is
    /// a warning. It is no objection to the refresh; the report only makes no statement about that path.
    pub(crate) fn new(on: &Installation, account: &mut Account) -> Self {
        let layout = &on.layout;
        let mut roots = Vec::new();
        for root in layout.protected() {
            match scan_tree(&root) {
                Ok(manifest) => roots.push((root, manifest)),
                Err(failure) => account.warn(format!(
                    "{} cannot be compared before and after: {}",
                    root.display(),
                    failure.chain().join(": ")
                )),
            }
        }
        account.report.protected.entries = roots.iter().map(|(_, manifest)| manifest.entries().len()).sum();
        Self { roots }
    }

    /// Inspects the paths again and adds the differences to the account.
    pub(crate) fn compare(&self, on: &Installation, account: &mut Account, again: InventoryScope) {
        for (root, before) in &self.roots {
            if again == InventoryScope::AllButData && *root == on.layout.persistent() {
                continue;
            }
            // A path that cannot be inspected now could be inspected before: that is a change too.
            let after = scan_tree(root).unwrap_or_default();
            let found = before.compare(&after);
            let changed = found.changed.iter().map(|(path, _)| path);
            for path in found.added.iter().chain(&found.removed).chain(changed) {
                let path = root.join(path).display().to_string();
                if !account.report.protected.changed.contains(&path) {
                    account.report.protected.changed.push(path);
                }
            }
        }
    }
}

fn scan_tree(root: &Path) -> Outcome<Manifest> {
    Scan::metadata().at_most(INVENTORY_LIMIT).of(root)
}

/// Cleans up the tool's own stores after a success: removes data that no kept run needs any more. A failure is a
/// warning.
pub(crate) fn settle(on: &Installation, account: &mut Account) -> String {
    record_hook_outputs(on, account);
    rehearsal::discard(on, account);
    settle_previous(on, account);
    complete_outage(on, account);
    checkpoint::reach("status:before-pruning");
    if let Err(failure) = history::prune(on, &account.report.run) {
        account.warn(format!("old runs and environments cannot be pruned: {}", failure.chain().join(": ")));
    }
    if !account.report.protected.changed.is_empty() {
        account.warn(
            "protected paths changed while the service was down; this program does not write there".into(),
        );
    }
    match advice(on, account) {
        Ok(lines) => lines.into_iter().for_each(|line| account.warn(line)),
        Err(failure) => account.warn(format!("the stash cannot be read: {}", failure.chain().join(": "))),
    }
    let commit = account.report.commit.as_ref().map_or("unknown", |commit| commit.short());
    let environment = account.report.environment.name.as_ref().map_or("no environment", |name| name.as_str());
    format!("{commit} on {} in {environment}", account.branch())
}

/// Adds the runs that did not succeed to the outage, and the command that shows the log of the first.
fn complete_outage(on: &Installation, account: &mut Account) {
    let run = account.report.run.clone();
    let Some(outage) = &mut account.report.outage else { return };
    match history::failed_before(&on.layout, &run, outage.since) {
        Ok(runs) => {
            let command = |run| on.as_typed(&format!("ladylinux-refresh history {run} --log"));
            outage.command = runs.first().map(command);
            outage.runs = runs;
        }
        Err(failure) => account.warn(format!("earlier runs cannot be read: {}", failure.chain().join(": "))),
    }
}

/// Records the files that hooks wrote into `app/`. Without the record the next run keeps these files: more than
/// necessary, never less.
fn record_hook_outputs(on: &Installation, account: &mut Account) {
    let (Some(time), Some(commit)) = (account.hook_time.take(), account.report.commit.clone()) else {
        return;
    };
    if let Err(failure) = hook_outputs::record(on, &commit, time) {
        let reason = failure.chain().join(": ");
        account.note(&format!("what the hooks wrote into app/ could not be recorded: {reason}"));
    }
    checkpoint::reach("status:recorded");
}

/// Keeps or removes the previous trees of this run and of earlier ones. A failure is a warning: the trees stay.
fn settle_previous(on: &Installation, account: &mut Account) {
    let (kept, failures) = match stash::settle(on, &account.known) {
        Ok(settled) => settled,
        Err(failure) => (Vec::new(), vec![failure]),
    };
    for failure in failures {
        account.warn(format!("the previous tree is not settled: {}", failure.chain().join(": ")));
    }
    let mut commands = Vec::new();
    for record in &kept {
        let changes = &record.changes;
        account.report.saved.count += changes.count().max(1);
        account.report.saved.paths.extend(changes.changes().map(|change| change.path.to_string()));
        account.report.saved.paths.extend(changes.tips.iter().map(|tip| tip.name.clone()));
        account.report.saved.place = Some(on.layout.stash(&record.run));
        commands.push(on.as_typed(&format!("ladylinux-refresh stash show {}", record.run)));
        if changes.has_linked_trees() {
            account.warn(format!(
                "the linked working trees of app/ belong to the kept tree now; to connect one again: {}",
                hint::command_line(
                    "git -C",
                    &[&on.layout.stash(&record.run), &"worktree", &"repair", &"PATH"]
                )
            ));
        }
        if let Some(reason) = &changes.not_comparable {
            account.warn(format!(
                "all of the tree of run {} is kept, because it cannot be compared: {reason}",
                record.run
            ));
        }
    }
    if account.report.saved.count > 0 && account.report.saved.paths.is_empty() {
        account.report.saved.paths.push(".".to_owned());
    }
    account.report.saved.paths.truncate(NAMED);
    account.report.saved.command = commands.pop();
}

/// Returns warnings about a file that is stashed in every run, with the line to add, and about a large stash.
fn advice(on: &Installation, account: &Account) -> Outcome<Vec<String>> {
    if account.report.saved.count == 0 {
        return Ok(Vec::new());
    }
    let stashes = stash::list(&on.layout)?;
    let mut lines = Vec::new();
    let paths = |record: &StashRecord| -> BTreeSet<String> {
        record.changes.changes().map(|change| change.path.to_string()).collect()
    };
    if let [.., before, last] = stashes.as_slice()
        && last.run == account.report.run
    {
        // `preserve` has no power over the tree's own repository.
        let is_of_git = |path: &String| path.starts_with(".git/");
        let again: Vec<String> =
            paths(last).intersection(&paths(before)).filter(|path| !is_of_git(path)).cloned().collect();
        if !again.is_empty() {
            lines.push(format!(
                "two runs in a row have moved {} into the stash; to leave such paths in app/, add to {}: preserve = {again:?}",
                again.join(", "),
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
pub(crate) fn finish(on: &Installation, account: Account) -> Report {
    close(on, account, RunResult::Refreshed, None)
}

/// Ends a run whose step failed: service stopped, fence explained, full report (RW-7.1).
pub(crate) fn halted(
    on: &Installation,
    mut account: Account,
    phase: Phase,
    failure: &Failure,
) -> exit::Error {
    record_hook_outputs(on, &mut account);
    rehearsal::discard(on, &mut account);
    let previous = on.layout.previous_tree(&account.report.run);
    if previous.exists() {
        // A comparison now would prolong the downtime.
        account.note(&format!("the previous tree is in {}: the next run compares it", previous.display()));
        account.report.saved.place = Some(previous);
    }
    if !on.is_fenced() && phase == Phase::Stop {
        // The fence itself could not be raised, so nothing was stopped: that is a refusal.
        return refused(on, account, failure);
    }
    let reason = format!("run {} halted at {phase}", account.report.run);
    // This also raises the fence again if lowering it was incomplete.
    let commit = if phase == Phase::Stop { &account.report.commit_before } else { &account.report.commit };
    let halt = Halt { phase, commit: commit.clone() };
    if let Err(unwritten) = fence::explain(&on.layout, &account.report.run, &reason, failure, halt) {
        account.warn(format!("the service is fenced, but the reason cannot be written: {unwritten}"));
    }
    // This happens while the sockets are still held: no connection finds them closed.
    match page::show(on) {
        Ok(true) => account.note("visitors get a page until the service is back"),
        Ok(false) => {}
        Err(warning) => account.warn(warning),
    }
    on.service.close_next_socket();
    let next = if failure.is_by_others() {
        // The version is not the cause: the same run can succeed.
        account.again.replace(" --if-changed", "")
    } else {
        next_after_halt(on, &account)
    };
    let error = explain(on, phase, failure, &next);
    exit::Error::Run(Box::new(close(on, account, RunResult::Halted, Some((error, failure)))))
}

/// Ends a run whose staging failed: the refresh was not started.
pub(crate) fn refused(on: &Installation, mut account: Account, failure: &Failure) -> exit::Error {
    if let Err(failure) = history::prune_refused(&on.layout) {
        account.warn(format!("old refused runs cannot be removed: {}", failure.chain().join(": ")));
    }
    let phase = account.report.phases.last().map_or(Phase::Staging, |part| part.phase);
    let error = explain(on, phase, failure, &account.again);
    exit::Error::Run(Box::new(close(on, account, RunResult::Refused, Some((error, failure)))))
}

/// Ends a run that preflight refused: nothing was touched, and nothing is written. `again` is its command line.
pub fn refused_in_preflight(
    on: &Installation,
    mut report: Report,
    failure: &Failure,
    again: &str,
) -> exit::Error {
    report.error = Some(explain(on, Phase::Preflight, failure, again));
    end_unchanged(on, on.runner.events(), &mut report, RunResult::Refused, exit::of_failure(failure, 3));
    exit::Error::Run(Box::new(report))
}

/// Ends a run that found everything up to date: nothing was done, and nothing is written.
pub fn unchanged(on: &Installation, events: &Events, mut report: Report) {
    end_unchanged(on, events, &mut report, RunResult::Unchanged, 0);
}

/// Ends an unattended run whose commit is held back: nothing was done, and nothing is written.
pub fn held_back(on: &Installation, events: &Events, mut report: Report, held: HeldBack) {
    report.held_back = Some(held);
    end_unchanged(on, events, &mut report, RunResult::HeldBack, 0);
}

fn end_unchanged(on: &Installation, events: &Events, report: &mut Report, result: RunResult, exit_code: u8) {
    complete(on, report, result, exit_code);
    report.commit_before.clone_from(&report.commit);
    report.environment.name_before.clone_from(&report.environment.name);
    report.changed = false;
    events.emit(&Event::RunFinished { report: Box::new(report.clone()) });
}

/// Completes a report with the end of the run and the present state of the installation.
pub(super) fn complete(on: &Installation, report: &mut Report, result: RunResult, exit_code: u8) {
    (report.result, report.exit_code, report.finished_at) = (result, exit_code, clock::now());
    if report.commit.is_none() {
        // Until `app/` is verified to equal the target, the report has the present commit.
        let (commit, branch) = held(on);
        report.commit = commit;
        report.branch = branch.unwrap_or_else(|| report.branch.clone());
    }
    let (live, digest) = on.live_environment().map(|live| (live.name, live.record.digest)).unzip();
    report.changed = report.commit != report.commit_before
        || live != report.environment.name_before
        || report.saved.count > 0;
    report.environment.path = on.layout.venv();
    report.environment.name = live;
    report.environment.digest = digest.flatten();
    let run_report::Service { others, check, url, .. } = std::mem::take(&mut report.service);
    report.service = run_report::Service { others, check, ..on.service_report(url) };
    report.bundle = on.offline.as_ref().map(|source| source.report());
    report.confinement = on.units.enforcement().ok();
}

/// Returns the commit of `app/`, if it can be read.
fn head(on: &Installation) -> Option<CommitId> {
    held(on).0
}

/// Returns the commit of `app/`, and its branch or else the deployed branch, if they can be read.
fn held(on: &Installation) -> (Option<CommitId>, Option<BranchName>) {
    let deployed = || status_file::read(&on.layout).deployed.map(|pair| pair.branch);
    let Ok(tree) = work_tree::of(on) else { return (None, deployed()) };
    let branch = match &tree.head {
        Some(Head::Branch(name)) => BranchName::parse(name).ok(),
        _ => None,
    };
    (tree.commit, branch.or_else(deployed))
}

/// Returns the error of a run, whose command line is `again`.
fn explain(on: &Installation, phase: Phase, failure: &Failure, again: &str) -> run_report::Error {
    let mut known = failure.hints();
    if !again::names_branch(again) {
        // No person has mistyped the branch: one with a similar name may be another version.
        let is_other = |hint: &Hint| {
            hint.own_command()
                .is_some_and(|line| line.starts_with("ladylinux-refresh run ") && again::names_branch(line))
        };
        if known.iter().any(is_other) {
            known.retain(|hint| !is_other(hint));
            let file = on.layout.host_file();
            known.push(
                format!("set `branch = \"NAME\"` in {}, or type the branch after `run`", file.display())
                    .into(),
            );
        }
    }
    let mut hints: Vec<String> =
        known.iter().map(|hint| on.as_typed(&again::complete(&hint.to_string(), again))).collect();
    // A cause with an exact command is more precise than the step in which it occurred.
    let known = known.iter().position(|hint| hint.own_command().is_some());
    let next = match known {
        Some(index) if phase.step().is_none() => hints.remove(index),
        _ => on.as_typed(again),
    };
    run_report::Error { phase, chain: failure.chain(), hints, next }
}

/// Returns the command to use after a halt: a rollback to the last good pair if there is one, else the same run after
/// the repair of the cause.
fn next_after_halt(on: &Installation, account: &Account) -> String {
    let live = on.live();
    let moved =
        match status_file::read(&on.layout).deployed {
            Some(pair) => Some(pair.commit) != head(on) || Some(pair.environment) != live,
            // Before the first success, only the state before the first run exists.
            None => account.report.environment.name_before.as_ref().is_some_and(|before| {
                Some(before) != live.as_ref() && history::is_adopted(&on.layout, before)
            }),
        };
    match account.target {
        Target::Latest(_) if moved => "ladylinux-refresh rollback".to_owned(),
        // A run with --if-changed would hold back the commit that has just halted.
        Target::Latest(_) => account.again.replace(" --if-changed", ""),
        Target::Earlier(_) => "ladylinux-refresh run".to_owned(),
    }
}

/// Ends a run that has begun: completes its report, writes report and status, closes the journal, sends the last event.
/// No failure in here makes the result worse.
fn close(
    on: &Installation,
    mut account: Account,
    result: RunResult,
    failed: Option<(run_report::Error, &Failure)>,
) -> Report {
    let (error, failure) = failed.unzip();
    let otherwise = match result {
        RunResult::Refreshed => 0,
        RunResult::Refused => 3,
        _ => 1,
    };
    account.report.error = error;
    describe_request(on, &mut account.report);
    complete(
        on,
        &mut account.report,
        result,
        failure.map_or(otherwise, |it| exit::of_failure(it, otherwise)),
    );
    let report = &mut account.report;
    let times = report.downtime_ms.zip(account.start_took);
    report.downtime = times
        .map(|(total, start)| run_report::DowntimeParts::of(total, clock::millis(start), &report.phases));
    let open = report.open(failure);
    let written = history::write_report(&on.layout.run(&open.run), &open)
        .and_then(|()| status_file::set_last_run(&on.layout, &open));
    if let Err(failure) = written {
        account.warn(format!("the report cannot be written: {}", failure.chain().join(": ")));
    }
    checkpoint::reach("status:published");
    if let Err(failure) = account.record(Entry::Ended { ending: result }) {
        account.warn(format!("the journal cannot be closed: {}", failure.chain().join(": ")));
    }
    account.emit(&Event::RunFinished { report: Box::new(account.report.clone()) });
    account.report
}

/// Adds subject and author of the requested commit, unless staging has read them.
pub(super) fn describe_request(on: &Installation, report: &mut Report) {
    if let Some(requested) = report.requested.as_mut().filter(|it| it.subject.is_none())
        && let Some(line) = requested.commit.as_ref().and_then(|commit| on.mirror.commit_line(commit).ok())
    {
        (requested.subject, requested.author) = (Some(line.subject), Some(line.author));
    }
}
