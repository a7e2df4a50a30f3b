//! Local changes are never lost: saved before the tree is aligned, listed, and brought back.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::help::{WAYS, aligned, hook, last_run, with};
use crate::host::{Host, git};

#[test]
#[ignore = "the comparison of the previous tree reports local changes"]
fn local_changes_of_every_kind_are_saved_shown_and_restored() {
    for way in WAYS {
        let host = Host::new();
        host.push(&[
            ("modified.txt", "of the repository\n"),
            ("staged.txt", "of the repository\n"),
            (".gitignore", "*.local\n"),
        ]);
        host.tool(way).expect(0);
        let app = host.layout.app();
        host.write("modified.txt", "mine\n");
        host.write("staged.txt", "only staged\n");
        git(&app, ["add", "staged.txt"]);
        host.write("staged.txt", "of the repository\n");
        host.write("folder/untracked.txt", "untracked\n");
        host.write("ignored.local", "ignored\n");
        host.write("stashed.txt", "stashed\n");
        git(&app, ["add", "stashed.txt"]);
        git(&app, ["stash", "push", "--quiet", "--", "stashed.txt"]);
        git(&app, ["branch", "mine"]);
        let tree = git(&app, ["rev-parse", "HEAD^{tree}"]);
        let commit = git(&app, ["commit-tree", &tree, "-p", "HEAD", "-m", "Mine"]);
        git(&app, ["update-ref", "refs/heads/mine", &commit]);
        let stash = git(&app, ["rev-parse", "refs/stash"]);

        host.push(&[("version.txt", "two\n")]);
        host.tool(way).expect(0).says("drift show");
        aligned(&host, "main");
        let run = last_run(&host);
        let report = host.report();
        let listed = report["saved"]["paths"].to_string();
        for path in ["modified.txt", "folder", "ignored.local", "mine", "stash"] {
            assert!(listed.contains(path), "{path} is missing in {listed}");
        }
        host.tool(["drift", "list"]).expect(0).says(&run);
        host.tool(["drift", "show", &run]).expect(0).says("modified.txt").says("ignored.local").says("stash");
        let patch = host.tool(["drift", "show", &run, "modified.txt"]).expect(0).out;
        assert!(patch.starts_with("diff --git a/modified.txt") && patch.ends_with("+mine\n"), "{patch}");
        assert_eq!(host.tool(["drift", "show", &run, "ignored.local"]).expect(0).out, "ignored\n");
        assert_eq!(host.tool(["drift", "show", &run, "folder"]).expect(0).out, "untracked.txt\n");
        assert_eq!(host.tool(["drift", "show", &run, "./folder/untracked.txt"]).expect(0).out, "untracked\n");
        host.tool(["drift", "show", &run, "folder/none"]).expect(3).says("saved nothing at folder/none");
        let place = host.runs().last().unwrap().join("saved");
        let patch = everything_below(&place);
        assert!(patch.contains("-of the repository\n+mine"), "there is no patch");
        assert!(patch.contains("only staged"), "what was only staged is lost");

        host.write("modified.txt", "newer\n");
        host.tool(["drift", "restore", &run, "modified.txt"])
            .expect(3)
            .says("modified.txt is there and differs")
            .says("--overwrite");
        host.tool(["drift", "restore", &run, "--overwrite"]).expect(0);
        assert_eq!(host.read("modified.txt").as_deref(), Some("mine\n"));
        assert_eq!(host.read("folder/untracked.txt").as_deref(), Some("untracked\n"));
        assert_eq!(host.read("ignored.local").as_deref(), Some("ignored\n"));
        let refs = git(&app, ["for-each-ref", "--format=%(objectname)"]);
        assert!(refs.contains(&commit), "the commits of a local branch are lost");
        assert!(refs.contains(&stash), "the stash is lost");
    }
}

/// The text of all small files below a folder.
fn everything_below(folder: &std::path::Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.push_str(&everything_below(&path));
        } else if path.is_file() {
            all.push_str(&String::from_utf8_lossy(&fs::read(path).unwrap()));
        }
    }
    all
}

#[test]
#[ignore = "the comparison of the previous tree reports local changes"]
fn a_large_file_is_moved_and_not_copied() {
    for way in WAYS {
        let host = Host::running();
        let large = host.layout.app().join("large.bin");
        fs::File::create(&large).unwrap().set_len(300 << 20).unwrap();
        let inode = large.metadata().unwrap().ino();
        host.tool(way).expect(0);
        assert!(!large.exists());
        let saved = host.runs().last().unwrap().join("saved/untracked/large.bin");
        assert_eq!(saved.metadata().unwrap().ino(), inode, "it was copied");
        host.tool(["drift", "restore", &last_run(&host)]).expect(0);
        assert_eq!(large.metadata().unwrap().len(), 300 << 20);
    }
}

#[test]
fn preserved_files_stay_in_place_and_are_reported() {
    for way in WAYS {
        let host = Host::new();
        host.configure("preserve = [\"state/**\", \"theme.json\"]", "");
        host.push(&[("theme.json", "dark\n")]);
        host.tool(way).expect(0);
        host.write("state/users.json", "people");
        host.write("theme.json", "light\n");
        host.write("stray.txt", "stray");
        for version in ["two\n", "three\n"] {
            host.push(&[("version.txt", version)]);
            host.tool(way).expect(0).says("preserved file");
            assert_eq!(host.read("state/users.json").as_deref(), Some("people"));
            assert_eq!(host.read("theme.json").as_deref(), Some("light\n"));
            assert_eq!(host.read("stray.txt"), None);
            assert_eq!(host.read("version.txt").as_deref(), Some(version));
            let preserved = host.report()["preserved"].to_string();
            assert!(preserved.contains("theme.json") && preserved.contains("state"), "{preserved}");
        }
    }
}

#[test]
#[ignore = "the comparison of the previous tree reports local changes"]
fn a_file_that_is_saved_run_after_run_is_pointed_out_with_the_line_to_add() {
    let host = Host::running();
    host.write("config/prefs.json", "1");
    let first = host.tool(["run"]).expect(0);
    assert!(!first.all().contains("run after run"));
    host.write("config/prefs.json", "2");
    host.tool(["run"]).expect(0).says("config is saved run after run").says("preserve = ");
    // The line works as it was told.
    let warning = host.report()["warnings"].to_string().replace("\\\"", "\"");
    let line =
        format!("preserve = {}", warning.split("preserve = ").nth(1).unwrap().split(']').next().unwrap());
    host.configure(&format!("{line}]"), "");
    host.write("config/prefs.json", "3");
    host.tool(["run"]).expect(0);
    assert_eq!(host.read("config/prefs.json").as_deref(), Some("3"));
    assert_eq!(host.report()["saved"]["count"], 0);
}

#[test]
#[ignore = "the comparison of the previous tree reports local changes"]
fn pruning_keeps_what_the_latest_run_relies_on_and_removes_the_rest() {
    let host = Host::running();
    let app = host.layout.app();
    let tree = git(&app, ["rev-parse", "HEAD^{tree}"]);
    let commit = git(&app, ["commit-tree", &tree, "-p", "HEAD", "-m", "Mine"]);
    git(&app, ["update-ref", "refs/heads/mine", &commit]);
    let refresh = |note: Option<&str>| {
        if let Some(note) = note {
            host.write("note.txt", note);
        }
        host.tool(["run"]).expect(0);
        last_run(&host)
    };
    let (first, idle, second, third) = (refresh(None), refresh(None), refresh(Some("2")), refresh(Some("3")));
    let listed = host.tool(["drift", "list"]).expect(0);
    assert!(!listed.out.contains(&idle), "{}", listed.out);
    let line = |run: &str| listed.out.lines().find(|line| line.starts_with(run)).unwrap().to_owned();
    assert!(line(&first).contains("  commits of 1 local name, "), "{}", line(&first));
    assert!(line(&second).contains("  1 file or folder, "), "{}", line(&second));
    let pruned = host.tool(["drift", "prune"]).expect(0).says(&format!("removed what run {second}"));
    pruned.says(&format!("kept what run {first} had saved: run {third} relies on its commits"));
    // Named together, the one that relies on the other goes first.
    host.tool(["drift", "prune", &first]).expect(3).says("relies on");
    host.tool(["drift", "prune", &first, &third]).expect(0);
    host.tool(["drift", "prune"]).expect(0).says("nothing to remove");
    for words in [&["show", &first][..], &["show", &first, "x"], &["restore", &first], &["prune", &first]] {
        let arguments = ["drift"].into_iter().chain(words.iter().copied());
        host.tool(arguments).expect(3).says(&format!("nothing is saved under run {first}\n"));
    }
    host.tool(["drift", "list"]).expect(0).says("no refresh has saved");
}

/// A hook as they usually are: compiles into a folder that git ignores, rewrites a tracked file, removes another.
fn compiling() -> String {
    let work = "mkdir -p static/deep && echo css > static/built.css && echo map > static/deep/built.map && \
                echo compiled > index.txt && rm source.txt && echo beside > src/beside.txt";
    hook("compile", "assets", &["sh", "-c", work], "")
}

#[test]
#[ignore = "the comparison of the previous tree reports local changes"]
fn what_hooks_make_is_no_local_change_until_somebody_touches_it() {
    for way in WAYS {
        let host = Host::new();
        host.push(&[
            (".gitignore", "static/\n"),
            ("index.txt", "empty\n"),
            ("source.txt", "source\n"),
            ("src/tracked.txt", "tracked\n"),
            ("refresh.toml", &compiling()),
        ]);
        host.tool(way).expect(0);
        let products = ["static/built.css", "static/deep/built.map", "index.txt", "src/beside.txt"];
        let made = || products.map(|path| host.read(path).unwrap().trim().to_owned());
        assert_eq!(made(), ["css", "map", "compiled", "beside"]);
        assert_eq!(host.read("source.txt"), None);
        let current = || {
            let pid = host.report()["service"]["pid"].clone();
            host.tool(with(way, &["--if-changed"])).expect(0).says("Already current");
            assert_eq!(host.report()["service"]["pid"], pid);
            host.tool(["plan", "--exit-code"]).expect(0);
            host.tool(["status"]).says("local        0 changes");
        };
        current();

        // The next version comes without the hook: all of it is gone, and the proof finds the commit.
        host.push(&[("version.txt", "two\n"), ("refresh.toml", "")]);
        host.tool(way).expect(0);
        assert_eq!(host.report()["saved"]["count"], 0, "{}", host.report()["saved"]);
        aligned(&host, "main");
        assert!(!host.layout.app().join("static").exists());
        assert!(!host.layout.made_file().exists());

        host.push(&[("refresh.toml", &compiling())]);
        host.tool(way).expect(0);
        current();
        host.tool(way).expect(0);
        assert_eq!(host.report()["saved"]["count"], 0);
        assert_eq!(made(), ["css", "map", "compiled", "beside"]);
        current();

        // Edited with the old size, beside a product, and in the place of a file that the hook removed.
        host.write("index.txt", "by hand!\n");
        host.write("src/mine.txt", "mine\n");
        host.write("source.txt", "by hand\n");
        host.write("static/deep/built.map", "mep\n");
        host.tool(["plan", "--exit-code"]).expect(5);
        host.tool(way).expect(0);
        let saved = host.runs().last().unwrap().join("saved");
        let kept = |path: &str| fs::read_to_string(saved.join(path)).unwrap();
        assert_eq!(kept("files/index.txt"), "by hand!\n");
        assert_eq!(kept("files/source.txt"), "by hand\n");
        assert_eq!(kept("untracked/src/mine.txt"), "mine\n");
        assert_eq!(kept("untracked/static/deep/built.map"), "mep\n");
        assert!(!saved.join("untracked/src/beside.txt").exists(), "an untouched product was saved");
        assert_eq!(host.report()["saved"]["count"], 4, "{}", host.report()["saved"]);
        assert_eq!(made(), ["css", "map", "compiled", "beside"]);
        current();
    }
}

#[test]
#[ignore = "the comparison of the previous tree reports local changes"]
fn a_kill_between_hooks_and_their_record_costs_one_saving() {
    let host = Host::new();
    host.push(&[(".gitignore", "static/\n"), ("index.txt", "empty\n"), ("source.txt", "source\n")]);
    host.push(&[("src/tracked.txt", "tracked\n"), ("refresh.toml", &compiling())]);
    let mut killed = host.command(["run"]);
    killed.env("LADYLINUX_REFRESH_TRACE", host.beside("trace"));
    killed.env("LADYLINUX_REFRESH_KILL_AT", "prepare:after-hook#1");
    assert!(!killed.output().unwrap().status.success());
    assert!(host.read("static/built.css").is_some() && !host.layout.made_file().exists());
    host.tool(["run"]).expect(0);
    assert_eq!(host.report()["saved"]["count"], 4, "{}", host.report()["saved"]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.report()["saved"]["count"], 0);
    host.tool(["run", "--if-changed"]).expect(0).says("Already current");
}
