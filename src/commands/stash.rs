//! `stash`: previous trees with local changes, and their restoration.

use std::path::{Component, Path, PathBuf};

use crate::cli::{LockArgs, StashCommand};
use refresh_git::path::TreePath;
use refresh_installation::exit::{Error, Success};
use refresh_installation::installation::Installation;
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_source::local::ChangeKind;
use refresh_source::stash;
use refresh_source::stash::StashRecord;
use refresh_source::stash_restore;
use refresh_source::stash_restore::RestoreChoice;
use refresh_source::stash_show;
use refresh_system::clock;
use refresh_system::error::Outcome;
use refresh_system::screen;
use refresh_system::screen::print_line;
use refresh_system::text::{count, harmless, harmless_line, size};

use super::{lock, open, refuse, run_id};

/// The largest number of changes in `stash show`.
const NAMED: usize = 200;

/// Performs `stash …`.
pub(super) fn stash(layout: &Layout, command: &StashCommand) -> Result<Success, Error> {
    let on = open(layout, "stash")?;
    let refused = |failure| refuse(&on, "stash", failure, "ladylinux-refresh stash list");
    let parse = |run: &str| run_id::resolve_stash(layout, "stash", run);
    let no_wait = LockArgs::default();
    match command {
        StashCommand::List => list(&on).map_err(refused)?,
        StashCommand::Show { run, path } => {
            show(&on, &parse(run)?, path.as_deref()).map_err(refused)?;
        }
        StashCommand::Restore { run, paths, overwrite } => {
            let run = parse(run)?;
            let _lock = lock(layout, "stash restore", None, &no_wait)?;
            restore(&on, &run, paths, *overwrite).map_err(refused)?;
        }
        StashCommand::Drop { runs } => {
            let runs = runs.iter().map(|run| parse(run)).collect::<Result<Vec<_>, _>>()?;
            let _lock = lock(layout, "stash drop", None, &no_wait)?;
            for run in &runs {
                let freed = stash::remove_stash(&on, run).map_err(refused)?;
                print_line(&format!("removed the stash of run {run} ({})", size(freed)));
            }
        }
    }
    Ok(Success::Done)
}

fn list(on: &Installation) -> Outcome<()> {
    let stashes = stash::list(&on.layout)?;
    let earlier = stash::of_earlier_version(&on.layout)?;
    if stashes.is_empty() && earlier.is_empty() {
        print_line("the stash is empty");
    }
    for record in &stashes {
        print_line(&list_line(record));
    }
    for place in earlier {
        print_line(&format!("saved by version 0.1: {}", place.display()));
    }
    Ok(())
}

fn list_line(record: &StashRecord) -> String {
    let at = clock::to_the_minute(record.at);
    format!("{}  {at}  {}, {}", record.run, summary(record), size(record.size))
}

/// Returns a short description of a stash.
fn summary(record: &StashRecord) -> String {
    let changes = &record.changes;
    let mut parts = Vec::new();
    match changes.changes().count() {
        0 => {}
        number => parts.push(count(number, "local change")),
    }
    match changes.tips.len() {
        0 => {}
        number => parts.push(format!("commits of {}", count(number, "local name"))),
    }
    if changes.not_comparable.is_some() {
        parts.push("not comparable".to_owned());
    }
    parts.join(", ")
}

fn show(on: &Installation, run: &RunId, path: Option<&Path>) -> Outcome<()> {
    let record = stash::find(&on.layout, run)?;
    let path = path.map(plain).filter(|path| !path.as_os_str().is_empty());
    if path.is_none() {
        describe(on, &record);
    }
    if record.changes.base.is_none() && path.is_none() {
        return Ok(());
    }
    let shown = stash_show::show(on, run, path.as_deref())?;
    if path.is_none() && !shown.diff.is_empty() {
        print_line("");
    }
    if screen::is_terminal() {
        let text = String::from_utf8_lossy(&shown.diff);
        text.lines().for_each(|line| print_line(&harmless(line)));
    } else {
        screen::write(&shown.diff);
    }
    if shown.truncated {
        let name = on.as_typed(&format!("ladylinux-refresh stash show {run} PATH"));
        screen::print_to_stderr(&format!("the rest is not shown; name a path: {name}"));
    }
    Ok(())
}

/// Writes the changes of the tree, and the next command.
fn describe(on: &Installation, record: &StashRecord) {
    let changes = &record.changes;
    print_line(&format!("kept       {}", clock::in_words(record.at)));
    if let Some(base) = &changes.base {
        print_line(&format!("base       {}", base.short()));
    }
    if let Some(reason) = &changes.not_comparable {
        print_line(&format!("why        it cannot be compared: {}", harmless_line(reason)));
    }
    for change in changes.changes().take(NAMED) {
        let place = if change.kind == ChangeKind::Staged { " (in the kept .git)" } else { "" };
        print_line(&format!("{:<10} {}{place}", change.kind, harmless_line(&change.path.to_string())));
    }
    let more = changes.changes().count().saturating_sub(NAMED);
    if more > 0 {
        print_line(&format!("           and {more} more"));
    }
    for tip in &changes.tips {
        print_line(&format!("{:<10} {} ({})", "commits", harmless_line(&tip.name), tip.commit.short()));
    }
    print_line(&format!("in         {}", on.layout.stash(&record.run).display()));
    let restore = on.as_typed(&format!("ladylinux-refresh stash restore {}", record.run));
    print_line(&format!("restore    {restore}"));
}

fn restore(on: &Installation, run: &RunId, paths: &[PathBuf], overwrite: bool) -> Outcome<()> {
    let paths = paths.iter().map(|path| plain(path).into()).collect();
    let restored = stash_restore::restore(on, run, RestoreChoice { paths, overwrite })?;
    let shown = |path: &TreePath| harmless_line(&path.to_string());
    for path in &restored.paths {
        print_line(&format!("restored {}", shown(path)));
    }
    for path in &restored.deleted {
        print_line(&format!("{} was deleted locally; it is not deleted again", shown(path)));
    }
    for name in &restored.refs {
        print_line(&format!("restored commits as {}", harmless_line(name)));
    }
    if !restored.paths.is_empty() {
        let file = harmless_line(&on.layout.host_file().display().to_string());
        print_line(&format!(
            "the next run moves them into the stash again, unless `preserve` in {file} names them"
        ));
    }
    if restored.paths.is_empty() && restored.refs.is_empty() {
        print_line("no file was restored: name the paths");
    }
    Ok(())
}

/// Removes the prefix `./` that a shell's completion adds to a name.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_source::local::LocalChanges;

    #[test]
    fn a_stash_is_listed_with_its_time() {
        let record = StashRecord {
            schema: 1,
            run: RunId::parse("r-1").unwrap(),
            at: "2026-01-02T12:04:05Z".parse().unwrap(),
            changes: LocalChanges::not_comparable("a pipe".into()),
            size: 2048,
        };
        assert!(list_line(&record).starts_with("r-1  2026-01-0"), "{}", list_line(&record));
        assert!(list_line(&record).ends_with("  not comparable, 2.0 KiB"));
    }
}
