//! The directories of the deployment contract and of the tool.

use std::path::PathBuf;

use crate::disk;
use crate::error::Outcome;
use crate::report::screen::count;

use super::{Host, Keeper, Look, Measure};

/// Whose a new directory becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Root's, or whoever calls below a root: what the service must not be able to exchange.
    Ours,
    /// The service user's.
    Service,
}

/// All directories, each with its mode and owner. One that is there is left as it is, whosever it is.
pub(super) struct Folders;

impl Folders {
    /// The directories, parents first.
    fn wanted(host: &Host) -> Vec<(PathBuf, u32, Whose)> {
        let layout = &host.layout;
        let mut wanted = vec![
            (layout.home(), 0o755, Whose::Service),
            (layout.app(), 0o755, Whose::Service),
            (layout.models(), 0o755, Whose::Service),
            (layout.containers(), 0o755, Whose::Service),
            (layout.etc(), 0o755, Whose::Ours),
            (layout.persistent(), 0o755, Whose::Service),
        ];
        wanted.extend(layout.data().map(|folder| (folder, 0o750, Whose::Service)));
        let own = [
            layout.store(),
            layout.state(),
            layout.runs(),
            layout.environment_records(),
            layout.cache(),
            layout.volatile(),
        ];
        wanted.extend(own.map(|folder| (folder, 0o755, Whose::Ours)));
        // No other user reaches a tree before it is in place; of trees that were, the service user reads its own.
        wanted.push((layout.trees(), 0o700, Whose::Ours));
        wanted.extend([layout.previous_trees(), layout.stashes()].map(|folder| (folder, 0o711, Whose::Ours)));
        if matches!(host.keeper, Keeper::Systemd { .. }) {
            wanted.push((layout.requests(), 0o700, Whose::Service));
        }
        wanted
    }

    fn missing(host: &Host) -> Vec<(PathBuf, u32, Whose)> {
        Self::wanted(host).into_iter().filter(|(folder, _, _)| !folder.is_dir()).collect()
    }
}

impl Measure for Folders {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let missing = Self::missing(host);
        // What the tool keeps of its own is of no interest to people, one by one.
        let (state, store) = (host.layout.state(), host.layout.store());
        let is_inner = |folder: &PathBuf| {
            [&state, &store].iter().any(|outer| folder.starts_with(outer) && folder != *outer)
        };
        let shown: Vec<String> = missing
            .iter()
            .filter(|(folder, _, _)| !is_inner(folder))
            .map(|(folder, _, _)| folder.display().to_string())
            .collect();
        Ok(match (missing.len(), shown.len()) {
            (0, _) => Look::Fits("left the directories of the contract as they are".to_owned()),
            (_, 0) => {
                let own = format!("{} and {}", state.display(), store.display());
                Look::Needed(format!("make {} below {own}", count(missing.len(), "folder")))
            }
            (all, listed) => {
                let own = match all - listed {
                    0 => String::new(),
                    own => format!(", and {own} below {} and {}", state.display(), store.display()),
                };
                Look::Needed(format!("make {}: {}{own}", count(all, "folder"), shown.join(", ")))
            }
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let missing = Self::missing(host);
        let owner = host.owner()?;
        for (folder, mode, whose) in &missing {
            disk::make_directory(folder, *mode)?;
            if *whose == Whose::Service {
                disk::give(folder, &owner)?;
            }
        }
        Ok(format!("made {} below {}", count(missing.len(), "folder"), host.layout.root().display()))
    }
}
