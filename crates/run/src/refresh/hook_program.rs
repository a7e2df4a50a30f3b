//! The programs and scripts of hooks: found before the stop, for all hooks, including those that run only in step 4.
//! Reads only.
//!
//! The repository controls the names, unless the settings of the host declare the hook. For its names this process
//! reads only below the directories of programs, the environment and `app/`, and follows no link that the application or
//! the repository can make there: another path may be a network mount that hangs.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use crate::plan::Target;
use refresh_environments::RecordedEnvironment;
use refresh_git::first_line::FirstLine;
use refresh_git::history::{EntryKind, TreeEntry};
use refresh_installation::installation::{Installation, Release};
use refresh_settings::{Hook, Origin};
use refresh_source::kept;
use refresh_system::environment::SEARCH_PATH;
use refresh_system::error::{Failure, Outcome};

use super::account::Account;
use super::entry;

/// How many scripts of the commit that interpret each other are read: the kernel allows hardly more. Source: execve(2).
const MOST_SCRIPTS: usize = 4;

/// The problem of a program or script that the commit does not contain.
const NOT_IN_COMMIT: &str = "is not in the commit";

/// Why a hook cannot start.
struct Obstacle {
    /// The program or the script.
    name: String,
    /// Its problem.
    why: String,
}

/// Refuses a hook whose program or script is missing or cannot be executed. Records which hooks a rollback leaves out.
///
/// # Errors
/// A program is missing or not executable, or the mirror cannot be read.
pub(super) fn check(
    on: &Installation,
    account: &mut Account,
    release: &Release,
    environment: &RecordedEnvironment,
) -> Outcome<()> {
    let mut left_out = BTreeMap::new();
    for (number, hook) in release.settings.hooks.iter().enumerate() {
        let Some(found) = obstacle(on, account, release, environment, number)? else {
            continue;
        };
        if let Some(why) = left_out_for(account, release, hook, &found) {
            left_out.insert(number, why);
            continue;
        }
        let Obstacle { name, why } = found;
        return Err(Failure::new(format!(
            "the {} hook {} cannot start: {name:?} {why}",
            hook.kind, hook.name
        ))
        .hint("correct its command in refresh.toml, or add the program"));
    }
    account.left_out = Some(left_out);
    Ok(())
}

/// Returns the hooks that a rollback leaves out, by number, with the reason. A staged run has decided it before the
/// stop.
///
/// # Errors
/// The mirror cannot be read.
pub(super) fn left_out(
    on: &Installation,
    account: &Account,
    release: &Release,
    environment: &RecordedEnvironment,
) -> Outcome<BTreeMap<usize, String>> {
    if let Some(decided) = &account.left_out {
        return Ok(decided.clone());
    }
    let mut left_out = BTreeMap::new();
    for (number, hook) in release.settings.hooks.iter().enumerate() {
        if may_be_left_out(account, hook)
            && let Some(found) = obstacle(on, account, release, environment, number)?
            && let Some(why) = left_out_for(account, release, hook, &found)
        {
            left_out.insert(number, why);
        }
    }
    Ok(left_out)
}

/// Returns whether a hook may be left out: the host declares it now, but an earlier commit may be older than its script.
fn may_be_left_out(account: &Account, hook: &Hook) -> bool {
    matches!(account.target, Target::Earlier(_)) && hook.origin == Origin::Host
}

/// Returns the reason for which a hook is left out; `None` if its obstacle is none of a rollback.
fn left_out_for(account: &Account, release: &Release, hook: &Hook, found: &Obstacle) -> Option<String> {
    let is_left_out = may_be_left_out(account, hook) && found.why == NOT_IN_COMMIT;
    is_left_out.then(|| {
        format!(
            "the {} hook {} of the host is left out: {} is not in {}",
            hook.kind,
            hook.name,
            found.name,
            release.commit.short()
        )
    })
}

/// Returns why the hook with this number cannot start; `None` if it may start.
fn obstacle(
    on: &Installation,
    account: &Account,
    release: &Release,
    environment: &RecordedEnvironment,
    number: usize,
) -> Outcome<Option<Obstacle>> {
    let Some(hook) = release.settings.hooks.get(number) else { return Ok(None) };
    let Some(program) = hook.command.first() else { return Ok(None) };
    let is_later = number > 0;
    let mut search = Search { on, account, release, environment, is_later, scripts: Vec::new() };
    let why = match hook.origin {
        Origin::Host if !is_of_application(on, Path::new(program)) => of_host(Path::new(program)),
        _ => search.obstacle(program)?,
    };
    if let Some(why) = why {
        return Ok(Some(Obstacle { name: program.clone(), why }));
    }
    let Some(script) = entry::missing_script(on, &release.commit, environment, &hook.command)? else {
        return Ok(None);
    };
    let is_missing = leaves(on, account, &script.places)? || {
        let is_in_app = script.places.iter().any(|place| may_exist(&on.layout.app(), place));
        script.is_of_commit && !is_later && !is_in_app
    };
    Ok(is_missing.then(|| Obstacle { name: script.name, why: NOT_IN_COMMIT.to_owned() }))
}

/// Returns whether the version in `app/` has a file at one of these paths, or below it, that leaves with the version.
/// Any other file there may be a local one that stays, or one that an earlier hook writes.
///
/// # Errors
/// A pattern of `preserve` is not one.
fn leaves(on: &Installation, account: &Account, places: &[PathBuf]) -> Outcome<bool> {
    for commit in account.known.iter().chain(&account.report.commit_before) {
        // A commit that the mirror does not have accounts for no file.
        let files = on.mirror.files(commit).unwrap_or_default();
        let here = files.iter().filter(|file| places.iter().any(|place| file.path.starts_with(place)));
        for file in here {
            if !kept::is_preserved(&on.settings.preserve, &file.path)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Returns whether a path is in a directory of the application, relative to it, or without a directory.
fn is_of_application(on: &Installation, path: &Path) -> bool {
    !path.is_absolute() || path.starts_with(on.layout.app()) || path.starts_with(on.layout.venv())
}

/// Returns why a program that the host names by its path cannot start.
fn of_host(path: &Path) -> Option<String> {
    (!is_executable(path)).then(|| "does not exist or is not executable".to_owned())
}

/// The search for the program of one hook.
struct Search<'a> {
    on: &'a Installation,
    account: &'a Account,
    release: &'a Release,
    environment: &'a RecordedEnvironment,
    /// Whether an earlier hook may write files; those are not checked.
    is_later: bool,
    /// The scripts of the commit that were read, each interpreted by the next one.
    scripts: Vec<PathBuf>,
}

impl Search<'_> {
    /// Returns why a program cannot start; `None` if it may start.
    fn obstacle(&mut self, program: &str) -> Outcome<Option<String>> {
        if !program.contains('/') {
            let search = SEARCH_PATH.split(':').map(PathBuf::from);
            let mut places = search.chain([self.environment.path.join("bin")]);
            let found = places.any(|place| is_executable(&place.join(program)));
            return Ok((!found).then(|| "is neither in the environment nor in the PATH of hooks".to_owned()));
        }
        let path = Path::new(program);
        if path.components().any(|part| part == Component::ParentDir) {
            return Ok(None);
        }
        if let Ok(within) = path.strip_prefix(self.on.layout.venv()) {
            let exists = may_exist(&self.environment.path, within);
            return Ok((!exists).then(|| "is not in the environment".to_owned()));
        }
        let within = path.strip_prefix(self.on.layout.app()).unwrap_or(path);
        if within.is_absolute() {
            return Ok(if is_of_system(within) { of_host(within) } else { None });
        }
        let within: PathBuf = within.components().filter(|part| *part != Component::CurDir).collect();
        let files = self.on.mirror.files(&self.release.commit)?;
        Ok(match files.iter().find(|entry| entry.path == within) {
            Some(entry) if entry.kind == EntryKind::Regular => {
                Some("is not executable: git update-index --chmod=+x".to_owned())
            }
            Some(entry) if entry.kind == EntryKind::Executable => return self.interpreter_obstacle(entry),
            Some(_) => None,
            // The path is behind a link of the commit.
            None if files.iter().any(|entry| within.starts_with(&entry.path)) => None,
            None if leaves(self.on, self.account, std::slice::from_ref(&within))? => {
                Some(NOT_IN_COMMIT.to_owned())
            }
            None if self.is_later || may_exist(&self.on.layout.app(), &within) => None,
            None => Some(NOT_IN_COMMIT.to_owned()),
        })
    }

    /// Returns why the interpreter in the first line of a script cannot start.
    fn interpreter_obstacle(&mut self, script: &TreeEntry) -> Outcome<Option<String>> {
        if self.scripts.contains(&script.path) {
            return Ok(Some("leads back to itself".to_owned()));
        }
        if self.scripts.len() == MOST_SCRIPTS {
            return Ok(None);
        }
        self.scripts.push(script.path.clone());
        match self.on.mirror.first_line(&self.release.commit, script)? {
            FirstLine::Usable => Ok(None),
            FirstLine::Windows => Ok(Some(
                "has Windows line endings: add `*.sh text eol=lf` to .gitattributes, then `git add --renormalize .`"
                    .to_owned(),
            )),
            FirstLine::Names(interpreter) => {
                let why = self.obstacle(&interpreter)?;
                Ok(why.map(|why| format!("needs the interpreter {interpreter:?}, which {why}")))
            }
        }
    }
}

/// Returns whether a path is directly in a directory of [`SEARCH_PATH`].
fn is_of_system(path: &Path) -> bool {
    SEARCH_PATH.split(':').any(|directory| path.parent() == Some(Path::new(directory)))
}

/// Returns whether a path may exist in a directory. What is behind a link may exist.
fn may_exist(directory: &Path, within: &Path) -> bool {
    let mut path = directory.to_path_buf();
    for part in within.components() {
        path.push(part);
        match path.symlink_metadata() {
            Ok(found) if found.is_symlink() => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    true
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make the files")]
mod tests {
    use super::*;

    #[test]
    fn only_paths_directly_in_a_directory_of_programs_are_of_the_system() {
        assert!(is_of_system(Path::new("/usr/bin/perl")) && is_of_system(Path::new("/bin/sh")));
        for path in ["/net/host/x", "/usr/bin/../../net/x", "/usr/bin/a/b", "/usr/bin", "bin/sh"] {
            assert!(!is_of_system(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_path_behind_a_link_may_exist_and_the_link_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc/self/none", place.path().join("link")).unwrap();
        std::fs::write(place.path().join("file"), "").unwrap();
        for (path, expected) in
            [("link", true), ("link/a/b", true), ("file", true), ("none", false), ("file/a", false)]
        {
            assert_eq!(may_exist(place.path(), Path::new(path)), expected, "{path}");
        }
    }
}
