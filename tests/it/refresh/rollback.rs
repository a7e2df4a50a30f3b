//! `rollback`: the same six steps, to an earlier pair of commit and environment.

use crate::host::Host;
use crate::refresh::help::{LOOKOUT, STEPS, events, hook, last_run, look_out, parts, seen};

#[test]
fn a_rollback_returns_to_the_earlier_pair_by_the_same_steps_and_a_second_one_comes_back() {
    let host = Host::running();
    look_out(&host);
    let look = hook("look", "check", &["python", "look.py", "look"], "");
    host.push(&[("look.py", LOOKOUT), ("refresh.toml", &look)]);
    host.tool(["run"]).expect(0);
    let (one, run) = (host.report(), last_run(&host));
    host.push(&[("version.txt", "two\n"), ("requirements.txt", "iniconfig==2.0.0\n")]);
    host.tool(["run"]).expect(0);
    let two = host.report();
    assert_ne!(one["environment"]["generation"], two["environment"]["generation"]);
    seen(&host);

    let told = events(&host.tool(["rollback", "--format", "json"]).expect(0));
    let started = parts(&told, "phase_started");
    assert_eq!(started[started.len() - 6..], STEPS);
    let back = host.report();
    assert_eq!(back["command"], "rollback");
    assert_eq!(back["commit"], one["commit"]);
    assert_eq!(back["environment"]["generation"], one["environment"]["generation"]);
    let answer = host.answer().unwrap();
    assert_eq!((answer["version"].as_str(), answer["package"].as_str()), (Some("one"), Some("1.16.0")));
    assert_eq!(answer["generation"], one["environment"]["generation"]);
    assert_eq!(seen(&host).len(), 1, "the earlier commit's hooks did not run");

    host.tool(["rollback"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
    assert_eq!(host.report()["environment"]["generation"], two["environment"]["generation"]);
    host.tool(["rollback", &run]).expect(0);
    assert_eq!(host.version().as_deref(), Some("one"));
    // A plain run goes to the latest again.
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn a_rollback_after_a_halt_returns_to_what_served_last() {
    let host = Host::running();
    let (good, generation) = (host.head(), host.report()["environment"]["generation"].clone());
    host.push(&[
        ("version.txt", "two\n"),
        ("requirements.txt", "iniconfig==2.0.0\n"),
        ("server.py", "raise SystemExit(1)"),
    ]);
    host.tool(["run"]).expect(1);
    assert!(host.fenced());
    host.tool(["rollback"]).expect(0);
    assert!(!host.fenced());
    assert_eq!(host.head(), good);
    assert_eq!(host.version().as_deref(), Some("one"));
    assert_eq!(host.report()["environment"]["generation"], generation);
}

#[test]
fn a_rollback_with_nothing_to_return_to_is_refused_and_touches_nothing() {
    let host = Host::new();
    host.tool(["rollback"]).expect(3).says("no earlier good run");
    assert!(!host.fenced());
    host.tool(["run"]).expect(0);
    let pid = host.report()["service"]["pid"].clone();
    host.tool(["rollback"]).expect(3).says("no earlier good run");
    host.tool(["rollback", "no-such-run"]).expect(3).says("no-such-run");
    assert_eq!(host.report()["service"]["pid"], pid);
    assert_eq!(host.version().as_deref(), Some("one"));
}
