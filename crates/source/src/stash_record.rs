//! The records of stashes. It reads them and changes nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refresh_installation::journal::recover;
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::error::{Failure, Outcome};
use refresh_system::{clock, disk, text};

use super::local::LocalChanges;

/// The version of a record.
pub(super) const SCHEMA: u32 = 1;

/// The content of a stash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StashRecord {
    /// The version, 1.
    pub schema: u32,
    /// The run that moved the tree out of `app/`.
    pub run: RunId,
    /// The time of the comparison, in UTC.
    pub at: jiff::Timestamp,
    /// The findings.
    #[serde(flatten)]
    pub changes: LocalChanges,
    /// The disk space of the tree, in bytes.
    pub size: u64,
}

/// Lists the stashes, the oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn list(layout: &Layout) -> Outcome<Vec<StashRecord>> {
    let runs = recover::sorted(layout, recover::all(&layout.stashes())?)?;
    Ok(runs.iter().map(|run| read(layout, run)).collect())
}

/// Finds the stash of a run.
///
/// # Errors
/// The run has no stash.
pub fn find(layout: &Layout, run: &RunId) -> Outcome<StashRecord> {
    if recover::all(&layout.stashes())?.contains(run) { Ok(read(layout, run)) } else { Err(no_stash(run)) }
}

/// Reads the record of an existing stash. A stash without its record is still a stash.
pub(super) fn read(layout: &Layout, run: &RunId) -> StashRecord {
    disk::read_json(&record_file(layout, run)).ok().flatten().unwrap_or_else(|| StashRecord {
        schema: SCHEMA,
        run: run.clone(),
        at: clock::now(),
        changes: LocalChanges::not_comparable("its record cannot be read".to_owned()),
        size: 0,
    })
}

pub(super) fn record_file(layout: &Layout, run: &RunId) -> PathBuf {
    layout.stashes().join(format!("{run}.json"))
}

pub(super) fn no_stash(run: &RunId) -> Failure {
    Failure::new(format!("run {} has no stash", text::quoted(run.as_str())))
        .command("ladylinux-refresh stash list", &[])
}
