//! The doctor on a machine with systemd: before `init`, on a healthy host, and for all faults that need systemd, sudo
//! or a separate user.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use crate::lab;

use lab::{LOCAL_INDEX, Lab, Machine};
use serde_json::Value;

/// A service that needs only Python.
const SERVER: &str =
    "import http.server\nhttp.server.test(http.server.SimpleHTTPRequestHandler, port=8000)\n";

/// A unit as in the deployment contract.
const UNIT: &str = "[Unit]\nDescription=LadyLinux API\n[Service]\nType=simple\nUser=ladylinux\n\
    WorkingDirectory=/opt/ladylinux/app\nEnvironmentFile=-/etc/ladylinux/ladylinux.env\n\
    ExecStart=/opt/ladylinux/venv/bin/python server.py\nRestart=on-failure\nRestartSec=5\n\
    [Install]\nWantedBy=multi-user.target\n";

const INSTALLED: &str = "/usr/lib/systemd/system/ladylinux-api.service";

/// A machine with the program and a repository that contains an application with its unit.
fn machine(lab: &Lab) -> Machine {
    let machine = Machine::boot(lab, "host");
    machine.install_tool();
    machine
        .exec("git init --quiet --bare --initial-branch=main /srv/app.git && git clone --quiet /srv/app.git /srv/work")
        .expect(0);
    machine.exec("cd /srv/work && git switch --quiet --orphan main").expect(0);
    for (path, text) in [("server.py", SERVER), ("requirements.txt", ""), ("ladylinux-api.service", UNIT)] {
        machine.write(&format!("/srv/work/{path}"), text);
    }
    let commit = "git -c user.name=x -c user.email=x@x commit --quiet --message change";
    machine
        .exec(&format!("cd /srv/work && git add -A && {commit} && git push --quiet origin main"))
        .expect(0);
    machine
}

/// Returns the report of the doctor.
#[track_caller]
fn examine(machine: &Machine) -> Value {
    let printed = machine.refresh("doctor --json");
    let report: Value = serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{}", printed.all()));
    let problems = problems(&report);
    assert_eq!(printed.code, Some(if problems.is_empty() { 0 } else { 5 }), "{report:#}");
    report
}

fn findings<'a>(report: &'a Value, severity: &str) -> Vec<&'a Value> {
    report["findings"].as_array().unwrap().iter().filter(|finding| finding["severity"] == severity).collect()
}

/// The checks that found problems.
fn problems(report: &Value) -> Vec<&str> {
    let mut names: Vec<&str> =
        findings(report, "problem").iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    names.dedup();
    names
}

/// Asserts that exactly these checks found problems. Returns the first finding.
#[track_caller]
fn only(machine: &Machine, checks: &[&str]) -> Value {
    let report = examine(machine);
    assert_eq!(problems(&report), checks, "{report:#}");
    findings(&report, "problem").first().map_or(Value::Null, |finding| (*finding).clone())
}

/// Finds a problem with exactly one check, runs the command of the finding, and finds no problem afterwards.
#[track_caller]
fn cured(machine: &Machine, check: &str, words: &str) {
    let finding = only(machine, &[check]);
    assert!(finding["what"].as_str().unwrap().contains(words), "{words:?} is missing in {finding:#}");
    let command = finding["repair"].as_str().unwrap();
    machine.exec(&format!("export PIP_INDEX_URL={LOCAL_INDEX}; {command}")).expect(0);
    only(machine, &[]);
}

/// Writes a file of the unit and makes systemd read it.
fn change(machine: &Machine, path: &str, text: &str) {
    machine.write(path, text);
    machine.exec("systemctl daemon-reload").expect(0);
}

#[test]
fn before_init_the_doctor_names_missing_parts_and_after_init_it_finds_nothing() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab);
    let report = examine(&machine);
    assert_eq!(problems(&report), ["directories", "service-user", "unit"], "{report:#}");
    for problem in findings(&report, "problem") {
        assert_eq!(problem["repair"], "ladylinux-refresh init --repo URL");
    }
    machine
        .refresh("doctor")
        .expect(5)
        .prints("no installation found")
        .prints("try          ladylinux-refresh init --repo URL");
    machine.refresh("init --repo file:///srv/app.git --allow file --branch main").expect(0);
    change(&machine, INSTALLED, UNIT);
    only(&machine, &[]);
    machine.exec("systemctl is-active ladylinux-api").prints("inactive");

    // An ordinary user gets the command for root.
    machine.exec("useradd --no-create-home visitor").expect(0);
    machine.exec("chmod o= /etc/ladylinux/ladylinux.env").expect(0);
    for command in ["status", "run", "plan", "rollback"] {
        let sudo = format!("sudo ladylinux-refresh {command}");
        machine.exec_as("visitor", &format!("ladylinux-refresh {command}")).expect(3).prints(&sudo);
    }

    // The report names the checks that could not read their files, and contains only data that this user can read.
    let printed = machine.exec_as("visitor", "ladylinux-refresh doctor --json");
    let report: Value = serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{}", printed.all()));
    let unseen: Vec<&str> =
        report["unseen"].as_array().unwrap().iter().map(|unseen| unseen["check"].as_str().unwrap()).collect();
    for check in ["sudo", "immovable", "env-file-text"] {
        assert!(unseen.contains(&check), "{check} is missing in {report:#}");
    }
    assert!(!unseen.contains(&"unit-fence") && problems(&report).is_empty(), "{report:#}");
}

#[test]
fn rw_7_1a_faults_of_the_unit_are_found_on_a_machine_and_repaired() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab);
    machine.refresh("init --repo file:///srv/app.git --allow file --branch main").expect(0);
    change(&machine, INSTALLED, UNIT);
    only(&machine, &[]);

    let drop_in = "/usr/lib/systemd/system/ladylinux-api.service.d/50-ladylinux-refresh.conf";
    let text = machine.read(drop_in).unwrap();
    machine.exec(&format!("rm {drop_in} && systemctl daemon-reload")).expect(0);
    cured(&machine, "unit-fence", "is missing");
    change(&machine, drop_in, &text.replace("AssertPathExists=|!", "#"));
    cured(&machine, "unit-fence", "is not the drop-in of this version");
    let around = "/etc/systemd/system/ladylinux-api.service.d/around.conf";
    change(&machine, around, "[Unit]\nAssertPathExists=|/etc\n");
    let report = examine(&machine);
    assert_eq!(problems(&report), ["unit-fence"], "{report:#}");
    assert!(report.to_string().contains("leads around it") && report.to_string().contains("around.conf"));
    machine.exec(&format!("rm {around} && systemctl daemon-reload")).expect(0);

    machine.write(INSTALLED, &format!("# touched\n{UNIT}"));
    cured(&machine, "unit", "have changed since systemd read them");
    change(&machine, INSTALLED, &UNIT.replace("Restart=on-failure", "Restart=always"));
    cured(&machine, "unit-drift", "Restart= of [Service]");
    change(&machine, INSTALLED, &UNIT.replace('\n', "\r\n"));
    cured(&machine, "unit-text", "Windows line endings");

    let override_file = "/etc/systemd/system/ladylinux-api.service.d/override.conf";
    let overridden = |text: &str| change(&machine, override_file, text);
    overridden("[Service]\nKillMode=process\n");
    cured(&machine, "unit-kill-mode", "KillMode=process");
    overridden("[Unit]\nRequires=ghost.service\n");
    let finding = only(&machine, &["unit-requirements"]);
    assert!(finding["what"].as_str().unwrap().contains("Requires=ghost.service"));
    // The finding is correct.
    machine.exec("systemctl start ladylinux-api").expect(5).prints("ghost.service not found");
    overridden("[Service]\nUser=root\n");
    only(&machine, &["unit-user"]);
    overridden("[Service]\nUser=nobody\n");
    assert!(only(&machine, &["unit-user"])["what"].as_str().unwrap().contains("app/ belongs to uid"));
    overridden("[Service]\nUser=65533\n");
    assert!(only(&machine, &["unit-user"])["what"].as_str().unwrap().contains("app/ belongs to uid"));
    overridden("[Service]\nUser=ghost\n");
    assert!(only(&machine, &["unit-user"])["what"].as_str().unwrap().contains("that user does not exist"));
}

#[test]
fn a_unit_that_runs_a_file_of_the_application_as_root_is_refused_unless_the_host_names_it() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab);
    machine.write("/srv/work/pre.sh", "#!/bin/sh\nid -u >>/run/pre-as\n");
    let commit = "git -c user.name=x -c user.email=x@x commit --quiet --message pre";
    machine
        .exec(&format!(
            "cd /srv/work && chmod +x pre.sh && git add -A && {commit} && git push --quiet origin main"
        ))
        .expect(0);
    machine.refresh("init --repo file:///srv/app.git --allow file --branch main").expect(0);
    change(&machine, INSTALLED, UNIT);
    machine.refresh("run").expect(0);
    let pid = || machine.exec("systemctl show -P MainPID ladylinux-api").expect(0).out.clone();
    let before = pid();
    for text in [
        "[Service]\nExecStartPre=+/opt/ladylinux/app/pre.sh\n",
        "[Service]\nExecStartPre=-!/bin/sh -c '/opt/ladylinux/app/pre.sh'\n",
        "[Service]\nPermissionsStartOnly=yes\nExecStartPre=/opt/ladylinux/app/pre.sh\n",
    ] {
        change(&machine, "/etc/systemd/system/ladylinux-api.service.d/override.conf", text);
        machine
            .refresh("run")
            .expect(3)
            .prints("ladylinux-api.service runs /opt/ladylinux/app/pre.sh as root")
            .prints("systemctl edit --full ladylinux-api.service");
        assert_eq!(pid(), before, "the service was touched");
    }
    change(&machine, "/etc/systemd/system/ladylinux-api.service.d/override.conf", "[Service]\nUser=root\n");
    machine.refresh("run").expect(3).prints("runs /opt/ladylinux/venv/bin/python as root");
    machine.exec("test ! -e /run/pre-as").expect(0);

    change(
        &machine,
        "/etc/systemd/system/ladylinux-api.service.d/override.conf",
        "[Service]\nExecStartPre=+/opt/ladylinux/app/pre.sh\n",
    );
    machine
        .exec(
            "sed -i 's|^# allow_root_exec = .*|allow_root_exec = [\"/opt/ladylinux/app/pre.sh\"]|' \
             /etc/ladylinux/refresh.toml",
        )
        .expect(0);
    machine.refresh("run").expect(0);
    assert_eq!(machine.read("/run/pre-as").as_deref(), Some("0\n"));
}

#[test]
fn the_doctor_reports_defaults_in_variables_as_systemd_reads_them() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab);
    machine.refresh("init --repo file:///srv/app.git --allow file --branch main").expect(0);
    change(&machine, INSTALLED, UNIT);
    let text = "[Service]\nExecStart=\nExecStart=/opt/ladylinux/venv/bin/python -c 'import sys, time; \
                print(sys.argv[1:], flush=True); time.sleep(60)' --port ${PORT:-8000}\n";
    change(&machine, "/etc/systemd/system/ladylinux-api.service.d/override.conf", text);
    let finding = only(&machine, &["unit-variables"]);
    assert!(finding["what"].as_str().unwrap().contains("${PORT:-8000}"), "{finding:#}");
    machine.exec("systemctl start ladylinux-api").expect(0);
    let journal = lab::until("the arguments of the service", || {
        Some(machine.journal("ladylinux-api")).filter(|journal| journal.contains("--port"))
    });
    // One version of systemd passes an empty text, another one the unchanged text; neither supports the default.
    let report = journal.lines().find(|line| line.starts_with("['--port'")).unwrap();
    assert!(report == "['--port', '']" || report == "['--port', '${PORT:-8000}']", "{journal}");
}

#[test]
fn a_rule_of_sudo_that_leads_from_the_application_to_root_is_a_problem() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab);
    machine.refresh("init --repo file:///srv/app.git --allow file --branch main").expect(0);
    change(&machine, INSTALLED, UNIT);
    only(&machine, &[]);
    let rule = "/etc/sudoers.d/ladylinux";
    machine.exec("install -d -o ladylinux /opt/ladylinux/app/scripts").expect(0);
    machine.exec_as("ladylinux", "printf '#!/bin/sh\\nid -u\\n' >/opt/ladylinux/app/scripts/r.sh; chmod +x /opt/ladylinux/app/scripts/r.sh").expect(0);
    machine.write_mode(rule, "ladylinux ALL=(root) NOPASSWD: /opt/ladylinux/app/scripts/r.sh\n", 0o440);
    // The finding is correct.
    machine.exec_as("ladylinux", "sudo -n /opt/ladylinux/app/scripts/r.sh").expect(0).prints("0\n");
    let finding = only(&machine, &["sudo"]);
    assert!(finding["what"].as_str().unwrap().contains("r.sh"), "{finding:#}");
    // Newer versions of sudo print the file of a rule.
    let repair = finding["repair"].as_str().unwrap();
    if repair != format!("visudo -f {rule}") {
        machine.exec(repair).expect(0).prints(&format!("{rule}:1:ladylinux ALL=(root) NOPASSWD: /opt"));
    }
    // The same for every group of the user, through a link, by an alias of the user, and for all commands.
    machine.exec("groupadd web && usermod -aG web ladylinux && install -d -g web -m 775 /usr/local/web && install -m 755 /bin/true /usr/local/web/r").expect(0);
    machine.exec("ln -s /usr/local/web/r /usr/local/bin/r").expect(0);
    machine.write_mode(rule, "Cmnd_Alias R = /usr/local/bin/r\nladylinux ALL=NOPASSWD: R\n", 0o440);
    assert!(only(&machine, &["sudo"])["what"].as_str().unwrap().contains("/usr/local/web"));
    machine.write_mode(rule, "User_Alias APP = ladylinux\nAPP ALL=(ALL) NOPASSWD: ALL\n", 0o440);
    assert!(only(&machine, &["sudo"])["what"].as_str().unwrap().contains("everything as root"));
    machine.write_mode(rule, "%web ALL=NOPASSWD: /usr/local/bin/ladylinux-refresh\n", 0o440);
    assert!(only(&machine, &["sudo"])["what"].as_str().unwrap().contains("with any arguments"));
    // Rules of other users, as another user, and with fixed arguments do not lead to root; without sudo there are no
    // rules.
    for text in [
        "nobody ALL=(ALL) NOPASSWD: ALL\n",
        "ladylinux ALL=(nobody) NOPASSWD: ALL\n",
        "ladylinux ALL=NOPASSWD: /usr/bin/systemctl restart ladylinux-api\n",
    ] {
        machine.write_mode(rule, text, 0o440);
        only(&machine, &[]);
    }
    machine.write_mode(rule, "ladylinux ALL=(ALL) NOPASSWD: ALL\n", 0o440);
    machine.exec("mv /usr/bin/sudo /usr/bin/sudo.away").expect(0);
    only(&machine, &[]);
}

#[test]
fn damage_to_a_running_host_is_found_and_repaired() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab);
    machine.refresh("init --repo file:///srv/app.git --allow file --branch main").expect(0);
    change(&machine, INSTALLED, UNIT);
    machine.refresh("run").expect(0);
    only(&machine, &[]);

    // Another program took the port while the service was stopped.
    machine
        .exec(
            "systemctl stop ladylinux-api && systemd-run --quiet --unit=squatter python3 -m http.server 8000",
        )
        .expect(0);
    lab::until("the squatter listens", || machine.http("http://127.0.0.1:8000/"));
    assert!(only(&machine, &["port"])["what"].as_str().unwrap().contains("http.server"));
    machine.exec("systemctl stop squatter && systemctl start ladylinux-api").expect(0);
    lab::until("the service listens", || machine.http("http://127.0.0.1:8000/"));
    only(&machine, &[]);

    // Root worked in the tree: that prevents no refresh.
    machine.exec("mkdir -p /opt/ladylinux/app/made/by && touch /opt/ladylinux/app/made/by/root").expect(0);
    only(&machine, &[]);
    // Root installed a package into the live environment.
    machine.exec("cd /opt/ladylinux/venv/lib/python3*/site-packages && touch smuggled.py").expect(0);
    cured(&machine, "contamination", "smuggled.py");
    // Another user can change a file that root reads.
    machine.exec("chown ladylinux /etc/ladylinux/refresh.toml").expect(0);
    let finding = only(&machine, &["remote"]);
    assert!(finding["what"].as_str().unwrap().contains("refresh.toml does not count"), "{finding:#}");
    machine.exec("chown root /etc/ladylinux/refresh.toml").expect(0);
    only(&machine, &[]);
    // The fence stands after a failed refresh.
    machine.exec("cat >>/etc/ladylinux/refresh.toml <<E\n[[hook]]\nname = 'm'\nkind = 'migration'\ncommand = ['false']\nE").expect(0);
    machine.refresh("run").expect(1);
    assert!(only(&machine, &["fence"])["what"].as_str().unwrap().contains("hook m failed"));
    machine.exec("systemctl start ladylinux-api").expect(1);
    machine.exec("sed -i '/^.*hook/,$d' /etc/ladylinux/refresh.toml").expect(0);
    cured(&machine, "fence", "hook m failed");
}

#[test]
fn a_host_that_was_set_up_manually_is_described_before_anything_is_adopted() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab);
    machine.add_service_user();
    machine.exec("mkdir -p /opt/ladylinux && git clone --quiet /srv/app.git /opt/ladylinux/app && python3 -m venv --without-pip /opt/ladylinux/venv && chown -R ladylinux: /opt/ladylinux").expect(0);
    machine.write("/etc/ladylinux/ladylinux.env", "\u{feff}LADYLINUX_PORT=8000\r\n");
    machine.write_mode(
        "/etc/sudoers.d/ladylinux",
        "ladylinux ALL=NOPASSWD: /opt/ladylinux/app/scripts/refresh_vm.sh\n",
        0o440,
    );
    let unit = UNIT
        .replace("User=ladylinux\n", "KillMode=process\n")
        .replace("[Service]", "Requires=ollama.service\n[Service]")
        .replace("server.py", "server.py ${PORT:-8000}");
    change(&machine, "/etc/systemd/system/ladylinux-api.service", &unit);
    let report = examine(&machine);
    let expected = [
        "directories",
        "env-file-text",
        "unit-fence",
        "unit-variables",
        "unit-requirements",
        "unit-user",
        "unit-kill-mode",
        "sudo",
    ];
    assert_eq!(problems(&report), expected, "{report:#}");
}
