//! Staging: what can fail is done while the service still runs.
//!
//! Only the tool's own stores change, through the same operations that steps 2 and 3 call where staging is left out. So
//! leaving it out is no second path through the program.

use crate::disk;
use crate::event::Phase;
use crate::exit;
use crate::plan::space;
use crate::process::interrupt;
use crate::python::Generation;
use crate::report::screen::count;
use crate::settings::names::CommitId;
use crate::source::aligner::Aligner;
use crate::source::exchange::{self, Exchange};
use crate::source::prepared_tree::PreparedTree;

use super::release::Release;
use super::{Planned, Refresh};
use super::{entry, environment, models, rehearsal, status, sync};

/// What staging has ensured.
#[derive(Debug)]
pub struct Staged {
    release: Release,
    generation: Generation,
    tree: PreparedTree,
    aligner: Option<Aligner>,
}

impl Staged {
    /// Returns what the commit brings, and the prepared tree.
    pub fn target(&self) -> (&Release, &PreparedTree) {
        (&self.release, &self.tree)
    }

    /// Takes the unit that waits for step 2.
    pub fn take_aligner(&mut self) -> Option<Aligner> {
        self.aligner.take()
    }

    /// Returns the generation that was ensured, where it was for this commit.
    pub fn generation_of(self, commit: &CommitId) -> Option<Generation> {
        (self.release.commit == *commit).then_some(self.generation)
    }
}

impl Refresh<'_, Planned> {
    /// Fills the stores: commit, environment, prepared tree, staged checks; looks at the models.
    ///
    /// # Errors
    /// Something of it failed: the refresh was not started, the service is as it was (exit 3).
    pub fn stage(mut self) -> Result<Self, exit::Error> {
        let on = self.on;
        let staged = self.account.part(Phase::Staging, |account| {
            interrupt::check()?;
            let release = sync::ensure_release(on, account)?;
            space::check_for(on, &release)?;
            let generation = environment::ensure_generation(on, account, &release)?;
            entry::check(on, &release, &generation)?;
            let tree = sync::prepare_tree(on, account, &release, Some(&generation))?;
            exchange::check(&on.layout)?;
            let hooks = rehearsal::rehearse(on, account, &release, &generation)?;
            let models = models::ensure_verified(on, account, &release.settings, &release.commit)?;
            let models = models.map(|told| format!(", {told}")).unwrap_or_default();
            // Checks have run in it and models were read for minutes; looked at now, it need not be while nothing runs.
            let generation = environment::ensure_generation(on, account, &release)?;
            space::check_while_down(on)?;
            let made = if account.environment.built { "built" } else { "ready" };
            let hooks =
                if hooks == 0 { String::new() } else { format!(", {} passed", count(hooks, "check")) };
            let summary =
                format!("{} fetched, {} {made}{hooks}{models}", release.commit.short(), generation.name);
            // Last, so that it waits for as short as can be.
            Exchange::make_room(&on.layout, &account.run, on.owner)?;
            let mut aligner = Aligner::start(on)?;
            aligner.list_beforehand(on, &release.commit, &account.known);
            Ok((Staged { release, generation, tree, aligner: Some(aligner) }, summary))
        });
        match staged {
            Ok(staged) => Ok(Refresh { at: Planned { staged: Some(staged) }, ..self }),
            Err(failure) => Err(interrupt::shielded(|| {
                // It may be what has filled the disk; the next run removes what cannot be removed now.
                rehearsal::discard(on, &mut self.account);
                let _ = disk::remove_tree(&on.layout.tree(&self.account.run));
                let _ = disk::remove_if_empty(&on.layout.previous_tree(&self.account.run));
                status::refused(on, self.account, &failure)
            })),
        }
    }
}
