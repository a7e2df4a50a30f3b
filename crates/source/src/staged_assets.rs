//! The files that staged `assets` hooks wrote into a copy of the commit: kept separately before the stop, copied into
//! `app/` in step 4.
//!
//! The copy belongs to the staging user and `app/` to the service user, so each half is an operation in a unit of that
//! user. Links are never followed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use refresh_git::path::TreePath;
use refresh_installation::installation::Installation;
use refresh_programs::units::{Access, Role, UnitOptions};
use refresh_system::clock::FileTime;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{disk, interrupt};

/// The operation that removes everything else from the copy.
pub(crate) const KEEP: &str = "source-keep-assets";
/// The operation that copies the remaining files into `app/`.
pub(crate) const PLACE: &str = "source-place-assets";

/// The time limit of each operation.
const DEADLINE: Duration = Duration::from_secs(600);
/// The temporary name of a file in `app/` while it is written.
const UNFINISHED: &str = ".ladylinux-refresh-asset";

/// Removes the files that hooks have not written since `since` from a copy of the commit; returns the number of
/// remaining files.
///
/// # Errors
/// The unit cannot be started, or something cannot be removed.
pub fn keep(on: &Installation, copy: &Path, since: FileTime) -> Outcome<u64> {
    let options = UnitOptions::new(Role::Rehearse, DEADLINE);
    let (options, seen) = on.units.with_tree(&options, copy, Access::ReadWrite)?;
    on.units.call(&options, KEEP, &(TreePath::from(seen), since))
}

/// Copies the products of hooks into `app/`; returns the number of files.
///
/// # Errors
/// The unit cannot be started; `app/` has something else at the path of a product; or `app/` is not writable.
pub fn place(on: &Installation, products: &Path) -> Outcome<u64> {
    let options = UnitOptions::new(Role::Hooks, DEADLINE).writes(on.layout.app());
    let (options, seen) = on.units.with_tree(&options, products, Access::ReadOnly)?;
    on.units.call(&options, PLACE, &(TreePath::from(seen), TreePath::from(on.layout.app())))
}

/// Performs [`KEEP`] for a directory.
pub(super) fn keep_below(directory: &Path, since: FileTime) -> Outcome<u64> {
    interrupt::check()?;
    let mut kept = 0;
    for entry in disk::names(directory)? {
        let path = directory.join(entry);
        let found = fs::symlink_metadata(&path).context(|| format!("cannot read {}", path.display()))?;
        if found.is_dir() {
            let inside = keep_below(&path, since)?;
            if inside == 0 {
                disk::remove_tree(&path)?;
            }
            kept += inside;
        } else if (found.is_file() || found.is_symlink()) && since < (found.ctime(), found.ctime_nsec()) {
            kept += 1;
        } else {
            disk::remove_file_if_there(&path)?;
        }
    }
    Ok(kept)
}

/// Performs [`PLACE`] for a directory.
pub(super) fn place_below(from: &Path, to: &Path) -> Outcome<u64> {
    interrupt::check()?;
    let mut placed = 0;
    for name in disk::names(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        let context = || format!("cannot read {}", source.display());
        let is_directory = fs::symlink_metadata(&source).context(context)?.is_dir();
        let existing = fs::symlink_metadata(&target).ok();
        if existing.is_some_and(|existing| existing.is_dir() != is_directory) {
            let kind = if is_directory { "a file" } else { "a directory" };
            return Err(Failure::new(format!(
                "{} is {kind} in app/, and a staged hook wrote the opposite",
                target.display()
            )));
        }
        if is_directory {
            disk::make_directory(&target, 0o755)?;
            placed += place_below(&source, &target)?;
        } else {
            let unfinished = to.join(UNFINISHED);
            disk::remove_file_if_there(&unfinished)?;
            disk::copy_new(&source, &unfinished)?;
            disk::move_over(&unfinished, &target)?;
            placed += 1;
        }
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_system::clock;

    fn write(path: &Path, text: &str) {
        disk::make_directory(path.parent().unwrap(), 0o755).unwrap();
        disk::write_atomic(path, text.as_bytes(), 0o644).unwrap();
    }

    #[test]
    fn only_files_that_hooks_wrote_are_kept_and_placed() {
        let root = tempfile::tempdir().unwrap();
        let (copy, app) = (root.path().join("copy"), root.path().join("app"));
        for tree in [&copy, &app] {
            write(&tree.join("a.py"), "1");
            write(&tree.join("static/site.css"), "old");
            write(&tree.join("docs/read.md"), "text");
        }
        let since = clock::await_clock_tick().unwrap();
        write(&copy.join("static/site.css"), "new");
        write(&copy.join("static/build/app.js"), "js");
        disk::point_link(&copy.join("static/build/latest.js"), Path::new("app.js")).unwrap();
        assert_eq!(keep_below(&copy, since).unwrap(), 3);
        assert!(!copy.join("docs").exists() && !copy.join("a.py").exists());
        assert_eq!(place_below(&copy, &app).unwrap(), 3);
        let read =
            |path: &str| String::from_utf8(disk::read_if_there(&app.join(path)).unwrap().unwrap()).unwrap();
        assert_eq!((read("static/site.css"), read("static/build/latest.js")), ("new".into(), "js".into()));
        assert_eq!(read("docs/read.md"), "text");
        assert!(!app.join("static").join(UNFINISHED).exists());
    }

    #[test]
    fn a_link_in_app_is_not_followed_to_place_a_file() {
        let root = tempfile::tempdir().unwrap();
        let (copy, app, outside) =
            (root.path().join("copy"), root.path().join("app"), root.path().join("out"));
        write(&copy.join("static/site.css"), "new");
        write(&outside.join("kept"), "1");
        disk::make_directory(&app, 0o755).unwrap();
        disk::point_link(&app.join("static"), &outside).unwrap();
        let refusal = place_below(&copy, &app).unwrap_err().to_string();
        assert!(refusal.contains("static is a file in app/"), "{refusal}");
        assert!(!outside.join("site.css").exists());
    }
}
