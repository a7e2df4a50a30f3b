//! Files of others in the mirror and in the configuration of git: they run nothing, and the printed command removes them.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests create the input of the program")]

use crate::git as common;

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::PathBuf;

use common::{World, branch, message, run};
use refresh_events::event::Events;
use refresh_git::Git;
use refresh_programs::process::Runner;
use refresh_system::disk::Owner;

#[test]
fn a_hostile_configuration_of_the_caller_is_not_read() {
    let world = World::new();
    let file = world.layout.state().join("git/.gitconfig");
    assert!(std::fs::read_to_string(&file).unwrap().contains("allow = never"));
    assert!(world.mirror().ensure(&run("r1"), &branch("main")).is_ok());
}

/// A configuration that makes git run a program in place of the remote, and the file that the program creates.
fn hostile_configuration(world: &World) -> (String, PathBuf) {
    let (script, trace) = (world.directory.path().join("x.sh"), world.directory.path().join("trace"));
    std::fs::write(&script, format!("#!/bin/sh\ntouch {}\n", trace.display())).unwrap();
    set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let text = format!(
        "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tworktreeConfig = true\n\
         [protocol]\n\tallow = always\n[protocol \"ext\"]\n\tallow = always\n\
         [url \"ext::{} \"]\n\tinsteadOf = file://\n",
        script.display()
    );
    (text, trace)
}

#[test]
fn files_of_others_in_the_mirror_run_nothing_and_the_next_command_removes_them() {
    let world = World::new();
    let first = world.mirror().ensure(&run("r0"), &branch("main")).unwrap();
    let mirror = world.layout.mirror();
    let own = std::fs::read_to_string(mirror.join("config")).unwrap();
    let (hostile, trace) = hostile_configuration(&world);
    let elsewhere = world.directory.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("config"), &hostile).unwrap();
    let alternate = format!("{}\n", elsewhere.display());
    let all = ["config.worktree", "commondir", "hooks/post-update", "objects/info/alternates", "info/grafts"];
    for (index, added) in
        [&["config"][..], &["config", "config.worktree"], &["commondir"], &all].iter().enumerate()
    {
        for name in *added {
            let text = match *name {
                "commondir" | "objects/info/alternates" => &alternate,
                _ => &hostile,
            };
            std::fs::create_dir_all(mirror.join(name).parent().unwrap()).unwrap();
            std::fs::write(mirror.join(name), text).unwrap();
        }
        let tip = world.commit(&[("a", &index.to_string())]);
        assert_eq!(world.mirror().pinned(&run("r0")).unwrap().as_ref(), Some(&first), "{added:?}");
        let fetched = world.mirror().ensure(&run(&format!("r{}", index + 1)), &branch("main"));
        assert!(!trace.exists(), "{added:?}: a program of others ran");
        assert_eq!(fetched.unwrap(), tip, "{added:?}");
        assert_eq!(std::fs::read_to_string(mirror.join("config")).unwrap(), own);
        for name in ["config.worktree", "commondir", "hooks", "objects/info/alternates", "info/grafts"] {
            assert!(!mirror.join(name).exists(), "{added:?}: {name} is left");
        }
    }
}

#[test]
fn a_link_in_the_place_of_a_file_of_git_is_refused_and_the_printed_command_repairs_it() {
    let world = World::new();
    let first = world.mirror().ensure(&run("r0"), &branch("main")).unwrap();
    let (hostile, trace) = hostile_configuration(&world);
    let elsewhere = world.directory.path().join("elsewhere");
    std::fs::write(&elsewhere, &hostile).unwrap();
    let config = world.layout.mirror().join("config");
    std::fs::remove_file(&config).unwrap();
    symlink(&elsewhere, &config).unwrap();
    let failure = world.mirror().ensure(&run("r1"), &branch("main")).unwrap_err();
    assert!(message(&failure).contains("config is a symbolic link"), "{}", message(&failure));
    cure(&failure.hint_texts()[0]);
    assert_eq!(world.mirror().ensure(&run("r1"), &branch("main")).unwrap(), first);
    assert!(!trace.exists());
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), hostile, "what the link led to is untouched");
}

#[test]
fn a_mirror_and_a_configuration_of_another_user_are_refused_until_they_have_the_right_owner() {
    if !Owner::own().can_be_assumed() || Owner::own().uid != 0 {
        return;
    }
    let world = World::new();
    let first = world.mirror().ensure(&run("r0"), &branch("main")).unwrap();
    let (mirror, home) = (world.layout.mirror(), world.layout.state().join("git"));
    for entry in [mirror.clone(), mirror.join("config")] {
        chown(&entry, Some(65534), Some(65534)).unwrap();
        let failure = world.mirror().pinned(&run("r0")).unwrap_err();
        assert!(message(&failure).contains("belongs to uid 65534"), "{}", message(&failure));
        cure(&failure.hint_texts()[0]);
        assert_eq!(world.mirror().pinned(&run("r0")).unwrap().as_ref(), Some(&first));
    }
    let runner = Runner::new(std::sync::Arc::new(Events::silent()));
    for entry in [home.clone(), home.join(".gitconfig")] {
        chown(&entry, Some(65534), Some(65534)).unwrap();
        let failure = Git::new(&runner, &world.layout).unwrap_err();
        assert!(message(&failure).contains("belongs to uid 65534"), "{}", message(&failure));
        cure(&failure.hint_texts()[0]);
        Git::new(&runner, &world.layout).unwrap();
    }
    set_permissions(&mirror, Permissions::from_mode(0o777)).unwrap();
    let failure = world.mirror().pinned(&run("r0")).unwrap_err();
    assert!(message(&failure).contains("can be changed by others than its owner"), "{}", message(&failure));
    cure(&failure.hint_texts()[0]);
    assert_eq!(world.mirror().pinned(&run("r0")).unwrap(), Some(first));
}

/// Runs the command of a hint.
fn cure(hint: &str) {
    let status = std::process::Command::new("sh").args(["-c", hint]).status().unwrap();
    assert!(status.success(), "{hint}");
}
