//! The operation that compares an environment with the manifest of its build, and the one that describes an environment
//! from before the tool. Both only read.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_system::error::Outcome;
use refresh_system::manifest::contamination::{Change, Contamination};
use refresh_system::manifest::{Manifest, Scan};

use super::record::{self, Package};

/// The largest number of files and directories of an environment that a manifest can cover; large environments have
/// some ten thousand.
pub(super) const ENTRIES: usize = 1_000_000;

/// The operation that compares.
pub(super) const COMPARE: &str = "python-compare";

/// The operation that describes.
pub(super) const DESCRIBE: &str = "python-describe";

/// How closely an environment is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum By {
    /// By the traces that every change leaves: only the metadata that carries them is read.
    Metadata,
    /// By every byte.
    Content,
}

/// Compares an environment with its manifest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CompareRequest {
    pub(super) directory: PathBuf,
    pub(super) manifest: PathBuf,
    pub(super) by: By,
}

/// The content of an environment.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DescribeResponse {
    pub(super) packages: Vec<Package>,
    /// The number of regular files, and their bytes.
    pub(super) size: (u64, u64),
}

/// Performs the operation. Returns `None` if nothing changed.
pub(super) fn compare(request: &CompareRequest) -> Outcome<Option<Contamination>> {
    // An environment without a manifest counts as changed.
    let lost = |change| Some(Contamination::of_inventory(&request.manifest, change));
    let before = match Manifest::read(&request.manifest) {
        Ok(Some(before)) => before,
        Ok(None) => return Ok(lost(Change::Removed)),
        Err(failure) if failure.interrupted_by().is_some() => return Err(failure),
        Err(_) => return Ok(lost(Change::Changed)),
    };
    let scan = match request.by {
        By::Metadata => Scan::knowing(&before),
        By::Content => Scan::digests(),
    };
    match scan.at_most(ENTRIES).of(&request.directory) {
        Ok(now) => Ok(Contamination::of(&before.compare(&now))),
        Err(failure) if failure.interrupted_by().is_some() => Err(failure),
        // The owner of the environment must not be able to keep it from being replaced.
        Err(_) => Ok(Some(Contamination::of_inventory(&request.directory, Change::Changed))),
    }
}

/// Performs the operation.
pub(super) fn describe(directory: &Path) -> Outcome<DescribeResponse> {
    let size = Scan::metadata().of(directory)?.files();
    Ok(DescribeResponse { packages: record::installed(directory)?, size })
}
