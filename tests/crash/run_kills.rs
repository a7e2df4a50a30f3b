//! Runs that are killed: at every record of the journal, in the middle of every step, at random instants, while they
//! recover from an earlier kill. After each kill nothing unsound runs and nothing is lost, and one further `run`
//! reaches the same end.
//!
//! The points are those of `crates/system/src/checkpoint.rs`. A part of them is tried, which is the same at each call: of
//! a staged run every second point at a record of the journal, fewer of the others and of the other ways to run.
//! `LADYLINUX_REFRESH_LONG=1` tries all of them, in every way to kill; that takes long.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and lay out files")]
#![allow(clippy::print_stderr, clippy::disallowed_macros, reason = "the count of kill points is printed")]

use crate::crash;
use crate::dice;
use crate::host;

use std::time::{Duration, Instant};

use crash::{EVERYTHING, Environment, Killed, RUN, Reach, Rig, WORKER};
use dice::{Dice, long, print_line};

/// One kill: its point in the list, and the killed processes.
#[derive(Debug, Clone)]
struct Kill {
    /// Its line in the trace, and its number among equal lines.
    name: String,
    nth: usize,
    whom: &'static str,
}

impl Kill {
    fn point(&self) -> String {
        format!("{}#{}", self.name, self.nth)
    }
}

fn is_child(name: &str) -> bool {
    name.contains("child:")
}

/// The processes that a kill at a point can end.
fn ways(name: &str) -> &'static [&'static str] {
    match (name.starts_with("worker:"), is_child(name)) {
        (true, _) => &[EVERYTHING, RUN, WORKER],
        (false, true) => &[RUN, EVERYTHING],
        (false, false) => &[EVERYTHING],
    }
}

/// The points from which kills are chosen: the first, and then every one after this number.
#[derive(Clone, Copy)]
struct Steps {
    /// Of those before and after a record of the journal.
    record: usize,
    /// Of the others between effects.
    effect: usize,
    /// Of those at which another program runs.
    child: usize,
}

/// Chooses kills, each in one of its ways in turn, or all in all of them.
fn choose(points: &[String], steps: Steps) -> Vec<Kill> {
    let mut counts = [0; 3];
    let mut kills = Vec::new();
    for (index, name) in points.iter().enumerate() {
        let (count, step) = match name {
            name if is_child(name) => (&mut counts[2], steps.child),
            name if name.contains("journal:") => (&mut counts[0], steps.record),
            _ => (&mut counts[1], steps.effect),
        };
        *count += 1;
        let ways = ways(name);
        let nth = points[..=index].iter().filter(|point| *point == name).count();
        let kill = |whom: &'static str| Kill { name: name.clone(), nth, whom };
        if long() {
            kills.extend(ways.iter().map(|whom| kill(whom)));
        } else if (*count - 1) % step == 0 {
            kills.push(kill(ways[((*count - 1) / step) % ways.len()]));
        }
    }
    kills
}

/// Distributes kills to two hosts that work at the same time.
fn on_two_hosts(kills: &[Kill], environment: Environment, work: impl Fn(&mut Rig, &Kill) + Sync) {
    std::thread::scope(|scope| {
        let halves: Vec<_> = (0..2)
            .map(|half| {
                let work = &work;
                scope.spawn(move || {
                    let mut rig = Rig::new(environment);
                    for kill in kills.iter().skip(half).step_by(2) {
                        rig.trying = format!("killed {} at {}#{}", kill.whom, kill.name, kill.nth);
                        work(&mut rig, kill);
                    }
                })
            })
            .collect();
        for half in halves {
            if let Err(panic) = half.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// Returns the points that an entire run reaches.
fn points(environment: Environment, arguments: &[&str]) -> Vec<String> {
    let mut rig = Rig::new(environment);
    rig.next_version();
    rig.drift();
    let done = rig.kill(arguments, None, EVERYTHING);
    assert_eq!(done.code, Some(0), "{}", done.output);
    rig.expect_converged();
    rig.expect_changes_kept();
    done.points
}

/// Asserts that a kill was at its intended point.
#[track_caller]
fn expect_killed(kill: &Kill, killed: &Killed) {
    if kill.whom == WORKER {
        let reached = killed.points.iter().filter(|name| **name == kill.name).count() >= kill.nth;
        assert!(reached && matches!(killed.code, Some(0 | 1 | 3)), "{kill:?}: {killed:#?}");
    } else {
        assert!(killed.by_kill, "{kill:?}: {killed:#?}");
    }
}

fn report(what: &str, points: &[String], kills: &[Kill]) {
    let children = points.iter().filter(|name| is_child(name)).count();
    let records = points.iter().filter(|name| name.contains("journal:")).count();
    print_line(&format!(
        "{what}: {} kills; there are {} points between effects, {records} of them before and after a record of the \
         journal, and {children} at which another program is at work",
        kills.len(),
        points.len() - children,
    ));
}

/// Kills a run from one version to the next at each chosen point, and lets one further run converge.
fn kill_runs(what: &str, environment: Environment, arguments: &[&str], steps: Steps) {
    let points = points(environment, arguments);
    expect_every_record(&points, arguments);
    let kills = choose(&points, steps);
    report(what, &points, &kills);
    on_two_hosts(&kills, environment, |rig, kill| {
        rig.next_version();
        rig.drift();
        let killed = rig.kill(arguments, Some(&kill.point()), kill.whom);
        expect_killed(kill, &killed);
        rig.expect_sound();
        rig.succeed(arguments);
        rig.expect_converged();
        rig.expect_changes_kept();
        rig.go_on();
    });
}

/// Asserts that there is a point before and after each record, and one within each step.
fn expect_every_record(points: &[String], arguments: &[&str]) {
    let has =
        |name: &str| assert!(points.iter().any(|point| point == name), "{name} is missing in {points:#?}");
    let mut phases = vec!["stop", "sync", "environment", "prepare", "restart", "status"];
    if !arguments.contains(&"--no-stage") {
        phases.push("staging");
    }
    let mut records = vec!["begun".to_owned(), "aimed".into(), "built".into(), "ended-refreshed".into()];
    records.extend(phases.iter().flat_map(|phase| [format!("intent-{phase}"), format!("done-{phase}")]));
    for record in &records {
        has(&format!("journal:before:{record}"));
        has(&format!("journal:after:{record}"));
    }
    for phase in phases {
        let at = |name: String| points.iter().position(|point| *point == name).unwrap();
        let from = at(format!("journal:after:intent-{phase}"));
        let to = at(format!("journal:before:done-{phase}"));
        let within = points[from + 1..to].iter().filter(|name| !name.contains("journal:")).count();
        assert!(within > 0, "no point within {phase}");
    }
}

#[test]
fn rw_7_1a_a_staged_run_killed_at_any_point_leaves_nothing_unsound_and_the_next_one_converges() {
    let steps = Steps { record: 2, effect: 12, child: 48 };
    kill_runs("staged", Environment::Changes, &["run"], steps);
}

#[test]
fn rw_7_1a_an_unstaged_run_killed_at_any_point_leaves_nothing_unsound_and_the_next_one_converges() {
    let steps = Steps { record: 9, effect: 16, child: 48 };
    kill_runs("not staged", Environment::Changes, &["run", "--no-stage"], steps);
}

#[test]
fn rw_7_1a_a_run_that_keeps_the_environment_and_is_killed_at_any_point_is_repaired_by_the_next_one() {
    let steps = Steps { record: 12, effect: 20, child: 60 };
    kill_runs("environment unchanged", Environment::Stays, &["run"], steps);
}

#[test]
fn rw_7_1a_a_waiting_unit_that_dies_is_started_again_and_the_run_completes() {
    let points = points(Environment::Stays, &["run"]);
    let stopped = points.iter().position(|name| name == "journal:after:intent-sync").unwrap();
    let within = points[stopped..].iter().filter(|name| name.starts_with("worker:") && !is_child(name));
    let mut kills: Vec<Kill> = within.map(|name| Kill { name: name.clone(), nth: 1, whom: WORKER }).collect();
    kills.dedup_by(|one, other| one.name == other.name);
    for name in ["worker:align:reset", "worker:align:cleaned"] {
        assert!(kills.iter().any(|kill| kill.name == name), "{name} is missing in {points:#?}");
    }
    report("worker alone", &points, &kills);
    on_two_hosts(&kills, Environment::Stays, |rig, kill| {
        rig.next_version();
        rig.drift();
        let killed = rig.kill(&["run"], Some(&kill.point()), kill.whom);
        expect_killed(kill, &killed);
        assert_eq!(killed.code, Some(0), "{killed:#?}");
        rig.expect_converged();
        rig.expect_changes_kept();
        rig.go_on();
    });
}

#[test]
fn rw_7_1a_a_rollback_killed_at_any_point_leaves_nothing_unsound_and_the_next_one_converges() {
    let points = {
        let mut rig = Rig::new(Environment::Changes);
        rig.next_version();
        rig.drift();
        rig.succeed(&["run"]);
        rig.drift();
        let done = rig.kill(&["rollback"], None, EVERYTHING);
        assert_eq!(done.code, Some(0), "{}", done.output);
        done.points
    };
    let kills = choose(&points, Steps { record: 12, effect: 16, child: 48 });
    report("rollback", &points, &kills);
    on_two_hosts(&kills, Environment::Changes, |rig, kill| {
        if rig.old == rig.new {
            rig.next_version();
            rig.succeed(&["run"]);
        }
        let (earlier, latest) = (rig.old.clone(), rig.new.clone());
        rig.drift();
        (rig.old, rig.new) = (latest.clone(), earlier.clone());
        let killed = rig.kill(&["rollback"], Some(&kill.point()), kill.whom);
        expect_killed(kill, &killed);
        rig.expect_sound();
        // If the service is fenced, a rollback returns to the last successful version, which is the latest; otherwise
        // to the one before. A rollback that was completed without its worker is complete: another one would go further
        // back.
        if killed.code != Some(0) {
            rig.succeed(&["rollback"]);
        }
        let answer = rig.host.version();
        rig.new = if answer.as_ref() == Some(&latest.text) { latest.clone() } else { earlier.clone() };
        rig.expect_converged();
        rig.expect_changes_kept();
        rig.new.clone_from(&latest);
        rig.succeed(&["run"]);
        rig.expect_converged();
        (rig.old, rig.new) = (earlier, latest);
    });
}

#[test]
fn rw_7_1a_a_recovery_that_is_killed_is_finished_by_the_third_run() {
    let firsts = [
        Kill { name: "exchange:out".into(), nth: 3, whom: EVERYTHING },
        Kill { name: "worker:align:reset".into(), nth: 1, whom: RUN },
        Kill { name: "restart:started".into(), nth: 1, whom: EVERYTHING },
    ];
    for first in firsts {
        let points = {
            let mut rig = Rig::new(Environment::Stays);
            rig.next_version();
            rig.drift();
            expect_killed(&first, &rig.kill(&["run"], Some(&first.point()), first.whom));
            let done = rig.kill(&["run"], None, EVERYTHING);
            assert_eq!(done.code, Some(0), "{}", done.output);
            rig.expect_converged();
            rig.expect_changes_kept();
            done.points
        };
        let begun = points.iter().position(|name| name == "journal:before:begun").unwrap();
        for name in ["recover:ended", "recover:exchanged", "journal:after:ended-interrupted"] {
            assert!(points[..begun].iter().any(|point| point == name), "{name} is missing in {points:#?}");
        }
        let exchanges = points[..begun].iter().any(|name| name == "exchange:in");
        assert_eq!(exchanges, first.name == "exchange:out", "{points:#?}");
        // The others recover by a part of the same steps.
        let steps = if exchanges {
            Steps { record: 1, effect: 4, child: 8 }
        } else {
            Steps { record: 4, effect: 6, child: 12 }
        };
        let mut kills = choose(&points[..begun], steps);
        let later = choose(&points, Steps { record: 36, effect: 36, child: 72 });
        kills.extend(later.into_iter().filter(|kill| !points[..begun].contains(&kill.name)));
        report(&format!("recovery from {}", first.name), &points, &kills);
        on_two_hosts(&kills, Environment::Stays, |rig, kill| {
            rig.next_version();
            rig.drift();
            expect_killed(&first, &rig.kill(&["run"], Some(&first.point()), first.whom));
            let killed = rig.kill(&["run"], Some(&kill.point()), kill.whom);
            expect_killed(kill, &killed);
            rig.expect_sound();
            rig.succeed(&["run"]);
            rig.expect_converged();
            rig.expect_changes_kept();
            rig.go_on();
        });
    }
}

#[test]
fn rw_7_1a_a_run_killed_at_a_random_instant_of_each_step_is_repaired_by_the_next_one() {
    const PHASES: [&str; 8] =
        ["preflight", "staging", "stop", "sync", "environment", "prepare", "restart", "status"];
    let mut dice = Dice::from_environment();
    let mut rig = Rig::new(Environment::Changes);
    rig.next_version();
    rig.drift();
    rig.succeed(&["run"]);
    rig.go_on();
    let durations = {
        let report = rig.host.report();
        let phases = report["phases"].as_array().unwrap().clone();
        let of = |name: &str| phases.iter().find(|phase| phase["phase"] == name).cloned();
        PHASES.map(|name| 1000 * of(name).map_or(5, |phase| phase["duration_ms"].as_u64().unwrap() + 1))
    };
    let rounds = if long() { 20 } else { 1 };
    let (mut in_time, mut tried) = (0, 0);
    let reaches = [Reach::RunAlone, Reach::Everything];
    for round in 0..rounds {
        for (index, (phase, micros)) in PHASES.iter().zip(&durations).enumerate() {
            for reach in if long() { &reaches[..] } else { &reaches[index % 2..][..1] } {
                let reach = *reach;
                let delay = Duration::from_micros(dice.below(*micros));
                rig.trying = format!("round {round}, {reach:?} killed {delay:?} into {phase}");
                rig.next_version();
                rig.drift();
                let sign = format!("\"phase\":\"{phase}\"");
                let mut since = None;
                let killed = rig.kill_when(&["run"], reach, |_, _, printed| {
                    if since.is_none() && printed.contains(&sign) {
                        since = Some(Instant::now());
                    }
                    since.is_some_and(|since: Instant| since.elapsed() >= delay)
                });
                tried += 1;
                in_time += usize::from(killed);
                rig.expect_sound();
                rig.succeed(&["run"]);
                rig.expect_converged();
                rig.expect_changes_kept();
                rig.go_on();
            }
        }
    }
    print_line(&format!("random instants: {in_time} of {tried} kills came before the end of the run"));
    assert!(in_time * 2 > tried, "only {in_time} of {tried} came in time");
}

/// The points at which a run is killed whose service is started with its socket: around the socket, and around stop and
/// start.
const WITH_SOCKET: [&str; 9] = [
    "fence:raised",
    "socket:next-opened",
    "socket:taken",
    "service:asked-to-stop",
    "stop:stopped",
    "restart:deployed",
    "fence:started",
    "restart:started",
    "fence:lowered",
];

#[test]
fn rw_7_1a_a_run_that_has_the_next_socket_of_the_service_is_killed_and_the_next_one_converges() {
    let mut rig = Rig::with(Environment::Stays, host::Host::give_socket);
    for name in WITH_SOCKET {
        rig.trying = format!("killed with a socket at {name}");
        rig.next_version();
        rig.drift();
        let kill = Kill { name: name.to_owned(), nth: 1, whom: EVERYTHING };
        let killed = rig.kill(&["run"], Some(&kill.point()), kill.whom);
        expect_killed(&kill, &killed);
        rig.expect_sound();
        rig.succeed(&["run"]);
        rig.expect_converged();
        rig.expect_changes_kept();
        rig.go_on();
    }
    print_line(&format!("with a socket: {} kills, 0 violations", WITH_SOCKET.len()));
}

#[test]
fn rw_7_1a_children_that_outlive_a_killed_run_are_ended_by_the_next_one() {
    let mut rig = Rig::new(Environment::Stays);
    rig.trying = "the run killed alone, its hook at work".to_owned();
    rig.next_version();
    rig.drift();
    let hold = rig.host.layout.data()[0].join("hold");
    let killed = rig.kill_when(&["run"], Reach::RunAlone, |rig, pid, _| {
        // Once: a hook that read the file while it is written again would find nothing in it, and continue.
        if !hold.exists() {
            std::fs::write(&hold, pid.to_string()).unwrap();
        }
        rig.processes().iter().any(|(_, command)| command.starts_with("sleep"))
    });
    assert!(killed);
    let left = rig.processes();
    assert!(left.iter().any(|(_, command)| command.starts_with("sh ")), "{left:?}");
    rig.expect_sound();
    rig.succeed(&["run"]);
    rig.expect_converged();
    rig.expect_changes_kept();
}
