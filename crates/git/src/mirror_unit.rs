//! The mirror as root uses it: each request goes to a unit that runs as the mirror's owner. So root starts no git and
//! reads nothing that a remote sent. Root makes and exchanges directories in the store, which root owns.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use refresh_programs::units::{Access, Credential, Role, UnitOptions, Units};
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_settings::{Remote, Transport};
use refresh_system::disk;
use refresh_system::disk::{Owner, beneath};
use refresh_system::environment;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::aside;

use super::mirror_call::{Call, Ensured, MirrorRequest, OPERATION, Source};
use super::{Git, LONG};

/// The directory of root's keys and known hosts, which ssh gets unless the settings name others.
const SSH_DIRECTORY: &str = "/root/.ssh";
/// The keys that ssh tries by default, the preferred one first.
const SSH_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// A longer limit of a fetch counts as this one: it must fit into a time of systemd.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The conductor's side.
#[derive(Debug, Clone)]
pub(super) struct MirrorUnit {
    pub(super) units: Units,
    pub(super) git: Git,
    /// The directory of the mirror.
    pub(super) path: PathBuf,
    pub(super) remote: Remote,
}

impl MirrorUnit {
    /// Sends a request to a unit.
    ///
    /// # Errors
    /// The method's own failure, or the unit cannot be started.
    pub(super) fn ask<A: DeserializeOwned>(&self, call: Call) -> Outcome<A> {
        let (role, writes) = call.needs();
        if self.path.exists() && !self.path.is_dir() {
            return Err(Failure::new(format!("{} is not a directory", self.path.display()))
                .command("mv", &[&self.path, &aside(&self.path)]));
        }
        let mut options = UnitOptions::new(role, deadline(role, &self.remote));
        if matches!(call, Call::RemoteTip { .. }) {
            options = options.brief();
        }
        if writes {
            self.own()?;
            options = options.writes(&self.path).writes(beside(&self.path));
        }
        self.ask_with(options, call)
    }

    fn ask_with<A: DeserializeOwned>(&self, mut options: UnitOptions, call: Call) -> Outcome<A> {
        let mut remote = self.remote.clone();
        if options.role == Role::Fetch {
            options = secrets(options, &remote)?;
            options = options.narrated("fetch");
            if remote.ca_file.is_none() {
                remote.ca_file = environment::variable("SSL_CERT_FILE").map(PathBuf::from);
            }
        }
        let (program, configuration) = self.git.found_at();
        let request = MirrorRequest {
            program: program.to_path_buf().into(),
            configuration: configuration.to_path_buf().into(),
            mirror: self.path.clone().into(),
            remote,
            network: environment::network(),
            call,
        };
        let value: Value = self.units.call(&options, OPERATION, &request)?;
        serde_json::from_value(value).context(|| "the mirror's response cannot be read".to_owned())
    }

    /// Fetches. If a new mirror was necessary, it is beside the old one, in a directory that root owns: root puts it in
    /// place.
    pub(super) fn ensure(&self, run: &RunId, branch: &BranchName, source: Source<'_>) -> Outcome<CommitId> {
        let call = || match source {
            Source::Remote => Call::Ensure { run: run.clone(), branch: branch.clone() },
            Source::Quarantine(commits) => {
                Call::EnsureFromBundle { run: run.clone(), commits: commits.clone() }
            }
        };
        let beside = beside(&self.path);
        for _ in 0..2 {
            let builder = self.units.user_of(Role::Fetch)?;
            disk::remove_tree(&beside)?;
            disk::make_owned_directory(&beside, 0o755, &builder)?;
            let ensured = self.ask(call());
            if let Ok(Ensured::Replaced) = &ensured {
                self.put_in_place(&beside)?;
                continue;
            }
            disk::remove_tree(&beside)?;
            if let Ensured::Commit(commit) = ensured? {
                return Ok(commit);
            }
        }
        Err(Failure::new("the mirror was replaced twice and is not usable"))
    }

    /// Makes a new mirror from the remote and puts it in place.
    pub(super) fn renew(&self, branch: &BranchName) -> Outcome<()> {
        let beside = beside(&self.path);
        disk::remove_tree(&beside)?;
        disk::make_owned_directory(&beside, 0o755, &self.units.user_of(Role::Fetch)?)?;
        let renewed: Outcome<Ensured> = self.ask(Call::Renew { branch: branch.clone() });
        if let Err(failure) = renewed {
            disk::remove_tree(&beside)?;
            return Err(failure);
        }
        self.put_in_place(&beside)
    }

    /// Ensures that the mirror's directory exists and belongs to the builder.
    fn own(&self) -> Outcome<()> {
        let builder = self.units.user_of(Role::Fetch)?;
        let path = self.path.as_path();
        if !path.exists() {
            let above = path.parent().unwrap_or(path);
            disk::make_directory(above, 0o755)?;
            return disk::make_owned_directory(path, 0o755, &builder);
        }
        if Owner::of(path)? == builder { Ok(()) } else { beneath::give_all(path, builder) }
    }

    /// Sends a request to a unit that writes to `directory`, which root makes for the builder and which must not exist.
    ///
    /// # Errors
    /// As [`MirrorUnit::ask`].
    pub(super) fn ask_in_directory<A: DeserializeOwned>(&self, directory: &Path, call: Call) -> Outcome<A> {
        disk::make_owned_directory(directory, 0o755, &self.units.user_of(Role::Build)?)?;
        self.ask_with(UnitOptions::new(Role::Build, LONG).writes(directory), call)
    }

    /// Checks a commit out to `directory`, which must not exist, for `owner`.
    pub(super) fn export(&self, commit: &CommitId, directory: &Path, owner: Owner) -> Outcome<()> {
        let builder = self.units.user_of(Role::Build)?;
        disk::make_owned_directory(directory, 0o755, &builder)?;
        let options = UnitOptions::new(Role::Build, LONG);
        let (options, seen) = self.units.with_tree(&options, directory, Access::ReadWrite)?;
        let call = Call::Export { commit: commit.clone(), directory: seen.into() };
        self.ask_with::<()>(options, call)?;
        beneath::give_all(directory, owner)
    }

    /// Exchanges the mirror with the new one beside it.
    fn put_in_place(&self, beside: &Path) -> Outcome<()> {
        let path = self.path.as_path();
        if path.join("HEAD").exists() {
            self.git.runner().events().warn("the mirror of the remote was damaged and has been replaced");
        }
        disk::exchange(beside, path)?;
        disk::remove_tree(beside)?;
        disk::sync_parent(path)
    }
}

/// Returns the deadline of a unit: its parts have limits of their own, which must end first.
fn deadline(role: Role, remote: &Remote) -> Duration {
    match role {
        // At most two attempts each, to list the branches, to fetch them, and to fetch them into a new mirror.
        Role::Fetch => LONG + remote.deadline.min(LONGEST) * 6,
        _ => LONG,
    }
}

/// Returns the path at which a new mirror is made.
fn beside(mirror: &Path) -> PathBuf {
    mirror.with_file_name("mirror.git.new")
}

/// Adds the secrets that the remote requires to the options. The unit finds them by [`units::credential`].
fn secrets(mut options: UnitOptions, remote: &Remote) -> Outcome<UnitOptions> {
    let transport = remote.checked_url()?.map(|url| url.transport);
    let mut give = |name: &str, source: PathBuf| {
        options.credentials.push(Credential { name: name.to_owned(), source });
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
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_fetches_lives_longer_than_the_limits_of_its_parts() {
        for deadline_of_fetch in [Duration::from_secs(600), Duration::from_secs(7200)] {
            let remote = Remote { deadline: deadline_of_fetch, ..Remote::default() };
            assert!(deadline(Role::Fetch, &remote) > deadline_of_fetch * 4);
            assert_eq!(deadline(Role::Build, &remote), LONG);
        }
        let endless = Remote { deadline: Duration::MAX, ..Remote::default() };
        assert!(deadline(Role::Fetch, &endless) > LONGEST);
    }
}
