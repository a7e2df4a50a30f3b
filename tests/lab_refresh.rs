//! Real machines that are refreshed as people do it: the program installed, the demo's application (`FastAPI` under
//! uvicorn) as a service, source and packages from another machine.

#[path = "common/lab/mod.rs"]
mod lab;

use lab::{How, LOCAL_INDEX, Lab, Machine, Network, Server, until};
use serde_json::Value;

/// The probe asks for the commit, so that only the new version is good enough.
const PROBE: &str = "[probe]\nsettle = \"500ms\"\njson_field = \"commit\"\njson_value = \"{commit}\"\n";

/// The unit as some machines have it: its workers outlive a stop.
const OLD_UNIT: &str = "[Unit]\nDescription=LadyLinux API\nAfter=network.target\n\
    [Service]\nType=simple\nUser=ladylinux\nWorkingDirectory=/opt/ladylinux/app\n\
    EnvironmentFile=-/etc/ladylinux/ladylinux.env\n\
    ExecStart=/opt/ladylinux/venv/bin/uvicorn api_layer:app --host 0.0.0.0 --port 8000\n\
    KillMode=process\nRestart=on-failure\nRestartSec=5\n\
    [Install]\nWantedBy=multi-user.target\n";

/// How such a machine was set up, by hand and by script.
const OLD_WAY: &str = "set -e
    install -d -o ladylinux -g ladylinux /opt/ladylinux /opt/ladylinux/models /var/lib/ladylinux/data
    export GIT_ASKPASS=/root/askpass
    printf '#!/bin/sh\\ncat /etc/ladylinux/token\\n' >/root/askpass
    chmod +x /root/askpass
    git clone -q URL /opt/ladylinux/app
    python3 -m venv /opt/ladylinux/venv
    /opt/ladylinux/venv/bin/pip install -q --index-url INDEX -r /opt/ladylinux/app/requirements.txt
    echo weights >/opt/ladylinux/models/lady.gguf
    chown -R ladylinux:ladylinux /opt/ladylinux
    systemctl daemon-reload
    systemctl enable --quiet --now ladylinux-api";

/// What the application says of itself now.
fn answer(machine: &Machine) -> Value {
    let text = machine.http("http://127.0.0.1:8000/api/status").expect("the application answers");
    serde_json::from_str(&text).unwrap()
}

fn status(machine: &Machine) -> Value {
    serde_json::from_str(&machine.tool("status --json").expect(0).out).unwrap()
}

/// Waits for what a boot brings up.
fn until_it_answers(machine: &Machine) {
    until("the application", || machine.http("http://127.0.0.1:8000/api/status"));
}

/// Insists that a version runs, and that everybody says so.
#[track_caller]
fn runs(machine: &Machine, commit: &str) {
    let (answer, status) = (answer(machine), status(machine));
    assert_eq!(answer["commit"], commit);
    assert_eq!(status["commit"], commit);
    assert_eq!(status["deployed"]["commit"], commit);
    assert_eq!(answer["generation"], status["generation"]);
    assert_eq!(status["service"]["state"], "running", "{status:#}");
    assert_eq!(status["fence"], Value::Null);
    assert_eq!(status["last_run"]["result"], "refreshed", "{status:#}");
    machine.exec("systemctl is-active ladylinux-api").expect(0);
}

/// Insists that nothing runs, and that nothing can be started by hand.
#[track_caller]
fn fenced(machine: &Machine) {
    assert_eq!(machine.http("http://127.0.0.1:8000/"), None);
    assert_ne!(status(machine)["fence"], Value::Null);
    machine.exec("systemctl start ladylinux-api").expect(1);
    machine.exec("systemctl is-active ladylinux-api").expect(3);
}

fn add_note(machine: &Machine, text: &str) {
    let body = serde_json::json!({ "text": text }).to_string();
    let post = "curl --fail --silent --header 'Content-Type: application/json' --data";
    machine.exec(&format!("{post} '{body}' http://127.0.0.1:8000/api/notes")).expect(0);
}

fn notes(machine: &Machine) -> Vec<String> {
    let text = machine.http("http://127.0.0.1:8000/api/notes").expect("the application answers");
    let notes: Value = serde_json::from_str(&text).unwrap();
    notes.as_array().unwrap().iter().map(|note| note["text"].as_str().unwrap().to_owned()).collect()
}

/// A machine with nothing on it but the program, beside a server with the application's first version.
fn fresh(lab: &Lab) -> (Server, Machine, String) {
    let network = Network::new(lab);
    let server = Server::boot(&network);
    let machine = Machine::boot_on(&network, "web");
    let commit = server.push_demo(1);
    server.configure(&machine, How::Https, PROBE);
    machine.install_tool();
    (server, machine, commit)
}

#[test]
fn rw_3_1_rw_5_5_rw_5_6a_a_machine_is_set_up_from_nothing_and_refreshed_over_https_and_over_ssh() {
    let Some(lab) = Lab::open() else { return };
    let (server, mut machine, first) = fresh(&lab);
    machine.tool("init").expect(0);
    machine.tool("run main").expect(0).says(&first[..10]);
    runs(&machine, &first);
    add_note(&machine, "written before the refresh");

    // A commit that needs another package.
    let second = server.push_demo(3);
    machine.tool("run").expect(0).says(&second[..10]);
    runs(&machine, &second);
    assert!(notes(&machine).contains(&"written before the refresh".to_owned()));
    machine.exec("find /opt/ladylinux/app ! -user ladylinux | grep .").expect(1);
    let asked = server.requests();
    assert!(asked.iter().any(|line| line.contains("git-upload-pack") && line.ends_with(" 200")), "{asked:?}");

    // A boot brings up what was refreshed.
    machine.reboot();
    until_it_answers(&machine);
    runs(&machine, &second);

    // By ssh, and by nothing else.
    server.https("stop").expect(0);
    server.configure(&machine, How::Ssh, PROBE);
    let third = server.push(&[("templates/more.html", "more\n")]);
    machine.tool("run").expect(0);
    runs(&machine, &third);
}

#[test]
fn rw_3_2_rw_6_1_a_machine_that_was_set_up_the_old_way_is_adopted_and_refreshed() {
    let Some(lab) = Lab::open() else { return };
    let (server, machine, first) = fresh(&lab);
    machine.lend_uv();
    machine.add_service_user();
    machine.write("/etc/systemd/system/ladylinux-api.service", OLD_UNIT);
    machine.write_mode("/etc/ladylinux/ladylinux.env", "LADYLINUX_PORT=8000\nOAUTH_TOKEN=secret\n", 0o640);
    let url = Server::url(How::Https).replace("://", "://x@");
    machine.exec(&OLD_WAY.replace("URL", &url).replace("INDEX", LOCAL_INDEX)).expect(0);
    until_it_answers(&machine);
    machine.exec_as("ladylinux", "mkdir /opt/ladylinux/app/config && cd /opt/ladylinux/app && echo '{}' >config/user_prefs.json && echo changed >>README.md").expect(0);
    let kept = "sha256sum /etc/systemd/system/ladylinux-api.service /opt/ladylinux/models/*; \
                stat -c '%n %U:%G %a %Y' /etc/ladylinux/ladylinux.env /opt/ladylinux/models/*";
    let before = machine.exec(kept).expect(0).out;

    machine.tool("init").expect(0);
    machine.tool("run main").expect(0);
    runs(&machine, &first);
    let second = server.push_demo(3);
    machine.tool("run").expect(0);
    runs(&machine, &second);
    assert_eq!(machine.exec(kept).expect(0).out, before);
    machine.exec("test -L /opt/ladylinux/venv").expect(0);
    machine.tool("drift list").expect(0).says("2 ");
    machine.exec("git -C /opt/ladylinux/app -c safe.directory=* status --porcelain | grep .").expect(1);
}

#[test]
fn rw_7_2_a_machine_that_was_put_back_to_its_snapshot_is_refreshed() {
    let Some(lab) = Lab::open() else { return };
    let (server, mut machine, first) = fresh(&lab);
    machine.lend_uv();
    machine.tool("init").expect(0);
    machine.tool("run").expect(0);
    add_note(&machine, "in the snapshot");
    let kept = notes(&machine);
    machine.power_off();
    machine.snapshot("baseline");
    machine.start();
    until_it_answers(&machine);

    // Everything goes wrong at once: a migration fails, and somebody who wants to help empties the environments' sources
    // and the store of commits.
    add_note(&machine, "after the snapshot");
    server.push_demo(2);
    server.push_demo(3);
    server.push_demo(4);
    machine.tool("run").expect(1).says("migrate");
    fenced(&machine);
    let empty = "chmod -R u+w . && find . -name '*.py' -exec sh -c 'for file; do : >\"$file\"; done' sh {} +";
    machine.exec(&format!("cd /opt/ladylinux/venvs && {empty}")).expect(0);
    machine.exec("rm -rf /var/lib/ladylinux/refresh/mirror.git/objects").expect(0);
    assert_ne!(machine.tool("rollback").code, Some(0));
    fenced(&machine);

    machine.power_off();
    machine.restore("baseline");
    machine.start();
    until_it_answers(&machine);
    runs(&machine, &first);
    assert_eq!(notes(&machine), kept);
    let repaired = server.push_demo(5);
    machine.tool("run").expect(0);
    runs(&machine, &repaired);
    assert!(notes(&machine).contains(&"in the snapshot".to_owned()));
}
