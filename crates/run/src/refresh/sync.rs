//! Step 2: the prepared tree is moved into `app/`, hard-reset and cleaned; preserved and git-ignored paths move across
//! (RW-5.2).
//!
//! Nothing is removed: the old content of `app/` is in the previous tree of this run, which is compared after the
//! restart.

use refresh_environments::RecordedEnvironment;
use refresh_installation::installation::{Installation, Release};
use refresh_installation::journal::Entry;
use refresh_source::aligner::Aligner;
use refresh_source::carry::Carried;
use refresh_source::kept_path::Reason;
use refresh_source::move_in;
use refresh_source::prepared_tree;
use refresh_source::prepared_tree::PreparedTree;
use refresh_system::error::{Context as _, Outcome};
use refresh_system::text::quoted;
use refresh_system::{checkpoint, disk};

use super::account::Account;
use super::staged::Staged;
use super::status::describe_request;
use crate::plan::Target;

/// Makes `app/` equal to the target; returns the release of the commit.
///
/// # Errors
/// The remote cannot be reached (without staging), the commit cannot be deployed, or an entry cannot be moved. Nothing
/// is removed.
pub(crate) fn sync(
    on: &Installation,
    account: &mut Account,
    staged: Option<&mut Staged>,
) -> Outcome<(Release, String)> {
    let (release, tree) = if let Some(staged) = staged.as_deref() {
        let (release, tree) = staged.target();
        (release.clone(), tree.clone())
    } else {
        let release = ensure_release(on, account)?;
        let tree = prepare_tree(on, account, &release, None)?;
        (release, tree)
    };
    let commit = &release.commit;
    let aligner = match staged.and_then(Staged::take_aligner) {
        Some(waiting) => waiting,
        None => Aligner::start(on)?,
    };
    // From here on, the tree is not the deployed version, so the file with the deployed version must go.
    disk::remove_file_if_there(&on.layout.deployed_env())?;
    checkpoint::reach("sync:undeployed");

    account.progress("moving the prepared tree into app/");
    let carried = move_in::move_in(on, &account.report.run, commit, &account.known, aligner)?;
    checkpoint::reach("sync:aligned");
    account.report.commit = Some(commit.clone());
    report(on, account, &carried);

    let except = match account.report.preserved.len() {
        0 => String::new(),
        1 => ", except 1 preserved file".to_owned(),
        count => format!(", except {count} preserved files"),
    };
    let summary = format!("{} moved in, {} files{except}", commit.short(), tree.files);
    Ok((release, summary))
}

/// Prepares the tree of the commit: in staging, or in step 2 if staging is left out. Bytecode is compiled for the
/// environment of the tree.
///
/// # Errors
/// This file system does not support the names of the tree, or the disk is full.
pub(crate) fn prepare_tree(
    on: &Installation,
    account: &Account,
    release: &Release,
    environment: Option<&RecordedEnvironment>,
) -> Outcome<PreparedTree> {
    account.progress("preparing the tree");
    let interpreter = match environment {
        Some(environment) => environment.path.join("bin/python"),
        None => on.interpreter()?.path.clone(),
    };
    let tree = prepared_tree::prepare(
        on,
        &account.report.run,
        account.branch(),
        &release.commit,
        Some(&interpreter),
    );
    tree.context(|| format!("the tree of {} cannot be prepared", release.commit.short()))
}

/// Adds the paths that moved across to the account.
fn report(on: &Installation, account: &mut Account, carried: &Carried) {
    let of = |reason: Reason| {
        let moved = carried.moved.iter().filter(move |kept| kept.reason == reason);
        moved.map(|kept| kept.path.to_string()).collect::<Vec<_>>()
    };
    account.report.preserved = of(Reason::Preserved);
    account.report.ignored = of(Reason::Ignored);
    for path in &carried.left {
        let run = &account.report.run;
        let restore =
            on.as_typed(&format!("ladylinux-refresh stash show {run} {}", quoted(&path.to_string())));
        account.warn(format!("the commit replaces {path}: the local one is in the stash: {restore}"));
    }
}

/// Reports that the remote redirects its fetches. A redirect ends one day, and then no run can fetch.
fn note_moved_remote(on: &Installation, account: &mut Account) -> Outcome<()> {
    if on.offline.is_some() || !matches!(account.target, Target::Latest(_)) {
        return Ok(());
    }
    if let Some(url) = on.mirror.moved_to()? {
        let file = on.layout.host_file();
        let warning = format!(
            "the remote redirects to {url}; if it has moved, set `url = \"{url}\"` under [remote] in {}",
            file.display()
        );
        if !account.report.warnings.contains(&warning) {
            account.warn(warning);
        }
    }
    Ok(())
}

/// Makes sure that the mirror has the target, and reads its release. Staging has already called this, unless it is left
/// out; then there is nothing left to do.
///
/// # Errors
/// The remote cannot be reached, does not have the branch, or the commit cannot be deployed.
pub(crate) fn ensure_release(on: &Installation, account: &mut Account) -> Outcome<Release> {
    account.progress("fetching");
    let commit = on.ensure_commit(&account.report.run, account.branch())?;
    if let Some(requested) = &mut account.report.requested {
        requested.commit = Some(commit.clone());
    }
    if account.report.staged {
        // Without staging the service is already down, and the report reads it after the restart.
        describe_request(on, &mut account.report);
    }
    note_moved_remote(on, account)?;
    let release = on.release(&commit)?;
    account.record(Entry::Aimed { commit: commit.clone() })?;
    if account.known.contains(&commit) {
        // A branch without new commits may have been replaced by another one.
        if let Some(default) = on.mirror.other_default(account.branch(), None)? {
            account.note(&format!(
                "{} brings nothing new, and the default branch of the remote is {}",
                account.branch(),
                quoted(&default)
            ));
        }
    } else {
        account.known.push(commit);
    }
    Ok(release)
}
