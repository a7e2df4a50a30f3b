//! A program to run, as a value. The module starts nothing.
#![expect(clippy::disallowed_methods, reason = "this module belongs to those that start other programs")]

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use refresh_settings::names::RunId;
use refresh_system::disk::Owner;
use refresh_system::error::Outcome;

use super::finished::Keep;
use super::leftover::RUN_MARK;
use super::memory_file::memory_file;
use super::replacement::Replacement;
use super::session::{self, base_environment};
use super::watch::Limits;

/// A program to run: its path, user, directory and limits.
#[derive(Debug, Clone)]
pub struct Program {
    pub(super) path: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    directory: PathBuf,
    input: Option<Vec<u8>>,
    owner: Option<Owner>,
    deadline: Duration,
    stall: Option<Duration>,
    keep: Keep,
}

impl Program {
    /// Makes a program that runs in `/` with only the base environment, no input and a deadline of a minute.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_path_buf(),
            arguments: Vec::new(),
            variables: Vec::new(),
            directory: PathBuf::from("/"),
            input: None,
            owner: None,
            deadline: Duration::from_secs(60),
            stall: None,
            keep: Keep::All(64 << 20),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_os_string());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_os_string()));
        self
    }

    /// Sets a variable of the child's environment, which inherits nothing from ours.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.as_ref().to_os_string(), value.as_ref().to_os_string()));
        self
    }

    /// Sets the working directory (default `/`).
    #[must_use]
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = directory.as_ref().to_path_buf();
        self
    }

    /// Sets the child's standard input (default: nothing).
    #[must_use]
    pub fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = Some(bytes);
        self
    }

    /// Replaces all rights by those of `owner` before the program starts.
    #[must_use]
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Sets how long the program may run.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how long the child may be silent on both streams.
    #[must_use]
    pub fn stall(mut self, stall: Duration) -> Self {
        self.stall = Some(stall);
        self
    }

    /// Sets how the output is handled.
    #[must_use]
    pub fn keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Returns the program in the form that another process can become, with the mark of a run.
    pub(crate) fn into_replacement(self, mark: Option<&RunId>) -> Replacement {
        let mut variables = self.variables;
        variables.extend(mark.map(|run| (OsString::from(RUN_MARK), OsString::from(run.as_str()))));
        Replacement {
            path: self.path,
            arguments: self.arguments,
            variables,
            directory: self.directory,
            input: self.input,
        }
    }

    /// Returns the limits for its watcher.
    pub(crate) fn limits(&self) -> Limits {
        Limits { name: self.name(), deadline: self.deadline, stall: self.stall, keep: self.keep.clone() }
    }

    /// Returns the program's name, for messages.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    pub(super) fn command(&self, mark: Option<&RunId>) -> Outcome<Command> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        session::isolate(&mut command, self.owner, &self.directory)?;
        base_environment(&mut command);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(run) = mark {
            command.env(RUN_MARK, run.as_str());
        }
        command.stdin(match &self.input {
            None => Stdio::null(),
            Some(bytes) => memory_file(bytes)?.into(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }
}
