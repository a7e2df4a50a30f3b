//! `drift`: local changes that refreshes saved, and the way back.

use std::path::{Component, Path, PathBuf};

use crate::cli::{DriftCommand, LockArgs};
use crate::error::Outcome;
use crate::exit::{Ended, Error};
use crate::git::path::TreePath;
use crate::git::restore::{Present, Restore, SavedPlace};
use crate::git::saved::{self, SavedKind};
use crate::git::show::Shown;
use crate::installation::Installation;
use crate::report::screen::{self, harmless_line, say, size};
use crate::settings::layout::Layout;
use crate::settings::names::RunId;

use super::{lock, open, refuse};

/// Does what `drift …` asks for.
pub(super) fn drift(layout: &Layout, command: &DriftCommand) -> Result<Ended, Error> {
    let on = open(layout, "drift")?;
    let told = |failure| refuse(&on, "drift", failure, "ladylinux-refresh drift list");
    let parse = |run: &str| RunId::parse(run).map_err(Error::Usage);
    match command {
        DriftCommand::List => list(&on).map_err(told)?,
        DriftCommand::Show { run, path: None } => show(&on, &parse(run)?).map_err(told)?,
        DriftCommand::Show { run, path: Some(path) } => {
            content(&on, &parse(run)?, &plain(path)).map_err(told)?;
        }
        DriftCommand::Restore { run, paths, overwrite } => {
            let run = parse(run)?;
            let _lock = lock(layout, "drift restore", None, &LockArgs { lock_timeout: 0 })?;
            restore(&on, &run, paths, *overwrite).map_err(told)?;
        }
        DriftCommand::Prune { runs } => {
            let runs = runs.iter().map(|run| parse(run)).collect::<Result<Vec<_>, _>>()?;
            let _lock = lock(layout, "drift prune", None, &LockArgs { lock_timeout: 0 })?;
            prune(&on, runs).map_err(told)?;
        }
    }
    Ok(Ended::Done)
}

fn list(on: &Installation) -> Outcome<()> {
    let places = on.tree.saved_places()?;
    if places.is_empty() {
        say("no refresh has saved local changes");
    }
    for place in &places {
        say(&format!("{}  {}, {}", place.index.run, holds(place), size(place.size)));
    }
    Ok(())
}

/// Says in a few words what a place holds.
fn holds(place: &SavedPlace) -> String {
    let index = &place.index;
    let mut parts = Vec::new();
    match index.items.iter().filter(|item| !place.absent.contains(&item.path)).count() {
        0 => {}
        1 => parts.push("1 file or folder".to_owned()),
        count => parts.push(format!("{count} files and folders")),
    }
    match index.tips.iter().filter(|tip| tip.held_by.is_none() && place.bundled).count() {
        0 => {}
        1 => parts.push("commits of 1 local name".to_owned()),
        count => parts.push(format!("commits of {count} local names")),
    }
    if index.repository.is_some() {
        parts.push("the repository".to_owned());
    }
    if parts.is_empty() { "nothing that is not in its place".to_owned() } else { parts.join(", ") }
}

fn show(on: &Installation, run: &RunId) -> Outcome<()> {
    let place = find(on, run)?;
    for item in &place.index.items {
        let bytes = item.size.map(|bytes| format!(" ({})", size(bytes))).unwrap_or_default();
        let absent = match item.kind {
            _ if !place.absent.contains(&item.path) => "",
            SavedKind::Preserved => ", in its place",
            _ => ", not here: the save was cut short before it",
        };
        say(&format!("{:<10} {}{bytes}{absent}", item.kind.word(), harmless_line(&item.path.to_string())));
    }
    for tip in &place.index.tips {
        let held = match &tip.held_by {
            Some(run) => format!(", held by run {run}"),
            None if place.bundled => String::new(),
            None => ", not here: the save was cut short before it".to_owned(),
        };
        say(&format!(
            "{:<10} {} ({}){held}",
            "commits",
            harmless_line(&tip.tip.name),
            tip.tip.commit.short()
        ));
    }
    say(&format!("in         {}", on.layout.run(run).join("saved").display()));
    say(&format!("restore:   {}", on.as_typed(&format!("ladylinux-refresh drift restore {run}"))));
    Ok(())
}

/// Writes what was saved at one path: the patch of a changed file, the content of another, the names in a folder.
fn content(on: &Installation, run: &RunId, path: &Path) -> Outcome<()> {
    let name = harmless_line(&TreePath::from(path).to_string());
    let mut offset = 0;
    loop {
        match on.tree.show(run, path, offset)? {
            Shown::Bytes(bytes) if bytes.is_empty() => return Ok(()),
            Shown::Bytes(bytes) => {
                screen::write(&bytes);
                offset += bytes.len() as u64;
                continue;
            }
            Shown::Folder(names) => names.iter().for_each(|name| say(&harmless_line(&name.to_string()))),
            Shown::Link(target) => {
                say(&format!("{name} was a symbolic link to {}", harmless_line(&target.to_string())));
            }
            Shown::Deleted => say(&format!("{name} had been deleted")),
            Shown::Absent => {
                say(&format!(
                    "{name} is not here: it stayed in its place, or the save was cut short before it"
                ));
            }
            Shown::Special => say(&format!("{name} was a pipe, a socket or a device")),
        }
        return Ok(());
    }
}

fn restore(on: &Installation, run: &RunId, paths: &[PathBuf], overwrite: bool) -> Outcome<()> {
    let wanted = Restore {
        paths: paths.iter().map(|path| plain(path).into()).collect(),
        present: if overwrite { Present::Replace } else { Present::Refuse },
    };
    let restored = on.tree.restore(run, wanted)?;
    for path in &restored.paths {
        say(&format!("restored {}", harmless_line(&path.to_string())));
    }
    for path in &restored.deleted {
        say(&format!("{} was deleted; it is not deleted again", harmless_line(&path.to_string())));
    }
    for name in &restored.refs {
        say(&format!("restored commits as {}", harmless_line(name)));
    }
    Ok(())
}

/// Removes the saved changes of `runs`; without any, of all but the latest. Later runs go first, because they may rely
/// on commits that earlier ones saved.
fn prune(on: &Installation, mut runs: Vec<RunId>) -> Outcome<()> {
    if !runs.is_empty() {
        runs.sort();
        for run in runs.iter().rev() {
            remove(on, run)?;
        }
        return Ok(());
    }
    let mut places = on.tree.saved_places()?;
    let mut staying: Vec<SavedPlace> = places.pop().into_iter().collect();
    if places.is_empty() {
        say("nothing to remove: no run but the latest has saved local changes");
    }
    let mut failed = None;
    while let Some(place) = places.pop() {
        let run = &place.index.run;
        let relies =
            |other: &&SavedPlace| other.index.tips.iter().any(|tip| tip.held_by.as_ref() == Some(run));
        let kept = match staying.iter().find(relies) {
            Some(other) => Some(format!("run {} relies on its commits", other.index.run)),
            None => remove(on, run).err().map(|failure| {
                let why = failure.chain().join(": ");
                failed.get_or_insert(failure);
                why
            }),
        };
        if let Some(why) = kept {
            say(&format!("kept what run {run} had saved: {}", harmless_line(&why)));
            staying.push(place);
        }
    }
    failed.map_or(Ok(()), Err)
}

fn remove(on: &Installation, run: &RunId) -> Outcome<()> {
    let pruned = on.tree.prune(run)?;
    say(&format!("removed what run {run} had saved ({})", size(pruned.freed)));
    Ok(())
}

/// Leaves out what a shell's completion puts before a name: `./`.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn find(on: &Installation, run: &RunId) -> Outcome<SavedPlace> {
    on.tree
        .saved_places()?
        .into_iter()
        .find(|place| place.index.run == *run)
        .ok_or_else(|| saved::nothing_under(&on.layout.run(run).join("saved")))
}
