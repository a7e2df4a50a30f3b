//! Units that are one sandboxed process of ours: its three streams are descriptors that are passed over the bus, and
//! its end is watched like that of a child (org.freedesktop.systemd1(5), `StartTransientUnit`).
//!
//! The unit is held (`AddRef`) until it is collected: else systemd would forget how it ended.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use zvariant::{Fd, OwnedObjectPath, Value};

use super::Bus;
use super::property::Property;
use super::transient::exec;
use super::unit::{SERVICE_INTERFACE, UNIT_INTERFACE, unit_object};
use crate::process::watch::{Started, Subject};
use crate::process::{ChildEnd, ProcessId};
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{clock, interrupt};

/// The code of waitid(2) for the end of a process by its own exit.
const CLD_EXITED: i32 = 1;
/// How long systemd may take to start a process, and to remove a unit after its end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process may take to end after it has closed its streams.
const LAST_STEPS: Duration = Duration::from_millis(20);
/// How often systemd is queried for the end of a unit.
const TICK: Duration = Duration::from_millis(2);
/// How often systemd is queried for the process of a new unit.
const BEGIN_TICK: Duration = Duration::from_millis(4);
/// `MS_REC` of mount(2): mounts below are bound as well.
const RECURSIVE: u64 = 0x4000;
/// The first exit code with which systemd reports that it could not set the process up (systemd.exec(5)).
const FIRST_SETUP_CODE: i32 = 200;
/// The last of those.
const LAST_SETUP_CODE: i32 = 243;

/// A directory or file that a unit can also access at another path. A link at the destination is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Its path.
    pub source: PathBuf,
    /// Its path inside the unit.
    pub destination: PathBuf,
    /// Whether the unit may write to it.
    pub access: Access,
}

/// Whether a unit may write to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is only read.
    ReadOnly,
    /// It is read and written.
    ReadWrite,
}

/// The request for a unit of one process.
#[derive(Debug)]
pub(crate) struct ProcessUnit<'a> {
    /// The unit's name.
    pub name: &'a str,
    /// Its description, for people.
    pub description: &'a str,
    /// The program, an absolute path, and its arguments.
    pub program: PathBuf,
    /// The arguments.
    pub arguments: Vec<String>,
    /// Variables of its environment that every user may read.
    pub variables: Vec<(String, String)>,
    /// The user and group ids that it runs as.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Properties of the table.
    pub properties: &'a [Property],
    /// The directories that it writes to; the rest of the file system is read-only.
    pub writable: Vec<PathBuf>,
    /// The directories and files that it can access at other paths.
    pub binds: Vec<Bind>,
    /// Names and files of secrets that only this unit can read.
    pub credentials: Vec<(String, PathBuf)>,
    /// The unit whose end ends it.
    pub bound_to: Option<String>,
    /// How long it may live.
    pub lifetime: Duration,
    /// How much memory it may use, in bytes.
    pub memory: u64,
}

/// The standard input of a process, for [`Bus::start_process`].
#[derive(Debug)]
pub(crate) enum Stdin {
    /// A file, from its start to its end.
    File(File),
    /// A pipe that stays open.
    Pipe,
}

impl ProcessUnit<'_> {
    fn on_the_bus<'v>(&self, streams: [BorrowedFd<'v>; 3]) -> Vec<(&'static str, Value<'v>)> {
        let words = |paths: &[PathBuf], prefix: &str| {
            Value::from(paths.iter().map(|path| format!("{prefix}{}", path.display())).collect::<Vec<_>>())
        };
        let [stdin, stdout, stderr] = streams.map(|fd| Value::from(Fd::from(fd)));
        let micros = u64::try_from(self.lifetime.as_micros()).unwrap_or(u64::MAX);
        let mut all: Vec<(&'static str, Value<'v>)> =
            self.properties.iter().map(|property| (property.name, property.value.on_the_bus())).collect();
        all.extend([
            ("Description", Value::from(self.description.to_owned())),
            ("ExecStart", exec(&self.program, &self.arguments)),
            ("StandardInputFileDescriptor", stdin),
            ("StandardOutputFileDescriptor", stdout),
            ("StandardErrorFileDescriptor", stderr),
            ("User", Value::from(self.uid.to_string())),
            ("Group", Value::from(self.gid.to_string())),
            ("RuntimeMaxUSec", Value::from(micros)),
            ("MemoryMax", Value::from(self.memory)),
            // A writable directory may be missing on a machine that never needed it.
            ("ReadWritePaths", words(&self.writable, "-")),
            ("AddRef", Value::from(true)),
        ]);
        for (name, access) in [("BindPaths", Access::ReadWrite), ("BindReadOnlyPaths", Access::ReadOnly)] {
            let binds: Vec<(String, String, bool, u64)> = self
                .binds
                .iter()
                .filter(|bind| bind.access == access)
                .map(|bind| {
                    let (from, to) = (bind.source.display(), bind.destination.display());
                    (from.to_string(), to.to_string(), false, RECURSIVE)
                })
                .collect();
            if !binds.is_empty() {
                all.push((name, Value::from(binds)));
            }
        }
        let credentials: Vec<(String, String)> =
            self.credentials.iter().map(|(name, path)| (name.clone(), path.display().to_string())).collect();
        if !credentials.is_empty() {
            all.push(("LoadCredential", Value::from(credentials)));
        }
        if !self.variables.is_empty() {
            let variables: Vec<String> =
                self.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
            all.push(("Environment", Value::from(variables)));
        }
        if let Some(unit) = &self.bound_to {
            // Without After=: a machine that shuts down then signals both at the same time.
            all.push(("BindsTo", Value::from(vec![unit.clone()])));
        }
        all
    }
}

impl Bus {
    /// Starts the process of a unit and returns it with the near ends of its streams.
    ///
    /// # Errors
    /// systemd refuses the unit, or the run is interrupted. Then no part of the unit remains.
    pub(crate) fn start_process(&self, unit: &ProcessUnit<'_>, stdin: Stdin) -> Outcome<Started> {
        let context = || format!("systemd does not start {}", unit.name);
        let (near_stdin, far_stdin) = match stdin {
            Stdin::File(file) => (None, OwnedFd::from(file)),
            Stdin::Pipe => {
                let (reader, writer) = std::io::pipe().context(context)?;
                (Some(File::from(OwnedFd::from(writer))), OwnedFd::from(reader))
            }
        };
        let (stdout, far_stdout) = std::io::pipe().context(context)?;
        let (stderr, far_stderr) = std::io::pipe().context(context)?;
        let properties = unit.on_the_bus([far_stdin.as_fd(), far_stdout.as_fd(), far_stderr.as_fd()]);
        self.start_transient_unit(unit.name, properties)?;
        let mut process = UnitProcess {
            bus: self.clone(),
            name: unit.name.to_owned(),
            path: unit_object(unit.name),
            life: None,
            is_collected: false,
        };
        process.await_begin().context(context)?;
        Ok(Started {
            stdin: near_stdin,
            stdout: File::from(OwnedFd::from(stdout)),
            stderr: File::from(OwnedFd::from(stderr)),
            subject: Box::new(process),
            is_lost: false,
        })
    }
}

/// The main process of a unit. Dropping it ends the unit.
#[derive(Debug)]
struct UnitProcess {
    bus: Bus,
    name: String,
    path: String,
    /// `None` until it has begun.
    life: Option<OwnedFd>,
    is_collected: bool,
}

impl UnitProcess {
    fn property<T>(&self, interface: &str, name: &str) -> Outcome<T>
    where
        T: TryFrom<zvariant::OwnedValue>,
        T::Error: std::error::Error + Send + Sync + 'static,
    {
        let context = || format!("systemd does not report what {} is doing", self.name);
        self.bus.property(&self.path, interface, name).context(context)
    }

    /// Returns the pid of its process; 0 if it has none.
    fn main_pid(&self) -> Outcome<u32> {
        self.property(SERVICE_INTERFACE, "MainPID")
    }

    /// Returns whether it has ended and systemd has no more work for it.
    fn is_over(&self) -> Outcome<bool> {
        let active: String = self.property(UNIT_INTERFACE, "ActiveState")?;
        if !matches!(active.as_str(), "inactive" | "failed") {
            return Ok(false);
        }
        if self.life.is_some() {
            return Ok(true);
        }
        // The unit may not have begun yet.
        let (job, _): (u32, OwnedObjectPath) = self.property(UNIT_INTERFACE, "Job")?;
        Ok(job == 0)
    }

    /// Waits until the process exists and opens its descriptor. If it has ended already, the descriptor reports an
    /// ended process.
    fn await_begin(&mut self) -> Outcome<()> {
        let end = clock::monotonic() + PATIENCE;
        loop {
            // systemd never has it earlier, and each query costs both sides.
            clock::sleep_uninterrupted(BEGIN_TICK);
            if let Some(life) = self.hold()? {
                self.life = Some(life);
                return Ok(());
            }
            if clock::monotonic() > end {
                return Err(Failure::new(format!("it did not begin within {PATIENCE:?}"))
                    .command("systemctl status", &[&self.name]));
            }
            interrupt::check()?;
        }
    }

    /// Opens the descriptor of the main process; `None` if it does not exist yet.
    fn hold(&self) -> Outcome<Option<OwnedFd>> {
        let main = self.main_pid()?;
        let Some(pid) = i32::try_from(main).ok().and_then(Pid::from_raw) else {
            return if self.is_over()? { over().map(Some) } else { Ok(None) };
        };
        let Ok(life) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
        // Checked after the opening: the pid may have belonged to another process by then.
        let process = ProcessId::of_child(pid.as_raw_nonzero().get());
        let is_still_it = process.is_some_and(|process| process.is_in_unit(&self.name));
        Ok(is_still_it.then_some(life))
    }

    /// Lets systemd forget the unit once it has ended. systemd also does so when the connection ends.
    fn forget_when_ended(&self) {
        self.bus.order_manager("UnrefUnit", &(self.name.as_str(),));
    }

    /// Returns whether the main process has ended, or ends within `limit`.
    fn ends_within(&self, limit: Duration) -> bool {
        let Some(life) = &self.life else { return false };
        let mut watched = [PollFd::from_borrowed_fd(life.as_fd(), PollFlags::IN)];
        let limit = Timespec::try_from(limit).unwrap_or_default();
        matches!(poll(&mut watched, Some(&limit)), Ok(1))
    }

    /// Returns how the main process ended, which systemd has reaped.
    fn end(&self) -> Outcome<ChildEnd> {
        let how: i32 = self.property(SERVICE_INTERFACE, "ExecMainCode")?;
        let number: i32 = self.property(SERVICE_INTERFACE, "ExecMainStatus")?;
        let is_setup_code = how == CLD_EXITED && (FIRST_SETUP_CODE..=LAST_SETUP_CODE).contains(&number);
        // An application that has started can exit with one of these codes as well.
        let was_entered =
            is_setup_code && self.property::<u64>(UNIT_INTERFACE, "ActiveEnterTimestampMonotonic")? != 0;
        end_of(&self.name, how, number, is_setup_code && !was_entered)
    }

    fn signal(&self, signal: Signal) {
        let number = signal.as_raw();
        let _: Outcome<()> = self.bus.call_manager("KillUnit", &(self.name.as_str(), "all", number));
    }
}

/// Returns a descriptor that is readable immediately, like that of an ended process.
fn over() -> Outcome<OwnedFd> {
    let (reader, _) = std::io::pipe().context(|| "cannot make a pipe".to_owned())?;
    Ok(reader.into())
}

impl Subject for UnitProcess {
    fn life(&self) -> BorrowedFd<'_> {
        match &self.life {
            Some(life) => life.as_fd(),
            // Only used after the process has begun.
            None => rustix::stdio::stdin(),
        }
    }

    fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// systemd does this itself, with a request to end first. [`UnitProcess::collect`] kills processes that ignore it.
    fn kill_rest(&self) {}

    fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn collect(&mut self) -> Outcome<ChildEnd> {
        let begun = clock::monotonic();
        let mut is_killed = !self.ends_within(LAST_STEPS);
        if is_killed {
            self.kill();
        }
        while !self.is_over()? {
            if !is_killed && begun.elapsed() > LAST_STEPS {
                is_killed = true;
                self.kill();
            }
            if begun.elapsed() > PATIENCE {
                return Err(Failure::new(format!("{} cannot be ended", self.name))
                    .command("systemctl status", &[&self.name]));
            }
            clock::sleep_uninterrupted(TICK);
        }
        let ended = self.end();
        self.is_collected = true;
        self.forget_when_ended();
        ended
    }
}

impl Drop for UnitProcess {
    fn drop(&mut self) {
        if !self.is_collected {
            self.kill();
            self.forget_when_ended();
        }
    }
}

/// Returns how a process ended, by the `si_code` and the `si_status` of waitid(2); 0 and 0 if the process never
/// existed.
fn end_of(unit: &str, how: i32, number: i32, is_setup: bool) -> Outcome<ChildEnd> {
    match how {
        CLD_EXITED if is_setup => Err(not_set_up(unit, number)),
        CLD_EXITED => Ok(ChildEnd::Exited(number)),
        0 => Err(Failure::new(format!("systemd could not start a process for {unit}"))
            .command("journalctl --unit", &[&unit])),
        _ => Ok(ChildEnd::Signalled(number)),
    }
}

/// Returns the failure that names the part of a process' setup that systemd could not do (systemd.exec(5), "Process
/// Exit Codes").
fn not_set_up(unit: &str, code: i32) -> Failure {
    let what = match code {
        200 => "its working directory",
        203 => "its program",
        216 | 217 => "its user and group",
        218 => "its capabilities",
        225 => "its network",
        226 => "its view of the file system",
        228 => "its filter of system calls",
        243 => "its credentials",
        _ => "it",
    };
    Failure::new(format!("systemd could not set {what} up (exit code {code})"))
        .command("journalctl --unit", &[&unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_never_had_a_process_has_not_succeeded() {
        assert!(end_of("x.service", 0, 0, false).is_err());
        assert!(matches!(end_of("x.service", CLD_EXITED, 0, false), Ok(ChildEnd::Exited(0))));
        assert!(matches!(end_of("x.service", CLD_EXITED, 203, false), Ok(ChildEnd::Exited(203))));
        assert!(end_of("x.service", CLD_EXITED, 203, true).is_err());
        assert!(matches!(end_of("x.service", 2, 9, false), Ok(ChildEnd::Signalled(9))));
    }
}
