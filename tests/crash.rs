//! Runs that are killed: at every record of the journal, in the middle of every step, at random instants, while they
//! recover from an earlier kill. After each kill nothing unsound runs and nothing is lost, and one further `run` comes
//! to the same end.
//!
//! The points are those of `src/checkpoint.rs`. Between effects each is tried; of the many instants at which another
//! program is at work, and of the other ways to run, a part that is the same at each call.
//! `LADYLINUX_REFRESH_LONG=1` tries all of them, in every way to kill; that takes long.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and lay out files")]
#![allow(clippy::print_stderr, reason = "the count of kill points is told")]

#[path = "common/crash.rs"]
mod crash;
#[path = "common/host.rs"]
mod host;

use crash::{EVERYTHING, Environment, Killed, RUN, Rig, WORKER};

/// One kill: at which point of the list, and whom.
#[derive(Debug, Clone)]
struct Kill {
    /// Its line in the trace, and which of the lines that are alike.
    name: String,
    nth: usize,
    whom: &'static str,
}

impl Kill {
    fn point(&self) -> String {
        format!("{}#{}", self.name, self.nth)
    }
}

fn long() -> bool {
    std::env::var_os("LADYLINUX_REFRESH_LONG").is_some()
}

fn is_child(name: &str) -> bool {
    name.contains("child:")
}

/// Whom a kill at a point can end in different ways.
fn ways(name: &str) -> &'static [&'static str] {
    match (name.starts_with("worker:"), is_child(name)) {
        (true, _) => &[EVERYTHING, RUN, WORKER],
        (false, true) => &[RUN, EVERYTHING],
        (false, false) => &[EVERYTHING],
    }
}

/// Chooses kills: every `step`th of the points between effects, and every `child_step`th of those at which another
/// program is at work; each in one of its ways in turn, or all in all of them.
fn choose(points: &[String], step: usize, child_step: usize) -> Vec<Kill> {
    let mut counts = [0; 2];
    let mut kills = Vec::new();
    for (index, name) in points.iter().enumerate() {
        let (count, step) = if is_child(name) { (&mut counts[1], child_step) } else { (&mut counts[0], step) };
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

/// Deals kills out to two hosts that work at the same time.
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

/// The points that a whole run reaches.
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

/// Insists that a kill has come where it was meant to.
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
    eprintln!(
        "{what}: {} kills; there are {} points between effects, {records} of them before and after a record of the \
         journal, and {children} at which another program is at work",
        kills.len(),
        points.len() - children,
    );
}

/// Kills a run from one version to the next at each chosen point, and lets one further run converge.
fn kill_runs(what: &str, environment: Environment, arguments: &[&str], step: usize, child_step: usize) {
    let points = points(environment, arguments);
    expect_every_record(&points, arguments);
    let kills = choose(&points, step, child_step);
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

/// Insists that there is a point before and after each record, and one within each step.
fn expect_every_record(points: &[String], arguments: &[&str]) {
    let has = |name: &str| assert!(points.iter().any(|point| point == name), "{name} is missing in {points:#?}");
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
fn rw_7_1_a_staged_run_killed_at_any_point_leaves_nothing_unsound_and_the_next_one_converges() {
    kill_runs("staged", Environment::Changes, &["run"], 1, 6);
}

#[test]
fn rw_7_1_an_unstaged_run_killed_at_any_point_leaves_nothing_unsound_and_the_next_one_converges() {
    kill_runs("not staged", Environment::Changes, &["run", "--no-stage"], 2, 12);
}

#[test]
fn rw_7_1_a_run_that_keeps_the_environment_killed_at_any_point_is_made_good_by_the_next_one() {
    kill_runs("environment unchanged", Environment::Stays, &["run"], 4, 16);
}
