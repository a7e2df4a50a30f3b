//! The server of the lab: source by HTTPS and by ssh, packages from an index, and answers that stop before their end.

use crate::lab;

use lab::{How, Lab, Machine, Network, Server, until};

#[test]
fn the_server_sends_source_over_https_and_ssh_and_packages_to_machines() {
    let Some(lab) = Lab::open() else { return };
    let network = Network::new(&lab);
    let server = Server::boot(&network);
    let machine = Machine::boot_on(&network, "web");
    let commit = server.push_demo(1);
    let url = Server::url(How::Https);

    machine.exec(&format!("GIT_TERMINAL_PROMPT=0 git ls-remote {url}")).expect(128).prints("certificate");
    server.introduce(&machine);
    machine
        .exec(&format!("GIT_TERMINAL_PROMPT=0 git ls-remote {url}"))
        .expect(128)
        .prints("could not read Username");
    let helper = "credential.helper='!echo username=x; echo password=$(cat /etc/ladylinux/token) #'";
    machine
        .exec(&format!("git -c {helper} clone -q {url} /root/a && git -C /root/a rev-parse HEAD"))
        .expect(0)
        .prints(&commit);
    let ssh =
        "ssh -i /etc/ladylinux/ssh_key -o UserKnownHostsFile=/etc/ladylinux/known_hosts -o BatchMode=yes";
    let url = Server::url(How::Ssh);
    machine.exec(&format!("GIT_SSH_COMMAND='{ssh}' git clone -q {url} /root/b")).expect(0);
    assert!(machine.read("/root/b/api_layer.py").is_some());

    let index = Server::index_url();
    let lines = format!(
        "set -e
        python3 -m venv /root/venv
        /root/venv/bin/pip --disable-pip-version-check install -q --index-url {index} uv six==1.16.0
        /root/venv/bin/uv --system-certs pip install -q --python /root/venv --default-index {index} -r /root/a/requirements.txt
        /root/venv/bin/python -c 'import fastapi, six'
        /root/venv/bin/uv --system-certs pip install -q --python /root/venv --default-index {} six==1.17.0",
        lab::LOCAL_INDEX
    );
    machine.exec(&lines).expect(0);
    assert!(server.requests().iter().any(|line| line.contains("/simple/fastapi/") && line.ends_with("200")));
}

#[test]
fn an_answer_can_be_held_in_the_middle() {
    let Some(lab) = Lab::open() else { return };
    let network = Network::new(&lab);
    let server = Server::boot(&network);
    let machine = Machine::boot_on(&network, "web");
    server.introduce(&machine);
    server.push_demo(1);
    server.hold("git-upload-pack", 2000);
    let token = server.token();
    let mut clone = machine.spawn(&format!("git clone -q https://x:{token}@source/git/app.git /root/a"));
    server.wait_until_held();
    assert!(clone.try_wait().unwrap().is_none());
    server.release();
    assert!(clone.wait().unwrap().success());
    until("the working tree", || machine.read("/root/a/api_layer.py"));
}
