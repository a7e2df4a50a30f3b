//! Following a run: its events go to a reporter, its messages to standard error, and its end becomes the exit code.

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

/// How often the spool is read while the run's process lives. Its end is noticed at once.
const LOOK: Duration = Duration::from_millis(100);
/// How often the spool is read while the run's process is not there (yet, or any more).
const BEGIN_LOOK: Duration = Duration::from_millis(20);
/// How often systemd is asked, while the run's process is not there (yet, or any more).
const ASK: Duration = Duration::from_millis(200);
/// How long a run may take to begin where no process can be asked whether it will.
const BEGIN: Duration = Duration::from_secs(10);

/// A reader of the events of a run.
pub struct Follower<'a> {
    /// Where the run is.
    pub layout: &'a Layout,
    /// The run.
    pub run: &'a RunId,
    /// Who renders what happens.
    pub reporter: Box<dyn Subscriber>,
    /// What Ctrl-C on a terminal does.
    pub on_interrupt: OnInterrupt,
    /// The connection by which the run was started, which holds its unit; without one, one is made where it is needed.
    pub bus: Option<Bus>,
}

/// What Ctrl-C on a terminal does. Every other signal ends the following and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It halts the run, and the following goes on to the run's end.
    Cancel,
    /// It ends the following.
    Leave,
}

/// How a following ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowOutcome {
    /// The run is over; its process ended so.
    Over {
        /// How; `None` if that is not known any more.
        end: Option<ExitKind>,
        /// The exit code that the run's report names, where the reporter has shown one.
        reported: Option<u8>,
    },
    /// This signal ended the following; the run goes on.
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
            // Looked at before the rest is read: what was written before the end is not missed.
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

    /// Heeds the signals that arrived; returns the one that ends the following.
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
            // Where the process does not run yet, it is asked as soon as it does.
            watch.cancelled = cancel(spool).unwrap_or(false);
        }
        None
    }

    /// Returns whether the run's process is gone without a report, and how it ended as far as that is known.
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
            Some(Ok(TransientState::Ended(end))) => Some(Over { end: spool.end().or(Some(end)) }),
            // The process is gone, and what comes after it has not ended yet.
            Some(Ok(TransientState::UnderWay)) => None,
            // That is not known any more, or not yet.
            None | Some(Ok(TransientState::Unknown) | Err(_)) => {
                let begun = worker.is_some() || now.duration_since(watch.since) > BEGIN;
                begun.then(|| Over { end: spool.end() })
            }
        }
    }

    /// Shows the report that the spool does not have: `/run` was full, or the run was killed and what came after it
    /// wrote the report.
    fn report_from_disk(&mut self) -> Option<u8> {
        let report = history::one(self.layout, self.run).ok()?.report?;
        let code = report.exit_code;
        self.reporter.take(&Event::RunFinished { report: Box::new(report) });
        Some(code)
    }
}

/// The process of a run is gone, and how it ended, where that is known.
struct Over {
    end: Option<ExitKind>,
}

impl Over {
    fn reported(end: ExitKind) -> Self {
        Self { end: Some(end) }
    }
}

/// What a follower remembers from one look to the next.
struct Watch {
    /// The run's process, from when it is known until it has ended.
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

    /// Waits until the spool is read again, which the end of the process cuts short.
    fn pause(&self) {
        match &self.process {
            Some(process) => drop(process.wait(LOOK)),
            None => clock::pause_regardless(BEGIN_LOOK),
        }
    }
}

/// Asks the process of a run for a proper halt; returns whether there was one to ask.
///
/// # Errors
/// The process belongs to another user.
pub fn cancel(spool: &Spool) -> Outcome<bool> {
    let Some(handle) = spool.worker().and_then(Handle::open) else { return Ok(false) };
    handle.signal(Signal::INT).map(|()| true)
}

/// The whole lines of a file that grows.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, rest: Vec::new() }
    }

    /// Returns the lines that have come whole since the last look, without their ends.
    fn lines(&mut self) -> Vec<Vec<u8>> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return Vec::new() };
        // What was read counts, also where the end of it could not be.
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
                schema: 1,
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
