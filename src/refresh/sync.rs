//! Step 2: local changes saved, `app/` fetched, hard-reset, cleaned, and proved to be the commit (RW-5.2).

use crate::checkpoint;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::git::save::Saved;
use crate::git::worktree::ToSave;
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
    let wanted =
        ToSave { run: &account.run, known: &account.known, target: &commit, preserve: &on.settings.preserve };
    let saved = on.tree.save(&wanted).context(|| "local changes cannot be saved".to_owned())?;
    for note in &saved.notes {
        account.note(note);
    }
    account.saved = in_report(on, account, &saved);
    account.preserved = saved.preserved.iter().map(ToString::to_string).collect();
    checkpoint::reach("sync:saved");

    account.progress("aligning app/");
    let aligned = on.tree.align(&account.run, account.branch(), &commit)?;
    for note in &aligned.notes {
        account.note(&on.as_typed(note));
    }
    checkpoint::reach("sync:aligned");
    let app = on.layout.app();
    let (synced, proof) = std::thread::scope(|scope| {
        // What git wrote is durable before this step is said to be done; the disk works while the proof reads.
        let synced = scope.spawn(|| disk::sync_file_system(&app));
        let proof = on.tree.prove(&commit, &saved.preserved);
        (synced.join(), proof)
    });
    let proof = proof?;
    synced.map_err(|_| Failure::new("the sync of app/ has failed"))??;
    account.commit = Some(commit.clone());

    let except = match account.preserved.len() {
        0 => String::new(),
        1 => ", except 1 preserved file".to_owned(),
        count => format!(", except {count} preserved files"),
    };
    Ok((release, format!("{} aligned and proved, {} files{except}", commit.short(), proof.files)))
}

fn in_report(on: &Installation, account: &Account, saved: &Saved) -> report::Saved {
    const LISTED: usize = 20;
    let items = saved.taken().map(|item| item.path.to_string());
    let tips = saved
        .tips
        .iter()
        .filter(|tip| tip.held_by.is_none())
        .map(|tip| format!("commits of {}", tip.tip.name));
    let all: Vec<String> = items.chain(tips).collect();
    let any = !all.is_empty();
    let place = any.then(|| on.layout.run(&account.run).join("saved"));
    let look = any.then(|| on.as_typed(&format!("ladylinux-refresh drift show {}", account.run)));
    report::Saved { count: all.len(), paths: all.into_iter().take(LISTED).collect(), place, look }
}

/// Ensures that the mirror holds the target and reads what it brings. Staging has called this before, unless it is left
/// out; then everything is found done.
///
/// # Errors
/// The remote cannot be reached, has no such branch, or the commit cannot be deployed.
pub fn ensure_release(on: &Installation, account: &mut Account) -> Outcome<Release> {
    account.progress("fetching");
    let commit = on.ensure_commit(&account.run, account.branch())?;
    let release = on.release(&commit)?;
    account.record(Entry::Aimed { commit: commit.clone() })?;
    if !account.known.contains(&commit) {
        account.known.push(commit);
    }
    Ok(release)
}
