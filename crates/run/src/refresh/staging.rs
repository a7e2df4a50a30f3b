//! Staging: work that can fail is done while the service still runs.
//!
//! Only the tool's own stores change, through the same operations that steps 2 and 3 call if staging is left out. So a
//! run without staging is not a second path through the program.

use crate::plan::space;
use refresh_events::run_report::Phase;
use refresh_installation::exit;
use refresh_installation::installation::Installation;
use refresh_service::Running;
use refresh_source::aligner::Aligner;
use refresh_source::exchange;
use refresh_source::exchange::Exchange;
use refresh_system::error::{Failure, Outcome};
use refresh_system::text::count;
use refresh_system::{disk, interrupt};

use super::account::Account;
use super::staged::Staged;
use super::steps::{Planned, Refresh};
use super::{entry, environment, models, rehearsal, status, sync};

impl Refresh<'_, Planned> {
    /// Records the service that ran at preflight.
    #[must_use]
    pub fn with_service(mut self, running: Option<Running>) -> Self {
        self.account.running = running;
        self
    }

    /// Fills the stores: commit, environment, prepared tree. Runs the staged checks and verifies the models.
    ///
    /// # Errors
    /// A part of staging failed: the refresh was not started, and the service is unchanged (exit 3).
    pub fn stage(mut self) -> Result<Self, exit::Error> {
        let on = self.on;
        let staged = self.account.part(Phase::Staging, |account| {
            interrupt::check()?;
            let release = sync::ensure_release(on, account)?;
            space::check_for(on, &release, account.target.makes(on))?;
            let environment = environment::ensure_environment(on, account, &release)?;
            entry::check(on, &release, &environment)?;
            let tree = sync::prepare_tree(on, account, &release, Some(&environment))?;
            exchange::check(&on.layout)?;
            exchange::check_borders(&on.layout, &account.report.run)?;
            let hooks = rehearsal::rehearse(on, account, &release, &environment)?;
            let models = models::ensure_verified(on, account, &release.settings, &release.commit)?;
            let models = models.map(|sentence| format!(", {sentence}")).unwrap_or_default();
            // Checks have run in it, and reading the models may have taken minutes. It is examined now, so it need not
            // be examined while the service is down.
            let environment = environment::ensure_environment(on, account, &release)?;
            space::check_while_down(on)?;
            check_service(on, account)?;
            let made = if account.report.environment.built { "built" } else { "ready" };
            let hooks =
                if hooks == 0 { String::new() } else { format!(", {} passed", count(hooks, "check")) };
            let summary =
                format!("{} fetched, {} {made}{hooks}{models}", release.commit.short(), environment.name);
            // It comes last, to wait as short as possible.
            Exchange::make_room(&on.layout, &account.report.run, on.owner)?;
            let mut aligner = Aligner::start(on)?;
            aligner.list_beforehand(on, &release.commit, &account.known);
            Ok((Staged { release, environment, tree, aligner: Some(aligner) }, summary))
        });
        match staged {
            Ok(staged) => Ok(Refresh { at: Planned { staged: Some(staged) }, ..self }),
            Err(failure) => Err(interrupt::shielded(|| {
                // It may have filled the disk; the next run removes the parts that cannot be removed now.
                rehearsal::discard(on, &mut self.account);
                let _ = disk::remove_tree(&on.layout.tree(&self.account.report.run));
                let _ = disk::remove_if_empty(&on.layout.previous_tree(&self.account.report.run));
                status::refused(on, self.account, &failure)
            })),
        }
    }
}

/// Checks that the service still runs as at preflight: builds and checks may have used its memory, or another command
/// may have stopped it. That a service ended which had already been restarted is no reason to refuse: the refresh may be
/// the repair. But a stop on request is a decision in each case.
fn check_service(on: &Installation, account: &Account) -> Outcome<()> {
    let Some(before) = &account.running else { return Ok(()) };
    let state = on.service.observe()?;
    let is_running = state.running().is_some();
    if !is_running && on.service.asked_to_stop().ok().flatten().is_some() {
        return Err(Failure::new("the service was stopped on request during staging")
            .command_for("to start it as it is", "ladylinux-refresh service start", &[])
            .command_for("to refresh it all the same", "ladylinux-refresh run", &[]));
    }
    if before.restarts > 0 {
        return Ok(());
    }
    let now = match state.running() {
        Some(now) if now.main == before.main => return Ok(()),
        Some(now) => format!("it was restarted as process {}", now.main.pid),
        None => format!("it is {state}"),
    };
    Err(Failure::new(format!("the service, process {}, ended during staging: {now}", before.main.pid))
        .command("ladylinux-refresh service logs", &[])
        .hint("where it was killed, the memory may not be enough for it and for a build or a check: free -m"))
}
