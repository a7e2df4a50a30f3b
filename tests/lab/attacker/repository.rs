//! A user who can push to the repository: units, names that reach root's shell, and commands that a manually written
//! unit runs as root.

use super::target::{Target, UNIT};
use crate::lab::Lab;

/// The path to which the program would install a unit of the repository.
const INSTALLED: &str = "/usr/lib/systemd/system/ladylinux-api.service";

/// A machine without a unit, and a repository that contains one.
fn with_unit_of_the_repository(lab: &Lab, unit: &str) -> Target {
    let target = Target::prepared(lab, &[("deploy/ladylinux-api.service", unit)]);
    target.machine.exec("rm /etc/systemd/system/ladylinux-api.service; systemctl daemon-reload").expect(0);
    target.settings(
        "[service]\ncommand = [\"{venv}/bin/python\", \"server.py\"]\n\
         [python]\nindex_url = \"INDEX\"\n[probe]\nsettle = \"300ms\"\ndeadline = \"60s\"\n",
    );
    target
}

#[test]
fn a_unit_of_the_repository_passes_no_file_of_root_to_the_service() {
    let Some(lab) = Lab::open() else { return };
    let setting = "EnvironmentFile=-/etc/ladylinux/ladylinux.env\n";
    let planted = "EnvironmentFile=-/etc/ladylinux/ladylinux.env\n\
                   EnvironmentFile=/etc/ladylinux/.\\./.\\./root/.aws/credentials\n\
                   EnvironmentFile=/etc/ladylinux/token\n";
    let target = with_unit_of_the_repository(&lab, &UNIT.replace(setting, planted));
    let machine = &target.machine;
    machine.write_mode("/root/.aws/credentials", "aws_secret_access_key=TOPSECRET123\n", 0o600);
    machine.write_mode("/etc/ladylinux/token", "DEPLOY_TOKEN=ghp_secret\n", 0o600);
    target.tool("init");
    target.tool("run");
    machine.exec("systemctl start ladylinux-api").expect(0);
    target.await_answer();
    let environments = "for pid in $(pgrep -u ladylinux); do tr '\\0' '\\n' </proc/$pid/environ; done";
    let seen = machine.exec(environments).out;
    assert!(!seen.contains("TOPSECRET123") && !seen.contains("ghp_secret"), "{seen}");
    let unit = machine.read(INSTALLED).unwrap_or_default();
    assert!(!unit.contains("credentials") && !unit.contains("token"), "{unit}");
}

#[test]
fn a_unit_of_the_repository_has_no_effect_on_other_units_or_the_machine() {
    let Some(lab) = Lab::open() else { return };
    let planted = UNIT
        .replace(
            "[Unit]\n",
            "[Unit]\nWants=debug-shell.service\nOnFailure=rescue.target\nConflicts=ssh.service\n\
             FailureAction=reboot-force\nJobTimeoutAction=poweroff\n",
        )
        .replace("[Install]\n", "[Install]\nRequiredBy=sysinit.target\n")
        .replace("[Service]\n", "[Service]\nCPUSchedulingPolicy=rr\nCPUSchedulingPriority=99\n");
    let target = with_unit_of_the_repository(&lab, &planted);
    let machine = &target.machine;
    target.tool("init");
    target.tool("run");
    machine.exec("test ! -e /etc/systemd/system/sysinit.target.requires/ladylinux-api.service").expect(0);
    let keys = "Wants,OnFailure,Conflicts,FailureAction,JobTimeoutAction,CPUSchedulingPolicy,RequiredBy";
    let shown = machine.exec(&format!("systemctl show ladylinux-api -p {keys}")).expect(0).out;
    for word in ["debug-shell", "rescue", "ssh.service", "reboot-force", "poweroff", "=2", "sysinit"] {
        assert!(!shown.contains(word), "{word} in\n{shown}");
    }
}

#[test]
fn a_manually_written_unit_that_runs_code_of_the_application_as_root_is_refused() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[("pre.sh", "#!/bin/sh\nid >/root/PWNED-BY-PRE\n")]);
    let planted = UNIT.replace("ExecStart=", "ExecStartPre=+/bin/sh /opt/ladylinux/app/pre.sh\nExecStart=");
    target.machine.write("/etc/systemd/system/ladylinux-api.service", &planted);
    target.machine.exec("systemctl daemon-reload").expect(0);
    let answer = target.await_answer();
    target.push(&[("more.txt", "more\n")]);
    target.tool("run").expect(3).prints("pre.sh");
    assert_eq!(target.answer().as_deref(), Some(&*answer), "the service was touched");
    target.expect_nothing_of_roots_done();
}

#[test]
fn names_of_others_are_no_commands_in_output_that_root_pastes() {
    let Some(lab) = Lab::open() else { return };
    let unit = UNIT.replace("User=ladylinux", "User=root");
    let target =
        Target::running(&lab, &[("a';touch $HOME${HOME:+/}PWNED-BY-NAME;'/ladylinux-api.service", &unit)]);
    let machine = &target.machine;
    let branch = "printf 'ref: refs/heads/x;id>${HOME}/PWNED-BY-BRANCH;$(id>/root/PWNED-BY-BRANCH)\\n' >/opt/ladylinux/app/.git/HEAD";
    machine.exec_as("ladylinux", branch).expect(0);
    machine.exec("rm /etc/systemd/system/ladylinux-api.service; systemctl daemon-reload").expect(0);
    for command in ["status", "plan", "doctor", "init --dry-run", "init", "run"] {
        let printed = target.tool(command).all();
        for line in printed.lines().filter(|line| line.contains("PWNED")) {
            for word in ["try", "do", "hint:", "next"] {
                let Some(command) = line.trim().strip_prefix(word) else { continue };
                machine.exec(command.trim());
            }
        }
    }
    target.expect_nothing_of_roots_done();
}

#[test]
fn no_output_makes_root_run_git_in_the_repository_of_the_service_user() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    let elsewhere = "cd /opt/ladylinux/app && git remote remove origin 2>/dev/null; git remote add origin https://example.org/other.git";
    target.machine.exec_as("ladylinux", elsewhere).expect(0);
    for command in ["doctor", "init --dry-run", "plan", "status"] {
        for line in target.tool(command).all().lines() {
            let by_root = line.contains("git -C /opt/ladylinux/app") && !line.contains("sudo -u");
            assert!(!by_root, "{command} prints\n{line}");
        }
    }
}
