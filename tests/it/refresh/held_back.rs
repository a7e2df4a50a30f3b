//! A version that a person rolled back, or that halted a run, is deployed by no unattended run until a newer commit
//! arrives or `run` is typed.

use std::fs;

use serde_json::{Value, json};

use crate::host::{Host, git};
use crate::refresh::help::{events, hook, installation, last_run};

/// Runs as a timer does. Returns the report of a run that held its commit back.
#[track_caller]
fn held_back(host: &Host) -> Value {
    let (runs, picture, before) = (host.runs(), installation(host), host.report());
    let emitted = events(&host.tool(["run", "--if-changed", "--json"]).expect(0));
    let report = emitted.last().unwrap()["report"].clone();
    assert_eq!(report["result"], "held_back", "{report:#}");
    let schema = crate::schema::validator("events.schema.json");
    for event in &emitted {
        crate::schema::assert_valid(&schema, event);
    }
    assert_eq!((host.runs(), installation(host), host.report()), (runs, picture, before));
    report["held_back"].clone()
}

fn status(host: &Host) -> Value {
    crate::schema::valid(&host.tool(["status", "--json"]).expect(0).out, "status.schema.json")
}

/// The request of the application, which is answered.
fn request(host: &Host) -> Value {
    fs::create_dir_all(host.layout.requests()).unwrap();
    fs::write(host.layout.requests().join("x"), "").unwrap();
    host.tool(["answer-requests"]).expect(0);
    let text = fs::read_to_string(host.layout.status_file()).unwrap();
    crate::schema::valid(&text, "status-file.schema.json")["last_request"].clone()
}

#[test]
fn a_version_that_a_person_rolled_back_is_deployed_by_no_timer_and_no_request_until_run_is_typed() {
    let host = Host::running();
    host.configure("allowed_branches = [\"main\"]", "");
    let good = host.head();
    let left = host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    let mut command = host.command(["rollback"]);
    command.env("SUDO_USER", "alice");
    crate::host::ran(command.output().unwrap()).expect(0);
    let run = last_run(&host);

    let held = held_back(&host);
    assert_eq!((&held["commit"], &held["by"], &held["run"]), (&json!(left), &json!("rollback"), &json!(run)));
    assert_eq!((&held["user"], &held["why"]), (&json!("alice"), &Value::Null));
    let human = host.tool(["run", "--if-changed"]).expect(0).prints("Held back: main stays at");
    human.prints(&format!("{} A change", &left[..10])).prints("rolled back by alice at ").prints(&run);
    assert_eq!(status(&host)["held_back"], json!([held]));
    host.tool(["status"])
        .expect(0)
        .prints("held back")
        .prints("rolled back by alice at ")
        .prints("`run`, or a newer");
    host.tool(["plan"]).expect(0).prints("held back").prints("rolled back by alice");
    let answer = request(&host);
    assert_eq!(answer["outcome"], "refused");
    let why = format!("{} is held back: rolled back by alice", &left[..10]);
    assert_eq!(answer["why"], why);
    assert_eq!((host.head(), host.version().as_deref()), (good, Some("one")));
    // The report of the rollback still has it if the status is lost.
    fs::write(host.layout.status_file(), "{").unwrap();
    host.tool(["run", "--if-changed"]).expect(0).prints("Held back").prints("rolled back");
    assert_eq!(held_back(&host)["commit"], json!(left));
    host.tool(["status"]).prints("held back");

    host.tool(["run"]).expect(0).prints("Refreshed");
    assert_eq!(host.head(), left);
    assert_eq!(status(&host)["held_back"], json!([]));
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
}

#[test]
fn a_rollback_to_another_environment_of_the_same_commit_holds_that_commit_back_until_run_is_typed() {
    let host = Host::running();
    let commit = host.push(&[("other.txt", "six==1.17.0\n")]);
    host.tool(["run"]).expect(0);
    host.configure_python("definitions = [\"other.txt\"]");
    let environment = || fs::read_link(host.layout.venv()).unwrap();
    let first = environment();
    host.tool(["run"]).expect(0);
    let second = environment();
    assert_ne!(first, second);
    host.tool(["rollback"]).expect(0);
    assert_eq!(environment(), first);

    let held = held_back(&host);
    assert_eq!((&held["commit"], &held["by"]), (&json!(commit), &json!("rollback")));
    assert_eq!(environment(), first);
    host.tool(["run"]).expect(0);
    assert_eq!((environment(), status(&host)["held_back"].clone()), (second, json!([])));
}

#[test]
fn a_rollback_to_the_present_commit_and_environment_holds_nothing_back() {
    let host = Host::running();
    host.push(&[("version.txt", "two\n"), ("refresh.toml", &hook("broken", "check", &["false"], ""))]);
    host.tool(["run"]).expect(1);
    host.tool(["rollback"]).expect(0);
    let good = last_run(&host);
    let before = status(&host)["held_back"].clone();
    host.tool(["rollback", &good]).expect(0);
    assert_eq!(status(&host)["held_back"], before);
    let deployed = &status(&host)["deployed"]["commit"];
    assert!(before.as_array().unwrap().iter().all(|held| held["commit"] != *deployed), "{before:#}");
}

#[test]
fn a_newer_commit_ends_the_hold_and_one_that_the_rollback_withdrew_as_well_does_not() {
    let host = Host::running();
    let middle = host.push(&[("version.txt", "two\n")]);
    host.push(&[("version.txt", "three\n")]);
    host.tool(["run"]).expect(0);
    host.tool(["rollback"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("one"));
    git(&host.work(), ["reset", "--quiet", "--hard", &middle]);
    git(&host.work(), ["push", "--quiet", "--force", "origin", "HEAD"]);
    held_back(&host);
    let newer = host.push(&[("version.txt", "four\n")]);
    host.tool(["run", "--if-changed"]).expect(0).prints("Refreshed");
    assert_eq!(host.head(), newer);
    assert_eq!(status(&host)["held_back"], json!([]));
}

#[test]
fn a_commit_that_halted_a_run_is_tried_again_only_by_a_person() {
    let host = Host::running();
    host.configure("allowed_branches = [\"main\"]", "");
    let good = host.head();
    let bad = host.push(&[("refresh.toml", &hook("tables", "migration", &["false"], ""))]);
    // The next command is one that tries again.
    let halted = host.tool(["run", "--if-changed"]).expect(1);
    assert!(!halted.out.lines().last().unwrap().contains("--if-changed"), "{}", halted.out);
    // The service stays fenced: a person must decide.
    let held = held_back(&host);
    assert_eq!((&held["commit"], &held["by"]), (&json!(bad), &json!("halt")));
    assert!(held["why"].as_str().unwrap().contains("tables"), "{held}");
    assert!(host.fenced());
    host.tool(["run", "--if-changed"]).expect(0).prints("a run of it halted at ").prints("tables");
    assert_eq!(request(&host)["outcome"], "refused");

    // The same holds after a rollback, whose version serves.
    host.tool(["rollback"]).expect(0);
    assert_eq!(held_back(&host)["commit"], bad);
    assert_eq!((host.head(), host.version().as_deref()), (good, Some("one")));
    host.tool(["run"]).expect(1);
    host.tool(["rollback"]).expect(0);
    held_back(&host);
    host.push(&[("refresh.toml", ""), ("version.txt", "two\n")]);
    assert_eq!(request(&host)["outcome"], "done");
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn a_halted_rollback_holds_back_the_version_that_it_was_to_leave() {
    let host = Host::running();
    let left = host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    host.configure("", "[[hook]]\nname = \"no\"\nkind = \"check\"\ncommand = [\"false\"]\n");
    host.tool(["rollback"]).expect(1);
    assert_eq!(held_back(&host)["commit"], left);
}

#[test]
fn a_halt_that_could_not_be_written_into_the_status_holds_its_commit_back_nevertheless() {
    let host = Host::running();
    let before = fs::read(host.layout.status_file()).unwrap();
    let bad = host.push(&[("server.py", "raise SystemExit(1)")]);
    host.tool(["run"]).expect(1);
    // As a full or read-only disk leaves it.
    fs::write(host.layout.status_file(), before).unwrap();
    let ran = host.tool(["run", "--if-changed"]).expect(0);
    ran.prints("Held back").prints(&bad[..10]).prints("a run of it halted");
    assert!(host.fenced());
    assert_eq!(
        status(&host)["held_back"][0]["commit"],
        json!(bad),
        "it is written as soon as that is possible"
    );
    host.tool(["rollback"]).expect(0);
}
