//! `rollback --dry-run`: the parts that a rollback would restore, those that it would not, or the reason of a refusal.
//! Changes nothing.

use crate::cli::{Format, RollbackArgs};
use crate::report::json;
use refresh_installation::exit::{Error, Success};
use refresh_installation::history;
use refresh_installation::history::CurrentState;
use refresh_installation::installation::Installation;
use refresh_run::plan::rollback::{Pair, RollbackPlan};
use refresh_run::plan::space::Makes;
use refresh_run::plan::{Observed, confinement, preflight};
use refresh_settings::layers::Overrides;
use refresh_settings::layout::Layout;
use refresh_settings::names::{EnvironmentName, RunId};
use refresh_system::error::Outcome;
use refresh_system::screen;
use refresh_system::screen::{Facts, Tone, paint, print_line};
use refresh_system::text::{count, harmless_line};

use super::run_request::BEFORE_FIRST_RUN;
use super::{lock, open_with, refuse};

/// The largest number of named commits and local changes.
const NAMED: usize = 10;

/// Shows the effects of a rollback to `run`.
pub(super) fn show(layout: &Layout, args: &RollbackArgs, run: Option<&RunId>) -> Result<Success, Error> {
    let on = open_with(layout, "rollback", Overrides::default())?;
    let _lock = lock(layout, "rollback --dry-run", None, &args.lock)?;
    let plan = read(&on, run);
    let plan = plan.map_err(|failure| refuse(&on, "rollback", failure, "ladylinux-refresh history"))?;
    if args.report.format() == Some(Format::Json) {
        print_line(&json::pretty(&plan));
    } else {
        screen::print_lines(&lines(&on, &plan, run, screen::text_width()));
    }
    Ok(Success::Done)
}

fn read(on: &Installation, run: Option<&RunId>) -> Outcome<RollbackPlan> {
    confinement::check(on)?;
    let observed = Observed::of(on)?;
    for warning in preflight::check(on, &observed, Makes::Nothing)? {
        on.runner.events().warn(&warning);
    }
    let (commit, environment) = (observed.tree.commit.clone(), observed.live());
    let now = CurrentState { fenced: observed.fence.is_some(), commit, environment };
    let pair = history::rollback_target(&on.layout, run, &now)?;
    RollbackPlan::read(on, observed, pair)
}

fn lines(on: &Installation, plan: &RollbackPlan, run: Option<&RunId>, width: usize) -> Vec<String> {
    let short = |pair: &Pair| pair.commit.as_ref().map_or("no commit", |commit| commit.short()).to_owned();
    let verdict = format!("Rollback of {}: {} → {}", plan.branch, short(&plan.from), short(&plan.to));
    let mut facts = Facts::new(&paint(Tone::Strong, &verdict), width);
    for (label, pair) in [("from", &plan.from), ("to", &plan.to)] {
        let author = pair.author.as_deref().map(|it| format!(" ({it})")).unwrap_or_default();
        let subject = pair.subject.as_deref().unwrap_or_default();
        facts.add(label, harmless_line(&format!("{} {subject}{author}", short(pair))).trim_end());
        facts.add(
            "",
            &format!("environment {}", pair.environment.as_ref().map_or("none", |name| name.as_str())),
        );
    }
    let is_adopted = |name: &EnvironmentName| history::is_adopted(&on.layout, name);
    if plan.to.environment.as_ref().is_some_and(is_adopted) {
        facts.add("", BEFORE_FIRST_RUN);
    } else {
        facts.add("run", plan.run.as_str());
    }
    facts.add("comes back", &comes_back(plan));
    withdrawn(plan, &mut facts);
    let hooks = if plan.hooks.is_empty() { "none".to_owned() } else { plan.hooks.join(", ") };
    facts.add("hooks", &harmless_line(&hooks));
    stays(plan, &mut facts);
    let run = run.map(|run| format!(" {run}")).unwrap_or_default();
    facts.next(&on.as_typed(&format!("ladylinux-refresh rollback{run}")));
    facts.lines
}

/// Adds the first commits that are no longer deployed afterwards, and the number of further ones.
fn withdrawn(plan: &RollbackPlan, facts: &mut Facts) {
    let commits = plan.withdrawn.iter();
    let lines = commits.map(|it| format!("without {} {} ({})", it.id.short(), it.subject, it.author));
    facts.list("", lines, usize::try_from(plan.withdrawn_count).unwrap_or(usize::MAX), NAMED);
}

fn comes_back(plan: &RollbackPlan) -> String {
    let files = match plan.files {
        Some(number) => count(number, "file"),
        None => "all files".to_owned(),
    };
    let environment = match &plan.lost_interpreter {
        Some(lost) => {
            format!("is built again, since {} no longer exists", harmless_line(&lost.display().to_string()))
        }
        None if plan.environment_exists => "exists".to_owned(),
        None => "is built again".to_owned(),
    };
    format!("{files} of app/; the environment {environment}")
}

/// Adds the parts that a rollback does not restore.
fn stays(plan: &RollbackPlan, facts: &mut Facts) {
    let data = if plan.migrations_that_stay.is_empty() {
        "the database and other data keep their content".to_owned()
    } else {
        let names = harmless_line(&plan.migrations_that_stay.join(", "));
        let text = format!("the database stays as {names} left it; a backup is needed to undo that");
        paint(Tone::Warning, &text)
    };
    facts.add("stays", &data);
    facts.add("", "models and the configuration in /etc/ladylinux keep their content");
    if plan.drift.count() > 0 {
        let changes = count(plan.drift.count(), "local change");
        facts.add("", &format!("{changes} would be kept in the stash:"));
    }
    facts.list("", plan.drift.described(), plan.drift.changes().count(), NAMED);
    if let Some(reason) = &plan.drift.not_comparable {
        facts.add("", &format!("app/ cannot be compared, and would be kept: {}", harmless_line(reason)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_git::history::{CommitLine, LISTED};
    use refresh_settings::names::{BranchName, CommitId};
    use refresh_source::local::LocalChanges;

    #[test]
    fn commits_beyond_the_listed_ones_are_counted() {
        let id = CommitId::parse(&"1".repeat(40)).unwrap();
        let commit = CommitLine { id, subject: "change".into(), author: "A".into(), authored: 0 };
        let pair = || Pair { commit: None, subject: None, author: None, environment: None };
        let plan = RollbackPlan {
            schema: 1,
            run: RunId::parse("r-1").unwrap(),
            branch: BranchName::main(),
            from: pair(),
            to: pair(),
            environment_exists: true,
            lost_interpreter: None,
            withdrawn: vec![commit; LISTED],
            withdrawn_count: 130,
            files: None,
            hooks: Vec::new(),
            migrations_that_stay: Vec::new(),
            drift: LocalChanges::default(),
        };
        let mut facts = Facts::new("", 80);
        withdrawn(&plan, &mut facts);
        assert_eq!((facts.lines.len(), facts.lines[NAMED].trim()), (NAMED + 1, "and 120 more"));
    }
}
