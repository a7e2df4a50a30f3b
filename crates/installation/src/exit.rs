//! How the program ends: the kinds of errors and the exit code of each, in one `match`.

use std::process::ExitCode;

use crate::journal::run_lock::Holder;
use refresh_events::run_report::Report;
use refresh_programs::process::ExitKind;
use refresh_settings::names::RunId;
use refresh_system::error::Failure;
use refresh_system::hint::Hint;

/// How a command ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Success {
    /// The command is done, or nothing had to be done.
    Done,
    /// A check found problems.
    Findings,
    /// A checked file of settings has faults.
    Invalid,
}

/// How a command failed.
#[derive(Debug)]
pub enum Error {
    /// The command line or the configuration is wrong; nothing was touched.
    Usage(Failure),
    /// Preflight, staging or a command's own check failed; the service is unchanged.
    Refused(Box<Refusal>),
    /// Another run holds the lock.
    Locked {
        /// The holder, if the lock names it.
        holder: Option<Box<Holder>>,
        /// The command to type next.
        next: String,
    },
    /// A run failed: it was refused before its first step, or halted in one. The report has the step, the cause, the
    /// state of the service and the next command; its reporter has already printed it.
    Run(Box<Report>),
    /// Another process did the work and has reported why it failed; only its exit code remains to be passed on.
    Reported(u8),
    /// A signal ended a command that followed a run; the run goes on.
    Detached {
        /// The run.
        run: RunId,
        /// The signal.
        signal: i32,
        /// The command that follows it again.
        next: String,
    },
    /// The process of a run has ended without a report.
    Lost {
        /// The run.
        run: RunId,
        /// How it ended, if that is known.
        end: Option<ExitKind>,
        /// The state of the service, in words.
        service: String,
        /// The command to type next.
        next: String,
    },
    /// An error in this program.
    Bug(String),
}

/// Returns the exit code for work that a signal ended.
pub(crate) fn of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Returns the exit code of a failure: that of the signal that interrupted the work, else `otherwise`.
pub fn of_failure(failure: &Failure, otherwise: u8) -> u8 {
    failure.interrupted_by().map_or(otherwise, of_signal)
}

/// Returns the exit code of a process that has ended.
pub fn of_process(end: ExitKind) -> u8 {
    match end {
        ExitKind::Code(code) => u8::try_from(code).unwrap_or(1),
        ExitKind::Signal(signal) => of_signal(signal),
    }
}

/// Why something was refused, and the state afterwards.
#[derive(Debug)]
pub struct Refusal {
    /// The work that was refused (`preflight`, `staging`, `rollback` …).
    pub during: String,
    /// The reason.
    pub failure: Failure,
    /// The state of the service, in words.
    pub service: String,
    /// The command to type next.
    pub next: String,
}

impl Refusal {
    /// Makes the refusal of a command that does not concern the service. The next command is the one that a hint of the
    /// failure names, else the doctor.
    pub fn of(during: &str, failure: Failure) -> Error {
        let hints = failure.hints();
        let named = hints.iter().find_map(Hint::own_command);
        Self::with_next(during, failure, named.unwrap_or("ladylinux-refresh doctor"))
    }

    /// As [`Refusal::of`], with the command to type next.
    pub fn with_next(during: &str, failure: Failure, next: &str) -> Error {
        let (service, next) = ("not touched".to_owned(), next.to_owned());
        Error::Refused(Box::new(Self { during: during.to_owned(), failure, service, next }))
    }
}

impl Error {
    /// Returns the exit code. `docs/exit-codes.md` explains each.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Refused(refusal) => of_failure(&refusal.failure, 3),
            Self::Locked { .. } => 4,
            Self::Run(report) => report.exit_code,
            Self::Reported(code) => *code,
            Self::Detached { signal, .. } => of_signal(*signal),
            Self::Lost { end, .. } => end.map_or(of_signal(9), of_process),
            Self::Bug(_) => 70,
        }
    }
}

/// Returns the exit code of a command.
pub fn code(result: &Result<Success, Error>) -> ExitCode {
    ExitCode::from(match result {
        Ok(Success::Done) => 0,
        Ok(Success::Findings) => 5,
        Ok(Success::Invalid) => 2,
        Err(error) => error.code(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rw_8_3_every_kind_of_end_has_a_separate_exit_code() {
        assert_eq!(Error::Usage(Failure::new("x")).code(), 2);
        assert_eq!(Refusal::of("preflight", Failure::new("x")).code(), 3);
        assert_eq!(Refusal::of("staging", Failure::interrupted(2)).code(), 130);
        assert_eq!(Error::Locked { holder: None, next: String::new() }.code(), 4);
        assert_eq!(Error::Bug("x".into()).code(), 70);
    }
}
