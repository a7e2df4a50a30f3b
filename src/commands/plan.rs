//! `plan`, and `run --dry-run`: what a run would do.

use std::time::Duration;

use crate::bundle::{self, Given};
use crate::cli::{LockArgs, PlanArgs, RunArgs};
use crate::clock;
use crate::error::Outcome;
use crate::exit::{Ended, Error};
use crate::installation::Installation;
use crate::plan::{self, Coming, Observed, Plan, confinement, preflight};
use crate::process::interrupt;
use crate::refresh::begin::TargetState;
use crate::refresh::{self, Target};
use crate::report::json;
use crate::report::screen::{Tone, harmless_line, paint, say};
use crate::settings::ModelCheck;
use crate::settings::layers::Overrides;
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, RunId};
use crate::source::local::LocalChanges;

use super::run::{choose_branch, given};
use super::{lock, open_with, refuse};

/// What is to be planned and how it is shown.
#[derive(Debug)]
pub(super) struct PlanWish {
    branch: Option<String>,
    always_rebuild: bool,
    bundle: Option<Given>,
    strict: bool,
    verify_models: Option<ModelCheck>,
    exit_code: bool,
    json: bool,
}

impl PlanWish {
    /// `run --dry-run`
    pub(super) fn dry_run(args: RunArgs) -> Self {
        let json = args.report.format() == Some(crate::cli::Format::Json);
        Self {
            branch: args.branch.or(args.branch_option),
            always_rebuild: args.always_rebuild_venv,
            bundle: given(&args.bundle),
            strict: args.strict,
            verify_models: args.verify_models,
            exit_code: false,
            json,
        }
    }

    /// `plan`
    pub(super) fn plan(args: PlanArgs) -> Self {
        Self {
            branch: args.branch.or(args.branch_option),
            always_rebuild: args.always_rebuild_venv,
            bundle: given(&args.bundle),
            strict: args.strict,
            verify_models: None,
            exit_code: args.exit_code,
            json: args.json,
        }
    }
}

/// Shows what a run would do; changes nothing of the installation.
pub(super) fn plan(layout: &Layout, wish: &PlanWish) -> Result<Ended, Error> {
    let branch = wish.branch.as_deref().map(BranchName::parse).transpose().map_err(Error::Usage)?;
    let overrides = Overrides {
        always_rebuild: wish.always_rebuild,
        strict: wish.strict,
        verify_models: wish.verify_models,
        ..Overrides::default()
    };
    let on = open_with(layout, "plan", overrides)?.with_bundle(wish.bundle.clone());
    // The mirror that it fills is a run's as well.
    let _lock = lock(layout, "plan", None, &LockArgs { wait: Duration::ZERO })?;
    let made = make(&on, branch, wish.verify_models);
    let tidied = interrupt::shielded(|| bundle::put_away(layout));
    let made = made.and_then(|made| tidied.map(|()| made));
    let made = made.map_err(|failure| refuse(&on, "plan", failure, "ladylinux-refresh status"))?;
    if wish.json {
        say(&json::pretty(&made));
    } else {
        show(&made);
    }
    Ok(if wish.exit_code && made.changed { Ended::Findings } else { Ended::Done })
}

fn make(on: &Installation, branch: Option<BranchName>, models: Option<ModelCheck>) -> Outcome<Plan> {
    confinement::check(on)?;
    let observed = Observed::of(on)?;
    let warnings = preflight::check(on, &observed)?;
    for warning in &warnings {
        on.runner.events().warn(warning);
    }
    let target = Target { branch: choose_branch(on, branch)?, state: TargetState::Latest };
    let scratch = RunId::new(clock::now(), std::process::id());
    let coming = Coming::look(on, &target, &observed, &scratch)?;
    // Only where it is asked for here: reading every model takes longer than anybody waits for a plan.
    if models.is_some()
        && let Some(summary) = refresh::models::verified(on, &coming.commit)?
    {
        on.runner.events().note(&format!("models: {}", summary.in_words()));
    }
    let known = std::slice::from_ref(&coming.commit);
    let observed = observed.with_drift(on, known, Some(&coming.commit))?;
    Ok(plan::build(&on.settings, &target, &observed, &coming))
}

fn show(plan: &Plan) {
    say(&paint(Tone::Strong, verdict(plan)));
    let now = plan.commit_now.as_ref().map_or("no commit", |commit| commit.short());
    say(&format!("{} {now} → {} on {}", paint(Tone::Strong, "commit"), plan.commit.short(), plan.branch));
    if let Some(changes) = &plan.changes {
        for commit in &changes.commits {
            say(&format!("  + {} {}", commit.id.short(), harmless_line(&commit.subject)));
        }
        if changes.coming > changes.commits.len() as u64 {
            say(&format!("  + and {} more", changes.coming - changes.commits.len() as u64));
        }
        if changes.dropped > 0 {
            say(&format!("  - {} commits that are deployed are no longer on the branch", changes.dropped));
        }
        say(&format!("{} {}", paint(Tone::Strong, "files"), changes.files.len()));
        for file in changes.files.iter().take(20) {
            say(&format!("  {} {}", file.status, harmless_line(&file.path.to_string())));
        }
        if changes.files.len() > 20 {
            say(&format!("  and {} more", changes.files.len() - 20));
        }
    }
    show_local(&plan.drift);
    let word = if plan.environment.build { "would be built" } else { "is ready" };
    say(&format!("{} {word}: {}", paint(Tone::Strong, "environment"), plan.environment.reason));
    if let Some(lock) = &plan.environment.lock {
        say(&format!("  locked: {}", harmless_line(&lock.in_words())));
    }
    if let Some(found) = &plan.environment.contamination {
        say(&format!("  {} {}", paint(Tone::Warning, "changed by hand:"), harmless_line(&found.in_words(5))));
    }
    for package in &plan.environment.packages {
        say(&format!("  {}", harmless_line(package)));
    }
    say(&paint(Tone::Strong, "steps"));
    for action in &plan.actions {
        let step = action.phase.step().unwrap_or_default();
        say(&format!("  {step} {:<12} {}", action.phase, harmless_line(&action.what)));
        say(&format!(
            "    {:<12} {}",
            "",
            paint(Tone::Quiet, &format!("because {}", harmless_line(&action.why)))
        ));
    }
}

/// Returns the effect of a refresh in one line.
fn verdict(plan: &Plan) -> &'static str {
    if plan.changed {
        "A refresh would change something."
    } else {
        "Up to date: a refresh would change nothing, and restart the service."
    }
}

fn show_local(local: &LocalChanges) {
    say(&format!("{} {} would be kept in the stash", paint(Tone::Strong, "local changes"), local.count()));
    for change in local.changes().take(20) {
        say(&format!("  {} {}", change.kind.word(), harmless_line(&change.path.to_string())));
    }
    if let Some(reason) = &local.not_comparable {
        say(&format!("  app/ cannot be compared, and would be kept whole: {}", harmless_line(reason)));
    }
    for path in local.ignored.iter().take(20) {
        say(&format!("  ignored by git, moves across: {}", harmless_line(&path.to_string())));
    }
    if local.ignored.len() > 20 {
        say(&format!("  and {} more ignored paths", local.ignored.len() - 20));
    }
}
