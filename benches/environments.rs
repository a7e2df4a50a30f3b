//! The cost of an environment beside the bare uv: the real requirements of LadyLinux.
//!
//! `cargo bench --bench environments` does, round after round, on a fresh installation: the first build, with an empty
//! cache; a second build, from the cache; a run that finds nothing to build; the comparison with the manifest; the
//! verification of every byte. In the same round it runs the usual commands: `uv venv` and `uv pip sync
//! --link-mode=copy --compile-bytecode` of a finished lock, with an empty cache and with a full one, and with `uv pip
//! compile` before them. The two sides take turns in going first. `docs/performance.md` contains figures and names the
//! compared pairs.
//!
//! Not a test: no speed makes it fail. `LADYLINUX_REFRESH_BENCH_ROUNDS` sets the number of rounds,
//! `LADYLINUX_REFRESH_TEST_PROGRAM` measures another build of the program. The package index is the real one.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]
#![allow(clippy::disallowed_methods, reason = "lays out files, starts programs and reads the clock itself")]
#![allow(clippy::print_stdout, clippy::disallowed_macros, reason = "its result is a table")]

#[path = "../tests/support/host.rs"]
#[allow(dead_code, reason = "a benchmark uses a part")]
mod host;
#[path = "../tests/support/port.rs"]
mod port;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use host::{Host, SERVER};
use refresh_environments::{Environments, Site};
use refresh_events::event::Events;
use refresh_programs::process::Runner;
use refresh_programs::units::Units;
use refresh_settings::layers::{Layers, Overrides};
use refresh_system::disk::Owner;

/// The requirements of a real LadyLinux.
const REQUIREMENTS: &str = include_str!("../tests/data/ladylinux-requirements.txt");

/// The number of repeated checks for changes: a single one is too short to be measured.
const LOOKS: u32 = 20;

/// The measured actions, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    BareCold,
    BareWarm,
    BareResolved,
    FirstLocked,
    FirstBuild,
    FromCache,
    Unchanged,
    Comparison,
    Verify,
}

impl What {
    fn title(self) -> &'static str {
        match self {
            Self::BareCold => "bare `uv venv`, `uv pip sync`, empty cache",
            Self::BareWarm => "the same, full cache",
            Self::BareResolved => "bare `uv pip compile` and the two, empty cache",
            Self::FirstLocked => "first build of a known lock, empty cache",
            Self::FirstBuild => "first build of a definition that is resolved, empty cache",
            Self::FromCache => "another build, full cache",
            Self::Unchanged => "nothing to build",
            Self::Comparison => "comparison with the manifest",
            Self::Verify => "every byte verified",
        }
    }

    /// The action that it is compared with.
    fn beside(self) -> Self {
        match self {
            Self::BareCold | Self::FirstLocked => Self::BareCold,
            Self::BareResolved | Self::FirstBuild => Self::BareResolved,
            _ => Self::BareWarm,
        }
    }
}

type Samples = BTreeMap<What, Vec<f64>>;

fn main() {
    let rounds = std::env::var("LADYLINUX_REFRESH_BENCH_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|text| text.parse().ok()).unwrap_or(3);
    let mut samples = Samples::new();
    // Not counted: afterwards a proxy or mirror of the index has the packages, for both sides alike.
    let lock = fs::read(ours(&installed(), &mut |_, _| ())).unwrap();
    for round in 0..rounds {
        let host = installed();
        let mut keep = |what: What, ms: f64| samples.entry(what).or_default().push(ms);
        let file = host.beside("pylock.bare.toml");
        fs::write(&file, &lock).unwrap();
        if round % 2 == 0 {
            ours(&host, &mut keep);
            bare(&host, &file, &mut keep);
        } else {
            bare(&host, &file, &mut keep);
            ours(&host, &mut keep);
        }
    }
    print(rounds, &samples);
}

/// An installation that has built nothing yet; only uv exists.
fn installed() -> Host {
    let host = Host::bare();
    fs::remove_file(host.layout.uv().join("cache")).unwrap();
    host.push(&[("server.py", SERVER), ("version.txt", "one\n")]);
    host.init();
    host.push(&[("requirements.txt", REQUIREMENTS)]);
    host
}

/// Measures the program. Returns its lock. Without staging, so step 3 contains all work on the environment.
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
    step(What::FromCache, &["run", "--no-stage", "--always-rebuild-venv"]);
    step(What::Unchanged, &["run", "--no-stage"]);
    fs::remove_dir_all(host.layout.uv().join("cache")).unwrap();
    step(What::FirstLocked, &["run", "--no-stage", "--always-rebuild-venv"]);
    let settings = Layers::read(&host.layout, Overrides::default()).unwrap().resolve().unwrap();
    let runner = Runner::new(Arc::new(Events::silent())).with_worker(host::pool::program());
    let (python, owner) = (&settings.python, Owner::own());
    let units = Units::new(&host.layout, &runner, owner);
    let site = Site { runner: &runner, layout: &host.layout, python, owner, offline: false, units: &units };
    let environments = Environments::new(site);
    let current = environments.current().unwrap();
    let looks = elapsed(|| {
        (0..LOOKS).for_each(|_| drop(environments.contamination(current.recorded().unwrap()).unwrap()));
    });
    keep(What::Comparison, looks / f64::from(LOOKS));
    keep(What::Verify, elapsed(|| drop(host.tool(["verify", "--environment"]).expect(0))));
    let lock = host.beside("pylock.toml");
    fs::write(&lock, host.tool(["lock"]).expect(0).out).unwrap();
    lock
}

/// Measures the bare uv, with the lock that the program has made.
fn bare(host: &Host, lock: &Path, keep: &mut impl FnMut(What, f64)) {
    let cache = host.beside("bare-cache");
    let venv = host.beside("bare");
    let uv = host::pool::uv(&host.layout);
    let run = |arguments: &[&str], more: &[&Path]| {
        let mut command = host.command([""; 0]);
        let environment: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
        command = Command::new(&uv);
        command.env_clear().args(["--no-config", "--quiet"]).args(arguments).args(more);
        command.current_dir(host.beside(".")).env("UV_CACHE_DIR", &cache);
        command.envs(environment.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    for what in [What::BareCold, What::BareWarm] {
        let _ = fs::remove_dir_all(&venv);
        let ms = elapsed(|| {
            run(&["venv", "--python"], &[Path::new("/usr/bin/python3"), &venv]);
            let sync = ["pip", "sync", "--link-mode", "copy", "--compile-bytecode", "--python"];
            run(&sync, &[&venv.join("bin/python"), lock]);
        });
        keep(what, ms);
    }
    let _ = fs::remove_dir_all(&cache);
    let _ = fs::remove_dir_all(&venv);
    let (definition, resolved) = (host.beside("definition.txt"), host.beside("pylock.resolved.toml"));
    fs::write(&definition, REQUIREMENTS).unwrap();
    let ms = elapsed(|| {
        run(&["venv", "--python"], &[Path::new("/usr/bin/python3"), &venv]);
        let compile = ["pip", "compile", "--universal", "--format", "pylock.toml", "--python"];
        let python = venv.join("bin/python");
        run(&compile, &[&python, Path::new("--output-file"), &resolved, &definition]);
        let sync = ["pip", "sync", "--link-mode", "copy", "--compile-bytecode", "--python"];
        run(&sync, &[&python, &resolved]);
    });
    keep(What::BareResolved, ms);
    let _ = fs::remove_dir_all(&cache);
}

/// Returns the duration of an action, in milliseconds.
fn elapsed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1000.0
}

fn print(rounds: usize, samples: &Samples) {
    println!("\n{rounds} rounds, medians\n");
    println!("| | ms | of the bare one |");
    println!("|---|---|---|");
    for (what, all) in samples {
        let beside = &samples[&what.beside()];
        let ratio = median(all.iter().zip(beside).map(|(one, bare)| one / bare));
        println!("| {} | {:.0} | {ratio:.2} |", what.title(), median(all.iter().copied()));
    }
}

/// Returns the median of some values.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}
