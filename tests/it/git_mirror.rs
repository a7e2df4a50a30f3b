//! The mirror fetches over real transports, and reports the faults of a remote.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests create the input of the program")]

use crate::git as common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::Daemon;
use common::{Web, World, branch, message, remote, run, serve_web};
use refresh_git::history::EntryKind;
use refresh_git::mirror::Mirror;
use refresh_git::{Git, Hold};
use refresh_settings::Remote;
use refresh_system::disk::Owner;

fn mirror(world: &World, remote: &Remote) -> Mirror {
    Mirror::new(&world.git, &world.layout, remote)
}

#[test]
fn a_run_fetches_once_and_keeps_its_commit() {
    let world = World::new();
    let first = world.tip();
    let (id, main) = (run("r1"), branch("main"));
    assert_eq!(world.mirror().pinned(&id).unwrap(), None);
    assert_eq!(world.mirror().ensure(&id, &main).unwrap(), first);
    let second = world.commit(&[("a", "1\n")]);
    std::fs::rename(world.upstream(), world.directory.path().join("away")).unwrap();
    assert_eq!(world.mirror().ensure(&id, &main).unwrap(), first, "no network is needed any more");
    std::fs::rename(world.directory.path().join("away"), world.upstream()).unwrap();
    assert_eq!(world.mirror().remote_tip(&main).unwrap(), second);
    assert!(!world.mirror().contains(&second).unwrap(), "asking stores nothing");
    assert_eq!(world.mirror().ensure(&run("r2"), &main).unwrap(), second);
    assert_eq!(world.mirror().pinned(&id).unwrap(), Some(first.clone()));
    world.mirror().release(Hold::Run, &id).unwrap();
    assert_eq!(world.mirror().pinned(&id).unwrap(), None);
    world.mirror().hold(Hold::Run, &run("r3"), &first).unwrap();
    let unknown = refresh_settings::names::CommitId::parse(&"1".repeat(40)).unwrap();
    assert!(world.mirror().hold(Hold::Run, &run("r3"), &unknown).is_err());
}

#[test]
fn a_missing_branch_is_reported_with_the_nearest_names() {
    let world = World::new();
    world.remote_git(&["branch", "feature/login"]);
    for failure in [
        world.mirror().ensure(&run("r1"), &branch("feature/logni")).unwrap_err(),
        world.mirror().remote_tip(&branch("feature/logni")).unwrap_err(),
    ] {
        let message = message(&failure);
        assert!(
            message.contains("no branch feature/logni") && message.contains("feature/login"),
            "{message}"
        );
    }
}

#[test]
fn a_branch_that_became_a_directory_of_branches_is_fetched() {
    let world = World::new();
    world.remote_git(&["branch", "x"]);
    world.mirror().ensure(&run("r1"), &branch("x")).unwrap();
    world.remote_git(&["branch", "-D", "x"]);
    world.remote_git(&["branch", "x/y"]);
    world.mirror().ensure(&run("r2"), &branch("x/y")).unwrap();
}

#[test]
fn leftovers_of_a_killed_fetch_hinder_no_later_fetch() {
    let world = World::new();
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    for left in ["refs/heads/main.lock", "packed-refs.lock", "objects/pack/tmp_pack_x"] {
        std::fs::create_dir_all(world.layout.mirror().join(left).parent().unwrap()).unwrap();
        std::fs::write(world.layout.mirror().join(left), "").unwrap();
    }
    let tip = world.commit(&[("a", "1\n")]);
    assert_eq!(world.mirror().ensure(&run("r2"), &branch("main")).unwrap(), tip);
    assert!(!world.layout.mirror().join("objects/pack/tmp_pack_x").exists());
}

#[test]
fn a_damaged_mirror_is_replaced_and_keeps_the_commits_of_runs() {
    let world = World::new();
    let first = world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    std::fs::write(world.layout.mirror().join("HEAD"), "").unwrap();
    let second = world.commit(&[("a", "1\n")]);
    assert_eq!(world.mirror().ensure(&run("r2"), &branch("main")).unwrap(), second);
    assert!(world.mirror().contains(&first).unwrap());
    std::fs::remove_dir_all(world.layout.mirror().join("objects")).unwrap();
    let third = world.commit(&[("a", "2\n")]);
    assert_eq!(world.mirror().ensure(&run("r3"), &branch("main")).unwrap(), third);
    let state: Vec<_> =
        std::fs::read_dir(world.layout.state()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!state.iter().any(|name| name.to_string_lossy().contains("new")), "{state:?}");
}

#[test]
fn files_contents_and_changes_are_read_from_the_mirror() {
    let world = World::new();
    symlink("src/app.py", world.upstream().join("link")).unwrap();
    let from = world.commit(&[("b", "1\n")]);
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    world.remote_git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    let to = world.commit(&[("src/app.py", "print('two')\n")]);
    world.mirror().ensure(&run("r2"), &branch("main")).unwrap();
    let mirror = world.mirror();
    let files = mirror.files(&from).unwrap();
    let link = files.iter().find(|file| file.path == Path::new("link")).unwrap();
    assert_eq!(link.kind, EntryKind::Symlink);
    let readme = files.iter().find(|file| file.path == Path::new("README.md")).unwrap();
    assert_eq!(readme.size, Some(6));
    assert_eq!(mirror.read(&from, Path::new("README.md")).unwrap().as_deref(), Some(&b"hello\n"[..]));
    assert_eq!(mirror.read(&from, Path::new("none")).unwrap(), None);
    let directory = mirror.read(&from, Path::new("src")).unwrap_err();
    assert!(directory.summary().contains("src of "), "{directory:?}");
    let changes = mirror.changes(&from, &to).unwrap();
    assert_eq!((changes.coming, changes.dropped), (1, 1));
    assert_eq!(changes.commits[0].id, to);
    let files: Vec<(char, String)> =
        changes.files.iter().map(|file| (file.status, file.path.encoded())).collect();
    assert_eq!(files, [('D', "b".to_owned()), ('D', "link".to_owned()), ('M', "src/app.py".to_owned())]);
    let copy = world.directory.path().join("copy");
    mirror.export(&to, &copy, Owner::own()).unwrap();
    assert_eq!(std::fs::read_to_string(copy.join("src/app.py")).unwrap(), "print('two')\n");
    assert!(!copy.join(".index").exists());
}

#[test]
fn a_pointer_of_large_file_storage_is_refused_with_its_path() {
    let world = World::new();
    let plain = world.mirror().ensure(&run("r0"), &branch("main")).unwrap();
    world.mirror().check_supported(&plain).unwrap();
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n", "0".repeat(64));
    world.commit(&[("model.bin", &pointer)]);
    let commit = world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    let failure = message(&world.mirror().check_supported(&commit).unwrap_err());
    assert!(failure.contains("Git LFS") && failure.contains("model.bin"), "{failure}");
}

#[test]
fn only_the_followed_branch_is_fetched_and_others_are_known_by_name() {
    let world = World::new();
    world.remote_git(&["checkout", "--quiet", "-b", "other"]);
    let other = world.commit(&[("large", "x\n")]);
    world.remote_git(&["checkout", "--quiet", "main"]);
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    assert!(!world.mirror().contains(&other).unwrap());
    world.mirror().check_branch(&branch("other")).unwrap();
    let failure = message(&world.mirror().check_branch(&branch("othre")).unwrap_err());
    assert!(failure.contains("did you mean other"), "{failure}");
}

/// Wraps git: the first `count` times that it contacts the remote, it fails with `words`.
fn failing_git(world: &World, count: usize, words: &str) -> (Git, PathBuf) {
    let programs = world.directory.path().join("programs");
    let tries = programs.join("tries");
    std::fs::create_dir_all(&programs).unwrap();
    let real = refresh_system::environment::find_program("git", false).unwrap();
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do\n if [ \"$word\" = ls-remote ] || [ \"$word\" = fetch ]; then\n\
         echo x >>{tries}\n [ $(wc -l <{tries}) -gt {count} ] || {{ echo '{words}' >&2; exit 128; }}\n break\n fi\n\
         done\nexec {} \"$@\"\n",
        real.display(),
        tries = tries.display(),
    );
    let program = programs.join("git");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (world.git.clone().with_program(program), tries)
}

#[test]
fn a_transient_failure_is_tried_three_times_and_another_one_once() {
    let world = World::new();
    let attempt = |count: usize, words: &str, id: &str| {
        let (git, tries) = failing_git(&world, count, words);
        let _ = std::fs::remove_file(&tries);
        let ensured = Mirror::new(&git, &world.layout, &world.remote()).ensure(&run(id), &branch("main"));
        (ensured, std::fs::read_to_string(&tries).unwrap().lines().count())
    };
    let broken = "fatal: the remote end hung up unexpectedly";
    let (ensured, tries) = attempt(2, broken, "r1");
    assert_eq!(ensured.unwrap(), world.tip());
    assert_eq!(tries, 4, "three times the list, once the commits");
    let (ensured, tries) = attempt(9, broken, "r2");
    assert!(message(&ensured.unwrap_err()).contains("broke"));
    assert_eq!(tries, 3);
    let (ensured, tries) = attempt(9, "fatal: Authentication failed", "r3");
    assert!(ensured.is_err());
    assert_eq!(tries, 1);
}

#[test]
fn a_mirror_is_not_discarded_if_the_remote_sends_damaged_data() {
    let world = World::new();
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(world.layout.mirror()).unwrap());
    let before = inode();
    world.commit(&[("a", "1\n")]);
    let object = world.remote_git(&["rev-parse", "HEAD:a"]);
    let file = world.upstream().join(".git/objects").join(&object[..2]).join(&object[2..]);
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&file, "damaged").unwrap();
    let failure = message(&world.mirror().ensure(&run("r2"), &branch("main")).unwrap_err());
    assert!(failure.contains("remote"), "{failure}");
    assert_eq!(inode(), before, "the mirror was made again");
    assert_eq!(world.mirror().damage().unwrap(), None);
}

#[test]
fn a_mirror_that_has_grown_is_packed_again_and_keeps_everything() {
    let world = World::new();
    let first = world.mirror().ensure(&run("r0"), &branch("main")).unwrap();
    world.mirror().release(Hold::Run, &run("r0")).unwrap();
    for index in 0..45 {
        // More objects than git unpacks, so that each fetch leaves a pack.
        let files: Vec<(String, String)> =
            (0..110).map(|file| (format!("f{file}"), format!("{index} {file}\n"))).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
        world.commit(&files);
        world.mirror().ensure(&run(&format!("r{}", index + 1)), &branch("main")).unwrap();
    }
    world.remote_git(&["reset", "--quiet", "--hard", "HEAD~3"]);
    let entries = std::fs::read_dir(world.layout.mirror().join("objects/pack")).unwrap();
    let packs =
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|it| it == "pack"));
    let packs = packs.count();
    assert!(packs < 20, "{packs} packs after 45 fetches");
    assert!(world.mirror().contains(&first).unwrap());
    assert_eq!(world.mirror().damage().unwrap(), None);
}

#[test]
fn git_daemon_is_fetched_from_and_an_unknown_repository_is_reported() {
    let world = World::new();
    let daemon = Daemon::serve(world.directory.path());
    let url = |name: &str| format!("git://127.0.0.1:{}/{name}", daemon.port);
    assert_eq!(
        mirror(&world, &remote(&url("upstream"))).ensure(&run("r1"), &branch("main")).unwrap(),
        world.tip()
    );
    let failure = mirror(&world, &remote(&url("upstream-not"))).remote_tip(&branch("main")).unwrap_err();
    assert!(message(&failure).contains("no repository"), "{}", message(&failure));
}

#[test]
fn a_token_file_opens_a_protected_server_and_is_never_shown() {
    let world = World::new();
    // "x-access-token:s3cret"
    let credentials = "eC1hY2Nlc3MtdG9rZW46czNjcmV0";
    let port = serve_web(Web::Protected { base: world.directory.path().into(), credentials });
    let token = world.directory.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let mut remote = remote(&format!("http://127.0.0.1:{port}/upstream/.git"));
    let main = branch("main");
    let failure = message(&mirror(&world, &remote).remote_tip(&main).unwrap_err());
    assert!(failure.contains("refused the credentials"), "{failure}");
    remote.token_file = Some(token.clone());
    set_mode(&token, 0o644);
    let failure = message(&mirror(&world, &remote).ensure(&run("r1"), &main).unwrap_err());
    assert!(failure.contains("chmod 600"), "{failure}");
    set_mode(&token, 0o600);
    assert_eq!(mirror(&world, &remote).ensure(&run("r1"), &main).unwrap(), world.tip());
    std::fs::write(&token, "wr0ng\n").unwrap();
    let failure = message(&mirror(&world, &remote).ensure(&run("r2"), &main).unwrap_err());
    assert!(failure.contains("refused the credentials"), "{failure}");
    assert!(!failure.contains("wr0ng"), "{failure}");
    let config = std::fs::read_to_string(world.layout.mirror().join("config")).unwrap();
    assert!(!config.contains("s3cret") && !config.contains("127.0.0.1"), "{config}");
}

fn set_mode(path: &Path, mode: u32) {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, permissions).unwrap();
}

#[test]
fn the_url_to_which_a_remote_redirects_is_kept_until_it_no_longer_does() {
    let world = World::new();
    let new = serve_web(Web::Public { base: world.directory.path().into() });
    let new = format!("http://127.0.0.1:{new}");
    let old = serve_web(Web::Moved { to: new.clone() });
    let moved = mirror(&world, &remote(&format!("http://127.0.0.1:{old}/upstream/.git")));
    assert_eq!(moved.ensure(&run("r1"), &branch("main")).unwrap(), world.tip());
    assert_eq!(moved.moved_to().unwrap(), Some(format!("{new}/upstream/.git")));
    let followed = mirror(&world, &remote(&format!("{new}/upstream/.git")));
    let second = world.commit(&[("a", "1\n")]);
    assert_eq!(followed.ensure(&run("r2"), &branch("main")).unwrap(), second);
    assert_eq!(followed.moved_to().unwrap(), None);
    // From http to https: git may follow, here to a port where nothing listens.
    let old = serve_web(Web::Moved { to: "https://127.0.0.1:1".to_owned() });
    let remote = Remote { deadline: Duration::from_secs(1), ..remote(&format!("http://127.0.0.1:{old}/x")) };
    let failure = message(&mirror(&world, &remote).remote_tip(&branch("main")).unwrap_err());
    assert!(failure.contains("cannot be reached"), "{failure}");
}

#[test]
fn a_remote_that_stalls_fails_at_the_deadline() {
    let world = World::new();
    let port = serve_web(Web::Silent);
    for url in [format!("http://127.0.0.1:{port}/x"), format!("git://127.0.0.1:{port}/x")] {
        let remote = Remote { stall: Duration::from_secs(1), ..remote(&url) };
        let failure = message(&mirror(&world, &remote).ensure(&run("r1"), &branch("main")).unwrap_err());
        assert!(failure.contains("stopped sending"), "{failure}");
    }
    let url = format!("git://127.0.0.1:{port}/x");
    let remote = Remote { deadline: Duration::from_millis(300), ..remote(&url) };
    let failure = message(&mirror(&world, &remote).remote_tip(&branch("main")).unwrap_err());
    assert!(failure.contains("deadline"), "{failure}");
}

#[test]
fn a_remote_that_cannot_be_reached_is_reported() {
    let world = World::new();
    for url in ["git://127.0.0.1:1/x", "http://127.0.0.1:1/x"] {
        let failure = message(&mirror(&world, &remote(url)).ensure(&run("r1"), &branch("main")).unwrap_err());
        assert!(failure.contains("cannot be reached"), "{failure}");
    }
    let failure = mirror(&world, &Remote::default()).ensure(&run("r1"), &branch("main")).unwrap_err();
    assert!(message(&failure).contains("no remote is configured"));
}

#[test]
fn an_old_commit_that_breaks_style_rules_is_fetched_packed_and_accepted_and_is_no_damage() {
    let world = World::new();
    let (tree, parent) = (world.remote_git(&["rev-parse", "HEAD^{tree}"]), world.tip());
    let text = format!(
        "tree {tree}\nparent {parent}\nauthor A <a@b.c> 1313584730 +051800\n\
         committer A<a@b.c> 1313584730 +051800\n\nold import\n"
    );
    let file = world.directory.path().join("commit");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let old = world.remote_git(&["hash-object", "-t", "commit", "-w", "--literally", file]);
    world.remote_git(&["update-ref", "refs/heads/main", &old]);
    let tip = world.commit(&[("a", "1\n")]);
    let mirror = world.mirror();
    assert_eq!(mirror.ensure(&run("r1"), &branch("main")).unwrap(), tip);
    assert_eq!(mirror.damage().unwrap(), None);
    let directory = world.directory.path().join("packed");
    let packed = mirror.write_bundle(&branch("main"), &directory).unwrap();
    let quarantine = world.directory.path().join("quarantine");
    let taken = mirror.quarantine(&packed, &quarantine, &branch("main"), &tip);
    assert_eq!(taken.unwrap_or_else(|failure| panic!("{}", message(&failure))).commit, tip);
}

#[test]
fn an_entry_of_another_repository_without_a_submodule_is_named_with_its_repair() {
    let world = World::new();
    let tip = world.tip();
    world.remote_git(&["update-index", "--add", "--cacheinfo", &format!("160000,{tip},vendored/x")]);
    world.remote_git(&["commit", "--quiet", "-m", "Add"]);
    let commit = world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    let failure = world.mirror().check_supported(&commit).unwrap_err();
    assert!(failure.summary().contains("an entry of another repository at vendored/x"), "{failure}");
    assert!(failure.hint_texts()[0].ends_with("git rm --cached vendored/x"), "{:?}", failure.hint_texts());
}

#[test]
fn the_default_branch_of_the_remote_is_known_if_another_one_is_followed() {
    let world = World::new();
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    assert_eq!(world.mirror().other_default(&branch("main"), None).unwrap(), None);
    world.remote_git(&["checkout", "--quiet", "-b", "trunk"]);
    world.commit(&[("a", "1\n")]);
    world.mirror().ensure(&run("r2"), &branch("main")).unwrap();
    assert_eq!(world.mirror().other_default(&branch("main"), None).unwrap().as_deref(), Some("trunk"));
    assert_eq!(world.mirror().other_default(&branch("trunk"), None).unwrap(), None);
}

#[test]
fn a_slow_clock_is_named_as_the_cause_of_a_refused_certificate() {
    let world = World::new();
    world.mirror().ensure(&run("r1"), &branch("main")).unwrap();
    let (git, _) = failing_git(&world, 9, "fatal: SSL certificate problem: certificate is not yet valid");
    let refused =
        |id: &str| Mirror::new(&git, &world.layout, &world.remote()).ensure(&run(id), &branch("main"));
    let failure = refused("r2").unwrap_err();
    assert!(failure.hint_texts()[0].starts_with("check the clock first"), "{:?}", failure.hint_texts());
    let heads = world.layout.mirror().join("remote-heads");
    let touched =
        std::process::Command::new("touch").args(["-d", "2099-01-01T00:00:00Z"]).arg(&heads).status();
    assert!(touched.unwrap().success());
    let failure = refused("r3").unwrap_err();
    assert!(failure.summary().starts_with("the clock is wrong: it is at "), "{failure}");
    assert!(
        failure.hint_texts().contains(&"timedatectl set-ntp true".to_owned()),
        "{:?}",
        failure.hint_texts()
    );
}
