//! Renames move the prepared tree in and the kept files across.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{deploy, installation, prepare, previous, read, service_user};
use crate::dice::print_line;
use crate::git as common;
use crate::git::{World, message, run};
use refresh_installation::journal::recover;
use refresh_source::aligner::Aligner;
use refresh_source::exchange;
use refresh_source::exchange::{Exchange, Exchanges, Plan};
use refresh_source::kept_path::{KeptPath, Reason};
use refresh_source::move_in;

#[test]
fn rw_5_2c_ignored_files_and_databases_move_across_and_the_rest_stays_in_the_previous_tree() {
    let world = World::owned_by(service_user());
    world.commit(&[(".gitignore", "*.old\n"), ("tracked.db", "empty\n"), ("was-tracked.log", "x\n")]);
    let on = installation(&world, "");
    let (first, _) = deploy(&world, &on, "r1", &[]);
    fs::remove_file(world.upstream().join("was-tracked.log")).unwrap();
    world.commit(&[
        (".gitignore", ".env\ncache/\n*.sqlite\n*.log\n*-wal\nbuilt/brought\n"),
        ("built/brought2", "new\n"),
    ]);
    world.remote_git(&["add", "-f", "."]);
    for (path, content) in [
        (".env", "SECRET=1"),
        ("cache/deep/x", "cached"),
        ("data/app.sqlite", "rows"),
        ("data/app.sqlite-wal", "newer rows"),
        ("data/app.sqlite-shm", "index"),
        ("data/app.sqlite-journal", "journal"),
        ("tracked.db-wal", "of the old tracked one"),
        ("src/__pycache__/x.pyc", "bytecode"),
        ("notes.old", "was ignored"),
        ("notes.txt", "untracked"),
        ("deep/er/x.log", "log"),
        ("deep/er/x.txt", "untracked"),
        ("store.sqlite.wal", "of another database"),
        ("store.sqlite", "of another database"),
    ] {
        world.write(path, content.as_bytes());
    }
    let inode = fs::metadata(world.file("data/app.sqlite")).unwrap().ino();
    let (_, moved) = deploy(&world, &on, "r2", &[first]);
    assert_eq!(fs::metadata(world.file("data/app.sqlite")).unwrap().ino(), inode, "it was copied");
    for (path, content) in [
        (".env", "SECRET=1"),
        ("cache/deep/x", "cached"),
        ("data/app.sqlite", "rows"),
        ("data/app.sqlite-wal", "newer rows"),
        ("data/app.sqlite-shm", "index"),
        ("data/app.sqlite-journal", "journal"),
        ("deep/er/x.log", "log"),
        ("notes.old", "was ignored"),
        ("store.sqlite.wal", "of another database"),
    ] {
        assert_eq!(world.read(path), content, "{path}");
    }
    let old = previous(&on, "r2");
    for path in ["tracked.db-wal", "notes.txt", "deep/er/x.txt", "was-tracked.log", "src/__pycache__/x.pyc"] {
        assert!(!world.file(path).exists(), "{path} moved across");
        assert!(old.join(path).exists(), "{path} is lost");
    }
    assert!(old.join(".git/HEAD").exists(), "the old repository is lost");
    let named: Vec<String> = moved.carried.moved.iter().map(|kept| kept.path.to_string()).collect();
    assert!(named.contains(&".env".to_owned()) && named.contains(&"cache".to_owned()), "{named:?}");
    assert_eq!(common::foreign(&world.app(), world.owner), Vec::<PathBuf>::new());
    let record = exchange::finished(&on.layout, &run("r2")).unwrap().unwrap();
    assert_eq!(record.kept.len(), named.len());
}

#[test]
fn rw_5_2c_files_that_the_service_writes_after_the_first_list_move_across_too() {
    let world = World::owned_by(service_user());
    world.commit(&[(".gitignore", "*.log\nlogs/\n"), ("state.json", "{}\n")]);
    let on = installation(&world, "preserve = [\"state.json\"]");
    let (first, _) = deploy(&world, &on, "r1", &[]);
    world.write("deep/er/first.log", b"first");
    world.write("logs/first", b"first");
    let id = run("r2");
    let tree = prepare(&on, &id, "main").unwrap();
    fs::create_dir_all(on.layout.run(&id)).unwrap();
    let mut aligner = Aligner::start(&on).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    aligner.list_beforehand(&on, &tree.commit, std::slice::from_ref(&first));
    world.write("deep/er/second.log", b"second");
    world.write("logs/second", b"second");
    world.write("state.json", b"{\"by\": \"hand\"}\n");
    move_in::move_in(&on, &id, &tree.commit, &[first], aligner).unwrap();
    for (path, content) in [
        ("deep/er/first.log", "first"),
        ("deep/er/second.log", "second"),
        ("logs/first", "first"),
        ("logs/second", "second"),
        ("state.json", "{\"by\": \"hand\"}\n"),
    ] {
        assert_eq!(world.read(path), content, "{path}");
    }
}

#[test]
fn ignored_files_stay_in_the_previous_tree_if_the_host_asks_for_that() {
    let world = World::new();
    world.commit(&[(".gitignore", "*.log\n")]);
    let on = installation(&world, "ignored = \"stash\"\npreserve = [\"kept/**\"]");
    let (first, _) = deploy(&world, &on, "r1", &[]);
    world.write("x.log", b"log");
    world.write("kept/x.log", b"kept");
    deploy(&world, &on, "r2", &[first]);
    assert!(!world.file("x.log").exists());
    assert_eq!(world.read("kept/x.log"), "kept");
    assert_eq!(read(previous(&on, "r2").join("x.log")), "log");
}

#[test]
fn preserved_files_win_over_the_commit_only_if_they_were_changed() {
    let world = World::owned_by(service_user());
    world.commit(&[("config/user.json", "1\n"), ("config/other.json", "1\n"), (".gitignore", "state/\n")]);
    let on = installation(&world, "preserve = [\"config/*.json\", \"state/keep/**\", \"plain\"]");
    let (first, _) = deploy(&world, &on, "r1", &[]);
    world.write("config/user.json", b"mine");
    world.write("state/keep/a", b"a");
    world.write("plain", b"plain");
    world.commit(&[("config/user.json", "2\n"), ("config/other.json", "2\n")]);
    let (_, moved) = deploy(&world, &on, "r2", &[first]);
    assert_eq!(world.read("config/user.json"), "mine");
    assert_eq!(world.read("config/other.json"), "2\n", "no process has changed it");
    assert_eq!(world.read("state/keep/a"), "a");
    assert_eq!(world.read("plain"), "plain");
    assert_eq!(moved.carried.left, []);
    assert_eq!(world.app_git(&["status", "--porcelain"]), " M config/user.json\n?? plain");
}

#[test]
fn a_file_of_the_commit_is_not_overwritten_by_an_ignored_file() {
    let world = World::new();
    world.commit(&[(".gitignore", "*.conf\n")]);
    let on = installation(&world, "");
    let (first, _) = deploy(&world, &on, "r1", &[]);
    world.write("a.conf", b"mine");
    world.write("d.conf/inner.conf", b"mine");
    fs::write(world.upstream().join("a.conf"), "of the commit").unwrap();
    fs::write(world.upstream().join("d.conf"), "of the commit").unwrap();
    world.remote_git(&["add", "-f", "a.conf", "d.conf"]);
    world.commit_all();
    deploy(&world, &on, "r2", &[first]);
    assert_eq!(world.read("a.conf"), "of the commit");
    assert_eq!(world.read("d.conf"), "of the commit");
    assert_eq!(read(previous(&on, "r2").join("a.conf")), "mine");
    assert_eq!(read(previous(&on, "r2").join("d.conf/inner.conf")), "mine");
}

#[test]
fn rw_7_1a_an_exchange_that_was_cut_off_at_any_rename_is_completed_from_its_record() {
    let world = World::owned_by(service_user());
    world.commit(&[(".gitignore", "*.log\n"), ("b/file", "0\n")]);
    let on = installation(&world, "");
    let (mut deployed, _) = deploy(&world, &on, "r0", &[]);
    let names = |path: &Path| -> Vec<std::ffi::OsString> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let mut states = 0;
    for number in 1.. {
        let id = run(&format!("r{number}"));
        world.write("x.log", format!("log {number}").as_bytes());
        world.write("notes.txt", format!("notes {number}").as_bytes());
        world.commit(&[("b/file", &format!("{number}\n"))]);
        let tree = prepare(&on, &id, "main").unwrap_or_else(|failure| panic!("{}", message(&failure)));
        fs::create_dir_all(on.layout.run(&id)).unwrap();
        let kept = vec![KeptPath { path: Path::new("x.log").into(), reason: Reason::Ignored }];
        let plan = Plan { commit: tree.commit.clone(), known: vec![deployed], kept };
        drop(Exchange::begin(&on.layout, &id, on.owner, plan).unwrap());
        // As many renames as the interruption lets through: first out, then in, then across.
        let (app, old, new) = (world.app(), on.layout.previous_tree(&id), on.layout.tree(&id));
        let mut moves: Vec<(PathBuf, PathBuf)> =
            names(&app).iter().map(|name| (app.join(name), old.join(name))).collect();
        moves.extend(names(&new).iter().map(|name| (new.join(name), app.join(name))));
        moves.push((old.join("x.log"), app.join("x.log")));
        let all = moves.len();
        moves.into_iter().take(number - 1).for_each(|(from, to)| fs::rename(from, to).unwrap());
        assert!(recover::Exchanges::is_unfinished(&Exchanges::of(&on), &id));
        assert!(recover::Exchanges::complete(&Exchanges::of(&on), &id).unwrap());
        assert!(!recover::Exchanges::complete(&Exchanges::of(&on), &id).unwrap(), "it was completed twice");
        assert_eq!(world.read("b/file"), format!("{number}\n"));
        assert_eq!(world.read("x.log"), format!("log {number}"));
        assert_eq!(read(old.join("notes.txt")), format!("notes {number}"));
        assert!(!world.file("notes.txt").exists() && !new.exists());
        assert_eq!(world.app_git(&["rev-parse", "HEAD"]), tree.commit.as_str());
        assert_eq!(world.app_git(&["status", "--porcelain"]), "");
        deployed = tree.commit;
        states += 1;
        if number > all {
            break;
        }
    }
    assert!(states > 12, "only {states} states were tried");
}

#[test]
fn an_entry_of_app_that_cannot_be_moved_is_found_before_the_stop() {
    let world = World::new();
    let on = installation(&world, "");
    exchange::check(&on.layout).unwrap();
    deploy(&world, &on, "r1", &[]);
    exchange::check(&on.layout).unwrap();
    let path = world.file("README.md");
    let chattr = |flag: &str| std::process::Command::new("chattr").arg(flag).arg(&path).status();
    if !chattr("+i").is_ok_and(|status| status.success()) {
        print_line("LEFT OUT: needs root and a file system with flags");
        return;
    }
    let found = exchange::check(&on.layout);
    assert!(chattr("-i").unwrap().success());
    let failure = message(&found.unwrap_err());
    assert!(failure.contains("README.md") && failure.contains("chattr -i"), "{failure}");
}

#[test]
fn a_lower_layer_of_an_overlay_is_refused_before_the_stop_and_its_copy_is_moved() {
    let world = World::new();
    let on = installation(&world, "");
    let (first, _) = deploy(&world, &on, "r1", &[]);
    prepare(&on, &run("r2"), "main").unwrap();
    exchange::check_borders(&on.layout, &run("r2")).unwrap();
    exchange::try_borders(&on.layout, &run("untried")).unwrap();
    if let Some(_home) = Mounted::at(&on.layout.home(), &["-t", "tmpfs", "tmpfs"]) {
        fs::create_dir_all(on.layout.app().join("src")).unwrap();
        let failure = exchange::check_borders(&on.layout, &run("r2")).unwrap_err();
        let hints = failure.hint_texts();
        assert!(
            hints.len() == 1 && hints[0].contains("beside app/"),
            "a copy has the same border: {hints:?}"
        );
    }
    let [upper, work] = ["upper", "work"].map(|name| world.directory.path().join(name));
    for directory in [&upper, &work] {
        fs::create_dir(directory).unwrap();
    }
    let root = on.layout.root().display();
    let options = format!("lowerdir={root},upperdir={},workdir={}", upper.display(), work.display());
    let Some(_mount) = Mounted::at(on.layout.root(), &["-t", "overlay", "-o", &options, "overlay"]) else {
        print_line("LEFT OUT: needs root and a file system that an overlay can have");
        return;
    };
    world.commit(&[("new", "1\n")]);
    prepare(&on, &run("r3"), "main").unwrap();
    let failure = exchange::check_borders(&on.layout, &run("r3")).unwrap_err();
    let unstaged = exchange::try_borders(&on.layout, &run("untried")).unwrap_err();
    assert_eq!(message(&unstaged), message(&failure));
    assert!(!on.layout.tree(&run("untried")).exists());
    let hint = failure.hint_texts().remove(0);
    let command = &hint[hint.find("cp -a").unwrap()..];
    let ended = std::process::Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    exchange::check_borders(&on.layout, &run("r3")).unwrap();
    deploy(&world, &on, "r3", &[first]);
    assert_eq!(world.read("new"), "1\n");
}

/// A mount that ends with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn at(point: &Path, arguments: &[&str]) -> Option<Self> {
        let mounted = std::process::Command::new("mount").args(arguments).arg(point).output();
        mounted.is_ok_and(|ended| ended.status.success()).then(|| Self(point.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}
