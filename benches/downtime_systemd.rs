//! The time without the service on a machine with systemd: a bare restart, the usual shell script, and a refresh, in
//! turns.
//!
//! `sudo -E cargo bench --bench downtime_systemd` boots a machine of the lab with the demo's application (`FastAPI`
//! under uvicorn, its hooks left out) and a server that it is refreshed from over https. Round after round and in a
//! changing order it does: a bare restart; the usual shell script (stop, fetch, reset, clean, start), without and with
//! `pip install`; refreshes with changed files, changed requirements, local changes, no changes and `--no-stage`. All
//! of that twice: with the unchanged application, and with 400 more files and a start of two seconds.
//! `docs/performance.md` contains figures and explains them.
//!
//! Not a test: no speed makes it fail. `LADYLINUX_REFRESH_BENCH_ROUNDS` sets the number of rounds (3),
//! `LADYLINUX_REFRESH_BENCH_CHART` names a file for the chart (SVG).
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]
#![allow(clippy::disallowed_methods, reason = "reads its number of rounds")]
#![allow(clippy::print_stdout, clippy::disallowed_macros, reason = "its result is a table")]

#[path = "common/chart.rs"]
mod chart;
#[path = "common/client.rs"]
mod client;
#[path = "../tests/support/lab/mod.rs"]
#[allow(dead_code, reason = "a benchmark uses a part")]
mod lab;
#[path = "../tests/support/site.rs"]
#[allow(dead_code, reason = "a benchmark uses a part")]
mod site;

use std::collections::BTreeMap;
use std::path::PathBuf;

use client::{Client, median};
use lab::{Disk, How, Lab, Server};
use serde_json::Value;
use site::Site;

/// The measured actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    BareRestart,
    Script,
    ScriptWithPip,
    NothingNew,
    FourFiles,
    Requirements,
    LocalChanges,
    NoStage,
}

impl Way {
    /// The actions in a fixed order: a refresh has no changes only after one that has deployed everything.
    const TURNS: [&[Self]; 7] = [
        &[Self::BareRestart],
        &[Self::Script],
        &[Self::ScriptWithPip],
        &[Self::FourFiles, Self::NothingNew],
        &[Self::Requirements],
        &[Self::LocalChanges],
        &[Self::NoStage],
    ];

    fn title(self) -> &'static str {
        match self {
            Self::BareRestart => "systemctl restart",
            Self::Script => "shell script, 4 files changed",
            Self::ScriptWithPip => "shell script with pip, a requirement changed",
            Self::NothingNew => "refresh, nothing changed",
            Self::FourFiles => "refresh, 4 files changed",
            Self::Requirements => "refresh, a requirement changed",
            Self::LocalChanges => "refresh, 4 files changed, 20 local changes",
            Self::NoStage => "refresh --no-stage, 4 files changed",
        }
    }

    /// The command, as root types it.
    fn command(self) -> &'static str {
        match self {
            Self::BareRestart => "systemctl restart ladylinux-api",
            Self::Script => "/srv/refresh.sh",
            Self::ScriptWithPip => "/srv/refresh-with-pip.sh",
            Self::NothingNew | Self::FourFiles | Self::LocalChanges => "ladylinux-refresh run --format json",
            // Two requirements take turns; otherwise an environment that was built before would be used again.
            Self::Requirements => "ladylinux-refresh run --always-rebuild-venv --format json",
            Self::NoStage => "ladylinux-refresh run --no-stage --format json",
        }
    }

    /// Prepares the round: the commits to push, and the manual changes.
    fn prepare(self, site: &Site, round: usize) {
        if matches!(self, Self::BareRestart | Self::NothingNew) {
            return;
        }
        let text = format!("{self:?} {round}\n");
        let style = format!("body {{ margin: {round}px }}\n");
        let module = format!("ROUND = {round}  # {self:?}\n");
        let mut files = vec![
            ("edition.txt", &*text),
            ("assets/30-round.css", &style),
            ("notebook/round.py", &module),
            ("templates/round.html", &text),
        ];
        let six = if round.is_multiple_of(2) { "six==1.16.0" } else { "six==1.17.0" };
        let requirements = format!("{}{six}\n", include_str!("../demo/app/requirements.txt"));
        if matches!(self, Self::Requirements | Self::ScriptWithPip) {
            files.push(("requirements.txt", &requirements));
        }
        site.server.push(&files);
        if self == Self::LocalChanges {
            let change = "cd /opt/ladylinux/app && for n in 1 2 3 4 5 6 7 8 9 10; do echo $n >note-$n.txt; done && \
                          for f in $(git ls-files '*.py' | head -10); do echo '# by hand' >>$f; done";
            site.machine.exec_as("ladylinux", change).expect(0);
        }
    }
}

/// The refreshed application.
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

    /// Pushes the files that turn the demo's application into this one.
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

/// One measurement: the downtime of the client and the steps as in the report, in milliseconds.
#[derive(Debug)]
struct Sample {
    seen: f64,
    steps: BTreeMap<String, f64>,
}

fn main() {
    let rounds = std::env::var("LADYLINUX_REFRESH_BENCH_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|text| text.parse().ok()).unwrap_or(3);
    let Some(lab) = Lab::open() else { return };
    let mut groups = Vec::new();
    for form in [Form::Demo, Form::Large] {
        println!("\n{}", form.title());
        let samples = rounds_of(&lab, form, rounds);
        print(&samples);
        groups.push(group(form, &samples));
    }
    if let Ok(file) = std::env::var("LADYLINUX_REFRESH_BENCH_CHART") {
        std::fs::write(file, chart::bars("Downtime, in restarts", &groups)).unwrap();
    }
}

/// Does all actions in all rounds.
fn rounds_of(lab: &Lab, form: Form, rounds: usize) -> BTreeMap<Way, Vec<Sample>> {
    let site = Site::running(lab, Disk::Shared, "[probe]\npath = \"/api/status\"\nsettle = \"150ms\"\n");
    form.push(&site);
    site.machine.tool("run").expect(0);
    // Restarts in quick succession would reach the unit's limit, which is not measured.
    site.machine
        .write("/etc/systemd/system/ladylinux-api.service.d/limit.conf", "[Unit]\nStartLimitIntervalSec=0\n");
    site.machine.exec("systemctl daemon-reload").expect(0);
    let script = SCRIPT.replace("URL", &url_with_token(&site));
    site.machine.write_mode("/srv/refresh.sh", &script.replace("PIP\n", ""), 0o755);
    site.machine.write_mode("/srv/refresh-with-pip.sh", &script.replace("PIP", PIP), 0o755);
    let venv = "python3 -m venv /srv/venv && chown -R ladylinux: /srv/venv";
    site.machine.exec(venv).expect(0);
    let install = format!("cd /opt/ladylinux/app && {}", PIP.trim());
    site.machine.exec_as("ladylinux", &install).expect(0);
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

/// The usual script: everything happens while the service is down.
const SCRIPT: &str = "#!/bin/sh
set -e
systemctl stop ladylinux-api
setpriv --reuid=ladylinux --regid=ladylinux --init-groups --reset-env sh -ec '
    cd /opt/ladylinux/app
    git fetch --quiet URL main
    git reset --quiet --hard FETCH_HEAD
    git clean -fdq
PIP
'
systemctl start ladylinux-api
";

/// The line that installs, into an environment beside that of the service, from an index on the machine's disk.
const PIP: &str = "    /srv/venv/bin/pip --disable-pip-version-check --quiet install --no-cache-dir \\
        --index-url file:///srv/wheels/simple --requirement requirements.txt";

fn url_with_token(site: &Site) -> String {
    Server::url(How::Https).replace("://", &format!("://x-access-token:{}@", site.server.token()))
}

/// Does the action once. Returns the time without a successful answer to the client, and the durations of the steps.
fn measure(site: &Site, client: &Client, way: Way, round: usize) -> Sample {
    way.prepare(site, round);
    client.begin();
    let printed = site.machine.exec(way.command()).expect(0).out;
    let mut steps = BTreeMap::new();
    if let Some(last) = printed.lines().last() {
        let last: Value = serde_json::from_str(last).unwrap();
        let phases = last["report"]["phases"].as_array().unwrap().iter();
        let time = |phase: &Value| phase["duration_ms"].as_f64().unwrap();
        steps = phases.map(|phase| (phase["phase"].as_str().unwrap().to_owned(), time(phase))).collect();
    }
    Sample { seen: client.end(), steps }
}

/// Returns the median ratio of an action to the bare restart of the same round.
fn ratio(all: &[Sample], bare: &[Sample]) -> f64 {
    median(all.iter().zip(bare).map(|(sample, bare)| sample.seen / bare.seen))
}

/// Returns the bars of one application.
fn group(form: Form, samples: &BTreeMap<Way, Vec<Sample>>) -> chart::Group {
    let restarts = &samples[&Way::BareRestart];
    let bars = samples.iter().map(|(way, all)| (way.title().to_owned(), ratio(all, restarts)));
    chart::Group { title: form.title().to_owned(), bars: bars.collect() }
}

fn print(samples: &BTreeMap<Way, Vec<Sample>>) {
    let bare = &samples[&Way::BareRestart];
    println!("\n{} rounds, medians in ms\n", bare.len());
    println!("| | downtime seen | of the bare restart | stop | sync | environment | prepare | restart |");
    println!("|---|---|---|---|---|---|---|---|");
    for (way, all) in samples {
        let seen = median(all.iter().map(|sample| sample.seen));
        let ratio = ratio(all, bare);
        let steps = ["stop", "sync", "environment", "prepare", "restart"].map(|step| {
            let times: Vec<f64> = all.iter().filter_map(|sample| sample.steps.get(step).copied()).collect();
            if times.is_empty() { "–".to_owned() } else { format!("{:.0}", median(times.into_iter())) }
        });
        println!("| {} | {seen:.0} | {ratio:.2} | {} |", way.title(), steps.join(" | "));
    }
}
