//! Environments are built, reused and refused.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{each, import};
use crate::dice::print_line;
use crate::python as common;
use crate::python::{World, names, packages, was_built};
use refresh_environments::lock::Origin;
use refresh_environments::{BuildOutcome, Lock};
use refresh_settings::Strategy;
use refresh_settings::layout::Layout;
use refresh_system::disk::Owner;

#[test]
fn rw_5_3_an_environment_is_built_and_goes_live() {
    let world = World::new();
    let ensured = world.ensure("six==1.17.0\nitsdangerous==2.2.0\n", "run-1").unwrap();
    assert_eq!(packages(&ensured), ["itsdangerous", "six"]);
    assert_eq!(ensured.why, "no environment exists yet");
    let switched = world.environments().switch(&ensured.environment.name).unwrap();
    assert!(switched.changed && switched.before.is_none());
    let venv = world.layout.venv();
    assert_eq!(fs::read_link(&venv).unwrap(), ensured.environment.path);
    assert!(import(&venv, "six") && !import(&venv, "idna"));
    let current = world.environments().current().unwrap();
    assert_eq!(current.recorded(), Some(&ensured.environment));
    assert!(!world.environments().switch(&ensured.environment.name).unwrap().changed);
}

#[test]
fn rw_5_3_an_environment_is_read_only_byte_compiled_recorded_and_without_contamination() {
    let world = World::new();
    let ensured = world.ensure("six==1.17.0\n", "run-1").unwrap();
    let path = &ensured.environment.path;
    let mut compiled = 0;
    each(path, &mut |entry, found| {
        assert!(found.is_symlink() || found.permissions().mode() & 0o222 == 0, "{}", entry.display());
        compiled += usize::from(entry.extension().is_some_and(|ending| ending == "pyc"));
    });
    assert!(compiled > 0);
    assert!(world.environments().contamination_by_bytes(&ensured.environment).unwrap().is_none());
    let record = &ensured.environment.record;
    assert!(record.files > 5 && record.built().unwrap().run.as_str() == "run-1");
    assert_eq!(world.environments().packages(&ensured.environment).unwrap(), record.packages);
    assert!(names(&world.layout.uv().join("scratch")).is_empty());

    let site = fs::read_dir(path.join("lib")).unwrap().next().unwrap().unwrap().path().join("site-packages");
    fs::set_permissions(&site, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(site.join("stray.py"), "").unwrap();
    let difference = world.environments().contamination(&ensured.environment).unwrap().unwrap();
    assert!(difference.found.iter().any(|found| found.path.ends_with("stray.py")), "{difference:?}");
}

#[test]
fn rw_5_3b_an_unchanged_definition_is_reused_and_a_comment_changes_nothing() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    world.environments().switch(&first.environment.name).unwrap();
    let second = world.ensure("# a comment\r\nsix==1.17.0\r\n", "run-2").unwrap();
    assert_eq!((second.made, &second.environment), (BuildOutcome::Reused, &first.environment));
    assert_eq!(second.why, "requirements unchanged");
    let third = world.ensure("six==1.16.0\n", "run-3").unwrap();
    assert!(was_built(&third) && third.why == "the requirements changed");
    let back = world.ensure("six==1.17.0\n", "run-4").unwrap();
    assert_eq!((back.made, &back.environment.name), (BuildOutcome::Reused, &first.environment.name));
}

#[test]
fn rw_5_3b_a_change_in_an_included_file_or_in_a_second_file_rebuilds() {
    let world = World::new();
    let ensure = |base: &str, second: &str| {
        let files = [
            ("requirements.txt", "-r deps/base.txt"),
            ("deps/base.txt", base),
            ("requirements-web.txt", second),
        ];
        world.ensure_with(&files, Strategy::WhenChanged, "run-1").unwrap()
    };
    let first = ensure("six==1.17.0", "itsdangerous==2.2.0");
    assert_eq!(packages(&first), ["itsdangerous", "six"]);
    assert!(was_built(&ensure("six==1.16.0", "itsdangerous==2.2.0")));
    let third = ensure("six==1.16.0", "itsdangerous==2.2.0\nidna==3.10");
    assert!(was_built(&third));
    assert_eq!(packages(&third), ["idna", "itsdangerous", "six"]);
}

#[test]
fn rw_5_3b_the_python_version_counts() {
    let world = World::new();
    let wanted = world.wanted(&[("requirements.txt", "six")]).unwrap();
    let mut older = wanted.interpreter().clone();
    older.version = "3.9.0".to_owned();
    let with_older = world.environments().wanted(wanted.definitions().clone(), older, None).unwrap();
    assert_ne!(wanted.key(), with_older.key());
    let lock =
        Lock::from_pylock("k", Origin::Application { file: "pylock.toml".into() }, String::new()).unwrap();
    assert_ne!(wanted.parts(&lock).fingerprint(), with_older.parts(&lock).fingerprint());
    let refused = world.wanted(&[("pyproject.toml", "[project]\nname='x'\nrequires-python='>=4'\n")]);
    assert!(refused.unwrap_err().summary().contains("needs Python >=4"));
}

#[test]
fn rw_5_3a_the_strategy_always_builds_once_per_run() {
    let world = World::new();
    let always =
        |run| world.ensure_with(&[("requirements.txt", "six==1.17.0")], Strategy::Always, run).unwrap();
    let staged = always("run-1");
    let step = always("run-1");
    assert!(was_built(&staged) && !was_built(&step));
    assert_eq!(staged.environment, step.environment);
    let next = always("run-2");
    assert!(was_built(&next) && next.environment.name != staged.environment.name);
    let newest = world.ensure("six==1.17.0", "run-3").unwrap();
    assert_eq!(newest.environment.name, next.environment.name);
}

#[test]
fn rw_5_3_a_package_that_was_removed_from_the_list_is_gone() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\nidna==3.10\n", "run-1").unwrap();
    world.environments().switch(&first.environment.name).unwrap();
    let second = world.ensure("six==1.17.0\n", "run-2").unwrap();
    world.environments().switch(&second.environment.name).unwrap();
    assert_eq!(packages(&second), ["six"]);
    assert!(!import(&world.layout.venv(), "idna"));
}

#[test]
fn no_definition_makes_an_empty_environment() {
    let world = World::new();
    let ensured = world.ensure_with(&[], Strategy::WhenChanged, "run-1").unwrap();
    assert!(packages(&ensured).is_empty());
    assert!(world.reported.has("the environment will be empty"));
}

#[test]
fn a_project_is_installed_from_its_dependencies() {
    let world = World::new();
    let project = "[project]\nname = 'x'\nrequires-python = '>=3.9'\ndependencies = ['six==1.17.0']\n";
    let ensured = world.ensure_with(&[("pyproject.toml", project)], Strategy::WhenChanged, "run-1").unwrap();
    assert_eq!(packages(&ensured), ["six"]);
}

#[test]
fn rw_7_1b_a_requirement_that_does_not_resolve_is_reported_with_its_reason_and_leaves_nothing() {
    let world = World::new();
    let failure = world.ensure("six==99.0\n", "run-1").unwrap_err();
    let chain = failure.chain().join("\n");
    assert!(chain.contains("no version of a package fits") && chain.contains("six==99.0"), "{chain}");
    assert!(failure.hint_texts().iter().any(|hint| hint.contains("correct the requirements")));
    assert!(names(&world.layout.environments()).is_empty());
    assert!(names(&world.layout.environment_records()).is_empty());
}

#[test]
fn rw_7_1b_an_index_that_cannot_be_reached_is_named() {
    let mut world = World::new();
    world.python.index_url = Some("http://127.0.0.1:9/simple".to_owned());
    let failure = world.ensure("six==1.17.0\n", "run-1").unwrap_err();
    assert!(failure.chain().join("\n").contains("index cannot be reached"), "{:?}", failure.chain());
}

#[test]
fn no_network_is_used_if_everything_is_cached() {
    let mut world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    world.offline = true;
    let again = world.ensure("six==1.17.0\n", "run-2").unwrap();
    assert_eq!(again.environment, first.environment);
    assert!(!world.reported.has("fetching uv"));
}

#[test]
fn a_uv_that_cannot_be_fetched_is_named_and_the_one_of_the_interpreter_is_not_used() {
    let mut world = World::bare(Owner::own());
    world.python.index_url = Some("http://127.0.0.1:9/simple".to_owned());
    let failure = world.ensure("six==1.17.0\n", "run-1").unwrap_err();
    let error = failure.chain().join(": ");
    assert!(error.contains("cannot fetch uv") && error.contains("cannot be reached"), "{error}");
    assert!(
        failure.hint_texts().iter().any(|hint| hint.contains("index_url = ")),
        "{:?}",
        failure.hint_texts()
    );
    assert!(names(&world.layout.environments()).is_empty());
}

#[test]
fn rw_5_3_everything_in_an_environment_belongs_to_the_owner_of_the_tree() {
    if !rustix::process::geteuid().is_root() {
        print_line("LEFT OUT: only root can build for another user");
        return;
    }
    let world = World::bare(Owner { uid: 1234, gid: 1234 });
    let ensured = world.ensure("six==1.17.0\n", "run-1").unwrap();
    each(&ensured.environment.path, &mut |entry, found| {
        assert_eq!((found.uid(), found.gid()), (1234, 1234), "{}", entry.display());
    });
    // The records, the locks and the store belong to root.
    let records = [world.layout.state(), world.layout.environment_records(), world.layout.locks()];
    for path in records.iter().chain([&world.layout.store()]) {
        assert_eq!(fs::metadata(path).unwrap().uid(), 0, "{}", path.display());
    }
    assert_eq!(fs::metadata(common::pool::uv(&world.layout)).unwrap().uid(), 1234);
    world.environments().switch(&ensured.environment.name).unwrap();
    let asked = Command::new("setpriv")
        .args(["--reuid=1234", "--regid=1234", "--clear-groups"])
        .arg(world.layout.venv().join("bin/python"))
        .args(["-c", "import six"])
        .status();
    assert!(asked.unwrap().success());
}

/// A small file system, unmounted when the test ends.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(directory: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(directory).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"])
            .arg(directory)
            .output();
        mounted.is_ok_and(|ended| ended.status.success()).then(|| Self(directory.to_path_buf()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn rw_7_1b_a_full_disk_is_named_and_nothing_is_left() {
    type Place = fn(&Layout) -> PathBuf;
    // Too small for the environment; for what uv fetches.
    let places: [Place; 2] = [Layout::environments, |layout| layout.uv().join("cache")];
    for place in places {
        let world = World::new();
        world.own_cache();
        let size = "64k";
        let Some(_disk) = SmallDisk::at(&place(&world.layout), size) else {
            print_line("LEFT OUT: a small disk cannot be mounted here");
            return;
        };
        let failure = world.ensure("six==1.17.0\nidna==3.10\n", "run-1").unwrap_err();
        let chain = failure.chain().join("\n");
        assert!(chain.contains("no space is left on the disk"), "{chain}");
        assert!(names(&world.layout.environments()).is_empty());
    }
}
