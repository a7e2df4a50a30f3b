//! The next tree is prepared beside the running one, verified, and moved in by renames (RW-5.2).
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests lay out files and start programs")]

use crate::git as common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{World, branch, plain_git, run, told};
use ladylinux_refresh::error::Outcome;
use ladylinux_refresh::event::Events;
use ladylinux_refresh::installation::Installation;
use ladylinux_refresh::journal::recover;
use ladylinux_refresh::process::{Owner, Runner};
use ladylinux_refresh::settings::layers::{Layers, Overrides};
use ladylinux_refresh::settings::names::{CommitId, RunId};
use ladylinux_refresh::source::aligner::Aligner;
use ladylinux_refresh::source::carry::Carried;
use ladylinux_refresh::source::exchange::{self, Exchange, Plan};
use ladylinux_refresh::source::kept::{KeptPath, Reason};
use ladylinux_refresh::source::move_in;
use ladylinux_refresh::source::place::Place;
use ladylinux_refresh::source::prepared_tree::{self, PreparedTree};
use ladylinux_refresh::source::proof::{self, ProveTreeRequest};

/// Something that happens to a tree.
type Damage = fn(&Path);

/// Another user, if the test may become one.
fn service_user() -> Owner {
    if rustix::process::geteuid().is_root() { Owner { uid: 61_874, gid: 61_874 } } else { Owner::own() }
}

/// The installation of a world, with more settings of the host.
fn installation(world: &World, settings: &str) -> Installation {
    let remote = format!(
        "{settings}\n[remote]\nurl = \"file://{}\"\nallow = [\"file\"]\n",
        world.upstream().display()
    );
    let layers = Layers::of_text(&world.layout, &remote, Overrides::default()).unwrap();
    let worker = PathBuf::from(env!("CARGO_BIN_EXE_ladylinux-refresh"));
    Installation::open(layers, Runner::new(Arc::new(Events::silent())).with_worker(worker)).unwrap()
}

fn python() -> PathBuf {
    PathBuf::from("/usr/bin/python3")
}

/// Fetches and prepares what a branch has.
fn prepare(on: &Installation, id: &RunId, name: &str) -> Outcome<PreparedTree> {
    let commit = on.mirror.ensure(id, &branch(name))?;
    on.mirror.check_supported(&commit)?;
    prepared_tree::prepare(on, id, &branch(name), &commit, Some(&python()))
}

/// What came of moving a tree in.
struct Moved {
    carried: Carried,
    /// How many files of the prepared tree have another inode, time or size in `app/`.
    rewritten: usize,
}

/// The inode, time and size of every file below a directory, without its repository.
fn stamps(top: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, u64)> {
    let mut stamps = BTreeMap::new();
    let mut directories = vec![top.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let (path, found) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            if !found.is_dir() {
                let stamp = (found.ino(), found.mtime(), found.mtime_nsec(), found.size());
                stamps.insert(path.strip_prefix(top).unwrap().to_path_buf(), stamp);
            } else if !path.ends_with(".git") {
                directories.push(path);
            }
        }
    }
    stamps
}

/// Fetches, prepares and moves in; afterwards `app/` has to be a clean checkout.
#[track_caller]
fn deploy(world: &World, on: &Installation, id: &str, known: &[CommitId]) -> (CommitId, Moved) {
    let id = run(id);
    let tree = prepare(on, &id, "main").unwrap_or_else(|failure| panic!("{}", told(&failure)));
    fs::create_dir_all(on.layout.run(&id)).unwrap();
    let prepared = stamps(&on.layout.tree(&id));
    let mut aligner = Aligner::start(on).unwrap();
    aligner.list_beforehand(on, &tree.commit, known);
    let carried = move_in::move_in(on, &id, &tree.commit, known, aligner)
        .unwrap_or_else(|failure| panic!("{}", told(&failure)));
    assert_eq!(world.app_git(&["rev-parse", "HEAD"]), tree.commit.as_str());
    assert!(!on.layout.tree(&id).exists(), "the prepared tree is left");
    let now = stamps(&world.app());
    let rewritten = prepared.iter().filter(|(path, stamp)| now.get(*path) != Some(stamp)).count();
    (tree.commit, Moved { carried, rewritten })
}

fn previous(on: &Installation, id: &str) -> PathBuf {
    on.layout.previous_tree(&run(id))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn rw_5_2b_a_reset_in_step_2_writes_none_of_400_files_again() {
    rewrites_nothing(400);
}

#[test]
fn rw_5_2b_a_reset_in_step_2_writes_none_of_20_000_files_again() {
    rewrites_nothing(20_000);
}

fn rewrites_nothing(count: usize) {
    let world = World::owned_by(service_user());
    for index in 0..count {
        let directory = world.upstream().join(format!("d{}", index % 40));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("f{index}.txt")), format!("{index}\n")).unwrap();
    }
    world.commit_all();
    let on = installation(&world, "");
    let (first, moved) = deploy(&world, &on, "r1", &[]);
    assert_eq!(moved.rewritten, 0, "of {count} files at the first deployment");
    let inode = fs::metadata(world.app()).unwrap().ino();
    world.commit(&[("d0/f0.txt", "another\n")]);
    let (_, moved) = deploy(&world, &on, "r2", &[first]);
    assert_eq!(moved.rewritten, 0, "of {count} files");
    assert_eq!(world.read("d0/f0.txt"), "another\n");
    assert_eq!(fs::metadata(world.app()).unwrap().ino(), inode, "app/ was replaced");
    assert_eq!(common::foreign(&world.app(), world.owner), Vec::<PathBuf>::new());
    assert_eq!(world.app_git(&["status", "--porcelain"]), "");
}

#[test]
fn rw_5_2b_a_first_deployment_needs_no_app_directory_and_leaves_no_previous_tree() {
    let world = World::owned_by(service_user());
    let on = installation(&world, "");
    assert!(!world.app().exists());
    let commit = on.mirror.ensure(&run("init"), &branch("main")).unwrap();
    prepared_tree::deploy_first(&on, &run("init"), &branch("main"), &commit).unwrap();
    assert_eq!(world.read("README.md"), "hello\n");
    assert_eq!(world.app_git(&["symbolic-ref", "--short", "HEAD"]), "main");
    assert_eq!(
        world.app_git(&["config", "remote.origin.url"]),
        format!("file://{}", world.upstream().display())
    );
    assert_eq!(world.app_git(&["rev-parse", "origin/main"]), commit.as_str());
    assert!(!previous(&on, "init").exists());
    let again = prepared_tree::deploy_first(&on, &run("init2"), &branch("main"), &commit).unwrap_err();
    assert!(told(&again).contains("is not empty"), "{}", told(&again));
}

#[test]
fn rw_5_2b_names_of_any_bytes_links_modes_and_conversions_are_those_of_a_clone() {
    let world = World::owned_by(service_user());
    let upstream = world.upstream();
    for name in
        [&b"\xff\xfe"[..], b"new\nline", b"tab\tquote\"", b":colon", b" space ", b"-dash", "ä€".as_bytes()]
    {
        let path = upstream.join(OsStr::from_bytes(name));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(OsStr::from_bytes(name)), name).unwrap();
    }
    std::os::unix::fs::symlink("src/app.py", upstream.join("link")).unwrap();
    std::os::unix::fs::symlink("/nonexistent/\u{e4}", upstream.join("dangling")).unwrap();
    fs::write(upstream.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(upstream.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    // Committed with both endings before there were attributes: git takes the second for changed in every clone.
    world.commit(&[("mixed.txt", "a\r\nb\n"), ("old.bat", "a\r\nb\r\n"), ("secret.txt", "x\n")]);
    world.commit(&[(
        ".gitattributes",
        "* text=auto\n*.bat text eol=crlf\nsecret.txt export-ignore\nutf16.txt text working-tree-encoding=UTF-16LE\n",
    )]);
    world.commit(&[("new.bat", "a\n")]);
    let on = installation(&world, "");
    deploy(&world, &on, "r1", &[]);
    let clone = world.directory.path().join("clone");
    plain_git(
        world.directory.path(),
        Owner::own(),
        &["clone", "--quiet", upstream.to_str().unwrap(), "clone"],
    );
    let listed = plain_git(&clone, Owner::own(), &["ls-files", "-z"]);
    let raw = std::process::Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(&clone)
        .output()
        .unwrap()
        .stdout;
    assert!(listed.len() > 10);
    let mut count = 0;
    for name in raw.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let (one, other) = (clone.join(OsStr::from_bytes(name)), world.file(OsStr::from_bytes(name)));
        let (expected, found) = (fs::symlink_metadata(&one).unwrap(), fs::symlink_metadata(&other).unwrap());
        assert_eq!(found.mode() & 0o100, expected.mode() & 0o100, "{}", other.display());
        if expected.is_symlink() {
            assert_eq!(fs::read_link(&other).unwrap(), fs::read_link(&one).unwrap());
        } else {
            assert_eq!(fs::read(&other).unwrap(), fs::read(&one).unwrap(), "{}", other.display());
        }
        count += 1;
    }
    assert!(count >= 17, "only {count} files were compared");
    assert_eq!(read(world.file("new.bat")), "a\r\n");
    assert!(world.file("secret.txt").exists(), "export-ignore is for archives");
}

#[test]
fn rw_5_2a_a_repository_with_sha_256_objects_is_followed() {
    let world = World::owned_by(service_user());
    fs::remove_dir_all(world.upstream().join(".git")).unwrap();
    world.remote_git(&["init", "--quiet", "--object-format=sha256"]);
    world.commit(&[("a", "1\n")]);
    let on = installation(&world, "");
    let (first, _) = deploy(&world, &on, "r1", &[]);
    assert_eq!(first.as_str().len(), 64);
    world.commit(&[("a", "2\n")]);
    let (second, moved) = deploy(&world, &on, "r2", std::slice::from_ref(&first));
    assert_ne!(first, second);
    assert_eq!((moved.rewritten, world.read("a").as_str()), (0, "2\n"));
    assert_eq!(on.mirror.changes(&first, &second).unwrap().coming, 1);
}

#[test]
fn rw_5_2b_a_tag_with_the_name_of_the_branch_is_not_taken_for_it() {
    let world = World::new();
    world.remote_git(&["tag", "main"]);
    world.remote_git(&["tag", "-a", "-m", "x", "other"]);
    let tip = world.commit(&[("a", "1\n")]);
    let on = installation(&world, "");
    let (commit, _) = deploy(&world, &on, "r1", &[]);
    assert_eq!(commit, tip);
    let failure = on.mirror.ensure(&run("r2"), &branch("other")).unwrap_err();
    assert!(told(&failure).contains("no branch other"), "{}", told(&failure));
}

#[test]
fn a_filter_is_a_reason_only_if_it_matches_a_tracked_file() {
    let world = World::new();
    let on = installation(&world, "");
    let attempt = |id: &str| prepare(&on, &run(id), "main");
    world.commit(&[
        (".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n*.md -filter\n"),
        (".gitmodules", ""),
    ]);
    attempt("r1").unwrap_or_else(|failure| panic!("{}", told(&failure)));
    world.commit(&[("deep/.gitattributes", "*.secret filter=git-crypt\n"), ("deep/a.secret", "x\n")]);
    let failure = told(&attempt("r2").unwrap_err());
    assert!(failure.contains("git-crypt") && failure.contains("deep/a.secret"), "{failure}");
    world.commit(&[("deep/.gitattributes", ""), ("model.bin", "x\n")]);
    let failure = told(&attempt("r3").unwrap_err());
    assert!(failure.contains("Git LFS") && failure.contains("model.bin"), "{failure}");
    fs::remove_file(world.upstream().join("model.bin")).unwrap();
    world.commit_all();
    attempt("r4").unwrap_or_else(|failure| panic!("{}", told(&failure)));
    let commit = world.tip();
    world.remote_git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},vendor/lib")]);
    world.remote_git(&["commit", "--quiet", "-m", "a submodule"]);
    let failure = told(&attempt("r5").unwrap_err());
    assert!(failure.contains("submodule") && failure.contains("vendor/lib"), "{failure}");
}

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
    ] {
        assert_eq!(world.read(path), content, "{path}");
    }
    let old = previous(&on, "r2");
    for path in [
        "tracked.db-wal",
        "notes.old",
        "notes.txt",
        "deep/er/x.txt",
        "was-tracked.log",
        "src/__pycache__/x.pyc",
    ] {
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
fn rw_5_2c_what_the_service_writes_after_the_list_was_made_beforehand_moves_across_as_well() {
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
    assert_eq!(world.read("config/other.json"), "2\n", "nobody has changed it");
    assert_eq!(world.read("state/keep/a"), "a");
    assert_eq!(world.read("plain"), "plain");
    assert_eq!(moved.carried.left, []);
    assert_eq!(world.app_git(&["status", "--porcelain"]), " M config/user.json\n?? plain");
}

#[test]
fn what_the_commit_brings_itself_is_not_overwritten_by_an_ignored_file() {
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
fn byte_code_is_compiled_before_the_stop_and_names_the_final_place() {
    let world = World::owned_by(service_user());
    let on = installation(&world, "");
    world.commit(&[("src/broken.py", "def (:\n")]);
    let (_, _) = deploy(&world, &on, "r1", &[]);
    let caches: Vec<PathBuf> =
        fs::read_dir(world.file("src/__pycache__")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(caches.len(), 2, "{caches:?}");
    let code = fs::read(&caches[0]).unwrap();
    let place = world.file("src").display().to_string();
    assert!(code.windows(place.len()).any(|window| window == place.as_bytes()), "{place} is not in it");
    let check = "import sys; sys.path.insert(0, sys.argv[1]); import util; print(util.__cached__)";
    let program = std::process::Command::new(python())
        .args(["-v", "-B", "-c", check])
        .arg(world.file("src"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&program.stderr).into_owned();
    assert!(
        said.contains("code object from") && said.contains("matches"),
        "the byte code is not used: {said}"
    );
    assert_eq!(world.app_git(&["status", "--porcelain"]), "");
}

#[test]
fn a_name_that_this_file_system_cannot_hold_is_refused_while_the_service_runs() {
    let world = World::new();
    let on = installation(&world, "");
    deploy(&world, &on, "r1", &[]);
    let object = world.remote_git(&["rev-parse", "HEAD:README.md"]);
    let long = "n".repeat(300);
    let listing = format!("100644 blob {object}\t{long}\n");
    let file = world.directory.path().join("listing");
    fs::write(&file, listing).unwrap();
    let tree = std::process::Command::new("git")
        .arg("mktree")
        .current_dir(world.upstream())
        .stdin(fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    let commit = world.remote_git(&["commit-tree", tree.trim(), "-p", "HEAD", "-m", "a long name"]);
    world.remote_git(&["update-ref", "refs/heads/main", &commit]);
    let failure = told(&prepare(&on, &run("r2"), "main").unwrap_err());
    assert!(failure.contains("cannot hold") && failure.contains("more than 255 bytes"), "{failure}");
    assert_eq!(world.read("README.md"), "hello\n");
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
        let tree = prepare(&on, &id, "main").unwrap_or_else(|failure| panic!("{}", told(&failure)));
        fs::create_dir_all(on.layout.run(&id)).unwrap();
        let kept = vec![KeptPath { path: Path::new("x.log").into(), reason: Reason::Ignored }];
        let plan = Plan { commit: tree.commit.clone(), known: vec![deployed], kept };
        drop(Exchange::begin(&on.layout, &id, on.owner, plan).unwrap());
        // As many renames as the cut lets through: first out, then in, then across.
        let (app, old, new) = (world.app(), on.layout.previous_tree(&id), on.layout.tree(&id));
        let mut moves: Vec<(PathBuf, PathBuf)> =
            names(&app).iter().map(|name| (app.join(name), old.join(name))).collect();
        moves.extend(names(&new).iter().map(|name| (new.join(name), app.join(name))));
        moves.push((old.join("x.log"), app.join("x.log")));
        let all = moves.len();
        moves.into_iter().take(number - 1).for_each(|(from, to)| fs::rename(from, to).unwrap());
        assert!(recover::Exchanges::is_unfinished(&on.exchanges(), &id));
        assert!(recover::Exchanges::complete(&on.exchanges(), &id).unwrap());
        assert!(!recover::Exchanges::complete(&on.exchanges(), &id).unwrap(), "it was completed twice");
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
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"LEFT OUT: needs root and a file system with flags\n",
        );
        return;
    }
    let found = exchange::check(&on.layout);
    assert!(chattr("-i").unwrap().success());
    let failure = told(&found.unwrap_err());
    assert!(failure.contains("README.md") && failure.contains("chattr -i"), "{failure}");
}

#[test]
fn a_tree_that_differs_from_its_commit_does_not_pass_the_proof() {
    let world = World::new();
    let on = installation(&world, "");
    let commit = on.mirror.ensure(&run("r1"), &branch("main")).unwrap();
    let damages: [(&str, Damage); 4] = [
        ("README.md", |tree| fs::write(tree.join("README.md"), "hallo\n").unwrap()),
        ("extra", |tree| fs::write(tree.join("extra"), "").unwrap()),
        ("src/app.py", |tree| fs::remove_file(tree.join("src/app.py")).unwrap()),
        ("src/util.py", |tree| {
            fs::set_permissions(tree.join("src/util.py"), fs::Permissions::from_mode(0o755)).unwrap();
        }),
    ];
    for (path, damage) in damages {
        prepared_tree::prepare(&on, &run("r1"), &branch("main"), &commit, None).unwrap();
        let tree = on.layout.tree(&run("r1"));
        damage(&tree);
        let scratch = tempfile::tempdir().unwrap();
        let git = ladylinux_refresh::settings::environment::find_program("git", false).unwrap();
        let place = Place {
            program: git.into(),
            configuration: on.layout.state().join("git").into(),
            mirror: on.layout.mirror().into(),
            scratch: scratch.path().into(),
        };
        let request = ProveTreeRequest { place, tree: tree.into(), commit: commit.clone() };
        let failure = told(&proof::handle(&request).unwrap_err());
        assert!(failure.contains(path), "{path}: {failure}");
    }
}
