//! The prepared tree equals a clone.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{deploy, installation, prepare, previous, python, read, service_user};
use crate::dice::long;
use crate::git as common;
use crate::git::{World, branch, message, plain_git, run};
use refresh_source::operation_request::GitLocation;
use refresh_source::prepared_tree;
use refresh_source::proof;
use refresh_source::proof::ProveTreeRequest;
use refresh_system::disk::Owner;

/// A change of a tree.
type Damage = fn(&Path);

#[test]
fn rw_5_2b_a_reset_in_step_2_writes_none_of_the_files_again() {
    let count = if long() { 20_000 } else { 400 };
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
    assert!(message(&again).contains("is not empty"), "{}", message(&again));
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
    // Committed with both endings before there were attributes: git reports the second as changed in every clone.
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
    assert!(message(&failure).contains("other is a tag"), "{}", message(&failure));
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
    attempt("r1").unwrap_or_else(|failure| panic!("{}", message(&failure)));
    world.commit(&[("deep/.gitattributes", "*.secret filter=git-crypt\n"), ("deep/a.secret", "x\n")]);
    let failure = message(&attempt("r2").unwrap_err());
    assert!(failure.contains("git-crypt") && failure.contains("deep/a.secret"), "{failure}");
    world.commit(&[("deep/.gitattributes", ""), ("model.bin", "x\n")]);
    let failure = message(&attempt("r3").unwrap_err());
    assert!(failure.contains("Git LFS") && failure.contains("model.bin"), "{failure}");
    fs::remove_file(world.upstream().join("model.bin")).unwrap();
    world.commit_all();
    attempt("r4").unwrap_or_else(|failure| panic!("{}", message(&failure)));
    let commit = world.tip();
    world.remote_git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},vendor/lib")]);
    world.remote_git(&["commit", "--quiet", "-m", "a submodule"]);
    let failure = message(&attempt("r5").unwrap_err());
    assert!(failure.contains("submodule") && failure.contains("vendor/lib"), "{failure}");
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
    let printed = String::from_utf8_lossy(&program.stderr).into_owned();
    assert!(
        printed.contains("code object from") && printed.contains("matches"),
        "the byte code is not used: {printed}"
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
    let failure = message(&prepare(&on, &run("r2"), "main").unwrap_err());
    assert!(failure.contains("cannot hold") && failure.contains("more than 255 bytes"), "{failure}");
    assert_eq!(world.read("README.md"), "hello\n");
}

#[test]
fn a_tree_that_differs_from_its_commit_fails_its_verification() {
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
        let git = refresh_system::environment::find_program("git", false).unwrap();
        let place = GitLocation {
            program: git.into(),
            configuration: on.layout.state().join("git").into(),
            mirror: on.layout.mirror().into(),
            scratch: scratch.path().into(),
        };
        let request = ProveTreeRequest { place, tree: tree.into(), commit: commit.clone() };
        let failure = message(&proof::handle(&request).unwrap_err());
        assert!(failure.contains(path), "{path}: {failure}");
    }
}
