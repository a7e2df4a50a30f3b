//! Whole refreshes by the real binary: the six steps, staged and not.

#[path = "common/host.rs"]
mod host;

use host::Host;

/// The two ways to go through a run: with staging, and with everything inside the six steps.
const WAYS: [&[&str]; 2] = [&["run"], &["run", "--no-stage"]];

#[test]
fn rw_5_0_a_refresh_brings_the_latest_commit_into_service() {
    for way in WAYS {
        let host = Host::new();
        host.tool(way).expect(0);
        assert_eq!(host.version().as_deref(), Some("one"));
        let commit = host.push(&[("version.txt", "two\n")]);
        host.tool(way).expect(0);
        let answer = host.answer().unwrap();
        assert_eq!(answer["version"], "two");
        assert_eq!(answer["commit"], commit.as_str());
        assert!(!host.fenced());
    }
}
