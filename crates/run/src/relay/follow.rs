//! Follows a run: its events go to a reporter, its messages to standard error, and its end becomes the exit code.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use refresh_events::event::{Event, Subscriber};
use refresh_installation::history;
use refresh_programs::process::{ExitKind, Handle};
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::transient::TransientState;
use refresh_programs::units::unit_of;
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::error::Outcome;
use refresh_system::screen;
use refresh_system::{clock, interrupt};

use super::spool::Spool;
use super::start;

/// The interval of reads of the spool while the run's process lives. Its end is noticed immediately.
const INTERVAL: Duration = Duration::from_millis(100);
/// The interval of reads of the spool while the run's process does not exist (not yet, or no longer).
const FIRST_INTERVAL: Duration = Duration::from_millis(20);
/// The interval of queries to systemd while the run's process does not exist (not yet, or no longer).
const ASK: Duration = Duration::from_millis(200);
/// The time limit for the beginning of a run without a known process.
const BEGIN: Duration = Duration::from_secs(10);

/// A reader of the events of a run.
pub struct Follower<'a> {
    /// The layout of the installation.
    pub layout: &'a Layout,
    /// The run.
    pub run: &'a RunId,
    /// The renderer of the events.
    pub reporter: Box<dyn Subscriber>,
    /// The effect of Ctrl-C on a terminal.
    pub on_interrupt: OnInterrupt,
    /// The connection that started the run and holds its unit; if there is none, one is made when it is needed.
    pub bus: Option<Bus>,
}

/// The effect of Ctrl-C on a terminal. Every other signal only ends the following.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It halts the run, and the following continues to the end of the run.
    Cancel,
    /// It ends the following.
    Leave,
}

/// How a following ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowOutcome {
    /// The run is over.
    Over {
        /// How its process ended; `None` if that is no longer known.
        end: Option<ExitKind>,
        /// The exit code in the report of the run, if the reporter has shown one.
        reported: Option<u8>,
    },
    /// This signal ended the following; the run continues.
    Left(i32),
}

impl Follower<'_> {
    /// Follows the run from its beginning to its end.
    pub fn follow(mut self) -> FollowOutcome {
        let spool = Spool::of(self.layout, self.run);
        let mut events = Tail::new(spool.events());
        let mut messages = Tail::new(spool.messages());
        let mut watch = Watch { process: None, asked: None, since: clock::monotonic(), cancelled: false };
        let mut reported = None;
        loop {
            // The end is checked before the rest is read: lines that were written before the end are not missed.
            let over = spool.end().map(Over::reported).or_else(|| self.gone(&spool, &mut watch));
            for line in events.lines() {
                let Ok(event) = serde_json::from_slice::<Event>(&line) else { continue };
                if let Event::RunFinished { report } = &event {
                    reported = Some(report.exit_code);
                }
                self.reporter.take(&event);
            }
            for line in messages.lines() {
                screen::print_to_stderr(&String::from_utf8_lossy(&line));
            }
            if let Some(Over { end }) = over {
                let reported = reported.or_else(|| self.report_from_disk());
                return FollowOutcome::Over { end, reported };
            }
            if let Some(signal) = self.heed(&spool, &mut watch) {
                return FollowOutcome::Left(signal);
            }
            watch.pause();
        }
    }

    /// Handles the signals that arrived; returns the one that ends the following.
    fn heed(&self, spool: &Spool, watch: &mut Watch) -> Option<i32> {
        if interrupt::hung_up() {
            return Some(Signal::HUP.as_raw());
        }
        let signal = interrupt::arrived()?;
        let typed = signal == Signal::INT.as_raw() && screen::is_on_terminal();
        if !typed || self.on_interrupt == OnInterrupt::Leave {
            return Some(signal);
        }
        if !watch.cancelled {
            // If the process does not run yet, it gets the request as soon as it runs.
            watch.cancelled = cancel(spool).unwrap_or(false);
        }
        None
    }

    /// Returns the end of the run's process if it has ended without a report, with its exit status if that is known.
    fn gone(&mut self, spool: &Spool, watch: &mut Watch) -> Option<Over> {
        if watch.holds(spool) {
            return None;
        }
        let worker = spool.worker();
        let now = clock::monotonic();
        if watch.asked.is_some_and(|asked| now.duration_since(asked) < ASK) {
            return None;
        }
        watch.asked = Some(now);
        if self.bus.is_none() && start::in_units(self.layout) {
            self.bus = Bus::connect().ok();
        }
        let state = self.bus.as_ref().map(|bus| bus.transient_state(&unit_of(self.run)));
        match state {
            Some(Ok(TransientState::ChildEnd(end))) => Some(Over { end: spool.end().or(Some(end)) }),
            // The process has ended, but the command after it has not ended yet.
            Some(Ok(TransientState::UnderWay)) => None,
            // The state is no longer known, or not yet known.
            None | Some(Ok(TransientState::Unknown) | Err(_)) => {
                let begun = worker.is_some() || now.duration_since(watch.since) > BEGIN;
                begun.then(|| Over { end: spool.end() })
            }
        }
    }

    /// Shows the report if the spool does not have it: `/run` was full, or the run was killed and the command after it
    /// wrote the report.
    fn report_from_disk(&mut self) -> Option<u8> {
        let report = history::one(self.layout, self.run).ok()?.report?;
        let code = report.exit_code;
        self.reporter.take(&Event::RunFinished { report: Box::new(report) });
        Some(code)
    }
}

/// The process of a run has ended, with its exit status if that is known.
struct Over {
    end: Option<ExitKind>,
}

impl Over {
    fn reported(end: ExitKind) -> Self {
        Self { end: Some(end) }
    }
}

/// The state of a follower from one read to the next.
struct Watch {
    /// The run's process, while it is known and has not ended.
    process: Option<Handle>,
    asked: Option<Instant>,
    since: Instant,
    cancelled: bool,
}

impl Watch {
    /// Returns whether the run's process is known and has not ended.
    fn holds(&mut self, spool: &Spool) -> bool {
        if self.process.is_none() {
            self.process = spool.worker().and_then(Handle::open);
        }
        let has_ended = self.process.as_ref().is_none_or(|process| process.wait(Duration::ZERO));
        if has_ended {
            self.process = None;
        }
        !has_ended
    }

    /// Waits until the next read of the spool, or until the process ends.
    fn pause(&self) {
        match &self.process {
            Some(process) => drop(process.wait(INTERVAL)),
            None => clock::sleep_uninterrupted(FIRST_INTERVAL),
        }
    }
}

/// Sends the request for a proper halt to the process of a run; returns whether there was a process.
///
/// # Errors
/// The process belongs to another user.
pub fn cancel(spool: &Spool) -> Outcome<bool> {
    let Some(handle) = spool.worker().and_then(Handle::open) else { return Ok(false) };
    handle.signal(Signal::INT).map(|()| true)
}

/// The complete lines of a growing file.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, rest: Vec::new() }
    }

    /// Returns the lines that were completed since the last read, without their line ends.
    fn lines(&mut self) -> Vec<Vec<u8>> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return Vec::new() };
        // The lines that were read count, even if a later read failed.
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = file.read(&mut buffer) {
            self.rest.extend_from_slice(&buffer[..count]);
        }
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        whole[..end].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::relay::spool::Spooler;
    use refresh_events::run_report::Phase;
    use refresh_programs::process::ProcessId;
    use refresh_system::disk;

    /// Keeps the events, as JSON.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Seen {
        fn take(&mut self, event: &Event) {
            self.0.lock().unwrap().push(serde_json::to_string(event).unwrap());
        }
    }

    fn follower<'a>(layout: &'a Layout, run: &'a RunId, seen: &Seen) -> Follower<'a> {
        let reporter = Box::new(seen.clone());
        Follower { layout, run, reporter, on_interrupt: OnInterrupt::Leave, bus: None }
    }

    #[test]
    fn a_follower_repeats_exactly_the_events_of_the_run_and_ends_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let (layout, run) = (Layout::below(directory.path()), RunId::parse("r-1").unwrap());
        let spool = Spool::of(&layout, &run);
        let mut spooler = Spooler::open(&spool).unwrap();
        spool.set_worker(ProcessId::own()).unwrap();
        let events = [
            Event::RunStarted {
                schema: 2,
                program: "1.2.3".into(),
                run: run.clone(),
                at: "2026-01-02T03:04:05.6789Z".parse().unwrap(),
            },
            Event::Output {
                phase: Phase::Prepare,
                source: "hook".into(),
                line: "tab\t\u{1b}[2J é \"q\"".into(),
            },
            Event::Progress { phase: Phase::Sync, what: "objects".into(), done: Some(1), total: None },
        ];
        let seen = Seen::default();
        let followed = std::thread::scope(|scope| {
            let following = scope.spawn(|| follower(&layout, &run, &seen).follow());
            for event in &events {
                spooler.take(event);
            }
            spool.set_end(ExitKind::Code(4)).unwrap();
            following.join().unwrap()
        });
        assert_eq!(followed, FollowOutcome::Over { end: Some(ExitKind::Code(4)), reported: None });
        let events: Vec<String> = events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        assert_eq!(*seen.0.lock().unwrap(), events);
    }

    #[test]
    fn a_run_whose_process_is_gone_without_an_end_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let (layout, run) = (Layout::below(directory.path()), RunId::parse("r-1").unwrap());
        let spool = Spool::of(&layout, &run);
        spool.make().unwrap();
        spool.set_worker(ProcessId { started: 1, ..ProcessId::own() }).unwrap();
        let followed = follower(&layout, &run, &Seen::default()).follow();
        assert_eq!(followed, FollowOutcome::Over { end: None, reported: None });
    }

    #[test]
    fn a_line_counts_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut tail = Tail::new(path.clone());
        assert!(tail.lines().is_empty());
        let mut file = disk::open_append(&path, 0o644).unwrap();
        let mut add = |text: &str| std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        add("one\ntw");
        assert_eq!(tail.lines(), [b"one"]);
        add("o\n\nthree\n");
        assert_eq!(tail.lines(), [&b"two"[..], b"", b"three"]);
        assert!(tail.lines().is_empty());
    }
}
