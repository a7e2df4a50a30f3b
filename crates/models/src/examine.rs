//! The operation that verifies models, from the sources to verdicts, in one process that reads all of them.
//!
//! On a machine it runs in a unit as the service user, who may write to every file that it reads. It writes nothing: it
//! returns its knowledge of the files to the conductor, which keeps it. It reports progress in lines on standard error.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_service::envfile::EnvFile;
use refresh_settings::layout::Layout;
use refresh_system::error::Outcome;
use refresh_system::interrupt;
use refresh_system::screen::print_to_stderr;

use super::cache::DigestCache;
use super::gather::{ManifestText, UNLISTED, deployed_manifest, gather};
use super::verify::{Depth, Verified, summary_of};
use super::verify_files::verify_files;
use super::{Finding, locations};

/// The name of the operation.
pub const OPERATION: &str = "examine-models";

/// The beginning of a line of progress.
pub const PROGRESS: &str = "read ";

/// The models to examine.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExamineModelsRequest {
    layout: Layout,
    /// The manifest; if it is `None`, the operation reads that of the deployed application.
    manifest: Option<ManifestText>,
    /// The directory that the service's environment file names, or why the file cannot be read.
    ollama: Result<Option<String>, String>,
    stores: Vec<TreePath>,
    depth: Depth,
    cache: DigestCache,
}

impl ExamineModelsRequest {
    /// Makes the request. Of the environment file only the variable that names a directory is part of it; `stores` are
    /// the directories that the host names.
    pub fn new(
        layout: &Layout,
        manifest: Option<ManifestText>,
        env_file: Outcome<EnvFile>,
        stores: &[PathBuf],
        (depth, cache): (Depth, DigestCache),
    ) -> Self {
        let ollama = env_file
            .map(|file| file.value(locations::OLLAMA).map(str::to_owned))
            .map_err(|failure| failure.chain().join(": "));
        let stores = stores.iter().map(|store| store.as_path().into()).collect();
        Self { layout: layout.clone(), manifest, ollama, stores, depth, cache }
    }

    /// Returns the directories that the host names.
    pub fn stores(&self) -> impl Iterator<Item = PathBuf> {
        self.stores.iter().map(|store| store.as_path().to_path_buf())
    }
}

/// Carries out [`OPERATION`] inside a unit.
///
/// # Errors
/// As [`examine`].
pub fn handle(request: ExamineModelsRequest) -> Outcome<Verified> {
    examine(request, &|progress| print_to_stderr(&format!("{PROGRESS}{progress}")))
}

/// Examines models in this process. `report` receives the progress as text.
///
/// # Errors
/// The interruption.
pub fn examine(request: ExamineModelsRequest, report: &dyn Fn(&str)) -> Outcome<Verified> {
    let stores = request.stores().collect();
    let text = request.manifest.unwrap_or_else(|| deployed_manifest(&request.layout));
    let gathered = gather(&request.layout, &text, &request.ollama, stores)?;
    let (files, cache) = verify_files(&gathered.claims, request.depth, request.cache, report)?;
    let mut verdicts = gathered.verdicts;
    for mut verdict in files {
        match verdict.finding {
            // A file that no source lists may have been removed.
            Finding::MissingOptional if verdict.from == UNLISTED => continue,
            Finding::Present if verdict.from == UNLISTED => verdict.finding = Finding::Unexpected,
            _ => {}
        }
        verdicts.push(verdict);
    }
    verdicts.sort_by(|one, other| (&one.path, &one.from).cmp(&(&other.path, &other.from)));
    // Two entries of one source may have the same expectation about a file.
    verdicts.dedup_by(|one, other| {
        one.path == other.path && one.from == other.from && one.finding == other.finding
    });
    interrupt::check()?;
    let summary = summary_of(&verdicts, request.depth);
    Ok(Verified { verdicts, sources: gathered.sources, summary, cache })
}
