//! Files of other users, and users without the rights.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use super::{is_root, refused, refused_by};
use crate::host::{Host, ran};

/// A user that owns no other files.
const USER: u32 = 61_876;

#[test]
fn without_roots_rights_a_directory_of_another_user_is_refused_before_the_stop() {
    if !is_root() {
        // Only root can make a directory of another user.
        return;
    }
    let host = Host::new();
    let roots = host.layout.app().join("deep/roots");
    fs::create_dir(host.layout.app().join("deep")).unwrap();
    let owned = Command::new("chown").args(["-R", &USER.to_string()]).arg(host.layout.root()).status();
    assert!(owned.unwrap().success());
    fs::create_dir(&roots).unwrap();
    for command in ["plan", "run"] {
        let mut command = host.command([command]);
        std::os::unix::process::CommandExt::uid(&mut command, USER);
        let printed = ran(command.output().unwrap());
        printed.expect(3).prints("deep/roots cannot be moved").prints("sudo chown -hR 61876");
    }
    assert!(roots.exists() && !host.fenced());
}

#[test]
fn a_user_without_the_right_to_refresh_sees_which_users_have_it() {
    let host = Host::running();
    if !is_root() {
        // An installation of another user, with regard to its permissions.
        fs::set_permissions(host.layout.state(), fs::Permissions::from_mode(0o555)).unwrap();
        refused(&host, &["run"], 3, &["as root: sudo ladylinux-refresh --root "]);
        fs::set_permissions(host.layout.state(), fs::Permissions::from_mode(0o755)).unwrap();
        return;
    }
    let sudo = format!("as root: sudo ladylinux-refresh --root {} run", host.layout.root().display());
    refused_by(&host, as_stranger(&host, &["run"]), 3, &[&sudo]);
}

/// Returns a command of a user that owns no file of the host. Without root it is a command of the owner, and the test
/// takes permissions away.
fn as_stranger(host: &Host, arguments: &[&str]) -> Command {
    if !is_root() {
        return host.command(arguments);
    }
    let program = host.beside("program");
    if !program.exists() {
        fs::copy(crate::host::program(), &program).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1234", "--regid=1234", "--clear-groups"]).arg(&program).arg("--root");
    command.arg(host.layout.root()).args(arguments).env_clear().env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null());
    command
}

#[test]
fn without_read_permission_the_permission_is_reported_and_not_a_missing_installation() {
    let host = Host::running();
    let run = host.report()["run"].as_str().unwrap().to_owned();
    fs::set_permissions(
        host.layout.root(),
        fs::Permissions::from_mode(if is_root() { 0o700 } else { 0o000 }),
    )
    .unwrap();
    let printed = |arguments: &[&str]| ran(as_stranger(&host, arguments).output().unwrap());
    for arguments in [
        &["run"][..],
        &["run", "--detach"],
        &["plan"],
        &["status"],
        &["environments", "list"],
        &["service", "stop"],
        &["unfence"],
        &["history", &run],
        &["wait", &run],
        &["cancel", &run],
    ] {
        let printed = printed(arguments).expect(3).prints("cannot read ").prints("Permission denied");
        for wrong in ["no installation", "no run", "refresh init"] {
            assert!(!printed.all().contains(wrong), "{arguments:?}: {wrong:?} in\n{}", printed.all());
        }
    }
    let doctor = printed(&["doctor"]).prints("not checked: directories");
    assert!(!doctor.all().contains("no installation found"), "{}", doctor.all());
    fs::set_permissions(host.layout.root(), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A user that owns no file of the host.
const OTHER: u32 = 999;

#[test]
fn rw_7_1a_a_state_directory_with_entries_of_others_is_refused_by_root_until_the_command_was_typed() {
    if !is_root() {
        // Only root can change the owner of files.
        return;
    }
    let host = Host::running();
    let entries = [
        "lock",
        "status.json",
        "deployed.env",
        "mirror.git",
        "mirror.git/config",
        "git/.gitconfig",
        "environments",
        "locks",
        "runs",
    ];
    let init = ["init", "--repo", &host.url(), "--allow", "http"];
    for entry in entries {
        let outer = if entry.starts_with("mirror.git") { host.layout.store() } else { host.layout.state() };
        let path = outer.join(entry);
        let before = fs::metadata(&path).unwrap();
        std::os::unix::fs::lchown(&path, Some(OTHER), None).unwrap();
        let words = format!("{} belongs to uid {OTHER}", path.display());
        for arguments in [&["run"][..], &["status"], &init] {
            let ran = host.tool(arguments).expect(3);
            assert!(ran.all().contains(&words), "{entry}: {arguments:?}: {}", ran.all());
        }
        let examined = host.tool(["doctor", "--json"]).expect(5);
        let examined: serde_json::Value = serde_json::from_str(&examined.out).unwrap();
        let is_ours = |finding: &&serde_json::Value| finding["what"] == words.as_str();
        let finding = examined["findings"].as_array().unwrap().iter().find(is_ours);
        let repair = finding.unwrap_or_else(|| panic!("{entry}: {examined:#}"))["repair"].as_str().unwrap();
        assert!(Command::new("sh").args(["-c", repair]).status().unwrap().success(), "{repair}");
        host.tool(["status"]).expect(0);
        let after = fs::metadata(&path).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode;
        assert_eq!(mode(&after), mode(&before), "{entry}");
    }
    // A run that cannot begin leaves no directory that a later one takes for a killed run.
    let runs = || fs::read_dir(host.layout.runs()).unwrap().count();
    let (before, status) = (runs(), host.layout.status_file());
    fs::rename(&status, host.beside("status")).unwrap();
    fs::create_dir(&status).unwrap();
    host.tool(["run"]).expect(3).prints("mv ");
    assert_eq!(runs(), before);
    fs::remove_dir(&status).unwrap();
    fs::rename(host.beside("status"), &status).unwrap();
    let ran = host.tool(["run"]).expect(0);
    assert!(!ran.all().contains("interrupted"), "{}", ran.all());
}
