//! `service restart` and `service logs --follow`, on an installation below a root.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::host::Host;
use crate::refresh::help::hook;

#[test]
fn a_restart_checks_the_health_and_reports_the_downtime() {
    let host = Host::running();
    let pid = host.service_pid().unwrap();
    host.tool(["service", "restart"]).expect(0).prints("Restarted: healthy (HTTP 200)").prints("down for");
    assert_eq!(host.version().as_deref(), Some("one"));
    let status = host.tool(["status", "--json"]).expect(0).out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_ne!(status["service"]["pid"], pid, "the same process runs");
    assert_eq!(status["service"]["state"], "running");
    host.tool(["service", "stop"]).expect(0);
    host.tool(["service", "restart"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn a_restart_that_fails_its_health_check_reports_the_cause_and_ends_with_5() {
    let host = Host::running();
    host.write("server.py", "raise SystemExit(7)\n");
    let printed = host.tool(["service", "restart"]).expect(5);
    printed
        .prints("error in service restart: the service fails its health check")
        .prints("cause")
        .prints("next ");
    assert!(!host.fenced(), "a restart is not a refresh");
}

#[test]
fn a_start_checks_the_health_and_ends_with_5_if_it_fails() {
    let host = Host::running();
    host.tool(["service", "stop"]).expect(0);
    host.tool(["service", "start"])
        .expect(0)
        .prints("started (pid ")
        .prints("healthy (HTTP 200), stable for ");
    host.tool(["service", "stop"]).expect(0);
    host.write("server.py", "raise SystemExit(7)\n");
    let printed = host.tool(["service", "start"]).expect(5);
    printed.prints("error in service start: the service fails its health check").prints("service logs");
    assert!(!host.fenced(), "a start is not a refresh");
}

#[test]
fn a_start_whose_health_check_cannot_be_sent_is_refused_and_starts_nothing() {
    let host = Host::running();
    host.configure("", "url = \"ftp://127.0.0.1/\"\n");
    host.tool(["service", "start"]).expect(0).prints("runs already");
    host.tool(["service", "stop"]).expect(0);
    host.tool(["service", "start"]).expect(3).prints("the probe cannot ask").prints("set probe.url");
    host.tool(["service", "status"]).expect(5);
    assert!(host.answer().is_none(), "the service runs");
    host.configure("", "");
    // Warnings of a start come before its health check.
    let env_file = fs::read_to_string(host.layout.env_file()).unwrap();
    fs::write(host.layout.env_file(), env_file + "a line without a value\n").unwrap();
    let started = host.tool(["service", "start"]).expect(0).prints("started (pid ");
    assert_eq!(started.all().matches("warning: ").count(), 1, "{}", started.all());
    host.tool(["service", "stop"]).expect(0);
    fs::rename(host.layout.mirror(), host.beside("mirror")).unwrap();
    host.tool(["service", "start"])
        .expect(0)
        .prints("the health check is that of the host alone")
        .prints("healthy");
}

#[test]
fn a_fenced_service_is_not_restarted_and_the_command_that_helps_is_named() {
    let host = Host::running();
    host.push(&[("refresh.toml", &hook("broken", "migration", &["false"], ""))]);
    host.tool(["run"]).expect(1);
    host.tool(["service", "restart"]).expect(3).prints("must not be started").prints(" rollback\n");
    assert!(host.fenced() && host.answer().is_none());
}

#[test]
fn the_log_is_followed_across_a_restart_until_a_signal() {
    let host = Host::running();
    let mut follower = host.command(["service", "logs", "-f", "-n", "1"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "serving one");
    host.tool(["service", "restart"]).expect(0);
    assert!(lines.any(|line| line == "serving one"), "the log of the new process is missing");
    let pid = rustix::process::Pid::from_child(&follower);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(follower.wait().unwrap().code(), Some(0));
    assert!(fs::exists(host.layout.supervisor()).unwrap());
}
