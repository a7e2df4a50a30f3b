//! Tests of the facts of a unit.

use std::collections::HashMap;
use std::path::Path;

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
fn rw_7_1b_the_needs_of_a_start_are_read_from_commands_directories_users_and_conditions() {
    let command = |words: &str| {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        (words[0].clone(), words, false, 0_u64, 0_u64, 0_u64, 0_u64, 7_u32, 0_i32, 0_i32)
    };
    let condition = |key: &str, is_alternative: bool, path: &str| {
        (key.to_owned(), is_alternative, false, path.to_owned(), 0_i32)
    };
    let conditions = |second: &str| {
        let alternatives = [condition("ConditionPathExists", true, "/a"), condition(second, true, "/b")];
        let all =
            [condition("ConditionPathIsMountPoint", false, "/m"), condition("ConditionHost", false, "h")];
        Value::from(all.into_iter().chain(alternatives).collect::<Vec<_>>())
    };
    let start = "/usr/local/bin/serve --ssl-keyfile /k --certfile=/c --log-file /l -c /x --ca-certs /$A --env-file=/${B}";
    let of_command = |start: &str, second: &str, is_dynamic: bool| {
        let bind = |source: &str, target: &str| (source.to_owned(), target.to_owned(), false, 0_u64);
        properties(&[
            ("ExecStart", Value::from(vec![command(start)])),
            ("BindPaths", Value::from(vec![bind("/src", "/dst"), bind("/same", "/same")])),
            ("EnvironmentFiles", Value::from(vec![("/same/env".to_owned(), false)])),
            ("LoadCredential", Value::from(vec![("x".to_owned(), "/dst/key".to_owned())])),
            ("ExecStartPre", Value::from(vec![command("/dst/bin/x")])),
            ("WorkingDirectory", Value::from("/srv/x")),
            ("User", Value::from("lady")),
            ("Group", Value::from("")),
            ("DynamicUser", Value::from(is_dynamic)),
            ("Conditions", conditions(second)),
        ])
        .facts()
        .unwrap()
        .start_needs
    };
    let of = |second: &str, is_dynamic: bool| of_command(start, second, is_dynamic);
    let needs = of("ConditionFileNotEmpty", false);
    let paths: Vec<String> =
        needs.paths.iter().map(|it| format!("{} {}", it.key, it.path.display())).collect();
    assert_eq!(
        paths,
        [
            "ConditionPathIsMountPoint /m",
            "EnvironmentFile /same/env",
            "ExecStart /usr/local/bin/serve",
            "ExecStart /k",
            "ExecStart /c",
            "WorkingDirectory /srv/x",
            "BindPaths /src",
            "BindPaths /same",
            "LoadCredential /dst/key"
        ]
    );
    assert_eq!((needs.users, needs.groups.len(), needs.alternatives.len()), (vec!["lady".to_owned()], 0, 2));
    let is_inside = |key: &str| key == "ExecStart" || key == "WorkingDirectory";
    assert!(needs.paths.iter().all(|it| it.is_inside == is_inside(&it.key)));
    let container =
        of_command("/usr/bin/podman run x serve --ssl-keyfile /k", "ConditionFileNotEmpty", false);
    assert!(!container.paths.iter().any(|it| it.path == Path::new("/k")), "the container has it");
    let other = of("ConditionACPower", true);
    assert_eq!((other.users.len(), other.alternatives.len()), (0, 0));
}

#[test]
fn a_unit_that_is_in_no_known_state_is_a_failure() {
    let strange = properties(&[("ActiveState", Value::from("elsewhere"))]);
    assert!(strange.facts().is_err());
}
