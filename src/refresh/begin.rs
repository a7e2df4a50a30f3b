//! The beginning of a run: its directory, its journal, its log.

use std::sync::Arc;

use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::Outcome;
use crate::event::{Event, Events, Phase, SCHEMA};
use crate::installation::Installation;
use crate::journal::{Entry, Journal, record};
use crate::process::ProcessId;
use crate::report::log::Log;
use crate::settings::names::{BranchName, CommitId, GenerationName, RunId};
use crate::status_file::{Current, CurrentKeeper};

use super::account::{Account, Opening};
use super::{Planned, Refresh};

/// What a run aims at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The branch that `app/` ends on.
    pub branch: BranchName,
    /// What of that branch.
    pub state: TargetState,
}

/// Which state of a branch a run aims at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetState {
    /// The latest of the remote.
    Latest,
    /// An earlier good commit and its environment.
    Earlier {
        /// The commit.
        commit: CommitId,
        /// The generation, which is used as it is where it is still good.
        generation: GenerationName,
    },
}

impl Target {
    /// Returns the command that asks for this, as reports name it.
    pub fn command(&self) -> &'static str {
        match self.state {
            TargetState::Latest => "run",
            TargetState::Earlier { .. } => "rollback",
        }
    }
}

/// The name of the log in the directory of a run.
pub const LOG: &str = "log";

/// Tells the stream of events that a run begins.
pub fn announce(events: &Events, run: &RunId) {
    let program = env!("CARGO_PKG_VERSION").to_owned();
    events.emit(&Event::RunStarted { schema: SCHEMA, program, run: run.clone(), at: clock::now() });
}

/// Makes the directory of a run and writes the first record of its journal. From here on a run that is killed is found by
/// the next one.
///
/// # Errors
/// The tool's own state cannot be written.
pub fn begin(on: &Installation, opening: Opening, events: Arc<Events>) -> Outcome<Refresh<'_, Planned>> {
    let directory = on.layout.run(&opening.run);
    disk::make_directory(&directory, 0o755)?;
    checkpoint::reach("begin:directory-made");
    events.subscribe(Box::new(Log::open(&directory.join(LOG))?));
    let current = Current {
        run: opening.run.clone(),
        command: opening.target.command().to_owned(),
        branch: opening.target.branch.clone(),
        started_at: opening.started_at,
        phase: Phase::Preflight,
        process: ProcessId::own(),
    };
    events.subscribe(Box::new(CurrentKeeper::new(&on.layout, current)));
    let mut journal = Journal::create(&directory)?;
    journal.append(Entry::Begun {
        schema: record::SCHEMA,
        run: opening.run.clone(),
        process: ProcessId::own(),
        branch: opening.target.branch.clone(),
        before: opening.commit_before.clone(),
        unit: on.settings.service.unit.clone(),
    })?;
    if let TargetState::Earlier { commit, .. } = &opening.target.state {
        on.mirror.pin(&opening.run, commit)?;
    }
    Ok(Refresh { on, account: Account::open(opening, events, journal), at: Planned { staged: None } })
}
