//! Makes a run a process that depends on no other.
//!
//! If systemd manages the machine, the process is a transient unit. It has its own control group, so nothing that
//! happens to that of the caller (the service stopped, a session closed, a job cancelled) affects it. Elsewhere it is a
//! process in its own process group, without a stream of the caller.

use std::path::PathBuf;
use std::time::Duration;

use refresh_programs::process::{Program, detached};
use refresh_programs::systemd;
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::transient::{Command, Transient, TransientState};
use refresh_programs::units::unit_of;
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::environment;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{checkpoint, clock};

use super::places;
use super::spool::Spool;

/// The hidden option that makes a process the worker of a run.
pub(crate) const WORKER: &str = "--worker";
/// The hidden command that completes a run after its process has ended.
pub const AFTER_RUN: &str = "after-run";

/// The time limit for a run to end after a stop request: it stops the service first if it has started it.
const STOP_LIMIT: Duration = Duration::from_secs(150);

/// A run to be started.
#[derive(Debug)]
pub struct RunStart<'a> {
    /// The layout of the installation.
    pub layout: &'a Layout,
    /// Its ID.
    pub run: &'a RunId,
    /// The command and its options for the worker.
    pub arguments: Vec<String>,
}

/// Returns whether runs are units of systemd on this machine.
pub fn in_units(layout: &Layout) -> bool {
    layout.is_real() && systemd::is_booted()
}

/// Why it is not known whether a run has begun.
#[derive(Debug)]
pub enum StartError {
    /// It has not begun, and will not begin.
    Refused(Failure),
    /// systemd got the request, and the result is not known: the run may be in progress.
    Unconfirmed(Failure),
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

impl RunStart<'_> {
    /// Starts the run in a transient unit; returns the connection that holds the unit.
    ///
    /// # Errors
    /// systemd does not start it, or the answer of systemd was lost.
    pub fn in_unit(self) -> Result<Bus, StartError> {
        let bus = Bus::connect()?;
        let spool = Spool::of(self.layout, self.run);
        spool.make()?;
        let program = own_program()?;
        let mut variables = environment::for_run();
        variables.extend(checkpoint::for_run());
        spool.set_variables(&variables)?;
        let mut arguments = self.arguments;
        arguments.extend([WORKER.to_owned(), self.run.to_string()]);
        let unit = unit_of(self.run);
        let own_tmp = places::may_have_own_tmp(self.layout, &program, &arguments, &variables)?;
        let asked = bus.start_transient(Transient {
            name: &unit,
            description: &format!("LadyLinux refresh, run {}", self.run),
            command: Command { program: program.clone(), arguments },
            after: Command { program, arguments: vec![AFTER_RUN.to_owned(), self.run.to_string()] },
            variables: &spool.variables(),
            messages: &spool.messages(),
            stop_limit: STOP_LIMIT,
            places: places::of_refresh(self.layout, own_tmp),
        });
        match asked {
            Ok(()) => Ok(bus),
            // A lost answer is not a refusal.
            Err(failure) => match Bus::connect().and_then(|bus| Ok((bus.transient_state(&unit)?, bus))) {
                Ok((TransientState::Unknown, _)) => Err(StartError::Refused(failure)),
                Ok((_, bus)) => Ok(bus),
                Err(_) => Err(StartError::Unconfirmed(failure)),
            },
        }
    }

    /// Starts the run as a process that outlives this one.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn detached(self) -> Outcome<()> {
        let spool = Spool::of(self.layout, self.run);
        spool.make()?;
        let mut program = Program::new("/proc/self/exe")
            .arg("--root")
            .arg(self.layout.root())
            .args(self.arguments)
            .arg(WORKER)
            .arg(self.run.as_str());
        for (name, value) in environment::for_run().into_iter().chain(checkpoint::for_run()) {
            program = program.env(name, value);
        }
        let process = detached::spawn(&program, &spool.messages())?;
        // A waiting client can thus watch the process immediately. Otherwise the run itself records it; the run
        // continues in any case.
        let _ = spool.set_worker(process);
        Ok(())
    }
}

/// Waits until the unit of a run has its process, or has failed to get one.
///
/// # Errors
/// The program could not be started; or systemd cannot be queried, or the wait is interrupted.
pub fn await_begin(layout: &Layout, bus: &Bus, run: &RunId) -> Result<(), StartError> {
    let spool = Spool::of(layout, run);
    loop {
        if spool.worker().is_some() || spool.end().is_some() {
            return Ok(());
        }
        let unit = unit_of(run);
        match bus.transient_state(&unit).map_err(StartError::Unconfirmed)? {
            TransientState::UnderWay => {
                clock::pause(Duration::from_millis(10)).map_err(StartError::Unconfirmed)?;
            }
            _ if spool.worker().is_some() || spool.end().is_some() => return Ok(()),
            TransientState::ChildEnd(how) => {
                return Err(Failure::new(format!("{unit} ended before the run began: {how}"))
                    .command("journalctl -u", &[&unit])
                    .into());
            }
            TransientState::Unknown => {
                return Err(Failure::new(format!("{unit} ended before the run began"))
                    .command("journalctl -u", &[&unit])
                    .into());
            }
        }
    }
}

/// Returns the path of this program's file; if that was replaced meanwhile, of the present file.
fn own_program() -> Outcome<PathBuf> {
    let path = std::env::current_exe().context(|| "this program cannot find its own file".to_owned())?;
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(replaced) if !path.exists() => Ok(PathBuf::from(replaced)),
        _ => Ok(path),
    }
}
