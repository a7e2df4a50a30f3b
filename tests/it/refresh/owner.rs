//! An installation that belongs to a separate user: root refreshes it, and everything in it happens as that user.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use crate::host::Host;
use crate::refresh::help::{SIGHTING_HOOK, hook, last_run, look_out, seen};

/// A user that owns no other files.
const OWNER: u32 = 61_873;

fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(OWNER), Some(OWNER)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

/// Makes a separate user the owner of the installation. Without root privileges that is impossible; then the owner is
/// the user of this process.
fn owner(host: &Host) -> u32 {
    let own = rustix::process::geteuid();
    if !own.is_root() {
        return own.as_raw();
    }
    give(&host.layout.home());
    host.layout.data().iter().for_each(|directory| give(directory));
    fs::create_dir(host.beside("theirs")).unwrap();
    chown(host.beside("theirs"), Some(OWNER), Some(OWNER)).unwrap();
    OWNER
}

#[test]
fn tree_environment_hooks_and_service_belong_to_the_owner() {
    let host = Host::new();
    let owner = owner(&host);
    look_out(&host);
    host.push(&[
        ("look.py", SIGHTING_HOOK),
        ("requirements.txt", "iniconfig==2.0.0\n"),
        ("refresh.toml", &hook("look", "check", &["python", "look.py", "look"], "")),
    ]);
    host.write("notes.txt", "mine");
    chown(host.layout.app().join("notes.txt"), Some(owner), None).unwrap();
    host.tool(["run"]).expect(0);
    all_belong_to(&host, owner);
    assert_eq!(seen(&host)[0]["owner"], owner);
    let pid = host.report()["service"]["pid"].to_string();
    assert_eq!(
        fs::metadata(format!("/proc/{pid}")).unwrap().uid(),
        owner,
        "the service belongs to another user"
    );
    host.tool(["stash", "restore", &last_run(&host)]).expect(0);
    assert_eq!(host.read("notes.txt").as_deref(), Some("mine"));
    assert_eq!(host.layout.app().join("notes.txt").metadata().unwrap().uid(), owner);
    // Files that the owner cannot read are not shown, even to root.
    let stored = host.layout.stashes().join(last_run(&host)).join("notes.txt");
    chown(&stored, Some(0), Some(0)).unwrap();
    fs::set_permissions(&stored, fs::Permissions::from_mode(0o600)).unwrap();
    let shown = host.tool(["stash", "show", &last_run(&host), "notes.txt"]).expect(0);
    assert!(!shown.out.contains("+mine"), "{}", shown.out);
    host.tool(["stash", "restore", &last_run(&host), "notes.txt", "--overwrite"]).expect(3).prints("cannot");
}

#[test]
fn a_tree_with_a_directory_that_its_owner_cannot_read_is_kept_completely() {
    let host = Host::running();
    if owner(&host) != OWNER {
        return;
    }
    let closed = host.layout.app().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("inside.txt"), "mine").unwrap();
    for path in [closed.join("inside.txt"), closed.clone()] {
        chown(&path, Some(OWNER), Some(OWNER)).unwrap();
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    host.tool(["status"]).expect(0).prints("closed cannot be read");
    host.tool(["run"]).expect(0).prints("all of the tree of run");
    let run = last_run(&host);
    let kept = host.layout.stashes().join(&run);
    assert_eq!(fs::read_to_string(kept.join("closed/inside.txt")).unwrap(), "mine");
    let found = kept.metadata().unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, OWNER, 0o750));
    host.tool(["stash", "list"]).expect(0).prints("not comparable");
    host.tool(["stash", "drop", &run]).expect(0);
    assert!(!kept.exists());
}

#[test]
fn files_of_root_in_the_tree_hinder_no_run_and_are_not_lost() {
    let host = Host::new();
    host.push(&[(".gitignore", "state/\n")]);
    host.tool(["run"]).expect(0);
    if owner(&host) != OWNER {
        return;
    }
    host.tool(["service", "stop"]).expect(0);
    let app = host.layout.app();
    for (path, mode) in [
        ("version.txt", 0o600),
        ("notes.txt", 0o600),
        ("log/x", 0o644),
        ("closed/x", 0o600),
        ("state/closed/db", 0o600),
        ("LadyLinux/.git/HEAD", 0o644),
        (".git/logs/HEAD", 0o644),
        (".git/objects/ff/x", 0o444),
    ] {
        let path = app.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "roots").unwrap();
        chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for closed in ["closed", "state/closed", ".git/objects/ff"] {
        fs::set_permissions(app.join(closed), fs::Permissions::from_mode(0o700)).unwrap();
    }
    host.push(&[("version.txt", "two\n")]);
    host.tool(["plan"]).expect(0);
    host.tool(["run"]).expect(0).prints("all of the tree of run");
    assert_eq!(host.version().as_deref(), Some("two"));
    assert_eq!(fs::read_to_string(app.join("state/closed/db")).unwrap(), "roots", "it did not move across");
    let kept = host.layout.stashes().join(last_run(&host));
    for path in ["version.txt", "notes.txt", "log/x", "closed/x", "LadyLinux/.git/HEAD"] {
        assert_eq!(fs::read_to_string(kept.join(path)).unwrap(), "roots", "{path}");
        assert!(path == "version.txt" || !app.join(path).exists(), "{path} is left");
    }
    // A second time there is nothing more to keep.
    host.push(&[("version.txt", "three\n")]);
    let again = host.tool(["run"]).expect(0);
    assert!(!again.all().contains("all of the tree of run"), "{}", again.all());
    assert_eq!(host.version().as_deref(), Some("three"));
}

#[test]
fn root_starts_no_program_from_settings_that_other_users_can_change() {
    let host = Host::running();
    if owner(&host) != OWNER {
        return;
    }
    let (script, started) = (host.beside("interpreter"), host.beside("theirs/started"));
    fs::write(&script, format!("#!/bin/sh\ntouch {}\nexit 1\n", started.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let before = host.settings("");
    let settings = before.replace("[python]\n", &format!("[python]\ninterpreter = {script:?}\n"));
    fs::write(host.layout.host_file(), &settings).unwrap();
    // Settings that no other user can change are trusted.
    host.tool(["lock", "--upgrade"]).expect(3);
    fs::remove_file(&started).unwrap();

    let bundle = host.beside("theirs/bundle").display().to_string();
    let refused: [&[&str]; 7] = [
        &["init"],
        &["init", "--dry-run"],
        &["lock", "--upgrade"],
        &["bundle", "create", "--output", &bundle],
        &["plan"],
        &["run"],
        &["status"],
    ];
    let runs = host.runs();
    let theirs = host.layout.state();
    chown(&theirs, Some(OWNER), None).unwrap();
    for arguments in refused {
        host.tool(arguments)
            .expect(3)
            .prints(&format!("{} belongs to uid {OWNER}", theirs.display()))
            .prints(&format!("chown root {0} && chmod go-w {0}", theirs.display()));
    }
    let doctor = host.tool(["doctor"]).expect(5);
    assert!(
        doctor.all().contains(&format!("{} belongs to uid {OWNER}", theirs.display())),
        "{}",
        doctor.all()
    );
    chown(&theirs, Some(0), None).unwrap();
    // Settings that others can change do not count, and are named.
    for theirs in [host.layout.host_file(), host.layout.etc()] {
        chown(&theirs, Some(OWNER), None).unwrap();
        for arguments in [&["init"][..], &["lock", "--upgrade"], &["plan"], &["run"]] {
            let printed = host.tool(arguments);
            assert_ne!(printed.code, Some(0), "{arguments:?}: {printed:#?}");
        }
        host.tool(["doctor"]).expect(5).prints("does not count");
        chown(&theirs, Some(0), None).unwrap();
    }
    assert!(!started.exists());
    assert_eq!(host.runs().len(), runs.len(), "a run began");
    fs::write(host.layout.host_file(), before).unwrap();
    host.tool(["run"]).expect(0);
}

/// Asserts the owner of everything in `app/` and in the live environment.
fn all_belong_to(host: &Host, owner: u32) {
    fn all(directory: &Path, owner: u32) {
        assert_eq!(directory.symlink_metadata().unwrap().uid(), owner, "{}", directory.display());
        if directory.symlink_metadata().unwrap().is_dir() {
            for entry in fs::read_dir(directory).unwrap() {
                all(&entry.unwrap().path(), owner);
            }
        }
    }
    all(&host.layout.app(), owner);
    all(&fs::canonicalize(host.layout.venv()).unwrap(), owner);
}
