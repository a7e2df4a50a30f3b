//! A machine with usual ownership: the service user owns `/opt/ladylinux`, `/var/lib/ladylinux` and `/etc/ladylinux`.
//! `init` changes nothing that existed, a run works there, and `init --undo` leaves no trace.

use crate::lab;

use std::collections::BTreeSet;

use lab::{Lab, Machine, until};
use refresh_installation::installation::FOR_ROOT;

/// The actions of an application that owns its directories: new directories at its start, preferences in its tree, an
/// env file that is replaced by a rename.
const SERVER: &str = "\
import http.server, os, pathlib
pathlib.Path('/var/lib/ladylinux/qdrant').mkdir(exist_ok=True)
pathlib.Path('config').mkdir(exist_ok=True)
pathlib.Path('config/prefs.json').write_text('{}')
env = pathlib.Path('/etc/ladylinux/ladylinux.env')
new = env.with_suffix('.new')
new.write_text(env.read_text())
os.replace(new, env)
http.server.test(http.server.SimpleHTTPRequestHandler, port=8000)
";

const UNIT: &str = "[Unit]\nDescription=LadyLinux API\n[Service]\nUser=ladylinux\n\
    WorkingDirectory=/opt/ladylinux/app\nEnvironmentFile=-/etc/ladylinux/ladylinux.env\n\
    ExecStart=/opt/ladylinux/venv/bin/python server.py\nRestart=on-failure\n\
    [Install]\nWantedBy=multi-user.target\n";

const INIT: &str = "init --repo file:///srv/app.git --allow file --branch main";

/// Directories to which the tool adds its own file: their times change, and nothing else of them.
const PARENTS: [&str; 11] = [
    "/etc",
    "/etc/apt/apt.conf.d",
    "/etc/systemd/system/multi-user.target.wants",
    "/opt",
    "/usr/lib/systemd/system",
    "/usr/lib/sysusers.d",
    "/usr/lib/tmpfiles.d",
    "/var/lib",
    "/etc/systemd/system",
    "/var/lib/systemd",
    "/etc/systemd",
];

/// The files that the tool may add.
const OWN: [&str; 13] = [
    "/etc/apt/apt.conf.d/99ladylinux-refresh ",
    "/etc/ladylinux-refresh.toml ",
    "/etc/systemd/system/multi-user.target.wants/ladylinux-refresh-request.path ",
    "/opt/ladylinux-refresh ",
    "/opt/ladylinux-refresh/",
    "/usr/lib/systemd/system/ladylinux-api.service.d ",
    "/usr/lib/systemd/system/ladylinux-api.service.d/50-ladylinux-refresh.conf ",
    "/usr/lib/systemd/system/ladylinux-refresh",
    "/usr/lib/sysusers.d/ladylinux-refresh.conf ",
    "/usr/lib/tmpfiles.d/ladylinux-refresh.conf ",
    "/var/lib/ladylinux-refresh ",
    "/var/lib/ladylinux-refresh/",
    "/etc/ladylinux-refresh",
];

/// The machine, with the service running.
fn machine_as_it_is(lab: &Lab) -> Machine {
    let machine = Machine::copy_of(lab, "owned-by-the-service-user", set_up);
    until("the application", || version(&machine));
    machine
}

fn set_up(machine: &Machine) {
    machine.install_tool();
    machine
        .exec("git init --quiet --bare --initial-branch=main /srv/app.git && git clone --quiet /srv/app.git /srv/work")
        .expect(0);
    machine.exec("cd /srv/work && git switch --quiet --orphan main").expect(0);
    machine.write("/srv/work/server.py", SERVER);
    machine.write("/srv/work/requirements.txt", "uvicorn\n");
    push(machine, "one");
    machine.add_service_user();
    machine
        .exec(
            "mkdir -p /opt/ladylinux/models /opt/ladylinux/containers /etc/ladylinux && \
             mkdir -p /var/lib/ladylinux/data /var/lib/ladylinux/cache /var/lib/ladylinux/logs && \
             cd /opt/ladylinux && git clone --quiet /srv/app.git app && python3 -m venv --without-pip venv && \
             echo weights >models/m.gguf && echo note >/var/lib/ladylinux/data/n && \
             printf 'LADYLINUX_PORT=8000\\nTOKEN=secret\\n' >/etc/ladylinux/ladylinux.env && \
             chmod 600 /etc/ladylinux/ladylinux.env && \
             chown -R ladylinux:ladylinux /opt/ladylinux /var/lib/ladylinux /etc/ladylinux && \
             chmod 700 /var/lib/ladylinux",
        )
        .expect(0);
    machine.write("/etc/systemd/system/ladylinux-api.service", UNIT);
    machine.exec("systemctl daemon-reload && systemctl enable --quiet --now ladylinux-api").expect(0);
    until("the application", || version(machine));
}

fn push(machine: &Machine, version: &str) {
    machine.write("/srv/work/version", &format!("{version}\n"));
    let commit = "git -c user.name=x -c user.email=x@x commit --quiet --message change";
    machine
        .exec(&format!("cd /srv/work && git add -A && {commit} && git push --quiet origin main"))
        .expect(0);
}

fn version(machine: &Machine) -> Option<String> {
    machine.http("http://127.0.0.1:8000/version").map(|text| text.trim().to_owned())
}

/// Owner, mode, size, time and content of every entry on the machine's disk: everything that a write would change.
/// Accounts are compared by content alone, because useradd writes those files.
fn inventory(machine: &Machine) -> BTreeSet<String> {
    let places = "/etc /home /opt /root /srv /usr /var";
    let left_out = "-path /var/log -o -path /var/cache -o -path /var/lib/systemd/random-seed -o -path /var/tmp \
                    -o -path '/etc/passwd*' -o -path '/etc/group*' -o -path '/etc/shadow*' -o -path '/etc/gshadow*' \
                    -o -path '/etc/subuid*' -o -path '/etc/subgid*' -o -path /etc/.pwd.lock \
                    -o -path /srv/wheels -o -name __pycache__";
    let parents = PARENTS.map(|path| format!("-path {path}")).join(" -o ");
    let list = format!(
        "find {places} -xdev \\( {left_out} \\) -prune -o \\( {parents} \\) -printf '%p %y %u:%g %m\\n' -o \
         -type d -printf '%p %y %u:%g %m %T@\\n' -o -printf '%p %y %u:%g %m %s %T@ %l\\n'"
    );
    let sums = "find /etc /opt /var/lib/ladylinux /usr/lib/systemd /usr/local -xdev -type f \
                -not -path '/etc/*shadow*' -not -path '/etc/passwd*' -not -path '/etc/group*' -not -name '*-' -print0 | sort -z | xargs -0 sha256sum | \
                sed 's,^\\([^ ]*\\)  \\(.*\\)$,\\2 \\1,'";
    let ran = machine.exec(&format!("{list}; {sums}; getent passwd; getent group")).expect(0);
    ran.out.lines().map(str::to_owned).collect()
}

fn difference(one: &BTreeSet<String>, other: &BTreeSet<String>) -> Vec<String> {
    one.difference(other).cloned().collect()
}

#[test]
fn init_changes_nothing_that_existed_and_its_undo_leaves_nothing_that_is_new() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine_as_it_is(&lab);
    let before = inventory(&machine);
    machine.refresh(INIT).expect(0).prints("wrote /etc/ladylinux-refresh.toml");
    let after = inventory(&machine);
    assert_eq!(difference(&before, &after), Vec::<String>::new(), "init changed what existed");
    let is_own = |line: &&String| {
        OWN.iter().any(|own| line.starts_with(own))
            || ["ladylinux-refresh:", "ladylinux-staging:"].iter().any(|user| line.starts_with(user))
    };
    let foreign: Vec<String> =
        difference(&after, &before).into_iter().filter(|line| !is_own(&line)).collect();
    assert_eq!(foreign, Vec::<String>::new(), "init added something that is not its own");
    machine.exec("systemctl is-active ladylinux-api").expect(0);

    let listed = machine.refresh("init --undo --dry-run").expect(0).prints("no changes were made").out;
    assert_eq!(inventory(&machine), after, "a dry run changed something");
    machine.refresh("init --undo").expect(0).prints("this program's parts are removed");
    for path in ["/opt/ladylinux-refresh", "/var/lib/ladylinux-refresh", "/etc/ladylinux-refresh.toml"] {
        assert!(listed.contains(&format!("would remove {path}\n")), "{listed}");
    }
    // The restart of the service wrote the files that the application writes at each start.
    let is_written = |line: &String| {
        ["/etc/ladylinux/ladylinux.env ", "/etc/ladylinux ", "/opt/ladylinux/app/config/prefs.json "]
            .iter()
            .any(|path| line.starts_with(path))
    };
    let without = |lines: &BTreeSet<String>| -> BTreeSet<String> {
        lines.iter().filter(|line| !is_written(line)).cloned().collect()
    };
    let undone = without(&inventory(&machine));
    assert_eq!(difference(&undone, &without(&before)), Vec::<String>::new(), "something is left");
    assert_eq!(difference(&without(&before), &undone), Vec::<String>::new(), "something is gone");
    machine.exec("test ! -e /run/ladylinux-refresh").expect(0);
    until("the application after the undo", || version(&machine));
}

fn users_without_root_get_the_command_for_root(machine: &Machine) {
    let with_options =
        ["run --detach", "init --repo file:///srv/app.git", "history latest --log", "stash list"];
    let complete = |command: &str| match command {
        "stash" => "stash restore latest".to_owned(),
        "bundle create" => "bundle create --output /tmp/bundle".to_owned(),
        command => command.to_owned(),
    };
    // Without a run, and for a running service, these have nothing to do.
    let is_idle = |command: &&str| ["cancel", "service start"].contains(command);
    let for_root = FOR_ROOT
        .into_iter()
        .filter(|command| !is_idle(command))
        .map(complete)
        .chain(with_options.map(str::to_owned));
    let wrong = for_root.filter_map(|command| {
        let printed = machine.exec_as("daemon", &format!("ladylinux-refresh {command}"));
        let is_right = printed.code == Some(3)
            && printed.err.ends_with(&format!("  next         sudo ladylinux-refresh {command}\n"))
            && printed.err.contains(": this command needs root\n");
        (!is_right).then(|| format!("{command}: {:?}\n{}", printed.code, printed.all()))
    });
    let for_all =
        ["status", "history", "history latest", "doctor", "verify", "config show", "env list", "wait"];
    let refused = for_all.iter().filter_map(|command| {
        let printed = machine.exec_as("daemon", &format!("ladylinux-refresh {command}")).all();
        printed.contains("this command needs root").then(|| format!("{command}: {printed}"))
    });
    assert_eq!(wrong.chain(refused).collect::<Vec<_>>().join("\n"), "");
}

#[test]
fn a_run_works_if_the_service_user_owns_everything_and_its_undo_keeps_the_service_running() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine_as_it_is(&lab);
    // Settings that the service user can write or replace do not count, and are named.
    machine.exec_as("ladylinux", "echo 'keep = 77' >/etc/ladylinux/refresh.toml").expect(0);
    machine
        .refresh(INIT)
        .expect(0)
        .prints("/etc/ladylinux/refresh.toml does not count: /etc/ladylinux belongs to uid");
    push(&machine, "two");
    machine.refresh("run").expect(0).prints("/etc/ladylinux/refresh.toml does not count");
    assert_eq!(version(&machine).as_deref(), Some("two"));
    machine
        .refresh("status")
        .expect(0)
        .prints("settings     /etc/ladylinux-refresh.toml")
        .prints("/etc/ladylinux/refresh.toml does not count");
    let owners = "stat -c %U /opt/ladylinux /opt/ladylinux/app /var/lib/ladylinux /etc/ladylinux | sort -u";
    assert_eq!(machine.exec(owners).out.trim(), "ladylinux");
    machine.exec("test -d /var/lib/ladylinux/qdrant").expect(0);
    machine.exec_as("ladylinux", "echo mine >/opt/ladylinux/app/notes.txt").expect(0);
    push(&machine, "three");
    machine.refresh("run").expect(0);

    users_without_root_get_the_command_for_root(&machine);

    let undone = machine.refresh("init --undo").expect(0);
    until("the application after the undo", || version(&machine));
    assert_eq!(version(&machine).as_deref(), Some("three"));
    let traces = "find / -xdev -name '*ladylinux-refresh*' -not -path '/proc/*' -not -path '/srv/*' \
                  -not -path '/var/log/*' -not -path '/tmp/*'";
    assert_eq!(machine.exec(traces).out.trim(), "/usr/local/bin/ladylinux-refresh", "{}", undone.out);
    assert_ne!(machine.exec("getent passwd ladylinux-refresh ladylinux-staging").code, Some(0));
    // A real environment whose programs work in place.
    machine.exec("test -d /opt/ladylinux/venv && test ! -L /opt/ladylinux/venv").expect(0);
    machine.exec_as("ladylinux", "/opt/ladylinux/venv/bin/uvicorn --version").expect(0);
    machine.exec("head -n 1 /opt/ladylinux/venv/bin/uvicorn").prints("#!/opt/ladylinux/venv/bin/python");
    // The repository contains all of its objects and can still be used.
    let git = "cd /opt/ladylinux/app && test ! -e .git/objects/info/alternates && git fsck --no-progress && git log -1";
    machine.exec_as("ladylinux", git).expect(0);
    // The files from before still exist.
    machine.exec("find /opt/ladylinux -name notes.txt | xargs cat").prints("mine");
    machine.exec("test -x /opt/ladylinux/kept-by-refresh/venv-adopted-1/bin/python").expect(0);
    machine.exec("systemctl restart ladylinux-api").expect(0);
    until("the application after a restart by hand", || version(&machine));
    // Then everything starts again.
    machine.refresh(INIT).expect(0);
    push(&machine, "four");
    machine.refresh("run").expect(0);
    assert_eq!(version(&machine).as_deref(), Some("four"));
}
