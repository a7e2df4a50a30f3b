//! The growth of the time of each phase: large trees, long histories, many local changes, large environments, many past
//! runs.
//!
//! `cargo bench --bench scale` refreshes installations below a temporary directory and does the same with bare git and
//! bare uv in the same round: trees of 1,000 and 10,000 files against `git fetch && git reset --hard && git clean
//! -ffd`, 10,000 commits against `git fetch`, 10,000 local changes against `git stash --include-untracked`, an
//! environment of 50,000 files against `uv venv` and `uv pip sync`, and 10,000 past runs against two.
//! `LADYLINUX_REFRESH_LONG=1` adds a tree of 100,000 files. `docs/performance.md` contains figures and explains them.
//!
//! Not a test: no speed makes it fail. `LADYLINUX_REFRESH_BENCH_ROUNDS` sets the number of rounds (1).
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]
#![allow(clippy::disallowed_methods, reason = "lays out files, starts programs and reads the clock itself")]
#![allow(clippy::print_stdout, clippy::disallowed_macros, reason = "its result is a table")]

#[path = "common/client.rs"]
#[allow(dead_code, reason = "a benchmark without a client")]
mod client;
#[path = "../tests/support/host.rs"]
#[allow(dead_code, reason = "a benchmark uses a part")]
mod host;
#[path = "../tests/support/port.rs"]
mod port;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use client::median;
use host::{Host, SERVER, git};

/// Samples by row and column in the order of measurement, in milliseconds. The others are compared with the column
/// [`BARE`].
type Samples = Vec<((String, &'static str), Vec<f64>)>;

/// The column of bare git or bare uv.
const BARE: &str = "bare";

fn main() {
    let rounds = std::env::var("LADYLINUX_REFRESH_BENCH_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|text| text.parse().ok()).unwrap_or(1);
    let is_long = std::env::var_os("LADYLINUX_REFRESH_LONG").is_some();
    let sizes: &[usize] = if is_long { &[1_000, 10_000, 100_000] } else { &[1_000, 10_000] };
    let mut samples = Samples::new();
    for size in sizes {
        tree(*size, rounds, &mut samples);
    }
    commits(10_000, &mut samples);
    local_changes(10_000, rounds, &mut samples);
    environment(&mut samples);
    past_runs(10_000, rounds, &mut samples);
    print(rounds, &samples);
}

/// A tree of many files, four of which change: step 2, and with `--no-stage`, beside git's three commands.
fn tree(size: usize, rounds: usize, samples: &mut Samples) {
    let host = installed(&|work| fill(work, size));
    let bare = bare_clone(&host);
    let row = format!("{size} files");
    for round in 0..rounds {
        for no_stage in [false, true] {
            change(&host, &format!("{round} {no_stage}\n"));
            let ours = |samples: &mut Samples| {
                host.tool(if no_stage { &["run", "--no-stage"][..] } else { &["run"] }).expect(0);
                let steps = steps(&host);
                if no_stage {
                    keep(samples, &row, "step 2 --no-stage", steps["sync"]);
                } else {
                    keep(samples, &row, "staging", steps["staging"]);
                    keep(samples, &row, "step 2", steps["sync"]);
                    keep(samples, &row, "status", steps["status"]);
                }
            };
            if round % 2 == 0 {
                ours(samples);
            }
            let line = "git fetch --quiet && git reset --quiet --hard origin/main && git clean -ffdq";
            let ms = shell(&bare, line);
            keep(samples, &row, BARE, ms);
            if round % 2 == 1 {
                ours(samples);
            }
        }
    }
}

/// A history that is fetched for the first time, beside `git fetch` of the same history.
fn commits(count: usize, samples: &mut Samples) {
    let host = installed(&|_| ());
    let bare = bare_clone(&host);
    let row = format!("{count} commits");
    add_commits(&host.work(), count);
    git(&host.work(), ["push", "--quiet", "origin", "HEAD"]);
    host.tool(["run"]).expect(0);
    keep(samples, &row, "staging", steps(&host)["staging"]);
    keep(samples, &row, "step 2", steps(&host)["sync"]);
    keep(samples, &row, BARE, shell(&bare, "git fetch --quiet && git reset --quiet --hard origin/main"));
    keep(samples, &row, "plan", timed(|| drop(host.tool(["plan"]).expect(0))));
}

/// Files changed and added manually, beside `git stash`.
fn local_changes(count: usize, rounds: usize, samples: &mut Samples) {
    let host = installed(&|work| fill(work, count / 2));
    let bare = bare_clone(&host);
    let row = format!("{count} local changes");
    for _ in 0..rounds {
        for tree in [host.layout.app(), bare.clone()] {
            for number in 0..count / 2 {
                fs::write(tree.join(path_of(number)), format!("{number} by hand\n")).unwrap();
                fs::write(tree.join(format!("new-{number}.txt")), format!("{number}\n")).unwrap();
            }
        }
        host.tool(["run"]).expect(0);
        let steps = steps(&host);
        for step in ["staging", "sync", "status"] {
            let name = if step == "sync" { "step 2" } else { step };
            keep(samples, &row, name, steps[step]);
        }
        keep(samples, &row, BARE, shell(&bare, "git stash --quiet --include-untracked"));
    }
}

/// An environment of 50,000 files.
fn environment(samples: &mut Samples) {
    let host = installed(&|_| ());
    let wheels = host.beside("wheels");
    fs::create_dir(&wheels).unwrap();
    let made = Command::new("python3").args(["-I", "-c", LARGE_PACKAGE]).arg(&wheels).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let index = format!("index_url = \"file://{}\"", wheels.join("simple").display());
    host.configure_python(&index);
    host.push(&[("requirements.txt", "large==1.0\n")]);
    let row = "environment of 50,000 files".to_owned();
    for (arguments, column) in [
        (&["run", "--no-stage"][..], "first build"),
        (&["run", "--no-stage", "--always-rebuild-venv"], "rebuild"),
        (&["run", "--no-stage"], "unchanged"),
    ] {
        host.tool(arguments).expect(0);
        keep(samples, &row, column, steps(&host)["environment"]);
    }
    keep(samples, &row, "verify", timed(|| drop(host.tool(["verify", "--environment"]).expect(0))));
    let uv = host::pool::uv(&host.layout);
    let line = format!(
        "export UV_CACHE_DIR=$PWD/cache UV_NO_CONFIG=1; {uv} venv --quiet venv && {uv} pip install --quiet --python \
         venv/bin/python --link-mode copy --compile-bytecode --no-deps {wheel}",
        uv = uv.display(),
        wheel = wheels.join("large-1.0-py3-none-any.whl").display(),
    );
    keep(samples, &row, BARE, shell(&host.beside(""), &line));
}

/// Many runs in the past, beside two.
fn past_runs(count: usize, rounds: usize, samples: &mut Samples) {
    let host = installed(&|_| ());
    let row = format!("{count} past runs");
    for _ in 0..rounds {
        change(&host, "before\n");
        keep(samples, &row, BARE, timed(|| drop(host.tool(["run"]).expect(0))));
        keep(samples, &row, "status before", timed(|| drop(host.tool(["status"]).expect(0))));
        let last = host.runs().pop().unwrap();
        let name = last.file_name().unwrap().to_str().unwrap().to_owned();
        for number in 0..count {
            let copy = last.with_file_name(format!("20200101T000000{number:05}Z-1"));
            fs::create_dir(&copy).unwrap();
            for file in ["report.json", "journal.jsonl"] {
                let Ok(text) = fs::read_to_string(last.join(file)) else { continue };
                fs::write(copy.join(file), text.replace(&name, copy.file_name().unwrap().to_str().unwrap()))
                    .unwrap();
            }
        }
        keep(samples, &row, "status", timed(|| drop(host.tool(["status"]).expect(0))));
        keep(samples, &row, "history", timed(|| drop(host.tool(["history"]).expect(0))));
        change(&host, "after\n");
        keep(samples, &row, "run, which removes all but 200", timed(|| drop(host.tool(["run"]).expect(0))));
    }
}

/// An installation whose first refresh has succeeded.
fn installed(more: &dyn Fn(&Path)) -> Host {
    let host = Host::bare();
    host.push(&[("server.py", SERVER), ("version.txt", "one\n"), ("requirements.txt", "six==1.16.0\n")]);
    more(&host.work());
    host.push(&[("version.txt", "two\n")]);
    host.init();
    host.tool(["run"]).expect(0);
    host
}

/// A clone for the bare commands.
fn bare_clone(host: &Host) -> PathBuf {
    let bare = host.beside("bare");
    git(&host.beside(""), ["clone", "--quiet", &host.url(), bare.to_str().unwrap()]);
    bare
}

/// Returns the path of the file with this number.
fn path_of(number: usize) -> String {
    format!("bulk/{}/{number}.txt", number / 100)
}

fn fill(work: &Path, size: usize) {
    for number in 0..size {
        let path = work.join(path_of(number));
        if number % 100 == 0 {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(path, format!("{number}\n").repeat(20)).unwrap();
    }
}

/// Pushes four changed files.
fn change(host: &Host, text: &str) {
    let last = path_of(99);
    host.push(&[("version.txt", text), ("a.txt", text), ("b/c.txt", text), (&last, text)]);
}

/// Adds empty commits to the branch by `git fast-import`, which starts one process for all.
fn add_commits(work: &Path, count: usize) {
    let head = git(work, ["rev-parse", "HEAD"]);
    let mut stream = String::new();
    for number in 0..count {
        stream += "commit refs/heads/main\ncommitter A <a@example.com> 1700000000 +0000\ndata 2\nx\n";
        if number == 0 {
            stream += &format!("from {head}\n");
        }
        stream += &format!("M 100644 inline count.txt\ndata <<E\n{number}\nE\n\n");
    }
    let file = work.join(".git/stream");
    fs::write(&file, stream).unwrap();
    shell(work, "git fast-import --quiet --force <.git/stream && git reset --quiet --hard main");
}

/// Runs a line of the shell in a directory. Returns its duration.
fn shell(directory: &Path, line: &str) -> f64 {
    timed(|| {
        let ran = Command::new("sh").args(["-ec", line]).current_dir(directory).output().unwrap();
        assert!(ran.status.success(), "{line}: {ran:?}");
    })
}

/// The steps of the last run, in milliseconds.
fn steps(host: &Host) -> BTreeMap<String, f64> {
    let report = host.report();
    let phases = report["phases"].as_array().unwrap().iter();
    let pair = |phase: &serde_json::Value| {
        (phase["phase"].as_str().unwrap().to_owned(), phase["duration_ms"].as_f64().unwrap())
    };
    phases.map(pair).collect()
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1000.0
}

fn keep(samples: &mut Samples, row: &str, column: &'static str, ms: f64) {
    let key = (row.to_owned(), column);
    match samples.iter_mut().find(|(its, _)| *its == key) {
        Some((_, all)) => all.push(ms),
        None => samples.push((key, vec![ms])),
    }
}

fn print(rounds: usize, samples: &Samples) {
    println!("\n{rounds} rounds, medians\n");
    println!("| | phase | ms | of the bare one |");
    println!("|---|---|---|---|");
    for ((row, column), all) in samples {
        let (_, bare) = samples.iter().find(|((its, name), _)| its == row && *name == BARE).unwrap();
        let bare = median(bare.iter().copied());
        let ms = median(all.iter().copied());
        println!("| {row} | {column} | {ms:.0} | {:.2} |", ms / bare);
    }
}

/// Writes a wheel of 35,000 files, 15,000 of them Python, and an index page for it.
const LARGE_PACKAGE: &str = r#"
import base64, hashlib, os, sys, zipfile
directory = sys.argv[1]
info = "large-1.0.dist-info"
wheel = os.path.join(directory, "large-1.0-py3-none-any.whl")
record = []
with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as out:
    def add(path, text):
        data = text.encode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(data)}\n")
        out.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), data)
    for number in range(15000):
        add(f"large/part_{number // 100}/module_{number}.py", f"NUMBER = {number}\n")
    for number in range(20000):
        add(f"large/data_{number // 100}/{number}.txt", f"{number}\n" * 20)
    add("large/__init__.py", "")
    add(f"{info}/METADATA", "Metadata-Version: 2.1\nName: large\nVersion: 1.0\n\n")
    add(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    out.writestr(f"{info}/RECORD", "".join(record) + f"{info}/RECORD,,\n")
digest = hashlib.sha256(open(wheel, "rb").read()).hexdigest()
page = os.path.join(directory, "simple", "large")
os.makedirs(page)
link = f'<a href="file://{wheel}#sha256={digest}">large-1.0-py3-none-any.whl</a>'
open(os.path.join(page, "index.html"), "w").write(f"<!DOCTYPE html><html><body>{link}</body></html>\n")
"#;
