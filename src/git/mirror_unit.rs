//! The mirror as root asks for it: each question goes to a unit that runs as the mirror's owner, so that root starts no
//! git and reads nothing that a remote sent. Root makes and exchanges directories in the store, which is its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::disk;
use crate::disk::beneath;
use crate::error::{Context as _, Failure, Outcome};
use crate::event::Events;
use crate::process::{Owner, Runner};
use crate::settings::names::{BranchName, CommitId, RunId};
use crate::settings::{Remote, Transport, environment};
use crate::units::{self, Access, Credential, Job, Role, Units, operations};

use super::Git;
use super::LONG;
use super::bundle::Quarantine;
use super::mirror::{Ensured, Mirror, Moves, Source};
use super::path::TreePath;

/// The operation.
pub const OPERATION: &str = "mirror";

/// Where root keeps what ssh takes where the settings name nothing else.
const SSH_DIRECTORY: &str = "/root/.ssh";
/// The keys that ssh tries by itself, the preferred first.
const SSH_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// A question to the mirror.
#[derive(Debug, Serialize, Deserialize)]
pub struct MirrorRequest {
    program: TreePath,
    configuration: TreePath,
    mirror: TreePath,
    remote: Remote,
    network: Vec<(String, String)>,
    call: Call,
}

/// What is asked: a method of [`Mirror`] and its arguments.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    Ensure { run: RunId, branch: BranchName },
    EnsureFromBundle { run: RunId, commits: Quarantine },
    RemoteTip { branch: BranchName },
    Pin { run: RunId, commit: CommitId },
    Pinned { run: RunId },
    Release { run: RunId },
    ReleaseAllBut { kept: BTreeSet<RunId> },
    HoldForStash { run: RunId, commit: CommitId },
    ReleaseStash { run: RunId },
    Damage,
    CheckBranch { branch: BranchName },
    Contains { commit: CommitId },
    Files { commit: CommitId },
    Read { commit: CommitId, path: TreePath },
    Mentions { commit: CommitId, text: String },
    Changes { from: CommitId, to: CommitId },
    LastChange { commit: CommitId, files: Vec<TreePath> },
    CheckSupported { commit: CommitId },
    Export { commit: CommitId, directory: TreePath },
    IsBefore { older: CommitId, newer: CommitId },
    IsRelated { commits: Quarantine },
    Quarantine { file: TreePath, quarantine: Quarantine },
    WriteBundle { branch: BranchName, file: TreePath },
}

impl Call {
    /// Returns the role of the unit that answers, and whether it writes to the mirror.
    fn needs(&self) -> (Role, bool) {
        match self {
            Self::Ensure { .. } => (Role::Fetch, true),
            Self::RemoteTip { .. } => (Role::Fetch, false),
            Self::EnsureFromBundle { .. }
            | Self::Pin { .. }
            | Self::Release { .. }
            | Self::ReleaseAllBut { .. }
            | Self::HoldForStash { .. }
            | Self::ReleaseStash { .. } => (Role::Build, true),
            _ => (Role::Build, false),
        }
    }
}

/// The conductor's side.
#[derive(Debug, Clone)]
pub(super) struct MirrorUnit {
    pub(super) units: Units,
}

impl MirrorUnit {
    /// Asks a unit.
    ///
    /// # Errors
    /// The method's own failure, or the unit cannot be started.
    pub(super) fn ask<A: DeserializeOwned>(&self, mirror: &Mirror, call: Call) -> Outcome<A> {
        let (role, writes) = call.needs();
        let mut job = Job::new(role, LONG);
        if matches!(call, Call::RemoteTip { .. }) {
            job = job.brief();
        }
        if writes {
            self.own(mirror)?;
            job = job.writes(mirror.path()).writes(beside(mirror));
        }
        self.ask_with(mirror, job, call)
    }

    fn ask_with<A: DeserializeOwned>(&self, mirror: &Mirror, mut job: Job, call: Call) -> Outcome<A> {
        let mut remote = mirror.remote().clone();
        if job.role == Role::Fetch {
            job = secrets(job, &remote)?;
            job = job.narrated("fetch");
            if remote.ca_file.is_none() {
                remote.ca_file = environment::variable("SSL_CERT_FILE").map(PathBuf::from);
            }
        }
        let (program, configuration) = mirror.git.found_at();
        let request = MirrorRequest {
            program: program.to_path_buf().into(),
            configuration: configuration.to_path_buf().into(),
            mirror: mirror.path().to_path_buf().into(),
            remote,
            network: environment::network(),
            call,
        };
        let value: Value = self.units.call(&job, OPERATION, &request)?;
        serde_json::from_value(value).context(|| "the mirror's response cannot be read".to_owned())
    }

    /// Fetches. A mirror that had to be made new lies beside the old one, in a directory of root's: root puts it in place.
    pub(super) fn ensure(
        &self,
        mirror: &Mirror,
        run: &RunId,
        branch: &BranchName,
        source: Source<'_>,
    ) -> Outcome<CommitId> {
        let call = || match source {
            Source::Remote => Call::Ensure { run: run.clone(), branch: branch.clone() },
            Source::Quarantine(commits) => {
                Call::EnsureFromBundle { run: run.clone(), commits: commits.clone() }
            }
        };
        let beside = beside(mirror);
        for _ in 0..2 {
            let builder = self.units.user_of(Role::Fetch)?;
            disk::remove_tree(&beside)?;
            disk::make_owned_directory(&beside, 0o755, &builder)?;
            let ensured = self.ask(mirror, call());
            if let Ok(Ensured::MadeNew) = &ensured {
                put_in_place(mirror, &beside)?;
                continue;
            }
            disk::remove_tree(&beside)?;
            if let Ensured::Commit(commit) = ensured? {
                return Ok(commit);
            }
        }
        Err(Failure::new("the mirror was made new twice and is not usable"))
    }

    /// Makes sure that the mirror's directory is there and belongs to the builder, whoever made it.
    fn own(&self, mirror: &Mirror) -> Outcome<()> {
        let builder = self.units.user_of(Role::Fetch)?;
        let path = mirror.path();
        if !path.exists() {
            let above = path.parent().unwrap_or(path);
            disk::make_directory(above, 0o755)?;
            return disk::make_owned_directory(path, 0o755, &builder);
        }
        if Owner::of(path)? == builder { Ok(()) } else { beneath::give_all(path, builder) }
    }

    /// Asks a unit that writes to `directory`, which root makes for the builder and which must not exist.
    ///
    /// # Errors
    /// As [`MirrorUnit::ask`].
    pub(super) fn ask_in_directory<A: DeserializeOwned>(
        &self,
        mirror: &Mirror,
        directory: &Path,
        call: Call,
    ) -> Outcome<A> {
        disk::make_owned_directory(directory, 0o755, &self.units.user_of(Role::Build)?)?;
        self.ask_with(mirror, Job::new(Role::Build, LONG).writes(directory), call)
    }

    /// Checks a commit out to `directory`, which must not exist, for `owner`.
    pub(super) fn export(
        &self,
        mirror: &Mirror,
        commit: &CommitId,
        directory: &Path,
        owner: Owner,
    ) -> Outcome<()> {
        let builder = self.units.user_of(Role::Build)?;
        disk::make_owned_directory(directory, 0o755, &builder)?;
        let job = Job::new(Role::Build, LONG);
        let (job, seen) = self.units.with_tree(&job, directory, Access::ReadWrite)?;
        let call = Call::Export { commit: commit.clone(), directory: seen.into() };
        self.ask_with::<()>(mirror, job, call)?;
        beneath::give_all(directory, owner)
    }
}

/// Exchanges the mirror with the one that was made new beside it.
fn put_in_place(mirror: &Mirror, beside: &Path) -> Outcome<()> {
    let path = mirror.path();
    if path.join("HEAD").exists() {
        mirror.git.runner().events().warn("the mirror of the remote was damaged and has been made anew");
    }
    disk::exchange(beside, path)?;
    disk::remove_tree(beside)?;
    disk::sync_parent(path)
}

/// Where a mirror that has to be made new is made.
fn beside(mirror: &Mirror) -> PathBuf {
    mirror.path().with_file_name("mirror.git.new")
}

/// Gives the job the secrets that the remote asks for. The unit finds them by [`units::credential`].
fn secrets(mut job: Job, remote: &Remote) -> Outcome<Job> {
    let transport = remote.url.as_ref().map(|url| url.transport);
    let mut give = |name: &str, source: PathBuf| {
        job.credentials.push(Credential { name: name.to_owned(), source });
    };
    match transport {
        Some(Transport::Https | Transport::Http) => {
            if let Some(file) = &remote.token_file {
                super::remote::check_token(file)?;
                give(super::remote::TOKEN, file.clone());
            }
        }
        Some(Transport::Ssh) => {
            let usual = |name: &str| Some(Path::new(SSH_DIRECTORY).join(name)).filter(|path| path.is_file());
            let key = remote.ssh_key.clone().or_else(|| SSH_KEYS.iter().find_map(|name| usual(name)));
            if let Some(key) = key {
                give("ssh_key", key);
            }
            let hosts = remote.known_hosts.clone().or_else(|| usual("known_hosts"));
            if let Some(hosts) = hosts {
                give("known_hosts", hosts);
            }
        }
        _ => {}
    }
    Ok(job)
}

/// Carries out [`OPERATION`].
///
/// # Errors
/// The method's own.
pub fn handle(request: MirrorRequest) -> Outcome<Value> {
    let own = std::env::current_exe().context(|| "this program cannot find its own file".to_owned())?;
    let events = Events::new(vec![Box::new(operations::Progress)]);
    let runner = Runner::new(Arc::new(events)).with_worker(own);
    let git = Git::found(&runner, request.program.as_path().into(), request.configuration.as_path().into())
        .with_network(request.network);
    let mut remote = request.remote;
    let secret = |name: &str, named: Option<PathBuf>| units::credential(name).or(named);
    remote.token_file = secret(super::remote::TOKEN, remote.token_file);
    remote.ssh_key = secret("ssh_key", remote.ssh_key);
    remote.known_hosts = secret("known_hosts", remote.known_hosts);
    let mirror = Mirror::at(&git, request.mirror.as_path(), &remote, Moves::ByConductor);
    answer(&mirror, request.call)
}

fn answer(mirror: &Mirror, call: Call) -> Outcome<Value> {
    match call {
        Call::Ensure { run, branch } => json(&mirror.ensure_here(&run, &branch, Source::Remote)?),
        Call::EnsureFromBundle { run, commits } => {
            json(&mirror.ensure_here(&run, &commits.branch, Source::Quarantine(&commits))?)
        }
        Call::RemoteTip { branch } => json(&mirror.remote_tip(&branch)?),
        Call::Pin { run, commit } => json(&mirror.pin(&run, &commit)?),
        Call::Pinned { run } => json(&mirror.pinned(&run)?),
        Call::Release { run } => json(&mirror.release(&run)?),
        Call::ReleaseAllBut { kept } => json(&mirror.release_all_but(&kept)?),
        Call::HoldForStash { run, commit } => json(&mirror.hold_for_stash(&run, &commit)?),
        Call::ReleaseStash { run } => json(&mirror.release_stash(&run)?),
        Call::Damage => json(&mirror.damage()?),
        Call::CheckBranch { branch } => json(&mirror.check_branch(&branch)?),
        Call::Contains { commit } => json(&mirror.contains(&commit)?),
        Call::Files { commit } => json(&mirror.files(&commit)?),
        Call::Read { commit, path } => json(&mirror.read(&commit, path.as_path())?),
        Call::Mentions { commit, text } => {
            let paths = mirror.mentions(&commit, &text)?.into_iter().map(TreePath::from);
            json(&paths.collect::<Vec<_>>())
        }
        Call::Changes { from, to } => json(&mirror.changes(&from, &to)?),
        Call::LastChange { commit, files } => {
            json(&mirror.last_change(&commit, files.iter().map(TreePath::as_path))?)
        }
        Call::CheckSupported { commit } => json(&mirror.check_supported(&commit)?),
        Call::Export { commit, directory } => json(&mirror.export_into(&commit, directory.as_path())?),
        Call::IsBefore { older, newer } => json(&mirror.is_before(&older, &newer)?),
        Call::IsRelated { commits } => json(&mirror.is_related(&commits)?),
        Call::Quarantine { file, quarantine } => json(&mirror.quarantine_here(file.as_path(), &quarantine)?),
        Call::WriteBundle { branch, file } => json(&mirror.write_bundle_here(&branch, file.as_path())?),
    }
}

fn json<T: Serialize>(value: &T) -> Outcome<Value> {
    serde_json::to_value(value).context(|| "the response cannot be written".to_owned())
}
