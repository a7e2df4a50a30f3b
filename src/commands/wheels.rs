//! `wheels`: what environments are built from.

use serde::Serialize;

use crate::cli::{LockArgs, WheelsCommand};
use crate::error::Outcome;
use crate::exit::{Ended, Error};
use crate::installation::Installation;
use crate::python::wheels::{Pruned, Pruning, Stored};
use crate::report::json;
use crate::report::screen::{count, harmless_line, say, size};
use crate::settings::layout::Layout;
use crate::settings::names::GenerationName;

use super::{lock, open, refuse};

/// The version of what `--json` writes (`docs/wheels.schema.json`).
const SCHEMA: u32 = 1;

/// Does what `wheels …` asks for.
pub(super) fn wheels(layout: &Layout, command: &WheelsCommand) -> Result<Ended, Error> {
    let on = open(layout, "wheels")?;
    let told = |failure| refuse(&on, "wheels", failure, "ladylinux-refresh wheels list");
    match command {
        WheelsCommand::List { json } => list(&on, *json).map_err(told)?,
        WheelsCommand::Prune { dry_run: true } => {
            say_pruned(&on.wheels().prune(Pruning::Tell).map_err(told)?, "would remove");
        }
        WheelsCommand::Prune { dry_run: false } => {
            let _lock = lock(layout, "wheels prune", None, &LockArgs { lock_timeout: 0 })?;
            say_pruned(&on.wheels().prune(Pruning::Remove).map_err(told)?, "removed");
        }
    }
    Ok(Ended::Done)
}

fn list(on: &Installation, json: bool) -> Outcome<()> {
    let stored = on.wheels().stock()?.wheels;
    let bytes = stored.iter().map(|wheel| wheel.size).sum();
    if json {
        let listed = Listed { schema: SCHEMA, bytes, wheels: stored.iter().map(ListedWheel::of).collect() };
        say(&json::pretty(&listed));
        return Ok(());
    }
    for wheel in &stored {
        let by = match wheel.needed_by.as_slice() {
            [] => "not needed".to_owned(),
            by => {
                format!("needed by {}", by.iter().map(GenerationName::as_str).collect::<Vec<_>>().join(", "))
            }
        };
        say(&format!("{}  {}, {by}", harmless_line(&wheel.file), size(wheel.size)));
    }
    say(&format!("{}, {}", count(stored.len(), "wheel"), size(bytes)));
    Ok(())
}

fn say_pruned(pruned: &Pruned, done: &str) {
    for wheel in &pruned.wheels {
        say(&format!("{done} {}", harmless_line(&wheel.file)));
    }
    for key in &pruned.locks {
        say(&format!("{done} the lock {}", harmless_line(key)));
    }
    if pruned.wheels.is_empty() && pruned.locks.is_empty() {
        say("nothing to remove: every wheel and every lock is needed");
        return;
    }
    let (wheels, locks) = (count(pruned.wheels.len(), "wheel"), count(pruned.locks.len(), "lock"));
    say(&format!("{done} {wheels} ({}) and {locks}", size(pruned.bytes())));
}

/// What `wheels list --json` writes.
#[derive(Serialize)]
struct Listed<'a> {
    schema: u32,
    bytes: u64,
    wheels: Vec<ListedWheel<'a>>,
}

#[derive(Serialize)]
struct ListedWheel<'a> {
    name: &'a str,
    version: &'a str,
    file: &'a str,
    sha256: &'a str,
    bytes: u64,
    needed_by: Vec<&'a str>,
}

impl<'a> ListedWheel<'a> {
    fn of(wheel: &'a Stored) -> Self {
        let Stored { name, version, file, sha256, size, needed_by } = wheel;
        let needed_by = needed_by.iter().map(GenerationName::as_str).collect();
        Self { name, version, file, sha256, bytes: *size, needed_by }
    }
}
