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
    let within = without_dots(within);
    let files = on.mirror.files(&release.commit)?;
    Ok(match files.iter().find(|entry| entry.path == within).map(|entry| entry.kind) {
        Some(EntryKind::Regular) => Some("is not executable: git update-index --chmod=+x".to_owned()),
        Some(EntryKind::Executable) => {
            return interpreter_obstacle(on, release, environment, &within, is_later);
        }
        Some(_) => None,
        // The path is behind a link of the commit.
        None if files.iter().any(|entry| within.starts_with(&entry.path)) => None,
        None if is_later || on.layout.app().join(&within).symlink_metadata().is_ok() => None,
        None => Some("is not in the commit".to_owned()),
    })
}

/// Returns why the interpreter in the first line of a script cannot start.
fn interpreter_obstacle(
    on: &Installation,
    release: &Release,
    environment: &RecordedEnvironment,
    script: &Path,
    is_later: bool,
) -> Outcome<Option<String>> {
    let content = on.mirror.read(&release.commit, script)?.unwrap_or_default();
    let interpreter = match first_line(&content) {
        FirstLine::Usable => return Ok(None),
        FirstLine::Windows => {
            return Ok(Some("has Windows line endings: add `*.sh text eol=lf` to .gitattributes".to_owned()));
        }
        FirstLine::Names(interpreter) => interpreter,
    };
    if script == without_dots(Path::new(&interpreter)) {
        return Ok(Some("is its own interpreter".to_owned()));
    }
    let why = obstacle(on, release, environment, &interpreter, is_later)?;
    Ok(why.map(|why| format!("needs the interpreter {interpreter:?}, which {why}")))
}

/// The first line of a program of the commit, as the kernel reads it.
#[derive(Debug, PartialEq, Eq)]
enum FirstLine {
    /// It names no interpreter, or in a way that is not checked.
    Usable,
    /// It ends with a carriage return, which counts as a part of the name or of the argument.
    Windows,
    /// It names this program.
    Names(String),
}

/// Reads the first line. The repository controls its content: at most the length that the kernel reads is used, and
/// only compared with names of files. Source: execve(2).
fn first_line(content: &[u8]) -> FirstLine {
    let head = &content[..content.len().min(256)];
    let Some(line) = head.strip_prefix(b"#!").and_then(|rest| rest.split(|byte| *byte == b'\n').next())
    else {
        return FirstLine::Usable;
    };
    let Ok(line) = std::str::from_utf8(line) else { return FirstLine::Usable };
    if line.ends_with('\r') {
        return FirstLine::Windows;
    }
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    let Some(interpreter) = words.next() else { return FirstLine::Usable };
    if interpreter.ends_with("/env") {
        // `env -S` splits its argument; other options and variables are left to it.
        let named =
            words.find(|word| *word != "-S").filter(|word| !word.starts_with('-') && !word.contains('='));
        return named.map_or(FirstLine::Usable, |name| FirstLine::Names(name.to_owned()));
    }
    // Without a slash the kernel finds it in the working directory.
    let is_plain = !interpreter.contains('/');
    FirstLine::Names(if is_plain { format!("./{interpreter}") } else { interpreter.to_owned() })
}

fn without_dots(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_of_a_script_is_the_one_that_the_kernel_or_env_starts() {
        let names = |text: &str| FirstLine::Names(text.to_owned());
        for (content, expected) in [
            ("#!/bin/sh\necho", names("/bin/sh")),
            ("#! /bin/sh -e\n", names("/bin/sh")),
            ("#!/usr/bin/env python3\n", names("python3")),
            ("#!/usr/bin/env -S python3 -u\n", names("python3")),
            ("#!/usr/bin/env -i sh\n", FirstLine::Usable),
            ("#!/usr/bin/env X=1 sh\n", FirstLine::Usable),
            ("#!venv/bin/python\n", names("venv/bin/python")),
            ("#!python\n", names("./python")),
            ("#!/bin/sh\r\necho\r\n", FirstLine::Windows),
            ("#!/usr/bin/env bash\r\n", FirstLine::Windows),
            ("echo\r\n", FirstLine::Usable),
            ("\u{7f}ELF", FirstLine::Usable),
            ("#!\n", FirstLine::Usable),
        ] {
            assert_eq!(first_line(content.as_bytes()), expected, "{content:?}");
        }
    }
}
