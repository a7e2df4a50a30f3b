//! A world below a temporary folder, for tests that make environments with the real installers.
//!
//! What the installers fetch is lent to all tests and runs (`pool.rs`).
#![expect(unreachable_pub, reason = "a module of a test is private whatever its items say")]
#![expect(clippy::disallowed_methods, reason = "tests lay out folders and read their environment")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]

#[path = "pool.rs"]
pub mod pool;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ladylinux_refresh::disk;
use ladylinux_refresh::error::Outcome;
use ladylinux_refresh::event::{Event, Events, Subscriber};
use ladylinux_refresh::process::{Owner, Runner};
use ladylinux_refresh::python::definitions::{self, Choice, TreeSource};
use ladylinux_refresh::python::{Ensured, Environments, Installer, Interpreter, Made, Site, Wanted};
use ladylinux_refresh::settings::layout::Layout;
use ladylinux_refresh::settings::names::RunId;
use ladylinux_refresh::settings::{InstallerChoice, Python, Strategy};

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
}

pub fn tree(files: &[(&str, &str)]) -> Tree {
    Tree(files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect())
}

/// Collects what a person would have been told.
#[derive(Clone, Default)]
pub struct Told(pub Arc<Mutex<Vec<String>>>);

impl Subscriber for Told {
    fn take(&mut self, event: &Event) {
        let line = match event {
            Event::Note { message, .. } | Event::Warning { message, .. } => message.clone(),
            Event::Output { source, line, .. } => format!("{source}: {line}"),
            _ => return,
        };
        self.0.lock().unwrap().push(line);
    }
}

impl Told {
    pub fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

/// One installation.
pub struct World {
    folder: Option<tempfile::TempDir>,
    pub layout: Layout,
    pub python: Python,
    pub runner: Runner,
    pub owner: Owner,
    pub told: Told,
}

impl World {
    /// A world of our own user that shares the installers' downloads with all others.
    pub fn new() -> Self {
        let world = Self::bare(Owner::own());
        fs::create_dir_all(world.layout.state()).unwrap();
        pool::lend(&world.layout);
        world
    }

    /// A world that shares nothing and belongs to `owner`.
    pub fn bare(owner: Owner) -> Self {
        let folder = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .unwrap();
        let mut world = Self::at(folder.path(), owner);
        fs::create_dir_all(world.layout.home()).unwrap();
        world.folder = Some(folder);
        world
    }

    /// The world at a folder that somebody else has laid out.
    pub fn at(root: &Path, owner: Owner) -> Self {
        let layout = Layout::below(root);
        let told = Told::default();
        let runner = Runner::new(Arc::new(Events::new(vec![Box::new(told.clone())])));
        Self { folder: None, layout, python: pool::python(InstallerChoice::Uv), runner, owner, told }
    }

    /// The same world with another installer.
    #[must_use]
    pub fn with(mut self, installer: InstallerChoice) -> Self {
        self.python.installer = installer;
        self
    }

    pub fn site(&self) -> Site<'_> {
        Site { runner: &self.runner, layout: &self.layout, python: &self.python, owner: self.owner }
    }

    pub fn environments(&self) -> Environments<'_> {
        Environments::new(self.site())
    }

    pub fn wanted(&self, files: &[(&str, &str)]) -> Outcome<Wanted> {
        self.wanted_until(files, None)
    }

    /// What is wanted where the definition is of a certain date.
    pub fn wanted_until(&self, files: &[(&str, &str)], cutoff: Option<jiff::Timestamp>) -> Outcome<Wanted> {
        let definitions = definitions::read(&tree(files), &Choice::of(&self.python))?;
        let interpreter = Interpreter::find(&self.runner, &self.python, self.owner)?;
        let installer = Installer::ensure(self.site(), &interpreter)?;
        self.environments().wanted(definitions, interpreter, installer, cutoff)
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
        // Generations are read-only, which the temporary folder itself could not remove.
        if let Some(folder) = &self.folder {
            pool::keep_wheels(&self.layout);
            let _ = disk::remove_tree(folder.path());
        }
    }
}

/// The names of the packages of a generation, without what venv itself puts there.
pub fn packages(ensured: &Ensured) -> Vec<String> {
    let installed = ensured.generation.record.packages.iter();
    installed
        .map(|package| package.name.clone())
        .filter(|name| !matches!(name.as_str(), "pip" | "setuptools" | "wheel"))
        .collect()
}

pub fn was_built(ensured: &Ensured) -> bool {
    ensured.made == Made::Built
}

/// The names in a folder, sorted; none where there is no folder.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
