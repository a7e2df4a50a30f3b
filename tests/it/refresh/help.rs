//! Shared parts of the tests of refreshes: functions that read runs from outside, and pictures of directories.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::host::{Host, Ran, git};

/// The two ways through a run: with staging, and with everything inside the six steps.
pub(crate) const WAYS: [&[&str]; 2] = [&["run"], &["run", "--no-stage"]];

/// The six steps, as the specification orders them.
pub(crate) const STEPS: [&str; 6] = ["stop", "sync", "environment", "prepare", "restart", "status"];

/// A way with more arguments.
pub(crate) fn with<'a>(way: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [way, more].concat()
}

/// Returns whether a way leaves staging out.
pub(crate) fn strict(way: &[&str]) -> bool {
    way.contains(&"--no-stage")
}

/// The events of a run with `--format json`.
pub(crate) fn events(ran: &Ran) -> Vec<Value> {
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the parts that events of one kind name, in order.
pub(crate) fn parts(events: &[Value], kind: &str) -> Vec<String> {
    let wanted = events.iter().filter(|event| event["event"] == kind);
    wanted.map(|event| event["phase"].as_str().unwrap().to_owned()).collect()
}

/// The journal of the last run.
pub(crate) fn journal(host: &Host) -> Vec<Value> {
    let text = fs::read_to_string(host.runs().last().unwrap().join("journal.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the parts that records of one kind name in the journal of the last run.
pub(crate) fn journaled(host: &Host, kind: &str) -> Vec<String> {
    let all = journal(host);
    let records = all.iter().map(|line| if line["entry"].is_object() { &line["entry"] } else { line });
    let wanted = records.filter(|record| record["entry"] == kind);
    wanted.map(|record| record["phase"].as_str().unwrap().to_owned()).collect()
}

/// Returns the ID of the last run.
pub(crate) fn last_run(host: &Host) -> String {
    host.runs().last().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

/// Returns the complete error of the last run, as one text.
pub(crate) fn error_text(host: &Host) -> String {
    let report = host.report();
    let chain = report["error"]["chain"].as_array().expect("the run did not fail");
    chain.iter().map(|sentence| sentence.as_str().unwrap()).collect::<Vec<_>>().join(": ")
}

/// Returns all properties of the content of a directory that a write of any kind would change: names, bytes,
/// permissions, owners, times down to the nanosecond, inodes.
pub(crate) fn picture(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    look(directory, directory, &[], &mut seen, &|path, found| {
        // Shared files have names in other installations too. The time changes with each name that is added or removed.
        let alone = found.is_dir() || found.nlink() == 1;
        format!(
            "{} mode {:o} of {}:{} size {} changed {}.{} {}.{} inode {}",
            content(path, found),
            found.permissions().mode(),
            found.uid(),
            found.gid(),
            found.size(),
            found.mtime(),
            found.mtime_nsec(),
            if alone { found.ctime() } else { 0 },
            if alone { found.ctime_nsec() } else { 0 },
            found.ino()
        )
    });
    seen
}

/// [`picture`] of the installation without the tool's own stores and without the files of the running service.
pub(crate) fn installation(host: &Host) -> Vec<BTreeMap<PathBuf, String>> {
    let layout = &host.layout;
    vec![picture(&layout.home()), picture(&layout.etc()), data(host)]
}

/// [`picture`] of the persistent data.
pub(crate) fn data(host: &Host) -> BTreeMap<PathBuf, String> {
    let root = host.layout.persistent();
    let mut all = BTreeMap::new();
    for directory in host.layout.data() {
        for (path, state) in picture(&directory) {
            all.insert(directory.strip_prefix(&root).unwrap().join(path), state);
        }
    }
    all
}

/// Returns the content of a checkout: names, bytes and executable bits, without `.git` and bytecode.
pub(crate) fn checkout(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    look(directory, directory, &[".git", "__pycache__"], &mut seen, &|path, found| {
        let executable = found.is_file() && found.permissions().mode() & 0o100 != 0;
        format!("{}{}", content(path, found), if executable { " executable" } else { "" })
    });
    seen
}

/// Returns the content of a fresh clone of a branch.
pub(crate) fn clone_of(host: &Host, branch: &str) -> BTreeMap<PathBuf, String> {
    let place = tempfile::tempdir().unwrap();
    git(place.path(), ["clone", "--quiet", "--branch", branch, &host.url(), "clone"]);
    checkout(&place.path().join("clone"))
}

/// Asserts that `app/` is exactly the branch: the same files as a fresh clone, on the branch, with a clean status.
#[track_caller]
pub(crate) fn aligned(host: &Host, branch: &str) {
    let app = host.layout.app();
    assert_eq!(checkout(&app), clone_of(host, branch));
    assert_eq!(git(&app, ["symbolic-ref", "--short", "HEAD"]), branch);
    let status = git(&app, ["status", "--porcelain", "--ignored"]);
    let wrong: Vec<&str> = status.lines().filter(|line| !line.ends_with("__pycache__/")).collect();
    assert!(wrong.is_empty(), "{status}");
    assert_eq!(host.head(), git(&host.work(), ["rev-parse", &format!("origin/{branch}")]));
}

fn look(
    root: &Path,
    directory: &Path,
    except: &[&str],
    seen: &mut BTreeMap<PathBuf, String>,
    describe: &dyn Fn(&Path, &fs::Metadata) -> String,
) {
    let Ok(found) = directory.symlink_metadata() else { return };
    seen.insert(directory.strip_prefix(root).unwrap().to_path_buf(), describe(directory, &found));
    if !found.is_dir() {
        return;
    }
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if !except.iter().any(|name| entry.file_name() == *name) {
            look(root, &entry.path(), except, seen, describe);
        }
    }
}

fn content(path: &Path, found: &fs::Metadata) -> String {
    if found.is_symlink() {
        format!("link to {}", fs::read_link(path).unwrap().display())
    } else if found.is_dir() {
        "directory".to_owned()
    } else if found.is_file() && found.size() < 1 << 20 {
        format!("file {:?}", String::from_utf8_lossy(&fs::read(path).unwrap()))
    } else if found.is_file() {
        format!("file of {} bytes", found.size())
    } else {
        "neither file nor directory".to_owned()
    }
}

/// A program for hooks. It appends a description of its surroundings to the file `$SEEN`, as a line of JSON.
pub(crate) const SIGHTING_HOOK: &str = r#"
import json, os, socket, sys
def listens():
    try:
        socket.create_connection(("127.0.0.1", int(os.environ["LADYLINUX_PORT"])), 2).close()
        return True
    except OSError:
        return False
def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
worker = os.environ.get("WORKER")
worker = open(worker).read() if worker and os.path.exists(worker) else None
sighting = {
    "name": sys.argv[1], "directory": os.getcwd(), "environment": dict(os.environ), "prefix": sys.prefix,
    "fence": os.path.exists(os.environ["FENCE"]), "listens": listens(),
    "worker": worker, "worker_alive": bool(worker) and alive(worker),
    "version": open("version.txt").read().strip(),
    "owner": os.getuid(),
}
with open(os.environ["SEEN"], "a") as seen:
    seen.write(json.dumps(sighting) + "\n")
"#;

/// A hook of the application's file.
pub(crate) fn hook(name: &str, kind: &str, command: &[&str], more: &str) -> String {
    format!("[[hook]]\nname = \"{name}\"\nkind = \"{kind}\"\ncommand = {command:?}\n{more}\n")
}

/// The output of [`SIGHTING_HOOK`]: a hook may write there in staging and in step 4, even if the kernel prevents other
/// writes.
pub(crate) fn seen_file(host: &Host) -> PathBuf {
    let world = host.beside("seen");
    let name = world.parent().and_then(Path::file_name).unwrap().to_string_lossy().into_owned();
    Path::new("/dev/shm").join(format!("{name}-seen"))
}

/// Gives hooks and service the variables that [`SIGHTING_HOOK`] needs.
pub(crate) fn look_out(host: &Host) {
    let env = format!(
        "LADYLINUX_PORT={}\nSECRET=kept\nSEEN={}\nFENCE={}\nWORKER={}\n",
        host.port,
        seen_file(host).display(),
        host.layout.fence().display(),
        host.beside("worker").display()
    );
    fs::write(host.layout.env_file(), env).unwrap();
}

/// Returns the sightings that [`SIGHTING_HOOK`] has written since the last call.
pub(crate) fn seen(host: &Host) -> Vec<Value> {
    let text = fs::read_to_string(seen_file(host)).unwrap_or_default();
    let _ = fs::remove_file(seen_file(host));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Puts other lines into the table `[probe]` of the host's file.
pub(crate) fn probe(host: &Host, lines: &str) {
    let text = host.settings("");
    let (before, _) = text.split_once("[probe]").unwrap();
    fs::write(host.layout.host_file(), format!("{before}[probe]\n{lines}\n")).unwrap();
}

/// Returns whether any process accepts connections on the service's port.
pub(crate) fn listens(host: &Host) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", host.port)).is_ok()
}

/// Asserts the state after a halt: nothing runs, the fence stands, an ordinary start is refused.
#[track_caller]
pub(crate) fn down_and_fenced(host: &Host) {
    assert!(host.fenced(), "no fence");
    assert!(!listens(host), "something listens");
    host.tool(["service", "start"]).expect(3).prints("fenced");
    host.tool(["service", "status"]).expect(5).prints("stopped");
    assert!(!listens(host), "the refused start started something");
}
