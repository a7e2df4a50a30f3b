//! Step 6: commit, environment and service, in every form, after every kind of end (RW-5.6).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use refresh_programs::process::ProcessId;
use refresh_run::relay::spool::Spool;
use refresh_settings::names::RunId;
use serde_json::Value;

use crate::host::{Host, git, ran};
use crate::refresh::help::{WAYS, events, hook, last_run};

/// The report in its three places, which must be equal.
fn report(host: &Host, last_line: &Value) -> Value {
    let emitted = last_line["report"].clone();
    let file: Value =
        serde_json::from_slice(&fs::read(host.runs().last().unwrap().join("report.json")).unwrap()).unwrap();
    assert_eq!(file, emitted, "report.json differs from the last event");
    assert_eq!(host.report(), emitted, "status.json differs from the last event");
    emitted
}

#[test]
fn a_run_in_its_preflight_is_in_progress_and_history_names_the_number_of_runs_that_it_leaves_out() {
    let host = Host::running();
    host.tool(["run"]).expect(0);
    host.tool(["history", "-n", "1"]).expect(0).prints("\n1 more: ").prints(" history -n 2\n");
    assert!(!host.tool(["history"]).expect(0).all().contains(" more: "));
    // Before it writes the status file, a run has only its spool.
    let run = RunId::parse("20300101T000000000Z-1").unwrap();
    let spool = Spool::of(&host.layout, &run);
    spool.make().unwrap();
    spool.set_worker(ProcessId::own()).unwrap();
    host.tool(["status"])
        .expect(0)
        .prints(&format!("In progress: run {run}"))
        .prints(&format!(" wait {run}\n"));
}

#[test]
fn rw_5_6a_rw_5_6b_rw_5_6c_commit_environment_and_service_are_emitted_in_every_form() {
    let host = Host::running();
    let commit = host.push(&[("version.txt", "two\n")]);
    let emitted = events(&host.tool(["run", "--format", "json"]).expect(0));
    let report = report(&host, emitted.last().unwrap());
    assert_eq!(report["result"], "refreshed");
    assert_eq!(report["commit"], commit.as_str());
    assert_eq!(report["branch"], "main");
    assert_eq!(report["staged"], true);
    assert_eq!(report["environment"]["path"], host.layout.venv().to_str().unwrap());
    let environment = report["environment"]["name"].as_str().unwrap();
    assert!(fs::read_link(host.layout.venv()).unwrap().ends_with(environment));
    assert!(report["environment"]["interpreter"].as_str().unwrap().contains("3."));
    assert_eq!(report["environment"]["packages"], 1);
    assert_eq!(report["service"]["state"], "running");
    assert_eq!(report["service"]["fenced"], false);
    assert!(fs::exists(format!("/proc/{}", report["service"]["pid"])).unwrap());
    assert!(report["phases"].as_array().unwrap().iter().all(|part| part["duration_ms"].is_u64()));

    // The same for people, during a run and after it.
    let shown = host.tool(["run"]).expect(0);
    let venv = host.layout.venv();
    for text in [&commit[..7], venv.to_str().unwrap(), environment, "running", "downtime"] {
        assert!(shown.out.contains(text), "{text:?} is missing in {}", shown.out);
    }
    host.tool(["status"]).expect(0).prints(&commit[..7]).prints(venv.to_str().unwrap()).prints("running");
    host.tool(["history", &last_run(&host)]).expect(0).prints(&commit[..7]).prints("running");
    let status: Value = serde_json::from_str(&host.tool(["status", "--json"]).expect(0).out).unwrap();
    assert_eq!(status["commit"], commit.as_str());
    assert_eq!(status["deployed"]["commit"], commit.as_str());
    assert_eq!(status["environment"], venv.to_str().unwrap());
    assert_eq!(status["service"]["state"], "running");
    let mode = host.layout.status_file().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o444, 0o444, "the service's user cannot read status.json");
}

#[test]
fn rw_5_6a_rw_5_6b_rw_5_6c_a_run_that_halted_emits_them_too() {
    let host = Host::running();
    let good = host.head();
    let commit = host.push(&[
        ("requirements.txt", "iniconfig==2.0.0\n"),
        ("refresh.toml", &hook("broken", "migration", &["false"], "")),
    ]);
    let ran = host.tool(["run", "--format", "json"]).expect(1);
    let emitted = events(&ran);
    let report = report(&host, emitted.last().unwrap());
    assert_eq!(report["result"], "halted");
    assert_eq!(report["commit"], commit.as_str());
    assert_eq!(report["commit_before"], good.as_str());
    assert_eq!(report["environment"]["path"], host.layout.venv().to_str().unwrap());
    let environment = report["environment"]["name"].as_str().unwrap();
    assert!(fs::read_link(host.layout.venv()).unwrap().ends_with(environment));
    assert_ne!(report["environment"]["name"], report["environment"]["name_before"]);
    assert_eq!(report["service"]["state"], "stopped");
    assert_eq!(report["service"]["fenced"], true);
    assert_eq!(report["service"]["pid"], Value::Null);
    assert_eq!(report["downtime_ms"], Value::Null);
    let shown = host.tool(["run"]).expect(1);
    for text in [&commit[..7], environment, "stopped", "fenced"] {
        assert!(shown.out.contains(text), "{text:?} is missing in {}", shown.out);
    }
    let status: Value = serde_json::from_str(&host.tool(["status", "--json"]).expect(0).out).unwrap();
    assert_eq!(status["deployed"]["commit"], good.as_str(), "an unproved commit counts as deployed");
    assert_eq!(status["commit"], commit.as_str());
    assert!(status["fence"].as_str().unwrap().contains("broken"));
}

#[test]
fn rw_7_1b_an_error_names_step_cause_service_and_next_command() {
    for way in WAYS {
        let host = Host::running();
        host.push(&[(
            "refresh.toml",
            &hook("broken", "migration", &["sh", "-c", "echo no disk; exit 9"], ""),
        )]);
        let ran = host.tool(way).expect(1);
        for text in [
            "step 4 (prepare)",
            "the migration hook broken failed",
            "no disk",
            "stopped and fenced: nothing starts it",
            "rollback",
        ] {
            assert!(ran.all().contains(text), "{text:?} is missing in {}", ran.all());
        }
        let report = host.report();
        assert_eq!(report["error"]["phase"], "prepare");
        // The next command in the report is for this installation, and it works.
        let next = report["error"]["next"].as_str().unwrap();
        assert!(next.contains(host.layout.root().to_str().unwrap()), "{next}");
        assert!(next.ends_with(" rollback"), "{next}");
        host.tool(["rollback"]).expect(0);
        assert_eq!(host.version().as_deref(), Some("one"));
    }
}

#[test]
fn the_downtime_is_divided_in_the_report_and_drawn_in_the_history() {
    let host = Host::running();
    host.tool(["run"]).expect(0).prints("downtime").prints("stop ").prints("start ");
    let report = host.report();
    let parts =
        ["stop_ms", "sync_ms", "hooks_ms", "start_ms"].map(|part| report["downtime"][part].as_u64().unwrap());
    assert_eq!(parts.iter().sum::<u64>(), report["downtime_ms"].as_u64().unwrap());
    let wide = ran(host.command(["history"]).env("COLUMNS", "120").output().unwrap());
    wide.expect(0).prints("DOWN").prints("█");
}

#[test]
fn another_default_branch_is_shown_if_the_followed_one_has_no_new_commits() {
    let host = Host::running();
    let shown = || {
        let ran = host.tool(["status", "--json"]).expect(0);
        serde_json::from_str::<Value>(&ran.out).unwrap()["default_branch"].clone()
    };
    assert_eq!(shown(), Value::Null);
    let upstream = host.beside("srv/app.git");
    git(&upstream, ["branch", "trunk", "main"]);
    git(&upstream, ["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    // The branches of the remote are as of the last fetch.
    host.tool(["run", "--if-changed"]).expect(0);
    host.tool(["run"]).expect(0);
    assert_eq!(shown(), "trunk");
    host.tool(["status"]).expect(0).prints("the default branch of the remote is trunk");
    host.tool(["run", "trunk"]).expect(0);
    assert_eq!(shown(), Value::Null);
}

#[test]
fn rw_7_1b_after_a_failed_start_or_deployment_the_next_command_can_work() {
    let host = Host::running();
    let port = crate::port::free();
    host.configure("", &format!("url = \"http://127.0.0.1:{port}/\"\n"));
    let elsewhere = host.tool(["status"]).expect(0).prints("no process takes connections there").out;
    assert!(elsewhere.ends_with(" doctor\n"), "{elsewhere}");
    host.configure("", "");
    host.tool(["service", "stop"]).expect(0);
    let stopped = host.tool(["status"]).expect(0).out;
    assert!(stopped.ends_with(" service start\n") && !stopped.contains("no process takes"), "{stopped}");
    fs::remove_file(host.layout.venv()).unwrap();
    let without = host.tool(["status"]).expect(0).out;
    assert!(without.ends_with(" run\n"), "{without}");
    host.push(&[("requirements.txt", "-r ../other.txt\n")]);
    host.tool(["run"]).expect(3).prints("outside of the tree").prints("a run takes the latest commit");
    host.push(&[("requirements.txt", "six==1.16.0\n")]);
    host.tool(["run"]).expect(0);
}
