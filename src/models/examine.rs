//! The operation that verifies models, from the sources to verdicts, in one process that reads all of them.
//!
//! On a machine it runs in a unit as the service user, who may write to every file that is read here. It writes nothing: what
//! is known of the files goes back to the conductor, which keeps it. Its progress is a line each on standard error.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Outcome};
use crate::git::path::TreePath;
use crate::report::screen::complain;
use crate::service::envfile::EnvFile;
use crate::settings::layout::Layout;

use super::cache::DigestCache;
use super::gather::ManifestText;
use super::locations;
use super::progress::Progress;
use super::verify::{self, Depth, Verified};

/// The name of the operation.
pub const OPERATION: &str = "examine-models";

/// What to examine.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExamineModelsRequest {
    layout: Layout,
    /// The manifest; the operation reads that of the deployed application where there is none here.
    manifest: Option<ManifestText>,
    /// The variable that names Ollama's store, or why it cannot be read.
    env_file: Result<EnvFile, String>,
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
        let env_file = env_file.map_err(|failure| failure.chain().join(": ")).map(|mut file| {
            file.variables.retain(|name, _| name == locations::OLLAMA);
            EnvFile { variables: file.variables, ..EnvFile::default() }
        });
        let stores = stores.iter().map(|store| store.as_path().into()).collect();
        Self { layout: layout.clone(), manifest, env_file, stores, depth, cache }
    }

    /// Returns the directories that the host names.
    pub fn stores(&self) -> &[TreePath] {
        &self.stores
    }
}

/// Carries out [`OPERATION`] inside a unit.
///
/// # Errors
/// As [`examine`].
pub fn handle(request: ExamineModelsRequest) -> Outcome<Verified> {
    examine(request, &|progress| complain(&progress.to_line()))
}

/// Examines models in this process.
///
/// # Errors
/// The interruption.
pub fn examine(request: ExamineModelsRequest, report: &dyn Fn(&Progress)) -> Outcome<Verified> {
    let text = request.manifest.unwrap_or_else(|| ManifestText::read(&request.layout));
    let env_file = request.env_file.map_err(Failure::new);
    let stores: Vec<_> = request.stores.iter().map(|store| store.as_path().to_path_buf()).collect();
    verify::verify(&request.layout, &text, env_file, &stores, (request.depth, request.cache), report)
}
