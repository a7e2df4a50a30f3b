//! The part of step 2 with the rights of the service user. It lists the paths that move across. It runs the normative
//! commands `git reset --hard COMMIT` and `git clean -ffd`, which find nothing to do (RW-5.2b, RW-5.2c).
//!
//! One process does both. It is started before the stop, waits for its requests, and verifies nothing: its answers
//! protect only files of the service user.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_git::{LONG, Repository};
use refresh_settings::names::CommitId;
use refresh_system::error::{Failure, Outcome};
use refresh_system::{checkpoint, disk};

use super::kept::{self, Kept, ListKeptRequest};
use super::kept_beforehand::KeptBeforehand;
use super::operation_request::GitLocation;
use super::own_repository::BYTE_CODE;

/// The operation.
pub(crate) const OPERATION: &str = "source-align";

/// The requested action.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AlignRequest {
    /// Only reports that the unit works.
    Ready,
    /// Lists the paths that move across, before the exchange.
    List {
        /// The parameters of the list.
        request: ListKeptRequest,
        /// The list that was made beforehand.
        beforehand: Option<KeptBeforehand>,
    },
    /// Runs the normative commands, after the exchange.
    Reset(ResetRequest),
}

/// The parameters of the reset.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResetRequest {
    /// The location of git.
    pub place: GitLocation,
    /// The tree, with the repository that was prepared for it.
    pub app: TreePath,
    /// The commit.
    pub commit: CommitId,
    /// The local ignore rules of the tree, if it needs some.
    pub exclude: Option<String>,
}

/// The result.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AlignResponse {
    /// The unit works.
    Ready,
    /// The paths that move across.
    Kept(Kept),
    /// The tree is the commit.
    Reset,
}

/// Performs [`OPERATION`].
///
/// # Errors
/// The tree cannot be read, or git fails.
pub(crate) fn handle(request: &AlignRequest) -> Outcome<AlignResponse> {
    match request {
        AlignRequest::Ready => Ok(AlignResponse::Ready),
        AlignRequest::List { request, beforehand } => {
            let known = beforehand.clone().and_then(|known| known.still_holds(request));
            known.map_or_else(|| kept::list(request), Ok).map(AlignResponse::Kept)
        }
        AlignRequest::Reset(request) => {
            reset(request)?;
            move_byte_code(request.app.as_path());
            Ok(AlignResponse::Reset)
        }
    }
}

/// Runs the normative commands.
fn reset(request: &ResetRequest) -> Outcome<()> {
    let git = request.place.git();
    let app = request.app.as_path();
    if !fs::symlink_metadata(app.join(".git")).is_ok_and(|found| found.is_dir()) {
        return Err(Failure::new(format!("{} has no own repository", app.display())));
    }
    if let Some(rules) = &request.exclude {
        let file = app.join(".git/info/exclude");
        disk::remove_file_if_there(&file)?;
        disk::write_unsynced(&file, rules.as_bytes(), 0o644)?;
    }
    // It is durable after the conductor syncs the file system.
    let repository = Repository::bare(app.join(".git")).with_tree(app).passing();
    let quick = ["-c", "core.trustctime=false", "-c", "core.preloadIndex=false", "-c", "index.threads=1"];
    let at = |arguments: &[&str]| git.at(&repository).args(quick).args(arguments).deadline(LONG);
    let step = || format!("cannot reset app/ to {}", request.commit.short());
    git.run(&at(&["reset", "--quiet", "--hard", request.commit.as_str(), "--"]), step)?;
    checkpoint::reach("align:reset");
    git.run(&at(&["clean", "--quiet", "-ffd"]), || "cannot clean app/".to_owned())?;
    checkpoint::reach("align:cleaned");
    Ok(())
}

/// Moves the prepared bytecode beside its sources. A failure only costs time.
fn move_byte_code(app: &Path) {
    let prepared = app.join(".git").join(BYTE_CODE);
    move_caches(&prepared, &prepared, app);
    let _ = disk::remove_tree(&prepared);
}

fn move_caches(prepared: &Path, directory: &Path, app: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if entry.file_name() != "__pycache__" {
            move_caches(prepared, &path, app);
        } else if let Ok(below) = path.strip_prefix(prepared) {
            // Bytecode that the commit tracks stays.
            let _ = disk::move_new(&path, &app.join(below));
        }
    }
}
