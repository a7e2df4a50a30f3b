//! Finds the processes that write into `app/` while nothing may write there. Each is named with its unit, so that a
//! person can stop it. Reads processes; changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use refresh_programs::process::ProcessId;
use refresh_programs::process::identity::{all_pids, is_launcher};
use refresh_settings::layout::Layout;
use refresh_system::clock;
use refresh_system::disk::Owner;
use refresh_system::error::Failure;
use refresh_system::text::quoted_path;

/// The number of searches for open files: a file may be open only for an instant.
const ROUNDS: usize = 40;
const TICK: Duration = Duration::from_millis(5);

/// The largest number of named processes.
const NAMED: usize = 3;

/// Adds the processes that may be the cause to a failure: those with an open file in `app/`, else those that run as its
/// owner.
pub(crate) fn named(failure: Failure, layout: &Layout, owner: Owner) -> Failure {
    let app = layout.app();
    let (found, how) = match with_open_files(&app) {
        found if !found.is_empty() => (found, "has it open"),
        _ => (of_owner(owner), "runs as its owner"),
    };
    let Some(first) = found.first() else {
        return failure.command_for("find it", "fuser -v", &[&app]);
    };
    let words: Vec<String> = found.iter().take(NAMED).map(|process| describe(*process)).collect();
    let failure = failure.because(Failure::new(format!("{how}: {}", words.join(", "))));
    match (first.unit(), first.unit_of_user()) {
        (Some(unit), _) if is_launcher(&unit) => failure.hint(format!(
            "have {unit} start it no more, then end process {} if it may be ended",
            first.pid
        )),
        (Some(unit), _) => failure.command("systemctl stop", &[&unit]).hint(format!(
            "or add {unit:?} to `also` under [service] in {}: it is stopped and started with the service then",
            quoted_path(&layout.host_file())
        )),
        (None, Some((uid, unit))) => {
            let who = format!("as the user with uid {uid}");
            failure.command_for(&who, "systemctl --user stop", &[&unit])
        }
        (None, None) => failure.hint(format!("end process {} if it may be ended", first.pid)),
    }
}

fn describe(process: ProcessId) -> String {
    let unit = process.unit().map(|unit| format!(" of {unit}")).unwrap_or_default();
    format!("process {} ({}){unit}", process.pid, process.command())
}

fn with_open_files(app: &Path) -> Vec<ProcessId> {
    for _ in 0..ROUNDS {
        let found: Vec<ProcessId> = others().filter(|process| has_open(*process, app)).collect();
        if !found.is_empty() {
            return found;
        }
        clock::sleep_uninterrupted(TICK);
    }
    Vec::new()
}

fn has_open(process: ProcessId, app: &Path) -> bool {
    let place = format!("/proc/{}", process.pid);
    let leads_there = |link: &Path| fs::read_link(link).is_ok_and(|path| path.starts_with(app));
    let files = fs::read_dir(format!("{place}/fd")).into_iter().flatten().flatten();
    files.map(|entry| entry.path()).any(|link| leads_there(&link))
        || leads_there(Path::new(&format!("{place}/cwd")))
}

fn of_owner(owner: Owner) -> Vec<ProcessId> {
    // Root runs everything else.
    let is_owners = |process: &ProcessId| {
        owner.uid != 0
            && fs::metadata(format!("/proc/{}", process.pid)).is_ok_and(|found| found.uid() == owner.uid)
    };
    others().filter(is_owners).collect()
}

/// Returns the processes that are neither this program nor started by it.
fn others() -> impl Iterator<Item = ProcessId> {
    let own = ProcessId::own();
    let is_own = move |process: ProcessId| {
        process.unit().is_some_and(|unit| unit.starts_with("ladylinux-refresh"))
            || std::iter::successors(Some(process), |process| process.parent()).any(|process| process == own)
    };
    all_pids().into_iter().filter_map(ProcessId::of).filter(move |process| !is_own(*process))
}
