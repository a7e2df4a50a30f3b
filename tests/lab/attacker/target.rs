//! The attacked machine: its application has a vulnerability, and the attacker is the service user.

use crate::lab::{LOCAL_INDEX, Lab, Machine, Ran, until};

/// The manually written unit of the application.
pub(crate) const UNIT: &str = "[Unit]\nDescription=LadyLinux API\n\
    [Service]\nType=simple\nUser=ladylinux\nWorkingDirectory=/opt/ladylinux/app\n\
    EnvironmentFile=-/etc/ladylinux/ladylinux.env\n\
    ExecStart=/opt/ladylinux/venv/bin/python server.py\nRestart=on-failure\nTimeoutStopSec=2s\n\
    [Install]\nWantedBy=multi-user.target\n";

/// The address of the repository.
pub(crate) const REMOTE: &str = "git://127.0.0.1/app.git";

/// The attacks: file name and text.
const ATTACKS: [(&str, &str); 12] = [
    ("end_unit.py", include_str!("../../../lab/attacks/end_unit.py")),
    ("exchange_app.py", include_str!("../../../lab/attacks/exchange_app.py")),
    ("hold_up.sh", include_str!("../../../lab/attacks/hold_up.sh")),
    ("plant_state.py", include_str!("../../../lab/attacks/plant_state.py")),
    ("poison_lock.py", include_str!("../../../lab/attacks/poison_lock.py")),
    ("reach_unit.py", include_str!("../../../lab/attacks/reach_unit.py")),
    ("ride_worker.py", include_str!("../../../lab/attacks/ride_worker.py")),
    ("spy.py", include_str!("../../../lab/attacks/spy.py")),
    ("terminal.py", include_str!("../../../lab/attacks/terminal.py")),
    ("tracing.py", include_str!("../../../lab/attacks/tracing.py")),
    ("type_as_root.py", include_str!("../../../lab/attacks/type_as_root.py")),
    ("wheel_with_pth.py", include_str!("../../../lab/attacks/wheel_with_pth.py")),
];

const DAEMON: &str = "[Service]\nExecStart=/usr/lib/git-core/git-daemon --reuseaddr --base-path=/srv --export-all\n\
     [Install]\nWantedBy=multi-user.target\n";

/// The host's settings without the address of the remote.
pub(crate) const TABLES: &str =
    "[python]\nindex_url = \"INDEX\"\n[probe]\nsettle = \"300ms\"\ndeadline = \"60s\"\n";

/// The machine.
pub(crate) struct Target {
    pub(crate) machine: Machine,
}

impl Target {
    /// A machine with the program and nothing else of it: repository, service user and its directories, the unit, the
    /// host's settings.
    pub(crate) fn prepared(lab: &Lab, files: &[(&str, &str)]) -> Self {
        let target = Self { machine: Machine::copy_of(lab, "target", Self::set_up) };
        target.await_source();
        target.push(files);
        target
    }

    /// A machine that has been refreshed once and whose application runs.
    pub(crate) fn running(lab: &Lab, files: &[(&str, &str)]) -> Self {
        if files.is_empty() {
            let machine = Machine::copy_of(lab, "running-target", |machine| {
                Self::set_up(machine);
                machine.tool("init").expect(0);
                machine.tool("run").expect(0);
            });
            let target = Self { machine };
            target.await_source();
            target.await_answer();
            return target;
        }
        let target = Self::prepared(lab, files);
        target.tool("init").expect(0);
        target.tool("run").expect(0);
        target.await_answer();
        target
    }

    /// Like [`Self::running`], with hooks.
    pub(crate) fn with_hooks(lab: &Lab, hooks: &str) -> Self {
        let machine = Machine::copy_of(lab, "target-with-hooks", |machine| {
            Self::set_up(machine);
            push(machine, &[("refresh.toml", hooks)]);
            machine.tool("init").expect(0);
            machine.tool("run").expect(0);
        });
        let target = Self { machine };
        target.await_source();
        target.await_answer();
        target
    }

    fn set_up(machine: &Machine) {
        machine.install_tool();
        machine.add_service_user();
        machine.lend_uv();
        for (name, text) in ATTACKS {
            machine.write_mode(&format!("/srv/attacks/{name}"), text, 0o755);
        }
        machine.write("/etc/gitconfig", "[safe]\n\tdirectory = *\n");
        machine.write("/etc/systemd/system/source.service", DAEMON);
        machine.write("/etc/systemd/system/ladylinux-api.service", UNIT);
        machine.write_mode("/etc/ladylinux/ladylinux.env", "LADYLINUX_PORT=8000\n", 0o640);
        let line = "set -e
            git init --quiet --bare --initial-branch=main /srv/app.git
            git init --quiet --initial-branch=main /srv/work
            git -C /srv/work remote add origin /srv/app.git
            mkdir -p /opt/ladylinux/models /opt/ladylinux/containers
            mkdir -p /var/lib/ladylinux/data /var/lib/ladylinux/cache /var/lib/ladylinux/logs
            chown -R ladylinux:ladylinux /opt/ladylinux /var/lib/ladylinux /etc/ladylinux/ladylinux.env
            systemctl daemon-reload
            systemctl enable --now source";
        machine.exec(line).expect(0);
        write_settings(machine, TABLES);
        push(
            machine,
            &[
                ("server.py", include_str!("../../../lab/attacks/server.py")),
                ("requirements.txt", "six==1.17.0\n"),
                (".gitignore", "__pycache__/\n"),
            ],
        );
    }

    /// Waits until the repository is served.
    fn await_source(&self) {
        let line = format!("git ls-remote {REMOTE}");
        until("the repository", || (self.machine.exec(&line).code == Some(0)).then_some(()));
    }

    /// Writes the host's settings: whole tables besides that of the remote.
    pub(crate) fn settings(&self, tables: &str) {
        write_settings(&self.machine, tables);
    }

    /// Commits files and pushes. Returns the commit.
    pub(crate) fn push(&self, files: &[(&str, &str)]) -> String {
        push(&self.machine, files)
    }

    /// Runs the tool as root, without a terminal.
    pub(crate) fn tool(&self, arguments: &str) -> Ran {
        self.machine.tool(arguments)
    }

    /// Types lines into root's shell on a terminal. Returns the output of the terminal.
    pub(crate) fn type_as_root(&self, lines: &[&str]) -> String {
        let command = ["python3", "/srv/attacks/terminal.py"].iter().chain(lines);
        self.machine.run(command).expect(0).out
    }

    /// Makes the application run a line of shell beside itself, as the service user, and does not wait.
    pub(crate) fn through_the_hole(&self, line: &str) {
        let ran = self.machine.run(["curl", "-fsS", "--data-binary", line, "http://127.0.0.1:8000/"]);
        ran.expect(0).prints("started");
    }

    /// Starts an attack beside the application and waits until it records its first line, which begins with `ready`.
    pub(crate) fn attack(&self, line: &str, ready: &str) {
        self.through_the_hole(&format!("exec python3 /srv/attacks/{line}"));
        until(ready, || self.loot().contains(ready).then_some(()));
    }

    /// Returns the records of the attacks.
    pub(crate) fn loot(&self) -> String {
        self.machine.read("/var/lib/ladylinux/data/loot").unwrap_or_default()
    }

    /// Removes the records of the attacks.
    pub(crate) fn forget_loot(&self) {
        self.machine.exec("rm -f /var/lib/ladylinux/data/loot").expect(0);
    }

    /// Returns the answer of the application; `None` if there is no answer.
    pub(crate) fn answer(&self) -> Option<String> {
        self.machine.http("http://127.0.0.1:8000/")
    }

    /// Waits until the application answers.
    pub(crate) fn await_answer(&self) -> String {
        until("an answer of the application", || self.answer())
    }

    /// Asserts that a commit runs, and that the working tree equals that commit.
    #[track_caller]
    pub(crate) fn expect_running(&self, commit: &str) {
        let answer = self.await_answer();
        assert!(answer.contains(commit), "{commit} does not run: {answer}");
        let line = "cd /opt/ladylinux/app && git status --porcelain && git rev-parse HEAD";
        let found = self.machine.exec_as("ladylinux", line).expect(0).out;
        assert_eq!(found.trim(), commit);
    }

    /// Asserts that none of the files exists that the attacks create as root.
    #[track_caller]
    pub(crate) fn expect_nothing_of_roots_done(&self) {
        let planted = self.machine.exec("cat /root/PWNED* /tmp/pwn* 2>/dev/null").out;
        assert_eq!(planted, "", "something ran as root\n{}", self.loot());
    }
}

fn write_settings(machine: &Machine, tables: &str) {
    let tables = tables.replace("INDEX", LOCAL_INDEX);
    let text = format!("branch = \"main\"\n[remote]\nurl = \"{REMOTE}\"\nallow = [\"git\"]\n{tables}");
    machine.write("/etc/ladylinux/refresh.toml", &text);
}

fn push(machine: &Machine, files: &[(&str, &str)]) -> String {
    for (path, text) in files {
        machine.write(&format!("/srv/work/{path}"), text);
    }
    let commit = "git -c user.name=x -c user.email=x@x commit --quiet --allow-empty --message change";
    let line = format!(
        "cd /srv/work && git add --all && {commit} && git push --quiet origin HEAD:main && git rev-parse HEAD"
    );
    machine.exec(&line).expect(0).out.trim().to_owned()
}
