//! The operation that examines models: from what names them to verdicts, in one process that reads all of it.
//!
//! On a machine it runs in a unit as the service user, who may write to every file that is read here. It writes nothing:
//! what is known of the files that were read goes back to the conductor, which keeps it. Its progress is a line each on
//! standard error.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Outcome};
use crate::git::path::TreePath;
use crate::report::screen::complain;
use crate::service::envfile::EnvFile;
use crate::settings::layout::Layout;

use super::cache::Cache;
use super::engine::{self, How};
use super::places;
use super::progress::{Progress, Reached};
use super::verify::{self, Text, Verified};

/// The operation.
pub const OPERATION: &str = "examine-models";

/// What a line begins with that names a file that was read.
pub const KNOWN: &str = "known ";

/// How often a unit reports how far it is.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// What to examine.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExamineModelsRequest {
    layout: Layout,
    manifest: Manifest,
    /// The variables that name places, or why they cannot be read.
    env_file: Result<EnvFile, String>,
    stores: Vec<TreePath>,
    how: How,
    /// What is known of files that were read before.
    pub cache: Cache,
}

/// Which manifest counts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manifest {
    /// That of the deployed application; the operation itself reads it.
    Deployed,
    /// That of a commit.
    Text(Text),
}

/// What came of an examination.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExamineModelsResponse {
    /// It is done.
    Verified(Box<Verified>),
    /// A signal asked for its end. A line each has named the files that were read until then.
    Interrupted,
}

impl ExamineModelsRequest {
    /// Makes the request. Of the environment file only the variables that name places are part of it; `stores` are the
    /// places that the host names.
    pub fn new(
        layout: &Layout,
        manifest: Manifest,
        env_file: Outcome<EnvFile>,
        stores: &[PathBuf],
        how: How,
        cache: Cache,
    ) -> Self {
        let env_file = env_file.map_err(|failure| failure.chain().join(": ")).map(|mut file| {
            file.variables.retain(|name, _| places::VARIABLES.contains(&name.as_str()));
            EnvFile { variables: file.variables, ..EnvFile::default() }
        });
        let stores = stores.iter().map(|store| store.as_path().into()).collect();
        Self { layout: layout.clone(), manifest, env_file, stores, how, cache }
    }

    /// Returns the places that the host names.
    pub fn stores(&self) -> &[TreePath] {
        &self.stores
    }
}

/// Carries out [`OPERATION`] inside a unit.
///
/// # Errors
/// As [`examine`], but for the interruption, which is a response.
pub fn handle(request: &ExamineModelsRequest) -> Outcome<ExamineModelsResponse> {
    match examine(request, &Lines::default()) {
        Ok(verified) => Ok(ExamineModelsResponse::Verified(Box::new(verified))),
        Err((failure, cache)) if failure.interrupted_by().is_some() => {
            // Who is interrupted itself reads no response any more, but these lines.
            cache.lines_since(&request.cache).iter().for_each(|line| complain(&format!("{KNOWN}{line}")));
            Ok(ExamineModelsResponse::Interrupted)
        }
        Err((failure, _)) => Err(failure),
    }
}

/// Examines models in this process.
///
/// # Errors
/// As [`verify::gather`] and [`verify::verify`], with what is known of files until then.
pub fn examine(
    request: &ExamineModelsRequest,
    progress: &dyn Progress,
) -> Result<Verified, (Failure, Cache)> {
    let deployed;
    let text = match &request.manifest {
        Manifest::Text(text) => text,
        Manifest::Deployed => {
            deployed = Text::of_app(&request.layout);
            &deployed
        }
    };
    let env_file = request.env_file.clone().map_err(Failure::new);
    let stores: Vec<_> = request.stores.iter().map(|store| store.as_path().to_path_buf()).collect();
    let gathered = verify::gather(&request.layout, text, env_file, &stores)
        .map_err(|failure| (failure, request.cache.clone()))?;
    verify::verify(gathered, request.how, &request.cache, engine::all_threads(), progress)
}

/// Reports progress on standard error, where the conductor reads it.
#[derive(Debug, Default)]
struct Lines {
    last: Cell<Option<Duration>>,
}

impl Progress for Lines {
    fn take(&self, reached: &Reached) {
        if reached.is_due(&self.last, REPORT_EVERY) {
            complain(&reached.to_line());
        }
    }
}
