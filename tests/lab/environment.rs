//! The same commit makes the same environment on every machine, whatever its history, with a network or without one.
//! The digests of the environments are compared.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use crate::lab;
use crate::site;

use lab::{Disk, How, Lab, Machine, Server};
use serde_json::Value;
use site::{PROBE, Site, URL};

/// The path of the bundle, on the machine that makes it and on the one that is refreshed from it.
const BUNDLE: &str = "/root/app.bundle";

/// The live environment of a machine: commit and digest.
#[track_caller]
fn deployed(machine: &Machine) -> (String, String) {
    let status: Value = serde_json::from_str(&machine.tool("status --json").expect(0).out).unwrap();
    assert_eq!(status["contamination"], Value::Null, "{status:#}");
    assert_eq!(status["service"]["state"], "running", "{status:#}");
    let text = |name: &str| status[name].as_str().unwrap_or_else(|| panic!("{status:#}")).to_owned();
    let digest = text("digest");
    assert_eq!(digest.len(), 64);
    assert_eq!(status["last_run"]["environment"]["digest"], digest.as_str());
    let answer: Value = serde_json::from_str(&machine.http(URL).unwrap()).unwrap();
    assert_eq!(answer["commit"], status["commit"]);
    (text("commit"), digest)
}

/// A machine on the network of a site, set up from the latest commit.
fn another(site: &Site, lab: &Lab, name: &str) -> Machine {
    let machine = Machine::named(lab, name).network(&site.network).boot();
    site.server.configure(&machine, How::Https, PROBE);
    machine.install_tool();
    machine.lend_uv();
    machine.tool("init").expect(0);
    machine.tool("run").expect(0);
    machine
}

/// Commits the requirements of the application and one more.
fn push_with(server: &Server, more: &str) -> String {
    let file = server.work().join("requirements.txt");
    let text = std::fs::read_to_string(file).unwrap();
    let kept: String =
        text.lines().filter(|line| !line.starts_with("six==")).map(|line| format!("{line}\n")).collect();
    server.push(&[("requirements.txt", &format!("{kept}{more}\n"))])
}

/// From now on git fails if root starts it.
fn refuse_git_of_root(machine: &Machine) {
    machine.exec("mv /usr/bin/git /usr/bin/git.real").expect(0);
    let refusing = "#!/bin/sh\n[ \"$(id -u)\" != 0 ] || { echo 'root starts git' >&2; exit 99; }\n\
        exec /usr/bin/git.real \"$@\"\n";
    machine.write("/usr/bin/git", refusing);
    machine.exec("chmod 755 /usr/bin/git && ! git --version").expect(0);
}

/// The leftovers of a fetch that is killed while it makes a mirror.
fn leave_half_a_mirror(machine: &Machine) {
    let half = machine.exec(
        "cd /opt/ladylinux-refresh && mkdir -p mirror.git.new/objects/pack && \
         printf x >mirror.git.new/objects/pack/tmp_pack_x && chown -R ladylinux-refresh: mirror.git.new",
    );
    half.expect(0);
}

#[test]
fn rw_2_2_rw_5_3_machines_of_different_histories_one_without_a_network_have_the_same_environment() {
    let Some(lab) = Lab::open() else { return };
    // One machine has had other versions, went back, and forth again.
    let site = Site::running(&lab, Disk::Shared, PROBE);
    let old = &site.machine;
    push_with(&site.server, "six==1.16.0");
    old.tool("run").expect(0);
    let (_, with_six) = deployed(old);
    site.server.push_demo(3);
    old.tool("run").expect(0);
    old.tool("rollback").expect(0);
    assert_eq!(deployed(old).1, with_six, "going back is not what was there");
    old.tool("run").expect(0);
    let before = deployed(old);
    assert_ne!(before.1, with_six, "another definition has the same digest");

    // The other one is new, has a network once, and then none.
    let new = another(&site, &lab, "new");
    assert_eq!(deployed(&new), before);
    site.network.partition("new");
    let commit = push_with(&site.server, "six==1.17.0");
    for machine in [old, &new] {
        refuse_git_of_root(machine);
        leave_half_a_mirror(machine);
    }
    old.tool("run").expect(0);
    let there = deployed(old);
    assert_eq!(there.0, commit);
    assert_ne!(there.1, before.1);
    old.tool(&format!("bundle create --output {BUNDLE}")).expect(0);
    assert_eq!(new.http("https://source/simple/"), None, "the network is not cut off");
    let asked = site.server.requests().len();
    new.copy_in(&old.path(BUNDLE), BUNDLE, 0o600);
    new.tool(&format!("run --bundle {BUNDLE}")).expect(0);
    assert_eq!(deployed(&new), there);
    new.tool("verify --environment").expect(0);

    // It keeps its own copy of the bundle's content: a rollback and a fresh build need neither the file nor a network.
    new.tool("rollback").expect(0);
    assert_eq!(deployed(&new), before);
    new.tool(&format!("run --bundle {BUNDLE} --always-rebuild-venv")).expect(0);
    assert_eq!(deployed(&new), there);
    assert_eq!(site.server.requests().len(), asked, "the server was asked");
}
