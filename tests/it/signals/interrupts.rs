//! An interrupt leaves the service alone or halts the run properly.

use std::fs::{self};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;

use super::{Hold, end, last_report, left_over, reconfigure, send, start, until};
use crate::host::{Host, Ran, SERVER};
use rustix::process::Signal;

/// A run that a signal ended after the stop: halted at `phase`, stopped, fenced, reported.
#[track_caller]
fn halted(host: &Host, printed: Ran, code: i32, phase: &str) {
    let printed = printed.expect(code);
    let report = last_report(&printed);
    let name = if code == 130 { "SIGINT" } else { "SIGTERM" };
    assert_eq!((&report["result"], &report["exit_code"]), (&"halted".into(), &code.into()), "{report:#}");
    assert_eq!(report["error"]["phase"], phase, "{report:#}");
    assert!(report["error"]["chain"].to_string().contains(&format!("interrupted by {name}")), "{report:#}");
    assert_eq!(
        (&report["service"]["state"], &report["service"]["fenced"]),
        (&"stopped".into(), &true.into())
    );
    // The output of the service reaches the clients that follow. It is not written to a file that all users can read.
    let (written, mut open) = (host.report(), report.clone());
    assert!(written["error"]["chain"].to_string().contains(&format!("interrupted by {name}")), "{written:#}");
    open["error"]["chain"] = written["error"]["chain"].clone();
    assert_eq!(written, open, "the report is written");
    assert!(host.fenced());
    assert!(host.answer().is_none(), "the service answers");
    // `status` reports the same.
    let next = report["error"]["next"].as_str().unwrap();
    host.tool(["status"]).prints(&format!("\n  next         {next}\n"));
    host.tool(["doctor"]).prints(&format!("\n  try          {next}\n"));
    let refused = host.tool(["service", "start"]).expect(3);
    assert!(refused.all().contains("fenced"), "{}", refused.all());
    assert_eq!(left_over(host), Vec::<String>::new());
}

/// Connects a caller with the server of a `git://` URL until both have finished.
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

#[test]
fn an_interrupt_before_the_stop_leaves_the_service_alone() {
    let host = Host::running();
    let before = host.service_pid().unwrap();
    let untouched = |printed: Ran, code: i32, phase: &str| {
        let report = last_report(&printed.expect(code));
        assert_eq!((&report["result"], &report["error"]["phase"]), (&"refused".into(), &phase.into()));
        assert_eq!(report["exit_code"], code);
        assert_eq!(
            (&report["service"]["state"], &report["service"]["pid"]),
            (&"running".into(), &before.into())
        );
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
        let printed = end(run);
        let code = if printed.code == Some(143) { 143 } else { code };
        untouched(printed, code, "staging");
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
        "def serve(",
        "def end(*_):\n    open(os.environ['HOLD']).read()\n    os._exit(0)\n\
         if 'HOLD' in os.environ:\n    signal.signal(signal.SIGTERM, end)\ndef serve(",
    );
    let slow = SERVER.replace(
        "        values =",
        "        if os.path.exists(os.environ.get('HOLD', '/nonexistent')):\n            \
         open(os.environ['HOLD']).read()\n        values =",
    );
    assert!(blocking != SERVER && slow != SERVER);
    let env = |more: &str| {
        fs::write(host.layout.env_file(), format!("LADYLINUX_PORT={}\n{more}", host.port)).unwrap();
    };
    let hold_variable = format!("HOLD={}\n", pipe.0.display());

    // Step 1: the service needs time to end. The stop is finished, then the run halts.
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

    // Steps 2 and 3: the remote (after preflight has read its branches), then the package index, accept the connection
    // and send nothing.
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

    // Step 4: a hook that does not end; the second signal changes nothing.
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
