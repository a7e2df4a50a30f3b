//! Hosts without a network run from a bundle.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{create, cut_off, cut_off_command, follower, from_bundle, offline, sha256};
use crate::host;
use crate::host::{Host, git, ran};
use serde_json::Value;

/// The files of the live environment that are the same on every machine: path below `site-packages`, and content.
fn installed(host: &Host) -> BTreeMap<PathBuf, Vec<u8>> {
    fn gather(top: &Path, directory: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let own = ["RECORD", "INSTALLER", "REQUESTED", "uv_cache.json", "direct_url.json", "__pycache__"];
            if own.contains(&name) || name.starts_with("_virtualenv") {
                continue;
            }
            if path.is_dir() {
                gather(top, &path, found);
            } else {
                found.insert(path.strip_prefix(top).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    let lib = fs::canonicalize(host.layout.venv()).unwrap().join("lib");
    let python = fs::read_dir(&lib).unwrap().next().unwrap().unwrap().path();
    let mut found = BTreeMap::new();
    gather(&python.join("site-packages"), &python.join("site-packages"), &mut found);
    found
}

#[test]
fn rw_5_3_a_machine_without_a_network_becomes_the_same_from_a_bundle() {
    let maker = Host::running();
    let host = follower(&maker);
    cut_off(&host);
    let commit =
        maker.push(&[("version.txt", "two\n"), ("requirements.txt", "six==1.17.0\niniconfig==2.0.0\n")]);
    let file = create(&maker, "two.bundle", &[]);
    assert_ne!(maker.head(), commit, "making a bundle refreshes nothing");
    host.tool(["run"]).expect(3).prints("cannot be reached");

    let planned = offline(&host, ["plan", "--bundle", file.to_str().unwrap()]).expect(0);
    assert!(planned.out.contains("~ six ==1.16.0 → ==1.17.0"), "{}", planned.out);
    for arguments in [&["plan", "--json"][..], &["run", "--dry-run", "--format", "json"]] {
        let planned = offline(&host, arguments.iter().chain(&["--bundle", file.to_str().unwrap()])).expect(0);
        assert!(planned.err.contains("reading the bundle"), "{}", planned.err);
        let json: Value = serde_json::from_str(&planned.out).expect(&planned.out);
        assert_eq!(json["commit"], commit.as_str());
    }
    assert!(!host.layout.cache().join("bundle").exists());

    offline(&host, from_bundle(&file, &[])).expect(0).prints("Refreshed").prints("bundle ");
    assert_eq!((host.head(), host.version().as_deref()), (commit.clone(), Some("two")));
    let report = host.report();
    assert_eq!(report["bundle"]["file"], file.to_str().unwrap());
    assert_eq!(report["bundle"]["sha256"], sha256(&fs::read(&file).unwrap()));
    maker.tool(["run"]).expect(0);
    assert_eq!(maker.report()["bundle"], Value::Null);
    let (there, here) = (installed(&maker), installed(&host));
    assert!(here.len() > 5, "{:?}", here.keys());
    assert_eq!(here, there);
    let digest = |host: &Host| host.report()["environment"].get("digest").cloned();
    assert_eq!(digest(&host), digest(&maker));

    offline(&host, from_bundle(&file, &["--if-changed"])).expect(0).prints("Already current");
    // The file is not needed any more.
    fs::remove_file(&file).unwrap();
    offline(&host, ["rollback"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("one"));
    assert!(!host.layout.cache().join("bundle").exists());
}

#[test]
fn rw_5_3_a_bundle_is_enough_without_any_network() {
    let alone = |inner: &[&str]| {
        let mut command = Command::new("unshare");
        let user = if rustix::process::geteuid().is_root() { "--net" } else { "--map-root-user" };
        command.args([user, "--net", "--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).args(inner);
        command.stdin(Stdio::null());
        command
    };
    if !alone(&["true"]).output().is_ok_and(|done| done.status.success()) {
        eprintln!("left out: this machine makes no network namespaces");
        return;
    }
    let maker = Host::running();
    let host = follower(&maker);
    cut_off(&host);
    let commit = maker.push(&[("version.txt", "two\n"), ("requirements.txt", "six==1.17.0\n")]);
    let file = create(&maker, "two.bundle", &[]);
    let reach = "import socket; socket.create_connection(('127.0.0.1', int(__import__('sys').argv[1])), 5)";
    let port = maker.url().split([':', '/']).nth(4).unwrap().to_owned();
    let reached = alone(&["python3", "-c", reach, &port]).output().unwrap();
    assert!(!reached.status.success(), "the remote can be reached from in there");

    // The service runs in another network, where this run cannot send it a request.
    host.tool(["service", "stop"]).expect(0);
    let program = host::program();
    let mut words = vec![program.to_str().unwrap(), "--root", host.layout.root().to_str().unwrap()];
    words.extend(from_bundle(&file, &[]));
    let mut command = alone(&words);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    ran(command.output().unwrap()).expect(0).prints("Refreshed");
    assert_eq!(host.head(), commit);
    assert_eq!(host.report()["service"]["state"], "running");
    host.tool(["service", "stop"]).expect(0);
}

#[test]
fn a_bundle_of_another_branch_is_a_run_of_that_branch_in_both_modes() {
    let maker = Host::running();
    let host = follower(&maker);
    git(&maker.work(), ["checkout", "--quiet", "-b", "side/work"]);
    let commit = maker.push(&[("version.txt", "side\n")]);
    // No branch of that name can exist beside it; for the bundle the branches of the remote have no effect.
    let file = create(&maker, "side.bundle", &["--branch", "side/work"]);
    cut_off(&host);
    for way in [&["--no-stage"][..], &[]] {
        offline(&host, from_bundle(&file, way)).expect(0);
        assert_eq!((host.head(), host.version().as_deref()), (commit.clone(), Some("side")));
        assert_eq!(host.report()["branch"], "side/work");
    }
    // A relative path is relative to the directory of the caller.
    let mut command = cut_off_command(&host, ["run", "--if-changed", "--bundle", "side.bundle"]);
    let ran = ran(command.current_dir(file.parent().unwrap()).output().unwrap());
    ran.expect(0).prints("Already current");
    // A missing mirror is created again from the bundle.
    refresh_system::disk::remove_tree(&host.layout.mirror()).unwrap();
    offline(&host, from_bundle(&file, &[])).expect(0);
}
