//! Builds of environments that are killed at random instants: while the definition is resolved, packages are fetched
//! and installed, and the result is verified and recorded. `venv` always leads to an environment that is recorded and
//! complete, and the next run makes such a one.
//!
//! The times of the parts of a build come from undisturbed builds, so that the kills are spread over all of them. A
//! kill ends the run with all processes that it started, or the run alone (its processes continue), or one of these
//! processes (the run continues and notices that). `LADYLINUX_REFRESH_LONG=1` kills hundreds.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and lay out files")]

use crate::crash;
use crate::dice;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crash::{Environment, Reach, Rig};
use dice::{Dice, long, print_line};

/// The parts of a build. Each begins after a point of `crates/system/src/checkpoint.rs`, the first one when the first
/// program is started.
const PARTS: [(&str, &str); 5] = [
    ("resolving", ""),
    ("making", "python:locked"),
    ("installing", "worker:python:environment made"),
    ("proving", "worker:python:packages installed"),
    ("recording", "worker:python:before the record"),
];

/// The number of the part in which no other program runs.
const RECORDING: usize = PARTS.len() - 1;

/// The point at which a build is done.
const DONE: &str = "python:recorded";

/// The requirements of the application besides six; one of them is machine code.
const BESIDE: [&str; 3] = ["idna==3.10", "itsdangerous==2.2.0", "markupsafe==3.0.2"];

/// The ways to run, and the phase of the build in each.
const WAYS: [(&[&str], &str); 2] = [(&["run"], "staging"), (&["run", "--no-stage"], "environment")];

/// A host whose builds are killed.
struct Victim {
    rig: Rig,
    /// The test's own copies of the wheels.
    wheels: PathBuf,
    /// The duration of each part, by way.
    durations: [[Duration; PARTS.len()]; WAYS.len()],
    dice: Dice,
    /// The number of kills in each part, on all hosts.
    came: Arc<Mutex<Came>>,
}

/// Counts of kills by part; the last number is the count of those after the build.
type Came = [usize; PARTS.len() + 1];

impl Victim {
    /// A host that runs its first version, and whose builds have been measured in every way.
    fn new(dice: Dice, came: Arc<Mutex<Came>>) -> Self {
        let mut rig = Rig::new(Environment::Changes);
        rig.beside = &BESIDE;
        // Fetched files are not shared with other tests, so that they can be removed.
        fs::remove_file(cache(&rig)).unwrap();
        let wheels = trusted_wheels(&rig);
        let durations = [[Duration::ZERO; PARTS.len()]; WAYS.len()];
        let mut victim = Self { rig, wheels, durations, dice, came };
        for way in 0..WAYS.len() {
            victim.durations[way] = victim.learn(way);
        }
        victim
    }

    /// Builds a version undisturbed. Returns the duration of each part.
    fn learn(&mut self, way: usize) -> [Duration; PARTS.len()] {
        self.rig.trying = format!("{}, in peace", WAYS[way].0.join(" "));
        self.rig.next_version();
        self.rig.drift();
        self.forget_downloads();
        let mut times: Vec<Instant> = Vec::new();
        self.rig.kill_when(WAYS[way].0, Reach::Everything, |rig, _, _| {
            let reached = part(&rig.points(), way).map_or(0, |part| part + 1);
            times.resize(times.len().max(reached), Instant::now());
            false
        });
        assert_eq!(times.len(), PARTS.len() + 1, "{}: {:#?}", self.rig.trying, self.rig.points());
        self.rig.expect_converged();
        self.expect_good_environments();
        self.rig.go_on();
        std::array::from_fn(|part| times[part + 1].duration_since(times[part]))
    }

    /// Kills this number of builds. On a busy machine a kill may be after the build, or in another part than intended:
    /// then there are more.
    fn kill_all(&mut self, kills: usize) {
        for number in 0..kills {
            let _ = (0..3).any(|_| self.kill(number));
        }
        for number in kills..4 * kills {
            let Some(missed) = (0..PARTS.len()).find(|part| hits(&self.came.lock().unwrap(), *part) == 0)
            else {
                break;
            };
            self.kill(number - number % PARTS.len() + missed);
        }
    }

    /// Kills a build in one of its parts, and lets the next run repair the result. Returns whether the kill was in a
    /// part that can have been intended.
    fn kill(&mut self, number: usize) -> bool {
        let aim = number % PARTS.len();
        let way = usize::try_from(self.dice.below(2)).unwrap();
        let reach = match (number / PARTS.len() + number) % 3 {
            0 => Reach::RunAlone,
            1 if aim != RECORDING => Reach::Program(number / PARTS.len()),
            _ => Reach::Everything,
        };
        // On a busy machine a part may be shorter than measured before; every other kill is early in it.
        let learned = self.durations[way][aim];
        let span = if number.is_multiple_of(2) { learned } else { learned / 4 };
        let delay = self.dice.shorter_than(span + Duration::from_micros(1));
        let (name, words) = (PARTS[aim].0, WAYS[way].0.join(" "));
        self.rig.trying = format!("kill {number}: {words}, {reach:?}, {delay:?} into {name}");
        self.rig.next_version();
        self.rig.drift();
        if PARTS[aim].0 == "installing" && number.is_multiple_of(2) {
            self.forget_downloads();
        }
        let mut since = None;
        let in_time = self.rig.kill_when(WAYS[way].0, reach, |rig, _, _| {
            if since.is_none() && part(&rig.points(), way) >= Some(aim) {
                since = Some(Instant::now());
            }
            since.is_some_and(|since: Instant| since.elapsed() >= delay)
        });
        let came = part(&self.rig.points(), way).filter(|_| in_time);
        if let Some(part) = came {
            self.came.lock().unwrap()[part] += 1;
        }
        self.rig.expect_sound();
        self.expect_good_environments();
        // Sometimes the next run has a newer version, so it does not continue the interrupted build.
        if self.dice.below(3) == 0 {
            self.rig.next_version();
        }
        let next = usize::try_from(self.dice.below(2)).unwrap();
        self.rig.succeed(WAYS[next].0);
        self.rig.expect_converged();
        self.rig.expect_changes_kept();
        self.expect_good_environments();
        self.expect_nothing_half_done();
        self.rig.go_on();
        came.is_some_and(|part| part < PARTS.len() || aim == RECORDING)
    }

    /// Removes the fetched files, so that they must be fetched again.
    fn forget_downloads(&self) {
        refresh_system::disk::remove_tree(&cache(&self.rig)).unwrap();
    }

    /// `venv` leads to a recorded environment; every recorded one has exactly the files of its wheels, and can be
    /// imported.
    #[track_caller]
    fn expect_good_environments(&self) {
        let (layout, trying) = (&self.rig.host.layout, &self.rig.trying);
        let live = fs::read_link(layout.venv()).unwrap();
        let live = live.file_name().unwrap().to_str().unwrap().to_owned();
        let records = names(&layout.environment_records());
        let recorded: Vec<&str> = records.iter().filter_map(|name| name.strip_suffix(".json")).collect();
        assert!(recorded.contains(&&*live), "{trying}: venv leads to {live}, which is not recorded");
        let mut compare = Command::new("/usr/bin/python3");
        compare.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/wheels.py")).arg(&self.wheels);
        compare.args(recorded.iter().map(|name| layout.environments().join(name)));
        let output = compare.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let compared: Option<usize> = printed.trim().parse().ok();
        assert!(compared > Some(0), "{trying}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    }

    /// No leftovers of a killed build remain.
    #[track_caller]
    fn expect_nothing_half_done(&self) {
        let (layout, trying) = (&self.rig.host.layout, &self.rig.trying);
        assert!(names(&layout.uv().join("scratch")).is_empty(), "{trying}");
        for directory in [layout.locks(), layout.environment_records(), layout.uv()] {
            let odd: Vec<String> = names(&directory)
                .into_iter()
                .filter(|name| name.starts_with('.') || name.contains("new"))
                .collect();
            assert!(odd.is_empty(), "{trying}: {odd:?} in {}", directory.display());
        }
    }
}

/// Returns the number of kills in a part.
fn hits(came: &Came, part: usize) -> usize {
    // The last part is too short for an aimed kill; the switch follows it.
    came[part] + if part == RECORDING { came[PARTS.len()] } else { 0 }
}

/// Returns the part of a build that a run has reached, by its points; the number of parts if the build is complete,
/// `None` before it begins.
fn part(points: &[String], way: usize) -> Option<usize> {
    let begun = points.iter().position(|point| *point == format!("journal:after:intent-{}", WAYS[way].1))?;
    let points = &points[begun..];
    let reached = |name: &str| points.iter().any(|point| point == name);
    if reached(DONE) {
        return Some(PARTS.len());
    }
    let program = |point: &String| point.starts_with("worker:child:uv");
    let later = (1..PARTS.len()).rev().find(|part| reached(PARTS[*part].1));
    later.or_else(|| points.iter().any(program).then_some(0))
}

/// uv's cache on a host.
fn cache(rig: &Rig) -> PathBuf {
    rig.host.layout.uv().join("cache")
}

/// Fetches every wheel that an environment may have, for the test alone.
fn trusted_wheels(rig: &Rig) -> PathBuf {
    let directory = rig.host.beside("trusted");
    for six in ["six==1.16.0", "six==1.17.0"] {
        let mut download = Command::new("/usr/bin/python3");
        download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]);
        assert!(download.arg(&directory).args(BESIDE).arg(six).status().unwrap().success());
    }
    assert_eq!(names(&directory).len(), BESIDE.len() + 2);
    directory
}

/// The names in a directory, sorted; none if the directory does not exist.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn rw_5_3_a_build_killed_at_any_instant_leaves_no_bad_environment_and_the_next_run_makes_a_good_one() {
    let kills = if long() { 150 } else { 6 };
    let hosts = [kills; 2];
    let mut dice = Dice::from_environment();
    let dealt: Vec<_> = hosts.iter().map(|host| (*host, dice.another())).collect();
    let came = Arc::new(Mutex::new([0; PARTS.len() + 1]));
    std::thread::scope(|scope| {
        let work = |(kills, dice)| {
            let came = Arc::clone(&came);
            scope.spawn(move || Victim::new(dice, came).kill_all(kills))
        };
        let working: Vec<_> = dealt.into_iter().map(work).collect();
        for host in working {
            host.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let came = *came.lock().unwrap();
    let parts: Vec<String> =
        PARTS.iter().zip(came).map(|((name, _), came)| format!("{came} while {name}")).collect();
    let tried: usize = hosts.iter().sum();
    print_line(&format!(
        "builds killed at random instants: {tried}; {}, {} after it",
        parts.join(", "),
        came[PARTS.len()]
    ));
    for (number, (name, _)) in PARTS.iter().enumerate() {
        assert!(hits(&came, number) > 0, "no kill came while {name}");
    }
    let within: usize = came[..PARTS.len()].iter().sum();
    assert!(within * 3 > tried * 2, "only {within} of {tried} came during the build");
}
