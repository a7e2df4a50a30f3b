//! Another process holds the port of the service.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{Reports, State};
use crate::host::Host;

/// A process of another program that listens on a port.
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
fn a_foreign_process_on_the_port_is_named_and_not_ended() {
    let host = Host::running();
    host.tool(["service", "stop"]).expect(0);
    let mut stranger = Stranger::on(host.port);
    let pid = format!("process {}", stranger.0.id());
    let port = format!("port {} is held by", host.port);
    for arguments in [&["run"][..], &["plan"], &["run", "--no-stage"]] {
        let before = State::of(&host);
        host.tool(arguments).expect(3).reports(&host, &[&port, &pid, "python3", "the-stranger"]);
        assert_eq!(before, State::of(&host));
    }
    assert!(stranger.is_alive());
    drop(stranger);
    host.tool(["run"]).expect(0);
    // A process that takes the port while the service is down halts the run, and is not ended either.
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
    let printed = host.tool(["run"]).expect(1);
    let alive = taker.try_wait().unwrap().is_none();
    taker.kill().unwrap();
    taker.wait().unwrap();
    assert!(alive, "the stranger was ended");
    printed
        .reports(&host, &["error in step 5 (restart)", &port, "python3", &format!("process {}", taker.id())]);
    assert!(host.fenced());
}

/// A named pipe that a hook may write to.
fn fifo(host: &Host, name: &str) -> PathBuf {
    let path = host.layout.data()[1].join(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}
