//! The cost of the program itself: a run with nothing to do beside `git ls-remote`, its own processor time, memory and
//! processes, and the size of the program.
//!
//! `sudo -E cargo bench --bench overhead` boots a machine of the lab with the demo's application and a server that it
//! is refreshed from over https. In turns it does `git ls-remote` to that server, `run --if-changed` with nothing to
//! do, `run` with no changes, and `run` with four changed files. `docs/performance.md` contains figures and explains
//! them.
//!
//! Not a test: no speed makes it fail. `LADYLINUX_REFRESH_BENCH_ROUNDS` sets the number of rounds (5).
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]
#![allow(clippy::disallowed_methods, reason = "reads its number of rounds")]
#![allow(clippy::print_stdout, clippy::disallowed_macros, reason = "its result is a table")]

#[path = "common/client.rs"]
#[allow(dead_code, reason = "a benchmark without a client")]
mod client;
#[path = "../tests/support/lab/mod.rs"]
#[allow(dead_code, reason = "a benchmark uses a part")]
mod lab;
#[path = "common/own_processes.rs"]
mod own_processes;
#[path = "../tests/support/site.rs"]
#[allow(dead_code, reason = "a benchmark uses a part")]
mod site;

use std::collections::BTreeMap;

use client::median;
use lab::{Disk, How, Lab, Server};
use own_processes::{Used, Watch};
use site::Site;

/// The measured actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    LsRemote,
    IfChanged,
    NothingNew,
    FourFiles,
}

impl What {
    const ALL: [Self; 4] = [Self::LsRemote, Self::IfChanged, Self::FourFiles, Self::NothingNew];

    fn title(self) -> &'static str {
        match self {
            Self::LsRemote => "git ls-remote",
            Self::IfChanged => "run --if-changed, nothing to do",
            Self::NothingNew => "run, nothing changed",
            Self::FourFiles => "run, 4 files changed",
        }
    }

    fn command(self, url: &str) -> String {
        match self {
            Self::LsRemote => format!("git ls-remote --quiet {url} refs/heads/main"),
            Self::IfChanged => "ladylinux-refresh run --if-changed".to_owned(),
            Self::NothingNew | Self::FourFiles => "ladylinux-refresh run".to_owned(),
        }
    }
}

/// One measurement.
struct Sample {
    ms: f64,
    used: Used,
}

fn main() {
    let rounds = std::env::var("LADYLINUX_REFRESH_BENCH_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|text| text.parse().ok()).unwrap_or(5);
    let Some(lab) = Lab::open() else { return };
    let site = Site::running(&lab, Disk::Shared, "[probe]\npath = \"/api/status\"\nsettle = \"150ms\"\n");
    site.server.push(&[("refresh.toml", "")]);
    site.machine.tool("run").expect(0);
    let limit = "[Unit]\nStartLimitIntervalSec=0\n";
    site.machine.write("/etc/systemd/system/ladylinux-api.service.d/limit.conf", limit);
    site.machine.exec("systemctl daemon-reload").expect(0);
    let mut samples: BTreeMap<What, Vec<Sample>> = BTreeMap::new();
    for round in 0..rounds {
        for what in What::ALL {
            samples.entry(what).or_default().push(measure(&site, what, round));
        }
    }
    print(rounds, &samples);
    let bytes = std::fs::metadata(env!("CARGO_BIN_EXE_ladylinux-refresh")).unwrap().len();
    println!("\nThe program has {} KiB.", bytes >> 10);
}

/// Does the action once. The machine itself reads the clock, so the time to enter it does not count.
fn measure(site: &Site, what: What, round: usize) -> Sample {
    if what == What::FourFiles {
        let text = format!("{round}\n");
        let module = format!("ROUND = {round}\n");
        let files = [("edition.txt", &*text), ("templates/round.html", &text), ("assets/r.css", &text)];
        site.server.push(&[&files[..], &[("notebook/round.py", &*module)]].concat());
    }
    let url = Server::url(How::Https).replace("://", &format!("://x-access-token:{}@", site.server.token()));
    let watch = Watch::of(site.machine.leader());
    let command = what.command(&url);
    let line = format!("b=$(date +%s%N); {command} >/dev/null || exit 1; e=$(date +%s%N); echo $((e - b))");
    let printed = site.machine.exec(&line).expect(0).out;
    Sample { ms: printed.trim().parse::<f64>().unwrap() / 1e6, used: watch.end() }
}

fn print(rounds: usize, samples: &BTreeMap<What, Vec<Sample>>) {
    let bare = &samples[&What::LsRemote];
    println!("\n{rounds} rounds, medians\n");
    println!(
        "| | ms | of git ls-remote | own processor time, ms | in units, ms | memory, MiB | processes: own, in units, others |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (what, all) in samples {
        let ratio = median(all.iter().zip(bare).map(|(sample, bare)| sample.ms / bare.ms));
        let of = |value: fn(&Sample) -> f64| median(all.iter().map(value));
        println!(
            "| {} | {:.0} | {ratio:.2} | {:.0} | {:.0} | {:.1} | {}, {}, {} |",
            what.title(),
            of(|sample| sample.ms),
            of(|sample| sample.used.processor_ms),
            of(|sample| sample.used.units_ms),
            of(|sample| sample.used.memory_mib),
            of(|sample| sample.used.own.into()),
            of(|sample| sample.used.units.into()),
            of(|sample| sample.used.others.into()),
        );
    }
}
