//! What bad input gets: an exit code, an error that names where, why, what state the service is in and what to type
//! next, and an installation in which nothing has been touched.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests lay out what the program finds")]

use crate::git as remotes;

use crate::host;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use host::{Host, Ran, git, ran};
use remotes::{Web, serve_web};

/// What a refused refresh leaves as it found it.
#[derive(Debug, PartialEq, Eq)]
struct State {
    /// Every entry of `app/`, `.git` included: mode, time of the last change, content.
    app: BTreeMap<PathBuf, (u32, i64, Vec<u8>)>,
    venv: Option<PathBuf>,
    /// The service's main process: its pid and when it started.
    service: Option<(i64, String)>,
    fenced: bool,
    /// What `status.json` says.
    status: Option<Vec<u8>>,
}

impl State {
    fn of(host: &Host) -> Self {
        let mut app = BTreeMap::new();
        inventory(&host.layout.app(), &mut app);
        Self {
            app,
            venv: fs::read_link(host.layout.venv()).ok(),
            service: service(host),
            fenced: host.fenced(),
            status: fs::read(host.layout.status_file()).ok(),
        }
    }
}

fn inventory(path: &Path, into: &mut BTreeMap<PathBuf, (u32, i64, Vec<u8>)>) {
    let Ok(found) = fs::symlink_metadata(path) else { return };
    let content = if found.is_file() { fs::read(path).unwrap() } else { Vec::new() };
    into.insert(path.to_owned(), (found.mode(), found.mtime_nsec() + found.mtime(), content));
    if found.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            inventory(&entry.unwrap().path(), into);
        }
    }
}

/// The service as the last report tells it, where that process still runs.
fn service(host: &Host) -> Option<(i64, String)> {
    let status: serde_json::Value =
        serde_json::from_slice(&fs::read(host.layout.status_file()).ok()?).unwrap();
    let pid = status["last_run"]["service"]["pid"].as_i64()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
    Some((pid, started))
}

/// A command that must be refused: the code, the parts of the error, and nothing touched. Staging keeps a report of
/// its own, so `status.json` may tell of a run that was refused there.
#[track_caller]
fn refused(host: &Host, arguments: &[&str], code: i32, says: &[&str]) -> Ran {
    refused_by(host, host.command(arguments), code, says)
}

#[track_caller]
fn refused_by(host: &Host, mut command: Command, code: i32, says: &[&str]) -> Ran {
    let before = State::of(host);
    assert!(before.service.is_some(), "the service has to run, or the test shows nothing");
    let said = ran(command.output().unwrap()).expect(code);
    let after = State::of(host);
    assert_eq!(before.app, after.app, "app/ was touched\n{}", said.all());
    assert_eq!(before.venv, after.venv);
    assert_eq!(before.service, after.service, "the service is another one\n{}", said.all());
    assert!(!after.fenced, "fenced\n{}", said.all());
    assert_eq!(host.version().as_deref(), Some("one"), "the old version does not answer");
    said.tells(host, says)
}

trait Tells {
    fn tells(self, host: &Host, says: &[&str]) -> Self;
}

impl Tells for Ran {
    /// Insists on the parts of an error: what is said, the state of the service, the command to type next.
    #[track_caller]
    fn tells(self, host: &Host, says: &[&str]) -> Self {
        let all = self.all();
        for text in says {
            assert!(all.contains(text), "{text:?} is missing in\n{all}");
        }
        assert!(all.contains("\n  service    "), "the state of the service is missing in\n{all}");
        let next = all.lines().find_map(|line| line.strip_prefix("  next       ")).unwrap_or_default();
        assert!(
            next.starts_with(&typed(host)) || next == "ladylinux-refresh --help",
            "next: {next:?} in\n{all}"
        );
        self
    }
}

/// The program as it has to be typed for the host.
fn typed(host: &Host) -> String {
    format!("ladylinux-refresh --root {}", host.layout.root().display())
}

/// The settings of the host with one text in them replaced by another.
fn reconfigure(host: &Host, old: &str, new: &str) {
    let settings = host.settings("");
    assert!(settings.contains(old), "{old:?} is not in\n{settings}");
    fs::write(host.layout.host_file(), settings.replace(old, new)).unwrap();
}

/// A command inside a mount namespace of its own, after `script` has arranged the mounts there.
fn in_namespace(host: &Host, script: &str, arguments: &[&str]) -> Command {
    let inner = host.command(arguments);
    let mut command = Command::new("unshare");
    command.args(if is_root() { &["--mount"][..] } else { &["--mount", "--map-root-user"] });
    command.args(["sh", "-euc", &format!("{script}\nexec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).env_clear().stdin(Stdio::null());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn what_is_typed_wrong_is_told_before_anything_happens() {
    let host = Host::running();
    let state = |host: &Host| (State::of(host), host.runs());
    let before = state(&host);
    for (arguments, says) in [
        (&["run", "--no-such-option"][..], "unexpected argument '--no-such-option'"),
        (&["run", "--dry-rum"], "'--dry-run'"),
        (&["run", "--no-service"], "unexpected argument '--no-service'"),
        (&["run", "-x"], "unexpected argument '-x'"),
        (&["run", "main", "other"], "unexpected argument 'other'"),
        (&["run", "--if-changed", "--dry-run"], "cannot be used with"),
        (&["run", "--wait", "soon"], "invalid value 'soon'"),
        (&["run", "--format", "xml"], "possible values: human, json, github"),
        (&["rum"], "unrecognized subcommand 'rum'"),
        (&["run", "--json", "--format", "human"], "cannot be used with"),
        (&["run", "main", "--branch", "main"], "cannot be used with"),
        (&["status", "--format", "json"], "unexpected argument '--format'"),
        (&["run", "--dry-run", "--exit-code"], "unexpected argument '--exit-code'"),
        (&["bundle", "create"], "--output <FILE>"),
        (&[], "requires a subcommand"),
        (&["run", "--", "-x"], "it starts with a dash"),
        (&["run", "../.."], "\"../..\" cannot be the name of a branch: it contains '..'"),
        (&["run", ""], "it is empty"),
        (&["run", "a\u{7}b"], "it contains '\\u{7}'"),
        (&["run", "a\nb"], "it contains '\\n'"),
        (&["run", "a b"], "it contains ' '"),
        (&["run", "HEAD"], "git gives it another meaning"),
        (&["run", "x.lock"], "'.lock'"),
        (&["run", "--dry-run", "--", "-x"], "it starts with a dash"),
        (&["plan", "../.."], "it contains '..'"),
        (&["rollback", "../../etc"], "../../etc"),
        (&["history", "-n", "x"], "invalid value 'x' for '--limit <N>': it is no whole number\n"),
        (&["init", "--allow", "foo"], "\"foo\" is not a transport that can be allowed: http, git, file\n"),
        (&["init", "--port", "0"], "invalid value '0' for '--port <PORT>'"),
        (&["init", "--port", "65536"], "65536 is not in 1..=65535"),
        (&["init", "--branch=-x", "--repo", "https://localhost/x"], "it starts with a dash"),
        (&["init", "--repo", "https://u:p@localhost/x"], "remote"),
        (
            &["init", "--repo", "file:///x"],
            &format!("allow it: {} init --repo file:///x --allow file", typed(&host)),
        ),
    ] {
        let said = host.tool(arguments).expect(2);
        assert!(said.err.contains(says), "{arguments:?}: {says:?} is missing in\n{}", said.err);
        let next = said.err.lines().last().unwrap_or_default();
        assert!(next.starts_with("  next       ladylinux-refresh "), "{arguments:?}\n{}", said.err);
        assert!(said.err.contains("  service    not touched"), "{arguments:?}\n{}", said.err);
        for wrong in ["For more information", "supervise", "-- --json", "'--verify-models'"] {
            assert!(!said.err.contains(wrong), "{arguments:?}: {wrong:?} in\n{}", said.err);
        }
        assert!(!said.err.contains('\u{7}') && !said.err.contains("u:p@"), "{arguments:?}\n{}", said.err);
        assert!(said.out.is_empty(), "{arguments:?}\n{}", said.out);
    }
    // Help is help, whether it is asked for or not, and is about nothing that could have been touched.
    for (arguments, code) in [(&["stash"][..], 2), (&["service"], 2), (&["help"], 0), (&["help", "run"], 0)] {
        let said = host.tool(arguments).expect(code).says("Usage: ladylinux-refresh");
        assert!(!said.all().contains("not touched"), "{arguments:?}\n{}", said.all());
    }
    for arguments in [
        &["history", "r-1"][..],
        &["wait", "r-1"],
        &["cancel", "r-1"],
        &["bundle", "show", "/nonexistent"],
        &["init", "--branch", "nosuch"],
        &["verify", "--store", "/nonexistent"],
    ] {
        host.tool(arguments).expect(3).tells(&host, &[]);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_ladylinux-refresh"));
    let said = ran(command.args(["--root", "", "run"]).env_clear().output().unwrap()).expect(2);
    assert!(said.err.contains("--root"), "{}", said.err);
    assert_eq!(before, state(&host));
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn what_the_settings_of_the_host_say_wrong_is_told_with_its_place() {
    let host = Host::running();
    let file = host.layout.host_file();
    let name = file.display().to_string();
    let wrong = |text: &str, says: &str| {
        fs::write(&file, text).unwrap();
        for command in ["run", "plan"] {
            refused(&host, &[command], 2, &[&format!("{name}, line {says}")]);
        }
    };
    wrong("branch = \n", "1, column ");
    let next = format!("  next       {} doctor\n", typed(&host));
    refused(&host, &["plan"], 2, &[&next]);
    wrong(
        "branch = \"main\"\n[probe]\nsetle = \"3s\"\n",
        "3, column 1: unknown key `probe.setle`; did you mean `settle`?",
    );
    wrong("[prob]\n", "1, column 2: unknown key `prob`; did you mean `probe`?");
    wrong("keep = \"three\"\n", "1, column 8: \"three\" stands where a whole number belongs");
    wrong("keep = -1\n", "1, column 8: -1 stands where a whole number belongs");
    wrong("allowed_branches = \"main\"\n", "1, column 20: \"main\" stands where a list in brackets belongs");
    wrong("strict_order = 1\n", "1, column 16: 1 stands where true or false belongs");
    wrong("remote = \"x\"\n", "1, column 10: \"x\" stands where a table belongs");
    wrong("[python]\ninstaller = \"uv\"\n", "2, column 1: `python.installer` is gone");
    wrong("[python]\nimport_check = \"x\"\n", "2, column 16: \"x\" is none of compile, import, off");
    wrong("branch = \"../..\"\n", "1, column 10: ");
    wrong("[probe]\nsettle = \"3\"\n", "2, column 10: \"3\" is not a duration");
    wrong("[[hook]]\nname = \"x\"\nkind = \"cheque\"\ncommand = [\"true\"]\n", "3, column 8: ");
    fs::write(&file, "branch = \"\u{e9}\"\n".bytes().filter(|byte| *byte != 0xa9).collect::<Vec<u8>>())
        .unwrap();
    refused(&host, &["run"], 2, &[&name, "is not UTF-8"]);
    fs::write(&file, host.settings("").replace("git://", "git://u:p@")).unwrap();
    let said = refused(&host, &["run"], 2, &["remote"]);
    assert!(!said.all().contains("u:p@"), "{}", said.all());
    fs::write(&file, host.settings("").replace("allow = [\"git\"]", "")).unwrap();
    refused(&host, &["run"], 2, &["git"]);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    refused(&host, &["run"], 2, &[&format!("cannot read {name}"), "no regular file"]);
    fs::remove_dir(&file).unwrap();
    fs::write(&file, "").unwrap();
    refused(&host, &["run"], 3, &["in preflight: no remote is set", "[remote]"]);
}

#[test]
fn a_host_that_must_confine_units_and_cannot_is_refused_and_else_the_report_names_what_is_missing() {
    let host = Host::running();
    let missing = "below --root units share the network, the processes and the limits of the caller";
    host.configure("", "[security]\nrequire = true\n");
    for command in ["run", "plan"] {
        let cause = "this host does not confine units as security.require asks for";
        let said = refused(&host, &[command], 3, &[cause, missing, "without --root"]);
        let accept =
            format!("set `require = false` under [security] in {}", host.layout.host_file().display());
        assert!(said.all().contains(&accept), "{}", said.all());
    }
    let said = host.tool(["doctor"]).says("[confinement]").says("confinement of units: not all of it");
    assert!(said.all().contains(missing), "{}", said.all());

    host.configure("", "[security]\nrequire = false\n");
    let said = host.tool(["run"]).expect(0);
    let lines: Vec<&str> = said.out.lines().filter(|line| line.contains("confinement")).collect();
    assert_eq!(lines.len(), 1, "{}", said.all());
    assert!(lines[0].starts_with(&format!("  confinement  not enforced: {missing}; ")), "{lines:?}");
    let report = host.report();
    assert_eq!(report["confinement"]["state"], "missing");
    assert_eq!(report["confinement"]["missing"][0], missing);
    let examined = host.tool(["doctor", "--json"]);
    let examined: serde_json::Value = serde_json::from_str(&examined.out).unwrap();
    assert_eq!(examined["confinement"], report["confinement"]);
    let findings = examined["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["check"] != "confinement"), "{findings:?}");
}

#[test]
fn a_remote_that_cannot_give_the_branch_leaves_the_old_version_in_service() {
    let host = Host::running();
    git(&host.work(), ["push", "--quiet", "origin", "HEAD:refs/heads/feature/login"]);
    let missing = ["no branch feature/logni", "did you mean feature/login"];
    // Less than what was typed would be another refresh.
    let file = host.beside("no file");
    let whole = format!("next       {} run --strict '--bundle={}'\n", typed(&host), file.display());
    refused(&host, &["run", "--bundle", file.to_str().unwrap(), "--strict"], 3, &[&whole]);
    let held = format!("  commit       {} on main\n", &host.head()[..10]);
    let says = ["in staging: the remote has ", missing[0], missing[1], &held];
    refused(&host, &["run", "feature/logni"], 3, &says);
    assert_eq!(host.report()["branch"], "main", "what app/ holds");
    refused(&host, &["run", "--if-changed", "feature/logni"], 3, &["in preflight: ", missing[0], missing[1]]);
    refused(&host, &["plan", "feature/logni"], 3, &["in plan: ", missing[0], missing[1]]);

    let url = host.url();
    reconfigure(&host, &url, "git://127.0.0.1:1/app.git");
    refused(
        &host,
        &["run"],
        3,
        &["in staging: the remote git://127.0.0.1:1/app.git cannot be reached", "refused"],
    );
    reconfigure(&host, "app.git", "other.git");
    refused(&host, &["run"], 3, &["in staging: there is no repository at git://"]);

    let silent = serve_web(Web::Silent);
    for scheme in ["git", "http"] {
        let new = format!("{scheme}://127.0.0.1:{silent}/app.git\"\nstall = \"1s");
        reconfigure(&host, &url, &new);
        let text = fs::read_to_string(host.layout.host_file()).unwrap();
        fs::write(host.layout.host_file(), text.replace("[\"git\"]", "[\"git\", \"http\"]")).unwrap();
        refused(&host, &["run"], 3, &["in staging: the remote", "stopped sending", "remote.stall"]);
    }
}

#[test]
fn wrong_credentials_are_told_as_such_and_right_ones_work() {
    let host = Host::running();
    // "x-access-token:s3cret"
    let credentials = "eC1hY2Nlc3MtdG9rZW46czNjcmV0";
    let port = serve_web(Web::Protected { base: host.beside("srv"), credentials });
    let token = host.beside("token");
    let new = format!("http://127.0.0.1:{port}/app.git\"\ntoken_file = \"{}", token.display());
    reconfigure(&host, &host.url(), &new);
    let text = fs::read_to_string(host.layout.host_file()).unwrap();
    fs::write(host.layout.host_file(), text.replace("[\"git\"]", "[\"http\"]")).unwrap();
    refused(&host, &["run"], 3, &["in staging", "the token file", "cannot be read"]);
    fs::write(&token, "wr0ng\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&host, &["run"], 3, &["others than its owner can read", "chmod 600"]);
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let said = refused(&host, &["run"], 3, &["refused the credentials", "remote.token_file"]);
    assert!(!said.all().contains("wr0ng"), "{}", said.all());
    fs::write(&token, "s3cret\n").unwrap();
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn what_a_commit_says_wrong_is_found_while_the_old_version_serves() {
    let host = Host::running();
    let hook = "[[hook]]\nname = \"x\"\nkind = \"check\"\nstage = true\n";
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n", "0".repeat(64));
    let cases: [(&str, &str, &[&str]); 11] = [
        ("refresh.toml", "definitions = \n", &["refresh.toml, line 1, column "]),
        (
            "refresh.toml",
            "[prob]\n",
            &["refresh.toml, line 1, column 2: unknown key `prob`; did you mean `probe`?"],
        ),
        (
            "refresh.toml",
            "\n[remote]\nurl = \"https://elsewhere/x\"\n",
            &["refresh.toml, line 2, column 2: the application may not set `remote`"],
        ),
        (
            "refresh.toml",
            "[probe]\nstatus = 200\n",
            &["line 2, column 1: the application may not set `probe.status`"],
        ),
        ("refresh.toml", "definitions = [\"../x\"]\n", &["leaves the work tree"]),
        ("refresh.toml", &format!("{hook}command = []\n"), &["has no command"]),
        (
            "refresh.toml",
            &format!("{hook}command = [\"sh\", \"-c\", \"echo so says the check; exit 9\"]\n"),
            &[
                "because    the check hook x failed",
                "exited with code 9",
                "so says the check",
                "the whole output is in",
            ],
        ),
        (
            "refresh.toml",
            &format!("{hook}command = [\"sleep\", \"600\"]\ndeadline = \"300ms\"\n"),
            &["the check hook x failed", "was ended after its deadline of 300ms"],
        ),
        ("requirements.txt", "six==1.16.0\nsix==1.15.0\n", &["six==1.1"]),
        ("requirements.txt", "-r missing.txt\n", &["missing.txt"]),
        ("weights.bin", &pointer, &["Git LFS", "weights.bin"]),
    ];
    let good = git(&host.work(), ["rev-parse", "HEAD"]);
    for (path, text, says) in cases {
        host.push(&[(path, text)]);
        let said = refused(&host, &["run"], 3, says);
        assert!(said.all().contains("error in staging: "), "{}", said.all());
        if said.all().contains("the check hook") {
            let coming = git(&host.work(), ["rev-parse", "HEAD"]);
            assert!(
                said.all().contains(&format!("{} on main did not pass", &coming[..10])),
                "{}",
                said.all()
            );
        }
        git(&host.work(), ["reset", "--quiet", "--hard", &good]);
    }
    // The report of a refusal tells the same to programs.
    let report = host.report();
    assert_eq!((report["result"].as_str(), report["exit_code"].as_i64()), (Some("refused"), Some(3)));
    assert_eq!(report["service"]["state"], "running");
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn rw_7_1b_a_hook_that_hangs_or_floods_is_ended_and_told() {
    let host = Host::running();
    let hook = |deadline: &str, command: &str| {
        let table = format!(
            "[[hook]]\nname = \"bad\"\nkind = \"migration\"\ndeadline = \"{deadline}\"\ncommand = [\"sh\", \"-c\", '''{command}''']\n"
        );
        host.configure("", &table);
    };
    // A hook writes only where the service writes.
    let left = host.layout.data()[0].join("left");
    for flood in [
        format!("echo $$ > {}; yes flooding", left.display()),
        format!("echo $$ > {}; while :; do head -c 9999999 /dev/zero; done", left.display()),
        format!("echo $$ > {}; sleep 600 & sleep 600", left.display()),
    ] {
        hook("500ms", &flood);
        let said = host.tool(["run"]).expect(1);
        let said = said.tells(
            &host,
            &[
                "error in step 4 (prepare): the migration hook bad failed",
                "was ended after its deadline of 500ms",
            ],
        );
        assert!(said.all().contains("service    stopped and fenced: nothing starts it"), "{}", said.all());
        assert!(host.fenced() && host.answer().is_none());
        let pid = fs::read_to_string(&left).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "the hook still runs");
        let log = host.runs().pop().unwrap().join("log");
        let kept = fs::metadata(&log).unwrap().len();
        assert!(kept < 32 << 20, "{kept} bytes were kept of a flood");
        assert!(said.all().len() < 32 << 20);
    }
    // A flood that ends in time is no failure.
    hook("60s", "yes flooding | head -c 20000000");
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("one"));
}

/// A process that is nothing of ours and listens on a port.
struct Stranger(Child);

impl Stranger {
    fn on(port: u16) -> Self {
        let script = "import socket, sys, time\ns = socket.socket()\n\
                      s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                      s.bind(('127.0.0.1', int(sys.argv[1])))\ns.listen()\nprint('ready', flush=True)\ntime.sleep(600)";
        let mut child = Command::new("python3")
            .args(["-c", script, &port.to_string(), "the-stranger"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stranger_on_the_port_is_named_and_left_alone() {
    let host = Host::running();
    host.tool(["service", "stop"]).expect(0);
    let mut stranger = Stranger::on(host.port);
    let pid = format!("process {}", stranger.0.id());
    let port = format!("port {} is held by", host.port);
    for arguments in [&["run"][..], &["plan"], &["run", "--no-stage"]] {
        let before = State::of(&host);
        host.tool(arguments).expect(3).tells(&host, &[&port, &pid, "python3", "the-stranger"]);
        assert_eq!(before, State::of(&host));
    }
    assert!(stranger.is_alive());
    drop(stranger);
    host.tool(["run"]).expect(0);
    // One who takes the port while the service is down halts the run, and is left alone as well.
    let hold = "import socket, sys, os, time\ns = socket.socket()\n\
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                s.bind((\"127.0.0.1\", int(sys.argv[1])))\ns.listen()\n\
                open(sys.argv[2], \"w\").write(\"ready\")\ntime.sleep(600)\n";
    assert!(!hold.contains('\''));
    let ready = host.beside("ready");
    let mut taker = Command::new("sh")
        .args(["-c", "read x < \"$1\"; exec python3 -c \"$2\" \"$3\" \"$4\"", "sh"])
        .arg(fifo(&host, "go"))
        .args([hold, &host.port.to_string()])
        .arg(&ready)
        .spawn()
        .unwrap();
    let table = format!(
        "[[hook]]\nname = \"let-in\"\nkind = \"index\"\ncommand = [\"sh\", \"-c\", \"echo > {}; until [ -s {} ]; do sleep 0.02; done\"]\n",
        host.layout.data()[1].join("go").display(),
        ready.display()
    );
    host.configure("", &table);
    let said = host.tool(["run"]).expect(1);
    let alive = taker.try_wait().unwrap().is_none();
    taker.kill().unwrap();
    taker.wait().unwrap();
    assert!(alive, "the stranger was ended");
    said.tells(&host, &["error in step 5 (restart)", &port, "python3", &format!("process {}", taker.id())]);
    assert!(host.fenced());
}

/// A named pipe that a hook may write to.
fn fifo(host: &Host, name: &str) -> PathBuf {
    let path = host.layout.data()[1].join(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn an_app_directory_without_a_repository_is_refused_until_a_refresh_has_deployed_there() {
    let host = Host::new();
    let app = host.layout.app();
    let away = host.beside("away");
    let break_off = || {
        fs::rename(app.join(".git"), &away).unwrap();
        fs::write(app.join("mine"), "mine").unwrap();
    };
    break_off();
    for command in ["run", "plan"] {
        host.tool([command]).expect(3).says("is no Git work tree");
    }
    let leads_away = || fs::write(app.join(".git"), format!("gitdir: {}\n", away.display())).unwrap();
    leads_away();
    host.tool(["run"]).expect(3).says("belongs to a Git repository somewhere else");
    assert_eq!(fs::read_to_string(app.join("mine")).unwrap(), "mine");
    fs::remove_file(app.join(".git")).unwrap();
    fs::rename(&away, app.join(".git")).unwrap();

    // The service user can remove it at any time, and keeps no refresh from happening with that.
    for elsewhere in [false, true] {
        host.tool(["run"]).expect(0);
        break_off();
        if elsewhere {
            leads_away();
        }
        host.tool(["plan"]).expect(0);
        host.tool(["run"]).expect(0);
        assert!(app.join(".git/HEAD").is_file() && !app.join("mine").exists());
        let kept = host.layout.stashes().join(host.report()["run"].as_str().unwrap());
        assert_eq!(fs::read_to_string(kept.join("mine")).unwrap(), "mine");
        fs::remove_dir_all(&away).unwrap();
    }
}

#[test]
fn a_tree_that_cannot_be_refreshed_is_refused() {
    let host = Host::running();
    git(&host.layout.home(), ["init", "--quiet"]);
    refused(&host, &["run"], 3, &["is a work tree itself, around models and environments"]);
    fs::remove_dir_all(host.layout.home().join(".git")).unwrap();

    reconfigure(&host, "[python]", "[python]\ninterpreter = \"python9.9\"");
    refused(&host, &["run"], 3, &["in preflight: ", "no Python interpreter \"python9.9\""]);
    host.configure("", "");

    fs::write(host.layout.env_file(), "LADYLINUX_PORT=many\n").unwrap();
    refused(&host, &["run"], 3, &["in preflight: ", "LADYLINUX_PORT", "many"]);
    fs::write(host.layout.env_file(), format!("LADYLINUX_PORT={}\n", host.port)).unwrap();

    // Several troubles are told together.
    fs::write(host.layout.host_file(), "[python]\ninterpreter = \"python9.9\"\n").unwrap();
    let both = ["2 things speak against a refresh", "no remote is set", "python9.9"];
    refused(&host, &["run"], 3, &both);
    refused(&host, &["plan"], 3, &both);
    host.configure("", "");
    host.tool(["run"]).expect(0);
}

#[test]
fn rw_6_1_a_protected_path_inside_the_work_tree_is_refused_by_whatever_route() {
    let host = Host::running();
    let (app, home) = (host.layout.app(), host.layout.home());
    fs::create_dir(app.join("store")).unwrap();
    fs::write(app.join("store/weights"), "w").unwrap();
    let inside = ["in preflight: ", "lies inside the work tree", "would remove it"];

    let models = host.layout.models();
    fs::remove_dir(&models).unwrap();
    for target in
        [app.join("store"), PathBuf::from("app/store"), PathBuf::from("../../opt/ladylinux/app/../app/store")]
    {
        symlink(&target, &models).unwrap();
        refused(&host, &["run"], 3, &inside);
        refused(&host, &["run", "--no-stage"], 3, &inside);
        fs::remove_file(&models).unwrap();
    }
    fs::create_dir(&models).unwrap();

    let etc = host.beside("etc");
    fs::rename(host.layout.etc(), &etc).unwrap();
    fs::create_dir(app.join("etc")).unwrap();
    for file in ["refresh.toml", "ladylinux.env"] {
        fs::copy(etc.join(file), app.join("etc").join(file)).unwrap();
    }
    symlink(app.join("etc"), host.layout.etc()).unwrap();
    refused(&host, &["run"], 3, &inside);
    fs::remove_file(host.layout.etc()).unwrap();
    fs::rename(&etc, host.layout.etc()).unwrap();
    fs::remove_dir_all(app.join("etc")).unwrap();

    // The work tree is /opt/ladylinux itself.
    let real = home.join("app.real");
    let before = fs::read_dir(&home).unwrap().count();
    fs::rename(&app, &real).unwrap();
    symlink(".", &app).unwrap();
    host.tool(["run"]).expect(3).tells(&host, &["lies inside the work tree", "models"]);
    fs::remove_file(&app).unwrap();
    symlink("app.real", &app).unwrap();
    host.tool(["run"]).expect(3).tells(&host, &["not a symbolic link"]);
    fs::remove_file(&app).unwrap();
    fs::rename(&real, &app).unwrap();
    assert_eq!(fs::read_dir(&home).unwrap().count(), before);
    assert!(!host.fenced());

    // Mounts show no other trace than the kernel's table.
    let (app, store, models) = (app.display(), app.join("store").display().to_string(), models.display());
    for (script, says) in [
        (format!("mount --bind {store} {models}"), "is mounted from inside the work tree"),
        (format!("mount --bind {app} {models}"), "is mounted from inside the work tree"),
        (format!("mount --bind {models} {store}"), "there is a mount inside the work tree"),
        (format!("mount -t tmpfs none {store}"), "there is a mount inside the work tree"),
    ] {
        for arguments in [&["run"][..], &["run", "--no-stage"]] {
            refused_by(&host, in_namespace(&host, &script, arguments), 3, &["in preflight: ", says]);
        }
    }
    assert_eq!(fs::read_to_string(host.layout.app().join("store/weights")).unwrap(), "w");
}

#[test]
fn too_little_room_is_told_before_anything_is_stopped() {
    let host = Host::running();
    let (state, place) = (host.layout.state().display().to_string(), host.beside("small"));
    fs::create_dir(&place).unwrap();
    let small = |options: &str| {
        format!(
            "mount -t tmpfs -o {options} none {0}\ncp -a {state}/. {0}/\nmount --bind {0} {state}",
            place.display()
        )
    };
    let said = [format!("{state} has only "), "MiB free; 256 are needed".to_owned()];
    refused_by(&host, in_namespace(&host, &small("size=200m"), &["run"]), 3, &[&said[0], &said[1], "df -h"]);
    let options = "size=2g,nr_inodes=8000";
    refused_by(&host, in_namespace(&host, &small(options), &["run"]), 3, &[&said[0], "inodes free", "df -i"]);
}

#[test]
fn what_cannot_be_moved_out_of_the_tree_is_named_with_its_repair() {
    if !is_root() {
        // Only root can make what nobody can move.
        return;
    }
    let host = Host::running();
    let app = host.layout.app();
    fs::create_dir_all(app.join("deep/er")).unwrap();
    fs::write(app.join("deep/er/stays"), "x").unwrap();
    fs::write(app.join("stays"), "x").unwrap();
    for (path, set, clear, says) in [
        (app.clone(), "+i", "-i", "it is marked immutable"),
        (app.join("stays"), "+i", "-i", "it is marked immutable"),
        (app.join("deep/er/stays"), "+i", "-i", "it is marked immutable"),
        (app.join("deep/er"), "+a", "-a", "it is marked append-only"),
    ] {
        let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(&path).status().unwrap().success();
        if chattr(set) {
            let cure = format!("chattr {clear} {}", path.display());
            refused(&host, &["run"], 3, &["in preflight: ", says, &cure]);
            refused(&host, &["plan"], 3, &[says, &cure]);
            assert!(chattr(clear));
        }
    }
    host.tool(["run"]).expect(0);
}

/// A user that owns nothing else.
const USER: u32 = 61_876;

#[test]
fn without_roots_rights_a_directory_of_another_user_is_refused_before_the_stop() {
    if !is_root() {
        // Only root can make a directory of another user.
        return;
    }
    let host = Host::new();
    let roots = host.layout.app().join("deep/roots");
    fs::create_dir(host.layout.app().join("deep")).unwrap();
    let owned = Command::new("chown").args(["-R", &USER.to_string()]).arg(host.layout.root()).status();
    assert!(owned.unwrap().success());
    fs::create_dir(&roots).unwrap();
    for command in ["plan", "run"] {
        let mut command = host.command([command]);
        std::os::unix::process::CommandExt::uid(&mut command, USER);
        let said = ran(command.output().unwrap());
        said.expect(3).says("deep/roots cannot be moved").says("sudo chown -hR 61876");
    }
    assert!(roots.exists() && !host.fenced());
}

#[test]
fn whoever_may_not_refresh_is_told_who_may() {
    let host = Host::running();
    if !is_root() {
        // Somebody else's installation, as far as rights go.
        fs::set_permissions(host.layout.state(), fs::Permissions::from_mode(0o555)).unwrap();
        refused(&host, &["run"], 3, &["run it as root"]);
        fs::set_permissions(host.layout.state(), fs::Permissions::from_mode(0o755)).unwrap();
        return;
    }
    refused_by(&host, as_stranger(&host, &["run"]), 3, &["run it as root"]);
}

/// A command of somebody whom nothing of the host belongs to. Only root can be somebody else; for others it is their own,
/// and rights have to be taken away.
fn as_stranger(host: &Host, arguments: &[&str]) -> Command {
    if !is_root() {
        return host.command(arguments);
    }
    let program = host.beside("program");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_ladylinux-refresh"), &program).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1234", "--regid=1234", "--clear-groups"]).arg(&program).arg("--root");
    command.arg(host.layout.root()).args(arguments).env_clear().env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null());
    command
}

#[test]
fn whoever_may_not_look_is_told_so_and_not_that_nothing_is_there() {
    let host = Host::running();
    let run = host.report()["run"].as_str().unwrap().to_owned();
    fs::set_permissions(
        host.layout.root(),
        fs::Permissions::from_mode(if is_root() { 0o700 } else { 0o000 }),
    )
    .unwrap();
    let said = |arguments: &[&str]| ran(as_stranger(&host, arguments).output().unwrap());
    for arguments in [
        &["run"][..],
        &["run", "--detach"],
        &["plan"],
        &["status"],
        &["environments", "list"],
        &["service", "stop"],
        &["unfence"],
        &["history", &run],
        &["wait", &run],
        &["cancel", &run],
    ] {
        let said = said(arguments).expect(3).says("cannot look at ").says("Permission denied");
        for wrong in ["no installation", "no run", "refresh init"] {
            assert!(!said.all().contains(wrong), "{arguments:?}: {wrong:?} in\n{}", said.all());
        }
    }
    let doctor = said(&["doctor"]).says("not looked at: folders");
    assert!(!doctor.all().contains("installation here"), "{}", doctor.all());
    fs::set_permissions(host.layout.root(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn where_there_is_no_installation_nothing_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for arguments in [
        &["run"][..],
        &["plan"],
        &["status"],
        &["rollback"],
        &["unfence"],
        &["stash", "list"],
        &["service", "start"],
        &["history"],
        &["verify"],
        &["verify", "--environment"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_ladylinux-refresh"))
            .arg("--root")
            .arg(&root)
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        let said = ran(output).expect(3).says("there is no installation here");
        let next = format!("ladylinux-refresh --root {} init --repo URL", root.display());
        assert!(
            said.err.contains(&next) && said.err.contains("  service    "),
            "{arguments:?}\n{}",
            said.err
        );
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "{arguments:?} made something");
    }
}

/// A user that nothing of the host belongs to.
const OTHER: u32 = 999;

#[test]
fn rw_7_1a_a_state_directory_with_entries_of_others_is_refused_by_root_until_the_command_was_typed() {
    if !is_root() {
        // Only root can give files away.
        return;
    }
    let host = Host::running();
    let entries = [
        "lock",
        "status.json",
        "deployed.env",
        "mirror.git",
        "mirror.git/config",
        "git/.gitconfig",
        "environments",
        "locks",
        "runs",
    ];
    let init = ["init", "--repo", &host.url(), "--allow", "http"];
    for entry in entries {
        let outer = if entry.starts_with("mirror.git") { host.layout.store() } else { host.layout.state() };
        let path = outer.join(entry);
        let before = fs::metadata(&path).unwrap();
        std::os::unix::fs::lchown(&path, Some(OTHER), None).unwrap();
        let words = format!("{} belongs to uid {OTHER}", path.display());
        for arguments in [&["run"][..], &["status"], &init] {
            let ran = host.tool(arguments).expect(3);
            assert!(ran.all().contains(&words), "{entry}: {arguments:?}: {}", ran.all());
        }
        let examined = host.tool(["doctor", "--json"]).expect(5);
        let examined: serde_json::Value = serde_json::from_str(&examined.out).unwrap();
        let is_ours = |finding: &&serde_json::Value| finding["what"] == words.as_str();
        let finding = examined["findings"].as_array().unwrap().iter().find(is_ours);
        let repair = finding.unwrap_or_else(|| panic!("{entry}: {examined:#}"))["repair"].as_str().unwrap();
        assert!(Command::new("sh").args(["-c", repair]).status().unwrap().success(), "{repair}");
        host.tool(["status"]).expect(0);
        let after = fs::metadata(&path).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode;
        assert_eq!(mode(&after), mode(&before), "{entry}");
    }
    host.tool(["run"]).expect(0);
}
