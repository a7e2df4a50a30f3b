//! Watches one started program to its end: its two output streams, its end, its deadline, its stall limit and the
//! interrupt flag. A child of this process and a unit of systemd are watched by the same code ([`Subject`]).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use refresh_events::event::Events;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{clock, interrupt};

use super::finished::{ChildEnd, Keep};

/// How long a program may take to end after SIGTERM before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// How long a killed program may take to end.
const LAST_BREATH: Duration = Duration::from_secs(20);
/// How long to wait for output of descendants that outlived a program.
const DRAIN: Duration = Duration::from_millis(500);
/// How much narrated output of one program is passed on; the rest is counted and left out.
const NARRATED_LIMIT: usize = 4 << 20;
/// How much of one line is passed on, in bytes.
const LONGEST_LINE: usize = 4096;
/// How often the interrupt flag and the limits are checked.
const TICK: Duration = Duration::from_millis(50);
/// How much of the end of a narrated stream is kept, in bytes.
const TAIL: usize = 64 << 10;

/// A started program, from the view of its watcher.
pub(crate) trait Subject: std::fmt::Debug + Send {
    /// Returns a descriptor that becomes readable when the main process has ended.
    fn life(&self) -> BorrowedFd<'_>;
    /// Requests the end of the program and all its descendants.
    fn terminate(&self);
    /// Kills the program and all its descendants.
    fn kill(&self);
    /// Kills the processes that the main process left when it ended, and that may keep its streams open.
    fn kill_rest(&self);
    /// Continues the main process if others have stopped it.
    fn resume(&self);
    /// Kills the remaining processes and returns how the main process ended, which has ended or will end immediately.
    ///
    /// # Errors
    /// How it ended cannot be determined.
    fn collect(&mut self) -> Outcome<ChildEnd>;
}

/// A program that was started, and the ends of its streams.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its standard input, if that stays open.
    pub(crate) stdin: Option<File>,
    /// Its standard output.
    pub(crate) stdout: File,
    /// Its standard error.
    pub(crate) stderr: File,
    /// The program itself.
    pub(crate) subject: Box<dyn Subject>,
    /// Whether it did not end although it was killed. Then it cannot be collected.
    pub(crate) is_lost: bool,
}

/// How a program is watched.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// The program's name, for messages.
    pub(crate) name: String,
    /// How long the program may run.
    pub(crate) deadline: Duration,
    /// How long it may be silent on both streams.
    pub(crate) stall: Option<Duration>,
    /// How its output is handled.
    pub(crate) keep: Keep,
}

/// The observation of a program until its end.
#[derive(Debug)]
pub(crate) struct Watched {
    /// Why it was ended early.
    pub(crate) cut_short: Option<ChildEnd>,
    /// Its standard output, as far as it is kept.
    pub(crate) stdout: Vec<u8>,
    /// Its standard error, as far as it is kept.
    pub(crate) stderr: Vec<u8>,
}

/// How one stream is handled.
#[derive(Debug, Clone)]
enum Mode {
    /// Kept completely, up to this many bytes.
    All(usize),
    /// Its end is kept; each line is passed on under this name.
    Lines(Option<String>),
}

impl Keep {
    /// Returns the modes of standard output and standard error.
    fn modes(&self) -> (Mode, Mode) {
        match self {
            Self::All(limit) => (Mode::All(*limit), Mode::All(*limit)),
            Self::Narrated(name) => (Mode::Lines(Some(name.clone())), Mode::Lines(Some(name.clone()))),
            Self::Response { limit, narrate } => (Mode::All(*limit), Mode::Lines(narrate.clone())),
        }
    }
}

/// One stream of a program.
#[derive(Debug)]
pub(crate) struct Stream {
    mode: Mode,
    kept: Vec<u8>,
    line: Vec<u8>,
    narrated: usize,
    open: bool,
}

impl Stream {
    fn new(mode: Mode) -> Self {
        Self { mode, kept: Vec::new(), line: Vec::new(), narrated: 0, open: true }
    }

    /// Makes the pair of streams that `keep` requires.
    pub(crate) fn pair(keep: &Keep) -> (Self, Self) {
        let (stdout, stderr) = keep.modes();
        (Self::new(stdout), Self::new(stderr))
    }

    /// Returns whether more bytes can arrive.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Reads once from `from`, which has bytes or is at its end.
    pub(crate) fn read(&mut self, from: &mut File, events: &Events) -> Outcome<()> {
        let mut buffer = [0_u8; 16 << 10];
        let count = from.read(&mut buffer).context(|| "cannot read its output".to_owned())?;
        if count == 0 {
            self.open = false;
            return Ok(());
        }
        self.take(&buffer[..count], events)
    }

    /// Stores bytes; of lines only the end is kept.
    fn take(&mut self, bytes: &[u8], events: &Events) -> Outcome<()> {
        self.kept.extend_from_slice(bytes);
        match &self.mode {
            Mode::All(limit) if self.kept.len() > *limit => {
                return Err(Failure::new(format!("it wrote more than {limit} bytes")));
            }
            Mode::All(_) => {}
            Mode::Lines(name) => {
                let name = name.clone();
                if self.kept.len() > 4 * TAIL {
                    self.kept.drain(..self.kept.len() - TAIL);
                }
                self.take_lines(name.as_deref(), bytes, events);
            }
        }
        Ok(())
    }

    /// Passes on the lines in `bytes`. After the limit, bytes are no longer split into lines: a program that writes
    /// without end would extend the downtime.
    fn take_lines(&mut self, name: Option<&str>, bytes: &[u8], events: &Events) {
        for part in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            if name.is_none() || self.narrated > NARRATED_LIMIT {
                self.line = Vec::new();
                return;
            }
            let (text, is_whole) = match part.split_last() {
                Some((b'\n' | b'\r', text)) => (text, true),
                _ => (part, false),
            };
            let room = LONGEST_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if is_whole {
                self.pass_on(name, events);
            }
        }
    }

    fn pass_on(&mut self, name: Option<&str>, events: &Events) {
        let line = std::mem::take(&mut self.line);
        let Some(name) = name else { return };
        if line.is_empty() || self.narrated > NARRATED_LIMIT {
            return;
        }
        self.narrated += line.len();
        events.output(name, &String::from_utf8_lossy(&line));
        if self.narrated > NARRATED_LIMIT {
            events.warn(&format!("{name} wrote more than {NARRATED_LIMIT} bytes; the rest is left out"));
        }
    }

    /// Passes on a last line that has no end.
    fn finish(&mut self, events: &Events) {
        if let Mode::Lines(name) = &self.mode {
            let name = name.clone();
            self.pass_on(name.as_deref(), events);
        }
    }

    /// Removes the first line from the kept bytes and returns it without its end; `None` if no line is complete yet.
    pub(crate) fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.kept.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.kept.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    /// Returns the kept bytes.
    pub(crate) fn into_kept(mut self) -> Vec<u8> {
        if matches!(self.mode, Mode::Lines(_)) && self.kept.len() > TAIL {
            self.kept.drain(..self.kept.len() - TAIL);
        }
        self.kept
    }
}

/// Watches a program until it has ended and its streams are closed, or for a moment after its end.
///
/// # Errors
/// The output exceeds the limit, or the run is interrupted. The program may still run: the caller collects it.
pub(crate) fn until_the_end(started: &mut Started, limits: &Limits, events: &Events) -> Outcome<Watched> {
    watch(started, limits, events, LAST_BREATH)
}

fn watch(started: &mut Started, limits: &Limits, events: &Events, last_breath: Duration) -> Outcome<Watched> {
    let (out, err) = Stream::pair(&limits.keep);
    let now = clock::monotonic();
    let watch = Watch {
        limits,
        last_breath,
        events,
        started,
        out,
        err,
        begun: now,
        last_sign: now,
        cut_short: None,
        kill_at: None,
        lost_at: None,
        drain_until: None,
    };
    watch.run().context(|| format!("cannot watch {}", limits.name))?.finish()
}

struct Watch<'a> {
    limits: &'a Limits,
    last_breath: Duration,
    events: &'a Events,
    started: &'a mut Started,
    out: Stream,
    err: Stream,
    begun: Instant,
    last_sign: Instant,
    cut_short: Option<ChildEnd>,
    kill_at: Option<Instant>,
    /// The latest time for a killed program to end.
    lost_at: Option<Instant>,
    drain_until: Option<Instant>,
}

impl Watch<'_> {
    fn run(mut self) -> Outcome<Self> {
        while self.out.open || self.err.open || self.drain_until.is_none() {
            let now = clock::monotonic();
            if self.drain_until.is_some_and(|limit| now >= limit) {
                break;
            }
            self.end_what_is_overdue(now);
            self.give_up_if_lost(now)?;
            let [ended, stdout, stderr] = self.wait_for_a_sign()?;
            if stdout && self.out.open {
                self.out.read(&mut self.started.stdout, self.events)?;
                self.last_sign = clock::monotonic();
            }
            if stderr && self.err.open {
                self.err.read(&mut self.started.stderr, self.events)?;
                self.last_sign = clock::monotonic();
            }
            if ended && self.drain_until.is_none() {
                // Processes that the program left would keep the streams open forever.
                self.drain_until = Some(clock::monotonic() + DRAIN);
                self.started.subject.kill_rest();
            }
        }
        Ok(self)
    }

    fn end_what_is_overdue(&mut self, now: Instant) {
        if self.drain_until.is_none() && self.cut_short.is_none() {
            self.cut_short = self.overdue(now);
            if self.cut_short.is_some() || interrupt::check().is_err() {
                self.cut_short = self.cut_short.or(Some(ChildEnd::Signalled(0)));
                self.started.subject.terminate();
                self.kill_at = Some(now + GRACE);
            }
        }
        if self.kill_at.is_some_and(|limit| now >= limit) {
            self.started.subject.kill();
            self.kill_at = None;
            self.lost_at = Some(now + self.last_breath);
        }
    }

    /// Gives up on a program that does not end although it was killed: it waits in the kernel, for a disk or a server.
    fn give_up_if_lost(&mut self, now: Instant) -> Outcome<()> {
        if self.drain_until.is_some() || self.lost_at.is_none_or(|limit| now < limit) {
            return Ok(());
        }
        self.started.is_lost = true;
        let limit = self.last_breath;
        Err(Failure::new(format!("it does not end within {limit:?} after SIGKILL: it waits in the kernel"))
            .hint("ps -eo pid,stat,wchan:32,args | awk '$2 ~ /^D/'"))
    }

    fn overdue(&self, now: Instant) -> Option<ChildEnd> {
        if now.duration_since(self.begun) >= self.limits.deadline {
            return Some(ChildEnd::PastDeadline(self.limits.deadline));
        }
        let stall = self.limits.stall?;
        (now.duration_since(self.last_sign) >= stall).then_some(ChildEnd::Stalled(stall))
    }

    /// Waits for a moment; returns whether the program has ended, and which streams can be read.
    fn wait_for_a_sign(&self) -> Outcome<[bool; 3]> {
        let readable = |fd, matters| Wanted { fd, events: PollFlags::IN, matters };
        let all = [
            readable(self.started.subject.life(), self.drain_until.is_none()),
            readable(self.started.stdout.as_fd(), self.out.open),
            readable(self.started.stderr.as_fd(), self.err.open),
        ];
        ready(&all, TICK)
    }

    fn finish(mut self) -> Outcome<Watched> {
        self.out.finish(self.events);
        self.err.finish(self.events);
        if self.cut_short.is_some() {
            interrupt::check()?;
        }
        Ok(Watched { cut_short: self.cut_short, stdout: self.out.into_kept(), stderr: self.err.into_kept() })
    }
}

/// A descriptor to wait for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// The descriptor.
    pub(crate) fd: BorrowedFd<'a>,
    /// The events to wait for.
    pub(crate) events: PollFlags,
    /// Whether to wait for it at all: a closed pipe is always ready, so the wait must leave it out.
    pub(crate) matters: bool,
}

/// Waits, at most for `limit`, until one of the wanted descriptors is ready; returns a flag for each.
pub(crate) fn ready<const N: usize>(all: &[Wanted<'_>; N], limit: Duration) -> Outcome<[bool; N]> {
    let numbers: Vec<usize> = (0..N).filter(|&number| all[number].matters).collect();
    let fd = |&number: &usize| PollFd::from_borrowed_fd(all[number].fd, all[number].events);
    let mut polled: Vec<PollFd<'_>> = numbers.iter().map(fd).collect();
    let tick = Timespec::try_from(limit).unwrap_or_default();
    match poll(&mut polled, Some(&tick)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(Failure::new("cannot wait for output").because(error)),
    }
    let mut found = [false; N];
    for (number, fd) in numbers.into_iter().zip(&polled) {
        found[number] = !fd.revents().is_empty();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    /// A process that no signal ends, such as one that waits for a missing server.
    #[derive(Debug)]
    struct Endless(OwnedFd);

    impl Subject for Endless {
        fn life(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }

        fn terminate(&self) {}

        fn kill(&self) {}

        fn kill_rest(&self) {}

        fn resume(&self) {}

        fn collect(&mut self) -> Outcome<ChildEnd> {
            panic!("waits without an end")
        }
    }

    #[test]
    fn output_after_the_limit_is_not_read_as_lines_and_its_end_is_kept() {
        let events = Events::silent();
        let mut stream = Stream::new(Mode::Lines(Some("hook".to_owned())));
        stream.take(b"begun, ", &events).unwrap();
        assert_eq!(stream.line, b"begun, ");
        let lines = b"a line\n".repeat(NARRATED_LIMIT / 6 + 1);
        stream.take(&lines, &events).unwrap();
        let passed_on = stream.narrated;
        assert!(passed_on > NARRATED_LIMIT, "{passed_on}");
        for _ in 0..9 {
            stream.take(b"no line begins here", &events).unwrap();
            assert_eq!(stream.line, b"");
        }
        assert_eq!(stream.narrated, passed_on);
        let kept = stream.into_kept();
        assert!(kept.len() == TAIL && kept.ends_with(b"no line begins here"), "{}", kept.len());
    }

    #[test]
    fn lines_are_passed_on_for_any_division_into_reads() {
        let events = Events::silent();
        let mut stream = Stream::new(Mode::Lines(Some("hook".to_owned())));
        for part in ["one\ntw", "o\r", "\n\nthr", "ee"] {
            stream.take(part.as_bytes(), &events).unwrap();
        }
        assert_eq!((stream.narrated, stream.line.as_slice()), (6, b"three".as_slice()));
        stream.take(&vec![b'x'; 3 * LONGEST_LINE], &events).unwrap();
        assert_eq!(stream.line.len(), LONGEST_LINE);
    }

    #[test]
    fn a_program_that_does_not_end_after_sigkill_is_abandoned() {
        let (life, _living) = std::io::pipe().unwrap();
        let (stdout, _open) = std::io::pipe().unwrap();
        let (stderr, _open_too) = std::io::pipe().unwrap();
        let mut started = Started {
            stdin: None,
            stdout: File::from(OwnedFd::from(stdout)),
            stderr: File::from(OwnedFd::from(stderr)),
            subject: Box::new(Endless(life.into())),
            is_lost: false,
        };
        let limits = Limits {
            name: "hook".to_owned(),
            deadline: Duration::ZERO,
            stall: None,
            keep: Keep::Narrated("hook".to_owned()),
        };
        let failure = watch(&mut started, &limits, &Events::silent(), Duration::ZERO).unwrap_err();
        assert!(started.is_lost);
        assert!(failure.chain()[1].contains("after SIGKILL"), "{failure:?}");
    }
}
