//! A machine in the real shape (`lab/shape/`): the service user owns all files of the application, and the application
//! writes to any of its directories. The tool adopts the machine, refreshes it, and leaves it, and changes only its own
//! files.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use crate::lab;

use std::collections::BTreeSet;

use lab::{LOCAL_INDEX, Lab, Machine, Ran, until};
use serde_json::Value;

const REMOTE: &str = "git://127.0.0.1/app.git";

const DAEMON: &str =
    "[Service]\nExecStart=/usr/lib/git-core/git-daemon --reuseaddr --base-path=/srv --export-all\n";

/// The units that people have written.
const UNITS: [(&str, &str); 4] = [
    ("ladylinux-api", include_str!("../../lab/shape/ladylinux-api.service")),
    ("ladylinux-llm", include_str!("../../lab/shape/ladylinux-llm.service")),
    ("ladylinux-worker", include_str!("../../lab/shape/ladylinux-worker.service")),
    ("ladylinux-indexer", include_str!("../../lab/shape/ladylinux-indexer.service")),
];

/// The machine.
struct Shape {
    machine: Machine,
}

impl Shape {
    /// A machine that was set up manually and runs the first edition.
    fn set_up(lab: &Lab) -> Self {
        let machine = Machine::boot(lab, "shape");
        machine.install_tool();
        machine.add_service_user();
        machine.write("/etc/gitconfig", "[safe]\n\tdirectory = *\n");
        machine.write("/etc/systemd/system/source.service", DAEMON);
        for (name, text) in UNITS {
            machine.write(&format!("/etc/systemd/system/{name}.service"), text);
        }
        machine.write_mode("/srv/set_up.sh", include_str!("../../lab/shape/set_up.sh"), 0o755);
        let line = "set -e
            git init --quiet --bare --initial-branch=main /srv/app.git
            git init --quiet --initial-branch=main /srv/work
            git -C /srv/work remote add origin /srv/app.git
            systemctl start source";
        machine.exec(line).expect(0);
        let served = format!("git ls-remote {REMOTE}");
        until("the repository", || (machine.exec(&served).code == Some(0)).then_some(()));
        let shape = Self { machine };
        let requirements = include_str!("../../demo/app/requirements.txt");
        shape.write("requirements.txt", requirements);
        shape.write("api_layer.py", include_str!("../../lab/shape/api_layer.py"));
        shape.write("worker.py", include_str!("../../lab/shape/worker.py"));
        shape.push_edition("one");
        shape.machine.exec(&format!("/srv/set_up.sh {REMOTE} {LOCAL_INDEX}")).expect(0);
        shape.await_edition("one");
        until("the workers", || shape.has_edition("free", "one").then_some(()));
        shape.settings("");
        shape
    }

    fn write(&self, path: &str, text: &str) {
        self.machine.write(&format!("/srv/work/{path}"), text);
    }

    /// Writes the host's settings where only root can write, with `lines` at their top.
    fn settings(&self, lines: &str) {
        let text = format!(
            "branch = \"main\"\n{lines}\n[remote]\nurl = \"{REMOTE}\"\nallow = [\"git\"]\n\
             [python]\nindex_url = \"{LOCAL_INDEX}\"\n\
             [probe]\npath = \"/api/status\"\nsettle = \"300ms\"\ndeadline = \"60s\"\n"
        );
        self.machine.write("/etc/ladylinux-refresh.toml", &text);
    }

    /// Pushes another edition, with the bytecode of two Pythons beside it. Returns the commit.
    fn push_edition(&self, edition: &str) -> String {
        let text = include_str!("../../lab/shape/edition.py").replace("\"one\"", &format!("\"{edition}\""));
        assert!(text.contains(edition));
        self.write("edition.py", &text);
        // Bytecode that was compiled elsewhere, at another time: the first start writes it again.
        let line = "set -e
            cd /srv/work
            python3 -m compileall -q .
            for file in __pycache__/*.cpython-311.pyc; do cp $file ${file%311.pyc}310.pyc; done
            git add --all
            git -c user.name=x -c user.email=x@x commit --quiet --message edition
            git push --quiet origin HEAD:main
            git ls-files | grep -q pyc
            git rev-parse HEAD";
        self.machine.exec(line).expect(0).out.trim().to_owned()
    }

    fn status(&self) -> Option<Value> {
        Some(serde_json::from_str(&self.machine.http("http://127.0.0.1:8000/api/status")?).unwrap())
    }

    #[track_caller]
    fn await_edition(&self, edition: &str) -> Value {
        let status = until("an answer of the application", || self.status());
        assert_eq!(status["edition"], edition);
        status
    }

    /// Returns whether a worker runs this edition.
    fn has_edition(&self, worker: &str, edition: &str) -> bool {
        self.machine.read(&format!("/var/lib/ladylinux/data/{worker}.edition")).as_deref() == Some(edition)
    }

    fn tool(&self, arguments: &str) -> Ran {
        self.machine.tool(arguments)
    }

    /// All properties of the files of application and host: kind, owner, mode, size, time and content. Directories of
    /// the host that receive additional files are not listed themselves.
    fn inventory(&self) -> BTreeSet<String> {
        let theirs = "/opt/ladylinux /var/lib/ladylinux /etc/ladylinux";
        let hosts = "/etc /usr/lib/systemd /usr/lib/tmpfiles.d /usr/lib/sysusers.d /usr/local /root";
        // The accounts are compared line by line.
        let accounts = "-regex '/etc/\\(passwd\\|group\\|shadow\\|gshadow\\|subuid\\|subgid\\)-?' -o -name .pwd.lock -o -name .updated";
        let format = "'%p %y %u:%g %m %s %T@ %l\\n'";
        let line = format!(
            "set -e
            find {theirs} ! -type d -printf {format}
            find {theirs} -type d -printf {format}
            find {theirs} -type f -print0 | xargs -0 sha256sum
            find {hosts} -path /etc/ladylinux -prune -o \\( {accounts} \\) -o ! -type d -printf {format}
            find {hosts} -path /etc/ladylinux -prune -o \\( {accounts} \\) -o -type f -print0 | xargs -0 sha256sum
            sed 's/^/account /' /etc/passwd /etc/group"
        );
        self.machine.exec(&line).expect(0).out.lines().map(str::to_owned).collect()
    }

    /// The process of a unit, and when it started.
    fn process(&self, unit: &str) -> String {
        let keys = "MainPID,ActiveState,ExecMainStartTimestampMonotonic,InvocationID";
        self.machine.exec(&format!("systemctl show {unit} -p {keys}")).expect(0).out
    }

    /// Asserts that the service and its workers run, now or soon.
    #[track_caller]
    fn expect_units_active(&self) {
        let line = "systemctl is-active ladylinux-api ladylinux-worker ladylinux-indexer";
        until("the service and its workers", || {
            (self.machine.exec(line).out == "active\nactive\nactive\n").then_some(())
        });
    }

    /// The kept files of previous trees, as the program lists them.
    fn stash(&self) -> String {
        self.tool("stash list").expect(0).out
    }
}

/// Asserts that no listed entry has gone or changed. Returns the new entries.
#[track_caller]
fn nothing_changed<'a>(before: &'a BTreeSet<String>, after: &'a BTreeSet<String>) -> Vec<&'a String> {
    let gone: Vec<&String> = before.difference(after).collect();
    let new: Vec<&String> = after.difference(before).collect();
    assert!(gone.is_empty(), "changed or gone: {gone:#?}\nnow: {new:#?}");
    new
}

#[test]
fn a_machine_in_the_real_shape_is_adopted_and_left_without_a_change_to_its_own_files() {
    let Some(lab) = Lab::open() else { return };
    let shape = Shape::set_up(&lab);
    let before = shape.inventory();
    let process = shape.process("ladylinux-api");
    assert!(before.len() > 500, "the inventory has {} lines", before.len());

    shape.tool("init").expect(0);
    let adopted = shape.inventory();
    for line in nothing_changed(&before, &adopted) {
        let own = line.contains("ladylinux-refresh") || line.contains("ladylinux-staging");
        let link = line.contains("ladylinux-api.service.d/50-") || line.contains("ladylinux-api.service ");
        assert!(own || link, "new, and not the tool's own: {line}");
    }
    assert_eq!(shape.process("ladylinux-api"), process, "the service was touched");
    // Read-only commands change nothing in the installation either.
    for command in ["status", "plan", "doctor", "stash list", "init --dry-run", "init"] {
        shape.tool(command);
        nothing_changed(&adopted, &shape.inventory());
    }

    shape.tool("init --undo").expect(0);
    let left = shape.inventory();
    let new = nothing_changed(&before, &left);
    // The users may stay, since files that they own may be elsewhere.
    let new: Vec<_> = new.iter().filter(|line| !line.starts_with("account ladylinux-")).collect();
    assert!(new.is_empty(), "the tool has left {new:#?}");
    let own = "ls -d /opt/ladylinux-refresh /var/lib/ladylinux-refresh /run/ladylinux-refresh 2>/dev/null";
    assert_eq!(shape.machine.exec(own).out, "");
    assert_eq!(shape.process("ladylinux-api"), process, "the service was touched");
    shape.expect_units_active();
    // It depends on no file of the tool.
    shape.machine.exec("systemctl restart ladylinux-api").expect(0);
    shape.await_edition("one");
}

#[test]
fn a_machine_in_the_real_shape_is_refreshed_with_its_workers_and_keeps_the_data_of_the_application() {
    let Some(lab) = Lab::open() else { return };
    let shape = Shape::set_up(&lab);
    shape.tool("init").expect(0);
    let kept = "stat -c '%n %U:%G %a %s %Y' /opt/ladylinux /var/lib/ladylinux /var/lib/ladylinux/data /etc/ladylinux \
                /opt/ladylinux/models/* /var/lib/ladylinux/data/note | sed 's/\\(ladylinux [^ ]* [0-9]*\\) .*/\\1/'; \
                sha256sum /opt/ladylinux/models/* /var/lib/ladylinux/data/note /etc/systemd/system/ladylinux-*.service";
    let before = shape.machine.exec(kept).expect(0).out;

    let free = shape.process("ladylinux-indexer");
    let commit = shape.push_edition("two");
    let ran = shape.tool("run").expect(0);
    assert_eq!(shape.await_edition("two")["commit"], commit, "{}", ran.all());
    until("the tied worker", || shape.has_edition("tied", "two").then_some(()));
    until("the child of the application", || shape.has_edition("child", "two").then_some(()));
    // The other worker continues with the old version. The run and the doctor report that.
    assert_eq!(shape.process("ladylinux-indexer"), free);
    assert!(shape.has_edition("free", "one"));
    assert!(ran.all().contains("ladylinux-indexer.service"), "{}", ran.all());
    shape.tool("doctor").prints("ladylinux-indexer.service");
    // No child of the old version is left over.
    let old = shape.machine.exec("pgrep -u ladylinux -f 'worker.py child' | wc -l").expect(0).out;
    assert_eq!(old.trim(), "1");

    // Bytecode is not a local change; the files that the application wrote into its own tree are the only one.
    let mut stashes = changes(&shape);
    assert_eq!(stashes.len(), 1, "{stashes:?}");
    let commit = shape.push_edition("three");
    shape.tool("run").expect(0);
    assert_eq!(shape.await_edition("three")["commit"], commit);
    let second = changes(&shape);
    assert_eq!(second.len(), 2, "{second:?}");
    stashes.extend(second);
    // The commit has no such directory, so it is named as a directory; it contains the one file.
    for (run, paths) in &stashes {
        assert_eq!(paths, &["config"], "{run}");
        let tree = format!("/opt/ladylinux-refresh/stash/{run}");
        let files = format!("find {tree} -name .git -prune -o -path '*/config/*' -type f -print");
        let found = shape.machine.exec(&files).expect(0).out;
        assert!(found.ends_with("/config/prefs.json\n") && found.lines().count() == 1, "{found}");
    }

    // A preserved file moves across, and nothing is left to stash.
    shape.settings("preserve = [\"config/prefs.json\"]");
    for edition in ["four", "five"] {
        let commit = shape.push_edition(edition);
        shape.tool("run").expect(0).prints("except 1 preserved file");
        shape.tool("history latest").expect(0).prints("config/prefs.json");
        assert_eq!(shape.await_edition(edition)["commit"], commit);
        assert_eq!(changes(&shape).len(), 2, "{}", shape.stash());
    }
    assert_eq!(shape.machine.exec(kept).expect(0).out, before);
    let environment = shape.machine.read("/etc/ladylinux/ladylinux.env").unwrap();
    assert_eq!(environment, "LADYLINUX_PORT=8000\nOAUTH_TOKEN=five\n");

    // The host can name the unit with the free worker; then both stop and start with the service.
    shape
        .machine
        .exec("printf '[service]\\nalso = [\"ladylinux-indexer.service\"]\\n' >>/etc/ladylinux-refresh.toml")
        .expect(0);
    shape.tool("init").expect(0);
    shape.push_edition("six");
    shape.tool("run").expect(0);
    until("the free worker", || shape.has_edition("free", "six").then_some(()));

    // After the undo the machine is as before: the application keeps running, from its own objects and environment.
    shape.tool("init --undo").expect(0);
    let own = "ls -d /opt/ladylinux-refresh /var/lib/ladylinux-refresh /run/ladylinux-refresh 2>/dev/null";
    assert_eq!(shape.machine.exec(own).out, "");
    shape.await_edition("six");
    shape.expect_units_active();
    let complete = "cd /opt/ladylinux/app && git fsck --strict && git log --oneline | grep -q . && git status --porcelain -- '*.py'";
    shape.machine.exec_as("ladylinux", complete).expect(0);
    shape.machine.exec("systemctl restart ladylinux-api ladylinux-worker").expect(0);
    shape.await_edition("six");
}

/// The stashes by run, with the paths of their changes that `stash show` names.
fn changes(shape: &Shape) -> Vec<(String, Vec<String>)> {
    let list = shape.stash();
    let runs =
        list.lines().filter_map(|line| line.split_whitespace().next()).filter(|word| word.starts_with("20"));
    let of = |run: &str| {
        let shown = shape.tool(&format!("stash show {run}")).expect(0).out;
        // The findings are listed between the time and the place of each stash: a word and a path each.
        let lines = shown.lines().take_while(|line| !line.starts_with("in "));
        let lines = lines.filter(|line| !line.starts_with("kept ") && !line.starts_with("base "));
        lines.map(|line| line.split_once(' ').map_or(line, |(_, path)| path.trim()).to_owned()).collect()
    };
    runs.map(|run| (run.to_owned(), of(run))).collect()
}
