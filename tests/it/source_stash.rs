//! Local changes are found in trees and repositories of any kind, and kept.
#![expect(clippy::disallowed_methods, reason = "tests create the input of the program")]

use crate::git as common;
use crate::source;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use common::{World, branch, plain_git, run};
use refresh_source::hook_outputs;
use refresh_source::hook_outputs::HookTime;
use refresh_source::local::ChangeKind;
use refresh_source::stash;
use refresh_source::stash::StashRecord;
use refresh_source::stash_restore;
use refresh_source::stash_restore::RestoreChoice;
use refresh_source::stash_show;
use refresh_system::clock;
use refresh_system::disk::Owner;
use source::{deployed, installation, kept_tree, listed, local, refresh};

#[test]
fn every_kind_of_difference_is_found_and_nothing_is_changed() {
    let mut world = deployed(Owner::own(), &[("type", "x\n")]);
    world.preserve = vec!["alone".to_owned()];
    world.write("src/app.py", b"mine\n");
    world.write("drafts/a", b"x");
    world.write("alone", b"x");
    world.write("src/__pycache__/app.cpython-312.pyc", b"x");
    fs::remove_file(world.file("src/util.py")).unwrap();
    fs::set_permissions(world.file("README.md"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(world.file("type")).unwrap();
    symlink("README.md", world.file("type")).unwrap();
    let before = world.app_git(&["status", "--porcelain"]);
    let found = local(&world);
    let expected = [
        "mode README.md",
        "modified src/app.py",
        "deleted src/util.py",
        "type type",
        "untracked drafts",
        "untracked alone*",
    ];
    assert_eq!(listed(&found), expected);
    assert_eq!(found.not_comparable, None);
    assert_eq!(world.app_git(&["status", "--porcelain"]), before);
    assert_eq!((found.is_none(), found.count()), (false, 5));
    let kept = refresh(&mut world, "r1");
    assert_eq!(listed(&kept[0].changes), &expected[..5]);
    assert_eq!(world.read("alone"), "x");
}

#[test]
fn files_written_before_or_after_the_hooks_are_not_their_products() {
    let mut world = deployed(Owner::own(), &[]);
    let on = installation(&world);
    world.write("static/before", b"a person's");
    world.write("src/app.py", b"a person's\n");
    let since = clock::await_clock_tick().unwrap();
    world.write("made/deep/file", b"a hook's");
    world.write("src/util.py", b"a hook's\n");
    world.write("top", b"a hook's");
    let until = clock::await_clock_tick().unwrap();
    world.write("static/after", b"the service's");
    hook_outputs::record(&on, &world.deployed[0], HookTime { since, until }).unwrap();
    assert_eq!(listed(&local(&world)), ["modified src/app.py", "untracked static"]);
    // Restoring the old time does not hide an edit.
    let made = world.file("made/deep/file");
    let modified = fs::metadata(&made).unwrap().modified().unwrap();
    world.write("made/deep/file", b"a kook's");
    fs::File::options().write(true).open(&made).unwrap().set_modified(modified).unwrap();
    let expected = ["modified src/app.py", "untracked made", "untracked static"];
    assert_eq!(listed(&local(&world)), expected);
    // The record moves with the tree: the renamed entry at its top is still a product.
    let kept = refresh(&mut world, "r1");
    assert_eq!(listed(&kept[0].changes), expected);
    assert!(!world.layout.hook_outputs_file().exists());
    // A record that cannot be read confirms nothing.
    world.write("made/deep/file", b"a hook's");
    fs::write(world.layout.hook_outputs_file(), b"{").unwrap();
    assert_eq!(listed(&local(&world)), ["untracked made"]);
}

#[test]
fn a_tree_is_kept_by_one_rename_and_shown_and_no_link_in_it_followed() {
    let mut world = deployed(Owner::own(), &[("tööl \"1\".py", "one\n"), ("dropped", "x\n")]);
    world.write("tööl \"1\".py", b"mine\n");
    world.write("src/app.py", b"mine too\n");
    world.write("drafts/inner/file", b"inner\n");
    world.write(OsStr::from_bytes(b"odd-\xff%41\n"), b"odd\n");
    fs::remove_file(world.file("dropped")).unwrap();
    fs::write(world.directory.path().join("secret"), "secret").unwrap();
    symlink(world.directory.path().join("secret"), world.file("link")).unwrap();
    symlink(world.directory.path(), world.file("drafts/away")).unwrap();
    assert!(Command::new("mkfifo").arg(world.file("drafts/pipe")).status().unwrap().success());
    let inode = fs::metadata(world.file("drafts/inner/file")).unwrap().ino();
    refresh(&mut world, "r1");
    let kept = kept_tree(&world, "r1");
    assert_eq!(fs::metadata(kept.join("drafts/inner/file")).unwrap().ino(), inode);
    let on = installation(&world);
    let show = |path: Option<&str>| stash_show::show(&on, &run("r1"), path.map(Path::new));
    let text = |path: Option<&str>| String::from_utf8_lossy(&show(path).unwrap().diff).into_owned();
    let all = text(None);
    for part in
        ["-one\n+mine\n", "+mine too\n", "+inner\n", "+odd\n", "deleted file mode", "new file mode 120000"]
    {
        assert!(all.contains(part), "{part:?} is missing in {all}");
    }
    assert!(!all.contains("+secret"), "a link was followed: {all}");
    let one = text(Some("tööl \"1\".py"));
    assert!(one.ends_with("-one\n+mine\n") && !one.contains("mine too"), "{one}");
    assert!(text(Some("src")).contains("+mine too"));
    assert!(text(Some("drafts/inner")).contains("+inner"));
    for nothing in ["drafts/away/secret", "drafts/../../../secret", "/etc/passwd", "nothing"] {
        let shown = show(Some(nothing));
        assert!(shown.is_err() || shown.unwrap().diff.is_empty(), "{nothing}");
    }
    world.write("large", &vec![b'x'; 9 << 20]);
    refresh(&mut world, "r2");
    assert!(stash_show::show(&on, &run("r2"), None).unwrap().diff.len() < 5 << 20);
}

#[test]
fn local_commits_and_every_stash_are_kept_once_and_come_back() {
    let mut world = deployed(Owner::own(), &[]);
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
    let kept = refresh(&mut world, "r1");
    let names: Vec<&str> = kept[0].changes.tips.iter().map(|tip| tip.name.as_str()).collect();
    assert!(
        ["heads/idea", "heads/main", "stash/0", "stash/1"].iter().all(|name| names.contains(name)),
        "{names:?}"
    );
    assert!(!names.contains(&"HEAD"), "it is the commit of main: {names:?}");
    assert!(refresh(&mut world, "r2").is_empty(), "the new tree has no local name");

    let on = installation(&world);
    let everything = || RestoreChoice { paths: Vec::new(), overwrite: true };
    let restored = stash_restore::restore(&on, &run("r1"), everything()).unwrap();
    assert!(restored.refs.contains(&"refs/saved/r1/heads/idea".to_owned()), "{restored:?}");
    assert_eq!(world.app_git(&["rev-parse", "refs/saved/r1/heads/idea"]), idea);
    assert_eq!(world.app_git(&["rev-parse", "refs/saved/r1/heads/main"]), mine);
    for (index, stash) in stashes.lines().enumerate() {
        assert_eq!(world.app_git(&["rev-parse", &format!("refs/saved/r1/stash/{index}")]), stash);
    }
    world.app_git(&["fsck", "--full"]);
    world.app_git(&["checkout", "--quiet", "-f", "HEAD"]);
    // The names that the restore wrote are in the stash already.
    let kept = refresh(&mut world, "r3");
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn local_commits_of_a_repository_whose_head_is_broken_are_kept() {
    let owner = Owner::own();
    let mut world = deployed(owner, &[]);
    for (id, is_closed) in [("r1", false), ("r2", true)] {
        if is_closed && owner.uid == 0 {
            // Root can read it nevertheless.
            continue;
        }
        world.write("README.md", id.as_bytes());
        world.app_git(&["commit", "--quiet", "-am", "on main"]);
        let mine = world.app_git(&["rev-parse", "HEAD"]);
        if is_closed {
            fs::set_permissions(world.file(".git/HEAD"), fs::Permissions::from_mode(0o000)).unwrap();
        } else {
            world.write(".git/HEAD", b"");
        }
        let kept = refresh(&mut world, id);
        assert!(kept[0].changes.not_comparable.is_some(), "{kept:?}");
        let kept = kept_tree(&world, id);
        fs::remove_file(kept.join(".git/HEAD")).unwrap();
        fs::write(kept.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        let kept_git = |arguments: &[&str]| {
            plain_git(&kept.join(".git"), owner, &[&["--git-dir=."], arguments].concat())
        };
        assert_eq!(kept_git(&["rev-parse", "main"]), mine);
        assert_eq!(kept_git(&["show", "main:README.md"]), id);
        kept_git(&["fsck", "--full"]);
    }
}

#[test]
fn staged_content_operations_in_progress_and_hooks_are_local_changes() {
    let owner = Owner::own();
    let mut world = deployed(owner, &[]);
    world.write("src/app.py", b"staged\n");
    world.app_git(&["add", "src/app.py"]);
    world.write("src/app.py", b"print('one')\n");
    let kept = refresh(&mut world, "r1");
    assert_eq!(listed(&kept[0].changes), ["staged src/app.py"]);
    let git_dir = kept_tree(&world, "r1").join(".git");
    let staged = plain_git(&git_dir, owner, &["--git-dir=.", "show", ":src/app.py"]);
    assert_eq!(staged, "staged");

    world.app_git(&["checkout", "--quiet", "-b", "other"]);
    world.write("README.md", b"theirs\n");
    world.app_git(&["commit", "--quiet", "-am", "theirs"]);
    world.app_git(&["checkout", "--quiet", "main"]);
    world.write("README.md", b"ours\n");
    world.app_git(&["commit", "--quiet", "-am", "ours"]);
    let merge = common::git_command(&world.app(), world.owner).args(["merge", "other"]).output().unwrap();
    assert!(!merge.status.success());
    let kept = refresh(&mut world, "r2");
    assert!(listed(&kept[0].changes).contains(&"git state .git/MERGE_HEAD".to_owned()), "{kept:?}");

    world.write(".git/hooks/pre-commit", b"#!/bin/sh\n");
    world.write(".git/hooks/pre-push.sample", b"#!/bin/sh\n");
    assert_eq!(listed(&local(&world)), ["git state .git/hooks/pre-commit"]);
    // A submodule can have commits that no other place has.
    world.write(".git/modules/lib/HEAD", b"ref: refs/heads/main\n");
    fs::create_dir_all(world.file(".git/lfs/tmp")).unwrap();
    let expected = ["git state .git/hooks/pre-commit", "git state .git/modules"];
    assert_eq!(listed(&local(&world)), expected);
}

#[test]
fn names_of_a_withdrawn_commit_and_linked_working_trees_are_kept() {
    let mut world = deployed(Owner::own(), &[("withdrawn", "x\n")]);
    world.app_git(&["branch", "rescue"]);
    assert!(local(&world).is_none(), "the remote has the commit");
    // The mirror of a host with bundles has no branch.
    let mirror_git = |arguments: &[&str]| plain_git(&world.layout.mirror(), Owner::own(), arguments);
    let tip = world.app_git(&["rev-parse", "HEAD"]);
    mirror_git(&["update-ref", "refs/bundle", &tip]);
    mirror_git(&["update-ref", "-d", "refs/heads/main"]);
    assert!(local(&world).is_none(), "the last bundle has the commit");
    mirror_git(&["update-ref", "-d", "refs/bundle"]);
    world.remote_git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    world.commit(&[("other", "y\n")]);
    let names = |kept: &[StashRecord]| -> Vec<String> {
        kept.iter().flat_map(|record| &record.changes.tips).map(|tip| tip.name.clone()).collect()
    };
    let kept = refresh(&mut world, "r1");
    assert_eq!(names(&kept), ["heads/rescue"]);

    let beside = world.directory.path().join("beside");
    let beside_git = |arguments: &[&str]| plain_git(&beside, Owner::own(), arguments);
    world.app_git(&["worktree", "add", "--quiet", "-b", "fix", beside.to_str().unwrap()]);
    let commit = |name: &str| {
        fs::write(beside.join("fix"), name).unwrap();
        beside_git(&["add", "fix"]);
        beside_git(&["commit", "--quiet", "-m", name]);
    };
    commit("on a branch");
    beside_git(&["checkout", "--quiet", "--detach"]);
    commit("on none");
    let found = local(&world);
    assert!(found.is_no_reason(), "a person works there: {found:?}");
    let kept = refresh(&mut world, "r2");
    assert_eq!(listed(&kept[0].changes), ["git state .git/worktrees"]);
    assert_eq!(names(&kept), ["heads/fix", "worktrees/beside"]);
    plain_git(&kept_tree(&world, "r2"), world.owner, &["worktree", "repair", beside.to_str().unwrap()]);
    assert_eq!(beside_git(&["log", "-1", "--format=%s"]), "on none");
}

#[test]
fn preserved_files_move_across_whether_tracked_or_not() {
    let mut world = deployed(Owner::own(), &[("config/theme.json", "{}\n")]);
    world.preserve = vec!["config/*.json".to_owned(), "state".to_owned()];
    world.write("config/theme.json", b"{\"dark\":true}\n");
    world.write("config/user.json", b"{}");
    world.write("state/db", b"rows");
    world.write("config/junk", b"x");
    let inode = fs::metadata(world.file("config/theme.json")).unwrap().ino();
    world.commit(&[("config/theme.json", "{\"new\":1}\n")]);
    let kept = refresh(&mut world, "r1");
    assert_eq!(listed(&kept[0].changes), ["untracked config/junk"]);
    for _ in 0..2 {
        assert_eq!(world.read("config/theme.json"), "{\"dark\":true}\n");
        assert_eq!(fs::metadata(world.file("config/theme.json")).unwrap().ino(), inode);
        assert_eq!(world.read("config/user.json"), "{}");
        assert_eq!(world.read("state/db"), "rows");
        assert!(!world.file("config/junk").exists());
        // And again at the next run, which keeps nothing.
        assert!(refresh(&mut world, "r2").is_empty());
    }
}

#[test]
fn a_preserved_file_whose_place_the_commit_needs_is_kept_with_the_old_tree() {
    let mut world = deployed(Owner::own(), &[]);
    world.preserve = vec!["data".to_owned(), "list".to_owned(), "prefs.json".to_owned()];
    world.write("data/x", b"mine");
    world.write("list", b"mine");
    world.write("prefs.json", b"mine");
    world.commit(&[("data", "a file now\n"), ("list/part", "a directory now\n"), ("prefs.json", "theirs")]);
    let kept = refresh(&mut world, "r1");
    assert_eq!(world.read("data"), "a file now\n");
    assert_eq!(world.read("prefs.json"), "mine");
    assert_eq!(listed(&kept[0].changes), ["untracked data", "untracked list"]);
    assert_eq!(fs::read(kept_tree(&world, "r1").join("data/x")).unwrap(), b"mine");
    assert_eq!(fs::read(kept_tree(&world, "r1").join("list")).unwrap(), b"mine");
}

#[test]
fn files_that_another_known_commit_has_are_no_local_changes() {
    let mut world = deployed(Owner::own(), &[("old", "1\n")]);
    let target = world.commit(&[("src/app.py", "print('two')\n"), ("fresh/file", "1\n")]);
    installation(&world).mirror.ensure(&run("r1"), &branch("main")).unwrap();
    world.write("src/app.py", b"print('two')\n");
    world.write("fresh/file", b"1\n");
    assert_eq!(listed(&local(&world)), ["modified src/app.py", "untracked fresh"]);
    world.deployed.push(target);
    assert!(local(&world).is_none(), "{:?}", local(&world));
    // The branch moved on meanwhile, and the file was removed again.
    world.remote_git(&["rm", "--quiet", "-r", "fresh", "old"]);
    world.commit_all();
    assert!(refresh(&mut world, "r2").is_empty());
    assert!(!world.file("fresh").exists());
}

#[test]
fn line_endings_that_git_converts_are_no_change_and_converted_ones_are() {
    // Committed before the attribute: blobs with both line endings, as in real repositories.
    let mut world = deployed(
        Owner::own(),
        &[("crlf.txt", "a\r\nb\r\n"), ("mixed.txt", "a\r\nb\n"), ("lf.txt", "a\nb\n")],
    );
    fs::write(world.upstream().join(".gitattributes"), "* text=auto\nwin.bat text eol=crlf\n").unwrap();
    fs::write(world.upstream().join("win.bat"), "echo\r\n").unwrap();
    world.remote_git(&["add", ".gitattributes", "win.bat"]);
    world.remote_git(&["commit", "--quiet", "-m", "attributes"]);
    assert!(refresh(&mut world, "r1").is_empty());
    assert_eq!(world.read("win.bat"), "echo\r\n");
    assert!(local(&world).is_none(), "{:?}", local(&world));
    // An editor that converts the line endings of a file changes it, although git's own status does not show it.
    world.write("lf.txt", b"a\r\nb\r\n");
    assert_eq!(listed(&local(&world)), ["modified lf.txt"]);
}

#[test]
fn flags_attributes_and_configuration_of_the_trees_repository_hide_nothing_and_run_nothing() {
    let mut world = deployed(Owner::own(), &[]);
    world.app_git(&["update-index", "--skip-worktree", "src/app.py"]);
    world.app_git(&["update-index", "--assume-unchanged", "src/util.py"]);
    world.write("src/app.py", b"hidden one\n");
    world.write("src/util.py", b"hidden two\n");
    assert_eq!(listed(&local(&world)), ["modified src/app.py", "modified src/util.py"]);
    let trap = world.directory.path().join("trap");
    let command = format!("touch {}; cat", trap.display());
    for (key, value) in [
        ("core.autocrlf", "true"),
        ("filter.bad.smudge", &*command),
        ("filter.bad.clean", &command),
        ("filter.bad.required", "true"),
        ("core.fsmonitor", &command),
        ("core.alternateRefsCommand", &command),
        ("core.sparseCheckout", "true"),
        ("core.worktree", "/tmp"),
        ("diff.external", &command),
        ("uploadpack.packObjectsHook", &command),
    ] {
        plain_git(&world.app(), world.owner, &["config", "--file", ".git/config", key, value]);
    }
    world.write(".git/info/attributes", b"* filter=bad\n*.py eol=crlf\n");
    world.write(".git/hooks/post-checkout", format!("#!/bin/sh\n{command}\n").as_bytes());
    fs::set_permissions(world.file(".git/hooks/post-checkout"), fs::Permissions::from_mode(0o755)).unwrap();
    let kept = refresh(&mut world, "r1");
    let expected = [
        "modified src/app.py",
        "modified src/util.py",
        "git state .git/info/attributes",
        "git state .git/hooks/post-checkout",
        "git state .git/config",
    ];
    assert_eq!(listed(&kept[0].changes), expected);
    let on = installation(&world);
    stash_show::show(&on, &run("r1"), None).unwrap();
    stash_restore::restore(&on, &run("r1"), RestoreChoice { paths: Vec::new(), overwrite: true }).unwrap();
    assert_eq!(world.read("src/app.py"), "hidden one\n");
    assert!(!trap.exists(), "a program of the tree's repository ran");
}

#[test]
fn a_repository_that_delays_git_is_kept_after_a_deadline() {
    let mut world = deployed(Owner::own(), &[]);
    assert!(Command::new("mkfifo").arg(world.file(".git/pipe")).status().unwrap().success());
    let config = fs::read_to_string(world.file(".git/config")).unwrap();
    world.write(".git/config", format!("{config}[include]\n\tpath = pipe\n").as_bytes());
    let begun = Instant::now();
    let kept = refresh(&mut world, "r1");
    let reason = kept[0].changes.not_comparable.clone().unwrap();
    assert!(reason.contains("deadline"), "{reason}");
    assert!(begun.elapsed().as_secs() < 100);
    for linked in ["commondir", "config.worktree"] {
        world.write(&*format!(".git/{linked}"), b".\n");
        let reason = local(&world).not_comparable.unwrap();
        assert!(reason.contains(linked), "{reason}");
        fs::remove_file(world.file(format!(".git/{linked}"))).unwrap();
    }
    fs::remove_dir_all(world.file(".git")).unwrap();
    world.write(".git", b"gitdir: /elsewhere\n");
    assert_eq!(local(&world).not_comparable.unwrap(), "its .git is not a directory");
}

#[test]
fn a_shallow_clone_that_was_adopted_is_compared_with_its_own_commit() {
    let mut world = World::owned_by(Owner::own());
    world.commit(&[("a", "1\n")]);
    world.commit(&[("a", "2\n")]);
    let url = format!("file://{}", world.upstream().display());
    let app = world.app();
    plain_git(
        &world.layout.home(),
        world.owner,
        &["clone", "--quiet", "--depth=1", &url, app.to_str().unwrap()],
    );
    world.commit(&[("a", "3\n")]);
    let kept = refresh(&mut world, "r1");
    assert!(kept.is_empty(), "{kept:?}");
    assert_eq!(world.read("a"), "3\n");
}

#[test]
fn links_and_pipes_in_the_place_of_tracked_entries_are_neither_followed_nor_opened() {
    let mut world = deployed(Owner::own(), &[]);
    let outside = world.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("app.py"), "precious").unwrap();
    fs::remove_dir_all(world.file("src")).unwrap();
    symlink(&outside, world.file("src")).unwrap();
    fs::remove_file(world.file("README.md")).unwrap();
    assert!(Command::new("mkfifo").arg(world.file("README.md")).status().unwrap().success());
    let kept = refresh(&mut world, "r1");
    let kinds: Vec<ChangeKind> = kept[0].changes.items.iter().map(|item| item.kind).collect();
    assert_eq!(kinds.len(), 4, "{kept:?}");
    assert_eq!(fs::read_link(kept_tree(&world, "r1").join("src")).unwrap(), outside);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    stash::remove_stash(&installation(&world), &run("r1")).unwrap();
    assert_eq!(fs::read_to_string(outside.join("app.py")).unwrap(), "precious");
}
