//! Runs and their followers, below a root: the same files and commands as with systemd, which `tests/lab/survive.rs`
//! tests.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

use crate::host;
use crate::service::until;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use host::Host;
use refresh_installation::status_file;
use refresh_installation::status_file::{LastRequest, RequestOutcome};
use refresh_programs::process::ProcessId;
use refresh_service::fence::AdmitRecord;
use refresh_settings::names::RunId;
use refresh_system::clock;
use refresh_system::disk;
use serde_json::{Value, json};

fn status(host: &Host) -> Value {
    serde_json::from_slice(&fs::read(host.layout.status_file()).unwrap()).unwrap()
}

/// Returns a host whose runs wait in step 4 as long as the file exists, and that file.
fn held() -> (Host, std::path::PathBuf) {
    let host = Host::running();
    let file = host.beside("hold");
    let wait = format!("while [ -e {} ]; do sleep 0.02; done", file.display());
    host.configure(
        "",
        &format!("[[hook]]\nname = \"hold\"\nkind = \"check\"\ncommand = [\"sh\", \"-c\", '''{wait}''']\n"),
    );
    fs::write(&file, "").unwrap();
    (host, file)
}

/// Waits until a run is in step 4. Returns its ID.
#[track_caller]
fn in_step_4(host: &Host) -> String {
    until("step 4", || {
        let run = status(host)["current"]["run"].as_str()?.to_owned();
        let journal = fs::read_to_string(host.layout.runs().join(&run).join("journal.jsonl")).ok()?;
        journal.contains("\"phase\":\"prepare\"").then_some(run)
    })
}

#[test]
fn followers_receive_the_events_of_the_run_byte_for_byte() {
    let host = Host::running();
    host.push(&[("version.txt", "two\n"), ("requirements.txt", "six==1.17.0\n")]);
    host.write("local.txt", "mine\n");
    let live = host.tool(["run", "--format", "json"]).expect(0);
    let run = status(&host)["last_run"]["run"].as_str().unwrap().to_owned();
    assert!(live.out.lines().count() > 20, "{}", live.out);
    assert_eq!(host.tool(["wait", &run, "--format", "json"]).expect(0).out, live.out);
    let human = host.tool(["wait", &run]).expect(0);
    assert!(human.out.contains("✓ 5 restart") && human.err.is_empty(), "{}", human.all());
    // The files in /run are gone after a boot; the report is not.
    fs::remove_dir_all(host.layout.volatile()).unwrap();
    let last = live.out.lines().last().unwrap();
    assert_eq!(host.tool(["wait", &run, "--format", "json"]).expect(0).out.trim_end(), last);
    host.tool(["wait", "20260101T000000000Z-1"]).expect(3).prints("does not exist").prints("history");
    host.tool(["wait", "../lock"]).expect(2);
}

#[test]
fn a_detached_run_can_be_followed_and_ended_by_its_id() {
    let (host, hold) = held();
    host.push(&[("version.txt", "two\n")]);
    let printed = host.tool(["run", "--detach", "--format", "json"]).expect(0);
    let run = serde_json::from_str::<Value>(&printed.out).unwrap()["run"].as_str().unwrap().to_owned();
    assert_eq!(in_step_4(&host), run);
    host.tool(["status"]).expect(0).prints(&format!("run {run} of main is in progress since "));
    let listed = host.tool(["history"]).expect(0).out;
    assert!(listed.lines().nth(1).unwrap().contains(" in progress "), "{listed}");
    let status = serde_json::from_str::<Value>(&host.tool(["status", "--json"]).expect(0).out).unwrap();
    assert_eq!((&status["running_now"], &status["current"]["run"]), (&json!(run), &json!(run)));
    // The output of a detached run without an event reaches the clients that wait.
    host.tool(["run", "--detach"]).expect(4).prints(&run).prints(&format!(" wait {run}\n"));
    let second = host.tool(["run", "--detach", "--wait", "1s"]).expect(0).out;
    host.tool(["wait", second.trim_end()]).expect(4).prints("is in progress since").prints(&run);
    host.tool(["cancel", &run]).expect(0).prints("halted").prints("fenced");
    host.tool(["wait", &run]).expect(130).prints("interrupted by SIGINT");
    host.tool(["cancel", &run]).expect(0).prints("is not in progress: halted");
    host.tool(["cancel", "20260101T000000000Z-1"]).expect(3).prints("error in cancel: run");
    fs::remove_file(hold).unwrap();

    let third = host.tool(["run", "--detach"]).expect(0).out;
    host.tool(["wait", third.trim_end()]).expect(0).prints("Refreshed");
    assert_eq!(host.version().as_deref(), Some("two"));
    assert_eq!(self::status(&host)["current"], Value::Null);
    host.tool(["run", "--detach", "--dry-run"]).expect(2);
}

#[test]
fn a_run_that_was_killed_is_reported_as_killed_until_the_next_one() {
    let (host, hold) = held();
    host.push(&[("version.txt", "two\n")]);
    let run = host.tool(["run", "--detach"]).expect(0).out.trim_end().to_owned();
    in_step_4(&host);
    let pid = status(&host)["current"]["process"]["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    host.tool(["wait", &run]).expect(137).prints("over without a report").prints("fenced");
    host.tool(["status"]).expect(0).prints("was killed:").prints("prepare");

    // The command that systemd runs at the end of a run's unit; a second time it changes nothing.
    let after =
        || host.command(["after-run", &run]).env("EXIT_CODE", "killed").env("EXIT_STATUS", "KILL").output();
    host::ran(after().unwrap()).expect(0);
    let found = status(&host);
    assert_eq!((&found["current"], &found["last_run"]["result"]), (&Value::Null, &json!("interrupted")));
    assert_eq!(found["last_run"]["exit_code"], 137);
    host::ran(after().unwrap()).expect(0);
    assert_eq!(status(&host), found);
    host.tool(["wait", &run]).expect(137).prints("was killed in prepare").prints("SIGKILL");
    host.tool(["history"]).expect(0).prints("interrupted");
    host.tool(["service", "start"]).expect(3).prints("was killed in prepare");

    fs::remove_file(hold).unwrap();
    host.tool(["run"]).expect(0).prints(&format!("run {run} was interrupted"));
    // A run that reached its own end needs no such action.
    let run = status(&host)["last_run"]["run"].as_str().unwrap().to_owned();
    let before = status(&host);
    host.tool(["after-run", &run]).expect(0);
    assert_eq!(status(&host), before);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn a_request_refreshes_the_deployed_branch_if_the_host_allows_it_and_its_content_is_not_read() {
    let host = Host::running();
    let directory = host.layout.requests();
    fs::create_dir_all(&directory).unwrap();
    let request = |content: &str| fs::write(directory.join("request"), content).unwrap();
    let answer = || {
        let ran = host.tool(["answer-requests"]).expect(0);
        assert!(fs::read_dir(&directory).unwrap().next().is_none(), "something is left");
        (status(&host)["last_request"].clone(), ran)
    };
    let (last, _) = answer();
    assert_eq!(last, Value::Null);

    host.push(&[("version.txt", "two\n")]);
    for allowed in ["[]", "[\"other\"]"] {
        host.configure(&format!("allowed_branches = {allowed}"), "");
        request("{\"branch\":\"other\"}");
        let (last, ran) = answer();
        assert_eq!(
            (&last["outcome"], &last["branch"], &last["run"]),
            (&json!("refused"), &json!("main"), &Value::Null)
        );
        assert!(last["why"].as_str().unwrap().contains("allowed_branches does not contain main"), "{last}");
        assert!(ran.err.contains("refused the request"), "{}", ran.all());
    }
    host.tool(["status"]).expect(0).prints("last request main at ").prints("refused");
    assert_eq!(host.version().as_deref(), Some("one"));

    // Entries of every kind together are one request; a link is not followed.
    host.configure("allowed_branches = [\"main\", \"gone\"]", "");
    let runs = host.runs().len();
    request("{\"branch\":\"gone\",\"no_stage\":true}");
    fs::write(directory.join("--detach"), [0xff, 0xfe]).unwrap();
    std::os::unix::fs::symlink(host.layout.env_file(), directory.join("link")).unwrap();
    fs::create_dir(directory.join("directory")).unwrap();
    let (last, ran) = answer();
    assert_eq!(
        (&last["outcome"], &last["branch"], &last["why"]),
        (&json!("done"), &json!("main"), &Value::Null)
    );
    assert_eq!(last["run"], status(&host)["last_run"]["run"]);
    assert!(!ran.all().contains("SECRET"), "{}", ran.all());
    assert_eq!(host.runs().len(), runs + 1);
    assert_eq!(host.version().as_deref(), Some("two"));
    assert!(host.layout.env_file().exists());

    // The branch of the settings takes precedence over that of the last run.
    host.configure("branch = \"gone\"\nallowed_branches = [\"gone\"]", "");
    request("");
    let (last, _) = answer();
    assert_eq!((&last["outcome"], &last["branch"]), (&json!("failed"), &json!("gone")));
    assert!(last["why"].as_str().unwrap().contains("gone"), "{last}");
}

#[test]
fn a_request_is_removed_and_refused_while_the_settings_cannot_be_used() {
    let host = Host::running();
    let directory = host.layout.requests();
    fs::create_dir_all(&directory).unwrap();
    let request = || fs::write(directory.join("request"), "").unwrap();
    host.configure("allowed_branches = [\"main\"]\nno_such_key = 1", "");
    request();
    host.tool(["answer-requests"]).expect(2).prints("no_such_key").prints("refused the request");
    assert!(
        fs::read_dir(&directory).unwrap().next().is_none(),
        "it stays, and systemd starts the answer again and again"
    );
    let last = status(&host)["last_request"].clone();
    assert_eq!((&last["outcome"], &last["branch"]), (&json!("refused"), &Value::Null));
    assert!(last["why"].as_str().unwrap().contains("settings"), "{last}");

    host.configure("allowed_branches = [\"main\"]", "");
    host.tool(["status"]).expect(0).prints("last request at ");
    request();
    host.tool(["answer-requests"]).expect(0);
    assert_eq!(status(&host)["last_request"]["outcome"], "done");
}

#[test]
fn requests_are_taken_with_the_rights_of_the_owner_of_their_directory() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let host = Host::running();
    let directory = host.layout.requests();
    // An entry that only root can remove.
    fs::create_dir_all(directory.join("roots/own")).unwrap();
    fs::set_permissions(directory.join("roots"), fs::Permissions::from_mode(0o755)).unwrap();
    chown(&directory, Some(61_874), Some(61_874)).unwrap();
    let runs = host.runs().len();
    host.tool(["answer-requests"]).expect(3).prints("cannot empty");
    assert_eq!(host.runs().len(), runs, "an entry that stays started a run");
    let left = fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    assert!(left.join("own").is_dir(), "it was removed as root");
}

/// Kills the process of the run that is in progress.
fn kill(host: &Host) {
    let pid = status(host)["current"]["process"]["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Runs the command that systemd runs at the end of a run's unit.
fn after(host: &Host, run: &str, end: [&str; 2]) -> host::Ran {
    let mut command = host.command(["after-run", run]);
    host::ran(command.env("EXIT_CODE", end[0]).env("EXIT_STATUS", end[1]).output().unwrap())
}

#[test]
fn a_request_is_settled_by_its_run_after_its_first_worker_is_gone() {
    let (host, hold) = held();
    let asked = |run: &str| {
        let request = LastRequest {
            at: clock::now(),
            branch: Some("main".into()),
            outcome: RequestOutcome::Started,
            why: None,
            run: Some(RunId::parse(run).unwrap()),
        };
        status_file::set_last_request(&host.layout, &request).unwrap();
    };
    let begun = || {
        let run = host.tool(["run", "--detach"]).expect(0).out.trim_end().to_owned();
        asked(&run);
        assert_eq!(in_step_4(&host), run);
        run
    };
    let settled = |outcome: &str, why: &str| {
        let request = status(&host)["last_request"].clone();
        assert_eq!(request["outcome"], outcome, "{request}");
        assert!(request["why"].as_str().unwrap_or_default().contains(why), "{request}");
    };

    // Killed with its supervisors, as by a power cut. The next run reports it. Its request waits meanwhile.
    begun();
    kill(&host);
    fs::remove_file(&hold).unwrap();
    host.tool(["run"]).expect(0);
    settled("failed", "interrupted");

    fs::write(&hold, "").unwrap();
    let run = begun();
    kill(&host);
    // It is killed when no client can get its end any more.
    host.tool(["wait", &run]).expect(137);
    after(&host, &run, ["killed", "KILL"]).expect(0);
    settled("failed", "was killed in prepare");

    let run = begun();
    fs::remove_file(&hold).unwrap();
    host.tool(["wait", &run]).expect(0);
    settled("done", "");

    // A run that ended before its first step leaves no report.
    asked("20260101T000000000Z-1");
    after(&host, "20260101T000000000Z-2", ["exited", "3"]).expect(0);
    settled("started", "");
    after(&host, "20260101T000000000Z-1", ["exited", "3"]).expect(0);
    settled("failed", "exit code 3");
}

#[test]
fn rw_7_1a_a_killed_run_leaves_the_service_down_even_if_the_settings_have_become_unusable() {
    let etc = |host: &Host, owner: u32| chown(host.layout.etc(), Some(owner), None).unwrap();
    killed_with(|host| host.configure("no_such_key = 1", ""), "no_such_key", |host| host.configure("", ""));
    // Other users than root may have written them.
    if rustix::process::geteuid().is_root() {
        killed_with(|host| etc(host, 61_874), "belongs to uid 61874", |host| etc(host, 0));
    }
}

/// Makes the settings unusable while a run is killed. Returns when the next one has succeeded.
fn killed_with(spoil: impl Fn(&Host), expected: &str, mend: impl Fn(&Host)) {
    let (host, hold) = held();
    host.push(&[("version.txt", "two\n")]);
    let run = host.tool(["run", "--detach"]).expect(0).out.trim_end().to_owned();
    in_step_4(&host);
    kill(&host);
    host.tool(["wait", &run]).expect(137);
    let process = ProcessId { started: 1, ..ProcessId::own() };
    let left = AdmitRecord { run: RunId::parse(&run).unwrap(), process };
    disk::write_json(&host.layout.admit(), &left, 0o644).unwrap();
    spoil(&host);

    after(&host, &run, ["killed", "KILL"]).expect(0).prints(expected);
    assert!(host.fenced() && host.answer().is_none());
    assert!(!host.layout.admit().exists());
    let found = status(&host);
    assert_eq!((&found["current"], &found["last_run"]["result"]), (&Value::Null, &json!("interrupted")));
    fs::remove_file(hold).unwrap();
    mend(&host);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}
