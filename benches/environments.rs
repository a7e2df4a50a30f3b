//! What an environment costs beside the bare tools: the real requirements of LadyLinux, with uv and with pip.
//!
//! `cargo bench --bench environments` does, round after round, on a fresh installation: the first build, with an empty
//! store and empty caches; a second build, from the store; a run that finds nothing to build; the look for changes by
//! hand; the verification of every byte. And in the same round what people type: `uv venv` and `uv pip sync`, `python
//! -m venv` and `pip install`, with an empty cache and with one that has everything. `docs/benchmarks.md` holds figures
//! and tells what is compared with what.
//!
//! Not a test: nothing here fails because of a speed. `LADYLINUX_REFRESH_BENCH_ROUNDS` sets the number of rounds,
//! `LADYLINUX_REFRESH_TEST_PROGRAM` measures another build of the program. The package index is the real one.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "lays out files, starts programs and looks at the clock itself"
)]
#![allow(clippy::print_stdout, clippy::disallowed_macros, reason = "its result is a table")]

#[path = "../tests/common/host.rs"]
mod host;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use host::{Host, SERVER};
use ladylinux_refresh::event::Events;
use ladylinux_refresh::process::{Owner, Runner};
use ladylinux_refresh::python::{Environments, Site};
use ladylinux_refresh::settings::layers::{Layers, Overrides};

/// What a real LadyLinux asks for.
const REQUIREMENTS: &str = include_str!("../tests/data/ladylinux-requirements.txt");

/// How often the look for changes is repeated: one is too short to be measured.
const LOOKS: u32 = 20;

/// What is measured, in the order of doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    BareCold,
    BareWarm,
    BareWarmCompiled,
    FirstBuild,
    FromStore,
    Unchanged,
    Contamination,
    Verify,
}

/// The installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Uv,
    Pip,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Uv => "uv",
            Self::Pip => "pip",
        }
    }
}

impl What {
    fn title(self, by: By) -> &'static str {
        match (self, by) {
            (Self::BareCold, By::Uv) => "bare `uv venv`, `uv pip sync`, empty cache",
            (Self::BareWarm, _) => "the same, full cache",
            (Self::BareWarmCompiled, _) => "the same, full cache, copied and compiled",
            (Self::BareCold, By::Pip) => "bare `python -m venv`, `pip install`, empty cache",
            (Self::FirstBuild, _) => "first build, empty store and cache",
            (Self::FromStore, _) => "another build, from the store",
            (Self::Unchanged, _) => "nothing to build",
            (Self::Contamination, _) => "look for changes by hand",
            (Self::Verify, _) => "every byte verified",
        }
    }

    /// What it is compared with.
    fn beside(self) -> Self {
        if self == Self::BareCold || self == Self::FirstBuild { Self::BareCold } else { Self::BareWarm }
    }
}

type Samples = BTreeMap<What, Vec<f64>>;

fn main() {
    let rounds = std::env::var("LADYLINUX_REFRESH_BENCH_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|text| text.parse().ok()).unwrap_or(3);
    for by in [By::Uv, By::Pip] {
        let mut samples = Samples::new();
        for _ in 0..rounds {
            let host = installed(by);
            let mut keep = |what: What, ms: f64| samples.entry(what).or_default().push(ms);
            // The program first: whatever stands between here and the index knows nothing of the packages yet.
            let lock = ours(&host, &mut keep);
            bare(&host, by, &lock, &mut keep);
        }
        print(by, rounds, &samples);
    }
}

/// An installation that has built nothing yet; only the tools are there.
fn installed(by: By) -> Host {
    let host = Host::bare();
    let settings = host.settings("").replace("installer = \"uv\"", &format!("installer = \"{}\"", by.name()));
    fs::write(host.layout.host_file(), settings).unwrap();
    for name in ["uv", "pip"] {
        fs::remove_file(host.layout.cache().join(name)).unwrap();
    }
    host.push(&[("server.py", SERVER), ("version.txt", "one\n")]);
    host.init();
    host.push(&[("requirements.txt", REQUIREMENTS)]);
    host
}

/// Measures the program, and returns the list that it has locked. Without staging, so that step 3 is all there is about
/// the environment.
fn ours(host: &Host, keep: &mut impl FnMut(What, f64)) -> PathBuf {
    let mut step = |what: What, arguments: &[&str]| {
        host.tool(arguments).expect(0);
        let report = host.report();
        let phases = report["phases"].as_array().unwrap();
        let step = phases.iter().find(|phase| phase["phase"] == "environment").unwrap();
        assert_eq!(report["environment"]["built"], what != What::Unchanged);
        keep(what, step["duration_ms"].as_f64().unwrap());
    };
    step(What::FirstBuild, &["run", "--no-stage"]);
    step(What::FromStore, &["run", "--no-stage", "--always-rebuild-venv"]);
    step(What::Unchanged, &["run", "--no-stage"]);
    let settings = Layers::read(&host.layout, Overrides::default()).unwrap().resolve().unwrap();
    let runner = Runner::new(Arc::new(Events::silent()));
    let site = Site { runner: &runner, layout: &host.layout, python: &settings.python, owner: Owner::own() };
    let environments = Environments::new(site);
    let current = environments.current().unwrap();
    let looks = elapsed(|| {
        (0..LOOKS).for_each(|_| drop(environments.contamination(current.generation().unwrap()).unwrap()));
    });
    keep(What::Contamination, looks / f64::from(LOOKS));
    keep(What::Verify, elapsed(|| drop(host.tool(["verify", "--environment"]).expect(0))));
    let lock = host.beside("locked.txt");
    fs::write(&lock, host.tool(["lock", "--format", "requirements"]).expect(0).out).unwrap();
    lock
}

/// Measures the bare tools: uv is given the whole locked list, as `uv pip sync` wants it, pip what people give it.
fn bare(host: &Host, by: By, lock: &Path, keep: &mut impl FnMut(What, f64)) {
    let cache = host.beside("bare-cache");
    let list = host.beside("requirements.txt");
    fs::write(&list, REQUIREMENTS).unwrap();
    let run = |program: &Path, arguments: &[&str], more: &[&Path]| {
        let mut command = host.command([""; 0]);
        let environment: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
        command = Command::new(program);
        command.env_clear().args(arguments).args(more).current_dir(host.beside("."));
        command.envs(environment.into_iter().filter_map(|(name, value)| Some((name, value?))));
        command.env("UV_CACHE_DIR", &cache).env("PIP_CACHE_DIR", &cache);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{} {arguments:?}: {output:?}", program.display());
    };
    let python = Path::new("/usr/bin/python3");
    let venv = host.beside("bare");
    let mut measure = |what: What, options: &[&str]| {
        let _ = fs::remove_dir_all(&venv);
        let ms = match by {
            By::Uv => elapsed(|| {
                let uv = uv(host);
                run(&uv, &["--no-config", "--quiet", "venv", "--python"], &[python, &venv]);
                let sync = ["--no-config", "--quiet", "pip", "sync"];
                let inside = venv.join("bin/python");
                run(&uv, &[&sync[..], options, &["--python"]].concat(), &[&inside, lock]);
            }),
            By::Pip => elapsed(|| {
                run(python, &["-m", "venv"], &[&venv]);
                run(&venv.join("bin/pip"), &["install", "--quiet", "--requirement"], &[&list]);
            }),
        };
        keep(what, ms);
    };
    measure(What::BareCold, &[]);
    measure(What::BareWarm, &[]);
    if by == By::Uv {
        measure(What::BareWarmCompiled, &["--compile-bytecode", "--link-mode", "copy"]);
    }
    let _ = fs::remove_dir_all(&cache);
}

/// The uv that the program has fetched for itself.
fn uv(host: &Host) -> PathBuf {
    let tools = fs::read_dir(host.layout.tools()).unwrap().map(|entry| entry.unwrap().path().join("uv"));
    tools.into_iter().find(|uv| uv.is_file()).expect("uv is there")
}

/// How long something takes, in milliseconds.
fn elapsed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1000.0
}

fn print(by: By, rounds: usize, samples: &Samples) {
    println!("\n{}, {rounds} rounds, medians\n", by.name());
    println!("| | ms | of the bare one |");
    println!("|---|---|---|");
    for (what, all) in samples {
        let beside = &samples[&what.beside()];
        let ratio = median(all.iter().zip(beside).map(|(one, bare)| one / bare));
        println!("| {} | {:.0} | {ratio:.2} |", what.title(by), median(all.iter().copied()));
    }
}

/// The middle of some values.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}
