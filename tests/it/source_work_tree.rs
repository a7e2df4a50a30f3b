//! A refresh replaces `app/` and its repository of any kind by the branch, and no existing file is lost.
#![expect(clippy::disallowed_methods, reason = "tests create the input of the program")]

use crate::dice::print_line;
use crate::git as common;
use crate::source;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::service::until;
use common::{World, branch, message, plain_git, run};
use refresh_git::locks;
use refresh_git::path::TreePath;
use refresh_source::exchange;
use refresh_source::prepared_tree;
use refresh_source::work_tree;
use refresh_source::work_tree::{Head, TreeKind};
use refresh_system::disk::Owner;
use refresh_system::disk::beneath::Obstacle;
use source::{deployed, installation, kept_tree, listed, local, refresh, refresh_to};

/// Another user, if the test may become one.
fn service_user() -> Owner {
    if rustix::process::geteuid().is_root() { Owner { uid: 61_874, gid: 61_874 } } else { Owner::own() }
}

#[test]
fn rw_5_2a_new_commits_are_fetched_into_the_applications_own_repository() {
    let mut world = deployed(service_user(), &[]);
    let tip = world.commit(&[("src/new.py", "new\n")]);
    assert!(refresh(&mut world, "r1").is_empty());
    assert_eq!(world.app_git(&["rev-parse", "origin/main"]), tip.as_str());
    assert_eq!(world.app_git(&["cat-file", "-t", tip.as_str()]), "commit");
    assert_eq!(world.app_git(&["log", "--format=%H", "--max-count=1", "origin/main~1"]).len(), 40);
    assert!(!world.layout.previous_tree(&run("r1")).exists(), "a tree without local changes is left");
}

#[test]
fn rw_5_2b_the_tree_is_reset_to_the_branch_from_any_checkout() {
    let mut world = deployed(service_user(), &[]);
    let first = world.deployed[0].clone();
    world.commit(&[("src/app.py", "print('two')\n")]);
    world.app_git(&["checkout", "--quiet", "-b", "local"]);
    world.write("src/app.py", b"print('mine')\n");
    assert_eq!(work_tree::of(&installation(&world)).unwrap().head, Some(Head::Branch("local".to_owned())));
    let kept = refresh(&mut world, "r1");
    assert_eq!(listed(&kept[0].changes), ["modified src/app.py"]);
    assert_eq!(world.read("src/app.py"), "print('two')\n");
    world.app_git(&["checkout", "--quiet", first.as_str()]);
    let state = work_tree::of(&installation(&world)).unwrap();
    assert_eq!((state.head, state.commit), (Some(Head::Detached(first.clone())), Some(first)));
    assert!(refresh(&mut world, "r2").is_empty());
    assert_eq!(world.read("src/app.py"), "print('two')\n");
}

#[test]
fn rw_5_2c_untracked_files_caches_and_empty_directories_are_gone_from_the_tree() {
    let mut world = deployed(service_user(), &[]);
    world.write("stray.txt", b"stray");
    world.write("src/__pycache__/app.cpython-312.pyc", b"code");
    world.write("nested/.git/HEAD", b"ref: refs/heads/main\n");
    fs::create_dir(world.file("empty")).unwrap();
    let kept = refresh(&mut world, "r1");
    assert_eq!(listed(&kept[0].changes), ["untracked nested", "untracked stray.txt"]);
    assert_eq!(world.app_git(&["status", "--porcelain", "--ignored"]), "");
    for gone in ["stray.txt", "src/__pycache__", "nested", "empty"] {
        assert!(!world.file(gone).exists(), "{gone}");
    }
    let kept = kept_tree(&world, "r1");
    assert_eq!(fs::read(kept.join("stray.txt")).unwrap(), b"stray");
    assert!(kept.join("nested/.git/HEAD").exists());
}

#[test]
fn a_forced_push_a_removed_file_and_a_file_that_becomes_a_directory_are_followed() {
    let mut world = deployed(service_user(), &[("src/gone.py", "x\n"), ("gone/a.py", "a\n")]);
    world.write("gone/__pycache__/a.cpython-312.pyc", b"code");
    world.remote_git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    world.commit(&[("src/other.py", "y\n")]);
    assert!(refresh(&mut world, "r1").is_empty());
    assert!(!world.file("src/gone.py").exists() && !world.file("gone").exists());
    let odd = OsStr::from_bytes(b"odd-\xff\xfe\nname");
    fs::write(world.upstream().join(odd), "tracked").unwrap();
    fs::remove_file(world.upstream().join("README.md")).unwrap();
    world.commit(&[("README.md/part", "1\n")]);
    world.write(OsStr::from_bytes(b"stray-\xff"), b"x");
    assert_eq!(listed(&refresh(&mut world, "r2")[0].changes), ["untracked stray-%FF"]);
    assert_eq!(fs::read(world.file(odd)).unwrap(), b"tracked");
    assert_eq!(world.read("README.md/part"), "1\n");
    world.remote_git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    assert!(refresh(&mut world, "r3").is_empty());
    assert_eq!(world.read("README.md"), "hello\n");
}

#[test]
fn a_branch_that_became_a_directory_of_branches_is_followed_both_ways() {
    let mut world = deployed(service_user(), &[]);
    for (round, (old, name)) in [("main", "x"), ("x", "x/y"), ("x/y", "x")].into_iter().enumerate() {
        world.remote_git(&["checkout", "--quiet", "--detach"]);
        world.remote_git(&["branch", "-D", old]);
        world.remote_git(&["checkout", "--quiet", "-b", name]);
        world.commit(&[("a", &format!("{round}\n"))]);
        assert!(refresh_to(&mut world, &format!("r{round}"), name).is_empty());
        assert_eq!(world.read("a"), format!("{round}\n"));
    }
}

#[test]
fn locks_in_the_repository_of_the_application_delay_no_refresh_with_or_without_a_holder() {
    let mut world = deployed(service_user(), &[]);
    let lock = world.file(".git/index.lock");
    fs::write(&lock, "").unwrap();
    fs::write(world.file(".git/refs/heads/main.lock"), "").unwrap();
    let found = work_tree::of(&installation(&world)).unwrap().locks;
    let found: Vec<&Path> = found.iter().map(TreePath::as_path).collect();
    assert_eq!(found, [world.file(".git/index.lock"), world.file(".git/refs/heads/main.lock")]);
    // Another process opens it: until their execve(2), the other children of this process have its open files.
    let mut holder = Command::new("sh").args(["-c", "exec sleep 600 <\"$0\""]).arg(&lock).spawn().unwrap();
    let expected = [format!("{} (sleep 600)", holder.id())];
    until("the lock is held", || (locks::holders(&world.app()) == expected).then_some(()));
    world.commit(&[("a", "1\n")]);
    refresh(&mut world, "r1");
    assert_eq!(holder.try_wait().unwrap(), None, "the process was ended");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(world.read("a"), "1\n");
    assert_eq!(work_tree::of(&installation(&world)).unwrap().locks, []);
    world.app_git(&["commit", "--quiet", "--allow-empty", "-m", "nothing is locked"]);
}

#[test]
fn files_and_directories_without_permission_bits_are_kept_as_they_are() {
    let mut world = deployed(service_user(), &[]);
    world.write("private/note", b"n");
    world.write("src/app.py", b"changed");
    for path in ["src/util.py", "private", "src/app.py"] {
        fs::set_permissions(world.file(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let kept = refresh(&mut world, "r1");
    assert!(kept[0].changes.not_comparable.is_some(), "{kept:?}");
    assert_eq!(world.read("src/util.py"), "x = 1\n");
    assert_eq!(world.read("src/app.py"), "print('one')\n");
    let kept = kept_tree(&world, "r1");
    for (path, content) in
        [("private/note", &b"n"[..]), ("src/app.py", b"changed"), ("src/util.py", b"x = 1\n")]
    {
        let closed = if path.starts_with("private") { kept.join("private") } else { kept.join(path) };
        assert_eq!(fs::metadata(&closed).unwrap().permissions().mode() & 0o777, 0, "{path}");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(fs::read(kept.join(path)).unwrap(), content, "{path}");
    }
}

#[test]
fn a_change_of_attributes_rewrites_the_files_it_concerns() {
    let mut world = deployed(service_user(), &[]);
    world.commit(&[(".gitattributes", "*.md text eol=crlf\n")]);
    assert!(refresh(&mut world, "r1").is_empty());
    assert_eq!(world.read("README.md"), "hello\r\n");
    fs::remove_file(world.upstream().join(".gitattributes")).unwrap();
    world.commit_all();
    assert!(refresh(&mut world, "r2").is_empty());
    assert_eq!(world.read("README.md"), "hello\n");
}

#[test]
fn a_filter_of_the_trees_repository_is_run_by_no_step() {
    let mut world = deployed(service_user(), &[(".gitattributes", "* filter=x\n")]);
    world.preserve = vec!["README.md".to_owned()];
    let trap = world.directory.path().join("trap");
    let command = format!("touch {}; false", trap.display());
    for (key, value) in [("clean", &*command), ("smudge", &*command), ("required", "true")] {
        plain_git(
            &world.app(),
            world.owner,
            &["config", "--file", ".git/config", &format!("filter.x.{key}"), value],
        );
    }
    // Of the same length as the committed ones: git must read them, through the filter, to find the difference.
    world.write("README.md", b"HELLO\n");
    world.write("src/util.py", b"x = 2\n");
    assert_eq!(
        listed(&local(&world)),
        ["modified README.md*", "modified src/util.py", "git state .git/config"]
    );
    world.commit(&[("src/app.py", "print('two')\n")]);
    assert_eq!(
        listed(&refresh(&mut world, "r1")[0].changes),
        ["modified src/util.py", "git state .git/config"]
    );
    assert_eq!(world.read("README.md"), "HELLO\n");
    assert_eq!(world.read("src/app.py"), "print('two')\n");
    assert!(!trap.exists());
}

#[test]
fn a_damaged_repository_is_kept_and_replaced() {
    let mut world = deployed(service_user(), &[]);
    world.commit(&[("src/app.py", "print('two')\n")]);
    world.write("mine", b"mine");
    let objects = world.file(".git/objects");
    fs::remove_dir_all(&objects).unwrap();
    world.write(".git/objects", b"");
    world.write(".git/HEAD", b"");
    let state = work_tree::of(&installation(&world)).unwrap();
    assert_eq!((state.kind, state.head, state.commit), (TreeKind::Repository, Some(Head::Broken), None));
    let kept = refresh(&mut world, "r1");
    assert!(kept[0].changes.not_comparable.is_some(), "{kept:?}");
    assert_eq!(fs::read(kept_tree(&world, "r1").join("mine")).unwrap(), b"mine");
    assert_eq!(world.read("src/app.py"), "print('two')\n");
    assert_eq!(world.app_git(&["status", "--porcelain"]), "");
    world.app_git(&["fsck", "--full"]);
}

#[test]
fn an_app_that_is_not_a_separate_repository_is_reported_and_never_overwritten() {
    let world = World::owned_by(service_user());
    let state = || work_tree::of(&installation(&world)).unwrap();
    assert_eq!(state().kind, TreeKind::Absent);
    let on = installation(&world);
    let commit = on.mirror.ensure(&run("init"), &branch("main")).unwrap();
    let deploy = |id: &str| prepared_tree::deploy_first(&on, &run(id), &branch("main"), &commit);
    deploy("init").unwrap();
    let found = state();
    assert_eq!(found.kind, TreeKind::Repository);
    assert_eq!(found.head, Some(Head::Branch("main".to_owned())));
    assert_eq!(found.commit, Some(commit.clone()));
    assert_eq!(found.origin, Some(format!("file://{}", world.upstream().display())));
    fs::remove_dir_all(world.file(".git")).unwrap();
    assert_eq!(state().kind, TreeKind::NoRepository);
    assert!(message(&deploy("r1").unwrap_err()).contains("is not empty"));
    world.write(".git", b"gitdir: /elsewhere\n");
    assert_eq!(state().kind, TreeKind::ForeignRepository);
    assert!(message(&deploy("r2").unwrap_err()).contains("is not empty"));
    assert_eq!(world.read("README.md"), "hello\n");
}

#[test]
fn a_repository_that_would_block_git_is_read_without_it() {
    let mut world = deployed(service_user(), &[]);
    let commit = world.deployed[0].clone();
    assert_eq!(work_tree::of(&installation(&world)).unwrap().commit, Some(commit));
    fs::remove_file(world.file(".git/HEAD")).unwrap();
    for name in ["HEAD", "packed-refs"] {
        assert!(Command::new("mkfifo").arg(world.file(".git").join(name)).status().unwrap().success());
    }
    let state = work_tree::of(&installation(&world)).unwrap();
    assert_eq!((state.head, state.commit, state.origin), (Some(Head::Broken), None, None));
    world.write("mine", b"mine");
    assert!(refresh(&mut world, "r1")[0].changes.not_comparable.is_some());
}

#[test]
fn files_of_root_in_the_tree_hinder_no_refresh_and_are_not_lost() {
    if !rustix::process::geteuid().is_root() {
        print_line("LEFT OUT: needs root");
        return;
    }
    let mut world = deployed(service_user(), &[(".gitignore", "state/\n")]);
    for (path, content) in [
        ("README.md", "root's"),
        ("note", "root's"),
        ("logs/deep/x", "x"),
        ("closed/x", "x"),
        ("state/closed/db", "rows"),
        ("LadyLinux/.git/HEAD", "ref: refs/heads/main\n"),
        (".git/objects/ff/root", "x"),
    ] {
        let path = world.file(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
    }
    for path in ["README.md", "note", "closed", "state/closed"] {
        fs::set_permissions(world.file(path), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let on = installation(&world);
    let state = work_tree::of(&on).unwrap();
    assert_eq!(state.immovable, []);
    exchange::check(&on.layout).unwrap();
    let next = world.commit(&[("README.md", "two\n")]);
    let kept = refresh(&mut world, "r1");
    assert!(kept[0].changes.not_comparable.is_some(), "{kept:?}");
    assert_eq!(
        (world.read("README.md"), world.app_git(&["rev-parse", "HEAD"])),
        ("two\n".into(), next.to_string())
    );
    assert_eq!(world.read("state/closed/db"), "rows", "what git ignores moves across");
    let kept = kept_tree(&world, "r1");
    for (path, content) in [
        ("README.md", "root's"),
        ("note", "root's"),
        ("logs/deep/x", "x"),
        ("closed/x", "x"),
        ("LadyLinux/.git/HEAD", "ref: refs/heads/main\n"),
    ] {
        assert_eq!(fs::read_to_string(kept.join(path)).unwrap(), content, "{path}");
        assert!(path == "README.md" || !world.file(path).exists(), "{path} is left");
    }
}

#[test]
fn an_entry_that_cannot_be_moved_is_found_at_any_depth_and_refused_with_its_repair() {
    let world = deployed(service_user(), &[(".gitignore", "state/\n")]);
    world.write("state/deep/db", b"rows");
    let path = world.file("state/deep/db");
    let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(&path).status();
    for (set, clear, obstacle) in [("+i", "-i", Obstacle::Immutable), ("+a", "-a", Obstacle::AppendOnly)] {
        if !chattr(set).is_ok_and(|status| status.success()) {
            print_line("LEFT OUT: needs root and a file system with flags");
            return;
        }
        let found = work_tree::of(&installation(&world)).unwrap().immovable;
        assert!(chattr(clear).unwrap().success());
        let paths: Vec<(&Path, Obstacle)> =
            found.iter().map(|entry| (entry.path.as_path(), entry.obstacle)).collect();
        assert_eq!(paths, [(&*path, obstacle)]);
        let failure = message(&exchange::immovable(paths[0].0, paths[0].1));
        assert!(failure.contains(&format!("chattr {clear} {}", path.display())), "{failure}");
    }
}
