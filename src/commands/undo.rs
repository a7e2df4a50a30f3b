//! `init --undo`: removes everything that this program added, and lists it.

use std::time::Duration;

use crate::cli::LockArgs;
use refresh_host::host::undo::Undo;
use refresh_installation::exit::{Error, Success};
use refresh_settings::layout::Layout;
use refresh_system::error::Failure;
use refresh_system::hint::Hint;
use refresh_system::interrupt;
use refresh_system::screen;
use refresh_system::screen::print_line;
use refresh_system::text::{harmless_line, quoted_path};

use super::{lock, open, refuse, warn};

/// Removes everything; with `dry_run` only lists it.
pub(super) fn undo(layout: &Layout, dry_run: bool) -> Result<Success, Error> {
    let on = open(layout, "init --undo")?;
    let layout = &on.layout;
    let refused = |failure: Failure| {
        let hints = failure.hints();
        let next = hints.iter().find_map(Hint::own_command).unwrap_or("ladylinux-refresh init --undo");
        refuse(&on, "init --undo", failure, next)
    };
    let _lock = if dry_run {
        None
    } else {
        Some(lock(layout, "init --undo", None, &LockArgs { wait: Duration::ZERO })?)
    };
    let undo = Undo::new(&on).map_err(refused)?;
    if !dry_run {
        undo.check().map_err(refused)?;
    }
    let stays = undo.settings_that_stay().map_err(refused)?;
    for step in undo.steps().map_err(refused)? {
        let line = harmless_line(&step.what);
        if dry_run {
            print_line(&format!("would {line}"));
            continue;
        }
        interrupt::check().map_err(refused)?;
        step.apply().map_err(refused)?;
        if !screen::is_quiet() {
            print_line(&format!("done: {line}"));
        }
    }
    if let Some(file) = stays {
        print_line(&format!(
            "{} stays: `init` has no record that it is unchanged",
            harmless_line(&quoted_path(&file))
        ));
    }
    if dry_run {
        if let Err(failure) = undo.check() {
            let ways_out = on.as_typed(&failure.hint_texts().join("; or "));
            warn(&[format!("{}: {ways_out}", failure.summary())]);
        }
        print_line("dry run: no changes were made");
    } else {
        print_line(
            "this program's parts are removed; the program itself, the service, its user and directories stay",
        );
    }
    Ok(Success::Done)
}
