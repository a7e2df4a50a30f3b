//! The doctor below a root: a healthy installation has no problems, each fault is found by its check, and the command
//! that a finding names repairs it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

use crate::dice::print_line;
use crate::host;
use crate::schema;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use host::{Host, Ran, git, ran};
use serde_json::{Value, json};

/// Returns the findings of the doctor, valid against their schema.
#[track_caller]
fn examine(host: &Host) -> Value {
    checked_report(&host.tool(["doctor", "--json"]))
}

#[track_caller]
fn checked_report(printed: &Ran) -> Value {
    let report = schema::valid(&printed.out, "doctor.schema.json");
    let problems = report["findings"].as_array().unwrap().iter().any(|it| it["severity"] == "problem");
    assert_eq!(printed.code, Some(if problems { 5 } else { 0 }), "{report:#}");
    report
}

/// The findings of one check.
fn of<'a>(report: &'a Value, check: &str) -> Vec<&'a Value> {
    report["findings"].as_array().unwrap().iter().filter(|finding| finding["check"] == check).collect()
}

/// Asserts that exactly these checks found problems. Returns the first finding.
#[track_caller]
fn only(host: &Host, checks: &[&str]) -> Value {
    let report = examine(host);
    let mut found: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["severity"] == "problem")
        .map(|finding| finding["check"].as_str().unwrap())
        .collect();
    found.dedup();
    assert_eq!(found, checks, "{report:#}");
    // Below a root, the rules of sudo cannot be queried.
    let unseen: Vec<&Value> =
        report["unseen"].as_array().unwrap().iter().filter(|it| it["check"] != "sudo").collect();
    assert_eq!(unseen, Vec::<&Value>::new());
    checks.first().map_or(Value::Null, |check| of(&report, check)[0].clone())
}

/// Runs the command that a finding names.
#[track_caller]
fn repair(host: &Host, finding: &Value) {
    let command = finding["repair"].as_str().unwrap();
    // On a machine with systemd the units are reloaded; there is no systemd here.
    let command = command.replace(" && systemctl daemon-reload", "");
    let mut shell = if let Some(rest) = command.strip_prefix("ladylinux-refresh --root ") {
        host.command(rest.split_whitespace().skip(1))
    } else {
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        shell.current_dir(host.work());
        shell
    };
    ran(shell.stdin(Stdio::null()).output().unwrap()).expect(0);
}

/// Finds a problem with exactly one check, repairs it with the command of the finding, and finds no problem afterwards.
#[track_caller]
fn cured(host: &Host, check: &str, words: &str) {
    let finding = only(host, &[check]);
    let what = finding["what"].as_str().unwrap();
    assert!(what.contains(words), "{words:?} is missing in {what:?}");
    repair(host, &finding);
    only(host, &[]);
}

/// The files of the tool and the tree with the times of their changes: a command that only reads leaves them alone.
fn state(directory: &Path, found: &mut Vec<(PathBuf, std::time::SystemTime)>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let metadata = entry.path().symlink_metadata().unwrap();
        if metadata.is_dir() && entry.file_name() != "scratch" {
            state(&entry.path(), found);
        } else if metadata.is_file() {
            found.push((entry.path(), metadata.modified().unwrap()));
        }
    }
    found.sort();
}

#[test]
fn a_healthy_installation_has_no_problems_and_the_doctor_changes_nothing() {
    let host = Host::running();
    let files = |host: &Host| {
        let mut found = Vec::new();
        state(&host.layout.state(), &mut found);
        state(&host.layout.home(), &mut found);
        found
    };
    let before = files(&host);
    only(&host, &[]);
    let printed = host.tool(["doctor"]).expect(0);
    // The env file of these tests contains a secret, and all users can read it.
    assert!(printed.out.contains("0 problems, 1 note in"), "{}", printed.out);
    fs::set_permissions(host.layout.env_file(), fs::Permissions::from_mode(0o640)).unwrap();
    host.tool(["doctor"]).expect(0).prints("no problem in");
    assert_eq!(files(&host), before);
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn before_init_the_doctor_names_missing_parts_and_skipped_checks() {
    let host = Host::bare();
    let report = checked_report(&host.tool(["doctor", "--json"]));
    let finding = of(&report, "directories")[0];
    assert!(finding["what"].as_str().unwrap().contains("the installation is not complete"), "{report:#}");
    assert!(report["unseen"].as_array().unwrap().iter().any(|it| it["check"] == "repository"));
    let printed = host.tool(["doctor"]).expect(5).prints("no installation found");
    assert_eq!(printed.out.matches("not checked").count(), 1, "{}", printed.out);
    host.push(&[("server.py", host::SERVER), ("version.txt", "one\n")]);
    repair(&host, finding);
    only(&host, &[]);
}

#[test]
fn leftovers_of_people_and_crashes_in_the_tree_are_found_and_repaired() {
    let host = Host::running();
    let app = host.layout.app();

    fs::write(app.join(".git/index.lock"), "").unwrap();
    cured(&host, "git-locks", "index.lock");

    git(&app, ["remote", "set-url", "origin", "https://me:hunter2@example.org/other.git"]);
    let printed = host.tool(["doctor"]).expect(5);
    assert!(!printed.all().contains("hunter2"), "{}", printed.all());
    cured(&host, "origin", "https://example.org/other.git");

    fs::create_dir(host.layout.home().join(".git")).unwrap();
    let finding = only(&host, &["protected-paths"]);
    assert!(finding["what"].as_str().unwrap().contains("working tree itself"));
    fs::remove_dir(host.layout.home().join(".git")).unwrap();
    fs::rename(host.layout.models(), host.beside("models")).unwrap();
    fs::create_dir(app.join("models")).unwrap();
    symlink(app.join("models"), host.layout.models()).unwrap();
    let finding = only(&host, &["protected-paths"]);
    assert!(finding["what"].as_str().unwrap().contains("lies inside the working tree"));
    fs::remove_file(host.layout.models()).unwrap();
    fs::rename(host.beside("models"), host.layout.models()).unwrap();

    fs::rename(app.join(".git"), host.beside("git")).unwrap();
    only(&host, &["repository"]);
    fs::rename(host.beside("git"), app.join(".git")).unwrap();
    fs::remove_dir(app.join("models")).unwrap();
    only(&host, &[]);
}

#[test]
fn scripts_with_windows_line_endings_or_without_their_mode_are_found_and_repaired_in_a_clone() {
    let host = Host::new();
    host.push(&[
        ("scripts/crlf.sh", "#!/bin/sh\r\necho\r\n"),
        ("scripts/mark.sh", "\u{feff}echo\n"),
        ("scripts/fine.sh", "echo sourced\n"),
        ("deploy/other.service", "[Unit]\r\nDescription=x\r\n"),
    ]);
    host.tool(["run"]).expect(0);
    let finding = only(&host, &["script-text", "script-modes"]);
    let what = finding["what"].as_str().unwrap();
    assert!(
        what.contains("scripts/crlf.sh")
            && what.contains("scripts/mark.sh")
            && what.contains("other.service")
    );
    assert!(!what.contains("fine.sh"));
    let type_in_clone = |finding: &Value| {
        let command = finding["repair"].as_str().unwrap().strip_prefix("in a clone: ").unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(host.work()).env_clear().env("PATH", "/usr/bin:/bin");
        shell.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        shell.envs([("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@localhost")]);
        shell.envs([("GIT_COMMITTER_NAME", "A"), ("GIT_COMMITTER_EMAIL", "a@localhost")]);
        ran(shell.output().unwrap()).expect(0);
        host.tool(["run"]).expect(0);
    };
    type_in_clone(&finding);
    let finding = only(&host, &["script-modes"]);
    assert!(finding["what"].as_str().unwrap().ends_with("bit: scripts/crlf.sh"), "{finding:#}");
    type_in_clone(&finding);
    only(&host, &[]);
}

#[test]
fn damage_to_the_tools_own_files_is_found_and_repaired() {
    let host = Host::running();
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    cut(&host.layout.status_file());
    cured(&host, "status-file", "status.json");

    for directory in fs::read_dir(host.layout.mirror().join("objects")).unwrap().flatten() {
        for object in fs::read_dir(directory.path()).unwrap().flatten() {
            fs::remove_file(object.path()).unwrap();
        }
    }
    cured(&host, "mirror", "is damaged");
    fs::remove_dir_all(host.layout.mirror()).unwrap();
    cured(&host, "mirror", "is missing");

    fs::write(host.layout.mirror().join("packed-refs.lock"), "").unwrap();
    cured(&host, "mirror-locks", "packed-refs.lock");

    fs::create_dir_all(host.layout.volatile()).unwrap();
    fs::write(host.layout.admit(), "{}").unwrap();
    cured(&host, "admission", "was left by a run that was killed");

    fs::set_permissions(host.layout.environment_records(), fs::Permissions::from_mode(0o777)).unwrap();
    // Root does not open files that other users control, so most other checks are skipped.
    let report = examine(&host);
    let finding = of(&report, "tool-files")[0].clone();
    assert!(finding["what"].as_str().unwrap().contains("others than its owner can change"), "{report:#}");
    repair(&host, &finding);
    only(&host, &[]);
}

#[test]
fn rw_7_1b_a_halted_and_a_killed_run_are_found_with_their_cause_and_the_next_run_cures_both() {
    let host = Host::running();
    host.configure(
        "",
        "[[hook]]\nname = \"m\"\nkind = \"migration\"\ncommand = [\"sh\", \"-c\", \"exit 3\"]\n",
    );
    host.tool(["run"]).expect(1);
    let finding = only(&host, &["fence"]);
    assert!(finding["what"].as_str().unwrap().contains("the migration hook m failed"), "{finding:#}");
    host.configure("", "");
    host.tool(["run"]).expect(0);
    only(&host, &[]);

    let latest = host.runs().pop().unwrap();
    let killed = latest.with_file_name("20200101T000000Z-1");
    fs::create_dir(&killed).unwrap();
    fs::write(killed.join("journal.jsonl"), "{\"torn\":").unwrap();
    cured(&host, "interrupted-run", "20200101T000000Z-1");
}

#[test]
fn an_environment_that_was_changed_or_whose_interpreter_is_gone_is_found_and_rebuilt() {
    let host = Host::running();
    let live = fs::canonicalize(host.layout.venv()).unwrap();
    let bin = live.join("bin");
    let mode = bin.metadata().unwrap().permissions();
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(bin.join("python")).unwrap();
    symlink("/nonexistent/python9.9", bin.join("python")).unwrap();
    fs::set_permissions(&bin, mode).unwrap();
    let finding = only(&host, &["environment", "contamination"]);
    assert!(finding["what"].as_str().unwrap().contains("it leads to nothing instead of /"), "{finding:#}");
    let report: Value = serde_json::from_str(&host.tool(["plan", "--json"]).expect(0).out).unwrap();
    assert_eq!(
        report["environment"]["reason"], "the interpreter of the environment does not exist",
        "{report:#}"
    );
    repair(&host, &finding);
    only(&host, &[]);

    let live = fs::canonicalize(host.layout.venv()).unwrap();
    let packages =
        fs::read_dir(live.join("lib")).unwrap().next().unwrap().unwrap().path().join("site-packages");
    let mode = packages.metadata().unwrap().permissions();
    fs::set_permissions(&packages, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(packages.join("smuggled.py"), "").unwrap();
    fs::set_permissions(&packages, mode).unwrap();
    cured(&host, "contamination", "smuggled.py");

    host.configure("", "");
    let settings = host.settings("").replace("[python]", "[python]\ninterpreter = \"python9.9\"");
    fs::write(host.layout.host_file(), settings).unwrap();
    let finding = only(&host, &["interpreter"]);
    assert!(finding["repair"].as_str().unwrap().starts_with("apt install"));
}

#[test]
fn an_env_file_that_is_misread_is_found_and_repaired() {
    let host = Host::running();
    let env = host.layout.env_file();
    let text = fs::read_to_string(&env).unwrap();
    fs::write(&env, format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
    cured(&host, "env-file-text", "a byte order mark and Windows line endings");
    assert_eq!(fs::read_to_string(&env).unwrap(), text);

    fs::write(&env, format!("{text}export FLAG=1\n")).unwrap();
    let finding = only(&host, &["env-file-text"]);
    assert!(finding["what"].as_str().unwrap().contains("line 3"), "{finding:#}");
    fs::write(&env, "LADYLINUX_PORT=none\n").unwrap();
    only(&host, &["port"]);
    fs::write(&env, &text).unwrap();

    let report = examine(&host);
    let note = of(&report, "env-file-secrets")[0];
    assert!(note["what"].as_str().unwrap().contains("SECRET") && !report.to_string().contains("kept"));
    repair(&host, note);
    assert!(of(&examine(&host), "env-file-secrets").is_empty());
}

#[test]
fn rw_5_1_another_process_on_the_port_of_the_service_is_named() {
    let host = Host::running();
    host.tool(["service", "stop"]).expect(0);
    let listener = TcpListener::bind(("127.0.0.1", host.port)).unwrap();
    let finding = only(&host, &["port"]);
    let pid = std::process::id().to_string();
    assert!(
        finding["what"].as_str().unwrap().contains(&pid)
            && finding["repair"].as_str().unwrap().contains(&pid)
    );
    drop(listener);
    only(&host, &[]);
}

#[test]
fn settings_that_cannot_be_used_and_branches_that_do_not_exist_are_found() {
    let host = Host::running();
    host.configure("branch = \"mian\"\nallowed_branches = [\"main\"]", "");
    let finding = only(&host, &["branch"]);
    assert!(finding["what"].as_str().unwrap().contains("did you mean main?"), "{finding:#}");
    fs::write(host.layout.host_file(), "brunch = \"main\"\n").unwrap();
    let report = examine(&host);
    assert!(of(&report, "settings")[0]["what"].as_str().unwrap().contains("brunch"), "{report:#}");
    assert!(report["unseen"].as_array().unwrap().iter().any(|it| it["check"] == "repository"));
    host.configure("", "");
    only(&host, &[]);
}

#[test]
fn a_clock_before_the_last_run_is_found() {
    let host = Host::running();
    let text = fs::read_to_string(host.layout.status_file()).unwrap();
    let mut status: Value = serde_json::from_str(&text).unwrap();
    status["last_run"]["finished_at"] = json!("2199-01-01T00:00:00Z");
    fs::write(host.layout.status_file(), status.to_string()).unwrap();
    let finding = only(&host, &["clock"]);
    assert!(finding["what"].as_str().unwrap().contains("2199-01-01"));
    fs::write(host.layout.status_file(), text).unwrap();
    only(&host, &[]);
}

/// A unit as in the deployment contract.
const UNIT: &str = "[Unit]
Description=LadyLinux API
[Service]
Type=simple
User=ladylinux
WorkingDirectory=/opt/ladylinux/app
EnvironmentFile=-/etc/ladylinux/ladylinux.env
ExecStart=/opt/ladylinux/venv/bin/uvicorn api_layer:app --host 0.0.0.0 --port 8000 --timeout-graceful-shutdown 5
Restart=on-failure
";

#[test]
fn faults_of_a_unit_are_found_line_by_line() {
    let host = Host::new();
    host.push(&[("deploy/ladylinux-api.service", UNIT)]);
    host.tool(["run"]).expect(0);
    let unit = host.layout.host_units().join("ladylinux-api.service");
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    fs::write(&unit, format!("# The one of this machine\n\n{UNIT}")).unwrap();
    only(&host, &[]);

    let with = |from: &str, to: &str| {
        assert!(UNIT.contains(from));
        fs::write(&unit, UNIT.replace(from, to)).unwrap();
    };
    // Each of these differs from the repository's unit as well.
    let also = |check: &str, words: &str| {
        let report = examine(&host);
        let found = of(&report, check);
        assert_eq!(found.len(), 1, "{report:#}");
        assert!(found[0]["what"].as_str().unwrap().contains(words), "{found:#?}");
        assert_eq!(of(&report, "unit-drift").len(), 1, "{report:#}");
        found[0].clone()
    };
    with("--port 8000", "--port ${PORT:-8000}");
    also("unit-variables", "${PORT:-8000}");
    with("[Service]", "Requires=ollama.service ghost@1.service\n[Service]\nKillMode=process");
    let template = host.layout.package_units().join("ghost@.service");
    fs::create_dir_all(template.parent().unwrap()).unwrap();
    fs::write(&template, "").unwrap();
    also("unit-requirements", "Requires=ollama.service");
    also("unit-kill-mode", "KillMode=process");
    with("Restart", "KillMode=process\nRestart");
    let finding = only(&host, &["unit-drift", "unit-kill-mode"]);
    assert!(finding["what"].as_str().unwrap().contains("KillMode= of [Service]"), "{finding:#}");
    let killing = also("unit-kill-mode", "");
    repair(&host, &killing);
    only(&host, &[]);
    with("User=ladylinux\n", "");
    also("unit-user", "runs as root");
    with("User=ladylinux\n", "User=ladylinux\nSupplementaryGroups=video docker\n");
    also("unit-user", "the group docker");
    with("ExecStart=", "ExecStart=+");
    also("unit-user", "root's rights");
    with("WorkingDirectory=/opt/ladylinux/app", "WorkingDirectory=/opt/ladylinux");
    also("unit-paths", "WorkingDirectory=");
    with("/opt/ladylinux/venv/bin/uvicorn", "/usr/bin/uvicorn");
    also("unit-paths", "/usr/bin/uvicorn");
    with("EnvironmentFile=", "Environment=");
    also("unit-paths", "EnvironmentFile=");
    with(" --timeout-graceful-shutdown 5", "");
    also("unit-stop", "--timeout-graceful-shutdown");
    // The command of a finding about differences installs the repository's unit.
    let report = examine(&host);
    repair(&host, of(&report, "unit-drift")[0]);
    assert_eq!(fs::read_to_string(&unit).unwrap(), UNIT);
    only(&host, &[]);

    fs::write(&unit, UNIT.replace('\n', "\r\n")).unwrap();
    cured(&host, "unit-text", "Windows line endings");
    let drop_in = unit.with_file_name("ladylinux-api.service.d/override.conf");
    fs::create_dir(drop_in.parent().unwrap()).unwrap();
    fs::write(&drop_in, "[Service]\nExecStart=\nExecStart=/usr/bin/env\n").unwrap();
    only(&host, &["unit-paths"]);
    assert!(of(&examine(&host), "unit-drop-ins")[0]["what"].as_str().unwrap().contains("override.conf"));
}

#[test]
fn a_unit_of_the_repository_that_leads_to_root_is_shown_and_not_installed() {
    let host = Host::new();
    let alias = format!("{UNIT}[Install]\nAlias=sshd.service\n");
    host.push(&[("deploy/ladylinux-api.service", &alias)]);
    host.tool(["run"]).expect(0);
    let unit = host.layout.host_units().join("ladylinux-api.service");
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    fs::write(&unit, UNIT).unwrap();
    let finding = only(&host, &["unit-drift"]);
    assert!(finding["what"].as_str().unwrap().contains("it has Alias=sshd.service"), "{finding:#}");
    repair(&host, &finding);
    assert_eq!(fs::read_to_string(&unit).unwrap(), UNIT, "it was installed all the same");
}

#[test]
fn below_a_root_directory_the_rules_of_sudo_are_reported_as_not_checked() {
    if !rustix::process::geteuid().is_root() {
        return left_out();
    }
    let host = Host::running();
    let chown = Command::new("chown").args(["-hR", "61874:61874"]).arg(host.layout.app()).status();
    assert!(chown.unwrap().success());
    let examined = examine(&host);
    assert!(of(&examined, "sudo").is_empty(), "{examined:#}");
    let unseen = examined["unseen"].as_array().unwrap().iter().find(|it| it["check"] == "sudo").unwrap();
    assert!(unseen["why"].as_str().unwrap().contains("not those of a --root directory"), "{examined:#}");
}

#[test]
fn an_ordinary_user_sees_which_checks_were_skipped() {
    if !rustix::process::geteuid().is_root() {
        return left_out();
    }
    let host = Host::running();
    fs::set_permissions(host.layout.env_file(), fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = host.command(["doctor", "--json"]);
    std::os::unix::process::CommandExt::uid(&mut command, 61_875);
    std::os::unix::process::CommandExt::gid(&mut command, 61_875);
    let report = checked_report(&ran(command.output().unwrap()));
    let unseen: Vec<&str> =
        report["unseen"].as_array().unwrap().iter().map(|it| it["check"].as_str().unwrap()).collect();
    assert!(unseen.contains(&"env-file-text") && unseen.contains(&"immovable"), "{report:#}");
    assert!(of(&report, "mirror").is_empty() && !unseen.contains(&"mirror"), "{report:#}");
}

/// Reports a skipped test, past the test runner.
fn left_out() {
    assert!(std::env::var_os("CI").is_none(), "this test needs root");
    print_line("LEFT OUT: needs root");
}

#[test]
fn no_repair_lets_root_run_git_in_the_clone_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let host = Host::running();
    let app = host.layout.app();
    git(&app, ["remote", "set-url", "origin", "https://example.org/other.git"]);
    let chown = Command::new("chown").args(["-hR", "61873:61873"]).arg(&app).status();
    assert!(chown.unwrap().success());
    let report = examine(&host);
    let finding = of(&report, "origin")[0];
    let repair = finding["repair"].as_str().unwrap();
    assert!(repair.starts_with("sudo -u '#61873' git -C "), "{repair}");
    assert!(repair.contains(" remote set-url origin "), "{repair}");
}
