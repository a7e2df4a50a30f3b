//! `init --undo`: removes what this program added, and lists it.

use std::time::Duration;

use crate::cli::LockArgs;
use crate::error::Failure;
use crate::exit::{Ended, Error};
use crate::host::undo::Undo;
use crate::process::interrupt;
use crate::report::screen::{harmless_line, say};
use crate::settings::layout::Layout;

use super::{lock, open, refuse};

/// Removes everything; with `dry_run` only lists it.
pub(super) fn undo(layout: &Layout, dry_run: bool) -> Result<Ended, Error> {
    let on = open(layout, "init --undo")?;
    let layout = &on.layout;
    let refused = |failure: Failure| refuse(&on, "init --undo", failure, "ladylinux-refresh init --undo");
    let _lock = if dry_run {
        None
    } else {
        Some(lock(layout, "init --undo", None, &LockArgs { wait: Duration::ZERO })?)
    };
    let undo = Undo::begin(&on).map_err(refused)?;
    let steps = undo.plan().map_err(refused)?;
    for step in &steps {
        let line = harmless_line(&step.describe(&on));
        if dry_run {
            say(&format!("would {line}"));
            continue;
        }
        interrupt::check().map_err(refused)?;
        undo.carry_out(step).map_err(refused)?;
        say(&format!("done: {line}"));
    }
    say(if dry_run {
        "nothing was changed; without --dry-run it is done"
    } else {
        "everything that this program added is removed, but for the program itself"
    });
    Ok(Ended::Done)
}
