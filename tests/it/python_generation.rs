//! Generations, made by the real uv from the real index.
#![expect(clippy::disallowed_methods, reason = "tests lay out and look at directories as they like")]
#![expect(clippy::disallowed_macros, reason = "tests tell what they counted and what they had to skip")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]

use crate::python as common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{World, names, packages, was_built};
use ladylinux_refresh::disk;
use ladylinux_refresh::process::Owner;
use ladylinux_refresh::python::lock::Origin;
use ladylinux_refresh::python::{Current, Lock, Made};
use ladylinux_refresh::settings::Strategy;
use ladylinux_refresh::settings::layout::Layout;
use ladylinux_refresh::settings::names::{GenerationName, RunId};

fn import(venv: &Path, module: &str) -> bool {
    Command::new(venv.join("bin/python"))
        .args(["-I", "-c", &format!("import {module}")])
        .output()
        .unwrap()
        .status
        .success()
}

#[test]
fn rw_5_3_an_environment_is_built_and_made_live() {
    let world = World::new();
    let ensured = world.ensure("six==1.17.0\nitsdangerous==2.2.0\n", "run-1").unwrap();
    assert_eq!(packages(&ensured), ["itsdangerous", "six"]);
    assert_eq!(ensured.why, "there is no environment yet");
    let switched = world.environments().switch(&ensured.generation.name).unwrap();
    assert!(switched.changed && switched.before.is_none());
    let venv = world.layout.venv();
    assert_eq!(fs::read_link(&venv).unwrap(), ensured.generation.path);
    assert!(import(&venv, "six") && !import(&venv, "idna"));
    let current = world.environments().current().unwrap();
    assert_eq!(current.generation(), Some(&ensured.generation));
    assert!(!world.environments().switch(&ensured.generation.name).unwrap().changed);
}

#[test]
fn rw_5_3_a_generation_is_read_only_byte_compiled_recorded_and_without_contamination() {
    let world = World::new();
    let ensured = world.ensure("six==1.17.0\n", "run-1").unwrap();
    let path = &ensured.generation.path;
    let mut compiled = 0;
    each(path, &mut |entry, found| {
        assert!(found.is_symlink() || found.permissions().mode() & 0o222 == 0, "{}", entry.display());
        compiled += usize::from(entry.extension().is_some_and(|ending| ending == "pyc"));
    });
    assert!(compiled > 0);
    assert!(world.environments().contamination_by_bytes(&ensured.generation).unwrap().is_none());
    let record = &ensured.generation.record;
    assert!(record.files > 5 && record.built().unwrap().run.as_str() == "run-1");
    assert_eq!(world.environments().packages(&ensured.generation).unwrap(), record.packages);
    assert!(names(&world.layout.uv().join("scratch")).is_empty());

    let site = fs::read_dir(path.join("lib")).unwrap().next().unwrap().unwrap().path().join("site-packages");
    fs::set_permissions(&site, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(site.join("stray.py"), "").unwrap();
    let difference = world.environments().contamination(&ensured.generation).unwrap().unwrap();
    assert!(difference.found.iter().any(|found| found.path.ends_with("stray.py")), "{difference:?}");
}

fn each(path: &Path, look: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let found = fs::symlink_metadata(path).unwrap();
    look(path, &found);
    if found.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            each(&entry.unwrap().path(), look);
        }
    }
}

#[test]
fn rw_5_3b_an_unchanged_definition_is_reused_and_a_comment_changes_nothing() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    world.environments().switch(&first.generation.name).unwrap();
    let second = world.ensure("# a comment\r\nsix==1.17.0\r\n", "run-2").unwrap();
    assert_eq!((second.made, &second.generation), (Made::Reused, &first.generation));
    assert_eq!(second.why, "the definition has not changed");
    let third = world.ensure("six==1.16.0\n", "run-3").unwrap();
    assert!(was_built(&third) && third.why == "the definition changed");
    let back = world.ensure("six==1.17.0\n", "run-4").unwrap();
    assert_eq!((back.made, &back.generation.name), (Made::Reused, &first.generation.name));
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
fn rw_5_3a_always_builds_anew_once_per_run() {
    let world = World::new();
    let always =
        |run| world.ensure_with(&[("requirements.txt", "six==1.17.0")], Strategy::Always, run).unwrap();
    let staged = always("run-1");
    let step = always("run-1");
    assert!(was_built(&staged) && !was_built(&step));
    assert_eq!(staged.generation, step.generation);
    let next = always("run-2");
    assert!(was_built(&next) && next.generation.name != staged.generation.name);
    let newest = world.ensure("six==1.17.0", "run-3").unwrap();
    assert_eq!(newest.generation.name, next.generation.name);
}

#[test]
fn rw_5_3_a_package_that_was_taken_off_the_list_is_gone() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\nidna==3.10\n", "run-1").unwrap();
    world.environments().switch(&first.generation.name).unwrap();
    let second = world.ensure("six==1.17.0\n", "run-2").unwrap();
    world.environments().switch(&second.generation.name).unwrap();
    assert_eq!(packages(&second), ["six"]);
    assert!(!import(&world.layout.venv(), "idna"));
}

#[test]
fn no_definition_makes_an_empty_environment() {
    let world = World::new();
    let ensured = world.ensure_with(&[], Strategy::WhenChanged, "run-1").unwrap();
    assert!(packages(&ensured).is_empty());
    assert!(world.told.has("the environment will be empty"));
}

#[test]
fn a_project_is_installed_from_its_dependencies() {
    let world = World::new();
    let project = "[project]\nname = 'x'\nrequires-python = '>=3.9'\ndependencies = ['six==1.17.0']\n";
    let ensured = world.ensure_with(&[("pyproject.toml", project)], Strategy::WhenChanged, "run-1").unwrap();
    assert_eq!(packages(&ensured), ["six"]);
}

#[test]
fn rw_7_1b_a_requirement_that_does_not_resolve_is_told_with_its_reason_and_leaves_nothing() {
    let world = World::new();
    let failure = world.ensure("six==99.0\n", "run-1").unwrap_err();
    let chain = failure.chain().join("\n");
    assert!(chain.contains("no version of a package fits") && chain.contains("six==99.0"), "{chain}");
    assert!(failure.hints().iter().any(|hint| hint.contains("correct the requirements")));
    assert!(names(&world.layout.environments()).is_empty());
    assert!(names(&world.layout.environment_records()).is_empty());
}

#[test]
fn rw_7_1b_an_index_that_cannot_be_reached_is_told_as_that() {
    let mut world = World::new();
    world.python.index_url = Some("http://127.0.0.1:9/simple".to_owned());
    let failure = world.ensure("six==1.17.0\n", "run-1").unwrap_err();
    assert!(failure.chain().join("\n").contains("index cannot be reached"), "{:?}", failure.chain());
}

#[test]
fn rw_5_3_an_unfinished_build_is_discarded_and_never_reused() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    let name = &first.generation.name;
    // What a kill before the record leaves: the whole directory, and no word of it.
    fs::remove_file(world.layout.environment_records().join(format!("{name}.json"))).unwrap();
    fs::create_dir_all(world.layout.uv().join("scratch/build-x")).unwrap();
    fs::create_dir_all(world.layout.environments().join("not ours")).unwrap();
    assert!(world.environments().switch(name).unwrap_err().summary().contains("is not a good one"));
    assert_eq!(world.environments().current().unwrap(), Current::Missing);
    fs::write(first.generation.path.parent().unwrap().join("not ours/file"), "kept").unwrap();
    let second = world.ensure("six==1.17.0\n", "run-2").unwrap();
    assert!(was_built(&second));
    assert!(world.told.has("discarded the unfinished environment"));
    assert_eq!(names(&world.layout.environments()), [second.generation.name.as_str(), "not ours"]);
    assert!(names(&world.layout.uv().join("scratch")).is_empty());
}

#[test]
fn a_generation_without_a_record_that_is_live_is_not_discarded() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    world.environments().switch(&first.generation.name).unwrap();
    fs::remove_dir_all(world.layout.environment_records()).unwrap();
    assert!(matches!(world.environments().current().unwrap(), Current::Unrecorded(_)));
    assert!(world.environments().discard_incomplete().unwrap().is_empty());
    assert!(import(&world.layout.venv(), "six"));
}

#[test]
fn no_network_is_used_when_all_is_there() {
    let mut world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    world.offline = true;
    let again = world.ensure("six==1.17.0\n", "run-2").unwrap();
    assert_eq!(again.generation, first.generation);
    assert!(!world.told.has("fetching uv"));
}

#[test]
fn uv_that_cannot_be_fetched_is_told_as_that_and_the_interpreter_s_own_is_not_used() {
    let mut world = World::bare(Owner::own());
    world.python.index_url = Some("http://127.0.0.1:9/simple".to_owned());
    let failure = world.ensure("six==1.17.0\n", "run-1").unwrap_err();
    let told = failure.chain().join(": ");
    assert!(told.contains("cannot fetch uv") && told.contains("cannot be reached"), "{told}");
    assert!(failure.hints().iter().any(|hint| hint.contains("python.index_url")), "{:?}", failure.hints());
    assert!(names(&world.layout.environments()).is_empty());
}

fn real_folder(world: &World) {
    let venv = world.layout.venv();
    fs::create_dir_all(venv.join("bin")).unwrap();
    symlink("/usr/bin/env", venv.join("bin/python")).unwrap();
    fs::create_dir_all(venv.join("lib/python3.11/site-packages/old_thing-1.0.dist-info")).unwrap();
}

fn name(text: &str) -> GenerationName {
    GenerationName::parse(text).unwrap()
}

#[test]
fn rw_5_3_a_real_folder_is_adopted_and_serves_for_a_rollback() {
    let world = World::new();
    real_folder(&world);
    let inode = fs::metadata(world.layout.venv()).unwrap().ino();
    assert_eq!(world.environments().current().unwrap(), Current::RealDirectory);
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    let switched = world.environments().switch(&first.generation.name).unwrap();
    assert_eq!(switched.adopted, Some(name("adopted-1")));
    assert!(world.layout.venv().is_symlink());
    assert_eq!(fs::metadata(world.layout.environment(&name("adopted-1"))).unwrap().ino(), inode);
    let adopted = world.environments().good(&name("adopted-1")).unwrap().unwrap();
    assert_eq!(adopted.record.packages[0].name, "old-thing");
    assert!(adopted.record.built().is_none());
    let back = world.environments().switch(&name("adopted-1")).unwrap();
    assert_eq!(back.before, Some(first.generation.name));
    assert_eq!(names(&world.layout.home()), ["venv"]);
}

#[test]
fn rw_5_3_an_adoption_that_was_killed_in_between_is_finished_by_the_next_call() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    let target = world.layout.environment(&first.generation.name);
    let side = world.layout.home().join(".venv.switching");
    let stages: [&dyn Fn(); 3] = [
        // Killed before the exchange: the link is there under its other name.
        &|| {
            real_folder(&world);
            symlink(&target, &side).unwrap();
        },
        // Killed after the exchange: the directory has the other name.
        &|| {
            real_folder(&world);
            fs::rename(world.layout.venv(), &side).unwrap();
            symlink(&target, world.layout.venv()).unwrap();
        },
        // Killed before the record: the directory is in its place.
        &|| {
            real_folder(&world);
            fs::rename(world.layout.venv(), world.layout.environment(&name("adopted-3"))).unwrap();
            symlink(&target, world.layout.venv()).unwrap();
        },
    ];
    for (index, stage) in stages.iter().enumerate() {
        let _ = fs::remove_file(world.layout.venv());
        stage();
        let switched = world.environments().switch(&first.generation.name).unwrap();
        assert_eq!(switched.adopted, Some(name(&format!("adopted-{}", index + 1))));
        assert!(world.environments().good(&switched.adopted.unwrap()).unwrap().is_some());
        assert_eq!(names(&world.layout.home()), ["venv"]);
        assert_eq!(world.environments().current().unwrap().generation(), Some(&first.generation));
    }
}

#[test]
fn rw_5_3_a_reader_never_finds_the_environment_missing_while_it_is_switched() {
    let world = World::new();
    real_folder(&world);
    let one = world.ensure("six==1.17.0\n", "run-1").unwrap().generation.name;
    let other = world.ensure("six==1.16.0\n", "run-2").unwrap().generation.name;
    let python = world.layout.venv().join("bin/python");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0_u64;
            while !done.load(Ordering::SeqCst) {
                assert!(python.symlink_metadata().is_ok());
                looks += 1;
            }
            looks
        });
        for _ in 0..50 {
            world.environments().switch(&one).unwrap();
            world.environments().switch(&other).unwrap();
        }
        done.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn rw_5_3_an_earlier_environment_that_is_gone_or_was_changed_is_built_again_from_its_own_lock() {
    let world = World::new();
    let (definition, run) = ("six==1.17.0\n", |name: &str| RunId::parse(name).unwrap());
    let first = world.ensure(definition, "run-1").unwrap().generation;
    let wanted = world.wanted(&[("requirements.txt", definition)]).unwrap();
    // Its definition has another lock by now.
    let file = world.layout.locks().join(format!("{}.json", wanted.key()));
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("1.17.0", "1.16.9")).unwrap();
    let replaced = fs::read(&file).unwrap();
    let environments = world.environments();
    assert_ne!(environments.known_lock(&wanted).unwrap(), environments.lock_of(&first).unwrap());

    // Somebody changed it: pruning takes its directory, and keeps what it is built from.
    let program = first.path.join("bin/python");
    fs::set_permissions(program.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(&program).unwrap();
    environments.examine(&first).unwrap().expect("it was changed");
    assert_eq!(
        environments.prune(std::slice::from_ref(&first.name)).unwrap(),
        std::slice::from_ref(&first.name)
    );
    assert!(environments.prunable(std::slice::from_ref(&first.name)).unwrap().is_empty());
    let again = |name: &GenerationName, id: &str| {
        world.environments().ensure_again(&wanted, name, Strategy::WhenChanged, &run(id))
    };
    let second = again(&first.name, "run-2").unwrap();
    assert!(was_built(&second) && second.why.contains("was changed by hand: built again from its lock"));
    assert_eq!(second.generation.record.digest, first.record.digest);

    let gone = &second.generation;
    disk::remove_tree(&gone.path).unwrap();
    let third = again(&gone.name, "run-3").unwrap();
    assert!(was_built(&third) && third.why.contains("is gone"), "{}", third.why);
    assert_eq!(third.generation.record.digest, first.record.digest);
    assert_eq!(fs::read(&file).unwrap(), replaced, "the lock of the definition stays what it is");

    world.environments().prune(&[]).unwrap();
    let refused = again(&first.name, "run-4").unwrap_err();
    assert!(refused.summary().contains("no lock is kept"), "{:?}", refused.chain());
    assert!(!refused.hints().is_empty());
}

#[test]
fn pruning_keeps_what_is_named_and_what_is_live() {
    let world = World::new();
    let built: Vec<GenerationName> = ["run-1", "run-2", "run-3", "run-4"]
        .map(|run| world.ensure_with(&[], Strategy::Always, run).unwrap().generation.name)
        .to_vec();
    world.environments().switch(&built[1]).unwrap();
    let pruned = world.environments().prune(&built[3..]).unwrap();
    assert_eq!(pruned, [built[0].clone(), built[2].clone()]);
    assert_eq!(world.environments().list().unwrap().len(), 2);
    assert_eq!(names(&world.layout.environment_records()).len(), 4);
}

#[test]
fn rw_5_3_everything_in_a_generation_belongs_to_the_owner_of_the_tree() {
    if !rustix::process::geteuid().is_root() {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"SKIPPED: only root can build for somebody else; run the tests as root to prove it\n",
        );
        return;
    }
    let world = World::bare(Owner { uid: 1234, gid: 1234 });
    let ensured = world.ensure("six==1.17.0\n", "run-1").unwrap();
    each(&ensured.generation.path, &mut |entry, found| {
        assert_eq!((found.uid(), found.gid()), (1234, 1234), "{}", entry.display());
    });
    // So does uv; what is written down of it does not.
    let records = [world.layout.state(), world.layout.environment_records(), world.layout.locks()];
    for path in records.iter().chain([&world.layout.store()]) {
        assert_eq!(fs::metadata(path).unwrap().uid(), 0, "{}", path.display());
    }
    assert_eq!(fs::metadata(common::pool::uv(&world.layout)).unwrap().uid(), 1234);
    world.environments().switch(&ensured.generation.name).unwrap();
    let asked = Command::new("setpriv")
        .args(["--reuid=1234", "--regid=1234", "--clear-groups"])
        .arg(world.layout.venv().join("bin/python"))
        .args(["-c", "import six"])
        .status();
    assert!(asked.unwrap().success());
}

/// The root of the world that a killed process works in.
const KILLED_WORLD: &str = "LADYLINUX_REFRESH_TEST_WORLD";

/// Does nothing unless it is started by [`killed`], as a process of its own that a checkpoint ends.
#[test]
fn the_work_of_a_process_that_is_killed() {
    let Some(root) = std::env::var_os(KILLED_WORLD) else { return };
    let world = World::at(Path::new(&root), Owner::own());
    let ensured = world.ensure("six==1.17.0\n", "run-killed").unwrap();
    world.environments().switch(&ensured.generation.name).unwrap();
}

/// Runs the work above in a process that is killed at its `point`th checkpoint; tells whether it came that far.
fn killed(world: &World, point: u32) -> bool {
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "python_generation::the_work_of_a_process_that_is_killed"])
        .env(KILLED_WORLD, world.layout.root())
        .env("LADYLINUX_REFRESH_KILL_AT", point.to_string())
        .output()
        .unwrap();
    assert!(ended.status.success() || ended.status.code().is_none(), "{ended:?}");
    !ended.status.success()
}

#[test]
fn rw_5_3_a_process_killed_at_any_point_leaves_nothing_that_the_next_one_would_trust() {
    let mut points = 0;
    loop {
        let world = World::new();
        real_folder(&world);
        if !killed(&world, points + 1) {
            break;
        }
        points += 1;
        let python = world.layout.venv().join("bin/python");
        assert!(python.symlink_metadata().is_ok(), "the environment is missing after point {points}");
        let ensured = world.ensure("six==1.17.0\n", "run-next").unwrap();
        world.environments().switch(&ensured.generation.name).unwrap();
        assert!(import(&world.layout.venv(), "six"));
        assert!(world.environments().contamination_by_bytes(&ensured.generation).unwrap().is_none());
        let mut expected = ["adopted-1", ensured.generation.name.as_str()];
        expected.sort_unstable();
        assert_eq!(names(&world.layout.environments()), expected, "after point {points}");
        assert_eq!(names(&world.layout.home()), ["venv"]);
        assert!(names(&world.layout.uv().join("scratch")).is_empty());
    }
    println!("{points} kill points");
    assert!(points >= 8);
}

#[test]
fn uv_whose_fetching_was_killed_is_fetched_again() {
    for point in 1..=2 {
        let world = World::new();
        let uv = common::pool::uv(&world.layout);
        fs::remove_dir_all(uv.parent().unwrap()).unwrap();
        assert!(killed(&world, point));
        assert!(!uv.exists(), "it is there before it is proved");
        world.ensure("six==1.17.0\n", "run-1").unwrap();
        assert!(uv.is_file());
        assert!(names(&world.layout.uv().join("scratch")).is_empty());
    }
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
fn rw_7_1b_a_disk_that_is_full_is_told_as_that_and_nothing_is_left() {
    type Place = fn(&Layout) -> PathBuf;
    // Too small for the environment; for what uv fetches.
    let places: [Place; 2] = [Layout::environments, |layout| layout.uv().join("cache")];
    for place in places {
        let world = World::new();
        world.own_cache();
        let size = "64k";
        let Some(_disk) = SmallDisk::at(&place(&world.layout), size) else {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED: a small disk cannot be mounted here; run the tests as root to prove it\n",
            );
            return;
        };
        let failure = world.ensure("six==1.17.0\nidna==3.10\n", "run-1").unwrap_err();
        let chain = failure.chain().join("\n");
        assert!(chain.contains("no space is left on the disk"), "{chain}");
        assert!(names(&world.layout.environments()).is_empty());
    }
}
