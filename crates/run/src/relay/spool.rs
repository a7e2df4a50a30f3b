//! The files that a run writes for its followers. A failure to write them (a full `/run`) never affects the run: the
//! reports on disk are complete without them.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_events::event::{Event, Subscriber};
use refresh_events::run_report::Report;
use refresh_installation::journal::recover;
use refresh_programs::process::{ExitKind, ProcessId};
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::disk;
use refresh_system::error::{Context as _, Outcome};

/// The events, one JSON object per line.
const EVENTS: &str = "events.jsonl";
/// The standard error of the run.
const MESSAGES: &str = "messages";
/// The environment variables of the run.
const VARIABLES: &str = "environment";
/// The process of the run.
const WORKER: &str = "worker.json";
/// How that process ended; it exists when nothing more will be written.
const END: &str = "end.json";

/// The mode of events and messages: the output of hooks is not for all users, so it is protected like the run's log.
/// Other users who wait see only how the run ended.
const MODE: u32 = 0o640;
/// The largest number of bytes of passing events (progress, output of other programs) that are kept: `/run` is in
/// memory. The report and all other events are kept in any case.
const PASSING_LIMIT: u64 = 32 << 20;
/// The largest size of a report, in bytes.
const REPORT_LIMIT: u64 = 64 << 20;
/// The number of runs that keep their spool.
const KEPT: usize = 20;

/// The directory of one run's spool.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
}

/// The record of a run's process in its spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerRecord {
    /// The process.
    pub process: ProcessId,
}

impl Spool {
    /// Returns the spool of a run; creates nothing.
    pub fn of(layout: &Layout, run: &RunId) -> Self {
        Self { directory: layout.spool(run) }
    }

    /// Creates the directory; an existing one is no error.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn make(&self) -> Outcome<()> {
        disk::make_directory(&self.directory, 0o755)?;
        // It is created before systemd does it, because systemd makes it readable for all users.
        disk::open_append(&self.messages(), MODE).map(drop)
    }

    /// Returns whether the spool exists.
    pub fn is_there(&self) -> bool {
        self.directory.is_dir()
    }

    /// The file of the events.
    pub(crate) fn events(&self) -> PathBuf {
        self.directory.join(EVENTS)
    }

    /// The file of the messages.
    pub(crate) fn messages(&self) -> PathBuf {
        self.directory.join(MESSAGES)
    }

    /// The file with the environment variables of the run.
    pub(crate) fn variables(&self) -> PathBuf {
        self.directory.join(VARIABLES)
    }

    /// Writes the environment variables of the run, readable only by systemd: the URL of a proxy or of an index may
    /// contain a password.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn set_variables(&self, variables: &[(String, String)]) -> Outcome<()> {
        let text: String =
            variables.iter().map(|(name, value)| format!("{name}={}\n", quoted(value))).collect();
        disk::write_volatile(&self.variables(), text.as_bytes(), 0o600)
    }

    /// Records the process of the run.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_worker(&self, process: ProcessId) -> Outcome<()> {
        write(&self.directory.join(WORKER), &WorkerRecord { process })
    }

    /// Returns the process of the run, if it is known yet.
    pub fn worker(&self) -> Option<ProcessId> {
        let record: Option<WorkerRecord> = disk::read_json(&self.directory.join(WORKER)).ok().flatten();
        record.map(|record| record.process)
    }

    /// Returns the report, if the run wrote one.
    pub fn report(&self) -> Option<Report> {
        let last = disk::read_last_line(&self.events(), REPORT_LIMIT).ok().flatten()?;
        match serde_json::from_slice(&last) {
            Ok(Event::RunFinished { report }) => Some(*report),
            _ => None,
        }
    }

    /// Records how the run's process ended; the first record counts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_end(&self, end: ExitKind) -> Outcome<()> {
        let passing = self.directory.join(format!("{END}.{}", rustix::process::getpid().as_raw_nonzero()));
        write(&passing, &end)?;
        let moved = disk::move_new(&passing, &self.directory.join(END));
        if self.end().is_some() {
            return disk::remove_file_if_there(&passing);
        }
        moved.map(drop)
    }

    /// Returns how the run's process ended, when nothing more will be written.
    pub fn end(&self) -> Option<ExitKind> {
        disk::read_json(&self.directory.join(END)).ok().flatten()
    }
}

/// Returns the run that is in progress by its spool: the latest one without an end whose process is alive.
pub fn in_progress(layout: &Layout) -> Option<RunId> {
    let runs = recover::all(&layout.volatile().join("runs")).ok()?;
    runs.into_iter().rev().find(|run| {
        let spool = Spool::of(layout, run);
        spool.end().is_none() && spool.worker().is_some_and(ProcessId::is_alive)
    })
}

/// Quotes a value: systemd reads it unchanged (systemd.exec(5), `EnvironmentFile=`).
fn quoted(value: &str) -> String {
    let text = value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`");
    format!("\"{text}\"")
}

fn write<T: Serialize>(path: &Path, value: &T) -> Outcome<()> {
    let bytes = serde_json::to_vec(value).context(|| format!("cannot encode {}", path.display()))?;
    disk::write_volatile(path, &bytes, 0o644)
}

/// Removes the spools of all but the latest runs and `current`, regardless of the clock. A process that still reads a
/// removed one keeps its open files.
pub fn prune(layout: &Layout, current: &RunId) {
    let directory = layout.volatile().join("runs");
    let Ok(mut runs) = recover::all(&directory) else { return };
    runs.retain(|run| run != current);
    runs.truncate((runs.len() + 1).saturating_sub(KEPT));
    for run in runs {
        let _ = disk::remove_tree(&layout.spool(&run));
    }
}

/// Writes events into the spool.
#[derive(Debug)]
pub struct Spooler {
    /// `None` after the file can no longer be kept complete.
    file: Option<File>,
    /// The size of the complete lines, in bytes.
    length: u64,
}

impl Spooler {
    /// Opens the events of a run.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(spool: &Spool) -> Outcome<Self> {
        spool.make()?;
        let file = disk::open_append(&spool.events(), MODE)?;
        let length = file.metadata().map_or(0, |found| found.len());
        Ok(Self { file: Some(file), length })
    }
}

impl Subscriber for Spooler {
    fn take(&mut self, event: &Event) {
        let Some(file) = &mut self.file else { return };
        let passing = matches!(event, Event::Progress { .. } | Event::Output { .. });
        if passing && self.length > PASSING_LIMIT {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        if file.write_all(&line).is_ok() {
            self.length += line.len() as u64;
        } else if file.set_len(self.length).is_err() {
            // An incomplete line would spoil the next one.
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_events::run_report::Phase;

    fn world() -> (tempfile::TempDir, Layout, Spool) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        let spool = Spool::of(&layout, &RunId::parse("r-1").unwrap());
        (directory, layout, spool)
    }

    #[test]
    fn the_variables_of_a_run_are_read_back_unchanged_and_only_by_their_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::of(&Layout::below(directory.path()), &RunId::parse("r-1").unwrap());
        spool.make().unwrap();
        let value = "http://u:p\"\\$a`b'% #;@proxy";
        spool.set_variables(&[("HTTPS_PROXY".to_owned(), value.to_owned())]).unwrap();
        let read = refresh_service::envfile::EnvFile::read(&spool.variables()).unwrap();
        assert_eq!(read.value("HTTPS_PROXY"), Some(value));
        assert_eq!(spool.variables().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_first_recorded_end_stays() {
        let (_directory, _layout, spool) = world();
        spool.make().unwrap();
        assert_eq!(spool.end(), None);
        spool.set_end(ExitKind::Code(3)).unwrap();
        spool.set_end(ExitKind::Signal(9)).unwrap();
        assert_eq!(spool.end(), Some(ExitKind::Code(3)));
    }

    #[test]
    fn transient_events_are_limited_and_lasting_ones_are_not() {
        let (_directory, _layout, spool) = world();
        let mut spooler = Spooler::open(&spool).unwrap();
        let output = Event::Output { phase: Phase::Sync, source: "hook".into(), line: "x".repeat(1 << 20) };
        for _ in 0..40 {
            spooler.take(&output);
        }
        let full = spool.events().metadata().unwrap().len();
        assert!(full > PASSING_LIMIT && full < PASSING_LIMIT + (2 << 20), "{full}");
        spooler.take(&Event::Warning { phase: Phase::Sync, message: "seen".into() });
        assert!(spool.events().metadata().unwrap().len() > full);
    }

    #[test]
    fn a_failed_write_ends_only_the_spool() {
        let (_directory, _layout, spool) = world();
        let mut spooler = Spooler::open(&spool).unwrap();
        // Every write to this device fails because it is full.
        spooler.file = Some(std::fs::OpenOptions::new().append(true).open("/dev/full").unwrap());
        let event = Event::Note { phase: Phase::Sync, message: "lost".into() };
        spooler.take(&event);
        spooler.take(&event);
        assert!(spooler.file.is_none());
    }

    #[test]
    fn only_the_latest_spools_are_kept() {
        let (_directory, layout, _spool) = world();
        let name = |n: usize| RunId::parse(&format!("r-{n:03}")).unwrap();
        for n in 0..KEPT + 5 {
            Spool::of(&layout, &name(n)).make().unwrap();
        }
        prune(&layout, &name(KEPT + 4));
        assert!(!Spool::of(&layout, &name(4)).is_there());
        assert!(Spool::of(&layout, &name(5)).is_there());
        // A run whose clock was behind stays, however early its name.
        Spool::of(&layout, &name(0)).make().unwrap();
        prune(&layout, &name(0));
        assert!(Spool::of(&layout, &name(0)).is_there());
        assert!(!Spool::of(&layout, &name(5)).is_there());
    }
}
