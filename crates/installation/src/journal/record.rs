//! The records of a journal, and which of them may follow which.

use serde::{Deserialize, Serialize};

use refresh_events::run_report::{Phase, RunResult};
use refresh_programs::process::ProcessId;
use refresh_settings::names::{BranchName, CommitId, EnvironmentName, RunId, UnitName};
use refresh_system::error::{Failure, Outcome};

/// The version of the journal's format.
pub const SCHEMA: u32 = 1;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// The run began. Always first.
    Begun {
        /// The version of the format, [`SCHEMA`].
        schema: u32,
        /// The run.
        run: RunId,
        /// The process of the run.
        process: ProcessId,
        /// The branch it is for.
        branch: BranchName,
        /// The commit that was checked out before.
        before: Option<CommitId>,
        /// The unit of the service, to stop it when the settings that name it cannot be read.
        #[serde(default = "UnitName::usual")]
        unit: UnitName,
        /// The place of the run among all runs, from 1, independent of the clock; 0 for a run of an earlier version.
        #[serde(default)]
        sequence: u64,
    },
    /// The commit that the run will deploy is known.
    Aimed {
        /// The commit.
        commit: CommitId,
    },
    /// A part of the run is about to begin: written before it acts.
    Intent {
        /// Which part.
        phase: Phase,
    },
    /// The environment that the run will switch to is ready.
    Built {
        /// The environment.
        #[serde(alias = "generation")]
        environment: EnvironmentName,
    },
    /// A part of the run is done.
    Done {
        /// Which part.
        phase: Phase,
    },
    /// A part of the run failed.
    Failed {
        /// Which part.
        phase: Phase,
        /// The causes, the outermost first.
        error: Vec<String>,
    },
    /// The run is over; nothing of it needs recovery.
    Ended {
        /// How.
        ending: RunResult,
    },
}

/// The position of a run, by its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing is written yet.
    Empty,
    /// The run began and no part of it is in progress.
    Between {
        /// The last part that is done.
        done: Option<Phase>,
    },
    /// A part was begun and its outcome is not recorded.
    Within {
        /// Which part.
        phase: Phase,
    },
    /// A part failed.
    Failed {
        /// Which part.
        phase: Phase,
    },
    /// The run is over.
    Ended {
        /// How.
        ending: RunResult,
    },
}

impl Status {
    /// The only function that decides which record may follow which (RW-5.0: the steps in their order, none skipped,
    /// none twice).
    ///
    /// # Errors
    /// The record may not follow.
    pub(crate) fn next(self, entry: &Entry) -> Outcome<Self> {
        match (self, entry) {
            (Self::Empty, Entry::Begun { .. }) => Ok(Self::Between { done: None }),
            (Self::Between { .. } | Self::Within { .. }, Entry::Aimed { .. } | Entry::Built { .. }) => {
                Ok(self)
            }
            (Self::Between { done }, Entry::Intent { phase }) if may_begin(done, *phase) => {
                Ok(Self::Within { phase: *phase })
            }
            (Self::Within { phase }, Entry::Done { phase: done }) if phase == *done => {
                Ok(Self::Between { done: Some(phase) })
            }
            (Self::Within { phase }, Entry::Failed { phase: failed, .. }) if phase == *failed => {
                Ok(Self::Failed { phase })
            }
            (_, Entry::Ended { ending }) if may_end(self, *ending) => Ok(Self::Ended { ending: *ending }),
            _ => Err(Failure::new(format!("the journal may not go from {self:?} on with {entry:?}"))),
        }
    }
}

/// Staging can be left out. The steps cannot, and none comes twice.
fn may_begin(done: Option<Phase>, next: Phase) -> bool {
    match (done, next) {
        (None, Phase::Staging | Phase::Stop) | (Some(Phase::Staging), Phase::Stop) => true,
        (Some(done), next) => match (done.step(), next.step()) {
            (Some(done), Some(next)) => next == done + 1,
            _ => false,
        },
        _ => false,
    }
}

/// An interruption can be recorded after anything; the other endings only if they are true.
fn may_end(status: Status, ending: RunResult) -> bool {
    match ending {
        RunResult::Refreshed => status == Status::Between { done: Some(Phase::Status) },
        RunResult::Halted => matches!(status, Status::Failed { phase } if phase.step().is_some()),
        // A stop that fails before the fence stands has stopped nothing.
        RunResult::Refused => matches!(status, Status::Failed { phase: Phase::Staging | Phase::Stop }),
        RunResult::Interrupted => !matches!(status, Status::Ended { .. }),
        RunResult::Unchanged | RunResult::HeldBack => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [Phase; 8] = [
        Phase::Preflight,
        Phase::Staging,
        Phase::Stop,
        Phase::Sync,
        Phase::Environment,
        Phase::Prepare,
        Phase::Restart,
        Phase::Status,
    ];

    fn begun() -> Entry {
        Entry::Begun {
            schema: SCHEMA,
            run: RunId::parse("r-1").unwrap(),
            process: ProcessId { pid: 1, started: 1 },
            branch: BranchName::parse("main").unwrap(),
            before: None,
            unit: UnitName::usual(),
            sequence: 1,
        }
    }

    #[test]
    fn rw_5_0_each_step_may_only_follow_its_predecessor() {
        let mut done = vec![None];
        done.extend(PARTS.map(Some));
        for before in done {
            for next in PARTS {
                let legal = matches!(
                    (before, next),
                    (None, Phase::Staging | Phase::Stop)
                        | (Some(Phase::Staging), Phase::Stop)
                        | (Some(Phase::Stop), Phase::Sync)
                        | (Some(Phase::Sync), Phase::Environment)
                        | (Some(Phase::Environment), Phase::Prepare)
                        | (Some(Phase::Prepare), Phase::Restart)
                        | (Some(Phase::Restart), Phase::Status)
                );
                let status = Status::Between { done: before };
                assert_eq!(
                    status.next(&Entry::Intent { phase: next }).is_ok(),
                    legal,
                    "{before:?} → {next:?}"
                );
            }
        }
    }

    #[test]
    fn an_outcome_belongs_to_the_current_part() {
        for within in PARTS {
            for part in PARTS {
                let status = Status::Within { phase: within };
                assert_eq!(status.next(&Entry::Done { phase: part }).is_ok(), within == part);
                let failed = Entry::Failed { phase: part, error: Vec::new() };
                assert_eq!(status.next(&failed).is_ok(), within == part);
            }
        }
    }

    #[test]
    fn a_run_is_refused_only_before_its_stop_and_halts_only_in_a_step() {
        for phase in PARTS {
            let may_end = |ending| Status::Failed { phase }.next(&Entry::Ended { ending }).is_ok();
            let is_before_or_at_stop = matches!(phase, Phase::Staging | Phase::Stop);
            assert_eq!(may_end(RunResult::Refused), is_before_or_at_stop, "{phase:?}");
            assert_eq!(may_end(RunResult::Halted), phase.step().is_some(), "{phase:?}");
        }
    }

    #[test]
    fn rw_8_3_success_is_only_written_after_the_last_step_and_nothing_follows_an_end() {
        let all: Vec<Status> = PARTS
            .iter()
            .flat_map(|phase| {
                [
                    Status::Within { phase: *phase },
                    Status::Between { done: Some(*phase) },
                    Status::Failed { phase: *phase },
                ]
            })
            .chain([Status::Empty, Status::Between { done: None }])
            .collect();
        for status in all {
            let success = Entry::Ended { ending: RunResult::Refreshed };
            assert_eq!(
                status.next(&success).is_ok(),
                status == Status::Between { done: Some(Phase::Status) }
            );
            assert!(status.next(&Entry::Ended { ending: RunResult::Interrupted }).is_ok());
            assert_eq!(status.next(&begun()).is_ok(), status == Status::Empty);
        }
        let ended = Status::Ended { ending: RunResult::Halted };
        assert!(ended.next(&begun()).is_err());
        assert!(ended.next(&Entry::Ended { ending: RunResult::Interrupted }).is_err());
        assert!(ended.next(&Entry::Intent { phase: Phase::Stop }).is_err());
    }
}
