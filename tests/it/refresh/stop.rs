//! Step 1: all processes of the service are gone, and the service is fenced, before anything is touched (RW-5.1).

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;

use crate::host::{Host, SERVER, ran};
use crate::refresh::help::{
    SIGHTING_HOOK, WAYS, down_and_fenced, error_text, hook, journaled, listens, look_out, seen,
};

/// Before it serves, it starts a worker in a separate session, which ignores SIGTERM.
const FORKING: &str = r"
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(os.environ['WORKER'] + '.new', 'w') as file:
            file.write(str(os.getpid()))
        os.rename(os.environ['WORKER'] + '.new', os.environ['WORKER'])
        time.sleep(1000)
    os._exit(0)
os.wait()
while not os.path.exists(os.environ['WORKER']):
    time.sleep(0.001)
";

#[test]
fn rw_5_1_all_processes_of_the_service_are_gone_and_the_fence_stands_before_the_tree_is_touched() {
    for way in WAYS {
        let host = Host::new();
        look_out(&host);
        let server = format!("{FORKING}{SERVER}");
        host.push(&[
            ("server.py", &server),
            ("look.py", SIGHTING_HOOK),
            ("refresh.toml", &hook("look", "check", &["python", "look.py", "look"], "")),
        ]);
        host.tool(way).expect(0);
        let worker = fs::read_to_string(host.beside("worker")).unwrap();
        let stat = format!("/proc/{worker}/stat");
        assert!(fs::exists(&stat).unwrap(), "the worker does not live beside its service");
        seen(&host);

        host.push(&[("version.txt", "two\n")]);
        host.tool(way).expect(0);
        let [look] = <[_; 1]>::try_from(seen(&host)).unwrap();
        assert_eq!(look["worker"], worker.as_str());
        assert_eq!(look["worker_alive"], false, "the worker outlived the stop");
        assert_eq!(look["listens"], false, "the port was in use while the tree was changed");
        assert_eq!(look["fence"], true, "there was no fence while the service was down");
        assert_ne!(fs::read_to_string(host.beside("worker")).unwrap(), worker);
        assert!(!host.fenced());
        assert_eq!(host.version().as_deref(), Some("two"));
    }
}

#[test]
fn rw_5_1_a_service_that_is_down_already_is_refreshed_too() {
    let host = Host::running();
    host.tool(["service", "stop"]).expect(0);
    assert!(!listens(&host));
    host.tool(["run"]).expect(0).prints("was stopped already");
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn rw_5_1_with_a_foreign_process_on_the_port_no_later_step_runs() {
    let named =
        |host: &Host| format!("process {}", std::process::id()) + &format!("|port {} is held", host.port);
    // Another address of the same port: the service and the stranger do not conflict until the service must be gone.
    let host = Host::running();
    let stranger = TcpListener::bind(("127.0.0.2", host.port)).unwrap();
    let refused = host.tool(["run"]).expect(3).all();
    assert!(named(&host).split('|').all(|text| refused.contains(text)), "{refused}");
    assert!(listens(&host) && !host.fenced(), "known before the stop, and so nothing is stopped");
    drop(stranger);
    host.tool(["run"]).expect(0);

    // The stranger starts after the check of preflight: a staged check holds the run meanwhile.
    let host = Host::running();
    let before = host.head();
    let (printed, go) = (host.beside("printed"), host.beside("go"));
    let wait = format!("echo reached; while [ ! -e {} ]; do sleep 0.01; done", go.display());
    let held = hook("held", "check", &["sh", "-c", &wait], "stage = true");
    host.push(&[("version.txt", "two\n"), ("refresh.toml", &held)]);
    let mut command = host.command(["run", "--format", "json"]);
    let mut run = command.stdout(fs::File::create(&printed).unwrap()).stderr(Stdio::piped()).spawn().unwrap();
    while !fs::read_to_string(&printed).unwrap().contains("reached\"") {
        assert!(run.try_wait().unwrap().is_none(), "the run ended too early");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let stranger = TcpListener::bind(("127.0.0.2", host.port)).unwrap();
    fs::write(&go, "").unwrap();
    drop(ran(run.wait_with_output().unwrap()).expect(1));
    let printed = fs::read_to_string(&printed).unwrap();
    assert!(printed.contains(&format!("process {}", std::process::id())), "{printed}");
    assert!(error_text(&host).contains(&format!("port {} is held", host.port)), "{}", error_text(&host));
    assert_eq!(journaled(&host, "failed"), ["stop"]);
    assert_eq!(host.head(), before, "the tree was touched");
    down_and_fenced(&host);
    drop(stranger);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn a_refresh_started_by_the_service_is_refused_instead_of_ending_itself() {
    let host = Host::running();
    let mark = format!("a-name@{}", host.layout.root().display());
    let mut command = host.command(["run"]);
    let printed = ran(command.env("LADYLINUX_REFRESH_SERVICE", mark).output().unwrap()).expect(3);
    assert!(printed.all().contains("started from inside the service"), "{}", printed.all());
    assert!(listens(&host) && !host.fenced());
    host.tool(["run"]).expect(0);
}

#[test]
fn a_service_that_ends_during_staging_is_noticed_and_the_run_is_refused() {
    let host = Host::running();
    let pid = host.service_pid().unwrap();
    let kill = format!("kill -9 {pid} || true");
    host.push(&[("refresh.toml", &hook("greedy", "check", &["sh", "-c", &kill], "stage = true"))]);
    let ended = format!("the service, process {pid}, ended during staging");
    host.tool(["run"]).expect(3).prints(&ended).prints("SIGKILL").prints("service logs");
    assert!(!host.fenced());
    // The next run finds a service that is down, and starts it.
    host.tool(["run"]).expect(0);
    assert!(listens(&host));
}
