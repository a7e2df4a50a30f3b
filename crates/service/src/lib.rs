//! The service: started, stopped, observed, kept down by the fence, and proved to work.
//!
//! [`ServiceManager`] is what a refresh knows of a service manager. The embedded supervisor ([`supervisor`]) is one;
//! whatever else implements the trait has to pass the same contract tests. A manager says what it did in values
//! ([`Stopped`], [`Started`]) and leaves it to its caller what that means for a run.

pub mod deployed;
pub mod envfile;
pub mod fence;
pub(crate) mod free_port;
pub mod health;
mod listening_sockets;
pub mod others;
pub mod page;
pub mod port;
pub mod probe;
pub mod sockets;
mod strays;
pub mod supervisor;
pub mod systemd;
mod unix_http;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use envfile::EnvFile;
use others::Others;
use refresh_programs::process::{ExitKind, ProcessId};
use refresh_programs::systemd::root_exec::RootExec;
use refresh_settings::names::RunId;
use refresh_system::error::{Failure, Outcome};
use refresh_system::{clock, text};
use sockets::SocketUnit;

/// A place in the log of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPlace {
    /// A cursor of journald.
    Cursor(String),
    /// An offset in a file, in bytes.
    Offset {
        /// The number of the file in its file system.
        inode: u64,
        /// The bytes before the place.
        bytes: u64,
    },
}

/// Something that keeps one service.
pub trait ServiceManager: Send + Sync {
    /// Returns what the service is doing; changes nothing and is cheap.
    ///
    /// # Errors
    /// The manager cannot be asked. That the service is not running, or not installed, is a state.
    fn observe(&self) -> Outcome<ServiceState>;

    /// Stops the service; done only when no process of it is left (RW-5.1). A service that is stopped already is fine.
    /// Interrupts do not cut it short: it is bounded by the service's own stop timeout.
    ///
    /// # Errors
    /// A process of the service cannot be ended, or the manager refuses.
    fn stop(&self) -> Outcome<Stopped>;

    /// Starts the service; returns when its main process exists, not when it answers. A service that runs already is
    /// left as it is.
    ///
    /// # Errors
    /// The fence stands and `admission` does not lead through it, or the program cannot be started.
    fn start(&self, admission: Admission) -> Outcome<Started>;

    /// Returns up to `lines` lines, the last ones, that the running (or else the last) invocation of the service wrote;
    /// never a line of another one.
    ///
    /// # Errors
    /// The log cannot be read.
    fn log_tail(&self, lines: usize) -> Outcome<Vec<String>>;

    /// Returns the lines that the service wrote after `place`, whatever its invocation, and the place after them. Without a
    /// place: up to `lines` lines, the last ones.
    ///
    /// # Errors
    /// The log cannot be read.
    fn log_after(&self, place: Option<&LogPlace>, lines: usize) -> Outcome<(Vec<String>, Option<LogPlace>)>;

    /// Returns whether a process belongs to the service: by its control group, or by its descent.
    ///
    /// # Errors
    /// The manager cannot be asked.
    fn owns(&self, process: ProcessId) -> Outcome<bool>;

    /// Returns the processes of the service, the main one first; none where it does not run.
    ///
    /// # Errors
    /// The manager cannot be asked.
    fn processes(&self) -> Outcome<Vec<ProcessId>> {
        Ok(self.observe()?.running().map(|running| running.main).into_iter().collect())
    }

    /// Returns the socket units that start the service when a client connects.
    ///
    /// # Errors
    /// The manager cannot be asked.
    fn sockets(&self) -> Outcome<Vec<SocketUnit>> {
        Ok(Vec::new())
    }

    /// Shows the page on the sockets of the service, which is stopped and fenced. Returns `false` if no page is installed.
    ///
    /// # Errors
    /// The page unit cannot be started.
    fn show_page(&self) -> Outcome<bool> {
        Ok(false)
    }

    /// Ends the page; done only when it has answered what it has accepted. A start of the service does so too.
    ///
    /// # Errors
    /// The page unit cannot be stopped.
    fn end_page(&self) -> Outcome<()> {
        Ok(())
    }

    /// Returns the process that answers with the page.
    ///
    /// # Errors
    /// The manager cannot be asked.
    fn page_process(&self) -> Outcome<Option<ProcessId>> {
        Ok(None)
    }

    /// Opens the listening socket of the next start beside the one that the running service has, where starts get one: new
    /// connections wait there. Returns when the service has taken what came before; `false` if there is no such socket.
    ///
    /// # Errors
    /// It cannot be opened. The service is not affected.
    fn open_next_socket(&self) -> Outcome<bool> {
        Ok(false)
    }

    /// Closes the socket that [`Self::open_next_socket`] has opened, if no start has taken it: what waits there is reset.
    fn close_next_socket(&self) {}

    /// Returns whether this process has the socket of the next start.
    fn has_next_socket(&self) -> bool {
        false
    }

    /// Makes the manager forget that it has closed a socket unit.
    ///
    /// # Errors
    /// The manager refuses.
    fn forgive_socket(&self, unit: &str) -> Outcome<()> {
        Err(Failure::new(format!("{} has no socket unit {unit}", self.describe())))
    }

    /// Checks that this manager can keep the service as it is installed, fence included; changes nothing.
    ///
    /// # Errors
    /// What must be put right before a refresh may stop the service.
    fn check(&self) -> Outcome<()>;

    /// Returns whether neither the service nor a unit that is stopped with it has a process left.
    ///
    /// # Errors
    /// The manager cannot be asked.
    fn is_all_down(&self) -> Outcome<bool> {
        Ok(self.observe()?.is_down())
    }

    /// Returns whether this manager keeps units of other names beside the service.
    fn has_units(&self) -> bool {
        false
    }

    /// Checks that the units which the last start started with the service have stayed up.
    ///
    /// # Errors
    /// One has not.
    fn check_together(&self) -> Outcome<()> {
        Ok(())
    }

    /// Finds the other units of the application that are active.
    ///
    /// # Errors
    /// The manager cannot be asked.
    fn others(&self) -> Outcome<Others> {
        Ok(Others::default())
    }

    /// Returns what ended the service from outside since it was started last; `None` if nothing did, or the manager does
    /// not know.
    ///
    /// # Errors
    /// The manager cannot be asked.
    fn outer_cause(&self) -> Outcome<Option<Failure>> {
        Ok(None)
    }

    /// Starts a unit again that was stopped together with the service; one that is active is left as it is.
    ///
    /// # Errors
    /// It cannot be started.
    fn start_again(&self, unit: &str) -> Outcome<()> {
        Err(Failure::new(format!("{} has no unit {unit}", self.describe())))
    }

    /// Returns what the service is started with; `None` if nothing says so.
    ///
    /// # Errors
    /// The manager cannot be asked.
    fn program(&self) -> Outcome<Option<ServiceProgram>>;

    /// Returns the commands by which the service runs something of the application as root; none where the manager starts
    /// nothing as another user than the service's.
    ///
    /// # Errors
    /// The manager cannot be asked.
    fn root_execs(&self) -> Outcome<Vec<RootExec>> {
        Ok(Vec::new())
    }

    /// Says which service this is and what keeps it, for people.
    fn describe(&self) -> String;
}

/// The program that a service is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceProgram {
    /// As it is written down: `venv` in it is the link.
    pub path: PathBuf,
    /// All words of the command, the program's own name first.
    pub words: Vec<String>,
    /// The directory that it is started in.
    pub directory: PathBuf,
    /// Further directories that Python searches modules in (`PYTHONPATH`).
    pub python_path: Vec<PathBuf>,
    /// What a person does who wants another one.
    pub change: String,
}

/// Returns the directories of `PYTHONPATH` in the environment file, as a service finds them that is started in `directory`.
fn python_path(file: &EnvFile, directory: &Path) -> Vec<PathBuf> {
    let value = file.value("PYTHONPATH").unwrap_or_default();
    value.split(':').filter(|path| !path.is_empty()).map(|path| directory.join(path)).collect()
}

/// What a service is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ServiceState {
    /// It runs.
    Running(Running),
    /// It is on its way into or out of running.
    Changing {
        /// What is going on (`starting`, `stopping`).
        doing: String,
    },
    /// No process of it is there.
    Stopped {
        /// How it ended the last time, where that is known.
        last: Option<Exit>,
    },
    /// Nothing keeps it any more, processes of it live on; a stop ends them.
    LeftBehind {
        /// The processes.
        processes: Vec<ProcessId>,
    },
    /// There is nothing that could be started.
    NotInstalled {
        /// What is missing.
        why: String,
    },
}

impl ServiceState {
    /// Returns whether no process of the service can be there.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::NotInstalled { .. })
    }

    /// Returns the facts of a running service.
    pub fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) => Some(running),
            _ => None,
        }
    }
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(running) => {
                write!(f, "running (pid {}, since {})", running.main.pid, clock::in_words(running.since))
            }
            Self::Changing { doing } => f.write_str(doing),
            Self::Stopped { last: None } => f.write_str("stopped"),
            Self::Stopped { last: Some(exit) } => {
                write!(f, "stopped ({} at {})", exit.how, clock::in_words(exit.at))
            }
            Self::LeftBehind { processes } => {
                let pids: Vec<String> = processes.iter().map(|process| process.pid.to_string()).collect();
                write!(f, "left behind (processes {})", pids.join(", "))
            }
            Self::NotInstalled { why } => write!(f, "not installed ({why})"),
        }
    }
}

/// The facts of a running service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its main process.
    pub main: ProcessId,
    /// When that was started.
    pub since: Timestamp,
    /// How often the manager has restarted it by itself.
    pub restarts: u32,
    /// What the manager calls this invocation: another one, though its process may have the same number, is another service.
    pub invocation: String,
}

/// How and when a service's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How.
    pub how: ExitKind,
    /// When.
    pub at: Timestamp,
}

/// By what right a start passes the fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// None: while the fence stands the start is refused (RW-7.1a).
    Ordinary,
    /// The refresh that raised the fence starts the service to prove it. As long as the fence stands, the service does
    /// not outlive that refresh's process.
    Refresh(RunId),
}

/// What a start did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The main process.
    pub main: ProcessId,
    /// When it was started.
    pub since: Timestamp,
    /// What the manager calls this invocation.
    pub invocation: String,
    /// Whether this start did it.
    pub how: StartedHow,
    /// Warnings, for instance about an ignored line of the environment file.
    pub warnings: Vec<String>,
}

impl Started {
    fn new(running: Running, how: StartedHow, warnings: Vec<String>) -> Self {
        let Running { main, since, invocation, .. } = running;
        Self { main, since, invocation, how, warnings }
    }
}

/// Whether a start had anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartedHow {
    /// The process is a new one.
    Fresh,
    /// The service was running already and was left as it is.
    RanAlready,
}

/// What a stop did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// What there was to stop.
    pub before: Before,
    /// Whether it ended by itself when asked.
    pub force: Force,
    /// How long the stop took.
    pub took: Duration,
    /// Processes of the service that outlived its main process and were ended, as `pid (command)`.
    pub leftovers: Vec<String>,
    /// How the main process ended, where this stop saw it.
    pub exit: Option<Exit>,
    /// Units that were up and were stopped with the service.
    pub others: Vec<String>,
    /// How long those took that were stopped before the service.
    pub others_took: Duration,
    /// Why it took long, needed force or left something, where that is known; each a sentence for a warning.
    pub notes: Vec<String>,
}

/// What a stop found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// A running service.
    Running,
    /// Nothing.
    #[default]
    Stopped,
    /// Processes that nothing kept any more.
    LeftBehind,
}

/// What it took to end a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Force {
    /// SIGTERM, or nothing at all.
    #[default]
    Asked,
    /// SIGTERM for the main process, SIGKILL for processes that outlived it.
    LeftoversKilled,
    /// SIGKILL, because the service did not end in the time it has for it.
    Killed,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = text::duration(u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX));
        match (self.before, self.force) {
            (Before::Stopped, _) => return f.write_str("was stopped already"),
            (_, Force::Asked | Force::LeftoversKilled) => write!(f, "stopped in {took}")?,
            (_, Force::Killed) => {
                write!(f, "did not end when asked and was killed after {took}")?;
            }
        }
        if self.before == Before::LeftBehind {
            f.write_str(", after it had been left behind")?;
        }
        if !self.leftovers.is_empty() {
            write!(f, ", with left-over processes {}", self.leftovers.join(", "))?;
            if self.force == Force::LeftoversKilled {
                f.write_str(", which had to be killed")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_that_needed_force_reports_it_and_names_remaining_processes() {
        let stopped = Stopped {
            before: Before::Running,
            force: Force::Killed,
            took: Duration::from_secs(10),
            leftovers: vec!["12 (worker)".into()],
            ..Stopped::default()
        };
        assert_eq!(
            stopped.to_string(),
            "did not end when asked and was killed after 10.00 s, with left-over processes 12 (worker)"
        );
    }

    #[test]
    fn a_service_left_behind_is_not_down() {
        assert!(!ServiceState::LeftBehind { processes: vec![] }.is_down());
        assert!(ServiceState::Stopped { last: None }.is_down());
    }
}
