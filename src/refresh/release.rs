//! What a commit brings with it: the application's settings and its dependency definitions.
//!
//! Read from the mirror, never from the work tree, so that it can be known before the stop and cannot be changed by
//! whoever can write in `app/`.

use std::path::{Path, PathBuf};

use crate::error::{Context as _, Outcome};
use crate::git::mirror::Mirror;
use crate::installation::Installation;
use crate::python::Wanted;
use crate::python::definitions::{self, Choice, Definitions, TreeSource};
use crate::settings::Settings;
use crate::settings::file::APPLICATION_FILE;
use crate::settings::names::CommitId;

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

impl Release {
    /// Reads a commit out of the mirror.
    ///
    /// # Errors
    /// The commit uses what is not supported, its `refresh.toml` says what it may not, or its definitions cannot be
    /// used.
    pub fn read(on: &Installation, commit: &CommitId) -> Outcome<Self> {
        on.mirror.check_supported(commit)?;
        let application = on.mirror.read(commit, Path::new(APPLICATION_FILE))?;
        let told = || format!("commit {} cannot be deployed", commit.short());
        let layers = on.layers.clone().with_application(application.as_deref()).context(told)?;
        let settings = layers.resolve().context(told)?;
        let source = CommitTree { mirror: &on.mirror, commit };
        let definitions = definitions::read(&source, &Choice::of(&settings.python)).context(told)?;
        Ok(Self { commit: commit.clone(), settings, definitions })
    }

    /// Returns the environment that the commit wants. Installer, lock and wheels of a bundle are in the stores then.
    ///
    /// # Errors
    /// There is no interpreter that it could run on, or no installer.
    pub fn wanted(&self, on: &Installation) -> Outcome<Wanted> {
        let interpreter = on.interpreter()?;
        interpreter.accept(self.definitions.requires_python())?;
        let installer = on.installer()?.clone();
        // Without files, git would answer for the whole tree.
        let cutoff = if self.definitions.is_empty() {
            None
        } else {
            on.mirror.last_change(&self.commit, self.definitions.files())?
        };
        let wanted =
            on.environments().wanted(self.definitions.clone(), interpreter.clone(), installer, cutoff)?;
        if let Some(bundle) = &on.bundle {
            bundle.ensure_wheels(on, &wanted)?;
        }
        Ok(wanted)
    }
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
}
