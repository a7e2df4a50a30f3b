//! The list of paths that move across, made while the service still runs, and the check that it is still valid after
//! the stop.
//!
//! A new, removed or renamed entry changes the ctime of its directory; new content changes the ctime of its file. So
//! the list is valid if every directory that was read, and every preserved file, has the same ctime as before the
//! listing. A very recent ctime is no evidence, because a later change may get the same time: such a list is made
//! again.
//!
//! Runs as the owner of `app/`, and reads only.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::GlobSet;
use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_system::clock;
use refresh_system::error::Outcome;

use super::kept::{self, Kept, ListKeptRequest};
use super::{ignore_rules, untracked};

/// The operation that makes the list.
pub(crate) const OPERATION: &str = "source-list-kept";

/// The time limit; if it expires, the list is made after the stop.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// The largest distance of two changes that may get the same time from the kernel, in nanoseconds: a tick of the
/// coarsest clock, with a margin for file systems with coarse times.
const TICK: i64 = 50_000_000;

/// A list from before the stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptBeforehand {
    /// The request of the list.
    request: String,
    /// The list.
    kept: Kept,
    /// The directories and files that the list depends on.
    stamps: BTreeMap<TreePath, EntryVersion>,
}

/// The inode of an entry and the time of its last change, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct EntryVersion {
    inode: u64,
    changed: i64,
}

/// Performs [`OPERATION`]. `None` if something is being written at this moment: the list could not be checked later.
///
/// # Errors
/// The errors of [`kept::list`].
pub(super) fn handle(request: &ListKeptRequest) -> Outcome<Option<KeptBeforehand>> {
    let app = request.app.as_path();
    let preserve = kept::patterns(&request.preserve)?;
    let mut stamps = BTreeMap::new();
    add_stamps(app, Path::new(""), &preserve, false, &mut stamps);
    let local = ignore_rules::local_file(app);
    stamps.extend(local.and_then(|file| Some((file.clone(), stamp(&file)?))));
    let youngest = stamps.values().map(|stamp| stamp.changed).max().unwrap_or(0);
    if i128::from(youngest) > clock::now().as_nanosecond() - i128::from(TICK) {
        return Ok(None);
    }
    let kept = kept::list(request)?;
    // A directory that moves as one entry moves with its later content.
    let whole =
        |path: &Path| path.ancestors().any(|part| kept.paths.iter().any(|kept| kept.path.as_path() == part));
    let stamps = stamps.into_iter().filter(|(path, _)| !whole(path));
    let stamps = stamps.map(|(path, stamp)| (path.into(), stamp)).collect();
    Ok(Some(KeptBeforehand { request: described(request), kept, stamps }))
}

impl KeptBeforehand {
    /// Returns the list if it is still valid for this request.
    pub(super) fn still_holds(self, request: &ListKeptRequest) -> Option<Kept> {
        let app = request.app.as_path();
        let same =
            |(path, known): (&TreePath, &EntryVersion)| stamp(&app.join(path.as_path())) == Some(*known);
        (self.request == described(request) && self.stamps.iter().all(same)).then_some(self.kept)
    }
}

/// Returns the parts of a request that a list depends on, besides the tree.
fn described(request: &ListKeptRequest) -> String {
    format!("{} {:?} {:?} {}", request.commit, request.known, request.preserve, request.ignored)
}

fn stamp(path: &Path) -> Option<EntryVersion> {
    let found = fs::symlink_metadata(path).ok()?;
    let changed = found.ctime().saturating_mul(1_000_000_000).saturating_add(found.ctime_nsec());
    Some(EntryVersion { inode: found.ino(), changed })
}

/// Adds a directory, the directories in it and the preserved files in it.
fn add_stamps(
    app: &Path,
    directory: &Path,
    preserve: &GlobSet,
    preserved: bool,
    stamps: &mut BTreeMap<PathBuf, EntryVersion>,
) {
    let Some(own) = stamp(&app.join(directory)) else { return };
    stamps.insert(directory.to_path_buf(), own);
    for (path, is_directory) in untracked::entries(app, directory) {
        let preserved = preserved || preserve.is_match(&path);
        if is_directory && path != Path::new(".git") && !untracked::is_cache(app, &path, true) {
            add_stamps(app, &path, preserve, preserved, stamps);
        } else if let (true, false, Some(file)) = (preserved, is_directory, stamp(&app.join(&path))) {
            stamps.insert(path, file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (tempfile::TempDir, BTreeMap<PathBuf, EntryVersion>) {
        let app = tempfile::tempdir().unwrap();
        for directory in ["data/deep", "src/__pycache__", ".git/objects"] {
            refresh_system::disk::make_directory(&app.path().join(directory), 0o755).unwrap();
        }
        refresh_system::disk::write_atomic(&app.path().join("data/state.json"), b"one", 0o644).unwrap();
        let stamps = stamps_of(app.path());
        (app, stamps)
    }

    fn stamps_of(app: &Path) -> BTreeMap<PathBuf, EntryVersion> {
        let mut stamps = BTreeMap::new();
        let preserve = kept::patterns(&["data/*.json".to_owned()]).unwrap();
        add_stamps(app, Path::new(""), &preserve, false, &mut stamps);
        stamps
    }

    #[test]
    fn a_list_depends_on_directories_and_preserved_files_and_not_on_caches_or_the_repository() {
        let (_app, stamps) = world();
        let paths: Vec<&str> = stamps.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["", "data", "data/deep", "data/state.json", "src"]);
    }

    #[test]
    fn a_new_entry_and_a_new_content_change_a_stamp_and_byte_code_does_not() {
        let (app, before) = world();
        let write = |path: &str| {
            clock::sleep_uninterrupted(Duration::from_millis(20));
            let mut file = refresh_system::disk::open_append(&app.path().join(path), 0o644).unwrap();
            std::io::Write::write_all(&mut file, b"two").unwrap();
        };
        write("src/__pycache__/m.pyc");
        assert_eq!(stamps_of(app.path()), before);
        write("data/state.json");
        assert_ne!(stamps_of(app.path()), before, "a preserved file has another content");
        let before = stamps_of(app.path());
        write("data/deep/new");
        assert_ne!(stamps_of(app.path()), before, "a directory has another entry");
    }
}
