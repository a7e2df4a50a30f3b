//! A program that a process becomes (execve(2)): a sandboxed process of ours becomes a program of others.
#![expect(clippy::disallowed_methods, reason = "this module starts other programs")]

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use refresh_system::error::{Failure, Outcome};

use super::memory_file::memory_file;
use super::session::base_environment;

/// A program, its complete environment and its directory, in the form that one process passes to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replacement {
    /// The program: a path, or a name that is searched for in `PATH`.
    pub(super) path: PathBuf,
    /// Its arguments.
    pub(super) arguments: Vec<OsString>,
    /// Variables in addition to the base environment.
    pub(super) variables: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub(super) directory: PathBuf,
    /// Its standard input.
    pub(super) input: Option<Vec<u8>>,
}

impl Replacement {
    /// Turns this process into the program; returns only if that fails.
    ///
    /// # Errors
    /// The input cannot be passed on.
    pub(crate) fn become_it(self) -> Outcome<Failure> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).current_dir(&self.directory);
        base_environment(&mut command);
        command.envs(self.variables);
        command.stdin(match &self.input {
            None => Stdio::null(),
            Some(bytes) => memory_file(bytes)?.into(),
        });
        let refused = command.exec();
        Ok(Failure::new(format!("cannot start {}", self.path.display())).because(refused))
    }
}
