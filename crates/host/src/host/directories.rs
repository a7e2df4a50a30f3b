//! The directories of the deployment contract and of the tool.
#![expect(clippy::unnecessary_wraps, reason = "every step answers in the same way")]

use std::path::PathBuf;

use refresh_system::disk;
use refresh_system::error::Outcome;
use refresh_system::text::count;

use super::{Host, ManagerKind, Need};

/// A directory, its mode, and whether the service user owns it. Otherwise it belongs to root, or with `--root` to the
/// caller: the service must not be able to exchange it.
type NewDirectory = (PathBuf, u32, bool);

/// Returns the directories, parents first.
fn wanted(host: &Host) -> Vec<NewDirectory> {
    let layout = &host.layout;
    let mut wanted = vec![
        (layout.home(), 0o755, true),
        (layout.app(), 0o755, true),
        (layout.models(), 0o755, true),
        (layout.containers(), 0o755, true),
        (layout.etc(), 0o755, false),
        (layout.persistent(), 0o755, true),
    ];
    wanted.extend(layout.data().map(|directory| (directory, 0o750, true)));
    let own = [
        layout.store(),
        layout.state(),
        layout.runs(),
        layout.environment_records(),
        layout.cache(),
        layout.volatile(),
    ];
    wanted.extend(own.map(|directory| (directory, 0o755, false)));
    // No other user reaches a tree before it is in place; the service user reads only its own previous trees.
    wanted.push((layout.trees(), 0o700, false));
    wanted.extend([layout.previous_trees(), layout.stashes()].map(|directory| (directory, 0o711, false)));
    if matches!(host.manager, ManagerKind::Systemd { .. }) {
        wanted.push((layout.requests(), 0o700, true));
    }
    wanted
}

fn missing(host: &Host) -> Vec<NewDirectory> {
    wanted(host).into_iter().filter(|(directory, _, _)| !directory.is_dir()).collect()
}

pub(super) fn check_directories(host: &Host) -> Outcome<Need> {
    let missing = missing(host);
    // For the tool's own directories, only their number is reported.
    let (state, store) = (host.layout.state(), host.layout.store());
    let is_inner = |directory: &PathBuf| {
        [&state, &store].iter().any(|outer| directory.starts_with(outer) && directory != *outer)
    };
    let shown: Vec<String> = missing
        .iter()
        .filter(|(directory, _, _)| !is_inner(directory))
        .map(|(directory, _, _)| directory.display().to_string())
        .collect();
    Ok(match (missing.len(), shown.len()) {
        (0, _) => Need::Fits("left all directories as they are".to_owned()),
        (_, 0) => {
            let own = format!("{} and {}", state.display(), store.display());
            Need::Needed(format!("create {} in {own}", count(missing.len(), "directory")))
        }
        (all, listed) => {
            let own = match all - listed {
                0 => String::new(),
                own => format!(", and {own} in {} and {}", state.display(), store.display()),
            };
            Need::Needed(format!("create {}: {}{own}", count(all, "directory"), shown.join(", ")))
        }
    })
}

pub(super) fn apply_directories(host: &Host) -> Outcome<String> {
    let missing = missing(host);
    let owner = host.owner()?;
    for (directory, mode, is_services) in &missing {
        disk::make_directory(directory, *mode)?;
        if *is_services {
            disk::give(directory, &owner)?;
        }
    }
    Ok(format!("created the missing directories in {}", host.layout.root().display()))
}
