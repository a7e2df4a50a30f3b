//! The disk space of the stores of the tool, the limit of each, and the command that makes it smaller.

use std::path::{Path, PathBuf};

use serde::Serialize;

use refresh_installation::installation::Installation;
use refresh_system::disk;
use refresh_system::text::{quoted_path, size};

/// A store and its disk space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreSize {
    /// Its name.
    pub store: &'static str,
    /// Its directory.
    pub path: PathBuf,
    /// The space on disk, in bytes; null if a part of it cannot be read.
    pub bytes: Option<u64>,
    /// The limit of its size.
    pub bound: String,
    /// The command that makes it smaller.
    pub command: String,
}

impl StoreSize {
    /// Returns its size, its limit and the command, without its name.
    pub fn in_words(&self) -> String {
        let bytes = self.bytes.map_or("unknown".to_owned(), size);
        format!("{bytes}; keeps {}; to make it smaller: {}", self.bound, self.command)
    }
}

/// Returns the stores of an installation.
pub(super) fn of(on: &Installation) -> Vec<StoreSize> {
    let layout = &on.layout;
    let keep = on.settings.keep;
    let store = |store, path: PathBuf, bound: &str, command: &str| StoreSize {
        store,
        bytes: bytes_of(&path),
        path,
        bound: bound.to_owned(),
        command: on.as_typed(command),
    };
    let good = format!("those of the last {keep} good runs, by `keep`");
    vec![
        store(
            "mirror",
            layout.mirror(),
            "the history of the branches, which a run packs again from 40 packs on",
            "ladylinux-refresh run",
        ),
        store("environments", layout.environments(), &good, "ladylinux-refresh env prune"),
        StoreSize {
            command: format!("rm -r {}", quoted_path(&layout.uv().join("cache"))),
            ..store("uv", layout.uv(), "all packages that were installed, which a build fetches again", "")
        },
        store("trees", layout.trees(), "the prepared tree of the run in progress", "ladylinux-refresh run"),
        store(
            "previous",
            layout.previous_trees(),
            "the last tree, until it is compared",
            "ladylinux-refresh run",
        ),
        store("runs", layout.runs(), "the last 200 runs", "ladylinux-refresh run"),
        store(
            "stash",
            layout.stashes(),
            "local changes, without a limit",
            "ladylinux-refresh stash drop RUN",
        ),
    ]
}

/// Returns the disk space of a directory; `None` if a part of it cannot be read.
fn bytes_of(path: &Path) -> Option<u64> {
    let found = disk::usage(path, u64::MAX);
    (!found.is_partial).then_some(found.bytes)
}
