//! The time without the service: a bare restart and a refresh, on one installation, in turns.
//!
//! `cargo bench --bench downtime` installs the demo's application (`FastAPI` under uvicorn) without its hooks, so that
//! only the refresh itself is measured. Round after round and in a changing order it does: a bare restart through the
//! product's own service manager, a refresh with four changed files, one without changes, and one without staging. The
//! downtime is measured by a client: from the last successful answer to the first one after it. `docs/performance.md`
//! contains figures and explains them.
//!
//! Not a test: no speed makes it fail. `LADYLINUX_REFRESH_BENCH_ROUNDS` sets the number of rounds,
//! `LADYLINUX_REFRESH_TEST_PROGRAM` measures another build of the program.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]
#![allow(clippy::disallowed_methods, reason = "lays out files, starts threads and reads the clock itself")]
#![allow(clippy::print_stdout, clippy::disallowed_macros, reason = "its result is a table")]

#[path = "common/client.rs"]
mod client;
#[path = "../tests/support/host.rs"]
#[allow(dead_code, reason = "a benchmark uses a part")]
mod host;
#[path = "../tests/support/port.rs"]
mod port;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use client::{Client, median};
use host::Host;
use refresh_service::supervisor::Embedded;
use refresh_service::{Admission, ServiceManager as _};
use refresh_settings::layers::{Layers, Overrides};

/// The measured actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    BareRestart,
    FourFiles,
    NothingNew,
    NoStage,
}

impl Way {
    const ALL: [Self; 4] = [Self::BareRestart, Self::FourFiles, Self::NothingNew, Self::NoStage];

    fn title(self) -> &'static str {
        match self {
            Self::BareRestart => "bare restart",
            Self::FourFiles => "refresh, 4 files changed",
            Self::NothingNew => "refresh, nothing changed",
            Self::NoStage => "refresh --no-stage, 4 files",
        }
    }
}

/// One measurement, in milliseconds.
#[derive(Debug, Clone, Default)]
struct Sample {
    seen: f64,
    reported: Option<f64>,
    steps: BTreeMap<String, f64>,
}

fn main() {
    let rounds = std::env::var("LADYLINUX_REFRESH_BENCH_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|text| text.parse().ok()).unwrap_or(3);
    for large in [false, true] {
        let host = installed(large);
        let client = Client::of(host.port, None);
        let mut samples: BTreeMap<Way, Vec<Sample>> = BTreeMap::new();
        for round in 0..rounds {
            for turn in 0..Way::ALL.len() {
                let way = Way::ALL[(round + turn) % Way::ALL.len()];
                samples.entry(way).or_default().push(measure(&host, &client, way, round));
            }
        }
        print(&host, large, &samples);
    }
}

/// An installation of the demo's application whose first refresh has succeeded.
fn installed(large: bool) -> Host {
    let host = Host::bare();
    let settings = format!(
        "[remote]\nurl = \"{}\"\nallow = [\"git\"]\n[python]\n\
         [probe]\npath = \"/api/status\"\nsettle = \"150ms\"\n",
        host.url()
    );
    fs::write(host.layout.host_file(), settings).unwrap();
    let data = host.beside("data");
    let env = format!("LADYLINUX_PORT={}\nLADYLINUX_DATA={}\n", host.port, data.display());
    fs::write(host.layout.env_file(), env).unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/app"), &host.work());
    fs::remove_file(host.work().join("refresh.toml")).unwrap();
    if large {
        enlarge(&host.work());
    }
    host.push(&[("edition.txt", "0\n")]);
    host.init();
    host.tool(["run"]).expect(0);
    host
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Fills the tree up to 409 files and about 12 MB, 68 of them binary.
fn enlarge(tree: &Path) {
    let mut seed = 1_u64;
    let mut byte = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    let have = count(tree) + 1;
    for number in have..409 {
        let directory = tree.join(format!("bulk/{}", number % 23));
        fs::create_dir_all(&directory).unwrap();
        if number - have < 68 {
            let bytes: Vec<u8> = (0..160_000).map(|_| byte()).collect();
            fs::write(directory.join(format!("{number}.bin")), bytes).unwrap();
        } else {
            let text: String = (0..60).map(|line| format!("{number} {line} {}\n", byte())).collect();
            fs::write(directory.join(format!("{number}.txt")), text).unwrap();
        }
    }
}

fn count(directory: &Path) -> usize {
    let entries =
        fs::read_dir(directory).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != ".git");
    entries.map(|entry| if entry.file_type().unwrap().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

/// Does the action once. Returns the time without a successful answer to the client.
fn measure(host: &Host, client: &Client, way: Way, round: usize) -> Sample {
    if matches!(way, Way::FourFiles | Way::NoStage) {
        let text = format!("{way:?} {round}\n");
        let style = format!("body {{ margin: {round}px }}\n");
        host.push(&[
            ("edition.txt", &text),
            ("assets/30-round.css", &style),
            ("notebook/round.py", &format!("ROUND = {round}  # {way:?}\n")),
            ("templates/round.html", &text),
        ]);
    }
    let service = (way == Way::BareRestart).then(|| {
        let settings = Layers::read(&host.layout, Overrides::default()).unwrap().resolve().unwrap();
        Embedded::new(settings.layout.clone(), settings.service.clone()).with_program(host::program().into())
    });
    client.begin();
    match (way, service) {
        (_, Some(service)) => {
            service.stop().unwrap();
            service.start(Admission::Ordinary).unwrap();
        }
        (Way::NoStage, _) => drop(host.tool(["run", "--no-stage"]).expect(0)),
        _ => drop(host.tool(["run"]).expect(0)),
    }
    let seen = client.end();
    if way == Way::BareRestart {
        return Sample { seen, ..Sample::default() };
    }
    let report = host.report();
    let steps = report["phases"].as_array().unwrap().iter();
    let steps = steps
        .map(|step| (step["phase"].as_str().unwrap().to_owned(), step["duration_ms"].as_f64().unwrap()))
        .collect();
    Sample { seen, reported: report["downtime_ms"].as_f64(), steps }
}

fn print(host: &Host, large: bool, samples: &BTreeMap<Way, Vec<Sample>>) {
    let (files, name) = (count(&host.layout.app()), if large { "large" } else { "small" });
    let rounds = samples[&Way::BareRestart].len();
    println!("\n{name} tree ({files} files), {rounds} rounds, medians in ms\n");
    println!(
        "| | downtime seen | reported | of the bare restart | stop | sync | environment | prepare | restart |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let bare = &samples[&Way::BareRestart];
    for (way, all) in samples {
        let seen = median(all.iter().map(|sample| sample.seen));
        let ratio = median(all.iter().zip(bare).map(|(sample, bare)| sample.seen / bare.seen));
        let mut line = format!("| {} | {seen:.0} | ", way.title());
        let reported: Vec<f64> = all.iter().filter_map(|sample| sample.reported).collect();
        let dash = || "–".to_owned();
        let shown = |values: Vec<f64>| {
            if values.is_empty() { dash() } else { format!("{:.0}", median(values.into_iter())) }
        };
        let _ = write!(line, "{} | {ratio:.2} |", shown(reported));
        for step in ["stop", "sync", "environment", "prepare", "restart"] {
            let values = all.iter().filter_map(|sample| sample.steps.get(step).copied()).collect();
            let _ = write!(line, " {} |", shown(values));
        }
        println!("{line}");
    }
}
