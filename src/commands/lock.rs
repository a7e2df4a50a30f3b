//! `lock`: prints the lock of a definition in standard form, for whoever wants to commit it; makes a new one on request.

use std::time::Duration;

use serde::Serialize;

use crate::cli::{LockArgs, LockForm, LockWish};
use crate::clock;
use crate::error::{Failure, Outcome};
use crate::exit::{Ended, Error};
use crate::installation::Installation;
use crate::python::Lock;
use crate::python::lock::{Form, Locked, Summary};
use crate::report::json;
use crate::report::screen::{complain, harmless_line, say};
use crate::settings::layers::Overrides;
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, CommitId, RunId};

use super::run::usual_branch;
use super::{lock as take_lock, open_with, refuse};

/// What `lock --json` writes.
#[derive(Debug, Serialize)]
struct Told<'a> {
    schema: u32,
    branch: &'a BranchName,
    commit: &'a CommitId,
    #[serde(flatten)]
    lock: Summary,
    /// What an upgrade changed, a line each.
    changes: &'a [String],
    packages: &'a [Locked],
}

/// A lock with what it is the lock of.
struct Found {
    branch: BranchName,
    commit: CommitId,
    lock: Lock,
    changes: Vec<String>,
}

/// Prints the lock of a branch.
pub(super) fn lock(layout: &Layout, args: &LockWish) -> Result<Ended, Error> {
    let branch = args.branch.as_deref().map(BranchName::parse).transpose().map_err(Error::Usage)?;
    let on = open_with(layout, "lock", Overrides::default())?;
    // Mirror and locks are a run's as well.
    let _lock = take_lock(layout, "lock", None, &LockArgs { wait: Duration::ZERO })?;
    let refused = |failure| refuse(&on, "lock", failure, "ladylinux-refresh plan");
    let found = look(&on, branch, args.upgrade).map_err(refused)?;
    tell(args, &found).map_err(refused)?;
    Ok(Ended::Done)
}

fn look(on: &Installation, branch: Option<BranchName>, upgrade: bool) -> Outcome<Found> {
    let branch = branch.unwrap_or_else(|| usual_branch(on));
    let scratch = RunId::new(clock::now(), std::process::id());
    let commit = on.mirror.ensure(&scratch, &branch)?;
    let made = make(on, &commit, upgrade);
    on.mirror.release(&scratch)?;
    let (lock, changes) = made?;
    Ok(Found { branch, commit, lock, changes })
}

fn make(on: &Installation, commit: &CommitId, upgrade: bool) -> Outcome<(Lock, Vec<String>)> {
    let wanted = on.release(commit)?.wanted(on)?;
    let environments = on.environments();
    if !upgrade {
        return Ok((environments.lock(&wanted)?, Vec::new()));
    }
    let before = environments.known_lock(&wanted)?;
    let lock = environments.upgrade(&wanted)?;
    let changes = before.map(|before| before.changes(&lock)).unwrap_or_default();
    Ok((lock, changes))
}

fn tell(args: &LockWish, found: &Found) -> Outcome<()> {
    let Found { branch, commit, lock, changes } = found;
    if args.json {
        let (lock, packages) = (lock.summary(), &lock.packages);
        let told = Told { schema: 1, branch, commit, lock, changes, packages };
        say(&json::pretty(&told));
        return Ok(());
    }
    if args.upgrade {
        complain(if changes.is_empty() { "nothing changed" } else { "changed:" });
        for line in changes {
            complain(&format!("  {}", harmless_line(line)));
        }
    }
    let summary = lock.summary();
    complain(&format!("the lock of {} on {branch}: {}", commit.short(), harmless_line(&summary.in_words())));
    match args.format {
        LockForm::Requirements => say(lock.requirements().trim_end()),
        LockForm::Pylock if lock.form == Form::Requirements => {
            return Err(Failure::new(format!(
                "the lock ({}) has no other form than requirements with hashes",
                summary.source
            ))
            .hint("ladylinux-refresh lock --format requirements"));
        }
        LockForm::Pylock => say(lock.document.trim_end()),
    }
    Ok(())
}
