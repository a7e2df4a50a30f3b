//! `rollback`: the same six steps, to an earlier pair of commit and environment.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::host::{Host, SERVER, git, pool};
use crate::index::{Index, release};
use crate::refresh::help::{
    SIGHTING_HOOK, STEPS, events, hook, installation, last_run, look_out, parts, seen,
};

#[test]
fn a_rollback_returns_to_the_earlier_pair_by_the_same_steps_and_a_second_one_goes_further_back() {
    let host = Host::running();
    let first = host.head();
    look_out(&host);
    let look = hook("look", "check", &["python", "look.py", "look"], "");
    host.push(&[("look.py", SIGHTING_HOOK), ("refresh.toml", &look)]);
    host.tool(["run"]).expect(0);
    let (one, run) = (host.report(), last_run(&host));
    host.push(&[("version.txt", "two\n"), ("requirements.txt", "iniconfig==2.0.0\n")]);
    host.tool(["run"]).expect(0);
    let two = host.report();
    assert_ne!(one["environment"]["name"], two["environment"]["name"]);
    seen(&host);

    let emitted = events(&host.tool(["rollback", "--format", "json"]).expect(0));
    let started = parts(&emitted, "phase_started");
    assert_eq!(started[started.len() - 6..], STEPS);
    let back = host.report();
    assert_eq!(back["command"], "rollback");
    assert_eq!(back["commit"], one["commit"]);
    assert_eq!(back["environment"]["name"], one["environment"]["name"]);
    let answer = host.answer().unwrap();
    assert_eq!((answer["version"].as_str(), answer["package"].as_str()), (Some("one"), Some("1.16.0")));
    assert_eq!(answer["environment"], one["environment"]["name"]);
    assert_eq!(seen(&host).len(), 1, "the earlier commit's hooks did not run");

    // Each rollback reports its start and its target, and the next one goes further back.
    let second = host.tool(["rollback"]).expect(0);
    let (from, to) = (one["commit"].as_str().unwrap(), first.as_str());
    second.prints(&format!("from {} to {} of run ", &from[..10], &to[..10]));
    assert_eq!(host.head(), first);
    host.tool(["rollback"]).expect(3).prints("no earlier good run");
    // A rollback to a later run leads there, and the next one back from there.
    let later = two["run"].as_str().unwrap();
    host.tool(["rollback", later]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
    assert_eq!(host.report()["environment"]["name"], two["environment"]["name"]);
    host.tool(["rollback"]).expect(0);
    assert_eq!(host.head(), first);
    host.tool(["rollback", &run]).expect(0);
    assert_eq!(host.report()["commit"], one["commit"]);
    let refused = host.tool(["rollback", &first[..7]]).expect(3);
    refused.prints(&format!("{} is a commit, not a run; run ", &first[..7])).prints(" rollback 20");
    // A plain run goes to the latest again.
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn a_rollback_leaves_out_hooks_of_the_host_that_its_version_does_not_have_yet() {
    let host = Host::running();
    let first = host.head();
    let hooks = [
        hook("program", "migration", &["./setup.sh"], ""),
        hook("tables", "migration", &["python", "tables.py"], ""),
        hook("pages", "index", &["python", "-m", "tools.pages"], "stage = false"),
        hook("every version", "check", &["python", "-c", "pass"], ""),
    ];
    // A preserved path is none of the scripts.
    host.configure("preserve = [\"state/**\"]", &hooks.concat());
    let setup = host.work().join("setup.sh");
    fs::write(&setup, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&setup, fs::Permissions::from_mode(0o755)).unwrap();
    host.push(&[("tables.py", "raise SystemExit(3)\n"), ("tools/pages.py", "pass\n")]);
    host.tool(["run"]).expect(1).prints("the migration hook tables failed");
    let back = host.tool(["rollback"]).expect(0).prints("1 hook: every version");
    for left_out in [
        "program of the host is left out: ./setup.sh",
        "tables of the host is left out: tables.py",
        "pages of the host is left out: the module tools.pages",
    ] {
        assert!(back.all().contains(left_out), "{left_out:?} is missing in {}", back.all());
    }
    assert_eq!(host.head(), first);
    assert_eq!(host.version().as_deref(), Some("one"));
    host.tool(["run"]).expect(1).prints("the migration hook tables failed");
}

#[test]
fn a_dry_run_of_a_rollback_names_its_effects_and_changes_nothing() {
    let host = Host::running();
    let first = host.head();
    let refused = host.tool(["rollback", "--dry-run"]).expect(3);
    refused.prints("no earlier good run exists").prints("next ");
    let migrate = hook("tables", "migration", &["true"], "");
    let second = host.push(&[("version.txt", "two\n"), ("refresh.toml", &migrate)]);
    host.tool(["run"]).expect(0);
    host.write("mine.txt", "mine\n");
    let (before, runs, report) = (installation(&host), host.runs(), host.report());

    let shown = host.tool(["rollback", "--dry-run"]).expect(0);
    let verdict = format!("Rollback of main: {} → {}\n", &second[..10], &first[..10]);
    assert!(shown.out.starts_with(&verdict), "{}", shown.out);
    let without = format!("without {} A change (A)", &second[..10]);
    let stays = "the database stays as tables left it";
    for text in [&without, stays, "2 files of app/", "1 local change would be kept", "untracked mine.txt"] {
        assert!(shown.out.contains(text), "{text:?} is missing in {}", shown.out);
    }
    assert!(shown.out.ends_with(" rollback\n"), "{}", shown.out);
    let json = host.tool(["rollback", "--dry-run", "--json"]).expect(0).out;
    let plan = crate::schema::valid(&json, "rollback.schema.json");
    assert_eq!((&plan["from"]["commit"], &plan["to"]["commit"]), (&json!(second), &json!(first)));
    assert_eq!((&plan["environment_exists"], &plan["files"]), (&json!(true), &json!(2)));
    assert_eq!((&plan["migrations_that_stay"], &plan["withdrawn_count"]), (&json!(["tables"]), &json!(1)));
    host.tool(["rollback", "no-such-run", "--dry-run"]).expect(3).prints("no-such-run");

    assert_eq!(installation(&host), before, "a dry run changed something");
    assert_eq!((host.runs(), host.report(), host.version().as_deref()), (runs, report, Some("two")));
    host.tool(["rollback"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn rw_7_1b_a_lost_interpreter_is_named_and_a_rollback_that_needs_it_names_another_rollback() {
    let host = Host::new();
    let index = Index::new(&[release("onlyhere", "1.0"), release("six", "1.16.0")]);
    let copy = host.beside("python-of-then");
    fs::copy(pool::interpreter().canonicalize().unwrap(), &copy).unwrap();
    host.configure_python(&format!("interpreter = {copy:?}\nindex_url = {:?}", index.url()));
    host.push(&[("requirements.txt", "onlyhere==1.0\n")]);
    host.tool(["run"]).expect(0);
    let of_then = host.report()["run"].as_str().unwrap().to_owned();

    fs::remove_file(&copy).unwrap();
    let shown = host.tool(["status"]).expect(0);
    assert!(shown.out.contains("no longer exists") && shown.out.ends_with(" run\n"), "{}", shown.out);
    let status = host.tool(["status", "--json"]).expect(0).out;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["lost_interpreter"], json!(copy.canonicalize().unwrap_or(copy)));

    host.configure_python(&format!("index_url = {:?}", index.url()));
    host.push(&[("version.txt", "two\n"), ("requirements.txt", "six==1.16.0\n")]);
    host.tool(["run"]).expect(0);
    let ready = host.report()["run"].as_str().unwrap().to_owned();
    host.push(&[("version.txt", "three\n")]);
    host.tool(["run"]).expect(0);

    // The installed packages of that time are not available any more.
    index.away();
    fs::remove_file(host.layout.uv().join("cache")).unwrap();
    let plan = host.tool(["rollback", &of_then, "--dry-run"]).expect(0);
    plan.prints("is built again, since").prints("no longer exists");
    let refused =
        host.tool(["rollback", &of_then]).expect(3).prints("no longer exists").prints("install cpython");
    let next = format!("rollback {ready}\n");
    assert!(refused.all().ends_with(&next), "{}", refused.all());
    host.tool(["rollback", &ready]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn a_rollback_after_a_halt_returns_to_the_version_that_served_last() {
    let host = Host::running();
    let (good, environment) = (host.head(), host.report()["environment"]["name"].clone());
    host.push(&[
        ("version.txt", "two\n"),
        ("requirements.txt", "iniconfig==2.0.0\n"),
        ("server.py", "raise SystemExit(1)"),
    ]);
    host.tool(["run"]).expect(1);
    assert!(host.fenced());
    host.tool(["rollback"]).expect(0);
    assert!(!host.fenced());
    assert_eq!(host.head(), good);
    assert_eq!(host.version().as_deref(), Some("one"));
    assert_eq!(host.report()["environment"]["name"], environment);
}

#[test]
fn a_rollback_reports_one_outage_with_the_failed_run_and_its_log() {
    let host = Host::running();
    host.push(&[("server.py", "raise SystemExit('no such table: notes')\n")]);
    host.tool(["run"]).expect(1);
    let failed = last_run(&host);
    let fence: Value = serde_json::from_slice(&fs::read(host.layout.fence()).unwrap()).unwrap();
    let log = host.as_typed(&format!("history {failed} --log"));
    host.tool(["rollback"]).expect(0).prints(&failed).prints(&log);
    let report = host.report();
    let outage = &report["outage"];
    assert_eq!(outage["runs"], json!([failed]));
    assert_eq!(outage["since"], fence["since"]);
    assert!(outage["duration_ms"].as_u64() > report["downtime_ms"].as_u64(), "{report:#}");
    host.tool(["status"]).expect(0).prints(&log);
    // Once, beside the run that ended it.
    let list = host.tool(["history"]).expect(0).out;
    assert_eq!(list.matches("outage").count(), 1, "{list}");
    assert!(list.lines().any(|line| line.contains("halted") && line.contains("  -  ")), "{list}");
    let words = ["history", &failed, "--log"];
    host.tool(words).expect(0).prints("no such table: notes").prints("restart: failed");
    host.tool(["run"]).expect(1);
    host.push(&[("server.py", SERVER)]);
    host.tool(["run"]).expect(0).prints("outage");
    host.tool(["run"]).expect(0);
    assert_eq!(host.report()["outage"], json!(null), "the service was up before");
}

#[test]
fn a_rollback_without_a_target_is_refused_and_touches_nothing() {
    let host = Host::new();
    host.tool(["rollback"]).expect(3).prints("no earlier good run");
    assert!(!host.fenced());
    host.tool(["run"]).expect(0);
    let pid = host.report()["service"]["pid"].clone();
    host.tool(["rollback"]).expect(3).prints("no earlier good run");
    host.tool(["rollback", "no-such-run"]).expect(3).prints("no-such-run");
    assert_eq!(host.report()["service"]["pid"], pid);
    assert_eq!(host.version().as_deref(), Some("one"));
}

/// Gives the last run another ID, as if the clock had been wrong when it began.
fn rename_last_run(host: &Host, name: &str) {
    let run = host.report()["run"].as_str().unwrap().to_owned();
    let (from, to) = (host.layout.runs().join(&run), host.layout.runs().join(name));
    fs::rename(from, &to).unwrap();
    let report = to.join("report.json");
    let mut ended: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    ended["finished_at"] = json!("2036-12-31T00:00:00Z");
    fs::write(&report, ended.to_string()).unwrap();
    let files = ["report.json", "journal.jsonl"].map(|file| to.join(file));
    for file in files.iter().chain([&host.layout.status_file()]) {
        let text = fs::read_to_string(file).unwrap();
        fs::write(file, text.replace(&run, name)).unwrap();
    }
}

#[test]
fn runs_are_ordered_by_their_number_and_not_by_the_clock() {
    let host = Host::running();
    // Two successful runs while the clock is ten years ahead, then two with the right clock.
    rename_last_run(&host, "20361231T000000000Z-1");
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    rename_last_run(&host, "20361231T000001000Z-1");
    let mut commits = vec![host.head()];
    for version in ["three\n", "four\n"] {
        commits.push(host.push(&[("version.txt", version)]));
        host.tool(["run"]).expect(0);
    }
    let shown = host.tool(["history", "latest", "--json"]).expect(0).out;
    let latest: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(latest["commit"], commits[2].as_str());
    let listed: Value = serde_json::from_str(&host.tool(["history", "--json"]).expect(0).out).unwrap();
    let listed: Vec<&str> =
        listed.as_array().unwrap().iter().filter_map(|run| run["commit"].as_str()).collect();
    assert_eq!(listed[..3], [commits[2].as_str(), commits[1].as_str(), commits[0].as_str()]);

    host.tool(["doctor"]).prints("which is in the future").prints("ordered by their number");
    host.tool(["rollback"]).expect(0);
    assert_eq!(host.head(), commits[1], "the version before the deployed one");
    host.tool(["rollback"]).expect(0);
    assert_eq!(host.head(), commits[0]);
    // Old runs are pruned, whatever the time in their IDs.
    for version in ["five\n", "six\n", "seven\n"] {
        commits.push(host.push(&[("version.txt", version)]));
        host.tool(["run"]).expect(0);
    }
    host.tool(["rollback"]).expect(0);
    assert_eq!(host.head(), commits[4]);
    assert_eq!(host.version().as_deref(), Some("six"));
}

/// Removes objects of the mirror as a failing disk does: all, or one blob of the first commit.
fn damage_mirror(host: &Host, commit: &str, path: Option<&str>) {
    let mirror = host.layout.mirror();
    let Some(path) = path else {
        fs::remove_dir_all(mirror.join("objects")).unwrap();
        fs::create_dir(mirror.join("objects")).unwrap();
        return;
    };
    let mirror_option = format!("--git-dir={}", mirror.display());
    let packs = mirror.join("objects/pack");
    for entry in fs::read_dir(&packs).unwrap() {
        let pack = entry.unwrap().path();
        if pack.extension().is_some_and(|ending| ending == "pack") {
            let outside = host.layout.root().join("outside.pack");
            fs::rename(&pack, &outside).unwrap();
            fs::remove_file(pack.with_extension("idx")).unwrap();
            let line = format!("git {mirror_option} unpack-objects -q <{}", outside.display());
            assert!(std::process::Command::new("sh").args(["-c", &line]).status().unwrap().success());
        }
    }
    let blob = git(host.layout.root(), [mirror_option.as_str(), "rev-parse", &format!("{commit}:{path}")]);
    let blob = blob.trim();
    fs::remove_file(mirror.join("objects").join(&blob[..2]).join(&blob[2..])).unwrap();
}

#[test]
fn a_rollback_fetches_a_commit_that_the_mirror_has_lost_or_names_a_remote_without_it() {
    let mut host = Host::running();
    let good = host.head();
    host.push(&[("version.txt", "two\n"), ("server.py", "raise SystemExit(1)")]);
    for lost in [None, Some("server.py")] {
        host.tool(["run"]).expect(1);
        damage_mirror(&host, &good, lost);
        host.tool(["rollback"]).expect(0);
        assert_eq!((host.head(), host.version().as_deref()), (good.clone(), Some("one")));
    }

    // Another history replaces it in the remote.
    host.tool(["run"]).expect(1);
    git(&host.work(), ["update-ref", "-d", "HEAD"]);
    host.push(&[("version.txt", "three\n"), ("server.py", SERVER)]);
    damage_mirror(&host, &good, None);
    host.tool(["rollback"])
        .expect(3)
        .prints("is not in the mirror, and main of the remote does not contain it")
        .prints("stopped and fenced");
    damage_mirror(&host, &good, None);
    host.unplug();
    let runs = host.runs();
    host.tool(["rollback"])
        .expect(3)
        .prints("is not in the mirror, and cannot be fetched")
        .prints("stopped and fenced");
    assert_eq!(host.runs(), runs, "a refused rollback leaves no run to clean up");
}

#[test]
fn a_rollback_after_a_halt_with_no_earlier_run_points_to_a_run() {
    let host = Host::new();
    host.push(&[("server.py", "raise SystemExit(1)")]);
    host.tool(["run"]).expect(1);
    let refused = host.tool(["rollback"]).expect(3).prints("no earlier good run").all();
    assert!(refused.trim_end().ends_with(" run"), "{refused}");
    host.push(&[("server.py", SERVER)]);
    host.tool(["run"]).expect(0);
}
