//! The git program, always started with a fixed, hardened configuration.
//!
//! This crate contains the bare [`mirror`] of the remote: it belongs to the tool, and it is the only part that uses the
//! network. The crate `refresh-source` handles `app/`. No git configuration of the caller or of the machine is read;
//! the key, token, proxy and certificates that people need come through [`refresh_settings::Remote`].
//!
//! Works with git 2.30 and newer.

pub(crate) mod bundle;
pub(crate) mod fetch_failure;
pub mod first_line;
mod guard;
mod heads;
pub mod history;
pub mod locks;
pub mod mirror;
pub mod mirror_answer;
mod mirror_call;
mod mirror_fetch;
mod mirror_layout;
mod mirror_repair;
mod mirror_unit;
mod moved;
pub mod remote;
mod submodule;
mod tree_entry;

pub use mirror_call::{Hold, Quarantine, Source};
pub use refresh_system::disk::encoded_path as path;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refresh_programs::process::{Finished, Keep, Program, Runner};
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::environment;
use refresh_system::error::{Failure, Outcome};

/// The configuration that every git gets as its only global one. A file, because `-c` does not reach the other end of a
/// fetch between two directories (upload-pack). Its check of ownership must pass, and it must send pinned commits that
/// no branch contains any longer.
const CONFIGURATION: &str = "\
# Written by ladylinux-refresh; changes are overwritten.
[safe]
\tdirectory = *
[uploadpack]
\tallowAnySHA1InWant = true
[protocol]
\tallow = never
[init]
\tdefaultBranch = main
[user]
\tname = ladylinux-refresh
\temail = refresh@localhost
";

/// Set on every command line, where it overrides a repository's own configuration.
const HARDENED: [&str; 22] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.splitIndex=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.autocrlf=false",
    "core.eol=lf",
    "core.fileMode=true",
    "core.symlinks=true",
    "core.sparseCheckout=false",
    "core.fsync=all",
    "core.pager=cat",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "advice.detachedHead=false",
    "advice.graftFileDeprecated=false",
    "core.alternateRefsCommand=true",
    "protocol.allow=never",
    "protocol.ext.allow=never",
];

/// The variable that lists the only transports that git may use, independent of any configuration. Only [`allowing`]
/// puts a transport into it.
const ALLOWED_TRANSPORTS: &str = "GIT_ALLOW_PROTOCOL";

/// How long one git command may take; large trees on slow disks take minutes.
pub const LONG: Duration = Duration::from_secs(1800);

/// How much of a list of files is kept: enough for about two million files. A longer one would not fit into a response
/// of a unit.
pub const LISTING: Keep = Keep::All(256 << 20);

/// The git program with its fixed configuration.
#[derive(Debug, Clone)]
pub struct Git {
    runner: Runner,
    program: PathBuf,
    home: PathBuf,
    /// Variables of the network; `None`: those of this process.
    network: Option<Vec<(String, String)>>,
}

impl Git {
    /// Finds git and ensures that its private configuration exists below the tool's own state.
    ///
    /// # Errors
    /// git is missing, or the configuration belongs to other users or cannot be written.
    pub fn new(runner: &Runner, layout: &Layout) -> Outcome<Self> {
        let as_root = rustix::process::geteuid().is_root();
        let program = environment::find_program("git", as_root).ok_or_else(|| {
            Failure::new("git is not installed")
                .command("apt-get install git", &[])
                .command("ladylinux-refresh doctor", &[])
        })?;
        let home = layout.state().join("git");
        let file = home.join(".gitconfig");
        guard::check_own(&home)?;
        guard::check_own(&file)?;
        if disk::read_own(&file).ok().flatten().as_deref() != Some(CONFIGURATION.as_bytes()) {
            disk::make_directory(&home, 0o755)?;
            let written = disk::write_atomic(&file, CONFIGURATION.as_bytes(), 0o644);
            // A user who only reads uses the file of an earlier version, until its owner uses this version.
            if !file.exists() || Owner::of(&home)? == Owner::own() {
                written?;
            }
        }
        Ok(Self::found(runner, program, home))
    }

    /// Makes a value from a git and a configuration that were found before.
    pub fn found(runner: &Runner, program: PathBuf, home: PathBuf) -> Self {
        Self { runner: runner.clone(), program, home, network: None }
    }

    /// Returns the same git, started by another program: for tests of remotes that fail.
    #[must_use]
    pub fn with_program(self, program: PathBuf) -> Self {
        Self { program, ..self }
    }

    /// Returns the same git with these variables of the network in place of this process' own.
    fn with_network(self, network: Vec<(String, String)>) -> Self {
        Self { network: Some(network), ..self }
    }

    /// Returns the variables of the network.
    fn network(&self) -> Vec<(String, String)> {
        self.network.clone().unwrap_or_else(environment::network)
    }

    /// Returns the program and the directory of its configuration, for an operation.
    pub fn found_at(&self) -> (&Path, &Path) {
        (&self.program, &self.home)
    }

    /// Returns the runner that starts the programs.
    pub fn runner(&self) -> &Runner {
        &self.runner
    }

    /// Prepares git for work in `repository`.
    pub fn at(&self, repository: &Repository) -> Program {
        let mut program = self.anywhere().env("GIT_DIR", &repository.git_dir);
        if let Some(tree) = &repository.work_tree {
            program = program.env("GIT_WORK_TREE", tree).directory(tree);
        }
        if let Some(index) = &repository.index {
            program = program.env("GIT_INDEX_FILE", index);
        }
        if repository.passing {
            program = program.args(["-c", "core.fsync=none"]);
        }
        if !repository.borrowed.is_empty() {
            program = program.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", path_list(&repository.borrowed));
        }
        program
    }

    /// Prepares git for work that needs no repository.
    pub(crate) fn anywhere(&self) -> Program {
        let mut program = Program::new(&self.program)
            // git before 2.32 does not support GIT_CONFIG_GLOBAL; there HOME leads to the same file.
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", &self.home)
            .env("GIT_CONFIG_GLOBAL", self.home.join(".gitconfig"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS", "/bin/false")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env(ALLOWED_TRANSPORTS, "")
            .env("LC_ALL", "C")
            .arg("--no-pager");
        for setting in HARDENED {
            program = program.arg("-c").arg(setting);
        }
        program
    }

    /// Runs a prepared git; an exit code other than 0 is a failure.
    ///
    /// # Errors
    /// git cannot be started, fails, or runs longer than it may.
    pub fn run(&self, program: &Program, context: impl FnOnce() -> String) -> Outcome<Finished> {
        self.runner.run(program)?.ok(context)
    }
}

/// The repository that one git command works in.
#[derive(Debug, Clone)]
pub struct Repository {
    git_dir: PathBuf,
    work_tree: Option<PathBuf>,
    index: Option<PathBuf>,
    /// Whether the repository is not needed after a crash.
    passing: bool,
    /// Directories of objects that are read in addition to the repository's own.
    borrowed: Vec<PathBuf>,
}

impl Repository {
    /// Names a repository by its git directory, without a working tree.
    pub fn bare(git_dir: impl Into<PathBuf>) -> Self {
        Self { git_dir: git_dir.into(), work_tree: None, index: None, passing: false, borrowed: Vec::new() }
    }

    /// Adds the working tree.
    #[must_use]
    pub fn with_tree(mut self, tree: impl Into<PathBuf>) -> Self {
        self.work_tree = Some(tree.into());
        self
    }

    /// Marks it as not needed after a crash, so nothing is synced.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    /// Uses an index other than that of the git directory.
    #[must_use]
    pub fn with_index(mut self, index: impl Into<PathBuf>) -> Self {
        self.index = Some(index.into());
        self
    }

    /// Adds a directory of objects that git reads in addition to those of the repository.
    #[must_use]
    pub fn borrowing(mut self, objects: impl Into<PathBuf>) -> Self {
        self.borrowed.push(objects.into());
        self
    }
}

/// The rules of `git fsck` that old commits of ordinary tools break. Such an object is complete, and its hash is
/// correct. Every git since 2.30 supports them.
const STYLE: [&str; 13] = [
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badName",
    "badTimezone",
    "emptyName",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "multipleAuthors",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

/// Returns the options with which git accepts objects that break only rules of style; checks of hashes and connections
/// stay strict.
fn lenient(table: &str, severity: &str) -> Vec<String> {
    STYLE.iter().flat_map(|rule| ["-c".to_owned(), format!("{table}.{rule}={severity}")]).collect()
}

/// Allows one git command to use these transports, by git's names of them with colons between them. Options of the
/// sub-command must be added afterwards.
pub fn allowing(program: Program, transports: &str) -> Program {
    transports.split(':').fold(program.env(ALLOWED_TRANSPORTS, transports), |program, transport| {
        program.arg("-c").arg(format!("protocol.{transport}.allow=always"))
    })
}

/// Joins paths in the form of git's variables: separated by colons, each quoted because it may contain a colon.
fn path_list(paths: &[PathBuf]) -> OsString {
    let mut bytes = Vec::new();
    for path in paths {
        if !bytes.is_empty() {
            bytes.push(b':');
        }
        bytes.push(b'"');
        for byte in path.as_os_str().as_bytes() {
            if matches!(byte, b'"' | b'\\') {
                bytes.push(b'\\');
            }
            bytes.push(*byte);
        }
        bytes.push(b'"');
    }
    OsStr::from_bytes(&bytes).to_os_string()
}

/// Splits output of `-z`: each record ends with a zero byte.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == 0).filter(|record| !record.is_empty())
}

/// Lists paths as the input of a git with `-z`: each ends with a zero byte.
pub fn zero_terminated<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for path in paths {
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
    }
    bytes
}

/// Returns the path in a record.
pub fn path_of(bytes: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(bytes)).to_path_buf()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use refresh_events::event::Events;

    #[test]
    fn a_repository_that_allows_every_transport_runs_no_program_in_the_place_of_a_remote() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        let git = Git::new(&Runner::new(Arc::new(Events::silent())), &layout).unwrap();
        let (git_dir, trace) = (directory.path().join("x.git"), directory.path().join("trace"));
        let commit = refresh_settings::names::CommitId::parse(&"1".repeat(40)).unwrap();
        mirror_layout::lay_out(&git_dir, &commit).unwrap();
        let hostile = format!(
            "[core]\n\tbare = true\n[protocol]\n\tallow = always\n[protocol \"ext\"]\n\tallow = always\n\
             [url \"ext::touch {} \"]\n\tinsteadOf = file://\n",
            trace.display()
        );
        disk::write_atomic(&git_dir.join("config"), hostile.as_bytes(), 0o644).unwrap();
        for transport in ["", "file", "https"] {
            let program = git.at(&Repository::bare(&git_dir));
            let program = if transport.is_empty() { program } else { allowing(program, transport) };
            let url = format!("file://{}", directory.path().display());
            let asked = git.runner().run(&program.args(["ls-remote", "--", &url])).unwrap();
            assert!(!trace.exists(), "with {transport:?} a program ran");
            let printed = asked.last_lines(9).join("\n");
            assert!(printed.contains("transport 'ext' not allowed"), "{printed}");
        }
    }
}
