//! Local changes are never lost: observed, saved, preserved, restored.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::unwrap_used,
    reason = "tests arrange the world that the program finds"
)]

#[path = "common/git.rs"]
mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{World, branch, run, told};
use ladylinux_refresh::clock;
use ladylinux_refresh::git::drift::DriftKind;
use ladylinux_refresh::git::path::TreePath;
use ladylinux_refresh::git::preserve::PutBack;
use ladylinux_refresh::git::restore::{Present, Restore};
use ladylinux_refresh::git::saved::SavedKind;
use ladylinux_refresh::git::show::Shown;
use ladylinux_refresh::git::{align, made, save, tree};
use ladylinux_refresh::process::Owner;
use ladylinux_refresh::settings::environment;

fn path(text: &str) -> TreePath {
    Path::new(text).into()
}

fn saved(world: &World, id: &str) -> PathBuf {
    world.layout.run(&run(id)).join("saved")
}

fn everything() -> Restore {
    Restore { paths: Vec::new(), present: Present::Refuse }
}

#[test]
fn every_kind_of_difference_is_observed_and_nothing_is_changed() {
    let mut world = World::new();
    world.install();
    world.write("src/app.py", b"mine\n");
    world.write("folder/a", b"x");
    world.write("alone", b"x");
    world.write("src/__pycache__/app.cpython-312.pyc", b"x");
    std::fs::remove_file(world.file("src/util.py")).unwrap();
    std::fs::set_permissions(world.file("README.md"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let before = world.app_git(&["status", "--porcelain"]);
    let drift = world.tree().drift(&[], &["alone".to_owned()]).unwrap();
    let kinds: Vec<(String, DriftKind, bool)> =
        drift.items.iter().map(|item| (item.path.encoded(), item.kind, item.preserved)).collect();
    let expected = [
        ("README.md", DriftKind::Mode, false),
        ("src/app.py", DriftKind::Modified, false),
        ("src/util.py", DriftKind::Deleted, false),
        ("folder", DriftKind::UntrackedFolder, false),
        ("alone", DriftKind::Untracked, true),
    ];
    assert_eq!(kinds, expected.map(|(path, kind, kept)| (path.to_owned(), kind, kept)));
    assert_eq!(world.app_git(&["status", "--porcelain"]), before);
    assert!(!drift.is_none());
}

#[test]
fn what_was_written_before_the_hooks_began_is_none_of_their_products() {
    let mut world = World::new();
    world.install();
    world.write("static/before", b"a person's");
    world.write("src/app.py", b"a person's\n");
    let since = clock::between_changes().unwrap();
    world.write("static/after", b"a hook's");
    world.write("made/deep/file", b"a hook's");
    world.write("src/util.py", b"a hook's\n");
    clock::between_changes().unwrap();
    let commit = world.deployed[0].clone();
    world.tree().record_made(&commit, &[], since).unwrap();
    let paths = || -> Vec<String> {
        let drift = world.tree().drift(&[], &[]).unwrap();
        drift.items.iter().map(|item| item.path.encoded()).collect()
    };
    assert_eq!(paths(), ["src/app.py", "static"]);
    // Whoever sets the old time again does not hide an edit.
    let made = world.file("made/deep/file");
    let modified = std::fs::metadata(&made).unwrap().modified().unwrap();
    world.write("made/deep/file", b"a kook's");
    std::fs::File::options().write(true).open(&made).unwrap().set_modified(modified).unwrap();
    assert_eq!(paths(), ["src/app.py", "made", "static"]);
    // A list that cannot be read vouches for nothing.
    std::fs::write(world.layout.made_file(), b"{").unwrap();
    assert_eq!(paths(), ["src/app.py", "src/util.py", "made", "static"]);
}

#[test]
fn a_modified_file_is_saved_with_content_and_patch_and_comes_back() {
    let mut world = World::new();
    world.install();
    world.write("src/app.py", b"print('mine')\n");
    world.synced("r1", "main");
    let place = saved(&world, "r1");
    assert_eq!(std::fs::read_to_string(place.join("files/src/app.py")).unwrap(), "print('mine')\n");
    let patch = std::fs::read_to_string(place.join("worktree.patch")).unwrap();
    assert!(patch.contains("-print('one')") && patch.contains("+print('mine')"), "{patch}");
    let restored = world.tree().restore(&run("r1"), everything()).unwrap();
    assert_eq!(restored.paths, [path("src/app.py")]);
    assert_eq!(world.read("src/app.py"), "print('mine')\n");
}

#[test]
fn an_untracked_folder_is_moved_as_it_is_and_costs_nothing() {
    let mut world = World::new();
    world.install();
    world.write("big/inner/blob", b"5 GB");
    let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
    let before = (inode(world.file("big")), inode(world.file("big/inner/blob")));
    let (_, done, _) = world.synced("r1", "main");
    let place = saved(&world, "r1").join("untracked");
    assert_eq!(before, (inode(place.join("big")), inode(place.join("big/inner/blob"))));
    assert_eq!(done.items[0].kind, SavedKind::UntrackedFolder);
    world
        .tree()
        .restore(&run("r1"), Restore { paths: vec![path("big/inner")], present: Present::Refuse })
        .unwrap();
    assert_eq!(world.read("big/inner/blob"), "5 GB");
}

#[test]
fn a_nested_repository_and_ignored_files_are_moved_whole() {
    let mut world = World::new();
    world.commit(&[(".gitignore", "*.db\n")]);
    world.install();
    let nested = world.file("NESTED");
    world.write("NESTED/file", b"x");
    common::plain_git(&nested, world.owner, &["init", "--quiet"]);
    world.write("src/state.db", b"rows");
    world.synced("r1", "main");
    let place = saved(&world, "r1").join("untracked");
    assert!(place.join("NESTED/.git/HEAD").exists());
    assert_eq!(std::fs::read(place.join("src/state.db")).unwrap(), b"rows");
}

#[test]
fn a_restore_never_replaces_another_file_unless_told() {
    let mut world = World::new();
    world.install();
    world.write("note", b"old");
    world.synced("r1", "main");
    world.write("note", b"new");
    let failure = world.tree().restore(&run("r1"), everything()).unwrap_err();
    assert!(told(&failure).contains("note"), "{}", told(&failure));
    assert_eq!(world.read("note"), "new");
    world
        .tree()
        .restore(&run("r1"), Restore { paths: vec![path("note")], present: Present::Replace })
        .unwrap();
    assert_eq!(world.read("note"), "old");
    assert!(world.tree().restore(&run("r9"), everything()).is_err());
    let missing = Restore { paths: vec![path("nothing")], present: Present::Refuse };
    assert!(world.tree().restore(&run("r1"), missing).is_err());
}

#[test]
fn a_restore_never_puts_an_old_file_over_one_that_changed_upstream() {
    let mut world = World::new();
    world.commit(&[("gone.py", "old\n"), ("exec.sh", "old\n"), ("dropped", "old\n")]);
    world.install();
    world.write("README.md", b"mine\n");
    world.write("src/app.py", b"mine\n");
    world.write("gone.py", b"mine\n");
    world.write("fresh", b"mine\n");
    std::fs::set_permissions(world.file("exec.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::remove_file(world.file("dropped")).unwrap();
    world.remote_git(&["rm", "--quiet", "gone.py"]);
    world.commit(&[("src/app.py", "theirs\n"), ("exec.sh", "theirs\n"), ("fresh", "theirs\n")]);
    world.synced("r1", "main");
    let before = world.app_git(&["status", "--porcelain", "--ignored"]);
    let failure = told(&world.tree().restore(&run("r1"), everything()).unwrap_err());
    for path in ["src/app.py", "exec.sh", "fresh"] {
        assert!(failure.contains(&format!("{path} changed upstream since it was saved")), "{failure}");
    }
    assert!(failure.contains("gone.py was removed upstream since it was saved"), "{failure}");
    assert!(!failure.contains("README.md") && failure.contains("--overwrite"), "{failure}");
    assert_eq!(world.app_git(&["status", "--porcelain", "--ignored"]), before, "a refusal changes nothing");
    let only = |path_: &str, present| Restore { paths: vec![path(path_)], present };
    // What is as it was when the change was made takes the change; a deletion is told and not repeated.
    world.tree().restore(&run("r1"), only("README.md", Present::Refuse)).unwrap();
    assert_eq!(world.read("README.md"), "mine\n");
    let restored = world.tree().restore(&run("r1"), only("dropped", Present::Refuse)).unwrap();
    assert_eq!((restored.paths, restored.deleted), (vec![], vec![path("dropped")]));
    assert_eq!(world.read("dropped"), "old\n");
    world.tree().restore(&run("r1"), only("src/app.py", Present::Replace)).unwrap();
    assert_eq!(world.read("src/app.py"), "mine\n");
    // Once it is there, bringing it back again changes nothing and is no conflict.
    world.tree().restore(&run("r1"), only("src/app.py", Present::Refuse)).unwrap();
}

#[test]
fn a_restore_whose_folder_became_a_file_is_refused_before_it_begins() {
    let mut world = World::new();
    world.install();
    world.write("alone", b"mine");
    world.write("src/mine/file", b"mine");
    world.commit(&[("src/mine", "a file now\n")]);
    world.synced("r1", "main");
    let wanted = Restore { paths: vec![path("alone"), path("src/mine/file")], present: Present::Replace };
    let failure = told(&world.tree().restore(&run("r1"), wanted).unwrap_err());
    assert!(failure.contains("src/mine is no folder"), "{failure}");
    assert!(!world.file("alone").exists());
}

#[test]
fn what_was_saved_is_shown_and_no_link_in_it_followed() {
    let mut world = World::new();
    world.commit(&[("tööl \"1\".py", "one\n"), ("dropped", "x\n")]);
    world.install();
    world.write("tööl \"1\".py", b"mine\n");
    world.write("src/app.py", b"mine too\n");
    world.write("src/note", b"a note");
    world.write("folder/inner/file", b"inner");
    let large: Vec<u8> = (0..9_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    world.write("large", &large);
    std::fs::remove_file(world.file("dropped")).unwrap();
    std::fs::write(world.folder.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(world.folder.path().join("secret"), world.file("link")).unwrap();
    std::os::unix::fs::symlink(world.folder.path(), world.file("folder/away")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.file("folder/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    world.synced("r1", "main");
    let show = |what: &str| world.tree().show(&run("r1"), Path::new(what), 0);
    let Shown::Bytes(patch) = show("tööl \"1\".py").unwrap() else { panic!("it is a file") };
    let patch = String::from_utf8(patch).unwrap();
    assert!(patch.starts_with("diff --git ") && patch.ends_with("-one\n+mine\n"), "{patch}");
    assert!(!patch.contains("mine too"), "{patch}");
    assert_eq!(show("src").unwrap(), Shown::Folder(vec![path("src/app.py"), path("src/note")]));
    assert_eq!(show("src/note").unwrap(), Shown::Bytes(b"a note".to_vec()));
    assert_eq!(show("folder").unwrap(), Shown::Folder(vec![path("away"), path("inner/"), path("pipe")]));
    assert_eq!(show("folder/inner/file").unwrap(), Shown::Bytes(b"inner".to_vec()));
    assert_eq!(show("folder/pipe").unwrap(), Shown::Special);
    assert_eq!(show("dropped").unwrap(), Shown::Deleted);
    assert_eq!(show("link").unwrap(), Shown::Link(world.folder.path().join("secret").into()));
    for nothing in ["folder/away/secret", "folder/../../../secret", "README.md", "/etc/passwd", ""] {
        assert!(told(&show(nothing).unwrap_err()).contains("saved nothing at"), "{nothing}");
    }
    let mut whole = Vec::new();
    while let Shown::Bytes(bytes) =
        world.tree().show(&run("r1"), Path::new("large"), whole.len() as u64).unwrap()
        && !bytes.is_empty()
    {
        whole.extend(bytes);
    }
    assert!(whole == large, "a large file comes in parts that fit together");
}

#[test]
fn names_of_any_bytes_and_modes_come_back() {
    let mut world = World::new();
    world.install();
    let odd = OsStr::from_bytes(b"odd-\xff%41\n");
    world.write(odd, b"x");
    std::fs::set_permissions(world.file(odd), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("nowhere", world.file("dangling")).unwrap();
    world.synced("r1", "main");
    world.tree().restore(&run("r1"), everything()).unwrap();
    assert_eq!(std::fs::metadata(world.file(odd)).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_link(world.file("dangling")).unwrap(), Path::new("nowhere"));
}

#[test]
fn local_commits_and_every_stash_are_bundled_once_and_come_back() {
    let mut world = World::new();
    world.install();
    for content in ["first", "second"] {
        world.write("src/app.py", content.as_bytes());
        world.app_git(&["stash", "--quiet"]);
    }
    world.app_git(&["checkout", "--quiet", "-b", "idea"]);
    world.write("idea.py", b"idea");
    world.app_git(&["add", "-A"]);
    world.app_git(&["commit", "--quiet", "-m", "an idea"]);
    let idea = world.app_git(&["rev-parse", "HEAD"]);
    world.app_git(&["checkout", "--quiet", "main"]);
    world.write("README.md", b"mine");
    world.app_git(&["commit", "--quiet", "-am", "on main"]);
    let mine = world.app_git(&["rev-parse", "HEAD"]);
    let stashes = world.app_git(&["log", "--walk-reflogs", "--format=%H", "refs/stash"]);
    let (_, done, _) = world.synced("r1", "main");
    let names: Vec<&str> = done.tips.iter().map(|tip| tip.tip.name.as_str()).collect();
    assert!(
        ["heads/idea", "heads/main", "stash/0", "stash/1"].iter().all(|name| names.contains(name)),
        "{names:?}"
    );
    assert!(!names.contains(&"HEAD"), "it is the commit of main: {names:?}");
    // The next run finds idea and the stashes again, knows that they are safe, and leaves no place for them alone.
    let (_, again, _) = world.synced("r2", "main");
    assert!(
        !again.tips.is_empty() && again.tips.iter().all(|tip| tip.held_by == Some(run("r1"))),
        "{again:?}"
    );
    assert!(!saved(&world, "r2").exists());
    // With something else to save it says where they are.
    world.write("note", b"x");
    world.synced("r3", "main");
    assert!(!saved(&world, "r3").join("commits.bundle").exists());
    assert!(world.tree().prune(&run("r1")).is_err(), "r3 relies on it");
    // Even a repository from nothing gets them back.
    std::fs::remove_dir_all(world.app()).unwrap();
    let commit = world.mirror().pinned(&run("r3")).unwrap().unwrap();
    world.tree().clone_from(&world.mirror(), &branch("main"), &commit).unwrap();
    let restored = world.tree().restore(&run("r1"), everything()).unwrap();
    assert!(restored.refs.contains(&"refs/saved/r1/heads/idea".to_owned()), "{restored:?}");
    assert_eq!(world.app_git(&["rev-parse", "refs/saved/r1/heads/idea"]), idea);
    assert_eq!(world.app_git(&["rev-parse", "refs/saved/r1/heads/main"]), mine);
    for (index, stash) in stashes.lines().enumerate() {
        assert_eq!(world.app_git(&["rev-parse", &format!("refs/saved/r1/stash/{index}")]), stash);
    }
    world.app_git(&["fsck", "--full"]);
    // The names that the restore made are no local changes of their own.
    let (_, after, _) = world.synced("r4", "main");
    assert!(after.tips.is_empty(), "{after:?}");
    assert!(!saved(&world, "r4").exists());
}

#[test]
fn local_commits_of_a_repository_whose_head_is_broken_are_kept() {
    let stranger = Owner { uid: 1234, gid: 1234 };
    let owner = if rustix::process::geteuid().is_root() { stranger } else { Owner::own() };
    let mut world = World::owned_by(owner);
    world.install();
    for (id, is_closed) in [("r1", false), ("r2", true)] {
        world.write("README.md", id.as_bytes());
        world.app_git(&["commit", "--quiet", "-am", "on main"]);
        let mine = world.app_git(&["rev-parse", "HEAD"]);
        if is_closed {
            let closed = std::fs::Permissions::from_mode(0o000);
            std::fs::set_permissions(world.file(".git/HEAD"), closed).unwrap();
        } else {
            world.write(".git/HEAD", b"");
        }
        let (_, done, aligned) = world.synced(id, "main");
        let told = "the whole repository was kept";
        assert!(done.notes.iter().any(|note| note.contains(told)), "{done:?}");
        // The closed one was opened to be copied, and is whole.
        let mended = "HEAD of the application's repository was broken";
        assert_eq!(aligned.notes.iter().any(|note| note.contains(mended)), !is_closed, "{aligned:?}");
        let kept = saved(&world, id).join("repository.git");
        std::fs::remove_file(kept.join("HEAD")).unwrap();
        std::fs::write(kept.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        assert_eq!(common::plain_git(&kept, owner, &["rev-parse", "main"]), mine);
        assert_eq!(common::plain_git(&kept, owner, &["show", "main:README.md"]), id);
        common::plain_git(&kept, owner, &["fsck", "--full"]);
    }
}

#[test]
fn staged_content_that_is_nowhere_else_is_saved_as_a_patch() {
    let mut world = World::new();
    world.install();
    world.write("src/app.py", b"staged\n");
    world.app_git(&["add", "src/app.py"]);
    world.write("src/app.py", b"print('one')\n");
    world.write("touch", b"x");
    world.synced("r1", "main");
    let patch = std::fs::read_to_string(saved(&world, "r1").join("staged.patch")).unwrap();
    assert!(patch.contains("+staged"), "{patch}");
}

#[test]
fn an_operation_in_progress_is_set_aside() {
    let mut world = World::new();
    world.install();
    world.app_git(&["checkout", "--quiet", "-b", "other"]);
    world.write("README.md", b"theirs\n");
    world.app_git(&["commit", "--quiet", "-am", "theirs"]);
    world.app_git(&["checkout", "--quiet", "main"]);
    world.write("README.md", b"ours\n");
    world.app_git(&["commit", "--quiet", "-am", "ours"]);
    let merge = common::git_command(&world.app(), world.owner).args(["merge", "other"]).output().unwrap();
    assert!(!merge.status.success());
    assert!(world.tree().inspect().unwrap().operations.contains(&"MERGE_HEAD".to_owned()));
    world.synced("r1", "main");
    assert!(saved(&world, "r1").join("git-state/.git/MERGE_HEAD").exists());
    assert_eq!(world.tree().inspect().unwrap().operations, [] as [String; 0]);
}

#[test]
fn preserved_files_stay_whether_tracked_or_not() {
    let mut world = World::new();
    world.commit(&[("config/theme.json", "{}\n")]);
    world.install();
    world.preserve = vec!["config/*.json".to_owned(), "state".to_owned()];
    world.write("config/theme.json", b"{\"dark\":true}\n");
    world.write("config/user.json", b"{}");
    world.write("state/db", b"rows");
    world.write("config/junk", b"x");
    let inode = std::fs::metadata(world.file("config/theme.json")).unwrap().ino();
    world.commit(&[("config/theme.json", "{\"new\":1}\n")]);
    let (_, done, aligned) = world.synced("r1", "main");
    assert_eq!(world.read("config/theme.json"), "{\"dark\":true}\n");
    assert_eq!(std::fs::metadata(world.file("config/theme.json")).unwrap().ino(), inode);
    assert_eq!(world.read("config/user.json"), "{}");
    assert_eq!(world.read("state/db"), "rows");
    assert!(!world.file("config/junk").exists());
    assert_eq!(done.preserved, [path("config/user.json"), path("state"), path("config/theme.json")]);
    assert_eq!(aligned.put_back, [path("config/theme.json")]);
    assert_eq!(done.taken().count(), 1);
    // And at the next run again.
    let (_, done, _) = world.synced("r2", "main");
    assert_eq!(world.read("config/theme.json"), "{\"dark\":true}\n");
    assert_eq!(done.taken().count(), 0, "{done:?}");
}

#[test]
fn a_preserved_file_whose_place_the_commit_needs_is_saved_instead() {
    let mut world = World::new();
    world.install();
    world.preserve = vec!["data".to_owned(), "list".to_owned()];
    world.write("data/x", b"mine");
    world.write("list", b"mine");
    world.commit(&[("data", "a file now\n"), ("list/part", "a folder now\n")]);
    let (_, done, _) = world.synced("r1", "main");
    assert_eq!(world.read("data"), "a file now\n");
    assert_eq!(std::fs::read(saved(&world, "r1").join("untracked/data/x")).unwrap(), b"mine");
    assert_eq!(std::fs::read(saved(&world, "r1").join("untracked/list")).unwrap(), b"mine");
    assert_eq!(done.notes.len(), 2, "{done:?}");
}

#[test]
fn an_untracked_preserved_file_that_the_commit_brings_too_keeps_its_content() {
    let mut world = World::new();
    world.install();
    world.preserve = vec!["prefs.json".to_owned()];
    world.write("prefs.json", b"mine");
    world.commit(&[("prefs.json", "theirs")]);
    world.synced("r1", "main");
    assert_eq!(world.read("prefs.json"), "mine");
}

#[test]
fn files_that_an_interrupted_run_had_already_written_are_no_drift() {
    let mut world = World::new();
    world.install();
    let target = world.commit(&[("src/app.py", "print('two')\n"), ("fresh/file", "1\n")]);
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    world.write("src/app.py", b"print('two')\n");
    world.write("fresh/file", b"1\n");
    let known = [world.deployed.clone(), vec![target.clone()]].concat();
    assert!(world.tree().drift(&known, &[]).unwrap().is_none());
    // The branch moved on meanwhile, and the file went away again.
    world.remote_git(&["rm", "--quiet", "-r", "fresh"]);
    world.commit_all();
    world.deployed = known;
    let (_, done, _) = world.synced("r2", "main");
    assert!(done.items.is_empty(), "{done:?}");
    assert!(!world.file("fresh").exists());
}

#[test]
fn aligning_stops_before_it_removes_what_was_not_saved() {
    let mut world = World::new();
    world.install();
    let commit = world.commit(&[("src/app.py", "print('two')\n")]);
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    assert!(world.tree().align(&run("r1"), &branch("main"), &commit).is_err(), "no save came before");
    world.save("r1", &commit).unwrap();
    world.write("late", b"x");
    let failure = told(&world.tree().align(&run("r1"), &branch("main"), &commit).unwrap_err());
    assert!(failure.contains("late is neither in a known commit nor saved"), "{failure}");
    std::fs::remove_file(world.file("late")).unwrap();
    world.write("src/util.py", b"changed after the save");
    let failure = told(&world.tree().align(&run("r1"), &branch("main"), &commit).unwrap_err());
    assert!(failure.contains("src/util.py"), "{failure}");
    assert_eq!(world.read("src/util.py"), "changed after the save");
}

#[test]
fn saved_places_are_listed_with_their_size_and_pruned() {
    let mut world = World::new();
    world.install();
    world.write("a", &[b'x'; 1000]);
    world.synced("r1", "main");
    world.write("a", b"y");
    world.synced("r2", "main");
    let places = world.tree().saved_places().unwrap();
    assert_eq!(places.iter().map(|place| place.index.run.as_str()).collect::<Vec<_>>(), ["r1", "r2"]);
    assert!(places[0].size >= 1000);
    assert!(world.tree().prune(&run("r1")).unwrap().freed >= 1000);
    assert!(!saved(&world, "r1").exists());
    assert_eq!(world.tree().saved_places().unwrap().len(), 1);
}

#[test]
fn a_place_whose_save_was_cut_short_tells_what_is_not_there() {
    let mut world = World::new();
    world.install();
    world.preserve = vec!["README.md".to_owned()];
    world.write("README.md", b"preserved");
    world.write("alone", b"x");
    world.write("other", b"x");
    world.app_git(&["commit", "--quiet", "--allow-empty", "-m", "mine"]);
    world.synced("r1", "main");
    let place = |world: &World| world.tree().saved_places().unwrap().remove(0);
    assert!(place(&world).bundled);
    assert_eq!(place(&world).absent.into_iter().collect::<Vec<_>>(), [path("README.md")]);
    // As a kill before the last item leaves it.
    std::fs::remove_file(saved(&world, "r1").join("untracked/other")).unwrap();
    std::fs::remove_file(saved(&world, "r1").join("commits.bundle")).unwrap();
    assert!(!place(&world).bundled);
    assert_eq!(place(&world).absent.into_iter().collect::<Vec<_>>(), [path("README.md"), path("other")]);
    let restored = world.tree().restore(&run("r1"), everything()).unwrap();
    assert_eq!(restored.paths, [path("alone")]);
    assert_eq!(restored.refs, [] as [String; 0]);
}

#[test]
fn what_is_moved_stays_on_the_trees_own_file_system() {
    let mut world = World::new();
    world.install();
    let Some(elsewhere) = another_file_system(&world.app()) else {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"SKIPPED: there is no second file system to try it with\n",
        );
        return;
    };
    std::os::unix::fs::symlink(elsewhere.path(), world.layout.runs()).unwrap();
    world.preserve = vec!["README.md".to_owned()];
    world.write("README.md", b"preserved");
    world.write("src/app.py", b"changed");
    world.write("big/blob", b"5 GB");
    let inode = std::fs::metadata(world.file("big/blob")).unwrap().ino();
    world.synced("r1", "main");
    let vault = world.file(".git/refresh-saved/r1");
    assert_eq!(std::fs::metadata(vault.join("untracked/big/blob")).unwrap().ino(), inode);
    assert_eq!(
        std::fs::canonicalize(saved(&world, "r1").join("vault")).unwrap(),
        std::fs::canonicalize(&vault).unwrap()
    );
    assert_eq!(world.read("README.md"), "preserved");
    world.tree().restore(&run("r1"), everything()).unwrap();
    assert_eq!(world.read("big/blob"), "5 GB");
    assert_eq!(world.read("src/app.py"), "changed");
    world.tree().prune(&run("r1")).unwrap();
    assert!(!vault.exists());
}

/// One file system in two mounts has one device number, and nothing can be moved from one to the other.
#[test]
fn a_saved_place_behind_a_bind_mount_is_known_by_trying() {
    let name = "a_saved_place_behind_a_bind_mount_is_known_by_trying";
    if std::env::var_os("IN_A_NAMESPACE").is_none() {
        let root = rustix::process::geteuid().is_root();
        let own = if root { &["--mount"][..] } else { &["--mount", "--map-root-user"] };
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(own).args(["--propagation", "private"]);
            command
        };
        if !unshare().arg("true").output().is_ok_and(|output| output.status.success()) {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED: there can be no mounts of the test's own here\n",
            );
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "`unshare --mount` has to work");
            return;
        }
        let mut again = unshare();
        again.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
        let output = again.env("IN_A_NAMESPACE", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    let mut world = World::new();
    world.install();
    world.preserve = vec!["README.md".to_owned()];
    world.write("README.md", b"preserved");
    // Set aside before there was another mount, and still there when there is one.
    let commit = world.commit(&[("src/app.py", "print('two')\n")]);
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    world.save("r1", &commit).unwrap();
    assert!(saved(&world, "r1").join("preserved/README.md").exists());
    std::fs::remove_file(world.file("README.md")).unwrap();
    let runs = world.layout.runs();
    let mount = Command::new("mount").arg("--bind").args([&runs, &runs]).status().unwrap();
    assert!(mount.success());
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    assert_eq!(device(&runs), device(&world.app()));
    let refused = std::fs::hard_link(world.file("src/app.py"), runs.join("probe")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::CrossesDevices);
    assert_eq!(world.tree().put_back(&run("r1")).unwrap().files, [path("README.md")]);
    assert_eq!(world.read("README.md"), "preserved");
    assert!(!saved(&world, "r1").join("preserved/README.md").exists());

    world.write("src/app.py", b"changed");
    world.write("big/blob", b"5 GB");
    let inode = std::fs::metadata(world.file("big/blob")).unwrap().ino();
    world.synced("r2", "main");
    let vault = world.file(".git/refresh-saved/r2");
    assert_eq!(std::fs::metadata(vault.join("untracked/big/blob")).unwrap().ino(), inode);
    assert_eq!(world.read("README.md"), "preserved");
    let wanted = |text| Restore { paths: vec![path(text)], present: Present::Replace };
    world.tree().restore(&run("r2"), wanted("big")).unwrap();
    world.tree().restore(&run("r2"), wanted("src/app.py")).unwrap();
    assert_eq!((world.read("big/blob"), world.read("src/app.py")), ("5 GB".into(), "changed".into()));
    world.tree().prune(&run("r2")).unwrap();
    assert!(!vault.exists());
    assert!(!world.file(".git/.ladylinux-refresh-probe").exists());
    // Or the temporary folder could not be removed.
    assert!(Command::new("umount").arg(&runs).status().unwrap().success());
}

fn another_file_system(than: &Path) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir_in("/dev/shm").ok()?;
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    (device(folder.path()) != device(than)).then_some(folder)
}

#[test]
fn what_was_written_anew_after_a_killed_reset_is_not_replaced_by_what_was_set_aside() {
    let mut world = World::new();
    let names = ["anew", "theirs", "begun", "gone", "crlf"];
    let committed = |text: &'static str| names.map(|name| (name, text));
    world.commit(&[&committed("one\n")[..], &[(".gitattributes", "crlf text eol=crlf\n")]].concat());
    world.install();
    world.preserve = names.map(str::to_owned).to_vec();
    for name in names {
        world.write(name, b"mine\n");
    }
    let commit = world.commit(&committed("theirs\n"));
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    world.save("r1", &commit).unwrap();
    let scratch = world.folder.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let place = tree::Place {
        program: environment::find_program("git", true).unwrap().into(),
        home: world.layout.state().join("git").into(),
        app: world.app().into(),
        mirror: world.layout.mirror().into(),
        scratch: scratch.into(),
    };
    let at = saved(&world, "r1");
    let align = align::Request {
        place,
        saved: at.clone().into(),
        branch: branch("main"),
        commit: commit.clone(),
        holders: vec![],
    };
    let mut worker = Command::new(env!("CARGO_BIN_EXE_ladylinux-refresh"))
        .args(["as-owner", align::OPERATION])
        .env("LADYLINUX_REFRESH_TRACE", world.folder.path().join("trace"))
        .env("LADYLINUX_REFRESH_KILL_AT", "git:reset#1")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let request = serde_json::to_vec(&align).unwrap();
    std::io::Write::write_all(&mut worker.stdin.take().unwrap(), &request).unwrap();
    assert!(!worker.wait().unwrap().success());
    assert_eq!((world.read("anew"), world.read("crlf")), ("theirs\n".into(), "theirs\r\n".into()));
    // The service was let on before the next run, and a write of the killed reset was cut short.
    world.write("anew", b"later\n");
    world.write("begun", b"the");
    std::fs::remove_file(world.file("gone")).unwrap();

    let put_back = world.tree().put_back(&run("r1")).unwrap();
    assert_eq!(put_back.kept, [path("anew")]);
    let notes: Vec<String> = put_back.notes().collect();
    assert!(notes.len() == 1 && notes[0].contains("drift show r1 anew"), "{notes:?}");
    assert_eq!(put_back.files.len(), names.len() - 1);
    assert_eq!(world.read("anew"), "later\n");
    for name in &names[1..] {
        assert_eq!(world.read(name), "mine\n", "{name}");
    }
    let places = world.tree().saved_places().unwrap();
    let kinds: Vec<_> = places[0].index.items.iter().map(|item| (item.path.encoded(), item.kind)).collect();
    assert!(kinds.contains(&("anew".to_owned(), SavedKind::Modified)), "{kinds:?}");
    assert!(!places[0].absent.contains(&path("anew")), "{places:?}");
    assert_eq!(world.tree().put_back(&run("r1")).unwrap(), PutBack::default());
    world.deployed.push(commit);
    world.synced("r2", "main");
    assert_eq!(world.read("anew"), "later\n");
    let wanted = Restore { paths: vec![path("anew")], present: Present::Replace };
    world.tree().restore(&run("r1"), wanted).unwrap();
    assert_eq!(world.read("anew"), "mine\n");
    world.tree().prune(&run("r1")).unwrap();
}

/// Kills the worker at each of its checkpoints, for both operations, and lets the next run put things right.
#[test]
fn a_kill_in_the_middle_of_saving_or_aligning_loses_nothing() {
    let mut points = 0;
    for operation in ["save", "align"] {
        for at in 1.. {
            if !killed_at(operation, at) {
                break;
            }
            points += 1;
        }
    }
    println!("kill points: {points}");
    assert!(points >= 10, "{points}");
}

/// Returns whether the operation came to its `at`th checkpoint, and checks what follows.
fn killed_at(operation: &str, at: u32) -> bool {
    let mut world = World::new();
    world.commit(&[("config/theme.json", "{}\n"), ("old/file", "x\n")]);
    world.install();
    world.preserve = vec!["config/*".to_owned()];
    world.write("config/theme.json", b"{\"mine\":1}");
    world.write("config/user.json", b"{\"mine\":2}");
    world.write("src/app.py", b"changed");
    world.write("stray/deep", b"stray");
    world.write("alone", b"alone");
    world.remote_git(&["rm", "--quiet", "-r", "old"]);
    let commit = world.commit(&[
        ("config/theme.json", "{\"new\":1}\n"),
        ("src/app.py", "print('two')\n"),
        ("new/x", "1\n"),
    ]);
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    let place = saved(&world, "r1");
    std::fs::create_dir_all(&place).unwrap();
    let scratch = world.folder.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let at_place = tree::Place {
        program: environment::find_program("git", true).unwrap().into(),
        home: world.layout.state().join("git").into(),
        app: world.app().into(),
        mirror: world.layout.mirror().into(),
        scratch: scratch.into(),
    };
    let request = if operation == "save" {
        let save = save::SaveRequest {
            run: run("r1"),
            runs: world.layout.runs().into(),
            saved: place.clone().into(),
            known: world.deployed.clone(),
            target: commit.clone(),
            preserve: world.preserve.clone(),
            made: made::Made::default(),
        };
        serde_json::to_vec(&save::Request { place: at_place, save }).unwrap()
    } else {
        world.save("r1", &commit).unwrap();
        let saved = place.clone().into();
        let align = align::Request {
            place: at_place,
            saved,
            branch: branch("main"),
            commit: commit.clone(),
            holders: vec![],
        };
        serde_json::to_vec(&align).unwrap()
    };
    let mut worker = Command::new(env!("CARGO_BIN_EXE_ladylinux-refresh"))
        .args(["as-owner", &format!("git-{operation}")])
        .env("LADYLINUX_REFRESH_KILL_AT", at.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut worker.stdin.take().unwrap(), &request).unwrap();
    let killed = !worker.wait().unwrap().success();
    world.tree().put_back(&run("r1")).unwrap();
    world.tree().put_back(&run("r1")).unwrap();
    assert_eq!(world.read("config/theme.json"), "{\"mine\":1}", "{operation} {at}");
    world.deployed.push(commit);
    world.synced("r2", "main");
    assert_eq!(world.read("config/theme.json"), "{\"mine\":1}", "{operation} {at}");
    assert_eq!(world.read("config/user.json"), "{\"mine\":2}");
    assert_eq!(world.read("src/app.py"), "print('two')\n");
    assert!(!world.file("old").exists() && !world.file("stray").exists() && !world.file("alone").exists());
    for (path, content) in
        [("untracked/stray/deep", "stray"), ("untracked/alone", "alone"), ("files/src/app.py", "changed")]
    {
        let kept = ["r1", "r2"].iter().any(|id| {
            std::fs::read_to_string(saved(&world, id).join(path)).is_ok_and(|found| found == content)
        });
        assert!(kept, "{operation} {at}: {path}");
    }
    killed
}
