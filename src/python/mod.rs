//! The Python environment: what a commit asks for, who installs it, and the generations it is built as.
//!
//! An environment is built as a *generation*: a fresh folder below `environments/`, made at its final path as the owner of
//! the tree, read-only once good, never changed and never moved afterwards. `venv` is a symbolic link to the live
//! one; changing environments is one atomic rename. This room writes below `environments/`, the link `venv`, and the tool's
//! own stores for tools, caches and records; the application's tree is reached through [`definitions::TreeSource`]
//! only.
//!
//! The way through: [`definitions::read`] → [`Interpreter::find`] → [`Installer::ensure`] → [`Environments::wanted`]
//! → [`Environments::ensure`] (lock → wheels → build) → [`Environments::switch`].

mod build;
pub mod contamination;
pub mod definitions;
pub mod digest;
mod discard;
mod explain;
pub mod generation;
pub mod installer;
pub mod interpreter;
pub mod lock;
mod network;
pub mod offline;
pub mod overview;
mod own_lock;
mod pip;
mod project;
mod proof;
mod pylock;
pub mod record;
pub mod requirements;
mod resolve;
mod switch;
mod tools;
mod trouble;
mod uv;
mod versions;
mod wheel_file;
pub mod wheels;

use std::path::Path;

pub use build::{Contaminated, Ensured, Made};
pub use contamination::Contamination;
pub use definitions::Definitions;
pub use generation::{Current, Environments, Generation, Wanted};
pub use installer::Installer;
pub use interpreter::Interpreter;
pub use lock::Lock;
pub use record::{Package, Record};
pub use switch::Switched;
pub use wheels::Wheels;

use crate::disk;
use crate::error::Outcome;
use crate::process::{Owner, Runner};
use crate::settings::Python;
use crate::settings::layout::Layout;

/// Where and for whom environments are made.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Starts the installers.
    pub runner: &'a Runner,
    /// The paths.
    pub layout: &'a Layout,
    /// The settings.
    pub python: &'a Python,
    /// Whom the environments belong to, and as whom everything in them is made.
    pub owner: Owner,
}

impl Site<'_> {
    /// Makes sure of a cache folder that the owner can write, and returns nothing of it that another owner left.
    fn owned_cache(&self, path: &Path) -> Outcome<()> {
        disk::make_folder(&self.layout.cache(), 0o755)?;
        if path.is_dir() && Owner::of(path)? == self.owner {
            return Ok(());
        }
        disk::remove_tree(path)?;
        disk::make_owned_folder(path, 0o700, &self.owner)
    }
}
