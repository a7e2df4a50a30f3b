//! Local changes are never lost: the previous tree is kept with them, listed, shown, and copied back.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::host::{Host, git};
use crate::refresh::help::{aligned, hook, last_run};

/// The tree that the last run kept.
pub(super) fn stashed(host: &Host) -> PathBuf {
    host.layout.stashes().join(last_run(host))
}

/// Asserts that no tree waits for its comparison and that the last run kept no tree.
#[track_caller]
pub(super) fn kept_nothing(host: &Host) {
    assert_eq!(host.report()["saved"]["count"], 0, "{}", host.report()["saved"]);
    assert!(!stashed(host).exists());
    let waiting: Vec<_> = fs::read_dir(host.layout.previous_trees()).into_iter().flatten().collect();
    assert!(waiting.is_empty(), "{waiting:?}");
}

#[test]
fn local_changes_of_every_kind_are_kept_shown_and_restored() {
    let host = Host::new();
    host.push(&[
        ("modified.txt", "of the repository\n"),
        ("staged.txt", "of the repository\n"),
        ("deleted.txt", "of the repository\n"),
        ("mode.sh", "of the repository\n"),
        ("type.txt", "of the repository\n"),
    ]);
    host.tool(["run"]).expect(0);
    let app = host.layout.app();
    host.write("modified.txt", "mine\n");
    host.write("staged.txt", "only staged\n");
    git(&app, ["add", "staged.txt"]);
    host.write("staged.txt", "of the repository\n");
    host.write("drafts/untracked.txt", "untracked\n");
    host.write("stashed.txt", "stashed\n");
    git(&app, ["add", "stashed.txt"]);
    git(&app, ["stash", "push", "--quiet", "--", "stashed.txt"]);
    fs::remove_file(app.join("deleted.txt")).unwrap();
    fs::set_permissions(app.join("mode.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(app.join("type.txt")).unwrap();
    std::os::unix::fs::symlink("modified.txt", app.join("type.txt")).unwrap();
    let odd = OsStr::from_bytes(b"odd-\xff%41\n");
    fs::write(app.join(odd), "odd").unwrap();
    let large = app.join("large.bin");
    fs::File::create(&large).unwrap().set_len(300 << 20).unwrap();
    let inode = large.metadata().unwrap().ino();
    git(&app, ["branch", "mine"]);
    let tree = git(&app, ["rev-parse", "HEAD^{tree}"]);
    let commit = git(&app, ["commit-tree", &tree, "-p", "HEAD", "-m", "Mine"]);
    git(&app, ["update-ref", "refs/heads/mine", &commit]);
    let stash = git(&app, ["rev-parse", "refs/stash"]);

    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0).prints("stash show");
    aligned(&host, "main");
    let run = last_run(&host);
    let listed = host.report()["saved"]["paths"].to_string();
    for path in ["modified.txt", "drafts", "deleted.txt", "mode.sh", "type.txt", "mine", "stash"] {
        assert!(listed.contains(path), "{path} is missing in {listed}");
    }
    host.tool(["stash", "list"]).expect(0).prints(&run).prints("commits of 2 local names");
    let shown = host.tool(["stash", "show", &run]).expect(0);
    for line in [
        "modified   modified.txt",
        "staged     staged.txt",
        "deleted    deleted.txt",
        "mode       mode.sh",
        "type       type.txt",
        "untracked  drafts",
        "untracked  odd-%FF%2541%0A",
        "commits    heads/mine",
        "commits    stash/0",
        "-of the repository\n+mine\n",
    ] {
        assert!(shown.out.contains(line), "{line:?} is missing in {}", shown.out);
    }
    let patch = host.tool(["stash", "show", &run, "modified.txt"]).expect(0).out;
    assert!(patch.starts_with("diff --git a/modified.txt") && patch.ends_with("+mine\n"), "{patch}");
    let patch = host.tool(["stash", "show", &run, "./drafts/untracked.txt"]).expect(0).out;
    assert!(patch.contains("new file mode 100644") && patch.ends_with("+untracked\n"), "{patch}");
    host.tool(["drift", "show", &run, "drafts/none"]).expect(3).prints("the stash has no drafts/none");
    assert_eq!(stashed(&host).join("large.bin").metadata().unwrap().ino(), inode, "it was copied");

    host.write("modified.txt", "newer\n");
    host.tool(["stash", "restore", &run, "modified.txt"])
        .expect(3)
        .prints("modified.txt exists in app/ and differs")
        .prints("--overwrite");
    assert_eq!(host.read("modified.txt").as_deref(), Some("newer\n"));
    host.tool(["stash", "restore", &run, "--overwrite"])
        .expect(0)
        .prints("deleted.txt was deleted locally")
        .prints("the next run moves them into the stash again, unless `preserve` in ");
    assert_eq!(host.read("modified.txt").as_deref(), Some("mine\n"));
    assert_eq!(host.read("drafts/untracked.txt").as_deref(), Some("untracked\n"));
    assert_eq!(fs::read_to_string(app.join(odd)).unwrap(), "odd");
    assert_eq!(app.join("mode.sh").metadata().unwrap().mode() & 0o777, 0o755);
    assert_eq!(fs::read_link(app.join("type.txt")).unwrap(), PathBuf::from("modified.txt"));
    assert_eq!(app.join("large.bin").metadata().unwrap().len(), 300 << 20);
    let refs = git(&app, ["for-each-ref", "--format=%(objectname)"]);
    assert!(refs.contains(&commit), "the commits of a local branch are lost");
    assert!(refs.contains(&stash), "the stash is lost");
    assert!(stashed(&host).join("modified.txt").exists(), "a restore copies");

    host.tool(["stash", "drop", &run]).expect(0).prints(&format!("removed the stash of run {run}"));
    assert!(!stashed(&host).exists());
    host.tool(["stash", "list"]).expect(0).prints("the stash is empty");
    for words in [&["show", &run][..], &["restore", &run], &["drop", &run], &["prune", &run]] {
        let arguments = ["stash"].into_iter().chain(words.iter().copied());
        host.tool(arguments).expect(3).prints(&format!("run {run} has no stash"));
    }
    let refs = git(&host.layout.mirror(), ["for-each-ref", "--format=%(refname)", "refs/stash"]);
    assert_eq!(refs, "", "the mirror still holds a commit for the stash");
}

#[test]
fn settings_of_people_in_the_repository_are_kept_with_the_tree_and_those_of_git_are_none() {
    let host = Host::running();
    let app = host.layout.app();
    let mut number = 0;
    let mut refresh = |key: &str, value: &str| {
        git(&app, ["config", key, value]);
        number += 1;
        host.push(&[("version.txt", &format!("{number}\n"))]);
        host.tool(["run"]).expect(0)
    };
    for (key, value) in [("gc.auto", "0"), ("core.fsmonitor", "false"), ("branch.main.rebase", "true")] {
        refresh(key, value);
        kept_nothing(&host);
    }
    for (key, value) in [
        ("remote.fork.url", "https://example.org/fork.git"),
        ("user.email", "a@example.org"),
        ("core.hooksPath", "/srv/hooks"),
    ] {
        refresh(key, value).prints("1 local change: .git/config");
        assert_eq!(git(&stashed(&host), ["config", key]), value);
        refresh("gc.auto", "0");
        kept_nothing(&host);
    }
}

#[test]
fn commits_that_only_the_log_of_head_names_are_kept_with_the_tree() {
    let host = Host::running();
    let app = host.layout.app();
    host.write("draft.txt", "mine\n");
    git(&app, ["add", "draft.txt"]);
    git(&app, ["commit", "--quiet", "--message", "A draft"]);
    let draft = git(&app, ["rev-parse", "HEAD"]);
    git(&app, ["reset", "--quiet", "--hard", "HEAD~1"]);
    host.push(&[("version.txt", "2\n")]);
    host.tool(["run"]).expect(0).prints("1 local change: .git/logs/HEAD");
    assert_eq!(git(&stashed(&host), ["show", &format!("{draft}:draft.txt")]), "mine");

    host.push(&[("version.txt", "3\n")]);
    host.tool(["run"]).expect(0);
    kept_nothing(&host);
}

#[test]
fn byte_code_is_no_local_change_even_if_it_is_tracked() {
    let host = Host::new();
    let cache = ("lib/__pycache__/lib.cpython-312.pyc", "tracked\n");
    let ignored = (".gitignore", "local_settings.py\n");
    host.push(&[("old.py", "\n"), ("old.pyc", "of the repository\n"), cache, ignored]);
    host.tool(["run"]).expect(0);
    host.write("old.pyc", "written by Python");
    host.write("lib/__pycache__/lib.cpython-312.pyc", "written by Python");
    host.write("lib/__pycache__/other.cpython-312.pyc", "written by Python");
    host.write("lib/__pycache__/deep/module.pyc", "written by Python");
    host.write("local_settings.py", "its source moves across");
    host.write("local_settings.pyc", "written by Python");
    host.tool(["status"]).expect(0).prints("local        no changes");
    host.tool(["run"]).expect(0);
    kept_nothing(&host);
    host.tool(["run"]).expect(0);
    kept_nothing(&host);
}

#[test]
fn ignored_files_and_databases_move_across_and_are_named() {
    let host = Host::new();
    host.push(&[(".gitignore", ".env\n*.db\n*.log\n*.pyc\n")]);
    host.tool(["run"]).expect(0);
    host.write(".env", "SECRET=1\n");
    host.write("data/app.db", "rows");
    host.write("data/app.db-wal", "later rows");
    host.write("logs/deep/app.log", "lines");
    host.write("plugins/vendor.pyc", "a module without its source");
    let inode = host.layout.app().join("data/app.db").metadata().unwrap().ino();
    host.tool(["plan"])
        .expect(0)
        .prints("local        no changes")
        .prints("moves across: .env")
        .prints("data/app.db");
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    kept_nothing(&host);
    assert_eq!(host.layout.app().join("data/app.db").metadata().unwrap().ino(), inode);
    assert_eq!(host.read("data/app.db-wal").as_deref(), Some("later rows"));
    assert_eq!(host.read(".env").as_deref(), Some("SECRET=1\n"));
    assert_eq!(host.read("logs/deep/app.log").as_deref(), Some("lines"));
    assert_eq!(host.read("plugins/vendor.pyc").as_deref(), Some("a module without its source"));
    assert!(host.report()["ignored"].to_string().contains("data/app.db"));
    // The stricter setting keeps them with the old tree.
    let host = Host::new();
    host.configure("ignored = \"stash\"", "");
    host.push(&[(".gitignore", ".env\n")]);
    host.tool(["run"]).expect(0);
    host.write(".env", "SECRET=1\n");
    host.tool(["run"]).expect(0);
    assert_eq!(host.report()["saved"]["count"], 1);
    assert_eq!(host.read(".env"), None);
    assert_eq!(fs::read_to_string(stashed(&host).join(".env")).unwrap(), "SECRET=1\n");
}

#[test]
fn an_old_companion_file_is_never_put_beside_a_newer_database() {
    let host = Host::running();
    host.write("state.db", "old rows");
    host.write("state.db-wal", "old log");
    host.tool(["run"]).expect(0);
    let run = last_run(&host);
    host.write("state.db", "new rows");
    let refused = host.tool(["stash", "restore", &run, "state.db-wal", "--overwrite"]).expect(3);
    refused.prints("state.db-wal belongs to another state of the database state.db");
    host.write("state.db-journal", "new log");
    let refused = host.tool(["stash", "restore", &run, "state.db", "--overwrite"]).expect(3);
    refused.prints("state.db-journal in app/ belongs to another state of the database state.db");
    assert_eq!(host.read("state.db").as_deref(), Some("new rows"));
    fs::remove_file(host.layout.app().join("state.db-journal")).unwrap();
    host.tool(["stash", "restore", &run, "state.db"]).expect(3).prints("state.db exists in app/ and differs");
    // Together they are one state, and the companion file is restored with the other.
    host.tool(["stash", "restore", &run, "state.db", "--overwrite"]).expect(0);
    assert_eq!(host.read("state.db").as_deref(), Some("old rows"));
    assert_eq!(host.read("state.db-wal").as_deref(), Some("old log"));
}

#[test]
fn a_tree_that_cannot_be_compared_is_kept_completely() {
    let host = Host::running();
    let app = host.layout.app();
    let refs = app.join(".git/refs/heads");
    // A huge sparse file as a ref, and then a pipe, would keep git busy.
    fs::File::create(refs.join("huge")).unwrap().set_len(20 << 30).unwrap();
    let begun = Instant::now();
    host.tool(["status"]).expect(0).prints("app/ cannot be compared: .git/refs/heads/huge has");
    host.tool(["run"]).expect(0).prints("all of the tree of run");
    assert!(begun.elapsed().as_secs() < 120, "a ref held the run up");
    assert!(stashed(&host).join(".git/refs/heads/huge").exists());
    host.tool(["stash", "list"]).expect(0).prints("not comparable");
    host.tool(["stash", "drop", &last_run(&host)]).expect(0);

    let pipe = refs.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    host.tool(["run"]).expect(0).prints("pipe is not a regular file");
    assert!(stashed(&host).join(".git/refs/heads/pipe").exists());
    let run = last_run(&host);
    host.tool(["stash", "show", &run]).expect(0).prints("why        it cannot be compared");
    host.tool(["run"]).expect(0);
    kept_nothing(&host);

    // Links lead out of the tree; neither the comparison nor the removal follows them.
    host.write("kept-elsewhere.txt", "x");
    std::os::unix::fs::symlink(host.beside("work"), app.join("link")).unwrap();
    host.tool(["run"]).expect(0);
    assert_eq!(host.report()["saved"]["count"], 2, "{}", host.report()["saved"]);
    host.tool(["stash", "drop", &last_run(&host)]).expect(0);
    assert!(host.beside("work").join("version.txt").exists());
}

#[test]
fn nested_repositories_and_new_files_are_kept_completely_with_their_modes() {
    let host = Host::running();
    let app = host.layout.app();
    let nested = app.join("a/b/c/d/nested");
    fs::create_dir_all(&nested).unwrap();
    git(&nested, ["init", "--quiet"]);
    host.write("a/b/c/d/nested/file", "x");
    host.write("private/key", "secret");
    fs::set_permissions(app.join("private/key"), fs::Permissions::from_mode(0o640)).unwrap();
    host.tool(["run"]).expect(0);
    let run = last_run(&host);
    assert!(stashed(&host).join("a/b/c/d/nested/.git/HEAD").exists());
    host.tool(["stash", "show", &run]).expect(0).prints("untracked  a\n").prints("+secret");
    host.tool(["stash", "restore", &run]).expect(0);
    assert!(nested.join(".git/HEAD").exists());
    assert_eq!(app.join("private/key").metadata().unwrap().mode() & 0o777, 0o640);
    // A second restore changes nothing, and is not a conflict.
    host.tool(["stash", "restore", &run]).expect(0);
}

#[test]
fn a_restore_refuses_files_that_changed_since_and_writes_none_of_the_others() {
    let host = Host::new();
    host.push(&[("theirs.txt", "one\n"), ("gone.txt", "one\n"), ("same.txt", "one\n")]);
    host.tool(["run"]).expect(0);
    for path in ["theirs.txt", "gone.txt", "same.txt", "new.txt", "dir/mine.txt"] {
        host.write(path, "mine\n");
    }
    host.push(&[("theirs.txt", "two\n"), ("gone.txt", ""), ("new.txt", "theirs\n"), ("dir", "a file now\n")]);
    host.tool(["run"]).expect(0);
    let run = last_run(&host);
    host.tool(["stash", "restore", &run]).expect(3).prints("dir is not a directory");
    let some = ["stash", "restore", &run, "theirs.txt", "gone.txt", "same.txt", "new.txt"];
    let refused = host.tool(some).expect(3);
    for reason in
        ["theirs.txt exists in app/ and differs", "new.txt exists", "gone.txt was removed by a later"]
    {
        assert!(refused.err.contains(reason), "{reason:?} is missing in {}", refused.err);
    }
    assert!(!refused.err.contains("same.txt exists"), "{}", refused.err);
    assert_eq!(host.read("same.txt").as_deref(), Some("one\n"), "a refusal writes nothing");
    // A file that equals the base of the change is restored.
    host.tool(["stash", "restore", &run, "same.txt"]).expect(0).prints("restored same.txt");
    assert_eq!(host.read("same.txt").as_deref(), Some("mine\n"));
    host.tool(["stash", "restore", &run, "../etc/passwd"]).expect(3).prints("the stash has no ../etc/passwd");
}

#[test]
fn preserved_files_stay_and_are_reported() {
    let host = Host::new();
    host.configure("preserve = [\"state/**\", \"theme.json\"]", "");
    host.push(&[("theme.json", "dark\n")]);
    host.tool(["run"]).expect(0);
    host.write("state/users.json", "people");
    host.write("theme.json", "light\n");
    host.write("stray.txt", "stray");
    for version in ["two\n", "three\n"] {
        host.push(&[("version.txt", version)]);
        host.tool(["run"]).expect(0).prints("preserved file");
        assert_eq!(host.read("state/users.json").as_deref(), Some("people"));
        assert_eq!(host.read("theme.json").as_deref(), Some("light\n"));
        assert_eq!(host.read("stray.txt"), None);
        assert_eq!(host.read("version.txt").as_deref(), Some(version));
        let preserved = host.report()["preserved"].to_string();
        assert!(preserved.contains("theme.json") && preserved.contains("state"), "{preserved}");
    }
    // The second run had no stray file any more: only preserved files differed.
    kept_nothing(&host);
}

#[test]
fn a_file_that_is_kept_run_after_run_is_pointed_out_with_the_line_to_add() {
    let host = Host::running();
    host.write("config/prefs.json", "1");
    let first = host.tool(["run"]).expect(0);
    assert!(!first.all().contains("two runs in a row"));
    host.write("config/prefs.json", "2");
    host.tool(["run"])
        .expect(0)
        .prints("two runs in a row have moved config into the stash")
        .prints("preserve = ");
    assert_eq!(host.report()["saved"]["count"], 1, "{}", host.report()["saved"]);
    // The line from the warning works without a change.
    let warning = host.report()["warnings"].to_string().replace("\\\"", "\"");
    let line =
        format!("preserve = {}", warning.split("preserve = ").nth(1).unwrap().split(']').next().unwrap());
    host.configure(&format!("{line}]"), "");
    host.write("config/prefs.json", "3");
    host.tool(["run"]).expect(0);
    assert_eq!(host.read("config/prefs.json").as_deref(), Some("3"));
    kept_nothing(&host);
}

#[test]
fn a_run_that_is_killed_while_it_keeps_a_tree_is_completed_by_the_next() {
    for point in ["stash:compared#1", "stash:recorded#1", "stash:kept#1"] {
        let host = Host::running();
        host.write("mine.txt", "mine");
        let mut killed = host.command(["run"]);
        killed.env("LADYLINUX_REFRESH_TRACE", host.beside("trace"));
        killed.env("LADYLINUX_REFRESH_KILL_AT", point);
        assert!(!killed.output().unwrap().status.success());
        let run = last_run(&host);
        host.tool(["run"]).expect(0);
        let kept = fs::read_to_string(host.layout.stashes().join(&run).join("mine.txt"));
        assert_eq!(kept.ok().as_deref(), Some("mine"), "{point}");
        assert!(!stashed(&host).exists(), "{point}: the next run kept its own tree, which holds no change");
    }
    let host = Host::running();
    let mut killed = host.command(["run"]);
    killed.env("LADYLINUX_REFRESH_TRACE", host.beside("trace"));
    killed.env("LADYLINUX_REFRESH_KILL_AT", "stash:removing#1");
    assert!(!killed.output().unwrap().status.success());
    host.tool(["run"]).expect(0);
    kept_nothing(&host);
}

/// A typical hook: it compiles into a directory that git ignores, rewrites a tracked file, and removes another.
fn compiling() -> String {
    let work = "mkdir -p static/deep && echo css > static/built.css && echo map > static/deep/built.map && \
                echo compiled > index.txt && rm source.txt && echo beside > src/beside.txt";
    hook("compile", "assets", &["sh", "-c", work], "")
}

#[test]
fn products_of_hooks_are_no_local_changes_until_they_are_edited() {
    let host = Host::new();
    host.configure("ignored = \"stash\"", "");
    host.push(&[
        (".gitignore", "static/\n"),
        ("index.txt", "empty\n"),
        ("source.txt", "source\n"),
        ("src/tracked.txt", "tracked\n"),
        ("refresh.toml", &compiling()),
    ]);
    host.tool(["run"]).expect(0);
    let products = ["static/built.css", "static/deep/built.map", "index.txt", "src/beside.txt"];
    let made = || products.map(|path| host.read(path).unwrap().trim().to_owned());
    assert_eq!(made(), ["css", "map", "compiled", "beside"]);
    assert_eq!(host.read("source.txt"), None);
    let current = || {
        let pid = host.report()["service"]["pid"].clone();
        host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
        assert_eq!(host.report()["service"]["pid"], pid);
        host.tool(["plan", "--exit-code"]).expect(0);
        host.tool(["status"]).prints("local        no changes");
    };
    current();

    // The next version has no hook: all of its products are gone.
    host.push(&[("version.txt", "two\n"), ("refresh.toml", "")]);
    host.tool(["run"]).expect(0);
    kept_nothing(&host);
    aligned(&host, "main");
    assert!(!host.layout.app().join("static").exists());
    assert!(!host.layout.hook_outputs_file().exists());

    host.push(&[("refresh.toml", &compiling())]);
    host.tool(["run"]).expect(0);
    current();
    host.tool(["run"]).expect(0);
    kept_nothing(&host);
    assert_eq!(made(), ["css", "map", "compiled", "beside"]);
    current();

    // Edited with the old size, beside a product, and in place of a file that the hook removed.
    host.write("index.txt", "by hand!\n");
    host.write("src/mine.txt", "mine\n");
    host.write("source.txt", "by hand\n");
    host.write("static/deep/built.map", "mep\n");
    host.tool(["plan", "--exit-code"]).expect(5);
    host.tool(["run"]).expect(0);
    let kept = |path: &str| fs::read_to_string(stashed(&host).join(path)).unwrap();
    assert_eq!(kept("index.txt"), "by hand!\n");
    assert_eq!(kept("source.txt"), "by hand\n");
    assert_eq!(kept("src/mine.txt"), "mine\n");
    assert_eq!(kept("static/deep/built.map"), "mep\n");
    assert_eq!(host.report()["saved"]["count"], 4, "{}", host.report()["saved"]);
    assert_eq!(made(), ["css", "map", "compiled", "beside"]);
    current();
}

#[test]
fn a_kill_before_the_record_of_hook_products_keeps_one_additional_tree() {
    let host = Host::new();
    host.push(&[("index.txt", "empty\n"), ("source.txt", "source\n")]);
    host.push(&[("src/tracked.txt", "tracked\n"), ("refresh.toml", &compiling())]);
    let mut killed = host.command(["run"]);
    killed.env("LADYLINUX_REFRESH_TRACE", host.beside("trace"));
    killed.env("LADYLINUX_REFRESH_KILL_AT", "prepare:after-hook#1");
    assert!(!killed.output().unwrap().status.success());
    assert!(host.read("static/built.css").is_some() && !host.layout.hook_outputs_file().exists());
    host.tool(["run"]).expect(0);
    // The output of the hook, and the missing source.txt, which the killed run had moved in.
    assert_eq!(host.report()["saved"]["count"], 4, "{}", host.report()["saved"]);
    host.tool(["run"]).expect(0);
    kept_nothing(&host);
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
}

#[test]
fn a_stash_of_version_0_1_is_named_and_never_removed() {
    let host = Host::running();
    let saved = host.layout.runs().join("20250101T000000000Z-1/saved");
    fs::create_dir_all(saved.join("files")).unwrap();
    fs::write(saved.join("index.json"), "{}").unwrap();
    host.tool(["stash", "list"]).expect(0).prints(saved.to_str().unwrap());
    host.tool(["run"]).expect(0);
    assert!(saved.join("index.json").exists());
}
