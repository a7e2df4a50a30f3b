//! The work tree: a repository of its own, nothing foreign in it, nothing protected below it.
#![expect(clippy::unnecessary_wraps, reason = "every check answers in the same way")]

use crate::error::Failure;
use crate::git::locks::holders;
use crate::installation::Installation;
use crate::plan::preflight;
use crate::settings::names::without_credentials;
use crate::source::work_tree::{TreeKind, TreeState, set_origin_command};

use super::{Examined, Findings, Found, refused, some_of};
use crate::report::shell::quoted;

/// `app/` is a Git repository of its own.
pub(super) fn repository(_: &Examined, on: &Installation, tree: &TreeState) -> Findings {
    let found = refused(
        preflight::repository(on, tree),
        "a refresh replaces what is in app/, so it has to be sure that it is the application's",
    )?;
    if !found.is_empty() || matches!(tree.kind, TreeKind::Repository | TreeKind::Absent) {
        return Ok(found);
    }
    Ok(vec![Found::problem(
        format!("{} has no repository of its own any more", on.layout.app().display()),
        "people cannot use git there; the next run brings another repository and keeps what is local in the stash",
        on.as_typed("ladylinux-refresh run"),
    )])
}

/// Nothing that has to stay lies inside it.
pub(super) fn protected(_: &Examined, on: &Installation) -> Findings {
    refused(
        preflight::protected(on),
        "removing untracked files would remove models, environments or data along with them",
    )
}

/// Nothing is mounted in it.
pub(super) fn mounts(_: &Examined, on: &Installation) -> Findings {
    refused(
        preflight::not_mounted(on),
        "what is mounted there is not the application's and cannot be moved away",
    )
}

/// Everything in it can be moved.
pub(super) fn movable(_: &Examined, on: &Installation, tree: &TreeState) -> Findings {
    if !on.owner.can_be_assumed() {
        let owner = if on.owner.uid == 0 { String::new() } else { format!(" and uid {}", on.owner.uid) };
        return Err(Failure::new(format!("only root{owner} can find out")));
    }
    if preflight::not_mounted(on).is_err() {
        // That is a finding of its own.
        return Ok(Vec::new());
    }
    refused(preflight::movable(on, tree), "a refresh moves every entry of app/ out, and the new ones in")
}

/// People who pull by hand get what a refresh gets.
pub(super) fn origin(_: &Examined, on: &Installation, tree: &TreeState) -> Findings {
    let (Some(url), Some(origin)) = (&on.settings.remote.url, &tree.origin) else {
        return Ok(Vec::new());
    };
    if essence(origin) == essence(&url.text) {
        return Ok(Vec::new());
    }
    Ok(vec![Found::problem(
        format!(
            "origin of {} is {}, the host's settings say {}",
            on.layout.app().display(),
            without_credentials(origin),
            url.text
        ),
        "a refresh follows the settings only, so who pulls or pushes by hand works with another repository",
        set_origin_command(on.owner, &on.layout.app(), &url.text),
    )])
}

/// No lock files lie around that nobody holds.
pub(super) fn locks(examined: &Examined, on: &Installation, tree: &TreeState) -> Findings {
    let app = on.layout.app();
    if examined.under_way || tree.locks.is_empty() || !holders(&app).is_empty() {
        return Ok(Vec::new());
    }
    let locks: Vec<String> = tree.locks.iter().map(|lock| lock.as_path().display().to_string()).collect();
    let names: Vec<String> = locks.iter().map(|lock| quoted(lock)).collect();
    Ok(vec![Found::problem(
        format!("lock files that no process holds: {}", some_of(&locks)),
        "git refuses to work in app/ while they are there; the next run removes them",
        format!("rm {}", names.join(" ")),
    )])
}

/// A URL without what does not tell repositories apart.
fn essence(url: &str) -> String {
    let url = without_credentials(url).to_lowercase();
    let url = url.trim_end_matches('/');
    url.strip_suffix(".git").unwrap_or(url).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_a_url_are_neither_compared_nor_without_credentials() {
        assert_eq!(without_credentials("https://me:secret@h.example/a/b.git"), "https://h.example/a/b.git");
        assert_eq!(essence("https://me:secret@H.example/a/b.git/"), essence("https://h.example/a/b"));
        assert_ne!(essence("https://h.example/a/c"), essence("https://h.example/a/b"));
        assert_eq!(without_credentials("git@h.example:a/b"), "git@h.example:a/b");
    }
}
