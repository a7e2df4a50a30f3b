//! `run --if-changed`: no action if everything is right, and a full refresh if anything is not.

use std::os::unix::fs::MetadataExt as _;

use crate::host::{Host, git};
use crate::refresh::help::{events, hook, installation, listens};

#[test]
fn a_run_with_if_changed_does_nothing_if_everything_is_right() {
    let host = Host::running();
    let (runs, picture, pid) = (host.runs(), installation(&host), host.service_pid());
    let written = host.layout.status_file().metadata().unwrap().ino();
    let emitted = events(&host.tool(["run", "--if-changed", "--format", "json"]).expect(0));
    let report = &emitted.last().unwrap()["report"];
    assert_eq!(report["changed"], false);
    assert_eq!(report["result"], "unchanged");
    assert_eq!(report["commit"], host.head().as_str());
    assert_eq!(report["service"]["pid"].as_i64(), pid);
    let run = report["run"].as_str().unwrap();
    host.tool(["history", run]).expect(0).prints(&format!("run          {run}"));
    assert_eq!(host.runs(), runs, "a run that did nothing has a directory");
    assert_eq!(installation(&host), picture);
    assert_eq!(host.layout.status_file().metadata().unwrap().ino(), written);
    assert!(listens(&host));
}

#[test]
fn a_run_with_if_changed_is_a_full_refresh_if_anything_is_wrong() {
    let host = Host::running();
    let again = || host.tool(["run", "--if-changed"]).expect(0).prints("Refreshed");
    let still = || host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
    let commit = host.push(&[("version.txt", "two\n")]);
    again();
    assert_eq!(host.head(), commit);
    still();
    host.write("untracked.txt", "x");
    again();
    assert_eq!(host.read("untracked.txt"), None);
    still();
    host.write("version.txt", "by hand\n");
    again();
    assert_eq!(host.version().as_deref(), Some("two"));
    // A stop by a person is a decision; an end by itself is none.
    host.tool(["service", "stop"]).expect(0);
    let held = host.tool(["run", "--if-changed"]).expect(0).prints("Held back");
    held.prints("the service was stopped at ").prints("`run`; or start the service");
    assert!(!listens(&host));
    host.tool(["run"]).expect(0);
    still();
    let pid = host.report()["service"]["pid"].as_i64().unwrap();
    let main = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(main, rustix::process::Signal::KILL).unwrap();
    crate::service::until("its end", || (!listens(&host)).then_some(()));
    again();
    assert!(listens(&host));
    host.push(&[("requirements.txt", "iniconfig==2.0.0\n")]);
    again();
    assert_eq!(host.report()["environment"]["built"], true);
    std::fs::remove_file(host.layout.venv()).unwrap();
    again();
    assert!(host.layout.venv().join("bin/python").exists());
    host.push(&[("refresh.toml", &hook("broken", "check", &["false"], ""))]);
    host.tool(["run", "--if-changed"]).expect(1);
    host.push(&[("refresh.toml", "")]);
    again();
    assert!(!host.fenced());
    still();
}

#[test]
fn preserved_or_stashed_files_are_no_reason_for_another_refresh() {
    let host = Host::running();
    host.configure("preserve = [\"state/**\"]", "");
    host.write("state/users.json", "people");
    let app = host.layout.app();
    let tree = git(&app, ["rev-parse", "HEAD^{tree}"]);
    let commit = git(&app, ["commit-tree", &tree, "-p", "HEAD", "-m", "Mine"]);
    git(&app, ["branch", "mine", &commit]);
    host.tool(["run", "--if-changed"]).expect(0).prints("Refreshed");
    assert!(host.report()["saved"]["paths"].to_string().contains("mine"));
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
    host.tool(["plan", "--exit-code"]).expect(0);
    // After it is restored it is still in the stash, and no reason either.
    let run = crate::refresh::help::last_run(&host);
    host.tool(["stash", "restore", &run]).expect(0);
    assert!(git(&app, ["for-each-ref"]).contains(&commit));
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
    // The branch moved on: this change is not in a stash yet.
    let more = git(&app, ["commit-tree", &tree, "-p", &commit, "-m", "More"]);
    git(&app, ["branch", "--force", "mine", &more]);
    host.tool(["plan", "--exit-code"]).expect(5);
    host.tool(["run", "--if-changed"]).expect(0).prints("Refreshed");
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
    // Settings, and a commit that was reset, are kept by the next refresh, and no reason for one.
    git(&app, ["config", "user.email", "a@example.org"]);
    git(&app, ["commit", "--quiet", "--allow-empty", "--message", "Reset"]);
    git(&app, ["reset", "--quiet", "--hard", "HEAD~1"]);
    host.tool(["plan", "--exit-code"]).expect(0);
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
    host.tool(["run"]).expect(0).prints("2 local changes: .git/config, .git/logs/HEAD");
}
