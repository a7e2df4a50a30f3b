//! A world below a temporary directory, for tests that make environments with the real uv.
//!
//! Files that uv fetches are shared with all tests and runs (`pool.rs`).
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]
#![expect(clippy::disallowed_methods, reason = "tests lay out directories and read their environment")]
#![expect(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

pub use crate::host::pool;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use refresh_environments::{BuildOutcome, Ensured, EnvironmentSpec, Environments, Interpreter, Site};
use refresh_environments::{DefinitionFilter, TreeSource, reading};
use refresh_events::event::{Event, Events, Subscriber};
use refresh_programs::process::Runner;
use refresh_programs::units::Units;
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_settings::{Python, Strategy};
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::Outcome;

/// A tree of files in memory.
pub struct Tree(pub Vec<(PathBuf, String)>);

impl TreeSource for Tree {
    fn names_at_root(&self) -> Outcome<Vec<PathBuf>> {
        Ok(self
            .0
            .iter()
            .filter(|(path, _)| path.components().count() == 1)
            .map(|(path, _)| path.clone())
            .collect())
    }
    fn read(&self, path: &Path) -> Outcome<Option<Vec<u8>>> {
        Ok(self.0.iter().find(|(known, _)| known == path).map(|(_, text)| text.clone().into_bytes()))
    }
    fn link(&self, _: &Path) -> Outcome<Option<PathBuf>> {
        Ok(None)
    }
}

pub fn tree(files: &[(&str, &str)]) -> Tree {
    Tree(files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect())
}

/// Collects the lines for people.
#[derive(Clone, Default)]
pub struct Reported(pub Arc<Mutex<Vec<String>>>);

impl Subscriber for Reported {
    fn take(&mut self, event: &Event) {
        let line = match event {
            Event::Note { message, .. } | Event::Warning { message, .. } => message.clone(),
            Event::Output { source, line, .. } => format!("{source}: {line}"),
            _ => return,
        };
        self.0.lock().unwrap().push(line);
    }
}

impl Reported {
    pub fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

/// One installation.
pub struct World {
    directory: Option<tempfile::TempDir>,
    pub layout: Layout,
    pub python: Python,
    pub runner: Runner,
    pub units: Units,
    pub owner: Owner,
    pub reported: Reported,
    /// The additional requirements of the host.
    pub also: Option<String>,
    /// Whether no network is used.
    pub offline: bool,
}

impl World {
    /// A world of the user of this process that shares uv and its cache with all others.
    pub fn new() -> Self {
        let world = Self::bare(Owner::own());
        fs::create_dir_all(world.layout.state()).unwrap();
        pool::lend(&world.layout);
        world
    }

    /// A world that shares nothing and belongs to `owner`.
    pub fn bare(owner: Owner) -> Self {
        let directory = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .unwrap();
        let mut world = Self::at(directory.path(), owner);
        fs::create_dir_all(world.layout.home()).unwrap();
        world.directory = Some(directory);
        world
    }

    /// The world at an existing directory.
    pub fn at(root: &Path, owner: Owner) -> Self {
        let layout = Layout::below(root);
        let reported = Reported::default();
        let runner = Runner::new(Arc::new(Events::new(vec![Box::new(reported.clone())])));
        let runner = runner.with_worker(pool::program());
        let python = pool::python();
        let units = Units::new(&layout, &runner, owner);
        Self { directory: None, layout, python, runner, units, owner, reported, also: None, offline: false }
    }

    /// Gives this world a separate, empty cache.
    pub fn own_cache(&self) {
        let cache = self.layout.uv().join("cache");
        fs::remove_file(&cache).unwrap();
        fs::create_dir(&cache).unwrap();
    }

    pub fn site(&self) -> Site<'_> {
        let Self { runner, layout, python, owner, offline, units, .. } = self;
        Site { runner, layout, python, owner: *owner, offline: *offline, units }
    }

    pub fn environments(&self) -> Environments<'_> {
        Environments::new(self.site())
    }

    pub fn wanted(&self, files: &[(&str, &str)]) -> Outcome<EnvironmentSpec> {
        self.wanted_until(files, None)
    }

    /// The request for a definition of a certain date.
    pub fn wanted_until(
        &self,
        files: &[(&str, &str)],
        cutoff: Option<jiff::Timestamp>,
    ) -> Outcome<EnvironmentSpec> {
        let python = Python { also: self.also.as_ref().map(|_| "also.txt".into()), ..self.python.clone() };
        let also = self.also.as_ref().map(String::as_bytes);
        let definitions = reading::read(&tree(files), &DefinitionFilter::of(&python, also))?;
        let interpreter = Interpreter::find(self.site())?;
        self.environments().wanted(definitions, interpreter, cutoff)
    }

    /// Ensures the environment of a tree whose only definition is `requirements.txt`.
    pub fn ensure(&self, requirements: &str, run: &str) -> Outcome<Ensured> {
        self.ensure_with(&[("requirements.txt", requirements)], Strategy::WhenChanged, run)
    }

    pub fn ensure_with(&self, files: &[(&str, &str)], strategy: Strategy, run: &str) -> Outcome<Ensured> {
        self.environments().ensure(&self.wanted(files)?, strategy, &RunId::parse(run).unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Environments are read-only, and dropping the temporary directory could not remove them.
        if let Some(directory) = &self.directory {
            let _ = disk::remove_tree(directory.path());
        }
    }
}

/// The names of the packages of an environment.
pub fn packages(ensured: &Ensured) -> Vec<String> {
    ensured.environment.record.packages.iter().map(|package| package.name.clone()).collect()
}

pub fn was_built(ensured: &Ensured) -> bool {
    ensured.made == BuildOutcome::Built
}

/// The names in a directory, sorted; none if the directory does not exist.
pub fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
