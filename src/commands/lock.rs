//! `lock`: prints the lock of a definition in standard form, for a commit; resolves a new one on request.

use serde::Serialize;

use crate::cli::{LockArgs, LockCommandArgs, LockForm};
use crate::commands::run_request::usual_branch;
use crate::report::json;
use refresh_environments::lock::Form;
use refresh_environments::{Lock, Locked};
use refresh_events::run_report::LockSummary;
use refresh_git::Hold;
use refresh_installation::exit::{Error, Success};
use refresh_installation::installation::Installation;
use refresh_settings::layers::Overrides;
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_system::clock;
use refresh_system::error::{Failure, Outcome};
use refresh_system::screen::{print_line, print_to_stderr, write};
use refresh_system::text::harmless_line;

use super::{for_other_branch, lock as take_lock, open_with, refuse};

/// The output of `lock --json`.
#[derive(Debug, Serialize)]
struct LockOutput<'a> {
    schema: u32,
    branch: &'a BranchName,
    commit: &'a CommitId,
    #[serde(flatten)]
    lock: LockSummary,
    /// The changes of an upgrade, one per line.
    changes: &'a [String],
    packages: &'a [Locked],
}

/// A lock, with its branch, its commit and the changes of an upgrade.
struct BranchLock {
    branch: BranchName,
    commit: CommitId,
    lock: Lock,
    changes: Vec<String>,
}

/// Prints the lock of a branch.
pub(super) fn lock(layout: &Layout, args: &LockCommandArgs) -> Result<Success, Error> {
    let branch = args.branch.as_deref().map(BranchName::parse).transpose().map_err(Error::Usage)?;
    let on = open_with(layout, "lock", Overrides::default())?;
    // Runs also use the mirror and the locks.
    let _lock = take_lock(layout, "lock", None, &LockArgs::default())?;
    let refused = |failure| {
        let again = |branch: &str| format!("ladylinux-refresh lock --branch {branch}");
        let (failure, next) = for_other_branch(failure, again);
        refuse(&on, "lock", failure, next.as_deref().unwrap_or("ladylinux-refresh plan"))
    };
    let found = examine(&on, branch, args.upgrade).map_err(refused)?;
    print(args, &found).map_err(refused)?;
    Ok(Success::Done)
}

fn examine(on: &Installation, branch: Option<BranchName>, upgrade: bool) -> Outcome<BranchLock> {
    let branch = branch.unwrap_or_else(|| usual_branch(on));
    let scratch = RunId::new(clock::now(), std::process::id());
    let commit = on.mirror.ensure(&scratch, &branch)?;
    let made = make(on, &commit, upgrade);
    on.mirror.release(Hold::Run, &scratch)?;
    let (lock, changes) = made?;
    Ok(BranchLock { branch, commit, lock, changes })
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

fn print(args: &LockCommandArgs, found: &BranchLock) -> Outcome<()> {
    let BranchLock { branch, commit, lock, changes } = found;
    if args.json {
        let (lock, packages) = (lock.summary(), &lock.packages);
        let output = LockOutput { schema: 1, branch, commit, lock, changes, packages };
        print_line(&json::pretty(&output));
        return Ok(());
    }
    if args.upgrade {
        print_to_stderr(if changes.is_empty() { "nothing changed" } else { "changed:" });
        for line in changes {
            print_to_stderr(&format!("  {}", harmless_line(line)));
        }
    }
    let summary = lock.summary();
    print_to_stderr(&format!(
        "the lock of {} on {branch}: {}",
        commit.short(),
        harmless_line(&summary.in_words())
    ));
    match args.format {
        LockForm::Requirements => write_document(&lock.requirements()),
        LockForm::Pylock if lock.form == Form::Requirements => {
            return Err(Failure::new(format!(
                "the lock ({}) has no other form than requirements with hashes",
                summary.source
            ))
            .command("ladylinux-refresh lock --format requirements", &[]));
        }
        LockForm::Pylock => write_document(&lock.document),
    }
    Ok(())
}

/// Writes a lock byte for byte.
fn write_document(text: &str) {
    write(format!("{}\n", text.trim_end()).as_bytes());
}
