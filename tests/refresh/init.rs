//! `init`: makes what is missing, adopts what is there, overwrites nothing.

use std::fs;

use crate::help::{installation, picture};
use crate::host::{Host, SERVER, git};

const APP: [(&str, &str); 3] =
    [("server.py", SERVER), ("version.txt", "one\n"), ("requirements.txt", "six==1.16.0\n")];

#[test]
fn init_makes_the_whole_contract_and_a_second_one_changes_nothing() {
    let host = Host::bare();
    host.push(&APP);
    fs::remove_file(host.layout.host_file()).unwrap();
    fs::remove_file(host.layout.env_file()).unwrap();
    let port = host.port.to_string();
    let command = ["init", "--repo", &host.url(), "--allow", "git", "--branch", "main", "--port", &port];
    host.tool(command).expect(0).says("ladylinux-refresh").says("run");
    let layout = &host.layout;
    for folder in [layout.app(), layout.models(), layout.containers(), layout.etc()] {
        assert!(folder.is_dir(), "{} is missing", folder.display());
    }
    assert!(layout.data().iter().all(|folder| folder.is_dir()));
    assert!(layout.venv().is_symlink() && layout.venv().join("bin/python").exists());
    assert!(fs::read_to_string(layout.host_file()).unwrap().contains(&host.url()));
    assert!(fs::read_to_string(layout.env_file()).unwrap().contains(&port));
    let before = installation(&host);
    host.tool(command).expect(0);
    host.tool(["init"]).expect(0);
    assert_eq!(installation(&host), before, "a second init changed something");
}

#[test]
fn init_adopts_an_installation_as_it_is_and_the_next_run_refreshes_it() {
    let host = Host::bare();
    host.push(&APP);
    let layout = &host.layout;
    fs::create_dir_all(layout.home()).unwrap();
    git(&layout.home(), ["clone", "--quiet", &host.url(), "app"]);
    fs::write(layout.app().join("notes.txt"), "mine").unwrap();
    fs::create_dir_all(layout.venv().join("bin")).unwrap();
    fs::write(layout.venv().join("bin/activate"), "made by hand").unwrap();
    fs::create_dir_all(layout.models()).unwrap();
    fs::write(layout.models().join("weights.gguf"), "weights").unwrap();
    let all = || [layout.app(), layout.venv(), layout.models(), layout.etc()].map(|root| picture(&root));
    let before = all();
    host.tool(["init"]).expect(0).says("as it is");
    assert_eq!(all(), before, "init changed what was there");
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
    assert_eq!(fs::read_to_string(layout.models().join("weights.gguf")).unwrap(), "weights");
    assert!(layout.venv().is_symlink());
    assert!(host.report()["saved"]["paths"].to_string().contains("notes.txt"));
}
