//! The mirror inside a unit: it answers the requests of the conductor, with git of this process.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use refresh_events::event::Events;
use refresh_programs::process::Runner;
use refresh_programs::units;
use refresh_programs::units::operations;
use refresh_system::error::{Context as _, Outcome};

use super::Git;
use super::mirror::{Mirror, Moves};
use super::mirror_call::{Call, MirrorRequest, Source};
use super::path::TreePath;

pub use super::mirror_call::OPERATION;

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
        Call::Renew { branch } => json(&mirror.renew_here(&branch)?),
        Call::RemoteTip { branch } => json(&mirror.remote_tip(&branch)?),
        Call::Hold { hold, run, commit } => json(&mirror.hold(hold, &run, &commit)?),
        Call::Pinned { run } => json(&mirror.pinned(&run)?),
        Call::Release { hold, run } => json(&mirror.release(hold, &run)?),
        Call::ReleaseAllBut { kept } => json(&mirror.release_all_but(&kept)?),
        Call::Damage => json(&mirror.damage()?),
        Call::CheckBranch { branch } => json(&mirror.check_branch(&branch)?),
        Call::OtherDefault { branch, at } => json(&mirror.other_default(&branch, at.as_ref())?),
        Call::MovedTo => json(&mirror.moved_to_here()?),
        Call::Contains { commit } => json(&mirror.contains(&commit)?),
        Call::IsComplete { commit } => json(&mirror.is_complete(&commit)?),
        Call::Files { commit } => json(&*mirror.files(&commit)?),
        Call::Read { commit, path } => json(&mirror.read(&commit, path.as_path())?),
        Call::FirstLine { commit, path } => json(&mirror.first_line_here(&commit, path.as_path())?),
        Call::Mentions { commit, text } => {
            let paths = mirror.files_with(&commit, &text)?.into_iter().map(TreePath::from);
            json(&paths.collect::<Vec<_>>())
        }
        Call::Changes { from, to } => json(&mirror.changes(&from, &to)?),
        Call::CommitLine { commit } => json(&mirror.commit_line(&commit)?),
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

fn json<T: Serialize + ?Sized>(value: &T) -> Outcome<Value> {
    serde_json::to_value(value).context(|| "the response cannot be written".to_owned())
}
