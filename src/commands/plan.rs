//! `plan`, and `run --dry-run`: the effects of a run.

use crate::bundle;
use crate::cli::{LockArgs, PlanArgs, RunArgs, RunOptions, words};
use crate::report::json;
use refresh_git::history::Changes;
use refresh_installation::exit::{Error, Success};
use refresh_installation::installation::Installation;
use refresh_installation::{history, status_file};
use refresh_run::plan;
use refresh_run::plan::space::Makes;
use refresh_run::plan::{Incoming, Observed, Plan, Target, confinement, preflight};
use refresh_run::refresh;
use refresh_settings::ModelCheck;
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, RunId};
use refresh_source::local::LocalChanges;
use refresh_system::error::{Failure, Outcome};
use refresh_system::screen;
use refresh_system::screen::{Facts, Tone, paint, print_line};
use refresh_system::text::{count, duration, harmless_line, quoted};
use refresh_system::{clock, interrupt};

use super::run_request::{again, bundle_options, choose_branch, usual_branch};
use super::{for_other_branch, held_back, lock, open_with, refuse};

/// Shows the effects of a run; changes nothing in the installation.
pub(super) fn plan(layout: &Layout, mut args: PlanArgs) -> Result<Success, Error> {
    args.options.normalize();
    // Next commands contain the arguments, so all of them must be text.
    words::of("plan", &args).map_err(Error::Usage)?;
    let branch = args.options.branch.as_deref().map(BranchName::parse).transpose().map_err(Error::Usage)?;
    let on = open_with(layout, "plan", args.options.overrides.clone())?
        .with_offline_source(bundle::offline_source(bundle_options(&args.options.bundle)));
    // Runs also use the mirror that it fills.
    let _lock = lock(layout, "plan", None, &LockArgs::default())?;
    let made = make(&on, branch, args.options.overrides.verify_models);
    let tidied = interrupt::shielded(|| bundle::remove_unpacked(layout));
    let made = made.and_then(|made| tidied.map(|()| made));
    let made = made.map_err(|failure| {
        let (failure, next) = after_refusal(&args, failure);
        refuse(&on, "plan", failure, &next)
    })?;
    if args.json {
        print_line(&json::pretty(&made));
    } else {
        show(&on, &made, &args.options);
    }
    Ok(if args.exit_code && made.changed { Success::Findings } else { Success::Done })
}

/// Returns a refusal, and its next command: the plan of the branch in a cause, with its options, else `status`.
fn after_refusal(args: &PlanArgs, failure: Failure) -> (Failure, String) {
    let options = RunOptions { branch: None, ..args.options.clone() };
    // The cause contains the branch in the form to type.
    let plan = |branch: &str| {
        let words = words::of("plan", &PlanArgs { options: options.clone(), ..args.clone() });
        format!("{} {branch}", again(&words.unwrap_or_else(|_| vec!["plan".to_owned()])))
    };
    let (failure, next) = for_other_branch(failure, plan);
    (failure, next.unwrap_or_else(|| "ladylinux-refresh status".to_owned()))
}

fn make(on: &Installation, branch: Option<BranchName>, models: Option<ModelCheck>) -> Outcome<Plan> {
    confinement::check(on)?;
    let observed = Observed::of(on)?;
    let warnings = preflight::check(on, &observed, Makes::New)?;
    for warning in &warnings {
        on.runner.events().warn(warning);
    }
    let target = Target::Latest(choose_branch(on, branch)?);
    let scratch = RunId::new(clock::now(), std::process::id());
    let incoming = Incoming::examine(on, &target, &observed, &scratch)?;
    if observed.deployed.as_ref().is_some_and(|pair| pair.commit == incoming.commit)
        && let Some(default) = on.mirror.other_default(target.branch(), None)?
    {
        let (branch, default) = (target.branch(), quoted(&default));
        let note = format!("{branch} brings nothing new, and the default branch of the remote is {default}");
        on.runner.events().note(&note);
    }
    // Only if it is requested on this command line: reading every model takes too long for a plan.
    if models.is_some()
        && let Some(summary) = refresh::models::verified(on, &incoming.commit)?
    {
        on.runner.events().note(&format!("models: {}", summary.in_words()));
    }
    let known = std::slice::from_ref(&incoming.commit);
    let observed = observed.with_drift(on, known, Some(&incoming.commit))?;
    Ok(plan::build(&target, &observed, &incoming))
}

/// The largest number of named files, paths and local changes.
const NAMED: usize = 20;

fn show(on: &Installation, plan: &Plan, options: &RunOptions) {
    let (table, width) = (screen::width(), screen::text_width());
    let mut facts = Facts::new(&paint(Tone::Strong, &verdict(plan)), width);
    if let Some(changes) = &plan.changes {
        facts.lines.extend(commits(changes, table));
        if changes.dropped > 0 {
            let dropped = count(usize::try_from(changes.dropped).unwrap_or(usize::MAX), "deployed commit");
            facts.add("dropped", &format!("{dropped}, no longer on the branch"));
        }
        let files = changes.files.iter().map(|file| format!("{} {}", file.status, file.path));
        facts.list("files", files, changes.files.len(), NAMED);
    }
    let packages = &plan.environment.packages;
    facts.list("packages", packages.iter().cloned(), packages.len(), NAMED);
    local_changes(&plan.drift, &mut facts);
    let environment = &plan.environment;
    let word = if environment.build { "would be built" } else { "is ready" };
    facts.add("environment", &format!("{word}: {}", environment.reason));
    if let Some(lock) = &environment.lock {
        facts.add("lock", &harmless_line(&lock.in_words()));
    }
    if let Some(found) = &environment.contamination {
        let words = harmless_line(&found.in_words(5));
        facts.add("", &format!("{} {words}", paint(Tone::Warning, "changed manually:")));
    }
    if let Some(ms) = last_downtime(on) {
        facts.add("downtime", &format!("{} in the last good run", duration(ms)));
    }
    if !plan.hooks.is_empty() {
        facts.add("hooks", &harmless_line(&plan.hooks.join(", ")));
    }
    let held = status_file::read(&on.layout).held_back;
    if let Some(held) = held.iter().find(|held| held.commit == plan.commit) {
        facts.add("held back", &format!("from unattended runs: {}", held.cause()));
    }
    if let Some(at) = held_back::stopped(on, on.is_fenced()) {
        let at = clock::in_words(at);
        facts.add("held back", &format!("from unattended runs: the service was stopped at {at}"));
    }
    if plan.changed {
        facts.next(&next(on, plan, options));
    }
    screen::print_lines(&facts.lines);
}

/// Returns the downtime of the run of the deployed version, in milliseconds.
fn last_downtime(on: &Installation) -> Option<u64> {
    let run = status_file::read(&on.layout).deployed?.run;
    history::one(&on.layout, &run).ok()?.report?.downtime_ms
}

/// Returns the command that performs the plan, with its options.
fn next(on: &Installation, plan: &Plan, options: &RunOptions) -> String {
    let is_named = options.bundle.bundle.is_none() && plan.branch != usual_branch(on);
    let branch = is_named.then(|| plan.branch.to_string());
    let args = RunArgs { options: RunOptions { branch, ..options.clone() }, ..RunArgs::default() };
    let words = words::of("run", &args).unwrap_or_else(|_| vec!["run".to_owned()]);
    on.as_typed(&again(&words))
}

/// Returns the effect of a refresh in one line.
fn verdict(plan: &Plan) -> String {
    let branch = &plan.branch;
    if !plan.changed {
        return "Up to date: a refresh would change nothing, and restart the service.".to_owned();
    }
    let commit = plan.commit.short();
    if plan.commit_now.as_ref() == Some(&plan.commit) {
        return format!(
            "{branch} at {commit} has no new commits; a refresh would {}.",
            effects(plan).join(", ")
        );
    }
    let now = plan.commit_now.as_ref().map_or("no commit", |commit| commit.short());
    let changes = plan.changes.as_ref().map(|changes| {
        let commits = count(usize::try_from(changes.coming).unwrap_or(usize::MAX), "commit");
        format!(", {commits}, {}", count(changes.files.len(), "file"))
    });
    format!("{branch}: {now} → {commit}{}", changes.unwrap_or_default())
}

/// Returns the effects of a refresh without a new commit.
fn effects(plan: &Plan) -> Vec<String> {
    let mut effects = Vec::new();
    if !plan.drift.is_none() {
        effects.push("move local changes into the stash".to_owned());
    }
    if plan.environment.build {
        effects.push("build an environment".to_owned());
    } else if plan.environment.now != plan.environment.ready || plan.environment.contamination.is_some() {
        effects.push("switch the environment".to_owned());
    }
    if effects.is_empty() {
        effects.push("start the service".to_owned());
    }
    effects
}

/// Returns the commits, each with its author and time if they fit.
fn commits(changes: &Changes, width: usize) -> Vec<String> {
    let rows = changes.commits.iter().take(NAMED).map(|commit| {
        let at = jiff::Timestamp::from_second(commit.authored).map(clock::to_the_minute).unwrap_or_default();
        let author = screen::cut(&harmless_line(&commit.author), 16);
        [format!("  {}", commit.id.short()), at, author, harmless_line(&commit.subject)]
    });
    let mut lines =
        screen::table(["  COMMIT", "WHEN", "AUTHOR", "SUBJECT"], &rows.collect::<Vec<_>>(), width);
    if changes.commits.is_empty() {
        lines.clear();
    }
    let shown = changes.commits.len().min(NAMED) as u64;
    if changes.coming > shown {
        lines.push(format!("  and {} more", changes.coming - shown));
    }
    lines
}

fn local_changes(local: &LocalChanges, facts: &mut Facts) {
    match local.count() {
        0 => facts.add("local", "no changes"),
        number => facts.add("local", &format!("{} would be kept in the stash", count(number, "change"))),
    }
    facts.list("", local.described(), local.changes().count(), NAMED);
    if let Some(reason) = &local.not_comparable {
        facts.add("", &format!("app/ cannot be compared, and would be kept: {}", harmless_line(reason)));
    }
    let ignored = local.ignored.iter().map(|path| format!("ignored by git, moves across: {path}"));
    facts.list("", ignored, local.ignored.len(), NAMED);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_that_a_cause_names_is_quoted_once() {
        let failure = Failure::new("no such branch").command("ladylinux-refresh run 'feature/#12'", &[]);
        let (failure, next) = after_refusal(&PlanArgs::default(), failure);
        assert_eq!(next, "ladylinux-refresh plan 'feature/#12'");
        assert!(failure.hints().is_empty(), "{failure:?}");
        let (_, next) = after_refusal(&PlanArgs::default(), Failure::new("no network"));
        assert_eq!(next, "ladylinux-refresh status");
    }
}
