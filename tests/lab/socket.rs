//! A service with a socket unit is refreshed and no request fails: its socket stays open, and connections wait in the
//! backlog. On machines with systemd, with a service that needs only Python.

use crate::lab;
use crate::socket_host as host;

use host::{FENCE, Host, SERVER, UNIT};
use lab::{Lab, until};

#[test]
fn rw_5_1_rw_5_5_a_service_with_a_socket_unit_is_refreshed_without_a_failed_request() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let machine = &host.machine;
    let clients = host.clients();

    host.push("two");
    host.tool("run").expect(0).prints("stays open").prints("Refreshed");
    machine.write("/srv/work/requirements.txt", "six==1.16.0\n");
    host.push("three");
    host.tool("run").expect(0).prints("Refreshed");
    host.tool("rollback").expect(0);

    // While the service is down, the unit that holds the socket uses it; that unit only reads.
    host.push("four");
    let (client, _) = host.held_run();
    // After the end of the service, systemd finds that unit at the next connection.
    until("a socket in use", || {
        (host.state("ladylinux-api.socket") == "active running success").then_some(())
    });
    assert_eq!(host.property("ladylinux-api.service", "ActiveState"), "inactive");
    let holder = host.holders().split_whitespace().next().unwrap().to_owned();
    assert_eq!(host.property(&holder, "User"), machine.exec("id -u ladylinux-staging").out.trim());
    for (name, value) in
        [("PrivateNetwork", "yes"), ("ProtectSystem", "strict"), ("TasksMax", "4"), ("NonBlocking", "yes")]
    {
        assert_eq!(host.property(&holder, name), value, "{name}");
    }
    machine.exec("rm /srv/hold").expect(0);
    assert_eq!(client.wait_with_output().unwrap().status.code(), Some(0));

    let (failed, printed) = host.failed(clients);
    assert_eq!(failed, 0, "{printed}");
    assert_eq!(host.version().as_deref(), Some("four"));
    until("the unit that held the socket is gone", || host.holders().is_empty().then_some(()));
    assert!(host.state("ladylinux-api.socket").starts_with("active "));
    assert_eq!(machine.exec("ls /run/systemd/system | grep hold").out, "");
}

/// Waits until systemd has closed the socket, which has no service behind it.
#[track_caller]
fn await_closed(host: &Host) {
    until("the closed socket", || {
        (host.state("ladylinux-api.socket") == "failed failed trigger-limit-hit").then_some(())
    });
}

#[test]
fn rw_7_1a_the_socket_does_not_start_the_service_behind_the_fence_of_a_killed_run() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let machine = &host.machine;
    host.tool("init --socket").expect(3).prints("ladylinux-api.socket already exists");
    host.push("two");
    let (client, run) = host.held_run();
    machine.exec(&format!("systemctl kill --signal=KILL ladylinux-refresh-{run}")).expect(0);
    client.wait_with_output().unwrap();
    assert!(machine.read(FENCE).is_some());
    until("the unit that holds the socket is gone", || host.holders().is_empty().then_some(()));
    for _ in 0..5 {
        assert_eq!(host.version(), None);
    }
    assert_ne!(host.property("ladylinux-api.service", "ActiveState"), "active");
    await_closed(&host);

    // The next run opens the socket again.
    machine.exec("rm /srv/hold").expect(0);
    host.tool("run").expect(0).prints("Refreshed");
    assert_eq!(host.version().as_deref(), Some("two"));
    assert!(host.state("ladylinux-api.socket").starts_with("active "));

    // A process that ends the unit that holds the socket makes requests fail, and has no other effect: the run opens
    // the socket again.
    host.push("held");
    let (client, _) = host.held_run();
    machine.exec("systemctl kill --signal=KILL 'ladylinux-refresh-hold-*'").expect(0);
    until("the socket is closed", || {
        assert_eq!(host.version(), None);
        host.state("ladylinux-api.socket").starts_with("failed").then_some(())
    });
    assert!(machine.read(FENCE).is_some());
    assert_ne!(host.property("ladylinux-api.service", "ActiveState"), "active");
    machine.exec("rm /srv/hold").expect(0);
    assert_eq!(client.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(host.version().as_deref(), Some("held"));

    // A halted run leaves the same state, and a person who lowers the fence gets the socket with the service.
    machine.write("/srv/work/server.py", "raise SystemExit('no model was named')\n");
    host.push("three");
    host.tool("run").expect(1).prints("no model was named").prints("stopped and fenced");
    for _ in 0..5 {
        assert_eq!(host.version(), None);
    }
    await_closed(&host);
    host.tool("service start").expect(3);
    machine.write("/srv/work/server.py", SERVER);
    host.push("four");
    host.tool("run").expect(0).prints("Refreshed");
    assert_eq!(host.version().as_deref(), Some("four"));
}

/// An application without a framework, for uvicorn.
const APPLICATION: &str = r"import pathlib
version = pathlib.Path('version.txt').read_bytes().strip()

async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'connection', b'close')]})
        await send({'type': 'http.response.body', 'body': version})
";

#[test]
fn init_gives_uvicorn_a_socket_unit_and_takes_it_away_again() {
    let Some(lab) = Lab::open() else { return };
    let unit = UNIT.replace("bin/python server.py", "bin/uvicorn server:app --host 127.0.0.1 --port 8000");
    let host =
        Host::with(&lab, &[("server.py", APPLICATION), ("requirements.txt", "uvicorn==0.38.0\n")], &unit);
    let machine = &host.machine;
    host.tool("run").expect(0).prints("Refreshed");
    let before = host.property("ladylinux-api.service", "InvocationID");
    let socket = "/usr/lib/systemd/system/ladylinux-api.socket";
    let drop_in = "/usr/lib/systemd/system/ladylinux-api.service.d/60-ladylinux-refresh-socket.conf";
    host.tool("init --socket --dry-run").expect(0).prints("would set up ladylinux-api.socket");
    assert_eq!(machine.read(socket), None);
    host.tool("init --socket").expect(0).prints("set up ladylinux-api.socket on 127.0.0.1:8000");
    assert!(machine.read(socket).unwrap().contains("ListenStream=127.0.0.1:8000\nBacklog=4096\n"));
    assert!(machine.read(drop_in).unwrap().contains("/opt/ladylinux/venv/bin/uvicorn server:app --fd 3\n"));
    host.tool("init --socket").expect(0).prints("left ladylinux-api.socket as it is");
    assert_eq!(host.property("ladylinux-api.service", "InvocationID"), before, "nothing was restarted");

    // The first run starts the service from the socket; in the next, connections wait.
    host.push("two");
    host.tool("run").expect(0).prints("Refreshed");
    assert!(host.state("ladylinux-api.socket").starts_with("active "));
    let clients = host.clients();
    host.push("three");
    host.tool("run").expect(0).prints("stays open").prints("Refreshed");
    let (failed, printed) = host.failed(clients);
    assert_eq!(failed, 0, "{printed}");
    assert_eq!(host.version().as_deref(), Some("three"));

    host.tool("init --undo").expect(0).prints("stop and disable ladylinux-api.socket");
    assert_eq!((machine.read(socket), machine.read(drop_in)), (None, None));
    let answer = until("the service answers", || host.version());
    assert_eq!(answer, "three");
    assert!(!host.property("ladylinux-api.service", "TriggeredBy").contains("socket"));
}

#[test]
fn a_socket_that_does_not_fit_is_named_with_the_repair_and_nothing_is_touched() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::with(&lab, &[("server.py", SERVER), ("requirements.txt", "")], UNIT);
    let machine = &host.machine;
    let socket = "/etc/systemd/system/ladylinux-api.socket";
    let own = "/usr/lib/systemd/system/ladylinux-api.socket";

    // A command whose option for a descriptor is not known.
    host.tool("init --socket")
        .expect(3)
        .prints("the command of the service is not uvicorn, gunicorn or hypercorn")
        .prints("server.py")
        .prints("write a socket unit for it yourself");
    assert_eq!(machine.read(own), None);
    assert_eq!(machine.exec("ls /usr/lib/systemd/system/ladylinux-api.service.d | grep socket").out, "");

    // The setting for hosts without systemd.
    let settings = machine.read("/etc/ladylinux/refresh.toml").unwrap();
    machine.write("/etc/ladylinux/refresh.toml", &format!("{settings}[service]\nsocket = true\n"));
    host.tool("run")
        .expect(3)
        .prints("nothing was changed")
        .prints("sets service.socket, and systemd keeps the service")
        .prints("ladylinux-refresh init --socket");
    assert_eq!(machine.read(FENCE), None);
    machine.write("/etc/ladylinux/refresh.toml", &settings);

    // A socket unit on another port than that of the service.
    machine.write(socket, &host::SOCKET_UNIT.replace("8000", "8111"));
    machine.exec("systemctl daemon-reload && systemctl enable --now ladylinux-api.socket").expect(0);
    host.tool("run")
        .expect(3)
        .prints("nothing was changed")
        .prints("listens on 127.0.0.1:8111, while the port of the service is 8000")
        .prints("systemctl edit --full ladylinux-api.socket");
    assert_eq!(machine.read(FENCE), None);
    assert_eq!(host.state("ladylinux-api.socket"), "active listening success");
    machine.exec("systemctl disable --now ladylinux-api.socket").expect(0);

    // A socket that another process uses.
    machine.write(socket, host::SOCKET_UNIT);
    machine.exec("systemd-run --unit other python3 -m http.server --bind 127.0.0.1 8000").expect(0);
    until("the other process listens", || {
        machine.exec("ss -ltnH 'sport = :8000'").out.contains("8000").then_some(())
    });
    machine.exec("systemctl daemon-reload; systemctl enable --now ladylinux-api.socket");
    assert!(host.state("ladylinux-api.socket").starts_with("failed "));
    host.tool("run")
        .expect(3)
        .prints("nothing was changed")
        .prints("port 8000 is held by process")
        .prints("http.server");
    assert_eq!(machine.read(FENCE), None);
    assert_eq!(host.property("other.service", "ActiveState"), "active");
    machine.exec("systemctl stop other").expect(0);
    machine.exec("systemctl reset-failed; systemctl start ladylinux-api.socket").expect(0);
    host.tool("run").expect(0).prints("Refreshed");
    assert_eq!(host.version().as_deref(), Some("one"));

    // A manual stop of the service prints a hint about the socket.
    host.tool("service stop").expect(0).prints(
        "ladylinux-api.socket starts it again with the next connection; to keep it down: systemctl stop ladylinux-api.socket",
    );
    assert_eq!(host.version().as_deref(), Some("one"));
}
