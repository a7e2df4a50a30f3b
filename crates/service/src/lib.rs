//! The service: started, stopped, observed, blocked by the fence, and checked for health.
//!
//! [`ServiceManager`] is the interface of a service manager for a refresh. The embedded supervisor ([`supervisor`]) is
//! one; every other implementation of the trait must pass the same contract tests. A manager reports its actions in
//! values ([`Stopped`], [`Started`]); the caller decides their meaning for a run.

pub mod deployed;
pub mod envfile;
pub mod fence;
pub(crate) mod free_port;
pub mod health;
mod listening_sockets;
pub mod others;
pub mod page;
pub mod port;
pub mod port_holder;
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

/// A manager of one service.
pub trait ServiceManager: Send + Sync {
    /// Returns the state of the service; changes nothing and is cheap.
    ///
    /// # Errors
    /// The manager cannot be queried. That the service does not run, or is not installed, is a state.
    fn observe(&self) -> Outcome<ServiceState>;

    /// Stops the service; returns only when no process of it is left (RW-5.1). It is no error if the service is already
    /// stopped. Interruptions do not end the stop early: its limit is the stop timeout of the service.
    ///
    /// # Errors
    /// A process of the service cannot be ended, or the manager refuses.
    fn stop(&self) -> Outcome<Stopped>;

    /// Starts the service; returns when its main process exists, before the first answer. A running service stays
    /// unchanged.
    ///
    /// # Errors
    /// The fence stands and `admission` does not admit the start, or the program cannot be started.
    fn start(&self, admission: Admission) -> Outcome<Started>;

    /// Returns up to `lines` of the last lines that the running (or else the last) invocation of the service wrote;
    /// never a line of another invocation.
    ///
    /// # Errors
    /// The log cannot be read.
    fn log_tail(&self, lines: usize) -> Outcome<Vec<String>>;

    /// Returns the lines that the service wrote after `place`, in any invocation, and the place after them. Without a
    /// place: up to `lines` of the last lines.
    ///
    /// # Errors
    /// The log cannot be read.
    fn log_after(&self, place: Option<&LogPlace>, lines: usize) -> Outcome<(Vec<String>, Option<LogPlace>)>;

    /// Returns whether a process belongs to the service: by its control group, or by its descent.
    ///
    /// # Errors
    /// The manager cannot be queried.
    fn owns(&self, process: ProcessId) -> Outcome<bool>;

    /// Returns the processes of the service, the main one first; an empty list if it does not run.
    ///
    /// # Errors
    /// The manager cannot be queried.
    fn processes(&self) -> Outcome<Vec<ProcessId>> {
        Ok(self.observe()?.running().map(|running| running.main).into_iter().collect())
    }

    /// Returns the socket units that start the service when a client connects.
    ///
    /// # Errors
    /// The manager cannot be queried.
    fn sockets(&self) -> Outcome<Vec<SocketUnit>> {
        Ok(Vec::new())
    }

    /// Shows the page on the sockets of the stopped and fenced service. Returns `false` if no page is installed.
    ///
    /// # Errors
    /// The page unit cannot be started.
    fn show_page(&self) -> Outcome<bool> {
        Ok(false)
    }

    /// Ends the page; returns only when it has answered all accepted connections. A start of the service also ends it.
    ///
    /// # Errors
    /// The page unit cannot be stopped.
    fn end_page(&self) -> Outcome<()> {
        Ok(())
    }

    /// Returns the process that serves the page.
    ///
    /// # Errors
    /// The manager cannot be queried.
    fn page_process(&self) -> Outcome<Option<ProcessId>> {
        Ok(None)
    }

    /// Opens the listening socket of the next start beside that of the running service, if starts get one. New
    /// connections wait there. Returns when the service has accepted the earlier connections; `false` if there is no
    /// such socket.
    ///
    /// # Errors
    /// It cannot be opened. The service is not affected.
    fn open_next_socket(&self) -> Outcome<bool> {
        Ok(false)
    }

    /// Closes the socket that [`Self::open_next_socket`] has opened, if no start has taken it. Connections that wait
    /// there are reset.
    fn close_next_socket(&self) {}

    /// Returns whether this process holds the socket of the next start.
    fn has_next_socket(&self) -> bool {
        false
    }

    /// Clears the state of a socket unit that the manager has closed.
    ///
    /// # Errors
    /// The manager refuses.
    fn forgive_socket(&self, unit: &str) -> Outcome<()> {
        Err(Failure::new(format!("{} has no socket unit {unit}", self.describe())))
    }

    /// Checks that this manager can manage the installed service, including the fence; changes nothing.
    ///
    /// # Errors
    /// The problem that must be repaired before a refresh may stop the service.
    fn check(&self) -> Outcome<()>;

    /// Returns whether neither the service nor a unit that is stopped with it has a process left.
    ///
    /// # Errors
    /// The manager cannot be queried.
    fn is_all_down(&self) -> Outcome<bool> {
        Ok(self.observe()?.is_down())
    }

    /// Returns whether this manager has other units beside the service.
    fn has_units(&self) -> bool {
        false
    }

    /// Checks that the units that the last start started with the service still run.
    ///
    /// # Errors
    /// One does not run any more.
    fn check_together(&self) -> Outcome<()> {
        Ok(())
    }

    /// Finds the other units of the application that are active.
    ///
    /// # Errors
    /// The manager cannot be queried.
    fn others(&self) -> Outcome<Others> {
        Ok(Others::default())
    }

    /// Returns the units of `service.also` that the last start has left down: those that only a timer or a path unit
    /// starts, and those that were down before the stop.
    ///
    /// # Errors
    /// The manager cannot be queried.
    fn left_down(&self) -> Outcome<Vec<String>> {
        Ok(Vec::new())
    }

    /// Returns the outside cause that ended the service since its last start. `None` if there is none, or the manager
    /// has no information.
    ///
    /// # Errors
    /// The manager cannot be queried.
    fn outer_cause(&self) -> Outcome<Option<Failure>> {
        Ok(None)
    }

    /// Returns since when the service is down because the manager was asked to stop it; `None` if it runs, has ended by
    /// itself or together with another unit, or if the manager has no record of the stop.
    ///
    /// # Errors
    /// The manager cannot be reached.
    fn asked_to_stop(&self) -> Outcome<Option<Timestamp>> {
        Ok(None)
    }

    /// Starts a unit again that was stopped together with the service; an active one stays unchanged.
    ///
    /// # Errors
    /// It cannot be started.
    fn start_again(&self, unit: &str) -> Outcome<()> {
        Err(Failure::new(format!("{} has no unit {unit}", self.describe())))
    }

    /// Returns the program of the service; `None` if it is not defined.
    ///
    /// # Errors
    /// The manager cannot be queried.
    fn program(&self) -> Outcome<Option<ServiceProgram>>;

    /// Returns the commands with which the service runs something of the application as root. An empty list if the
    /// manager starts everything as the user of the service.
    ///
    /// # Errors
    /// The manager cannot be queried.
    fn root_execs(&self) -> Outcome<Vec<RootExec>> {
        Ok(Vec::new())
    }

    /// Returns the name of the service and of its manager, for people.
    fn describe(&self) -> String;
}

/// The program of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceProgram {
    /// The path as configured: `venv` in it is the link.
    pub path: PathBuf,
    /// All words of the command, the program's own name first.
    pub words: Vec<String>,
    /// The working directory of its start.
    pub directory: PathBuf,
    /// Further directories in which Python searches for modules (`PYTHONPATH`).
    pub python_path: Vec<PathBuf>,
    /// The instruction for a person who wants a different program.
    pub change: String,
}

/// Returns the directories of `PYTHONPATH` in the environment file, relative to the start directory `directory`.
fn python_path(file: &EnvFile, directory: &Path) -> Vec<PathBuf> {
    let value = file.value("PYTHONPATH").unwrap_or_default();
    value.split(':').filter(|path| !path.is_empty()).map(|path| directory.join(path)).collect()
}

/// The state of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ServiceState {
    /// It runs.
    Running(Running),
    /// It is starting or stopping.
    Changing {
        /// The change in progress (`starting`, `stopping`).
        doing: String,
    },
    /// It has no process.
    Stopped {
        /// How it ended the last time, if that is known.
        last: Option<Exit>,
    },
    /// It has no manager any more, but some of its processes still live; a stop ends them.
    LeftBehind {
        /// The processes.
        processes: Vec<ProcessId>,
    },
    /// There is no service to start.
    NotInstalled {
        /// The missing part.
        why: String,
    },
}

impl ServiceState {
    /// Returns whether the service can have no process.
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
    /// The number of automatic restarts by the manager.
    pub restarts: u32,
    /// The manager's name of this invocation. A different invocation is a different service, even if its process has
    /// the same number.
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

/// The permission of a start to pass the fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// None: while the fence stands the start is refused (RW-7.1a).
    Ordinary,
    /// The refresh that raised the fence starts the service to check it. While the fence stands, the service does not
    /// outlive the process of that refresh.
    Refresh(RunId),
}

/// The result of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The main process.
    pub main: ProcessId,
    /// When it was started.
    pub since: Timestamp,
    /// The manager's name of this invocation.
    pub invocation: String,
    /// Whether this call started the service.
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

/// Whether a start had to do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartedHow {
    /// The process is a new one.
    Fresh,
    /// The service was already running and stays unchanged.
    RanAlready,
}

/// The result of a stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// The state before the stop.
    pub before: Before,
    /// Whether it ended by itself after the request.
    pub force: Force,
    /// How long the stop took.
    pub took: Duration,
    /// Processes of the service that outlived its main process and were ended, as `pid (command)`.
    pub leftovers: Vec<String>,
    /// How the main process ended, if this stop observed it.
    pub exit: Option<Exit>,
    /// Units that were up and were stopped with the service.
    pub others: Vec<String>,
    /// The duration of the stops of units before the service.
    pub others_took: Duration,
    /// Why it took long, needed force or left processes, if that is known; each entry is a sentence for a warning.
    pub notes: Vec<String>,
}

/// The state that a stop found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// A running service.
    Running,
    /// Nothing.
    #[default]
    Stopped,
    /// Processes without a manager.
    LeftBehind,
}

/// The force that was needed to end a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Force {
    /// SIGTERM, or nothing.
    #[default]
    Asked,
    /// SIGTERM for the main process, SIGKILL for processes that outlived it.
    LeftoversKilled,
    /// SIGKILL, because the service did not end within its time limit.
    Killed,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = text::duration(u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX));
        match (self.before, self.force) {
            (Before::Stopped, _) => return f.write_str("was stopped already"),
            (_, Force::Asked | Force::LeftoversKilled) => write!(f, "stopped in {took}")?,
            (_, Force::Killed) => {
                write!(f, "did not end on SIGTERM and was killed after {took}")?;
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
            "did not end on SIGTERM and was killed after 10.00 s, with left-over processes 12 (worker)"
        );
    }

    #[test]
    fn a_service_left_behind_is_not_down() {
        assert!(!ServiceState::LeftBehind { processes: vec![] }.is_down());
        assert!(ServiceState::Stopped { last: None }.is_down());
    }
}
