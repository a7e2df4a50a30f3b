//! The order of the steps as observed from outside, and the properties of entire runs.

use std::io::{Read as _, Write as _};

use crate::host::{Host, ran};
use crate::refresh::help::{
    SIGHTING_HOOK, STEPS, WAYS, checkout, down_and_fenced, events, hook, journal, journaled, listens,
    look_out, parts, seen, strict, with,
};

#[test]
fn rw_5_0_a_refresh_brings_the_latest_commit_into_service() {
    for way in WAYS {
        let host = Host::new();
        host.tool(way).expect(0);
        assert_eq!(host.version().as_deref(), Some("one"));
        let commit = host.push(&[("version.txt", "two\n")]);
        host.tool(way).expect(0);
        let answer = host.answer().unwrap();
        assert_eq!(answer["version"], "two");
        assert_eq!(answer["commit"], commit.as_str());
        assert!(!host.fenced());
    }
}

#[test]
fn rw_5_0_the_six_steps_come_in_their_order_and_a_failure_cuts_the_rest_off() {
    for way in WAYS {
        let host = Host::new();
        let mut all: Vec<&str> = if strict(way) { vec![] } else { vec!["staging"] };
        all.extend(STEPS);

        let emitted = events(&host.tool(with(way, &["--format", "json"])).expect(0));
        assert_eq!(emitted[0]["event"], "run_started");
        assert_eq!(emitted[0]["schema"], 2);
        assert_eq!(emitted.last().unwrap()["event"], "run_finished");
        assert_eq!(parts(&emitted, "phase_started"), [&["preflight"][..], &all].concat());
        assert_eq!(parts(&emitted, "phase_finished"), [&["preflight"][..], &all].concat());
        assert_eq!(parts(&emitted, "phase_failed"), [""; 0]);
        let alternating: Vec<&str> = emitted
            .iter()
            .filter_map(|event| event["event"].as_str().unwrap().strip_prefix("phase_"))
            .collect();
        assert_eq!(alternating, ["started", "finished"].repeat(all.len() + 1), "a step overlaps another");
        assert_eq!(journaled(&host, "intent"), all);
        assert_eq!(journaled(&host, "done"), all);
        assert!(journal(&host).last().unwrap().to_string().contains("refreshed"));

        host.push(&[("refresh.toml", &hook("broken", "check", &["false"], ""))]);
        let emitted = events(&host.tool(with(way, &["--format", "json"])).expect(1));
        all.truncate(all.len() - 2);
        assert_eq!(all.last(), Some(&"prepare"));
        assert_eq!(parts(&emitted, "phase_started"), [&["preflight"][..], &all].concat());
        assert_eq!(parts(&emitted, "phase_failed"), ["prepare"]);
        assert_eq!(journaled(&host, "intent"), all);
        assert_eq!(journaled(&host, "failed"), ["prepare"]);
        assert!(journal(&host).last().unwrap().to_string().contains("halted"));
        down_and_fenced(&host);
    }
}

#[test]
fn rw_5_0_a_plain_run_does_all_six_steps_even_when_nothing_changed() {
    let host = Host::running();
    let (before, pid) = (host.report(), host.service_pid().unwrap());
    host.tool(["run"]).expect(0);
    let report = host.report();
    assert_eq!(report["changed"], false);
    assert_ne!(report["run"], before["run"]);
    assert_ne!(report["service"]["pid"], pid, "the service was not restarted");
    let done: Vec<&str> =
        report["phases"].as_array().unwrap().iter().map(|part| part["phase"].as_str().unwrap()).collect();
    assert_eq!(done[done.len() - 6..], STEPS);
}

#[test]
fn rw_2_1_slow_work_is_done_while_the_old_version_still_serves() {
    let host = Host::running();
    look_out(&host);
    host.push(&[
        ("version.txt", "two\n"),
        ("look.py", SIGHTING_HOOK),
        ("requirements.txt", "six==1.16.0\niniconfig==2.0.0\n"),
        ("refresh.toml", &hook("early", "check", &["python", "look.py", "early"], "stage = true")),
    ]);
    host.tool(["run"]).expect(0);
    let [staged, within] = <[_; 2]>::try_from(seen(&host)).unwrap();
    assert_eq!(staged["listens"], true, "the old version did not serve any more");
    assert_eq!(staged["fence"], false);
    assert_eq!(staged["version"], "two", "the check did not see the new commit");
    assert_eq!(within["listens"], false);
    assert_eq!(within["fence"], true);
    // The environment that serves now was complete before the stop.
    let environment = host.report()["environment"]["name"].as_str().unwrap().to_owned();
    assert!(staged["prefix"].as_str().unwrap().ends_with(&environment), "{staged}");
    assert_eq!(host.report()["environment"]["built"], true);
}

#[test]
fn rw_2_2_rw_8_2_hosts_with_different_histories_end_in_the_same_state() {
    let host = Host::running();
    host.push(&[("version.txt", "two\n"), ("pages/a.html", "a"), ("requirements.txt", "iniconfig==2.0.0\n")]);
    host.write("pages/stray.html", "stray");
    host.write("server.py", "raise SystemExit(1)");
    host.tool(["run"]).expect(0);
    let first =
        (checkout(&host.layout.app()), host.version(), host.report()["environment"]["packages"].clone());
    // Again, without any history: everything that a refresh may delete is gone.
    host.tool(["service", "stop"]).expect(0);
    refresh_system::disk::remove_tree(&host.layout.app()).unwrap();
    std::fs::remove_file(host.layout.venv()).unwrap();
    host.init();
    host.tool(["run"]).expect(0);
    let second =
        (checkout(&host.layout.app()), host.version(), host.report()["environment"]["packages"].clone());
    assert_eq!(first, second);
}

#[test]
fn rw_8_2_the_same_input_twice_has_the_same_result() {
    let host = Host::running();
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    let events_of_runs = || {
        let report = host.report();
        (checkout(&host.layout.app()), report["commit"].clone(), report["environment"]["name"].clone())
    };
    let first = events_of_runs();
    host.tool(["run"]).expect(0);
    assert_eq!(events_of_runs(), first);
}

#[test]
fn rw_8_1_a_run_never_reads_its_standard_input() {
    let host = Host::new();
    look_out(&host);
    let read = "import sys\nassert sys.stdin.read() == ''\n";
    host.push(&[("read.py", read), ("refresh.toml", &hook("read", "check", &["python", "read.py"], ""))]);
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"untouched").unwrap();
    let mut command = host.command(["run"]);
    command.stdin(reader.try_clone().unwrap());
    // The writing end stays open: a reader of the input would wait forever.
    ran(command.output().unwrap()).expect(0);
    drop(command);
    drop(writer);
    let mut left = String::new();
    reader.read_to_string(&mut left).unwrap();
    assert_eq!(left, "untouched");
}

#[test]
fn rw_2_4_rw_8_5_the_same_command_serves_a_ci_job() {
    let host = Host::new();
    let (outputs, summary) = (host.beside("outputs"), host.beside("summary"));
    let job = |host: &Host| {
        let mut command = host.command(["run"]);
        command.env("GITHUB_ACTIONS", "true").env("CI", "true");
        command.env("GITHUB_OUTPUT", &outputs).env("GITHUB_STEP_SUMMARY", &summary);
        ran(command.output().unwrap())
    };
    job(&host).expect(0).prints("::group::");
    let text = std::fs::read_to_string(&outputs).unwrap();
    assert!(text.contains(&format!("commit={}", host.head())), "{text}");
    assert!(text.contains("downtime_ms="), "{text}");
    assert!(std::fs::read_to_string(&summary).unwrap().contains("| restart |"));
    host.push(&[("refresh.toml", &hook("broken", "migration", &["false"], ""))]);
    job(&host).expect(1).prints("::error");
}

#[test]
fn rw_8_3_exit_code_and_last_event_distinguish_success_from_failure() {
    for way in WAYS {
        let mut host = Host::new();
        let ended = |host: &Host, code: i32| {
            let emitted = events(&host.tool(with(way, &["--format", "json"])).expect(code));
            let report = emitted.last().unwrap()["report"].clone();
            assert_eq!(report["exit_code"], code);
            report["result"].as_str().unwrap().to_owned()
        };
        assert_eq!(ended(&host, 0), "refreshed");
        host.push(&[("refresh.toml", &hook("broken", "check", &["false"], ""))]);
        assert_eq!(ended(&host, 1), "halted");
        host.tool(with(way, &["--no-such-option"])).expect(2);
        host.push(&[("refresh.toml", "")]);
        assert_eq!(ended(&host, 0), "refreshed");
        host.unplug();
        assert_eq!(ended(&host, 3), "refused");
        assert!(listens(&host) && !host.fenced());
    }
}
