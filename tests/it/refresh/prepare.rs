//! Step 4: hooks, one after the other, in the surroundings of the service (RW-5.4).

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use refresh_programs::process::ProcessId;

use crate::host::Host;
use crate::refresh::help::{
    SIGHTING_HOOK, WAYS, down_and_fenced, error_text, hook, journaled, look_out, seen,
};

const KINDS: [&str; 4] = ["migration", "assets", "index", "check"];

#[test]
fn rw_5_4_hooks_of_every_kind_run_in_order_in_the_surroundings_of_the_service() {
    for way in WAYS {
        let host = Host::running();
        look_out(&host);
        let hooks: String =
            KINDS.iter().map(|kind| hook(kind, kind, &["python", "look.py", kind], "")).collect();
        let commit =
            host.push(&[("version.txt", "two\n"), ("look.py", SIGHTING_HOOK), ("refresh.toml", &hooks)]);
        host.configure("", &hook("of the host", "check", &["python", "look.py", "host"], ""));
        host.tool(way).expect(0);
        let sightings = seen(&host);
        let names: Vec<&str> = sightings.iter().map(|look| look["name"].as_str().unwrap()).collect();
        assert_eq!(names, [&KINDS[..], &["host"]].concat());
        let report = host.report();
        let venv = host.layout.venv();
        for look in &sightings {
            assert_eq!(look["directory"], host.layout.app().to_str().unwrap());
            assert_eq!(look["version"], "two", "the hook ran before the tree was aligned");
            assert_eq!(look["fence"], true);
            assert_eq!(look["listens"], false);
            let environment = &look["environment"];
            assert_eq!(environment["SECRET"], "kept", "the service's environment file was not loaded");
            assert_eq!(environment["LADYLINUX_COMMIT"], commit.as_str());
            assert_eq!(environment["LADYLINUX_BRANCH"], "main");
            assert_eq!(environment["LADYLINUX_ENVIRONMENT"], report["environment"]["name"]);
            assert_eq!(environment["LADYLINUX_GENERATION"], report["environment"]["name"], "its former name");
            assert!(environment["LADYLINUX_REFRESHED_AT"].is_string());
            let path = environment["PATH"].as_str().unwrap();
            assert!(path.starts_with(&format!("{}/bin:", venv.display())), "{path}");
            assert_eq!(look["prefix"], venv.to_str().unwrap(), "another Python ran");
        }
    }
}

#[test]
fn rw_5_4_without_hooks_the_step_does_nothing() {
    let host = Host::new();
    host.tool(["run"]).expect(0).prints("no hooks declared");
}

#[test]
fn rw_5_4_the_first_hook_that_fails_halts_the_run() {
    let host = Host::running();
    look_out(&host);
    let hooks = [
        hook("before", "migration", &["python", "look.py", "before"], ""),
        hook("broken", "assets", &["sh", "-c", "echo the assets are torn >&2; exit 7"], ""),
        hook("after", "check", &["python", "look.py", "after"], ""),
    ]
    .concat();
    host.push(&[("look.py", SIGHTING_HOOK), ("refresh.toml", &hooks)]);
    host.tool(["run"]).expect(1).prints("the assets hook broken failed").prints("the assets are torn");
    assert!(error_text(&host).contains("code 7"), "the exit code is missing: {}", error_text(&host));
    assert_eq!(seen(&host).len(), 1, "a hook ran after the one that failed");
    assert_eq!(journaled(&host, "failed"), ["prepare"]);
    down_and_fenced(&host);
}

#[test]
fn rw_5_4_a_hook_that_hangs_is_ended_at_its_deadline_with_all_that_it_started() {
    let host = Host::running();
    look_out(&host);
    let grandchild = host.layout.data()[1].join("grandchild");
    // The grandchild has its own session and ignores SIGTERM.
    let hang = format!(
        "import os, signal, time\nif os.fork() == 0:\n    os.setsid()\n    \
         signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    \
         open({grandchild:?}, 'w').write(str(os.getpid()))\ntime.sleep(1000)\n"
    );
    host.push(&[
        ("hang.py", &hang),
        ("refresh.toml", &hook("hanging", "index", &["python", "hang.py"], "deadline = \"4s\"")),
    ]);
    host.tool(["run"]).expect(1).prints("the index hook hanging failed").prints("4s");
    let grandchild = fs::read_to_string(&grandchild).unwrap();
    assert_eq!(ProcessId::of(grandchild.parse().unwrap()), None, "it lives on");
    down_and_fenced(&host);
    host.push(&[("refresh.toml", "")]);
    host.tool(["run"]).expect(0);
}

#[test]
fn rw_5_4_a_hook_that_floods_its_output_is_kept_within_bounds() {
    let host = Host::running();
    let line = "a line that comes again and again ".repeat(8);
    let flood = format!("yes {line} | head -c 40000000; echo the last line");
    host.push(&[("refresh.toml", &hook("talkative", "check", &["sh", "-c", &flood], ""))]);
    let ran = host.tool(["run"]).expect(0).prints("the rest is left out");
    let log = host.runs().last().unwrap().join("log").metadata().unwrap().len();
    assert!(log < 20_000_000, "the log has {log} bytes");
    assert!(ran.out.len() < 20_000_000, "{} bytes were shown", ran.out.len());
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn rw_5_4_hooks_come_from_the_commit_and_never_from_the_work_tree() {
    for way in WAYS {
        let host = Host::running();
        look_out(&host);
        let committed = hook("committed", "check", &["python", "look.py", "committed"], "");
        host.push(&[("look.py", SIGHTING_HOOK), ("refresh.toml", &committed)]);
        host.tool(way).expect(0);
        seen(&host);
        host.write(
            "refresh.toml",
            &hook("smuggled", "check", &["python", "look.py", "smuggled"], "stage = true"),
        );
        host.write("look.py", "raise SystemExit('changed here')");
        host.tool(way).expect(0);
        let names: Vec<String> = seen(&host).iter().map(|look| look["name"].to_string()).collect();
        assert_eq!(names, ["\"committed\""]);
        assert_eq!(host.report()["saved"]["count"], 2);
    }
}

#[test]
fn rw_5_4_a_hook_that_leaves_nothing_ends_no_process_of_the_run() {
    let host = Host::running();
    host.push(&[("refresh.toml", &hook("early", "check", &["true"], "stage = true"))]);
    host.tool(["run"]).expect(0);
    let log = fs::read_to_string(host.runs().last().unwrap().join("log")).unwrap();
    assert!(!log.contains("left running"), "{log}");
}

#[test]
fn rw_5_4_a_staged_check_that_fails_leaves_the_service_as_it_is() {
    let host = Host::running();
    let pid = host.service_pid();
    host.push(&[
        ("version.txt", "two\n"),
        ("refresh.toml", &hook("early", "check", &["false"], "stage = true")),
    ]);
    host.tool(["run"]).expect(3).prints("the check hook early failed");
    assert_eq!(host.report()["service"]["pid"].as_i64(), pid);
    assert_eq!(host.version().as_deref(), Some("one"));
    assert!(!host.fenced());
    // Without staging the same check runs in its step, and halts.
    host.tool(["run", "--no-stage"]).expect(1);
    down_and_fenced(&host);
}

#[test]
fn rw_5_4_a_hook_whose_program_cannot_start_leaves_the_service_as_it_is() {
    let host = Host::running();
    let refused = |command: &str, says: &str| {
        host.push(&[
            ("refresh.toml", &hook("early", "migration", &[command], "")),
            ("plain.sh", "#!/bin/sh\n"),
        ]);
        host.tool(["run"]).expect(3).prints("the migration hook early cannot start").prints(says);
        assert!(!host.fenced());
        assert_eq!(host.version().as_deref(), Some("one"));
    };
    refused("no-such-program", "neither in the environment nor in the PATH");
    refused("./no-such-file", "is not in the commit");
    refused("./plain.sh", "is not executable");
    refused("/usr/bin/no-such-program", "does not exist");
    for (text, says) in [
        ("#!/bin/sh\r\n", "has Windows line endings"),
        ("#!./script.sh\n", "which leads back to itself"),
        ("#!./other.sh\n", "needs the interpreter \"./script.sh\", which leads back to itself"),
        ("#!/usr/bin/nothing\n", "needs the interpreter \"/usr/bin/nothing\", which does not exist"),
        ("#!/usr/bin/env python4\n", "\"python4\", which is neither in the environment nor in the PATH"),
        ("#!venv/bin/python\n", "\"venv/bin/python\", which is not in the commit"),
    ] {
        for (name, text) in [("script.sh", text), ("other.sh", "#!./script.sh\n")] {
            let script = host.work().join(name);
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        refused("./script.sh", says);
    }
    // The interpreter may be that of the environment.
    let python = format!("#!{}/bin/python\n", host.layout.venv().display());
    fs::write(host.work().join("script.sh"), python).unwrap();
    host.push(&[("refresh.toml", &hook("early", "migration", &["./script.sh"], ""))]);
    host.tool(["run"]).expect(0);
    // A program behind a link of the commit can start.
    let real = host.work().join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("hook.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(real.join("hook.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("real", host.work().join("linked")).unwrap();
    host.push(&[("refresh.toml", &hook("early", "migration", &["linked/hook.sh"], ""))]);
    host.tool(["run"]).expect(0);
    // The host may name any program; it is checked too.
    host.configure("", &hook("late", "check", &["/srv/no-such-program"], ""));
    host.tool(["run"]).expect(3).prints("the check hook late cannot start").prints("does not exist");
}

#[test]
fn rw_5_4_a_hook_whose_script_is_not_in_the_commit_leaves_the_service_as_it_is() {
    let host = Host::running();
    let with = |files: &[(&str, &str)], commands: [&[&str]; 2]| {
        let hooks = commands.map(|command| hook("update", "migration", command, "")).concat();
        host.push(&[files, &[("refresh.toml", &hooks)]].concat());
    };
    let files = [("update.py", "pass\n"), ("tools/update.py", "pass\n"), ("tools/__main__.py", "pass\n")];
    with(&files, [&["python", "tools"], &["python", "-m", "tools.update"]]);
    host.tool(["run"]).expect(0);
    // A local script, and a module of Python, are in no commit.
    host.write("mine.py", "pass\n");
    fs::write(host.layout.app().join(".git/info/exclude"), "mine.py\n").unwrap();
    with(&[], [&["python", "mine.py"], &["python", "-m", "compileall", "-q", "update.py"]]);
    host.tool(["run"]).expect(0);
    // Neither is a module beside those of the commit.
    host.write("tools/mine.py", "pass\n");
    fs::write(host.layout.app().join(".git/info/exclude"), "mine.py\n").unwrap();
    with(&[], [&["python", "-m", "tools.mine"], &["true"]]);
    host.tool(["run"]).expect(0);
    // Python prefers an installed package to a directory of that name.
    with(
        &[("requirements.txt", "iniconfig==2.0.0\n"), ("iniconfig/notes.txt", "mine\n")],
        [&["python", "-m", "iniconfig.exceptions"], &["true"]],
    );
    host.tool(["run"]).expect(0);
    let refused: [([&[&str]; 2], &str); 4] = [
        ([&["python", "gone.py"], &["true"]], "\"gone.py\" is not in the commit"),
        ([&["sh", "tools/gone.sh"], &["true"]], "\"tools/gone.sh\" is not in the commit"),
        ([&["python", "-m", "tools.gone"], &["true"]], "\"the module tools.gone\" is not in the commit"),
        // An earlier hook may write a file, but not one that the version in `app/` has.
        ([&["true"], &["python3", "-B", "update.py"]], "\"update.py\" is not in the commit"),
    ];
    for (commands, says) in refused {
        with(&[("update.py", ""), ("version.txt", "two\n")], commands);
        host.tool(["run"]).expect(3).prints("the migration hook update cannot start").prints(says);
        assert!(!host.fenced());
        assert_eq!(host.version().as_deref(), Some("one"));
    }
}

#[test]
fn rw_5_4_staged_assets_are_built_before_the_stop_and_copied_in_step_4() {
    let host = Host::running();
    look_out(&host);
    let build = "mkdir -p static && echo built-$LADYLINUX_COMMIT >static/site.css && python look.py assets";
    let hooks = [
        hook("look", "check", &["python", "look.py", "check"], ""),
        hook("bundle", "assets", &["sh", "-ec", build], "stage = true"),
        hook("use", "index", &["sh", "-ec", "cp static/site.css used.txt"], ""),
    ]
    .concat();
    let files = [("look.py", SIGHTING_HOOK), ("kept.txt", "as it is\n"), ("refresh.toml", &*hooks)];
    let commit = host.push(&files);
    host.tool(["run"]).expect(0).prints("files of staged assets wait for step 4");
    let looks = seen(&host);
    let names: Vec<&str> = looks.iter().map(|look| look["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["assets", "check"], "the staged hook does not run again in step 4");
    assert_eq!((&looks[0]["fence"], &looks[0]["listens"]), (&false.into(), &true.into()));
    let expected = format!("built-{commit}\n");
    assert_eq!(host.read("static/site.css").as_deref(), Some(&*expected));
    assert_eq!(host.read("used.txt").as_deref(), Some(&*expected), "a later hook finds them");
    assert_eq!(host.read("kept.txt").as_deref(), Some("as it is\n"));
    assert!(!host.runs().last().unwrap().join("staged-tree").exists());
    host.tool(["run"]).expect(0);
    assert_eq!(host.report()["saved"]["count"], 0, "what hooks wrote is no local change");
    // Without staging the same hook runs in its step.
    host.tool(["run", "--no-stage"]).expect(0);
    let names: Vec<String> = seen(&host).iter().map(|look| look["name"].to_string()).collect();
    assert!(names.contains(&"\"assets\"".to_owned()), "{names:?}");
}

#[test]
fn rw_5_4_a_staged_assets_hook_that_fails_leaves_the_service_as_it_is() {
    let host = Host::running();
    let hooks = hook("bundle", "assets", &["sh", "-c", "echo torn >half.css; exit 9"], "stage = true");
    host.push(&[("version.txt", "two\n"), ("refresh.toml", &hooks)]);
    host.tool(["run"]).expect(3).prints("the assets hook bundle failed");
    assert_eq!(host.version().as_deref(), Some("one"));
    assert_eq!(host.read("half.css"), None);
    assert!(!host.fenced());
}
