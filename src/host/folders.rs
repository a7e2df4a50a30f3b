//! The folders of the deployment contract and of the tool.

use std::path::PathBuf;

use crate::disk;
use crate::error::Outcome;
use crate::report::screen::count;
use crate::settings::trust;

use super::{Host, Keeper, Look, Measure};

/// Whose a new folder becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Root's, or whoever calls below a root: what the service must not be able to exchange.
    Ours,
    /// The service user's.
    Service,
}

/// All folders, each with its mode and owner. One that is there is left as it is, whosever it is.
pub(super) struct Folders;

impl Folders {
    /// The folders, parents first. `/opt/ladylinux`, `venvs` and `/etc/ladylinux` are root's: whoever can write there can
    /// exchange what root works on. A build is done in a folder that root makes for it and gives away.
    fn wanted(host: &Host) -> Vec<(PathBuf, u32, Whose)> {
        let layout = &host.layout;
        let mut wanted = vec![
            (layout.home(), 0o755, Whose::Ours),
            (layout.app(), 0o755, Whose::Service),
            (layout.venvs(), 0o755, Whose::Ours),
            (layout.models(), 0o755, Whose::Service),
            (layout.containers(), 0o755, Whose::Service),
            (layout.etc(), 0o755, Whose::Ours),
            (layout.persistent(), 0o755, Whose::Ours),
        ];
        wanted.extend(layout.data().map(|folder| (folder, 0o750, Whose::Service)));
        let own = [
            layout.state(),
            layout.runs(),
            layout.generations(),
            layout.tools(),
            layout.cache(),
            layout.volatile(),
        ];
        wanted.extend(own.map(|folder| (folder, 0o755, Whose::Ours)));
        if matches!(host.keeper, Keeper::Systemd { .. }) {
            wanted.push((layout.requests(), 0o700, Whose::Service));
        }
        wanted
    }

    fn missing(host: &Host) -> Vec<(PathBuf, u32, Whose)> {
        Self::wanted(host).into_iter().filter(|(folder, _, _)| !folder.is_dir()).collect()
    }
}

/// The folders around what root works on, where they belong to others: they become root's, and nothing in them changes.
pub(super) struct TakenOver;

impl TakenOver {
    fn wanted(host: &Host) -> Outcome<Vec<PathBuf>> {
        if rustix::process::geteuid().is_root() { trust::to_take_over(&host.layout) } else { Ok(Vec::new()) }
    }
}

impl Measure for TakenOver {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let wanted = Self::wanted(host)?;
        Ok(if wanted.is_empty() {
            Look::Fits("left the owners of the folders as they are".to_owned())
        } else {
            Look::Needed(format!("make {} root's; what lies there keeps its owner", listed(&wanted)))
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let wanted = Self::wanted(host)?;
        let owner = host.owner()?;
        wanted.iter().try_for_each(|folder| disk::take_over(folder, &owner))?;
        Ok(format!("made {} root's; what lies there keeps its owner", listed(&wanted)))
    }
}

fn listed(folders: &[PathBuf]) -> String {
    let shown: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    shown.join(", ")
}

impl Measure for Folders {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let missing = Self::missing(host);
        // What the tool keeps of its own is of no interest to people, one by one.
        let state = host.layout.state();
        let shown: Vec<String> = missing
            .iter()
            .filter(|(folder, _, _)| !folder.starts_with(&state) || *folder == state)
            .map(|(folder, _, _)| folder.display().to_string())
            .collect();
        Ok(match (missing.len(), shown.len()) {
            (0, _) => Look::Fits("left the folders of the contract as they are".to_owned()),
            (_, 0) => {
                Look::Needed(format!("make {} below {}", count(missing.len(), "folder"), state.display()))
            }
            (all, listed) => {
                let own = match all - listed {
                    0 => String::new(),
                    own => format!(", and {own} below {}", state.display()),
                };
                Look::Needed(format!("make {}: {}{own}", count(all, "folder"), shown.join(", ")))
            }
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let missing = Self::missing(host);
        let owner = host.owner()?;
        for (folder, mode, whose) in &missing {
            disk::make_folder(folder, *mode)?;
            if *whose == Whose::Service {
                disk::give(folder, &owner)?;
            }
        }
        Ok(format!("made {} below {}", count(missing.len(), "folder"), host.layout.root().display()))
    }
}
