//! The working tree: its own repository, nothing foreign in it, nothing protected below it.
#![expect(clippy::unnecessary_wraps, reason = "every check answers in the same way")]

use refresh_git::locks::holders;
use refresh_installation::installation::Installation;
use refresh_run::plan::preflight;
use refresh_settings::names::without_credentials;
use refresh_source::work_tree::{Head, TreeKind, TreeState, set_origin_command};
use refresh_system::error::Failure;

use super::{DoctorFinding, Examined, Findings, quoted_all, refused, some_of};
use refresh_system::text::quoted;

/// Checks that `app/` has its own Git repository.
pub(super) fn repository(examined: &Examined, on: &Installation) -> Findings {
    let tree = examined.tree()?;
    let found = refused(
        preflight::repository(on, tree),
        "a refresh replaces the content of app/, so app/ must be the application's",
    )?;
    if !found.is_empty() || matches!(tree.kind, TreeKind::Repository | TreeKind::Absent) {
        return Ok(found);
    }
    Ok(vec![DoctorFinding::problem(
        format!("{} no longer has its own repository", on.layout.app().display()),
        "git does not work there; the next run makes another repository and keeps local changes in the stash",
        on.as_typed("ladylinux-refresh run"),
    )])
}

/// Checks that no protected path is inside it.
pub(super) fn protected(_: &Examined, on: &Installation) -> Findings {
    refused(
        preflight::protected(on),
        "removing untracked files would remove models, environments or data along with them",
    )
}

/// Checks that nothing is mounted in it.
pub(super) fn mounts(_: &Examined, on: &Installation) -> Findings {
    refused(preflight::not_mounted(on), "a mount is not a part of the application and cannot be moved")
}

/// Checks that everything in it can be moved.
pub(super) fn movable(examined: &Examined, tree: &TreeState) -> Findings {
    let why = "a refresh moves every entry of app/ out, and the new ones in";
    // Before the first `init` there is a working tree but no installation.
    let Ok(on) = examined.opened() else { return refused(preflight::immovable(tree), why) };
    if !on.owner.can_be_assumed() {
        let owner = if on.owner.uid == 0 { String::new() } else { format!(" and uid {}", on.owner.uid) };
        return Err(Failure::new(format!("only root{owner} can find out")));
    }
    if preflight::not_mounted(on).is_err() {
        // Another check reports that.
        return Ok(Vec::new());
    }
    refused(preflight::movable(on, tree), why)
}

/// Checks that a manual pull gets the same commits as a refresh.
pub(super) fn origin(examined: &Examined, tree: &TreeState) -> Findings {
    let (Some(url), Some(origin)) = (&examined.settings.remote.url, &tree.origin) else {
        return Ok(Vec::new());
    };
    let Some(owner) = examined.owner.filter(|_| essence(origin) != essence(url)) else {
        return Ok(Vec::new());
    };
    let app = examined.layout.app();
    Ok(vec![DoctorFinding::problem(
        format!("{}/.git fetches from {}, a run from {}", app.display(), without_credentials(origin), url),
        "a run never reads app/.git, so manual pulls and pushes use another repository",
        set_origin_command(owner, &app, url),
    )])
}

/// Checks that it is on the branch that a run deploys.
pub(super) fn branch(examined: &Examined, tree: &TreeState) -> Findings {
    let Some(Head::Branch(now)) = &tree.head else { return Ok(Vec::new()) };
    let (app, branch) = (examined.layout.app(), examined.branch.as_str());
    if now == branch {
        return Ok(Vec::new());
    }
    Ok(vec![DoctorFinding::note(
        format!("{} is on the branch {now}, and a run brings it to {branch}", app.display()),
        "files that only that branch has are removed then, and local changes are saved; refresh it if it is intended",
        another_branch(now),
    )])
}

/// Returns the command that refreshes a branch.
fn another_branch(now: &str) -> String {
    format!("ladylinux-refresh run --branch {}", quoted(now))
}

/// Checks that there are no lock files without a process.
pub(super) fn locks(examined: &Examined, tree: &TreeState) -> Findings {
    if examined.under_way || tree.locks.is_empty() || !holders(&examined.layout.app()).is_empty() {
        return Ok(Vec::new());
    }
    let locks: Vec<String> = tree.locks.iter().map(|lock| lock.as_path().display().to_string()).collect();
    Ok(vec![DoctorFinding::problem(
        format!("lock files that no process holds: {}", some_of(&locks)),
        "git does not work in app/ while they exist; the next run removes them",
        format!("rm {}", quoted_all(&locks)),
    )])
}

/// Returns a URL without the parts that do not identify a repository.
fn essence(url: &str) -> String {
    let url = without_credentials(url).to_lowercase();
    let url = url.trim_end_matches('/');
    // A path and the URL of this path are the same repository.
    let url = url.strip_prefix("file://").unwrap_or(url);
    url.strip_suffix(".git").unwrap_or(url).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_branch_stays_one_word_of_the_hint() {
        assert_eq!(
            another_branch("x;id>/tmp/pwn;$(id)"),
            "ladylinux-refresh run --branch 'x;id>/tmp/pwn;$(id)'"
        );
    }

    #[test]
    fn credentials_in_a_url_are_neither_compared_nor_without_credentials() {
        assert_eq!(without_credentials("https://me:secret@h.example/a/b.git"), "https://h.example/a/b.git");
        assert_eq!(essence("https://me:secret@H.example/a/b.git/"), essence("https://h.example/a/b"));
        assert_eq!(essence("/srv/git/a.git"), essence("file:///srv/git/a.git"));
        assert_ne!(essence("https://h.example/a/c"), essence("https://h.example/a/b"));
        assert_eq!(without_credentials("git@h.example:a/b"), "git@h.example:a/b");
    }
}
