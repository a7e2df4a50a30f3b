//! After a failure of any kind the service stays stopped until a run repairs it or a person starts it (RW-7.1). A
//! snapshot of the entire machine can be restored (RW-7.2).

use std::path::Path;
use std::process::Command;

use crate::host::{Host, SERVER};
use crate::refresh::help::{
    SIGHTING_HOOK, WAYS, aligned, down_and_fenced, hook, journaled, listens, look_out, seen, strict, with,
};

#[test]
fn rw_7_1a_rw_7_1c_after_each_failing_step_nothing_more_runs_and_the_next_good_run_repairs() {
    for way in WAYS {
        let host = Host::running();
        look_out(&host);
        let look = hook("look", "check", &["python", "look.py", "look"], "");
        host.push(&[("look.py", SIGHTING_HOOK), ("refresh.toml", &look)]);
        host.tool(way).expect(0);
        // A cause of failure for each step; the failing stop is in `stop.rs`. With staging, sync and environment fail
        // there.
        let broken = hook("broken", "migration", &["false"], "");
        let cases: [(&str, &[(&str, &str)]); 4] = [
            ("sync", &[("refresh.toml", "[remote]\nurl = \"https://elsewhere/x.git\"\n")]),
            ("environment", &[("requirements.txt", "six==99.99\n")]),
            ("prepare", &[("refresh.toml", &broken)]),
            ("restart", &[("server.py", "raise SystemExit(1)")]),
        ];
        for (step, files) in cases {
            seen(&host);
            let before = host.report()["service"]["pid"].clone();
            host.push(files);
            if !strict(way) && matches!(step, "sync" | "environment") {
                host.tool(way).expect(3);
                assert_eq!(journaled(&host, "failed"), ["staging"]);
                assert_eq!(journaled(&host, "intent"), ["staging"]);
                assert_eq!(host.report()["service"]["pid"], before, "{step}: staging touched the service");
                assert!(listens(&host) && !host.fenced());
            } else {
                host.tool(way).expect(1);
                assert_eq!(journaled(&host, "failed"), [step]);
                assert_eq!(journaled(&host, "intent").last().unwrap(), step);
                let looked = seen(&host);
                assert_eq!(looked.len(), usize::from(step == "restart"), "{step}: a later step ran");
                down_and_fenced(&host);
                // After a refusal by preflight it stays so too.
                host.tool(with(way, &["no-such-branch"]));
                down_and_fenced(&host);
            }
            host.push(&[
                ("requirements.txt", "six==1.16.0\n"),
                ("refresh.toml", &look),
                ("server.py", SERVER),
            ]);
            host.tool(way).expect(0);
            aligned(&host, "main");
            assert_eq!(host.version().as_deref(), Some("one"), "{step}");
            assert!(!host.fenced(), "{step}");
        }
    }
}

#[test]
fn rw_7_1a_only_an_explicit_command_lifts_the_fence_without_a_good_run() {
    let host = Host::running();
    host.push(&[("version.txt", "two\n"), ("refresh.toml", &hook("broken", "check", &["false"], ""))]);
    host.tool(["run"]).expect(1);
    down_and_fenced(&host);
    host.tool(["unfence"]).expect(0).prints("has not passed a health check");
    assert!(!host.fenced());
    assert!(!listens(&host), "lifting the fence started the service");
    let halted = host.report()["run"].as_str().unwrap().to_owned();
    let start = host.as_typed("service start");
    let rollback = host.as_typed("rollback");
    let status =
        host.tool(["status"]).expect(0).prints(&halted).prints("the fence was removed").prints(&start);
    assert!(status.out.trim_end().ends_with(&rollback), "{}", status.out);
    host.tool(["doctor"]).prints(&halted).prints(&rollback);
    // A later run that is refused hides nothing.
    host.push(&[("requirements.txt", "six==99.99\n")]);
    host.tool(["run"]).expect(3);
    host.tool(["service", "start"]).expect(0);
    let status = host.tool(["status"]).expect(0).prints("Running without a good health check");
    assert!(status.out.trim_end().ends_with(&rollback) && !status.out.contains(&start), "{}", status.out);
    let json: serde_json::Value = serde_json::from_str(&host.tool(["status", "--json"]).out).unwrap();
    assert_eq!(json["unfenced"], halted.as_str());
    host.tool(["unfence"]).expect(0).prints("not fenced");
    host.tool(["rollback"]).expect(0);
    let json: serde_json::Value = serde_json::from_str(&host.tool(["status", "--json"]).out).unwrap();
    assert_eq!(json["unfenced"], serde_json::Value::Null);
}

#[test]
fn rw_2_3_rw_7_2_a_snapshot_of_the_machine_can_be_restored_and_refreshed() {
    let host = Host::running();
    host.tool(["service", "stop"]).expect(0);
    let (root, snapshot, wreck) =
        (host.layout.root().to_path_buf(), host.beside("snapshot"), host.beside("wreck"));
    copy(&root, &snapshot);
    host.push(&[
        ("version.txt", "two\n"),
        ("requirements.txt", "iniconfig==2.0.0\n"),
        ("server.py", "raise SystemExit(1)"),
    ]);
    host.tool(["run"]).expect(1);
    down_and_fenced(&host);

    std::fs::rename(&root, &wreck).unwrap();
    std::fs::rename(&snapshot, &root).unwrap();
    assert!(!host.fenced(), "the snapshot was taken without a fence");
    host.tool(["service", "start"]).expect(0);
    host.tool(["status"]).expect(0);
    host.push(&[("version.txt", "three\n"), ("server.py", SERVER)]);
    host.tool(["run"]).expect(0);
    aligned(&host, "main");
    assert_eq!(host.version().as_deref(), Some("three"));
    assert_eq!(host.report()["environment"]["packages"], 1);
    refresh_system::disk::remove_tree(&wreck).unwrap();
}

/// Copies an entire machine, as a snapshot does: owners, times, links.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
