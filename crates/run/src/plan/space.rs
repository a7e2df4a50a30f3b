//! Checks the free space on file systems and in memory before the service is stopped: for the files that a refresh
//! fetches, prepares and builds, and for those that it writes while the service is down.
//!
//! Reads sizes and the kernel's tables; changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refresh_installation::installation::{Installation, Release};
use refresh_installation::status_file;
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::disk::Usage;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::text::size;

const MIB: u64 = 1 << 20;
/// The free space that a refresh needs on a file system that it writes to: the mirror, a cache and a small environment.
const FREE_BYTES: u64 = 256 * MIB;
/// The free inodes that a refresh needs: an environment of the usual size has about 5,000.
const FREE_INODES: u64 = 12_000;
/// The bytes that a run writes while the service is down: journal, report, status, index.
const WHILE_DOWN: u64 = 32 * MIB;
/// The bytes that it writes below `/run` then: the admission of the service through the fence, events.
const WHILE_DOWN_IN_MEMORY: u64 = MIB;
/// The free memory that a refresh needs beside the running service: git, the installer and their caches.
const FREE_MEMORY: u64 = 96 * MIB;
/// The largest number of entries of an environment that are added up; the size of a larger one is underestimated.
const ENTRIES: u64 = 500_000;

/// The kind of data that a run creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Makes {
    /// It fetches a commit and may build an environment.
    New,
    /// It returns to existing data. A full disk may be the reason for the rollback.
    Nothing,
}

/// The data to be created in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Need {
    /// The place.
    path: PathBuf,
    /// Bytes on disk.
    bytes: u64,
    /// Files and directories.
    inodes: u64,
    /// The name of the data, for people; empty for data that every run needs.
    what: String,
}

impl Need {
    fn of_every_run(path: PathBuf, makes: Makes) -> Self {
        let (bytes, inodes) = match makes {
            Makes::New => (FREE_BYTES, FREE_INODES),
            Makes::Nothing => (WHILE_DOWN, 1000),
        };
        Self { path, bytes, inodes, what: String::new() }
    }
}

/// Checks that there is space for the data of every refresh, and enough memory.
///
/// # Errors
/// A file system or the memory has less; or the kernel cannot be queried.
pub fn check(on: &Installation, makes: Makes) -> Outcome<()> {
    enough_memory(&read_meminfo()?)?;
    check_needs(&[on.layout.state(), on.layout.store()].map(|path| Need::of_every_run(path, makes)))
        .map_err(|failure| with_cache(failure, &on.layout))
}

/// Adds the command that removes a large cache of uv. Nothing else limits its size.
fn with_cache(failure: Failure, layout: &Layout) -> Failure {
    let cache = layout.uv().join("cache");
    let bytes = disk::usage(&cache, ENTRIES).bytes;
    cache_hint(&cache, bytes).into_iter().fold(failure, Failure::hint)
}

fn cache_hint(cache: &Path, bytes: u64) -> Option<Hint> {
    let purpose = || format!("remove the cache of uv, {}", size(bytes));
    (bytes >= FREE_BYTES).then(|| Hint::command("rm -r", &[&cache]).with_purpose(&purpose()))
}

/// Checks, when the commit is known, that there is space for its tree. If its definitions differ from those of the
/// deployed commit, also checks the space for an environment of the size of the live one.
///
/// # Errors
/// A file system has less; or the mirror or the environment cannot be read.
pub(crate) fn check_for(on: &Installation, release: &Release, makes: Makes) -> Outcome<()> {
    let files = on.mirror.files(&release.commit)?;
    let bytes = files.iter().map(|file| on_disk(file.size.unwrap_or_default())).sum();
    let what = format!("the tree of {}", release.commit.short());
    let mut needs = vec![
        Need::of_every_run(on.layout.store(), makes),
        Need { path: on.layout.store(), bytes, inodes: files.len() as u64, what },
    ];
    let deployed = status_file::read(&on.layout).deployed;
    let before = deployed.and_then(|pair| on.release(&pair.commit).ok());
    if before.is_none_or(|before| before.definitions.requirements() != release.definitions.requirements()) {
        let live = on.layout.venv().canonicalize().unwrap_or_else(|_| on.layout.venv());
        let Usage { bytes, entries: inodes, .. } = disk::usage(&live, ENTRIES);
        let what = "an environment of the size of the live one".to_owned();
        needs.push(Need { path: on.layout.environments(), bytes, inodes, what });
    }
    check_needs(&needs).map_err(|failure| with_cache(failure, &on.layout))
}

/// Checks, at the end of staging, that the files that are written while the service is down fit on the disk.
///
/// # Errors
/// A file system has less.
pub(crate) fn check_while_down(on: &Installation) -> Outcome<()> {
    check_needs(&needs_while_down(&on.layout))
}

fn needs_while_down(layout: &Layout) -> Vec<Need> {
    let need = |path, bytes| Need { path, bytes, inodes: bytes / (32 << 10), what: String::new() };
    let on_disk = [layout.state(), layout.store(), layout.home()].map(|path| need(path, WHILE_DOWN));
    on_disk.into_iter().chain([need(layout.volatile(), WHILE_DOWN_IN_MEMORY)]).collect()
}

/// Checks each file system: the needs of every run count once, the needs of this run are added up.
fn check_needs(needs: &[Need]) -> Outcome<()> {
    let mut by_device: BTreeMap<u64, Vec<(&Need, PathBuf)>> = BTreeMap::new();
    for need in needs {
        let place = nearest(&need.path);
        let found = fs::metadata(&place).context(|| format!("cannot read {}", place.display()))?;
        by_device.entry(found.dev()).or_default().push((need, place));
    }
    for needs in by_device.values() {
        let Some((_, place)) = needs.first() else { continue };
        let found = rustix::fs::statvfs(place).context(|| format!("cannot read {}", place.display()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        // Some file systems (btrfs) do not count inodes.
        let free_inodes = (found.f_files > 0).then_some(found.f_favail);
        let needs: Vec<&Need> = needs.iter().map(|(need, _)| *need).collect();
        enough(place, free, free_inodes, &needs)?;
    }
    Ok(())
}

fn enough(place: &Path, free: u64, free_inodes: Option<u64>, needs: &[&Need]) -> Outcome<()> {
    let (common, own): (Vec<&Need>, Vec<&Need>) = needs.iter().partition(|need| need.what.is_empty());
    let total = |of: fn(&Need) -> u64| {
        common.iter().map(|need| of(need)).max().unwrap_or_default()
            + own.iter().map(|need| of(need)).sum::<u64>()
    };
    let (bytes, inodes) = (total(|need| need.bytes), total(|need| need.inodes));
    let named: Vec<String> =
        own.iter().map(|need| format!("{} for {}", need.bytes.div_ceil(MIB), need.what)).collect();
    let named = if named.is_empty() { String::new() } else { format!(", among them {}", named.join(", ")) };
    if free < bytes {
        return Err(Failure::new(format!(
            "{} has only {} MiB free; {} are needed{named}",
            place.display(),
            free / MIB,
            bytes.div_ceil(MIB)
        ))
        .command("df -h", &[&place]));
    }
    match free_inodes {
        Some(free) if free < inodes => {
            Err(Failure::new(format!("{} has only {free} inodes free; {inodes} are needed", place.display()))
                .command("df -i", &[&place]))
        }
        _ => Ok(()),
    }
}

/// Returns the path, or the nearest existing directory above it.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(path).to_path_buf()
}

/// Returns the disk space of a file, in full blocks.
fn on_disk(bytes: u64) -> u64 {
    bytes.div_ceil(4096) * 4096
}

fn read_meminfo() -> Outcome<String> {
    fs::read_to_string("/proc/meminfo").context(|| "cannot read /proc/meminfo".to_owned())
}

/// Checks that the memory that the kernel can still allocate, including swap, is enough.
fn enough_memory(meminfo: &str) -> Outcome<()> {
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    // If the kernel does not report it, the memory counts as sufficient.
    let Some(available) = kib("MemAvailable") else { return Ok(()) };
    let free = (available + kib("SwapFree").unwrap_or_default()) * 1024;
    if free >= FREE_MEMORY {
        return Ok(());
    }
    Err(Failure::new(format!(
        "this machine has only {} MiB of memory left beside what runs; {} are needed, or the kernel may end the service",
        free / MIB,
        FREE_MEMORY / MIB
    ))
    .hint("free -h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(mib: u64, what: &str) -> Need {
        Need { path: PathBuf::from("/store"), bytes: mib * MIB, inodes: 10, what: what.to_owned() }
    }

    #[test]
    fn the_reserve_counts_once_on_a_file_system_and_the_needs_of_this_run_are_added() {
        let all = [need(256, ""), need(256, ""), need(300, "the tree"), need(100, "an environment")];
        let all: Vec<&Need> = all.iter().collect();
        let refusal = |free: u64| {
            let checked = enough(Path::new("/store"), free * MIB, Some(1000), &all);
            checked.err().map(|failure| failure.to_string())
        };
        assert_eq!(refusal(656), None);
        assert_eq!(
            refusal(655).unwrap(),
            "/store has only 655 MiB free; 656 are needed, among them 300 for the tree, 100 for an environment"
        );
        let inodes = enough(Path::new("/store"), u64::MAX, Some(29), &all).unwrap_err();
        assert_eq!(inodes.summary(), "/store has only 29 inodes free; 30 are needed");
        enough(Path::new("/store"), u64::MAX, None, &all).unwrap();
    }

    #[test]
    fn every_directory_that_a_run_writes_to_while_the_service_is_down_has_its_need() {
        let layout = Layout::below("/r");
        let needs = needs_while_down(&layout);
        let of = |path: PathBuf| needs.iter().find(|need| need.path == path).map(|need| need.bytes / MIB);
        assert_eq!([layout.state(), layout.store(), layout.home()].map(of), [Some(32); 3]);
        assert_eq!(of(layout.volatile()), Some(1));
    }

    #[test]
    fn a_large_cache_of_uv_is_named_where_space_is_missing_and_a_small_one_is_not() {
        let hint = |bytes| cache_hint(Path::new("/store/uv/cache"), bytes).map(|hint| hint.to_string());
        assert_eq!(hint(FREE_BYTES - 1), None);
        assert!(hint(FREE_BYTES).unwrap().contains("rm -r /store/uv/cache"), "{:?}", hint(FREE_BYTES));
    }

    #[test]
    fn memory_counts_with_swap_and_an_unknown_amount_is_accepted() {
        let refusal = |text: &str| enough_memory(text).err().map(|failure| failure.to_string());
        let little = "MemTotal: 500000 kB\nMemAvailable:      51200 kB\nSwapFree:      10240 kB\n";
        assert!(
            refusal(little).unwrap().starts_with("this machine has only 60 MiB"),
            "{:?}",
            refusal(little)
        );
        assert_eq!(refusal(&little.replace("10240", "102400")), None);
        assert_eq!(refusal("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_file_takes_full_blocks() {
        assert_eq!(on_disk(1) + on_disk(4096) + on_disk(0), 8192);
    }
}
