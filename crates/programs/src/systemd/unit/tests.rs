//! Tests of the facts of a unit.

use std::collections::HashMap;

use zvariant::Value;

use super::*;

fn properties(extra: &[(&str, Value<'static>)]) -> Properties {
    let mut all = HashMap::new();
    for (name, text) in [("LoadState", "loaded"), ("ActiveState", "active"), ("SubState", "running")] {
        all.insert(name.to_owned(), Value::from(text).try_to_owned().unwrap());
    }
    for (name, value) in extra {
        all.insert((*name).to_owned(), value.try_to_owned().unwrap());
    }
    Properties::new(all)
}

#[test]
fn the_object_of_a_unit_is_its_name_in_letters_and_digits() {
    assert_eq!(unit_object("a-b1.service"), "/org/freedesktop/systemd1/unit/a_2db1_2eservice");
    assert_eq!(unit_object("1.socket"), "/org/freedesktop/systemd1/unit/_31_2esocket");
}

#[test]
fn properties_that_an_older_systemd_lacks_read_as_none() {
    let facts = properties(&[]).facts().unwrap();
    assert_eq!(
        (facts.load, facts.active, facts.sub.as_str()),
        (LoadState::Loaded, ActiveState::Active, "running")
    );
    assert_eq!((facts.main_pid, facts.job, facts.restarts), (None, None, 0));
}

#[test]
fn numbers_that_mean_never_read_as_none() {
    let facts = properties(&[
        ("TimeoutStopUSec", Value::U64(u64::MAX)),
        ("TimeoutStartUSec", Value::U64(90_000_000)),
        ("ExecMainStartTimestamp", Value::U64(0)),
        ("MainPID", Value::U32(0)),
    ]);
    let facts = facts.facts().unwrap();
    assert_eq!((facts.stop_timeout, facts.start_timeout), (None, Some(Duration::from_secs(90))));
    assert_eq!((facts.main_started, facts.main_pid), (None, None));
}

#[test]
fn assertions_and_the_invocation_are_read() {
    let assertions =
        vec![("AssertPathExists", true, true, "/fence", -1_i32), ("AssertUser", false, false, "root", 0)];
    let facts = properties(&[
        ("Asserts", Value::from(assertions)),
        ("InvocationID", Value::from(vec![0x0a_u8, 0xff])),
    ]);
    let facts = facts.facts().unwrap();
    assert_eq!(facts.invocation, "0aff");
    assert_eq!(facts.assertions[0].held, Some(false));
    assert!(facts.assertions[0].triggering && facts.assertions[0].negated);
    assert_eq!(facts.assertions[1].held, None);
}

#[test]
fn required_units_and_units_that_stop_with_it_are_read_once_each() {
    let list = |units: &[&str]| Value::from(units.iter().map(|unit| (*unit).to_owned()).collect::<Vec<_>>());
    let facts = properties(&[
        ("Requires", list(&["a.service", "b.socket"])),
        ("BindsTo", list(&["b.socket"])),
        ("PartOf", list(&["c.target"])),
        ("RequiredBy", list(&["w.service"])),
        ("ConsistsOf", list(&["w.service", "x.service"])),
    ]);
    let facts = facts.facts().unwrap();
    assert_eq!(facts.needs, ["a.service", "b.socket"]);
    assert_eq!(facts.stopped_by, ["a.service", "b.socket", "c.target"]);
    assert_eq!(facts.stops, ["w.service", "x.service"]);
    assert!(!facts.refuses_start);
}

#[test]
fn rw_7_1b_a_command_before_the_main_one_that_failed_is_read_with_its_exit_code() {
    let command = |word: &str, ignored: bool, code: i32, status: i32| {
        (
            word.to_owned(),
            vec![word.to_owned(), "-x".to_owned()],
            ignored,
            0_u64,
            0_u64,
            0_u64,
            0_u64,
            7_u32,
            code,
            status,
        )
    };
    let commands = vec![
        command("/bin/good", false, 1, 0),
        command("/bin/meant", true, 1, 1),
        command("/bin/bad", false, 1, 3),
    ];
    let facts = properties(&[("ExecStartPre", Value::from(commands))]).facts().unwrap();
    let failed =
        FailedCommand { key: "ExecStartPre", command: "/bin/bad -x".to_owned(), how: ExitKind::Code(3) };
    assert_eq!(facts.failed_commands, [failed]);
}

#[test]
fn a_unit_that_is_in_no_known_state_is_a_failure() {
    let strange = properties(&[("ActiveState", Value::from("elsewhere"))]);
    assert!(strange.facts().is_err());
}
