//! `init` on machines with systemd: from nothing, on one that was set up manually, and with a damaged working tree.

use crate::lab;

use lab::{Lab, Machine};

/// A service that needs only Python.
const SERVER: &str =
    "import http.server\nhttp.server.test(http.server.SimpleHTTPRequestHandler, port=8000)\n";

/// A unit as people have written it.
const UNIT: &str = "[Unit]\nDescription=LadyLinux API\n[Service]\nType=simple\nUser=ladylinux\n\
    WorkingDirectory=/opt/ladylinux/app\nEnvironmentFile=-/etc/ladylinux/ladylinux.env\n\
    ExecStart=/opt/ladylinux/venv/bin/python server.py\nRestart=on-failure\nRestartSec=5\nKillMode=process\n\
    [Install]\nWantedBy=multi-user.target\n";

const INIT: &str = "init --repo file:///srv/app.git --allow file --branch main";

/// A machine with the program and a repository that contains `files`.
fn machine(lab: &Lab, files: &[(&str, &str)]) -> Machine {
    let machine = Machine::boot(lab, "host");
    machine.install_tool();
    machine
        .exec("git init --quiet --bare --initial-branch=main /srv/app.git && git clone --quiet /srv/app.git /srv/work")
        .expect(0);
    machine.exec("cd /srv/work && git switch --quiet --orphan main").expect(0);
    for (path, text) in [("server.py", SERVER), ("requirements.txt", "")].iter().chain(files) {
        machine.write(&format!("/srv/work/{path}"), text);
    }
    push(&machine);
    machine
}

fn push(machine: &Machine) {
    let commit = "git -c user.name=x -c user.email=x@x commit --quiet --allow-empty --message change";
    machine
        .exec(&format!("cd /srv/work && git add -A && {commit} && git push --quiet origin main"))
        .expect(0);
}

/// All properties of the machine's files that a write would change, except for the tool's own stores.
fn listing(machine: &Machine) -> String {
    let own = "-path /var/lib/ladylinux-refresh/runs -o -path /var/lib/ladylinux-refresh/scratch";
    let mirror = "-path /opt/ladylinux-refresh/mirror.git";
    let format = "%p %u:%g %m %s %T@ %l\\n";
    machine
        .exec(&format!(
            "find /etc /opt /usr/lib/systemd /var/lib/ladylinux \\( {own} -o {mirror} \\) -prune -o \
             \\( -type d -path /var/lib/ladylinux-refresh -prune \\) -o -printf '{format}' 2>/dev/null | sort"
        ))
        .out
}

/// Owner, group and mode of a path.
fn stat(machine: &Machine, path: &str) -> String {
    machine.exec(&format!("stat -c %U:%G:%a {path}")).expect(0).out.trim().to_owned()
}

#[test]
fn from_nothing_init_makes_the_entire_contract_and_a_second_one_changes_nothing() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab, &[]);
    let before = listing(&machine);
    let dry = machine
        .refresh(&format!("{INIT} --dry-run"))
        .expect(0)
        .prints("would create the system user and group ladylinux")
        .prints("would create the system users ladylinux-refresh, ladylinux-staging")
        .prints("would clone main into /opt/ladylinux/app")
        .prints("would install /usr/lib/systemd/system/ladylinux-api.service.d/50-ladylinux-refresh.conf")
        .prints("would enable ladylinux-api.service")
        .prints("no changes were made");
    assert_eq!(listing(&machine), before, "a dry run changed something");
    machine.exec("id ladylinux").expect(1);

    let init = machine.refresh(INIT).expect(0).prints("ready; refresh it with: ladylinux-refresh run");
    for printed in [dry, init] {
        assert!(
            !printed.all().contains("not changed by init"),
            "init leaves its own work to people\n{}",
            printed.all()
        );
    }
    machine.exec("getent passwd ladylinux").expect(0).prints(":/opt/ladylinux:/usr/sbin/nologin");
    machine.exec("getent passwd ladylinux-refresh ladylinux-staging").expect(0).prints("/usr/sbin/nologin");
    for (path, wanted) in [
        ("/opt/ladylinux", "ladylinux:ladylinux:755"),
        ("/opt/ladylinux/app", "ladylinux:ladylinux:755"),
        ("/opt/ladylinux/app/.git/HEAD", "ladylinux:ladylinux:644"),
        ("/opt/ladylinux-refresh", "root:root:755"),
        ("/opt/ladylinux-refresh/trees", "root:root:700"),
        ("/opt/ladylinux-refresh/stash", "root:root:711"),
        ("/opt/ladylinux/models", "ladylinux:ladylinux:755"),
        ("/opt/ladylinux/containers", "ladylinux:ladylinux:755"),
        ("/etc/ladylinux", "root:root:755"),
        ("/etc/ladylinux/refresh.toml", "root:root:644"),
        ("/etc/ladylinux/ladylinux.env", "ladylinux:ladylinux:640"),
        ("/var/lib/ladylinux", "ladylinux:ladylinux:755"),
        ("/var/lib/ladylinux/data", "ladylinux:ladylinux:750"),
        ("/var/lib/ladylinux-refresh", "root:root:755"),
        ("/run/ladylinux-refresh/request", "ladylinux:ladylinux:700"),
        ("/usr/lib/systemd/system/ladylinux-api.service", "root:root:644"),
    ] {
        assert_eq!(stat(&machine, path), wanted, "{path}");
    }
    // The service reads its environment and cannot write to it: another user has built it.
    let environment = stat(&machine, "$(readlink -f /opt/ladylinux/venv)");
    assert_eq!(environment, "ladylinux-refresh:ladylinux-refresh:555");
    let show = "systemctl show ladylinux-api -p User,DropInPaths,UnitFileState,ActiveState,NeedDaemonReload";
    machine
        .exec(show)
        .expect(0)
        .prints("User=ladylinux")
        .prints("50-ladylinux-refresh.conf")
        .prints("UnitFileState=enabled")
        .prints("ActiveState=inactive")
        .prints("NeedDaemonReload=no");
    machine.exec("systemctl is-enabled ladylinux-refresh-request.path").expect(0);
    machine.exec("systemctl is-active ladylinux-refresh-request.path").expect(0);
    machine.exec("systemctl is-enabled ladylinux-refresh.timer").prints("disabled");
    machine
        .exec("systemctl cat ladylinux-refresh.service")
        .prints("/usr/local/bin/ladylinux-refresh run --if-changed");
    // This application needs no uvicorn, which the contract's unit starts; systemd reports nothing else about any of
    // the units.
    let printed = machine.exec("cd /usr/lib/systemd/system && systemd-analyze verify ladylinux-*.service ladylinux-*.path ladylinux-*.timer").err;
    let complaints: Vec<&str> = printed.lines().filter(|line| line.contains("ladylinux")).collect();
    assert!(complaints.iter().all(|line| line.contains("uvicorn is not executable")), "{complaints:?}");

    let before = listing(&machine);
    for command in [INIT, "init", "init --dry-run"] {
        let ran = machine.refresh(command).expect(0).prints("as it is");
        assert!(!ran.out.contains("would "), "{}", ran.out);
        assert_eq!(listing(&machine), before, "{command} changed something the second time");
    }
    machine.refresh("init --dry-run").prints("no changes are needed");

    // Missing files are created again; a unit that people masked stays masked.
    let request = "ladylinux-refresh-request.path";
    machine
        .exec("rm -r /usr/lib/systemd/system/ladylinux-api.service.d && systemctl daemon-reload")
        .expect(0);
    machine
        .exec(&format!("systemctl disable --quiet --now {request}; systemctl mask --quiet {request}"))
        .expect(0);
    machine
        .refresh("init")
        .expect(0)
        .prints("50-ladylinux-refresh.conf")
        .prints(&format!("left {request} masked"));
    machine.exec("systemctl show ladylinux-api -p DropInPaths").prints("50-ladylinux-refresh.conf");
    machine.exec(&format!("systemctl is-active {request}")).prints("inactive");
}

#[test]
fn the_unit_is_made_from_the_settings_and_never_taken_from_the_repository() {
    let Some(lab) = Lab::open() else { return };
    let machine =
        machine(&lab, &[("deploy/ladylinux-api.service", &UNIT.replace("User=ladylinux", "User=root"))]);
    machine.refresh(INIT).expect(0).prints("ladylinux-api.service, generated from the settings");
    let installed = "/usr/lib/systemd/system/ladylinux-api.service";
    let text = machine.read(installed).unwrap();
    assert!(
        text.contains("User=ladylinux\n") && text.contains("ExecStart=/opt/ladylinux/venv/bin/uvicorn"),
        "{text}"
    );
    assert!(!text.contains("KillMode"), "{text}");
    // An installed unit is left unchanged; only for one that init wrote, it prints the text that it would write now.
    machine.exec(&format!("echo '# mine' >>{installed}")).expect(0);
    machine.refresh("init").expect(0).prints("is not what init would write now");
    assert!(machine.read(installed).unwrap().ends_with("# mine\n"));
    machine.write("/etc/systemd/system/ladylinux-api.service", UNIT);
    let printed = machine
        .refresh("init")
        .expect(0)
        .prints("left /etc/systemd/system/ladylinux-api.service as it is")
        .out;
    assert!(!printed.contains("is not what init would write"), "{printed}");
    assert_eq!(machine.read("/etc/systemd/system/ladylinux-api.service").unwrap(), UNIT);
}

#[test]
fn a_program_that_others_can_replace_is_not_written_into_units() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab, &[]);
    let before = listing(&machine);
    machine.exec("install -D -m 755 /usr/local/bin/ladylinux-refresh /srv/loose/ladylinux-refresh").expect(0);
    machine.exec("chmod 777 /srv/loose").expect(0);
    machine
        .exec(&format!("/srv/loose/ladylinux-refresh {INIT}"))
        .expect(3)
        .prints("others than root can change /srv/loose")
        .prints("install -m 755");
    assert_eq!(listing(&machine), before);
}

/// Sets a machine up as people did it: a manual clone, a real environment, a sudo rule, a button.
fn set_up_by_hand(machine: &Machine) {
    machine.exec("useradd --system --user-group --shell /bin/bash ladylinux").expect(0);
    machine
        .exec(
            "mkdir -p /opt/ladylinux/models /etc/ladylinux /var/lib/ladylinux/data && cd /opt/ladylinux && \
             git clone --quiet /srv/app.git app && git -C app remote set-url origin https://example.org/old.git && \
             git -C app switch --quiet -c develop && \
             python3 -m venv --without-pip venv && echo weights >models/m.gguf && echo note >/var/lib/ladylinux/data/n && \
             mkdir app/config && echo '{}' >app/config/user_prefs.json && \
             printf 'LADYLINUX_PORT=8000\\nTOKEN=secret\\n' >/etc/ladylinux/ladylinux.env && \
             chmod 600 /etc/ladylinux/ladylinux.env && echo 'exit 0' >refresh.sh && \
             chown -R ladylinux:ladylinux /opt/ladylinux /var/lib/ladylinux /etc/ladylinux",
        )
        .expect(0);
    machine.write("/etc/systemd/system/ladylinux-api.service", UNIT);
    machine.write(
        "/etc/sudoers.d/ladylinux",
        "# the button\nladylinux ALL=(root) NOPASSWD: /opt/ladylinux/app/scripts/refresh_vm.sh\n",
    );
    machine.exec("systemctl daemon-reload && systemctl enable --quiet --now ladylinux-api").expect(0);
}

#[test]
fn a_machine_that_was_set_up_manually_is_adopted_and_manual_steps_are_listed() {
    let Some(lab) = Lab::open() else { return };
    let button = "import subprocess\nsubprocess.run(['sudo', 'scripts/refresh_vm.sh'])\n";
    let machine = machine(&lab, &[("api_layer.py", button)]);
    set_up_by_hand(&machine);
    machine.exec("chmod 700 /var/lib/ladylinux").expect(0);
    let before = listing(&machine);
    let kept = |machine: &Machine| -> Vec<String> {
        let lines = listing(machine);
        let is_kept = |line: &&str| {
            ["/opt/ladylinux/", "/var/lib/ladylinux/data", "/etc/ladylinux/ladylinux.env", "/etc/sudoers"]
                .iter()
                .any(|path| line.starts_with(path))
                || line.contains("ladylinux-api.service ")
        };
        let new = |line: &&str| !["containers "].iter().any(|new| line.contains(new));
        lines.lines().filter(is_kept).filter(new).map(str::to_owned).collect()
    };
    let theirs = kept(&machine);

    // Without a setting, the URL of a clone does not count.
    machine.refresh("init").expect(2).prints("init --repo https://example.org/old.git");
    for (command, leaves) in [(format!("{INIT} --dry-run"), "leaves"), (INIT.to_owned(), "left")] {
        machine
            .refresh(&command)
            .expect(0)
            .prints(&format!("{leaves} /opt/ladylinux/venv as it is; the first run adopts it"))
            .prints(&format!("{leaves} /etc/systemd/system/ladylinux-api.service as it is"))
            .prints("not changed by init")
            .prints("the user of the application, run /opt/ladylinux/app/scripts/refresh_vm.sh as root")
            .prints("do    grep -rnwF -- /opt/ladylinux/app/scripts/refresh_vm.sh /etc/sudoers")
            .prints("KillMode=process")
            .prints("/etc/ladylinux-refresh.toml")
            .prints("ladylinux can log in, with /bin/bash")
            .prints("/opt/ladylinux/refresh.sh")
            .prints("fetches from https://example.org/old.git, a run from file:///srv/app.git")
            .prints("is on the branch develop, and a run brings it to main");
        if command.ends_with("--dry-run") {
            assert_eq!(listing(&machine), before, "a dry run changed something");
        }
    }
    assert_eq!(kept(&machine), theirs, "what was there was changed");
    machine.exec("systemctl is-active ladylinux-api").expect(0);
    machine.exec("systemctl show ladylinux-api -p DropInPaths").prints("50-ladylinux-refresh.conf");

    // The application's directories keep their owner; the settings are left to people, and the first run adopts the
    // environment.
    let owners = machine.exec("stat -c %U /opt/ladylinux /var/lib/ladylinux | sort -u").expect(0).out;
    assert_eq!(owners.trim(), "ladylinux");
    machine
        .exec("setpriv --reuid=ladylinux --regid=ladylinux --clear-groups cat /var/lib/ladylinux/data/n")
        .expect(0);
    machine
        .refresh("init")
        .expect(0)
        .prints("calls sudo or systemd-run in api_layer.py")
        .prints("docs/requests.md");
    machine.refresh("run").expect(0).prints("venv is kept as adopted-1");
    machine.exec("systemctl is-active ladylinux-api").expect(0);
    machine.exec("readlink /opt/ladylinux/venv").expect(0).prints("environments/");
    machine.refresh("rollback").expect(0).prints("adopted-1");
    machine.exec("readlink /opt/ladylinux/venv").expect(0).prints("environments/adopted-1");
    assert_eq!(machine.read("/opt/ladylinux/models/m.gguf").as_deref(), Some("weights\n"));
    assert!(machine.read("/etc/ladylinux/ladylinux.env").unwrap().contains("TOKEN=secret"));
}

#[test]
fn a_working_tree_in_which_root_worked_is_refreshed_and_one_of_root_is_refused_with_the_command() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab, &[("static/page.html", "one\n")]);
    set_up_by_hand(&machine);
    machine.exec("chown root /etc/ladylinux").expect(0);
    machine.exec("mkdir /etc/ladylinux/x && rmdir /etc/ladylinux/x").expect(0);
    // All of it belongs to root, as after a clone with sudo.
    machine.exec("chown -R root:root /opt/ladylinux/app && rm -r /opt/ladylinux/venv").expect(0);
    let give = "chown -h ladylinux: /opt/ladylinux/app";
    machine
        .refresh(INIT)
        .expect(0)
        .prints("built no environment, because /opt/ladylinux/app belongs to root")
        .prints("/opt/ladylinux/app belongs to root")
        .prints(&format!("do    {give}"));
    machine.refresh("run").expect(3).prints(give);
    machine.exec(give).expect(0);
    assert_eq!(stat(&machine, "/opt/ladylinux/app/server.py"), "root:root:644");
    machine.refresh("run").expect(0);
    assert_eq!(stat(&machine, "/opt/ladylinux/app/server.py"), "ladylinux:ladylinux:644");

    // Some of it belongs to root, as after a pull with sudo, and there is a clone inside the clone.
    machine.write("/srv/work/static/new/deep/page.html", "two\n");
    machine.write("/srv/work/version", "two\n");
    push(&machine);
    machine
        .exec(
            "cd /opt/ladylinux/app && export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' && \
             git pull --quiet file:///srv/app.git main && git -c user.name=x -c user.email=x@x commit --quiet --allow-empty -m x && \
             git clone --quiet /srv/app.git LadyLinux && echo work >LadyLinux/work && \
             mkdir -m 700 closed && echo secret >closed/x",
        )
        .expect(0);
    machine.exec("find /opt/ladylinux/app -user root | grep -q .").expect(0);
    machine.refresh("run").expect(0);
    let roots = machine.exec("find /opt/ladylinux/app -user root").out;
    assert_eq!(roots, "");
    machine.exec("cat /opt/ladylinux-refresh/stash/*/LadyLinux/work").expect(0).prints("work");
    machine.exec("cat /opt/ladylinux-refresh/stash/*/closed/x").expect(0).prints("secret");
    machine.exec("systemctl is-active ladylinux-api").expect(0);
}

/// A git in place of the real one: while the remote is contacted, the service user creates its own state in the
/// directory that belongs to it.
const SLOW_GIT: &str = "#!/bin/sh
case \"$*\" in
*ls-remote*) setpriv --reuid=ladylinux --regid=ladylinux --init-groups sh /var/lib/ladylinux/plant ;;
esac
exec /usr/bin/git \"$@\"
";

/// Every entry that the user can create in the directories in which root works.
const PLANT: &str = "cd /var/lib/ladylinux && touch tried
mv .s refresh
ln -s /var/lib/ladylinux/refresh /var/lib/ladylinux-refresh
ln -s /var/lib/ladylinux/refresh /opt/ladylinux-refresh
exit 0
";

#[test]
fn rw_7_1a_state_that_the_service_user_plants_while_init_contacts_the_remote_is_never_used() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab, &[]);
    set_up_by_hand(&machine);
    machine.exec("chown root /etc/ladylinux && touch /root/kept && chmod 644 /root/kept").expect(0);
    machine
        .exec_as(
            "ladylinux",
            "cd /var/lib/ladylinux && git init --quiet --bare .s/mirror.git && ln -s /root/kept .s/lock",
        )
        .expect(0);
    machine.write("/var/lib/ladylinux/plant", PLANT);
    machine.write_mode("/usr/local/bin/git", SLOW_GIT, 0o755);
    machine.refresh(INIT).expect(0);
    machine.exec("test -e /var/lib/ladylinux/tried && test -L /var/lib/ladylinux/refresh/lock").expect(0);
    for path in ["/var/lib/ladylinux-refresh", "/opt/ladylinux-refresh"] {
        assert_eq!(stat(&machine, path), "root:root:755", "{path}");
    }
    let mirror = stat(&machine, "/opt/ladylinux-refresh/mirror.git");
    assert_eq!(mirror, "ladylinux-refresh:ladylinux-refresh:755");
    assert_eq!(stat(&machine, "/root/kept"), "root:root:644", "the lock was opened through a link");
}

#[test]
fn rw_7_1a_init_uses_no_state_with_entries_of_others_and_opens_no_lock_through_a_link() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine(&lab, &[]);
    set_up_by_hand(&machine);
    machine.exec("chown root /etc/ladylinux && touch /root/kept && chmod 644 /root/kept").expect(0);
    let state = "/var/lib/ladylinux-refresh";
    machine.exec(&format!("mkdir -p {state} && ln -s /root/kept {state}/lock")).expect(0);
    machine.refresh(INIT).expect(3).prints("symbolic link");
    assert_eq!(stat(&machine, "/root/kept"), "root:root:644", "the lock was opened through a link");
    machine.exec(&format!("rm {state}/lock && touch {state}/lock && chown ladylinux {state}/lock")).expect(0);
    let refused = machine.refresh(INIT).expect(3).prints(&format!("{state}/lock belongs to uid"));
    let hint =
        format!("chown -hR --from=$(id -u ladylinux) root:root {state}/lock && chmod -R go-w {state}/lock");
    let uid = machine.exec("id -u ladylinux").out.trim().to_owned();
    refused.prints(&hint.replace("$(id -u ladylinux)", &uid));
    machine.exec(&hint).expect(0);
    machine.refresh(INIT).expect(0);
}
