//! The six steps of a run as types: each step is a method that consumes the state before it.

use refresh_environments::RecordedEnvironment;
use refresh_events::run_report::{Phase, Report};
use refresh_installation::exit;
use refresh_installation::installation::{Installation, Release};
use refresh_system::error::Outcome;
use refresh_system::interrupt;

use super::account::Account;
use super::staged::Staged;
use super::status::{self, InventoryScope};
use super::{environment, others, prepare, restart, stop, sync};

/// Executes the six steps. The report describes the real result; nothing is undone automatically.
///
/// # Errors
/// A step failed: the service is stopped and fenced, and the report has the rest (RW-7.1).
pub fn execute(planned: Refresh<'_, Planned>) -> Result<Report, exit::Error> {
    Ok(planned.stop()?.sync()?.environment()?.prepare()?.restart()?.status())
}

/// A refresh in phase `P`.
#[derive(Debug)]
pub struct Refresh<'a, P> {
    pub(super) on: &'a Installation,
    pub(super) account: Account,
    pub(super) at: P,
}

/// Nothing of the installation has been changed.
#[derive(Debug)]
pub struct Planned {
    pub(super) staged: Option<Staged>,
}

/// The service is down and fenced.
#[derive(Debug)]
pub struct Stopped {
    staged: Option<Staged>,
    inventory: status::Inventory,
}

/// `app/` equals the commit.
#[derive(Debug)]
pub struct Synced {
    staged: Option<Staged>,
    inventory: status::Inventory,
    release: Release,
}

/// `venv` points to the environment.
#[derive(Debug)]
pub struct Built {
    inventory: status::Inventory,
    release: Release,
    environment: RecordedEnvironment,
}

/// The hooks have run.
#[derive(Debug)]
pub struct Prepared {
    release: Release,
    environment: RecordedEnvironment,
}

/// The service runs, has settled, and the fence is down.
#[derive(Debug)]
pub struct Running;

impl<'a> Refresh<'a, Planned> {
    /// Step 1: fence up, service down (RW-5.1).
    ///
    /// # Errors
    /// The service cannot be stopped completely; or the fence cannot be raised, and nothing was stopped.
    pub fn stop(self) -> Result<Refresh<'a, Stopped>, exit::Error> {
        self.advance(Phase::Stop, |on, account, at| {
            let summary = stop::stop(on, account)?;
            let inventory = status::Inventory::new(on, account);
            interrupt::check()?;
            Ok((Stopped { staged: at.staged, inventory }, summary))
        })
    }
}

impl<'a> Refresh<'a, Stopped> {
    /// Step 2: `app/` becomes equal to the commit (RW-5.2).
    ///
    /// # Errors
    /// The tree differs from the commit. The run has halted.
    pub fn sync(self) -> Result<Refresh<'a, Synced>, exit::Error> {
        self.advance(Phase::Sync, |on, account, mut at| {
            let (release, summary) = sync::sync(on, account, at.staged.as_mut())?;
            Ok((Synced { staged: at.staged, inventory: at.inventory, release }, summary))
        })
    }
}

impl<'a> Refresh<'a, Synced> {
    /// Step 3: `venv` becomes the commit's environment (RW-5.3).
    ///
    /// # Errors
    /// The environment cannot be built or switched to. The run has halted.
    pub fn environment(self) -> Result<Refresh<'a, Built>, exit::Error> {
        self.advance(Phase::Environment, |on, account, at| {
            let (environment, summary) = environment::environment(on, account, &at.release, at.staged)?;
            at.inventory.compare(on, account, InventoryScope::All);
            Ok((Built { inventory: at.inventory, release: at.release, environment }, summary))
        })
    }
}

impl<'a> Refresh<'a, Built> {
    /// Step 4: hooks (RW-5.4).
    ///
    /// # Errors
    /// A hook failed. The run has halted.
    pub fn prepare(self) -> Result<Refresh<'a, Prepared>, exit::Error> {
        self.advance(Phase::Prepare, |on, account, at| {
            let summary = prepare::prepare(on, account, &at.release, &at.environment)?;
            at.inventory.compare(on, account, InventoryScope::AllButData);
            Ok((Prepared { release: at.release, environment: at.environment }, summary))
        })
    }
}

impl<'a> Refresh<'a, Prepared> {
    /// Step 5: service started and checked, fence down (RW-5.5).
    ///
    /// # Errors
    /// The service failed its health check and is stopped again. The run has halted.
    pub fn restart(self) -> Result<Refresh<'a, Running>, exit::Error> {
        self.advance(Phase::Restart, |on, account, at| {
            let summary = restart::restart(on, account, &at.release, &at.environment)?;
            Ok((Running, summary))
        })
    }
}

impl Refresh<'_, Running> {
    /// Step 6: the report (RW-5.6). It cannot fail and nothing interrupts it: the service runs and the fence is down,
    /// so the refresh has succeeded.
    pub fn status(self) -> Report {
        let Self { on, mut account, at: Running } = self;
        interrupt::shielded(|| {
            account.last_part(Phase::Status, |account| {
                others::settle(on, account);
                status::settle(on, account)
            });
            status::finish(on, account)
        })
    }
}

impl<'a, P> Refresh<'a, P> {
    /// Goes from one phase to the next: intent, act, outcome. A failure ends the run: the service stays stopped, and
    /// the fence contains the reason (RW-7.1).
    fn advance<N>(
        mut self,
        phase: Phase,
        act: impl FnOnce(&'a Installation, &mut Account, P) -> Outcome<(N, String)>,
    ) -> Result<Refresh<'a, N>, exit::Error> {
        let Self { on, at, .. } = self;
        let acted = self.account.part(phase, |account| {
            interrupt::check()?;
            act(on, account, at)
        });
        match acted {
            Ok(next) => Ok(Refresh { on, account: self.account, at: next }),
            Err(failure) => Err(interrupt::shielded(|| status::halted(on, self.account, phase, &failure))),
        }
    }
}
