//! The work tree is aligned with a commit, whatever state it is in, and proved to be it.
#![expect(clippy::disallowed_methods, reason = "tests arrange the world that the program finds")]

#[path = "common/git.rs"]
mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use common::{World, branch, foreign, run, told};
use ladylinux_refresh::git::inspect::{Head, TreeKind};
use ladylinux_refresh::git::path::TreePath;
use ladylinux_refresh::process::Owner;

#[test]
fn rw_5_2a_new_commits_are_fetched_into_the_applications_own_repository() {
    let mut world = World::new();
    world.install();
    let tip = world.commit(&[("src/new.py", "new\n")]);
    let (commit, saved, _) = world.synced("r1", "main");
    assert_eq!(commit, tip);
    assert!(saved.items.is_empty());
    assert_eq!(world.app_git(&["rev-parse", "origin/main"]), tip.as_str());
    assert_eq!(world.app_git(&["cat-file", "-t", tip.as_str()]), "commit");
    assert!(!world.layout.run(&run("r1")).join("saved").exists(), "nothing saved leaves no folder");
}

#[test]
fn rw_5_2b_the_tree_is_reset_to_the_branch_whatever_was_checked_out() {
    let mut world = World::new();
    let first = world.install();
    world.commit(&[("src/app.py", "print('two')\n")]);
    world.app_git(&["checkout", "--quiet", "-b", "local"]);
    world.write("src/app.py", b"print('mine')\n");
    world.synced("r1", "main");
    assert_eq!(world.read("src/app.py"), "print('two')\n");
    world.app_git(&["checkout", "--quiet", first.as_str()]);
    assert_eq!(world.tree().inspect().unwrap().head, Some(Head::Detached(first)));
    world.synced("r2", "main");
    assert_eq!(world.read("src/app.py"), "print('two')\n");
}

#[test]
fn rw_5_2c_untracked_and_ignored_files_are_removed() {
    let mut world = World::new();
    world.commit(&[(".gitignore", "*.log\n")]);
    world.install();
    world.write("stray.txt", b"stray");
    world.write("x.log", b"ignored");
    world.write("src/__pycache__/app.cpython-312.pyc", b"code");
    std::fs::create_dir(world.file("empty")).unwrap();
    let (_, saved, _) = world.synced("r1", "main");
    assert_eq!(saved.items.len(), 2, "{saved:?}");
    for gone in ["stray.txt", "x.log", "src/__pycache__", "empty"] {
        assert!(!world.file(gone).exists(), "{gone}");
    }
}

#[test]
fn a_forced_push_and_a_removed_file_are_followed() {
    let mut world = World::new();
    world.commit(&[("src/gone.py", "x\n"), ("gone/a.py", "a\n")]);
    world.install();
    world.write("gone/__pycache__/a.cpython-312.pyc", b"code");
    world.remote_git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    world.commit(&[("src/other.py", "y\n")]);
    let (_, saved, _) = world.synced("r1", "main");
    assert!(saved.items.is_empty(), "{saved:?}");
    assert!(!world.file("src/gone.py").exists());
    assert!(!world.file("gone").exists());
}

#[test]
fn a_shallow_clone_is_aligned() {
    let world = World::new();
    world.commit(&[("a", "1\n")]);
    world.commit(&[("a", "2\n")]);
    let url = format!("file://{}", world.upstream().display());
    let app = world.app();
    common::plain_git(
        &world.layout.home(),
        world.owner,
        &["clone", "--quiet", "--depth=1", &url, app.to_str().unwrap()],
    );
    assert!(world.tree().inspect().unwrap().shallow);
    world.commit(&[("a", "3\n")]);
    let (_, saved, _) = world.synced("r1", "main");
    assert!(saved.items.is_empty() && saved.tips.is_empty(), "{saved:?}");
    assert_eq!(world.read("a"), "3\n");
}

#[test]
fn a_stale_index_lock_is_removed_and_told() {
    let mut world = World::new();
    world.install();
    world.write(".git/index.lock", b"");
    world.commit(&[("a", "1\n")]);
    let (.., aligned) = world.synced("r1", "main");
    assert!(aligned.notes.iter().any(|note| note.contains("index.lock")), "{aligned:?}");
}

#[test]
fn a_lock_that_somebody_holds_stops_the_alignment_and_names_him() {
    let mut world = World::new();
    world.install();
    let lock = std::fs::File::create(world.file(".git/index.lock")).unwrap();
    // Another process has to hold it: this one is the program's own.
    let mut holder = std::process::Command::new("sleep").arg("600").stdin(lock).spawn().unwrap();
    let failure = world.sync("r1", "main").unwrap_err();
    assert!(told(&failure).contains(&format!("{} (sleep 600)", holder.id())), "{}", told(&failure));
    holder.kill().unwrap();
    holder.wait().unwrap();
    world.synced("r2", "main");
}

#[test]
fn a_branch_that_became_a_folder_of_branches_is_followed_both_ways() {
    let mut world = World::new();
    world.install();
    world.remote_git(&["checkout", "--quiet", "-b", "x"]);
    world.commit(&[("a", "1\n")]);
    world.synced("r1", "x");
    world.remote_git(&["checkout", "--quiet", "--detach"]);
    world.remote_git(&["branch", "-D", "x"]);
    world.remote_git(&["checkout", "--quiet", "-b", "x/y"]);
    world.commit(&[("a", "2\n")]);
    world.synced("r2", "x/y");
    world.remote_git(&["checkout", "--quiet", "--detach"]);
    world.remote_git(&["branch", "-D", "x/y"]);
    world.remote_git(&["checkout", "--quiet", "-b", "x"]);
    world.commit(&[("a", "3\n")]);
    world.synced("r3", "x");
    assert_eq!(world.read("a"), "3\n");
}

#[test]
fn files_and_folders_without_permission_bits_are_aligned() {
    let mut world = World::owned_by(stranger().unwrap_or_else(Owner::own));
    world.install();
    let close = |path: &str| {
        std::fs::set_permissions(world.file(path), std::fs::Permissions::from_mode(0o000)).unwrap();
    };
    world.write("private/note", b"n");
    close("src/util.py");
    close("private");
    world.write("src/app.py", b"changed");
    close("src/app.py");
    let (_, saved, _) = world.synced("r1", "main");
    assert_eq!(world.read("src/util.py"), "x = 1\n");
    let index = world.layout.run(&run("r1")).join("saved");
    let kept = std::fs::metadata(index.join("untracked/private")).unwrap();
    assert_eq!(kept.permissions().mode() & 0o777, 0, "{saved:?}");
    let kept = std::fs::metadata(index.join("files/src/app.py")).unwrap();
    assert_eq!((kept.permissions().mode() & 0o777, kept.len()), (0, 7));
}

#[test]
fn a_repository_that_mixes_line_endings_is_proved_and_has_no_drift() {
    let mut world = World::new();
    // Committed before the attribute: blobs with both line endings, as real repositories have them.
    world.commit(&[("crlf.txt", "a\r\nb\r\n"), ("mixed.txt", "a\r\nb\n"), ("lf.txt", "a\nb\n")]);
    std::fs::write(world.upstream().join(".gitattributes"), "* text=auto\nwin.bat text eol=crlf\n").unwrap();
    std::fs::write(world.upstream().join("win.bat"), "echo\r\n").unwrap();
    world.remote_git(&["add", ".gitattributes", "win.bat"]);
    world.remote_git(&["commit", "--quiet", "-m", "attributes"]);
    let first = world.install();
    world.tree().prove(&first, &[]).unwrap();
    assert!(world.tree().drift(&[], &[]).unwrap().is_none());
    assert_eq!(world.read("win.bat"), "echo\r\n");
    world.commit(&[("other", "1\n")]);
    let (_, saved, _) = world.synced("r1", "main");
    assert!(saved.items.is_empty(), "{saved:?}");
    // An editor that converts a file is drift, although git's own status would not show it.
    world.write("lf.txt", b"a\r\nb\r\n");
    let (_, saved, _) = world.synced("r2", "main");
    assert_eq!(saved.items.len(), 1);
    assert_eq!(world.read("lf.txt"), "a\nb\n");
}

#[test]
fn a_change_of_attributes_rewrites_the_files_it_concerns() {
    let mut world = World::new();
    world.install();
    world.commit(&[(".gitattributes", "*.md text eol=crlf\n")]);
    world.synced("r1", "main");
    assert_eq!(world.read("README.md"), "hello\r\n");
    std::fs::remove_file(world.upstream().join(".gitattributes")).unwrap();
    world.commit_all();
    world.synced("r2", "main");
    assert_eq!(world.read("README.md"), "hello\n");
}

#[test]
fn skip_worktree_and_assume_unchanged_hide_nothing() {
    let mut world = World::new();
    world.install();
    world.app_git(&["update-index", "--skip-worktree", "src/app.py"]);
    world.app_git(&["update-index", "--assume-unchanged", "src/util.py"]);
    world.write("src/app.py", b"hidden one\n");
    world.write("src/util.py", b"hidden two\n");
    let drift = world.tree().drift(&[], &[]).unwrap();
    assert_eq!(drift.items.len(), 2, "{drift:?}");
    world.synced("r1", "main");
    assert_eq!(world.read("src/app.py"), "print('one')\n");
    assert_eq!(world.read("src/util.py"), "x = 1\n");
}

#[test]
fn configuration_of_the_work_trees_repository_changes_nothing() {
    let mut world = World::new();
    world.install();
    let trap = world.folder.path().join("trap");
    let command = format!("touch {}; cat", trap.display());
    for (key, value) in [
        ("core.autocrlf", "true"),
        ("filter.bad.smudge", &command),
        ("filter.bad.clean", &command),
        ("filter.bad.required", "true"),
        ("core.fsmonitor", &command),
        ("core.worktree", "/tmp"),
        ("core.sparseCheckout", "true"),
    ] {
        plain_config(&world, key, value);
    }
    world.write(".git/info/attributes", b"* filter=bad\n*.py eol=crlf\n");
    world.write(".git/hooks/post-checkout", format!("#!/bin/sh\n{command}\n").as_bytes());
    std::fs::set_permissions(world.file(".git/hooks/post-checkout"), std::fs::Permissions::from_mode(0o755))
        .unwrap();
    world.commit(&[("src/app.py", "print('two')\n")]);
    world.sync("r1", "main").unwrap_or_else(|failure| panic!("{}", told(&failure)));
    assert_eq!(world.read("src/app.py"), "print('two')\n");
    assert!(!trap.exists());
}

#[test]
fn a_filter_of_the_work_trees_repository_is_run_by_no_step() {
    let mut world = World::new();
    world.commit(&[(".gitattributes", "* filter=x\n")]);
    world.install();
    let trap = world.folder.path().join("trap");
    let command = format!("touch {}; false", trap.display());
    for (key, value) in [("clean", &*command), ("smudge", &*command), ("required", "true")] {
        plain_config(&world, &format!("filter.x.{key}"), value);
    }
    // Of the length of the committed one: git has to look into it, by way of the filter, to tell that it differs.
    world.preserve = vec!["README.md".to_owned()];
    world.write("README.md", b"HELLO\n");
    world.commit(&[("src/app.py", "print('two')\n")]);
    world.sync("r1", "main").unwrap_or_else(|failure| panic!("{}", told(&failure)));
    assert_eq!(world.read("README.md"), "HELLO\n");
    assert_eq!(world.read("src/app.py"), "print('two')\n");
    assert!(!trap.exists());
}

fn plain_config(world: &World, key: &str, value: &str) {
    common::plain_git(&world.app(), world.owner, &["config", "--file", ".git/config", key, value]);
}

#[test]
fn links_that_lead_outside_are_never_followed() {
    let mut world = World::new();
    world.install();
    let outside = world.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("app.py"), "precious").unwrap();
    std::fs::remove_dir_all(world.file("src")).unwrap();
    symlink(&outside, world.file("src")).unwrap();
    symlink(&outside, world.file("loose")).unwrap();
    world.synced("r1", "main");
    assert_eq!(std::fs::read_to_string(outside.join("app.py")).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert!(world.file("src").symlink_metadata().unwrap().is_dir());
}

#[test]
fn names_that_are_not_utf_8_and_files_that_became_folders_are_aligned() {
    let mut world = World::new();
    world.install();
    let odd = OsStr::from_bytes(b"odd-\xff\xfe\nname");
    std::fs::write(world.upstream().join(odd), "tracked").unwrap();
    std::fs::remove_file(world.upstream().join("README.md")).unwrap();
    world.commit(&[("README.md/part", "1\n")]);
    world.write(OsStr::from_bytes(b"stray-\xff"), b"x");
    let (_, saved, _) = world.synced("r1", "main");
    assert_eq!(saved.items.len(), 1);
    assert_eq!(std::fs::read(world.file(odd)).unwrap(), b"tracked");
    world.remote_git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    world.synced("r2", "main");
    assert_eq!(world.read("README.md"), "hello\n");
}

#[test]
fn special_files_in_the_place_of_tracked_ones_do_not_hang_the_run() {
    let mut world = World::new();
    world.install();
    std::fs::remove_file(world.file("src/app.py")).unwrap();
    let status =
        std::process::Command::new("mkfifo").arg(world.file("src/app.py")).arg(world.file("pipe")).status();
    assert!(status.unwrap().success());
    world.synced("r1", "main");
    assert_eq!(world.read("src/app.py"), "print('one')\n");
}

#[test]
fn a_damaged_repository_is_kept_and_made_anew() {
    let mut world = World::new();
    world.install();
    world.commit(&[("src/app.py", "print('two')\n")]);
    let objects = world.file(".git/objects");
    std::fs::remove_dir_all(&objects).unwrap();
    std::fs::create_dir(&objects).unwrap();
    world.write(".git/HEAD", b"");
    let (.., aligned) = world.sync("r1", "main").unwrap_or_else(|failure| panic!("{}", told(&failure)));
    assert!(!aligned.notes.is_empty());
    assert_eq!(world.read("src/app.py"), "print('two')\n");
    assert_eq!(world.app_git(&["status", "--porcelain"]), "");
}

#[test]
fn the_proof_names_what_is_wrong() {
    let mut world = World::new();
    let commit = world.install();
    world.write("src/app.py", b"print('0ne')\n");
    world.write("extra", b"x");
    std::fs::set_permissions(world.file("README.md"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::remove_file(world.file("src/util.py")).unwrap();
    let failure = told(&world.tree().prove(&commit, &[]).unwrap_err());
    for line in [
        "src/app.py: has other bytes",
        "README.md: has another executable bit",
        "src/util.py: is missing",
        "extra: is not in the commit",
    ] {
        assert!(failure.contains(line), "{failure}");
    }
}

#[test]
fn what_is_not_a_repository_of_its_own_is_told() {
    let mut world = World::new();
    assert_eq!(world.tree().inspect().unwrap().kind, TreeKind::Absent);
    let commit = world.install();
    world.write("NAME/.git/HEAD", b"ref: refs/heads/main\n");
    let state = world.tree().inspect().unwrap();
    assert_eq!(state.kind, TreeKind::Repository);
    assert_eq!(state.head, Some(Head::Branch("main".to_owned())));
    assert_eq!(state.commit, Some(commit.clone()));
    assert_eq!(state.nested, [TreePath::from(std::path::Path::new("NAME"))]);
    std::fs::remove_dir_all(world.file(".git")).unwrap();
    assert_eq!(world.tree().inspect().unwrap().kind, TreeKind::NoRepository);
    assert!(world.save("r1", &commit).is_err());
    assert!(world.tree().clone_from(&world.mirror(), &branch("main"), &commit).is_err());
    world.write(".git", b"gitdir: /elsewhere\n");
    assert_eq!(world.tree().inspect().unwrap().kind, TreeKind::ForeignRepository);
}

#[test]
fn root_leaves_no_file_of_its_own_in_a_tree_of_somebody_else() {
    let Some(owner) = stranger() else { return };
    let mut world = World::owned_by(owner);
    world.install();
    world.write("stray/deep", b"x");
    world.write("src/app.py", b"mine");
    world.commit(&[("src/app.py", "print('two')\n"), ("new/folder/file", "1\n")]);
    world.synced("r1", "main");
    assert_eq!(foreign(&world.layout.home(), owner), [] as [std::path::PathBuf; 0]);
    let saved = world.layout.run(&run("r1")).join("saved");
    assert_eq!(foreign(&saved, owner), [] as [std::path::PathBuf; 0]);
    assert_eq!(std::fs::metadata(&saved).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_the_owner_cannot_remove_is_found_with_the_command_that_repairs_it() {
    let Some(owner) = stranger() else { return };
    let mut world = World::owned_by(owner);
    world.install();
    assert_eq!(world.tree().unremovable().unwrap(), []);
    std::fs::create_dir(world.file("logs")).unwrap();
    std::fs::write(world.file("logs/x"), "x").unwrap();
    let found = world.tree().unremovable().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].repair == "ladylinux-refresh init --repair-layout", "{found:?}");
    assert!(found[0].reason.contains("uid 0"), "{found:?}");
}

/// Another user, where this test may act as one.
fn stranger() -> Option<Owner> {
    if rustix::process::geteuid().is_root() {
        return Some(Owner { uid: 1234, gid: 1234 });
    }
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        b"SKIPPED in part: only root can work for another user\n",
    );
    None
}
