//! The content of a commit: the application's settings and its dependency definitions.
//!
//! Read from the mirror, never from the working tree: the content is known before the stop, and users who can write to
//! `app/` cannot change it. The reading is an operation: it parses text of the application.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_environments::definitions::Definitions;
use refresh_environments::{DefinitionFilter, EnvironmentSpec, TreeSource, reading};
use refresh_git::Git;
use refresh_git::mirror::Mirror;
use refresh_programs::process::{Runner, worker};
use refresh_settings::file::{APPLICATION_FILE, ApplicationFile};
use refresh_settings::layout::Layout;
use refresh_settings::names::CommitId;
use refresh_settings::{Python, Remote, layers};
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};

use super::{Installation, Release, unread_definitions};

/// The operation that reads a commit.
pub const OPERATION: &str = "read-release";

/// How large the host's own file of requirements can be, in bytes.
const LARGEST_ALSO: u64 = 1 << 20;

/// Reads a commit out of the mirror.
#[derive(Debug, Serialize, Deserialize)]
struct ReadReleaseRequest {
    layout: Layout,
    commit: CommitId,
    /// The host's settings, which win over those of the application.
    python: Python,
    /// The content of the host's own file of requirements.
    also: Option<Vec<u8>>,
}

/// The content of a commit.
#[derive(Debug, Serialize, Deserialize)]
struct ReadReleaseResponse {
    application: ApplicationFile,
    definitions: Definitions,
}

impl Installation {
    /// Returns the release of a commit; a commit never changes, so it is read once.
    ///
    /// # Errors
    /// The commit cannot be deployed.
    pub fn release(&self, commit: &CommitId) -> Outcome<Release> {
        if let Some(known) = self.releases.borrow().iter().find(|release| release.commit == *commit) {
            return Ok(known.clone());
        }
        let release = read(self, commit)?;
        self.releases.borrow_mut().push(release.clone());
        Ok(release)
    }
}

/// Reads a commit out of the mirror.
///
/// # Errors
/// The commit uses unsupported features, its `refresh.toml` has faults, or its definitions cannot be used.
fn read(on: &Installation, commit: &CommitId) -> Outcome<Release> {
    on.mirror.check_supported(commit)?;
    let context = || format!("commit {} cannot be deployed", commit.short());
    let python = &on.layers.host.python;
    let request = ReadReleaseRequest {
        layout: on.layout.clone(),
        commit: commit.clone(),
        python: python.clone(),
        also: python.also.as_deref().map(|file| read_also(&on.layout, file)).transpose()?,
    };
    let found: ReadReleaseResponse =
        on.site().read_release(OPERATION, &request).context(context).map_err(correct_it)?;
    let layers = on.layers.clone().with_application(found.application);
    let settings = layers.resolve().context(context).map_err(correct_it)?;
    Ok(Release { commit: commit.clone(), settings, definitions: found.definitions })
}

/// Adds a hint to a failure that only another commit can repair: the same run would fail again.
fn correct_it(failure: Failure) -> Failure {
    if failure.hints().is_empty() {
        failure.hint("correct this in the application's repository and push: a run takes the latest commit")
    } else {
        failure
    }
}

impl Release {
    /// Returns the environment that the commit wants. uv, lock and packages of a bundle are in place then.
    ///
    /// # Errors
    /// The commit names its packages only in files that are not read; no interpreter can be used; or the bundle cannot be used.
    pub fn wanted(&self, on: &Installation) -> Outcome<EnvironmentSpec> {
        unread_definitions::check(on, self)?;
        let interpreter = on.interpreter()?;
        // Without files, git would answer for the entire tree.
        let cutoff = if self.definitions.files().next().is_none() {
            None
        } else {
            on.mirror.last_change(&self.commit, self.definitions.files())?
        };
        let wanted = on.environments().wanted(self.definitions.clone(), interpreter.clone(), cutoff)?;
        if let Some(source) = &on.offline {
            source.ensure_environment(on, &wanted)?;
        }
        Ok(wanted)
    }
}

/// Reads the host's own file of requirements.
fn read_also(layout: &Layout, file: &Path) -> Outcome<Vec<u8>> {
    let path = layout.root().join(file.strip_prefix("/").unwrap_or(file));
    disk::read_at_most(&path, LARGEST_ALSO)?.ok_or_else(|| {
        Failure::new(format!("python.also names {}, which does not exist", path.display()))
            .hint("write it, or take python.also out of the host's refresh.toml")
    })
}

/// Carries out the operation.
pub fn answer(request: &[u8]) -> Vec<u8> {
    worker::answer(request, |request| handle(&request))
}

fn handle(request: &ReadReleaseRequest) -> Outcome<ReadReleaseResponse> {
    let runner = Runner::silent();
    let git = Git::new(&runner, &request.layout)?;
    let mirror = Mirror::new(&git, &request.layout, &Remote::default());
    // After one listing, every file is found without a git process for each.
    mirror.files(&request.commit)?;
    let application = mirror.read(&request.commit, Path::new(APPLICATION_FILE))?;
    let application = layers::read_application(application.as_deref())?;
    let host = request.python.clone();
    let python = Python {
        definitions: host.definitions.or_else(|| application.definitions.clone()),
        extras: host.extras.or_else(|| application.extras.clone()),
        groups: host.groups.or_else(|| application.groups.clone()),
        ..host
    };
    let source = CommitTree { mirror: &mirror, commit: &request.commit };
    let definitions = reading::read(&source, &DefinitionFilter::of(&python, request.also.as_deref()))?;
    Ok(ReadReleaseResponse { application, definitions })
}

/// The tree of a commit, in the form that `environments` reads.
#[derive(Debug)]
struct CommitTree<'a> {
    mirror: &'a Mirror,
    commit: &'a CommitId,
}

impl TreeSource for CommitTree<'_> {
    fn names_at_root(&self) -> Outcome<Vec<PathBuf>> {
        let files = self.mirror.files(self.commit)?;
        Ok(files
            .iter()
            .map(|entry| entry.path.clone())
            .filter(|path| path.components().count() == 1)
            .collect())
    }

    fn read(&self, path: &Path) -> Outcome<Option<Vec<u8>>> {
        self.mirror.read(self.commit, path)
    }

    fn link(&self, path: &Path) -> Outcome<Option<PathBuf>> {
        self.mirror.link(self.commit, path)
    }
}
