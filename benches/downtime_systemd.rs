//! How long the service is away on a machine with systemd: a bare restart, the usual shell script, and a refresh, in turns.
//!
//! `sudo -E cargo bench --bench downtime_systemd` boots a machine of the lab with the demo's application (`FastAPI` under
//! uvicorn, its hooks left out) and a server that it is refreshed from over https, and does, round after round and in a
//! changing order: a bare restart; stop, fetch, reset, clean and start, as scripts do it; a refresh that brings four
//! changed files, and one that brings nothing. All of that twice: with the application as it is, and with 400 files more
//! and a start of two seconds. `docs/benchmarks.md` holds figures and how to read them.
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
use lab::{Disk, How, Lab, Server};
use serde_json::Value;
use site::Site;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    BareRestart,
    Script,
    FourFiles,
    NothingNew,
}

impl Way {
    /// What keeps its order: a refresh brings nothing only after one that has brought everything.
    const TURNS: [&[Self]; 3] = [&[Self::BareRestart], &[Self::Script], &[Self::FourFiles, Self::NothingNew]];

    fn title(self) -> &'static str {
        match self {
            Self::BareRestart => "systemctl restart",
            Self::Script => "shell script, 4 files changed",
            Self::FourFiles => "refresh, 4 files changed",
            Self::NothingNew => "refresh, nothing changed",
        }
    }
}

/// Which application is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Demo,
    Large,
}

impl Form {
    fn title(self) -> &'static str {
        match self {
            Self::Demo => "the demo's application",
            Self::Large => "with 400 files more and a start of 2 s",
        }
    }

    /// Pushes what makes the demo's application this one.
    fn push(self, site: &Site) {
        let mut files = vec![("refresh.toml".to_owned(), String::new())];
        if self == Self::Large {
            let module = |number: usize| {
                let lines =
                    (0..60).map(|line| format!("def function_{line}():\n    return {number} + {line}\n\n\n"));
                (format!("package_{}/module_{number}.py", number % 20), lines.collect())
            };
            files.extend((0..400).map(module));
            let application = include_str!("../demo/app/api_layer.py");
            files.push((
                "api_layer.py".to_owned(),
                format!("{application}\n\nimport time\n\ntime.sleep(1.6)\n"),
            ));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
        site.server.push(&files);
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
    let rounds: usize = rounds.and_then(|text| text.parse().ok()).unwrap_or(9);
    let Some(lab) = Lab::open() else { return };
    for form in [Form::Demo, Form::Large] {
        println!("\n{}", form.title());
        print(&rounds_of(&lab, form, rounds));
    }
}

/// Does everything as often as wanted.
fn rounds_of(lab: &Lab, form: Form, rounds: usize) -> BTreeMap<Way, Vec<Sample>> {
    let site = Site::running(lab, Disk::Shared, "[probe]\npath = \"/api/status\"\nsettle = \"150ms\"\n");
    form.push(&site);
    site.machine.tool("run").expect(0);
    // Restarts that follow each other so closely would meet the unit's limit, which is not what is measured.
    site.machine
        .write("/etc/systemd/system/ladylinux-api.service.d/limit.conf", "[Unit]\nStartLimitIntervalSec=0\n");
    site.machine.exec("systemctl daemon-reload").expect(0);
    site.machine.write_mode("/srv/refresh.sh", &SCRIPT.replace("URL", &url_with_token(&site)), 0o755);
    let namespace = PathBuf::from(format!("/proc/{}/ns/net", site.machine.leader()));
    let client = Client::of(8000, Some(namespace));
    let mut samples: BTreeMap<Way, Vec<Sample>> = BTreeMap::new();
    for round in 0..rounds {
        for turn in 0..Way::TURNS.len() {
            for way in Way::TURNS[(round + turn) % Way::TURNS.len()] {
                samples.entry(*way).or_default().push(measure(&site, &client, *way, round));
            }
        }
    }
    samples
}

/// What people refresh with: everything happens while the service is down.
const SCRIPT: &str = "#!/bin/sh
set -e
systemctl stop ladylinux-api
setpriv --reuid=ladylinux --regid=ladylinux --init-groups --reset-env sh -ec '
    cd /opt/ladylinux/app
    git fetch --quiet URL main
    git reset --quiet --hard FETCH_HEAD
    git clean -fdq'
systemctl start ladylinux-api
";

fn url_with_token(site: &Site) -> String {
    Server::url(How::Https).replace("://", &format!("://x-access-token:{}@", site.server.token()))
}

/// Does it once, and tells how long the client had no good answer.
fn measure(site: &Site, client: &Client, way: Way, round: usize) -> Sample {
    if matches!(way, Way::FourFiles | Way::Script) {
        let text = format!("{way:?} {round}\n");
        site.server.push(&[
            ("edition.txt", &text),
            ("assets/30-round.css", &format!("body {{ margin: {round}px }}\n")),
            ("notebook/round.py", &format!("ROUND = {round}  # {way:?}\n")),
            ("templates/round.html", &text),
        ]);
    }
    client.begin();
    let line = match way {
        Way::BareRestart => "systemctl restart ladylinux-api",
        Way::Script => "/srv/refresh.sh",
        Way::FourFiles | Way::NothingNew => "ladylinux-refresh run --format json",
    };
    let printed = site.machine.exec(line).expect(0).out;
    let mut steps = BTreeMap::new();
    if let Some(last) = printed.lines().last() {
        let last: Value = serde_json::from_str(last).unwrap();
        let phases = last["report"]["phases"].as_array().unwrap().iter();
        let time = |phase: &Value| phase["duration_ms"].as_f64().unwrap();
        steps = phases.map(|phase| (phase["phase"].as_str().unwrap().to_owned(), time(phase))).collect();
    }
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
