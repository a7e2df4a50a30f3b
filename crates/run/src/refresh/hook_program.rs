//! The programs of hooks: found before the stop, for all hooks, including those that run only in step 4. Reads only.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use refresh_environments::RecordedEnvironment;
use refresh_git::history::EntryKind;
use refresh_installation::installation::{Installation, Release};
use refresh_settings::Hook;
use refresh_system::environment::SEARCH_PATH;
use refresh_system::error::{Failure, Outcome};

/// Refuses a hook whose program is missing or cannot be executed.
///
/// # Errors
/// A program is missing or not executable, or the mirror cannot be read.
pub(super) fn check(on: &Installation, release: &Release, environment: &RecordedEnvironment) -> Outcome<()> {
    for (number, hook) in release.settings.hooks.iter().enumerate() {
        let Some(program) = hook.command.first() else { continue };
        if let Some(why) = obstacle(on, release, environment, program, number > 0)? {
            return Err(cannot_start(hook, program, &why));
        }
    }
    Ok(())
}

fn cannot_start(hook: &Hook, program: &str, why: &str) -> Failure {
    Failure::new(format!("the {} hook {} cannot start: {program:?} {why}", hook.kind.word(), hook.name))
        .hint("correct its command in refresh.toml, or add the program")
}

/// Returns why a program cannot start; `None` if it may start. Files that an earlier hook may write are not checked.
fn obstacle(
    on: &Installation,
    release: &Release,
    environment: &RecordedEnvironment,
    program: &str,
    is_later: bool,
) -> Outcome<Option<String>> {
    if !program.contains('/') {
        let search = SEARCH_PATH.split(':').map(PathBuf::from);
        let found = search.chain([environment.path.join("bin")]).any(|it| is_executable(&it.join(program)));
        return Ok((!found).then(|| "is neither in the environment nor in the PATH of hooks".to_owned()));
    }
    let path = Path::new(program);
    if let Ok(within) = path.strip_prefix(on.layout.venv()) {
        let exists = environment.path.join(within).symlink_metadata().is_ok();
        return Ok((!exists).then(|| "is not in the environment".to_owned()));
    }
    let within = path.strip_prefix(on.layout.app()).unwrap_or(path);
    if within.is_absolute() {
        return Ok((!is_executable(within)).then(|| "does not exist or is not executable".to_owned()));
    }
    let within: PathBuf = within.components().filter(|part| *part != Component::CurDir).collect();
    let files = on.mirror.files(&release.commit)?;
    Ok(match files.iter().find(|entry| entry.path == within).map(|entry| entry.kind) {
        Some(EntryKind::Regular) => Some("is not executable: git update-index --chmod=+x".to_owned()),
        Some(_) => None,
        // The path is behind a link of the commit.
        None if files.iter().any(|entry| within.starts_with(&entry.path)) => None,
        None if is_later || on.layout.app().join(&within).symlink_metadata().is_ok() => None,
        None => Some("is not in the commit".to_owned()),
    })
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
