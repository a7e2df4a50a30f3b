//! Step 2: local changes saved, `app/` fetched, hard-reset, cleaned, and proved to be the commit (RW-5.2).

use crate::checkpoint;
use crate::disk;
use crate::error::{Context as _, Outcome};
use crate::git::worktree::SaveRequest;
use crate::installation::Installation;
use crate::journal::Entry;
use crate::report;

use super::account::Account;
use super::release::Release;

/// Aligns `app/` with the target; returns what the commit brings.
///
/// # Errors
/// The remote cannot be reached (without staging), the commit cannot be deployed, a change cannot be saved, or the tree
/// is not the commit afterwards. Nothing is removed that was not saved.
pub fn sync(on: &Installation, account: &mut Account) -> Outcome<(Release, String)> {
    let release = ensure_release(on, account)?;
    let commit = release.commit.clone();
    // From here on the tree is not what is deployed; nothing may claim so.
    disk::remove_file_durably(&on.layout.deployed_env())?;
    checkpoint::reach("sync:undeployed");

    account.progress("saving local changes");
    let request = SaveRequest {
        run: account.run.clone(),
        known: account.known.clone(),
        target: commit.clone(),
        preserve: on.settings.preserve.clone(),
    };
    let saved = on.tree.save(&on.mirror, &request).context(|| "local changes cannot be saved".to_owned())?;
    account.saved = report::Saved {
        count: saved.count(),
        paths: saved.paths().into_iter().take(20).collect(),
        place: saved.place(),
    };
    checkpoint::reach("sync:saved");

    account.progress("aligning app/");
    let aligned = on.tree.align(&on.mirror, account.branch(), &commit)?;
    for note in aligned.notes() {
        account.note(&note);
    }
    checkpoint::reach("sync:aligned");
    account.preserved = on.tree.put_back(&account.run)?;
    checkpoint::reach("sync:put-back");
    let proof = on.tree.prove(&on.mirror, &commit, &account.preserved)?;
    account.commit = Some(commit.clone());

    let except = match account.preserved.len() {
        0 => String::new(),
        1 => ", except 1 preserved file".to_owned(),
        count => format!(", except {count} preserved files"),
    };
    Ok((release, format!("{} aligned and proved, {} files{except}", commit.short(), proof.files)))
}

/// Ensures that the mirror holds the target and reads what it brings. Staging has called this before, unless it is left
/// out; then everything is found done.
///
/// # Errors
/// The remote cannot be reached, has no such branch, or the commit cannot be deployed.
pub fn ensure_release(on: &Installation, account: &mut Account) -> Outcome<Release> {
    account.progress("fetching");
    let commit = on.mirror.ensure(&account.run, account.branch())?;
    let release = on.release(&commit)?;
    account.record(Entry::Aimed { commit: commit.clone() })?;
    if !account.known.contains(&commit) {
        account.known.push(commit);
    }
    Ok(release)
}
