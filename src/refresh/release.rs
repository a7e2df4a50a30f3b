//! What a commit brings with it: the application's settings and its dependency definitions.
//!
//! Read from the mirror, never from the work tree, so that it can be known before the stop and cannot be changed by
//! whoever can write in `app/`. The reading is an operation: what the application wrote is parsed there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::event::Events;
use crate::git::Git;
use crate::git::mirror::Mirror;
use crate::installation::Installation;
use crate::process::{Runner, worker};
use crate::python::Wanted;
use crate::python::definitions::{self, Choice, Definitions, TreeSource};
use crate::settings::file::{APPLICATION_FILE, ApplicationFile};
use crate::settings::layers;
use crate::settings::layout::Layout;
use crate::settings::names::CommitId;
use crate::settings::{Python, Remote, Settings};

/// The operation that reads a commit.
pub const OPERATION: &str = "read-release";

/// How large the host's own file of requirements can be, in bytes.
const LARGEST_ALSO: u64 = 1 << 20;

/// A commit, and what it says of itself.
#[derive(Debug, Clone)]
pub struct Release {
    /// The commit.
    pub commit: CommitId,
    /// The settings, with the application's layer.
    pub settings: Settings,
    /// The dependency definitions.
    pub definitions: Definitions,
}

/// Reads a commit out of the mirror.
#[derive(Debug, Serialize, Deserialize)]
struct ReadReleaseRequest {
    layout: Layout,
    commit: CommitId,
    /// What the host says, where the application says nothing or may say nothing.
    python: Python,
    /// Which of definitions, extras and groups the host has set.
    set: [bool; 3],
    /// What the host's own file of requirements holds.
    also: Option<Vec<u8>>,
}

/// What a commit brings.
#[derive(Debug, Serialize, Deserialize)]
struct ReadReleaseResponse {
    application: ApplicationFile,
    definitions: Definitions,
}

impl Release {
    /// Reads a commit out of the mirror.
    ///
    /// # Errors
    /// The commit uses what is not supported, its `refresh.toml` says what it may not, or its definitions cannot be
    /// used.
    pub fn read(on: &Installation, commit: &CommitId) -> Outcome<Self> {
        on.mirror.check_supported(commit)?;
        let context = || format!("commit {} cannot be deployed", commit.short());
        let python = &on.settings.python;
        let host = &on.layers.host.python;
        let request = ReadReleaseRequest {
            layout: on.layout.clone(),
            commit: commit.clone(),
            python: python.clone(),
            set: [host.definitions.is_some(), host.extras.is_some(), host.groups.is_some()],
            also: python.also.as_deref().map(|file| read_also(&on.layout, file)).transpose()?,
        };
        let found: ReadReleaseResponse = on.site().read_release(OPERATION, &request).context(context)?;
        let layers = on.layers.clone().with_application(found.application);
        let settings = layers.resolve().context(context)?;
        Ok(Self { commit: commit.clone(), settings, definitions: found.definitions })
    }

    /// Returns the environment that the commit wants. uv, lock and packages of a bundle are in place then.
    ///
    /// # Errors
    /// There is no interpreter that it could run on, or the bundle cannot be used.
    pub fn wanted(&self, on: &Installation) -> Outcome<Wanted> {
        let interpreter = on.interpreter()?;
        // Without files, git would answer for the whole tree.
        let cutoff = if self.definitions.files().next().is_none() {
            None
        } else {
            on.mirror.last_change(&self.commit, self.definitions.files())?
        };
        let wanted = on.environments().wanted(self.definitions.clone(), interpreter.clone(), cutoff)?;
        if let Some(bundle) = &on.bundle {
            bundle.ensure_environment(on, &wanted)?;
        }
        Ok(wanted)
    }
}

/// Reads the host's own file of requirements.
fn read_also(layout: &Layout, file: &Path) -> Outcome<Vec<u8>> {
    let path = layout.root().join(file.strip_prefix("/").unwrap_or(file));
    disk::read_at_most(&path, LARGEST_ALSO)?.ok_or_else(|| {
        Failure::new(format!("python.also names {}, and there is no such file", path.display()))
            .hint("write it, or take python.also out of the host's refresh.toml")
    })
}

/// Does the operation.
pub fn answer(request: &[u8]) -> Vec<u8> {
    worker::answer(request, |request| handle(&request))
}

fn handle(request: &ReadReleaseRequest) -> Outcome<ReadReleaseResponse> {
    let runner = Runner::new(Arc::new(Events::silent()));
    let git = Git::new(&runner, &request.layout)?;
    let mirror = Mirror::new(&git, &request.layout, &Remote::default());
    let application = mirror.read(&request.commit, Path::new(APPLICATION_FILE))?;
    let application = layers::read_application(application.as_deref())?;
    let mut python = request.python.clone();
    let [definitions, extras, groups] = request.set;
    let choose = |set: bool, host: &mut Vec<String>, application: &Option<Vec<String>>| {
        if let (false, Some(chosen)) = (set, application) {
            host.clone_from(chosen);
        }
    };
    choose(definitions, &mut python.definitions, &application.definitions);
    choose(extras, &mut python.extras, &application.extras);
    choose(groups, &mut python.groups, &application.groups);
    let source = CommitTree { mirror: &mirror, commit: &request.commit };
    let definitions = definitions::read(&source, &Choice::of(&python, request.also.as_deref()))?;
    Ok(ReadReleaseResponse { application, definitions })
}

/// The tree of a commit, as the python room reads it.
#[derive(Debug)]
struct CommitTree<'a> {
    mirror: &'a Mirror,
    commit: &'a CommitId,
}

impl TreeSource for CommitTree<'_> {
    fn names_at_root(&self) -> Outcome<Vec<PathBuf>> {
        let files = self.mirror.files(self.commit)?;
        Ok(files
            .into_iter()
            .map(|entry| entry.path.as_path().to_path_buf())
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
