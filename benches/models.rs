//! How fast model files are verified: beside `sha256sum`, beside `openssl dgst -sha256`, and beside reading alone.
//!
//! `cargo bench --bench models` fills a temporary folder with 4 GiB that no compression shortens, reads them once so that
//! they lie in the page cache, and goes over them in turns: with one processor (everything is bound to it, our reading
//! thread too) and with all. Then what is known already: a second verification, and a thousand small files.
//! `docs/performance.md` holds figures and how to read them.
//!
//! Not a test: nothing here fails because of a speed. `LADYLINUX_REFRESH_BENCH_ROUNDS` sets the number of rounds,
//! `LADYLINUX_REFRESH_BENCH_MIB` another amount of data, `TMPDIR` its place.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "lays out files, starts programs and looks at the clock itself"
)]
#![allow(clippy::print_stdout, clippy::disallowed_macros, reason = "its result is a table")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ladylinux_refresh::disk;
use ladylinux_refresh::models::cache::Cache;
use ladylinux_refresh::models::engine::{Examined, How, all_threads, examine};
use ladylinux_refresh::models::{Algorithm, Claim, Digest, Finding, Header, Need};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const FILES: usize = 8;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Reading,
    Sha256sum,
    Openssl,
    Ours,
}

impl Way {
    const ALL: [Self; 4] = [Self::Reading, Self::Sha256sum, Self::Openssl, Self::Ours];

    fn title(self) -> &'static str {
        match self {
            Self::Reading => "reading without hashing",
            Self::Sha256sum => "`sha256sum`",
            Self::Openssl => "`openssl dgst -sha256`",
            Self::Ours => "`verify`",
        }
    }
}

/// One measurement, in seconds: on the wall, and of processors.
#[derive(Debug, Clone, Copy)]
struct Sample {
    wall: f64,
    processor: f64,
}

fn main() {
    let rounds = setting("ROUNDS", 2);
    let bytes = setting("MIB", 1024) << 20;
    let folder = place();
    let claims = fill(folder.path(), bytes);
    memory(&claims, all_threads());
    let all = sched_getaffinity(None).unwrap();
    let processors = all_threads();
    println!(
        "\n{FILES} files, {:.2} GB, {processors} processors, {rounds} rounds, medians\n",
        bytes as f64 / 1e9
    );
    for threads in [1, processors] {
        if threads == 1 {
            sched_setaffinity(None, &first_of(&all)).unwrap();
        }
        let mut samples: BTreeMap<Way, Vec<Sample>> = BTreeMap::new();
        for round in 0..rounds {
            for turn in 0..Way::ALL.len() {
                let way = Way::ALL[(round + turn) % Way::ALL.len()];
                samples.entry(way).or_default().push(measured(|| go(way, &claims, threads)));
            }
        }
        sched_setaffinity(None, &all).unwrap();
        print(threads, bytes, &samples);
    }
    others(&claims, bytes, processors);
    known(&claims, processors);
    for number in [1_000, 10_000] {
        many(number, processors);
    }
}

fn setting(name: &str, usual: usize) -> usize {
    let text = std::env::var(format!("LADYLINUX_REFRESH_BENCH_{name}")).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A temporary folder with no link in its path, as claims want it.
fn place() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::temp_dir().canonicalize().unwrap()).unwrap()
}

fn first_of(all: &CpuSet) -> CpuSet {
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|&number| all.is_set(number)).unwrap());
    one
}

/// Writes the files, so that they lie on the disk and in the page cache, and has `sha256sum` say their digests.
fn fill(folder: &Path, bytes: usize) -> Vec<Claim> {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut piece = vec![0_u8; 4 << 20];
    let paths: Vec<PathBuf> = (0..FILES).map(|number| folder.join(format!("{number}.gguf"))).collect();
    for path in &paths {
        let mut file = File::create(path).unwrap();
        let mut left = bytes / FILES;
        while left > 0 {
            for bytes in piece.chunks_exact_mut(8) {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            let length = left.min(piece.len());
            file.write_all(&piece[..length]).unwrap();
            left -= length;
        }
        file.sync_all().unwrap();
    }
    let said = Command::new("sha256sum").args(&paths).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let digests = said.lines().map(|line| line.split(' ').next().unwrap().to_owned());
    paths.into_iter().zip(digests).map(|(path, hex)| claim(path, Algorithm::Sha256, hex)).collect()
}

fn claim(path: PathBuf, algorithm: Algorithm, hex: String) -> Claim {
    Claim {
        shown: path.display().to_string(),
        size: Some(fs::metadata(&path).unwrap().len()),
        path,
        need: Need::Required,
        digest: Some(Digest { algorithm, hex }),
        from: "the benchmark".to_owned(),
        header: Header::None,
    }
}

fn measured(work: impl FnOnce()) -> Sample {
    let (before, begun) = (processor_time(), Instant::now());
    work();
    Sample { wall: begun.elapsed().as_secs_f64(), processor: processor_time() - before }
}

/// What this process and its children that have ended took of processors, in seconds. Source: proc(5), stat.
fn processor_time() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn go(way: Way, claims: &[Claim], threads: usize) {
    match way {
        Way::Reading => shared(claims, threads, |paths| paths.iter().for_each(|path| read(path))),
        Way::Sha256sum => shared(claims, threads, |paths| run("sha256sum", &[], paths)),
        Way::Openssl => shared(claims, threads, |paths| run("openssl", &["dgst", "-sha256"], paths)),
        Way::Ours => drop(verified(claims, &Cache::default(), threads)),
    }
}

/// Does the work in as many threads at the same time, each with its share of the files, which are all of one length.
fn shared(claims: &[Claim], threads: usize, work: impl Fn(&[&Path]) + Sync) {
    let paths: Vec<&Path> = claims.iter().map(|claim| claim.path.as_path()).collect();
    let work = &work;
    std::thread::scope(|scope| {
        for share in paths.chunks(paths.len().div_ceil(threads)) {
            scope.spawn(move || work(share));
        }
    });
}

fn read(path: &Path) {
    let mut file = File::open(path).unwrap();
    let mut piece = vec![0_u8; 1 << 20];
    while file.read(&mut piece).unwrap() > 0 {}
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) {
    let status = Command::new(program).args(arguments).args(paths).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
}

fn verified(claims: &[Claim], cache: &Cache, threads: usize) -> Examined {
    let examined = examine(claims, How::Full, cache, threads, &());
    assert!(examined.verdicts.iter().all(|verdict| verdict.finding == Finding::Verified));
    assert_eq!(examined.verdicts.len(), claims.len());
    examined
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(threads: usize, bytes: usize, samples: &BTreeMap<Way, Vec<Sample>>) {
    let what = if threads == 1 { "one processor" } else { "all processors" };
    println!(
        "| {what} | GB/s | GB per second of processor | speed beside `openssl` | the same per processor |"
    );
    println!("|---|---|---|---|---|");
    let gigabytes = bytes as f64 / 1e9;
    let openssl = &samples[&Way::Openssl];
    for (way, all) in samples {
        let pairs = || all.iter().zip(openssl);
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} |",
            way.title(),
            median(all.iter().map(|sample| gigabytes / sample.wall)),
            median(all.iter().map(|sample| gigabytes / sample.processor)),
            median(pairs().map(|(sample, openssl)| openssl.wall / sample.wall)),
            median(pairs().map(|(sample, openssl)| openssl.processor / sample.processor)),
        );
    }
    println!();
}

/// The other algorithms, once each: what is claimed is wrong, so that everything is read and compared.
fn others(claims: &[Claim], bytes: usize, threads: usize) {
    println!("| all processors, once | GB/s | GB per second of processor |\n|---|---|---|");
    for algorithm in [Algorithm::Sha512, Algorithm::Blake3, Algorithm::GitBlobSha1] {
        let wrong = "0".repeat(algorithm.digits());
        let claims: Vec<Claim> =
            claims.iter().map(|one| claim(one.path.clone(), algorithm, wrong.clone())).collect();
        let sample = measured(|| {
            let examined = examine(&claims, How::Full, &Cache::default(), threads, &());
            assert!(examined.verdicts.iter().all(|verdict| verdict.finding.word() == "digest-mismatch"));
        });
        let gigabytes = bytes as f64 / 1e9;
        let (wall, processor) = (gigabytes / sample.wall, gigabytes / sample.processor);
        println!("| {} | {wall:.2} | {processor:.2} |", algorithm.word());
    }
    println!();
}

/// How much memory a verification needs at its highest, beyond what this process has already.
fn memory(claims: &[Claim], threads: usize) {
    // Begins the highest anew. Source: proc(5), clear_refs.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory_of("VmRSS:");
    drop(verified(claims, &Cache::default(), threads));
    let after = memory_of("VmHWM:");
    let mib = |kib: u64| kib as f64 / 1024.0;
    println!(
        "memory: {:.1} MiB at most, {:.1} MiB of them for the verification",
        mib(after),
        mib(after - before)
    );
}

fn memory_of(what: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn known(claims: &[Claim], threads: usize) {
    let cache = remembered(claims, threads);
    let (middle, worst) = checked(claims, &cache, threads);
    println!("second verification of the same files: {middle:.2} ms, at worst {worst:.2} ms");
}

/// Verifies until every file is remembered: only those are that had not changed just before.
fn remembered(claims: &[Claim], threads: usize) -> Cache {
    loop {
        let cache = verified(claims, &Cache::default(), threads).cache;
        if cache.len() == claims.len() {
            return cache;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Reads the cache from disk and looks at every file, 21 times; the median and the worst, in milliseconds.
fn checked(claims: &[Claim], cache: &Cache, threads: usize) -> (f64, f64) {
    let folder = place();
    let path = folder.path().join("cache");
    fs::write(&path, cache.to_bytes()).unwrap();
    let times: Vec<f64> = (0..21)
        .map(|_| {
            let begun = Instant::now();
            let bytes = disk::read_at_most(&path, Cache::LIMIT).unwrap().unwrap();
            let cache = Cache::from_bytes(&bytes).unwrap();
            let examined = verified(claims, &cache, threads);
            let time = begun.elapsed().as_secs_f64() * 1000.0;
            assert!(examined.verdicts.iter().all(|verdict| verdict.cached && verdict.bytes_read == 0));
            time
        })
        .collect();
    (median(times.iter().copied()), times.iter().copied().fold(0.0, f64::max))
}

fn many(number: usize, threads: usize) {
    let folder = place();
    let claims: Vec<Claim> = (0..number)
        .map(|number| {
            let path = folder.path().join(format!("sha256-{number}"));
            fs::write(&path, "abc").unwrap();
            let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
            claim(path, Algorithm::Sha256, hex.to_owned())
        })
        .collect();
    let sample = measured(|| drop(verified(&claims, &Cache::default(), threads)));
    let cache = remembered(&claims, threads);
    let (middle, worst) = checked(&claims, &cache, threads);
    let first = sample.wall * 1000.0;
    println!("{number} small files: read {first:.1} ms, known {middle:.2} ms, at worst {worst:.2} ms");
}
