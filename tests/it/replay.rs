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

/// A pin of a public application, and the version that its distribution has.
#[test]
fn rw_5_3b_a_replay_compares_pins_and_versions_as_python_does() {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab");
    let check = r#"
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import replay
text = 'Compressor==4.6\npyjwt[crypto] == 2.8.0  # why\nhashed==v1.0RC1 \\\n  --hash=sha256:00\n' \
       'old==1; python_version < "3"\nany==2.*\nlow>=1\n'
assert replay.pins(text) == {'compressor': '4.6', 'pyjwt': '2.8', 'hashed': '1rc1'}, replay.pins(text)
same = lambda one, other: replay.normal_version(one) == replay.normal_version(other)
assert same('4.6.0', '4.6') and same('2024.02.2', '2024.2.2') and same('1.0+cpu', '1+cpu')
assert not same('4.6.1', '4.6') and not same('10', '1') and not same('1.0rc1', '1.0')
"#;
    let mut python = Command::new("python3");
    ran(python.args(["-c", check]).arg(lab).output().unwrap()).expect(0);
}
