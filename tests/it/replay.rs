//! An installation goes through a history. After each refresh it equals the commit: its tree, its environment and its
//! answer (`lab/replay.py`).
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test starts programs, and fails if it cannot continue"
)]

use std::path::Path;
use std::process::Command;

use crate::host::{Host, program, ran};

/// The number of steps of the test; the same history with any number can be run manually.
const COMMITS: &str = "100";

#[test]
fn rw_5_2b_rw_5_3b_a_history_with_changes_of_every_kind_is_replayed_without_a_difference() {
    let host = Host::new();
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab");
    let history = host.beside("work");
    let mut generate = Command::new("python3");
    generate.arg(lab.join("generated_history.py")).arg(&history).args(["--commits", COMMITS]);
    ran(generate.output().unwrap()).expect(0);

    let mut replay = host.command([""; 0]);
    let network: Vec<_> =
        replay.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    replay = Command::new("python3");
    replay
        .env_clear()
        .envs(network)
        .arg(lab.join("replay.py"))
        .arg("--exact")
        .args(["--answer", "version.txt"]);
    replay.arg("--program").arg(program()).arg("--port").arg(host.port.to_string());
    replay
        .arg("--source")
        .arg(&history)
        .arg("--root")
        .arg(host.layout.root())
        .arg("--origin")
        .arg(host.beside("srv/app.git"));
    let replayed = ran(replay.output().unwrap()).expect(0);
    // The commit that the host began with is a step too.
    replayed.prints("101 steps, 0 with differences");
    assert_eq!(host.read("version.txt").as_deref(), Some("version 100\n"));
    let migrations = std::fs::read_dir(host.layout.app().join("migrations")).unwrap().count();
    assert_eq!(host.read("built/migrations.txt").unwrap().trim(), migrations.to_string());
}
