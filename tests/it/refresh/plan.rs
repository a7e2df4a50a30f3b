//! `plan` and `run --dry-run`: all changes are reported, and the installation stays unchanged.

use serde_json::Value;

use crate::host::Host;
use crate::refresh::help::{hook, installation};

#[test]
fn a_plan_reports_the_coming_changes_and_changes_nothing() {
    let host = Host::running();
    host.tool(["plan", "--exit-code"]).expect(0).prints("would change nothing");
    let now = host.head();
    let commit = host.push(&[
        ("version.txt", "two\n"),
        ("requirements.txt", "six==1.17.0\niniconfig==2.0.0\n"),
        ("refresh.toml", &hook("tables", "migration", &["true"], "")),
    ]);
    host.write("notes.txt", "mine");
    host.write("server.py", "mine too");
    let (before, runs, report) = (installation(&host), host.runs(), host.report());

    let plan: Value = serde_json::from_str(&host.tool(["plan", "--json"]).expect(0).out).unwrap();
    assert_eq!(plan["commit"], commit.as_str());
    assert_eq!(plan["commit_now"], now.as_str());
    assert_eq!(plan["changed"], true);
    assert_eq!(plan["environment"]["build"], true);
    let packages = plan["environment"]["packages"].to_string();
    assert!(packages.contains("+ iniconfig") && packages.contains("~ six"), "{packages}");
    let local = plan["drift"].to_string();
    assert!(local.contains("notes.txt") && local.contains("server.py"), "{local}");
    assert!(plan["changes"].to_string().contains("version.txt"), "{plan}");
    assert_eq!(plan["hooks"], serde_json::json!(["tables (migration)"]));

    for command in
        [&["plan", "--exit-code"][..], &["run", "--dry-run"], &["plan"], &["run", "main", "--dry-run"]]
    {
        let ran = host.tool(command).expect(if command.contains(&"--exit-code") { 5 } else { 0 });
        for text in [&commit[..7], "tables", "notes.txt", "iniconfig", "main: ", ", 1 commit, "] {
            assert!(ran.out.contains(text), "{text:?} is missing in {}", ran.out);
        }
    }
    assert_eq!(installation(&host), before, "a plan changed something");
    assert_eq!(host.runs(), runs);
    assert_eq!(host.report(), report);
    assert_eq!(host.version().as_deref(), Some("one"));
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn a_plan_names_a_rebuild_and_a_stopped_service() {
    let host = Host::running();
    let plan = |more: &[&str]| -> Value {
        serde_json::from_str(&host.tool([&["plan", "--json"], more].concat()).expect(0).out).unwrap()
    };
    assert_eq!(plan(&[])["changed"], false);
    assert_eq!(plan(&["--always-rebuild-venv"])["environment"]["build"], true);
    host.tool(["service", "stop"]).expect(0);
    assert_eq!(plan(&[])["changed"], true);
    host.tool(["plan", "--exit-code"]).expect(5);
}

#[test]
fn units_that_only_systemd_could_stop_are_named_without_systemd() {
    let host = Host::running();
    let also = "[service]\nalso = [\"ladylinux-worker.service\"]\n";
    let settings = host.settings("").replace("[service]\n", also);
    std::fs::write(host.layout.host_file(), settings).unwrap();
    host.tool(["run"])
        .expect(0)
        .prints("service.also names ladylinux-worker.service")
        .prints("are left alone");
    let warnings = host.report()["warnings"].to_string();
    assert!(warnings.contains("ladylinux-worker.service"), "{warnings}");
}
