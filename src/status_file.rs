//! `status.json`: the last result and what is deployed.
//!
//! Replaced atomically, readable by the service's user, so that the application itself can tell people which version
//! runs and how the last refresh ended. What is deployed changes only when a refresh has settled.

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::Outcome;
use crate::report::Report;
use crate::service::deployed::Deployed;
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, CommitId, GenerationName, RunId};

/// The version of the file's format.
pub const SCHEMA: u32 = 1;

/// What the file holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusFile {
    /// The version of the format, [`SCHEMA`].
    pub schema: u32,
    /// The pair of commit and environment that proved itself last.
    pub deployed: Option<DeployedPair>,
    /// The last run that came to an end.
    pub last_run: Option<Report>,
}

/// A pair of commit and environment that proved itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployedPair {
    /// The commit.
    pub commit: CommitId,
    /// Its branch.
    pub branch: BranchName,
    /// The environment.
    pub generation: GenerationName,
    /// When the refresh began, in UTC.
    pub refreshed_at: jiff::Timestamp,
    /// The run.
    pub run: RunId,
}

/// Reads the file. A torn or foreign one tells nothing, which is no error: observation decides.
pub fn read(layout: &Layout) -> StatusFile {
    let read: Option<StatusFile> = disk::read_json(&layout.status_file()).ok().flatten();
    read.filter(|status| status.schema == SCHEMA).unwrap_or(StatusFile {
        schema: SCHEMA,
        deployed: None,
        last_run: None,
    })
}

/// Writes down that a pair has proved itself.
///
/// # Errors
/// The file cannot be written.
pub fn set_deployed(layout: &Layout, deployed: &Deployed, run: &RunId) -> Outcome<()> {
    let mut status = read(layout);
    status.deployed = Some(DeployedPair {
        commit: deployed.commit.clone(),
        branch: deployed.branch.clone(),
        generation: deployed.generation.clone(),
        refreshed_at: deployed.refreshed_at,
        run: run.clone(),
    });
    write(layout, &status)
}

/// Writes down how a run ended.
///
/// # Errors
/// The file cannot be written.
pub fn set_last_run(layout: &Layout, report: &Report) -> Outcome<()> {
    let mut status = read(layout);
    status.last_run = Some(report.clone());
    write(layout, &status)
}

fn write(layout: &Layout, status: &StatusFile) -> Outcome<()> {
    disk::write_json(&layout.status_file(), status, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_foreign_status_tells_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::below(folder.path());
        disk::make_folder(&layout.state(), 0o755).unwrap();
        for bytes in [&b""[..], b"{\"schema\":1,\"dep", b"{\"schema\":99}", b"[]"] {
            disk::write_atomic(&layout.status_file(), bytes, 0o644).unwrap();
            assert!(read(&layout).deployed.is_none());
        }
    }
}
