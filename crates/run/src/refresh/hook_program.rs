//! The programs of hooks: found before the stop, for all hooks, including those that run only in step 4. Reads only.
//!
//! The repository controls the names, unless the settings of the host declare the hook. For its names this process
//! reads only below the directories of programs, the environment and `app/`, and follows no link that the application or
//! the repository can make there: another path may be a network mount that hangs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use refresh_environments::RecordedEnvironment;
use refresh_git::first_line::FirstLine;
use refresh_git::history::{EntryKind, TreeEntry};
use refresh_installation::installation::{Installation, Release};
use refresh_settings::{Hook, Origin};
use refresh_system::environment::SEARCH_PATH;
use refresh_system::error::{Failure, Outcome};

/// How many scripts of the commit that interpret each other are read: the kernel allows hardly more. Source: execve(2).
const MOST_SCRIPTS: usize = 4;

/// Refuses a hook whose program is missing or cannot be executed.
///
/// # Errors
/// A program is missing or not executable, or the mirror cannot be read.
pub(super) fn check(on: &Installation, release: &Release, environment: &RecordedEnvironment) -> Outcome<()> {
    for (number, hook) in release.settings.hooks.iter().enumerate() {
        let Some(program) = hook.command.first() else { continue };
        let mut search = Search { on, release, environment, is_later: number > 0, scripts: Vec::new() };
        let obstacle = match hook.origin {
            Origin::Host if !is_of_application(on, Path::new(program)) => of_host(Path::new(program)),
            _ => search.obstacle(program)?,
        };
        if let Some(why) = obstacle {
            return Err(cannot_start(hook, program, &why));
        }
    }
    Ok(())
}

fn cannot_start(hook: &Hook, program: &str, why: &str) -> Failure {
    Failure::new(format!("the {} hook {} cannot start: {program:?} {why}", hook.kind, hook.name))
        .hint("correct its command in refresh.toml, or add the program")
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
            None if self.is_later || may_exist(&self.on.layout.app(), &within) => None,
            None => Some("is not in the commit".to_owned()),
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
