//! How long the service is away on a machine with systemd: `systemctl restart` against a refresh, in turns.
//!
//! `sudo -E cargo bench --bench downtime_systemd` boots a machine of the lab with the demo's application (`FastAPI` under
//! uvicorn, its hooks left out) and a server that it is refreshed from over https, and does, round after round and in a
//! changing order: a bare restart, a refresh that brings four changed files, and one that brings nothing.
//! `docs/benchmarks.md` holds figures and how to read them.
//!
//! Not a test: nothing here fails because of a speed. `LADYLINUX_REFRESH_BENCH_ROUNDS` sets the number of rounds.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "reads its number of rounds")]
#![allow(clippy::print_stdout, clippy::disallowed_macros, reason = "its result is a table")]

#[path = "common/client.rs"]
mod client;
#[path = "../tests/common/lab/mod.rs"]
mod lab;
#[path = "../tests/common/site.rs"]
mod site;

use std::collections::BTreeMap;
use std::path::PathBuf;

use client::{Client, median};
use lab::{Disk, Lab};
use serde_json::Value;
use site::Site;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    BareRestart,
    FourFiles,
    NothingNew,
}

impl Way {
    const ALL: [Self; 3] = [Self::BareRestart, Self::FourFiles, Self::NothingNew];

    fn title(self) -> &'static str {
        match self {
            Self::BareRestart => "systemctl restart",
            Self::FourFiles => "refresh, 4 files changed",
            Self::NothingNew => "refresh, nothing changed",
        }
    }
}

/// One measurement: the downtime that the client saw and the steps as the report has them, in milliseconds.
#[derive(Debug)]
struct Sample {
    seen: f64,
    steps: BTreeMap<String, f64>,
}

fn main() {
    let rounds = std::env::var("LADYLINUX_REFRESH_BENCH_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|text| text.parse().ok()).unwrap_or(11);
    let Some(lab) = Lab::open() else { return };
    let site = Site::running(&lab, Disk::Shared, "[probe]\npath = \"/api/status\"\nsettle = \"150ms\"\n");
    site.server.push(&[("refresh.toml", "")]);
    site.machine.tool("run").expect(0);
    // Restarts that follow each other so closely would meet the unit's limit, which is not what is measured.
    site.machine
        .write("/etc/systemd/system/ladylinux-api.service.d/limit.conf", "[Unit]\nStartLimitIntervalSec=0\n");
    site.machine.exec("systemctl daemon-reload").expect(0);
    let namespace = PathBuf::from(format!("/proc/{}/ns/net", site.machine.leader()));
    let client = Client::of(8000, Some(namespace));
    let mut samples: BTreeMap<Way, Vec<Sample>> = BTreeMap::new();
    for round in 0..rounds {
        for turn in 0..Way::ALL.len() {
            let way = Way::ALL[(round + turn) % Way::ALL.len()];
            samples.entry(way).or_default().push(measure(&site, &client, way, round));
        }
    }
    print(&samples);
}

/// Does it once, and tells how long the client had no good answer.
fn measure(site: &Site, client: &Client, way: Way, round: usize) -> Sample {
    if way == Way::FourFiles {
        let text = format!("{way:?} {round}\n");
        site.server.push(&[
            ("edition.txt", &text),
            ("assets/30-round.css", &format!("body {{ margin: {round}px }}\n")),
            ("notebook/round.py", &format!("ROUND = {round}  # {way:?}\n")),
            ("templates/round.html", &text),
        ]);
    }
    client.begin();
    let steps = if way == Way::BareRestart {
        site.machine.exec("systemctl restart ladylinux-api").expect(0);
        BTreeMap::new()
    } else {
        let told = site.machine.tool("run --format json").expect(0).out;
        let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
        let phases = last["report"]["phases"].as_array().unwrap().iter();
        let time = |phase: &Value| phase["duration_ms"].as_f64().unwrap();
        phases.map(|phase| (phase["phase"].as_str().unwrap().to_owned(), time(phase))).collect()
    };
    Sample { seen: client.end(), steps }
}

fn print(samples: &BTreeMap<Way, Vec<Sample>>) {
    let bare = &samples[&Way::BareRestart];
    println!("\n{} rounds, medians in ms\n", bare.len());
    println!("| | downtime seen | of the bare restart | stop | sync | environment | prepare | restart |");
    println!("|---|---|---|---|---|---|---|---|");
    for (way, all) in samples {
        let seen = median(all.iter().map(|sample| sample.seen));
        let ratio = median(all.iter().zip(bare).map(|(sample, bare)| sample.seen / bare.seen));
        let steps = ["stop", "sync", "environment", "prepare", "restart"].map(|step| {
            let times: Vec<f64> = all.iter().filter_map(|sample| sample.steps.get(step).copied()).collect();
            if times.is_empty() { "–".to_owned() } else { format!("{:.0}", median(times.into_iter())) }
        });
        println!("| {} | {seen:.0} | {ratio:.2} | {} |", way.title(), steps.join(" | "));
    }
}
