//! Step 2: `app/` ends as the remote branch and nothing else, whatever its state before (RW-5.2).

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::host::{Host, git};
use crate::refresh::help::{WAYS, aligned};

#[test]
fn rw_5_2a_the_applications_own_repository_has_the_remotes_commits() {
    let host = Host::running();
    let commits = ["two\n", "three\n"].map(|version| host.push(&[("version.txt", version)]));
    host.tool(["run"]).expect(0);
    let app = host.layout.app();
    assert_eq!(git(&app, ["rev-list", "--max-count=2", "HEAD"]), format!("{}\n{}", commits[1], commits[0]));
    // Its objects are those of the mirror, which keeps them as long as a run may need them.
    let alternates = fs::read_to_string(app.join(".git/objects/info/alternates")).unwrap();
    assert_eq!(alternates.trim(), host.layout.mirror().join("objects").to_str().unwrap());
    git(&app, ["fsck", "--connectivity-only"]);
}

#[test]
fn rw_5_2b_rw_5_2c_rw_2_2_after_any_local_changes_the_tree_equals_the_branch() {
    for way in WAYS {
        let host = Host::new();
        host.push(&[
            ("flagged.txt", "of the repository"),
            ("assumed.txt", "of the repository"),
            ("deleted.txt", "of the repository"),
            ("staged.txt", "of the repository"),
            ("drafts/inner.txt", "of the repository"),
            ("script.sh", "#!/bin/sh\n"),
            (".gitignore", "*.ignored\ncache/\n"),
        ]);
        host.tool(way).expect(0);
        let app = host.layout.app();
        git(&app, ["update-index", "--skip-worktree", "flagged.txt"]);
        git(&app, ["update-index", "--assume-unchanged", "assumed.txt"]);
        for path in ["flagged.txt", "assumed.txt", "server.py", "untracked.txt", "deep/er/untracked.txt"] {
            host.write(path, "raise SystemExit('changed here')");
        }
        for path in ["x.ignored", "cache/x", "deep/x.ignored"] {
            host.write(path, "ignored");
        }
        host.write("staged.txt", "staged");
        git(&app, ["add", "staged.txt"]);
        fs::remove_file(app.join("deleted.txt")).unwrap();
        refresh_system::disk::remove_tree(&app.join("drafts")).unwrap();
        host.write("drafts", "a file now");
        fs::set_permissions(app.join("script.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(app.join("empty/folders")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", app.join("link")).unwrap();
        fs::write(app.join(".git/index.lock"), "").unwrap();

        host.push(&[("version.txt", "two\n")]);
        host.tool(way).expect(0);
        // As with `git clean -ffd`, what the commit ignores stays.
        let listed = host.report()["ignored"].to_string();
        for (kept, named) in
            [("x.ignored", "x.ignored"), ("cache/x", "cache"), ("deep/x.ignored", "deep/x.ignored")]
        {
            assert!(listed.contains(&format!("\"{named}\"")), "{named} is missing in {listed}");
            assert_eq!(host.read(kept).as_deref(), Some("ignored"));
        }
        for kept in ["x.ignored", "cache", "deep"] {
            refresh_system::disk::remove_tree(&app.join(kept)).unwrap();
        }
        aligned(&host, "main");
        let flags = git(&app, ["ls-files", "-v"]);
        assert!(flags.lines().all(|line| line.starts_with("H ")), "{flags}");
        assert_eq!(host.version().as_deref(), Some("two"));
    }
}

#[test]
fn rw_5_2b_a_rewritten_or_older_branch_is_deployed() {
    let host = Host::running();
    let (work, first) = (host.work(), host.head());
    host.push(&[("version.txt", "two\n"), ("only-in-two.txt", "x")]);
    host.tool(["run"]).expect(0);

    git(&work, ["reset", "--quiet", "--hard", &first]);
    let rewritten = host.push(&[("version.txt", "rewritten\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.head(), rewritten);
    aligned(&host, "main");
    assert_eq!(host.version().as_deref(), Some("rewritten"));

    git(&work, ["reset", "--quiet", "--hard", &first]);
    git(&work, ["push", "--quiet", "--force", "origin", "HEAD"]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.head(), first);
    aligned(&host, "main");
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn rw_5_2b_the_selected_branch_is_checked_out_from_any_head() {
    let host = Host::running();
    let (work, app) = (host.work(), host.layout.app());
    git(&work, ["checkout", "--quiet", "-b", "x"]);
    host.push(&[("version.txt", "x\n")]);
    host.tool(["run", "x"]).expect(0);
    aligned(&host, "x");
    assert_eq!(host.version().as_deref(), Some("x"));
    // Without a branch: the deployed one.
    let commit = host.push(&[("version.txt", "x again\n")]);
    git(&app, ["checkout", "--quiet", "--detach", "HEAD~1"]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.head(), commit);
    aligned(&host, "x");

    // The branch x became a directory of branches.
    git(&work, ["push", "--quiet", "origin", ":x"]);
    git(&work, ["checkout", "--quiet", "-b", "y"]);
    git(&work, ["branch", "--quiet", "-D", "x"]);
    git(&work, ["branch", "--quiet", "-m", "x/y"]);
    host.push(&[("version.txt", "x/y\n")]);
    host.tool(["run", "x/y"]).expect(0);
    aligned(&host, "x/y");
    assert_eq!(host.version().as_deref(), Some("x/y"));

    // The branch that the host follows, whatever branch is deployed.
    host.configure("branch = \"main\"", "");
    host.tool(["run"]).expect(0);
    aligned(&host, "main");
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn rw_5_2b_line_endings_and_executable_bits_equal_those_of_a_checkout() {
    let host = Host::running();
    let work = host.work();
    // First committed with both line endings; the attributes follow later, as in real repositories with a long history.
    host.push(&[("windows.txt", "a\r\nb\r\n"), ("unix.txt", "a\nb\n"), ("mixed.txt", "a\r\nb\n")]);
    fs::write(work.join("run.sh"), "#!/bin/sh\r\n").unwrap();
    fs::set_permissions(work.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(work.join(".gitattributes"), "* text=auto\n*.bat text eol=crlf\n").unwrap();
    fs::write(work.join("start.bat"), "echo\n").unwrap();
    git(&work, ["add", ".gitattributes", "run.sh", "start.bat"]);
    git(&work, ["commit", "--quiet", "--message", "Attributes"]);
    git(&work, ["push", "--quiet", "origin", "HEAD"]);
    host.tool(["run"]).expect(0);
    let app = host.layout.app();
    assert_eq!(host.read("windows.txt").unwrap(), "a\r\nb\r\n");
    assert_eq!(host.read("start.bat").unwrap(), "echo\r\n");
    fs::set_permissions(app.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    host.write("windows.txt", "a\nb\n");
    host.tool(["run"]).expect(0);
    assert_eq!(app.join("run.sh").metadata().unwrap().permissions().mode() & 0o111, 0o111);
    assert_eq!(host.read("windows.txt").unwrap(), "a\r\nb\r\n");
    assert_eq!(crate::refresh::help::checkout(&app), crate::refresh::help::clone_of(&host, "main"));
    // And once more without any change: nothing must be stashed.
    host.tool(["run"]).expect(0);
    assert_eq!(host.report()["saved"]["count"], 0, "{}", host.report());
}

#[test]
fn rw_5_2a_a_shallow_clone_is_refreshed_like_any_other() {
    let host = Host::running();
    host.push(&[("version.txt", "two\n")]);
    let app = host.layout.app();
    refresh_system::disk::remove_tree(&app).unwrap();
    git(&host.layout.home(), ["clone", "--quiet", "--depth=1", &host.url(), "app"]);
    assert!(app.join(".git/shallow").exists());
    host.push(&[("version.txt", "three\n")]);
    host.tool(["run"]).expect(0);
    aligned(&host, "main");
    assert_eq!(host.version().as_deref(), Some("three"));
}

#[test]
fn rw_5_2a_partial_and_sparse_clones_are_refreshed_like_any_other() {
    let host = Host::running();
    host.push(&[("sub/deep/same.txt", "unchanged\n"), ("sub/deep/other.txt", "1\n"), ("top.txt", "x\n")]);
    let upstream = host.beside("srv/app.git");
    git(&upstream, ["config", "uploadpack.allowFilter", "true"]);
    let app = host.layout.app();
    let ways: [(&[&str], &[&str]); 6] = [
        (&["--filter=blob:none"], &[]),
        (&["--filter=tree:0"], &[]),
        (&["--filter=blob:none", "--sparse"], &[]),
        (&["--filter=blob:none", "--sparse", "--depth=1"], &["sparse-checkout", "set", "nothing"]),
        (&["--sparse"], &["sparse-checkout", "set", "--no-cone", "/*.txt", "/server.py"]),
        (&["--sparse"], &["sparse-checkout", "set", "--sparse-index", "nothing"]),
    ];
    for (number, (options, sparse)) in (1..).zip(ways) {
        refresh_system::disk::remove_tree(&app).unwrap();
        let url = host.url();
        git(&host.layout.home(), [&["clone", "--quiet"], options, &[&url, "app"]].concat());
        if !sparse.is_empty() {
            git(&app, sparse);
        }
        host.write("top.txt", "by hand\n");
        host.write("local.txt", "mine\n");
        let version = format!("{number}\n");
        host.push(&[("version.txt", &version), ("sub/deep/other.txt", &version), ("top.txt", &version)]);
        host.tool(["run"]).expect(0).prints("top.txt").prints("local.txt");
        aligned(&host, "main");
        assert_eq!(host.version().as_deref(), Some(version.trim()), "{options:?}");
        assert_eq!(host.read("sub/deep/same.txt").as_deref(), Some("unchanged\n"), "{options:?}");
        git(&app, ["fsck", "--connectivity-only"]);
        let run = crate::refresh::help::last_run(&host);
        let shown = host.tool(["stash", "show", &run]).expect(0).prints("by hand");
        // A file that a sparse checkout leaves out is not removed.
        assert!(!shown.all().contains("deleted"), "{options:?}: {}", shown.all());
        host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
        host.tool(["rollback"]).expect(0);
        host.tool(["run"]).expect(0);
    }
}

#[test]
fn a_repository_with_settings_links_and_flags_of_people_is_refreshed_like_any_other() {
    let host = Host::running();
    let (app, beside) = (host.layout.app(), |name: &str| host.beside(name).display().to_string());
    let at = |words: &[&str]| git(&app, words);
    let append = |file: &str, line: &str| {
        let path = app.join(".git").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, format!("{text}{line}\n")).unwrap();
    };
    let states: [(&str, &dyn Fn()); 15] = [
        ("core.autocrlf", &|| drop(at(&["config", "core.autocrlf", "true"]))),
        ("core.fileMode", &|| drop(at(&["config", "core.fileMode", "false"]))),
        ("core.ignoreCase", &|| drop(at(&["config", "core.ignoreCase", "true"]))),
        ("core.worktree", &|| drop(at(&["config", "core.worktree", "/tmp"]))),
        ("core.bare", &|| drop(at(&["config", "core.bare", "true"]))),
        ("core.hooksPath", &|| drop(at(&["config", "core.hooksPath", "/nonexistent"]))),
        ("a split index", &|| drop(at(&["update-index", "--split-index"]))),
        ("assume-unchanged", &|| drop(at(&["update-index", "--assume-unchanged", "version.txt"]))),
        ("skip-worktree", &|| drop(at(&["update-index", "--skip-worktree", "server.py"]))),
        ("info/attributes", &|| append("info/attributes", "*.txt eol=crlf")),
        ("a replaced commit", &|| drop(at(&["replace", "HEAD", "HEAD~1"]))),
        ("grafts", &|| append("info/grafts", &git(&app, ["rev-parse", "HEAD"]))),
        ("another working tree", &|| drop(at(&["worktree", "add", "--quiet", &beside("linked")]))),
        ("alternates", &|| append("objects/info/alternates", &beside("srv/app.git/objects"))),
        ("a link to the repository", &|| {
            fs::rename(app.join(".git"), host.beside("elsewhere")).unwrap();
            fs::write(app.join(".git"), format!("gitdir: {}\n", beside("elsewhere"))).unwrap();
        }),
    ];
    for (number, (what, make)) in (1..).zip(states) {
        make();
        host.write("local.txt", "mine\n");
        let version = format!("{number}\n");
        host.push(&[("version.txt", &version)]);
        let ran = host.tool(["run"]);
        assert_eq!(ran.code, Some(0), "{what}: {}", ran.all());
        let is_apart = what == "a link to the repository";
        assert_eq!(ran.all().contains("cannot be compared"), is_apart, "{what}: {}", ran.all());
        let is_linked = what == "another working tree";
        assert_eq!(ran.all().contains("worktree repair PATH"), is_linked, "{what}: {}", ran.all());
        aligned(&host, "main");
        assert_eq!(host.version().as_deref(), Some(version.trim()), "{what}");
        let run = crate::refresh::help::last_run(&host);
        host.tool(["stash", "restore", &run, "local.txt"]).expect(0);
        assert_eq!(host.read("local.txt").as_deref(), Some("mine\n"), "{what}");
        fs::remove_file(app.join("local.txt")).unwrap();
    }
}

#[test]
fn names_links_and_encodings_that_people_commit_are_deployed_byte_for_byte() {
    use std::os::unix::ffi::OsStrExt as _;
    let host = Host::running();
    let work = host.work();
    let run = |what: &str| {
        host.push(&[]);
        let ran = host.tool(["run"]);
        assert_eq!(ran.code, Some(0), "{what}: {}", ran.all());
        aligned(&host, "main");
        let again = host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
        assert!(!again.all().contains("local change"), "{what}: {}", again.all());
    };
    for name in [&b"caf\xe9"[..], b"new\nline", b" lead", b"-dash", b"tab\there", b"back\\slash", b"Case"] {
        fs::write(work.join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    run("names");
    git(&work, ["mv", "Case", "case"]);
    fs::remove_file(work.join("-dash")).unwrap();
    fs::create_dir(work.join("-dash")).unwrap();
    fs::write(work.join("-dash/in"), "y").unwrap();
    run("another case, and a directory in the place of a file");
    fs::remove_dir_all(work.join("-dash")).unwrap();
    for (target, link) in [
        ("two", "one"),
        ("one", "two"),
        (".", "self"),
        ("/etc/passwd", "-dash"),
        ("../../../../etc", "out"),
        ("nowhere", "dangling"),
    ] {
        std::os::unix::fs::symlink(target, work.join(link)).unwrap();
    }
    run("links in a circle, out of the tree and to nothing");
    let attributes = "*.ps1 text working-tree-encoding=UTF-16LE-BOM eol=crlf\n*.c ident\n*.bat text eol=crlf\n*.t export-subst\n";
    fs::write(work.join(".gitattributes"), attributes).unwrap();
    fs::write(work.join("a.ps1"), b"\xff\xfeW\0\r\0\n\0").unwrap();
    fs::write(work.join("a.c"), "/* $Id$ */\n").unwrap();
    fs::write(work.join("a.bat"), "echo\r\n").unwrap();
    fs::write(work.join("a.t"), "$Format:%H$\n").unwrap();
    run("attributes");
    assert_eq!(fs::read(host.layout.app().join("a.ps1")).unwrap(), b"\xff\xfeW\0\r\0\n\0");
    assert!(host.read("a.c").unwrap().starts_with("/* $Id: "));
}

#[test]
fn rw_5_2a_a_large_file_of_the_commit_and_one_that_was_changed_are_moved_and_not_copied() {
    let host = Host::running();
    fs::write(host.work().join("large.bin"), vec![b'1'; 32 << 20]).unwrap();
    host.push(&[]);
    host.tool(["run"]).expect(0);
    let large = host.layout.app().join("large.bin");
    let log = fs::read_to_string(host.runs().last().unwrap().join("log")).unwrap();
    let stop = log.lines().find_map(|line| line.strip_suffix(" stop: started")).unwrap();
    let made = jiff::Timestamp::try_from(large.metadata().unwrap().created().unwrap()).unwrap();
    assert!(made < stop.parse().unwrap(), "made at {made}, after the stop at {stop}");

    // Changed manually, and sparse.
    fs::File::options().write(true).open(&large).unwrap().set_len(300 << 20).unwrap();
    let inode = large.metadata().unwrap().ino();
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0).prints("large.bin");
    let kept = host.layout.stashes().join(crate::refresh::help::last_run(&host)).join("large.bin");
    assert_eq!(kept.metadata().unwrap().ino(), inode);
    assert_eq!(host.version().as_deref(), Some("two"));
}
