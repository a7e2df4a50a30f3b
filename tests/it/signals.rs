//! Signals, streams that are closed or never end, and the lock: a run goes on or halts properly, and there is one at a
//! time.
//!
//! A run is held at a known point by a named pipe that something in it reads (a hook, the service, the interpreter) or
//! by a server that answers nothing; that the pipe has a reader, or the server a caller, is how a test knows that the
//! point is reached.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests lay out what the program finds")]

use crate::git as remotes;

use crate::host;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use host::{Host, Ran, SERVER, ran};
use remotes::{Web, serve_web};
use rustix::process::{Pid, Signal, kill_process};

/// How long a point may take to be reached before the test is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A named pipe that holds whatever reads from it.
struct Hold(PathBuf);

impl Hold {
    fn new(host: &Host) -> Self {
        let path = host.beside("hold");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        Self(path)
    }

    /// What a shell does to be held, as long as the pipe is there.
    fn script(&self) -> String {
        format!("if [ -p {0} ]; then read x < {0} || :; fi", self.0.display())
    }

    fn hook(&self, kind: &str) -> String {
        let stage = if kind == "check" { "stage = true\n" } else { "" };
        let script = self.script();
        format!(
            "[[hook]]\nname = \"hold\"\nkind = \"{kind}\"\n{stage}command = [\"sh\", \"-c\", '''{script}''']\n"
        )
    }

    /// Waits until `run` is held; it goes on when what this returns is dropped.
    fn reached(&self, run: &mut Child) -> File {
        let open = || {
            let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
            OpenOptions::new().write(true).custom_flags(flags).open(&self.0).ok()
        };
        until(run, open)
    }

    /// Nothing is held from now on.
    fn lift(&self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// Waits for something that has to come true while `run` is in progress.
#[track_caller]
fn until<T>(run: &mut Child, mut reached: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = reached() {
            return value;
        }
        if let Some(status) = run.try_wait().unwrap() {
            let mut said = String::new();
            run.stdout.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the run ended before it was held: {status}\n{said}");
        }
        assert!(Instant::now() < limit, "the run does not come to the point");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts a run whose events the test reads.
fn start(host: &Host, arguments: &[&str]) -> Child {
    let mut command = host.command([arguments, &["--format", "json"]].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(run: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap(), signal).unwrap();
}

fn end(run: Child) -> Ran {
    ran(run.wait_with_output().unwrap())
}

/// The report that ends the stream of a run.
fn last_report(said: &Ran) -> serde_json::Value {
    let last: serde_json::Value = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "run_finished", "{}", said.all());
    last["report"].clone()
}

/// A run that a signal ended after the stop: halted at `phase`, stopped, fenced, told.
#[track_caller]
fn halted(host: &Host, said: Ran, code: i32, phase: &str) {
    let said = said.expect(code);
    let report = last_report(&said);
    let name = if code == 130 { "SIGINT" } else { "SIGTERM" };
    assert_eq!((&report["result"], &report["exit_code"]), (&"halted".into(), &code.into()), "{report:#}");
    assert_eq!(report["error"]["phase"], phase, "{report:#}");
    assert!(report["error"]["chain"].to_string().contains(&format!("interrupted by {name}")), "{report:#}");
    assert_eq!(
        (&report["service"]["state"], &report["service"]["fenced"]),
        (&"stopped".into(), &true.into())
    );
    // What the service wrote is told to who follows, and not written where everybody may read it.
    let (written, mut open) = (host.report(), report.clone());
    assert!(written["error"]["chain"].to_string().contains(&format!("interrupted by {name}")), "{written:#}");
    open["error"]["chain"] = written["error"]["chain"].clone();
    assert_eq!(written, open, "the report is written");
    assert!(host.fenced());
    assert!(host.answer().is_none(), "the service answers");
    // Whoever asks is told the same.
    let next = report["error"]["next"].as_str().unwrap();
    host.tool(["status"]).says(&format!("\nnext         {next}\n"));
    host.tool(["doctor"]).says(&format!("\n  try      {next}\n"));
    let refused = host.tool(["service", "start"]).expect(3);
    assert!(refused.all().contains("fenced"), "{}", refused.all());
    assert_eq!(left_over(host), Vec::<String>::new());
}

/// Connects a caller with the server of a `git://` URL until both have said everything.
fn pass_on(caller: TcpStream, url: &str) {
    let address = url.trim_start_matches("git://").split('/').next().unwrap();
    let server = TcpStream::connect(address).unwrap();
    caller.set_nonblocking(false).unwrap();
    let (mut from_caller, mut to_server) = (caller.try_clone().unwrap(), server.try_clone().unwrap());
    let (mut from_server, mut to_caller) = (server, caller);
    std::thread::spawn(move || std::io::copy(&mut from_caller, &mut to_server));
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_caller);
        to_caller.shutdown(std::net::Shutdown::Both)
    });
}

/// Processes whose working directory is in the installation: nothing of a run or of the service may be left.
fn left_over(host: &Host) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(directory) = fs::read_link(entry.path().join("cwd")) else { continue };
        if directory.starts_with(host.layout.app()) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    found
}

fn reconfigure(host: &Host, old: &str, new: &str) {
    let settings = host.settings("");
    assert!(settings.contains(old), "{old:?} is not in\n{settings}");
    fs::write(host.layout.host_file(), settings.replace(old, new)).unwrap();
}

#[test]
fn an_interrupt_before_the_stop_leaves_the_service_alone() {
    let host = Host::running();
    let before = host.report()["service"]["pid"].clone();
    let untouched = |said: Ran, code: i32, phase: &str| {
        let report = last_report(&said.expect(code));
        assert_eq!((&report["result"], &report["error"]["phase"]), (&"refused".into(), &phase.into()));
        assert_eq!(report["exit_code"], code);
        assert_eq!((&report["service"]["state"], &report["service"]["pid"]), (&"running".into(), &before));
        assert_eq!(host.version().as_deref(), Some("one"));
        assert!(!host.fenced());
    };
    host.push(&[("version.txt", "two\n")]);
    let pipe = Hold::new(&host);
    let interpreter = host.beside("python");
    fs::write(&interpreter, format!("#!/bin/sh\n{}\nexec python3 \"$@\"\n", pipe.script())).unwrap();
    fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o755)).unwrap();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let named = format!("[python]\ninterpreter = \"{}\"", interpreter.display());
        reconfigure(&host, "[python]", &named);
        let mut run = start(&host, &["run"]);
        let held = pipe.reached(&mut run);
        send(&run, signal);
        untouched(end(run), code, "preflight");
        drop(held);

        host.configure("", &pipe.hook("check"));
        let mut run = start(&host, &["run"]);
        let held = pipe.reached(&mut run);
        send(&run, signal);
        send(&run, Signal::TERM);
        let said = end(run);
        let code = if said.code == Some(143) { 143 } else { code };
        untouched(said, code, "staging");
        drop(held);
    }
    pipe.lift();
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn rw_7_1a_an_interrupt_after_the_stop_halts_properly_in_every_step() {
    let host = Host::running();
    let pipe = Hold::new(&host);
    let blocking = SERVER.replace(
        "class Server(",
        "import signal\ndef end(*_):\n    open(os.environ['HOLD']).read()\n    os._exit(0)\n\
         if 'HOLD' in os.environ:\n    signal.signal(signal.SIGTERM, end)\nclass Server(",
    );
    let slow = SERVER.replace(
        "        body =",
        "        if os.path.exists(os.environ.get('HOLD', '/nonexistent')):\n            \
         open(os.environ['HOLD']).read()\n        body =",
    );
    assert!(blocking != SERVER && slow != SERVER);
    let env = |more: &str| {
        fs::write(host.layout.env_file(), format!("LADYLINUX_PORT={}\n{more}", host.port)).unwrap();
    };
    let hold_variable = format!("HOLD={}\n", pipe.0.display());

    // Step 1: the service takes its time to end. The stop is finished, then the run halts.
    host.push(&[("server.py", &blocking)]);
    env(&hold_variable);
    host.tool(["run"]).expect(0);
    let mut run = start(&host, &["run"]);
    let held = pipe.reached(&mut run);
    send(&run, Signal::TERM);
    drop(held);
    halted(&host, end(run), 143, "stop");
    env("");
    host.push(&[("server.py", SERVER)]);
    host.tool(["run"]).expect(0);

    // Steps 2 and 3: the remote (once it has told preflight its branches), then the package index, take the call and
    // say nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let port = silent.local_addr().unwrap().port();
    reconfigure(&host, &host.url(), &format!("git://127.0.0.1:{port}/app.git"));
    let mut run = start(&host, &["run", "--no-stage"]);
    let (asking, _) = until(&mut run, || silent.accept().ok());
    pass_on(asking, &host.url());
    let caller = until(&mut run, || silent.accept().ok());
    send(&run, Signal::INT);
    halted(&host, end(run), 130, "sync");
    drop(caller);

    host.push(&[("requirements.txt", "six==1.15.0\n")]);
    reconfigure(&host, "[python]", &format!("[python]\nindex_url = \"http://127.0.0.1:{port}/simple\""));
    let mut run = start(&host, &["run", "--no-stage"]);
    let caller = until(&mut run, || silent.accept().ok());
    send(&run, Signal::TERM);
    halted(&host, end(run), 143, "environment");
    drop(caller);
    host.push(&[("requirements.txt", "six==1.16.0\n")]);

    // Step 4: a hook that goes on and on; the second signal changes nothing.
    host.configure("", &pipe.hook("migration"));
    let mut run = start(&host, &["run"]);
    let held = pipe.reached(&mut run);
    send(&run, Signal::INT);
    send(&run, Signal::INT);
    halted(&host, end(run), 130, "prepare");
    drop(held);

    // Step 5: the service runs and has not answered yet.
    host.configure("", "");
    host.push(&[("server.py", &slow)]);
    env(&hold_variable);
    let mut run = start(&host, &["run"]);
    let held = pipe.reached(&mut run);
    send(&run, Signal::TERM);
    halted(&host, end(run), 143, "restart");
    drop(held);

    pipe.lift();
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("one"));
    assert!(!host.fenced());
}

#[test]
fn neither_a_hang_up_nor_a_closed_stream_changes_a_run() {
    let host = Host::running();
    let pipe = Hold::new(&host);
    host.configure("", &pipe.hook("migration"));
    let mut run = start(&host, &["run"]);
    let held = pipe.reached(&mut run);
    send(&run, Signal::HUP);
    send(&run, Signal::HUP);
    drop(held);
    assert_eq!(last_report(&end(run).expect(0))["result"], "refreshed");

    // The reader goes away in the middle.
    let mut run = start(&host, &["run"]);
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"phase_started\",\"phase\":\"prepare\"")));
    let held = pipe.reached(&mut run);
    drop((lines, run.stderr.take()));
    drop(held);
    assert_eq!(run.wait().unwrap().code(), Some(0));
    pipe.lift();

    // There never was one, in any format, on either stream; or the disk behind it is full.
    let noisy =
        "[[hook]]\nname = \"noisy\"\nkind = \"index\"\ncommand = [\"sh\", \"-c\", \"cat; seq 2000\"]\n";
    host.configure("", noisy);
    for (version, streams, format) in [
        ("a", ">&- 2>&- <&-", "human"),
        ("b", "> /dev/full 2> /dev/full", "json"),
        ("c", "| true", "github"),
        ("d", "2>&1 | true", "human"),
        ("e", "| true", "json"),
    ] {
        host.push(&[("version.txt", version)]);
        let code = host.beside("code");
        let script = format!("{{ \"$@\"; echo $? > {}; }} {streams}", code.display());
        let inner = host.command(["run", "--format", format]);
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert!(command.stdin(Stdio::null()).status().is_ok());
        assert_eq!(fs::read_to_string(&code).unwrap(), "0\n", "{streams} {format}");
        assert_eq!(host.version().as_deref(), Some(version), "{streams} {format}");
        assert_eq!(host.report()["result"], "refreshed");
    }
    // A refusal keeps its code as well.
    let mut command = host.command(["run", "nowhere"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    assert_eq!(command.status().unwrap().code(), Some(3));
}

#[test]
fn rw_8_1_nothing_is_asked_and_standard_input_is_never_read() {
    let host = Host::running();
    // A hook that reads gets nothing, and at once; what the caller's pipe holds stays there.
    host.configure("", "[[hook]]\nname = \"reads\"\nkind = \"index\"\ncommand = [\"cat\"]\n");
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, b"kept").unwrap();
    let mut command = host.command(["run"]);
    let said = ran(command.stdin(reader.try_clone().unwrap()).output().unwrap()).expect(0);
    assert!(said.out.contains("1 hook: reads"), "{}", said.out);
    drop((command, writer));
    let mut rest = String::new();
    (&reader).read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "kept");

    // A remote that wants credentials is refused: on a terminal, and without any.
    let credentials = "eC1hY2Nlc3MtdG9rZW46czNjcmV0";
    let port = serve_web(Web::Protected { base: host.beside("srv"), credentials });
    reconfigure(&host, &host.url(), &format!("http://127.0.0.1:{port}/app.git"));
    let text = fs::read_to_string(host.layout.host_file()).unwrap();
    fs::write(host.layout.host_file(), text.replace("[\"git\"]", "[\"http\"]")).unwrap();
    let inner = host.command(["run"]);
    let words = std::iter::once(inner.get_program()).chain(inner.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    let on_terminal = format!("script --quiet --return --command '{}' /dev/null", words.join(" "));
    for line in [on_terminal, format!("setsid --wait {}", words.join(" "))] {
        let mut command = Command::new("sh");
        command.args(["-c", &line]).env_clear().env("SHELL", "/bin/sh").env("TERM", "xterm");
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let said = ran(command.stdin(Stdio::null()).output().unwrap()).expect(3);
        assert!(said.all().contains("refused the credentials"), "{}", said.all());
    }
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn of_two_runs_at_the_same_instant_one_works_and_the_other_is_told_who() {
    let host = Host::running();
    let pipe = Hold::new(&host);
    host.configure("", &pipe.hook("migration"));
    let mut both = [start(&host, &["run"]), start(&host, &["run"])];
    let limit = Instant::now() + PATIENCE;
    let loser = loop {
        if let Some(index) = both.iter_mut().position(|run| run.try_wait().unwrap().is_some()) {
            break index;
        }
        assert!(Instant::now() < limit, "both runs go on");
        std::thread::sleep(Duration::from_millis(2));
    };
    let [first, second] = both;
    let (mut worker, loser) = if loser == 0 { (second, first) } else { (first, second) };
    let said = end(loser).expect(4);
    let typed = format!("ladylinux-refresh --root {} run --wait 5m", host.layout.root().display());
    for text in [&format!(" (pid {}) is in progress since 20", worker.id()), "left to that run", &typed] {
        assert!(said.err.contains(text), "{text:?} is missing in\n{}", said.err);
    }
    assert_eq!(said.out, "");

    // Whoever only looks is let in and told; whoever would change something is not.
    let held = pipe.reached(&mut worker);
    let status: serde_json::Value =
        serde_json::from_str(&host.tool(["status", "--json"]).expect(0).out).unwrap();
    assert!(status["running_now"].as_str().unwrap().ends_with(&format!("-{}", worker.id())), "{status:#}");
    for arguments in [
        &["plan"][..],
        &["rollback"],
        &["unfence"],
        &["init"],
        &["stash", "drop", "20250101T000000000Z-1"],
        &["run", "--lock-timeout", "1"],
    ] {
        let said = host.tool(arguments).expect(4);
        if matches!(arguments, ["run" | "rollback", ..]) && arguments[1..] != ["--lock-timeout", "1"] {
            let mut words = arguments.to_vec();
            words[1..].sort_unstable();
            let again = format!(" {} --wait 5m", words.join(" "));
            assert!(said.err.contains(&again), "{again:?} is missing in\n{}", said.err);
        }
        assert!(said.err.contains(&format!("(pid {}", worker.id())), "{arguments:?}\n{}", said.err);
        assert!(said.err.contains("  next       ladylinux-refresh --root "), "{arguments:?}\n{}", said.err);
    }
    // Less than what was typed would do something else.
    for arguments in [&["run", "--strict", "side"][..], &["rollback", "r-1"], &["unfence"]] {
        let again = format!(" {} --wait 5m\n", arguments.join(" "));
        let said = host.tool(arguments).expect(4);
        assert!(said.err.contains(&again), "{again:?} is missing in\n{}", said.err);
    }
    // One that waits gets its turn, and a signal ends the waiting.
    let mut patient = start(&host, &["run", "--lock-timeout", "600"]);
    let impatient = start(&host, &["run", "--lock-timeout", "600"]);
    let lock = host.layout.lock_file().canonicalize().unwrap();
    for run in [&patient, &impatient] {
        // Once the lock file is open its handlers for signals are long in place.
        let directory = PathBuf::from(format!("/proc/{}/fd", run.id()));
        until(&mut worker, || {
            let entries = fs::read_dir(&directory).ok()?.flatten();
            entries.filter_map(|entry| fs::read_link(entry.path()).ok()).find(|path| *path == lock)
        });
    }
    send(&impatient, Signal::TERM);
    end(impatient).expect(143);
    assert!(patient.try_wait().unwrap().is_none());
    drop(held);
    end(worker).expect(0);
    drop(pipe.reached(&mut patient));
    end(patient).expect(0);

    // A killed run holds nothing, and what it had started is ended by the next one.
    let mut killed = start(&host, &["run"]);
    let held = pipe.reached(&mut killed);
    send(&killed, Signal::KILL);
    assert_eq!(end(killed).code, None);
    pipe.lift();
    host.tool(["run"]).expect(0).says("was interrupted");
    drop(held);
    let staged = left_over(&host);
    assert!(staged.iter().all(|line| !line.contains("hold")), "{staged:?}");
    assert_eq!(host.version().as_deref(), Some("one"));
}

/// What runs below a program on a terminal: its command line and its controlling terminal (0: none).
type Seen = std::collections::BTreeSet<(String, i32)>;

/// Runs the program with a pseudo terminal as its controlling terminal, and collects every descendant that it has
/// meanwhile.
fn on_a_terminal(host: &Host, arguments: &[&str]) -> (Ran, Seen) {
    let inner = host.command(arguments);
    let words: Vec<&str> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| word.to_str().unwrap())
        .collect();
    let mut command = Command::new("script");
    // The program also gets a descriptor of the terminal that it never asked for.
    let line = format!("exec {} 7<>/dev/tty", words.join(" "));
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env_clear().env("SHELL", "/bin/sh").env("TERM", "xterm");
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut run = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = run.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let mut seen = Seen::new();
    while run.try_wait().unwrap().is_none() {
        collect_descendants(&words.join(" "), &mut seen);
        std::thread::sleep(Duration::from_micros(200));
    }
    let mut said = ran(run.wait_with_output().unwrap());
    said.out = reader.join().unwrap().unwrap();
    (said, seen)
}

/// Adds the descendants of the program with the command line `own`, which has to have a terminal itself.
fn collect_descendants(own: &str, seen: &mut Seen) {
    // The command line is read first: a child that still has that of the program has not started its own yet.
    let processes: std::collections::BTreeMap<i32, (String, i32, i32)> =
        ladylinux_refresh::process::identity::all_pids()
            .into_iter()
            .filter_map(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| !line.is_empty())?;
                let line = String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned();
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
                Some((pid, (line, fields.get(1)?.parse().ok()?, fields.get(4)?.parse().ok()?)))
            })
            .collect();
    for (line, parent, terminal) in processes.values().filter(|(line, ..)| line != own) {
        let mut above = Some(*parent);
        while let Some((line_above, parent_above, terminal_above)) = above.and_then(|pid| processes.get(&pid))
        {
            if line_above == own {
                assert_ne!(*terminal_above, 0, "the program has no terminal, so the test shows nothing");
                seen.insert((line.clone(), *terminal));
                break;
            }
            above = Some(*parent_above);
        }
    }
}

#[test]
fn no_child_has_the_terminal_that_the_program_was_started_on() {
    let host = Host::running();
    let script = "read line < /proc/self/stat; set -- $line; echo terminal number $7; \
                  ls -l /proc/self/fd; (: < /dev/tty) 2>&1 || :";
    let hook = format!(
        "[[hook]]\nname = \"looks\"\nkind = \"migration\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n"
    );
    host.push(&[("refresh.toml", &hook), ("version.txt", "two")]);
    for arguments in [&["status"][..], &["plan"], &["run", "--verbose"], &["service", "start"]] {
        // A child that lives for a moment only is not met every time.
        let met = (0..20).find_map(|_| {
            if arguments[0] == "service" {
                host.tool(["service", "stop"]).expect(0);
            }
            let (said, seen) = on_a_terminal(&host, arguments);
            let said = said.expect(0);
            (!seen.is_empty()).then_some((said, seen))
        });
        let Some((said, seen)) = met else { panic!("{arguments:?}: no child was seen") };
        let with_terminal: Vec<_> = seen.iter().filter(|(_, terminal)| *terminal != 0).collect();
        assert!(with_terminal.is_empty(), "{arguments:?}: {with_terminal:#?}");
        if arguments[0] == "run" {
            assert_eq!(host.version().as_deref(), Some("two"));
            assert!(said.out.contains("terminal number 0"), "{}", said.out);
            assert!(said.out.contains("/dev/tty: No such device or address"), "{}", said.out);
            assert!(said.out.contains("-> /dev/null"), "{}", said.out);
            for terminal in ["-> /dev/pts/", "-> /dev/tty"] {
                assert!(!said.out.contains(terminal), "{}", said.out);
            }
        }
    }
}
