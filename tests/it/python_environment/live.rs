//! The live environment: adoption, switching, earlier environments, unfinished ones.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::import;
use crate::python as common;
use crate::python::{World, names, was_built};
use refresh_environments::VenvState;
use refresh_settings::Strategy;
use refresh_settings::names::{EnvironmentName, RunId};
use refresh_system::disk;
use refresh_system::disk::Owner;

#[test]
fn rw_5_3_an_unfinished_build_is_discarded_and_never_reused() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    let name = &first.environment.name;
    // The result of a kill before the record: the complete directory, without its record.
    fs::remove_file(world.layout.environment_records().join(format!("{name}.json"))).unwrap();
    fs::create_dir_all(world.layout.uv().join("scratch/build-x")).unwrap();
    fs::create_dir_all(world.layout.environments().join("not ours")).unwrap();
    assert!(world.environments().switch(name).unwrap_err().summary().contains("is damaged or changed"));
    assert_eq!(world.environments().current().unwrap(), VenvState::Missing);
    fs::write(first.environment.path.parent().unwrap().join("not ours/file"), "kept").unwrap();
    let second = world.ensure("six==1.17.0\n", "run-2").unwrap();
    assert!(was_built(&second));
    assert!(world.reported.has("discarded the unfinished environment"));
    assert_eq!(names(&world.layout.environments()), [second.environment.name.as_str(), "not ours"]);
    assert!(names(&world.layout.uv().join("scratch")).is_empty());
}

#[test]
fn an_environment_without_a_record_that_is_live_is_not_discarded() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    world.environments().switch(&first.environment.name).unwrap();
    fs::remove_dir_all(world.layout.environment_records()).unwrap();
    assert!(matches!(world.environments().current().unwrap(), VenvState::Unrecorded(_)));
    assert!(world.environments().discard_incomplete().unwrap().is_empty());
    assert!(import(&world.layout.venv(), "six"));
}

fn real_directory(world: &World) {
    let venv = world.layout.venv();
    fs::create_dir_all(venv.join("bin")).unwrap();
    symlink("/usr/bin/env", venv.join("bin/python")).unwrap();
    fs::create_dir_all(venv.join("lib/python3.11/site-packages/old_thing-1.0.dist-info")).unwrap();
}

fn name(text: &str) -> EnvironmentName {
    EnvironmentName::parse(text).unwrap()
}

#[test]
fn rw_5_3_a_real_directory_is_adopted_and_serves_for_a_rollback() {
    let world = World::new();
    real_directory(&world);
    let inode = fs::metadata(world.layout.venv()).unwrap().ino();
    assert_eq!(world.environments().current().unwrap(), VenvState::RealDirectory);
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    let switched = world.environments().switch(&first.environment.name).unwrap();
    assert_eq!(switched.adopted, Some(name("adopted-1")));
    assert!(world.layout.venv().is_symlink());
    assert_eq!(fs::metadata(world.layout.environment(&name("adopted-1"))).unwrap().ino(), inode);
    let adopted = world.environments().good(&name("adopted-1")).unwrap().unwrap();
    assert_eq!(adopted.record.packages[0].name, "old-thing");
    assert!(adopted.record.built().is_none());
    let back = world.environments().switch(&name("adopted-1")).unwrap();
    assert_eq!(back.before, Some(first.environment.name));
    assert_eq!(names(&world.layout.home()), ["venv"]);
}

#[test]
fn rw_5_3_an_adoption_that_was_killed_in_between_is_finished_by_the_next_call() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    let target = world.layout.environment(&first.environment.name);
    let side = world.layout.home().join(".venv.switching");
    let stages: [&dyn Fn(); 3] = [
        // Killed before the exchange: the link exists under its other name.
        &|| {
            real_directory(&world);
            symlink(&target, &side).unwrap();
        },
        // Killed after the exchange: the directory has the other name.
        &|| {
            real_directory(&world);
            fs::rename(world.layout.venv(), &side).unwrap();
            symlink(&target, world.layout.venv()).unwrap();
        },
        // Killed before the record: the directory is in its place.
        &|| {
            real_directory(&world);
            fs::rename(world.layout.venv(), world.layout.environment(&name("adopted-3"))).unwrap();
            symlink(&target, world.layout.venv()).unwrap();
        },
    ];
    for (index, stage) in stages.iter().enumerate() {
        let _ = fs::remove_file(world.layout.venv());
        stage();
        let switched = world.environments().switch(&first.environment.name).unwrap();
        assert_eq!(switched.adopted, Some(name(&format!("adopted-{}", index + 1))));
        assert!(world.environments().good(&switched.adopted.unwrap()).unwrap().is_some());
        assert_eq!(names(&world.layout.home()), ["venv"]);
        assert_eq!(world.environments().current().unwrap().recorded(), Some(&first.environment));
    }
}

#[test]
fn rw_5_3_a_reader_never_finds_the_environment_missing_while_it_is_switched() {
    let world = World::new();
    real_directory(&world);
    let one = world.ensure("six==1.17.0\n", "run-1").unwrap().environment.name;
    let other = world.ensure("six==1.16.0\n", "run-2").unwrap().environment.name;
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
    let first = world.ensure(definition, "run-1").unwrap().environment;
    let wanted = world.wanted(&[("requirements.txt", definition)]).unwrap();
    // By now its definition has another lock.
    let file = world.layout.locks().join(format!("{}.json", wanted.key()));
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("1.17.0", "1.16.9")).unwrap();
    let replaced = fs::read(&file).unwrap();
    let environments = world.environments();
    assert_ne!(environments.known_lock(&wanted).unwrap(), environments.lock_of(&first).unwrap());

    // It was changed: pruning removes its directory, and keeps its lock.
    let program = first.path.join("bin/python");
    fs::set_permissions(program.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(&program).unwrap();
    environments.examine(&first).unwrap().expect("it was changed");
    assert_eq!(
        environments.prune(std::slice::from_ref(&first.name)).unwrap(),
        std::slice::from_ref(&first.name)
    );
    assert!(environments.prunable(std::slice::from_ref(&first.name)).unwrap().is_empty());
    let again = |name: &EnvironmentName, id: &str| {
        world.environments().rebuild_from_lock(&wanted, name, Strategy::WhenChanged, &run(id))
    };
    let second = again(&first.name, "run-2").unwrap();
    assert!(was_built(&second) && second.why.contains("was changed manually: built again from its lock"));
    assert_eq!(second.environment.record.digest, first.record.digest);

    let gone = &second.environment;
    disk::remove_tree(&gone.path).unwrap();
    let third = again(&gone.name, "run-3").unwrap();
    assert!(was_built(&third) && third.why.contains("does not exist"), "{}", third.why);
    assert_eq!(third.environment.record.digest, first.record.digest);
    assert_eq!(fs::read(&file).unwrap(), replaced, "the lock of the definition stays what it is");

    world.environments().prune(&[]).unwrap();
    let refused = again(&first.name, "run-4").unwrap_err();
    assert!(refused.summary().contains("no lock is kept"), "{:?}", refused.chain());
    assert!(!refused.hint_texts().is_empty());
}

#[test]
fn pruning_keeps_what_is_named_and_what_is_live() {
    let world = World::new();
    let built: Vec<EnvironmentName> = ["run-1", "run-2", "run-3", "run-4"]
        .map(|run| world.ensure_with(&[], Strategy::Always, run).unwrap().environment.name)
        .to_vec();
    world.environments().switch(&built[1]).unwrap();
    let pruned = world.environments().prune(&built[3..]).unwrap();
    assert_eq!(pruned, [built[0].clone(), built[2].clone()]);
    assert_eq!(world.environments().list().unwrap().len(), 2);
    assert_eq!(names(&world.layout.environment_records()).len(), 4);
}

/// The root of the world that a killed process works in.
const KILLED_WORLD: &str = "LADYLINUX_REFRESH_TEST_WORLD";

/// Does nothing unless it is started by [`killed`], as another process that a checkpoint ends.
#[test]
fn the_work_of_a_process_that_is_killed() {
    let Some(root) = std::env::var_os(KILLED_WORLD) else { return };
    let world = World::at(Path::new(&root), Owner::own());
    let ensured = world.ensure("six==1.17.0\n", "run-killed").unwrap();
    world.environments().switch(&ensured.environment.name).unwrap();
}

/// Runs the work above in a process that is killed at its `point`th checkpoint. Returns whether it reached that
/// checkpoint.
fn killed(world: &World, point: u32) -> bool {
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "python_environment::live::the_work_of_a_process_that_is_killed"])
        .env(KILLED_WORLD, world.layout.root())
        .env("LADYLINUX_REFRESH_KILL_AT", point.to_string())
        .output()
        .unwrap();
    assert!(ended.status.success() || ended.status.code().is_none(), "{ended:?}");
    !ended.status.success()
}

#[test]
fn rw_5_3_a_process_killed_at_any_point_leaves_nothing_that_the_next_one_trusts() {
    let mut points = 0;
    loop {
        let world = World::new();
        real_directory(&world);
        if !killed(&world, points + 1) {
            break;
        }
        points += 1;
        let python = world.layout.venv().join("bin/python");
        assert!(python.symlink_metadata().is_ok(), "the environment is missing after point {points}");
        let ensured = world.ensure("six==1.17.0\n", "run-next").unwrap();
        world.environments().switch(&ensured.environment.name).unwrap();
        assert!(import(&world.layout.venv(), "six"));
        assert!(world.environments().contamination_by_bytes(&ensured.environment).unwrap().is_none());
        let mut expected = ["adopted-1", ensured.environment.name.as_str()];
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
