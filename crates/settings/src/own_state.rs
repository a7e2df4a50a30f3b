//! Checks that root owns every entry of the tool's own state and store. Reads owners and modes; changes nothing.
//!
//! It is not enough that root owns the path to the two directories: a `chown -R` leaves entries in them that the
//! service's user can change, and root would trust them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::users;
use refresh_system::disk;
use refresh_system::disk::{Depth, Owner};
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::text::quoted_path;

use super::layout::Layout;

/// How many entries are named.
const LIMIT: usize = 50;

/// A part of a path, or of the state, that users other than root control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untrusted {
    /// The fault as a sentence.
    pub what: String,
    /// The command that repairs it.
    pub repair: String,
}

/// Fails if the caller is root and users other than root control something. Other callers pass.
///
/// # Errors
/// The parts that root does not control, each with its command; or the search fails.
pub(crate) fn refuse_root(find: impl FnOnce() -> Outcome<Vec<Untrusted>>) -> Outcome<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let found = find()?;
    if found.is_empty() {
        return Ok(());
    }
    let faults: Vec<&str> = found.iter().map(|part| part.what.as_str()).collect();
    let failure = Failure::new(format!(
        "users other than root can change what root executes here: {}",
        faults.join("; ")
    ));
    Err(found.into_iter().map(|part| Hint::shell(part.repair)).fold(failure, Failure::hint))
}

/// Fails if the caller is root and users other than root control an entry of the state. Other callers pass.
///
/// # Errors
/// As [`refuse_root`].
pub(crate) fn check(layout: &Layout) -> Outcome<()> {
    refuse_root(|| foreign(layout))
}

/// Returns the parts below the state and the store that users other than root control, by directory and owner.
///
/// # Errors
/// A directory cannot be read.
pub fn foreign(layout: &Layout) -> Outcome<Vec<Untrusted>> {
    let mut parts: BTreeMap<(PathBuf, u32), Untrusted> = BTreeMap::new();
    for outer in [layout.state(), layout.store()] {
        let depth = |below: &Path, is_directory: bool| depth(layout, &outer, below, is_directory);
        for first in disk::foreign(&outer, &depth, LIMIT)? {
            let below = first.path.strip_prefix(&outer).unwrap_or(&first.path);
            let top = outer.join(below.iter().next().unwrap_or_default());
            let path = first.path.display();
            let what = match first.uid {
                0 => format!("others than its owner can change {path}"),
                uid => format!("{path} belongs to uid {uid}"),
            };
            let repair = repair(layout, &top, first.uid);
            parts.entry((top, first.uid)).or_insert(Untrusted { what, repair });
        }
    }
    Ok(parts.into_values().collect())
}

/// Returns the command that makes root the owner of an entry right below the state or the store. It changes only
/// entries that still have the owner that was found, and follows no link.
fn repair(layout: &Layout, top: &Path, uid: u32) -> String {
    let path = quoted_path(top);
    match depth_of_top(layout, top) {
        // The directories of the runs and the entries in each, except those that a run saved for the service's user.
        Depth::All if top == layout.runs() => {
            let chosen = format!("find {path} -maxdepth 2 ! -name saved ! -type l");
            format!("{chosen} -exec chown --from={uid} root:root {{}} + && {chosen} -exec chmod go-w {{}} +")
        }
        Depth::All => format!("chown -hR --from={uid} root:root {path} && chmod -R go-w {path}"),
        // Only the entry: files in it may belong to the service user.
        _ => format!("chown -h --from={uid} root:root {path} && chmod go-w {path}"),
    }
}

/// How far an entry right below the state or the store counts.
fn depth_of_top(layout: &Layout, top: &Path) -> Depth {
    let in_state = top.parent() == Some(&layout.state());
    // These contain files of the service's user, and so does all of the store except the mirror.
    let shared = [layout.cache(), layout.scratch()];
    if top == layout.environments() || top == layout.uv() {
        // The builder owns them; root trusts only the records of them in its own state.
        Depth::Nothing
    } else if (top == layout.mirror() || top == layout.new_mirror()) && is_builders(layout, top) {
        // Only units of the builder run git in it, and in the new mirror while they fetch.
        Depth::Nothing
    } else if top == layout.mirror() || (in_state && !shared.iter().any(|path| path == top)) {
        Depth::All
    } else {
        Depth::Entry
    }
}

/// Returns whether a directory belongs to the user that builds on a real machine.
fn is_builders(layout: &Layout, directory: &Path) -> bool {
    let builder = layout.is_real().then(|| Owner::named(users::BUILDER)).and_then(Result::ok).flatten();
    builder.is_some_and(|builder| Owner::of(directory).is_ok_and(|owner| owner.uid == builder.uid))
}

/// How far an entry of `outer` counts.
fn depth(layout: &Layout, outer: &Path, below: &Path, is_directory: bool) -> Depth {
    let path = outer.join(below);
    match path.strip_prefix(layout.runs()).map(|below| below.iter().count()) {
        Ok(0 | 1) => Depth::All,
        // Files that a run saved belong to the service's user.
        Ok(_) if is_directory => Depth::Nothing,
        Ok(_) => Depth::Entry,
        Err(_) if below.iter().count() == 1 => depth_of_top(layout, &path),
        Err(_) => Depth::All,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out what is checked")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    const OTHER: u32 = 61_878;

    /// Returns a state that root owns, with an entry of each kind; `None` if the tests are not run by root.
    fn world() -> Option<(tempfile::TempDir, Layout)> {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path().canonicalize().unwrap());
        let state = layout.state();
        for name in ["git", "runs/r-1/saved", "environments", "locks", "tools/uv-1"] {
            fs::create_dir_all(state.join(name)).unwrap();
        }
        fs::create_dir_all(layout.mirror().join("objects/pack")).unwrap();
        for name in ["environments/a-1", "uv/cache", "trees/r-1", "previous/r-1", "stash/r-1"] {
            fs::create_dir_all(layout.store().join(name)).unwrap();
            chown(layout.store().join(name), Some(OTHER), None).ok()?;
        }
        for name in ["cache/uv", "scratch/1-2-3"] {
            fs::create_dir_all(state.join(name)).unwrap();
            chown(state.join(name), Some(OTHER), None).ok()?;
        }
        chown(state.join("runs/r-1/saved"), Some(OTHER), None).ok()?;
        for name in FILES {
            fs::write(at(&layout, name), "").unwrap();
        }
        rustix::process::geteuid().is_root().then_some((root, layout))
    }

    /// The mirror is in the store, all other entries of these tests are in the state.
    fn at(layout: &Layout, name: &str) -> PathBuf {
        if name.starts_with("mirror.git") { layout.store().join(name) } else { layout.state().join(name) }
    }

    const FILES: [&str; 12] = [
        "lock",
        "status.json",
        "fence",
        "made.json",
        "deployed.env",
        "mirror.git/config",
        "mirror.git/objects/pack/x.pack",
        "git/.gitconfig",
        "environments/a-1.json",
        "locks/k.json",
        "runs/r-1/journal.jsonl",
        "tools/uv-1/uv",
    ];

    #[test]
    fn rw_7_1a_every_entry_that_root_opens_has_to_be_roots() {
        let Some((_root, layout)) = world() else { return };
        check(&layout).unwrap();
        let directories =
            ["mirror.git", "git", "runs", "runs/r-1", "environments", "locks", "tools", "cache"];
        for name in FILES.iter().chain(&directories) {
            let path = at(&layout, name);
            chown(&path, Some(OTHER), None).unwrap();
            let failure = check(&layout).unwrap_err();
            assert!(
                failure.summary().contains(&format!("{} belongs to uid {OTHER}", path.display())),
                "{failure}"
            );
            assert_eq!(failure.hint_texts().len(), 1, "{failure:?}");
            type_in(&failure.hint_texts()[0]);
            check(&layout).unwrap_or_else(|failure| panic!("{failure} after the command for {name}"));
            let mode = fs::metadata(&path).unwrap().permissions();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
            let failure = check(&layout).unwrap_err();
            assert!(failure.summary().contains("others than its owner can change"), "{failure}");
            type_in(&failure.hint_texts()[0]);
            check(&layout).unwrap_or_else(|failure| panic!("{failure} after the command for {name}"));
            fs::set_permissions(&path, mode).unwrap();
        }
    }

    #[test]
    fn a_repair_leaves_the_service_users_entries_to_it() {
        let Some((_root, layout)) = world() else { return };
        let state = layout.state();
        for name in ["runs/r-1/journal.jsonl", "cache", "mirror.git", "mirror.git/config"] {
            chown(at(&layout, name), Some(OTHER), None).unwrap();
        }
        for hint in check(&layout).unwrap_err().hint_texts() {
            type_in(&hint);
        }
        check(&layout).unwrap();
        for name in ["runs/r-1/saved", "cache/uv", "scratch/1-2-3"] {
            let owner = Owner::of(&state.join(name)).unwrap();
            assert_eq!(owner.uid, OTHER, "{name}");
        }
    }

    fn type_in(command: &str) {
        let status = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
        assert!(status.success(), "{command}");
    }
}
