//! Power cuts at random instants of a refresh, on a disk that loses unsynced data. A cut in staging: after the boot the
//! old pair of commit and environment runs. A cut between the stop and the end of settling: the service is down and
//! fenced. A later cut: the new pair runs. One run converges, and nothing that a refresh may not touch has changed.
//!
//! `LADYLINUX_REFRESH_LONG=1` makes some hundred cuts; `LADYLINUX_REFRESH_SEED=N` repeats a failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::disallowed_methods, reason = "the power cut is at an instant of the real clock")]

use crate::dice;
use crate::lab;
use crate::site;

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use dice::{Dice, long, print_line};
use lab::{Disk, Lab};
use serde_json::Value;
use site::Site;

/// The parts of a run, and the time after it.
const PARTS: [&str; 9] =
    ["preflight", "staging", "stop", "sync", "environment", "prepare", "restart", "status", "afterwards"];

/// The number of notes that the application shows.
const SHOWN: usize = 50;

/// The instant of the cut.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// This time after the start of the command.
    After(Duration),
    /// This time after the beginning of this part of the run.
    In(&'static str, Duration),
}

/// The events of the run until the power was cut.
#[derive(Debug)]
struct Reported {
    /// The part that had begun last.
    part: &'static str,
    /// The parts that had ended.
    over: Vec<String>,
}

struct Rig {
    site: Site,
    old: String,
    new: String,
    number: usize,
    inventory: String,
    notes: Vec<String>,
    /// For messages: the current attempt.
    trying: String,
}

impl Rig {
    fn new(lab: &Lab) -> Self {
        let tables = site::PROBE.replace("500ms", "1s");
        let site = Site::running(lab, Disk::Ext4, &tables);
        // Files that no refresh may touch, made by others and synced to the disk.
        site.machine.exec(
            "cd /opt/ladylinux && head -c 3000000 /dev/urandom >models/weights.gguf && mkdir -p containers/box && \
             echo image >containers/box/image && echo people >/etc/ladylinux/people.conf && sync",
        ).expect(0);
        let old = site.status()["commit"].as_str().unwrap().to_owned();
        let inventory = site.inventory();
        Self { site, new: old.clone(), old, number: 0, inventory, notes: Vec::new(), trying: String::new() }
    }

    /// The next version: different source each time, and each time another environment, which must be built.
    fn next_version(&mut self) {
        self.number += 1;
        let n = self.number;
        let package = ["1.16.0", "1.17.0"][n % 2];
        let demo = include_str!("../../demo/app/requirements.txt");
        let requirements = format!("{demo}\nsix=={package} ; python_full_version >= '3.0.{n}'\n");
        let note = format!("note {n}");
        self.old = std::mem::take(&mut self.new);
        self.site.add_note(&note);
        self.notes.push(note);
        self.new = self.site.server.push(&[
            ("requirements.txt", &requirements),
            ("templates/extra.html", &format!("<p>{n}</p>\n").repeat(2000)),
            (&format!("only-in-{n}"), "x\n"),
            (&format!("only-in-{}", n - 1), ""),
        ]);
        // Earlier changes are synced to the disk; the cut is about the effects of the refresh.
        self.site.machine.exec("sync").expect(0);
    }

    /// Starts a run and cuts the power. Returns the events of the run until then.
    fn cut(&mut self, cut: Cut) -> Reported {
        let mut run = self
            .site
            .machine
            .spawn("exec ladylinux-refresh run --format json >/run/events 2>/run/complained");
        let began = Instant::now();
        let patience = Duration::from_secs(60);
        match cut {
            Cut::After(time) => std::thread::sleep(time),
            Cut::In(part, time) => {
                let begins = format!("\"phase_started\",\"phase\":\"{part}\"");
                while !self.events().contains(&begins) && !is_over(&mut run) {
                    assert!(began.elapsed() < patience, "{}: {part} did not begin", self.trying);
                    std::thread::sleep(Duration::from_millis(2));
                }
                std::thread::sleep(time);
            }
        }
        let reported = self.events();
        self.site.machine.power_cut();
        let _ = run.wait();
        Reported::of(&reported)
    }

    fn events(&self) -> String {
        self.site.machine.read("/run/events").unwrap_or_default()
    }

    /// The journal of the last run on the disk.
    fn journal(&self) -> String {
        let line = "cd /var/lib/ladylinux-refresh/runs && cat \"$(ls | tail -n 1)/journal.jsonl\"";
        self.site.machine.exec(line).expect(0).out
    }

    /// Boots, and asserts the state after a cut at this point. Returns that state.
    fn expect_after_boot(&mut self, reported: &Reported) -> &'static str {
        let fenced = self.site.machine.path("/var/lib/ladylinux-refresh/fence").exists();
        self.site.machine.start();
        let has_run = |part: &str| reported.over.iter().any(|over| over == part);
        let trying = &self.trying;
        if fenced {
            assert!(!has_run("restart"), "{trying}: the fence was down, and stands again");
            let journal = self.journal();
            let mut entries = journal.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            assert!(
                entries.any(|line| line["entry"] == "intent" && line["phase"] == "stop"),
                "{trying}: fenced, and the run had not begun to stop the service: {journal}"
            );
            self.site.expect_fenced();
            return "down and fenced";
        }
        let answer = self.site.await_answer();
        let commit = answer["commit"].as_str().unwrap().to_owned();
        let status = self.site.status();
        assert_eq!(status["commit"], *commit, "{trying}: {status:#}");
        assert_eq!(status["deployed"]["commit"], *commit, "{trying}: {status:#}");
        assert_eq!(status["environment_name"], answer["environment"], "{trying}: {status:#}");
        if has_run("stop") {
            assert_eq!(commit, self.new, "{trying}: the service was stopped, and the old version runs");
            "the new pair runs"
        } else {
            assert_eq!(commit, self.old, "{trying}: the service was not stopped, and the new version runs");
            "the old pair runs"
        }
    }

    /// One run repairs everything.
    fn converge(&mut self) {
        let ran = self.site.machine.tool("run");
        assert_eq!(ran.code, Some(0), "{}\n{}\n{}", self.trying, ran.all(), self.site.why());
        self.site.expect_running(&self.new);
        let head = self
            .site
            .machine
            .exec_as("ladylinux", "git -C /opt/ladylinux/app status --porcelain --branch")
            .expect(0);
        assert_eq!(
            self.site.machine.read(&format!("/opt/ladylinux/app/only-in-{}", self.number)).as_deref(),
            Some("x\n")
        );
        assert!(
            head.out.lines().all(|line| line.starts_with("## ") || line.starts_with("?? ")),
            "{}: {}",
            self.trying,
            head.out
        );
        assert_eq!(self.site.inventory(), self.inventory, "{}", self.trying);
        let notes = self.site.notes();
        // The application shows only the newest notes.
        let newest = &self.notes[self.notes.len().saturating_sub(SHOWN)..];
        let missing: Vec<&String> = newest.iter().filter(|note| !notes.contains(note)).collect();
        assert!(missing.is_empty(), "{}: lost {missing:?}", self.trying);
    }
}

impl Reported {
    fn of(text: &str) -> Self {
        let mut reported = Self { part: "preflight", over: Vec::new() };
        // The last line may be incomplete.
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let phase = event["phase"].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("phase_started") => {
                    reported.part = PARTS.into_iter().find(|part| *part == phase).unwrap();
                }
                Some("phase_finished") => reported.over.push(phase),
                Some("run_finished") => reported.part = "afterwards",
                _ => {}
            }
        }
        reported
    }
}

fn is_over(run: &mut Child) -> bool {
    run.try_wait().unwrap().is_some()
}

/// The number of attempts for each instant of a list.
fn rounds() -> usize {
    if long() { 20 } else { 1 }
}

/// Instants in the parts of a run: late in the long parts, and soon after the beginning of the short ones. With
/// `LADYLINUX_REFRESH_LONG`, more parts are cut both early and late.
fn in_parts(dice: &mut Dice) -> Vec<Cut> {
    let late = [("staging", 1500), ("prepare", 400), ("restart", 1800)];
    let again = [("stop", 300), ("sync", 150), ("restart", 900), ("status", 700)];
    let soon = 40;
    let early: &[_] =
        if long() { &["sync", "environment", "restart", "status"] } else { &["sync", "status"] };
    let mut cuts = Vec::new();
    for _ in 0..rounds() {
        for (part, most) in late.into_iter().chain(again.into_iter().filter(|_| long())) {
            cuts.push(Cut::In(part, dice.shorter_than(Duration::from_millis(most))));
        }
        for part in early {
            cuts.push(Cut::In(part, dice.shorter_than(Duration::from_millis(soon))));
        }
    }
    cuts
}

/// Instants anywhere in a run of that length, and shortly after it.
fn anywhere(dice: &mut Dice, whole: Duration) -> Vec<Cut> {
    let count = if long() { 180 } else { 2 };
    (0..count).map(|_| Cut::After(dice.shorter_than(whole.mul_f64(1.1)))).collect()
}

#[test]
fn rw_7_1a_rw_6_1_a_power_cut_in_any_part_leaves_the_old_pair_or_the_fence_or_the_new_pair() {
    cut_and_converge(|dice, _| in_parts(dice));
}

#[test]
fn rw_7_1a_rw_6_1_a_power_cut_at_any_instant_leaves_the_old_pair_or_the_fence_or_the_new_pair() {
    cut_and_converge(anywhere);
}

fn cut_and_converge(cuts: impl FnOnce(&mut Dice, Duration) -> Vec<Cut>) {
    let Some(lab) = Lab::open() else { return };
    let mut dice = Dice::from_environment();
    let mut rig = Rig::new(&lab);
    rig.next_version();
    let began = Instant::now();
    rig.converge();
    let whole = began.elapsed();

    let mut counts: BTreeMap<(usize, &'static str), usize> = BTreeMap::new();
    for (index, cut) in cuts(&mut dice, whole).into_iter().enumerate() {
        rig.next_version();
        rig.trying = format!("cut {index}, {cut:?}");
        let reported = rig.cut(cut);
        rig.trying = format!("{} (reported: {reported:?})", rig.trying);
        let found = rig.expect_after_boot(&reported);
        let part = PARTS.iter().position(|part| *part == reported.part).unwrap();
        *counts.entry((part, found)).or_default() += 1;
        rig.converge();
    }
    let total: usize = counts.values().sum();
    print_line(&format!("power cuts: {total}"));
    for ((part, found), count) in counts {
        print_line(&format!("  in {:12} {count:3}  {found}", PARTS[part]));
    }
}
