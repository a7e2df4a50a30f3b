//! The interpreter in the first line of a file of a commit. The module reads the mirror and changes nothing.

use std::path::Path;

use serde::{Deserialize, Serialize};

use refresh_settings::names::CommitId;
use refresh_system::error::Outcome;

use super::mirror::Mirror;
use super::mirror_call::Call;
use super::tree_entry::TreeEntry;

/// A larger file is hardly a script, and is not read.
const LARGEST_SCRIPT: u64 = 1 << 20;
/// The bytes of a file that the kernel reads for its interpreter, including the final zero. Source: execve(2).
const LENGTH: usize = 256;

/// The first line of a program of a commit, as the kernel reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstLine {
    /// It names no interpreter, or in a way that is not checked.
    Usable,
    /// A carriage return ends the interpreter's name, and counts as a part of it.
    Windows,
    /// It names this program.
    Names(String),
}

impl Mirror {
    /// Returns the first line of a file of a commit.
    ///
    /// # Errors
    /// The commit is not in the mirror.
    pub fn first_line(&self, commit: &CommitId, entry: &TreeEntry) -> Outcome<FirstLine> {
        if entry.size.is_none_or(|size| size > LARGEST_SCRIPT) {
            return Ok(FirstLine::Usable);
        }
        let Some(unit) = &self.unit else { return self.first_line_here(commit, &entry.path) };
        let call = Call::FirstLine { commit: commit.clone(), path: entry.path.clone().into() };
        Ok(match unit.ask(call)? {
            // The unit reads data of others, so the length of its answer is checked.
            FirstLine::Names(name) if name.len() > LENGTH => FirstLine::Usable,
            line => line,
        })
    }

    /// As [`Mirror::first_line`], with git of this process.
    pub(super) fn first_line_here(&self, commit: &CommitId, path: &Path) -> Outcome<FirstLine> {
        Ok(parse(&self.read(commit, path)?.unwrap_or_default()))
    }
}

fn parse(content: &[u8]) -> FirstLine {
    let head = &content[..content.len().min(LENGTH)];
    let Some(rest) = head.strip_prefix(b"#!") else { return FirstLine::Usable };
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // The end of a longer line is not known.
    if line.len() == rest.len() && content.len() > LENGTH {
        return FirstLine::Usable;
    }
    let Ok(line) = std::str::from_utf8(line) else { return FirstLine::Usable };
    let line = line.trim_start_matches([' ', '\t']);
    let (interpreter, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if interpreter.ends_with('\r') {
        return FirstLine::Windows;
    }
    if interpreter.ends_with("/env") {
        return named_by_env(argument.trim_start_matches([' ', '\t']));
    }
    match interpreter {
        "" => FirstLine::Usable,
        // Without a slash the kernel finds it in the working directory.
        plain if !plain.contains('/') => FirstLine::Names(format!("./{plain}")),
        path => FirstLine::Names(path.to_owned()),
    }
}

/// Returns the program that `env` starts. Options and variables are left to it.
fn named_by_env(argument: &str) -> FirstLine {
    let name = match argument.strip_prefix("-S") {
        // It splits also at a carriage return, and has quotes, escapes, variables and comments. Source: env(1).
        Some(text) if text.contains(['"', '\'', '\\', '$', '#']) => return FirstLine::Usable,
        Some(text) => text.split_ascii_whitespace().next(),
        None => argument.split([' ', '\t']).next(),
    };
    match name.unwrap_or_default() {
        "" => FirstLine::Usable,
        option if option.starts_with('-') || option.contains('=') => FirstLine::Usable,
        windows if windows.ends_with('\r') => FirstLine::Windows,
        name => FirstLine::Names(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_of_a_script_is_the_one_that_the_kernel_or_env_starts() {
        let names = |text: &str| FirstLine::Names(text.to_owned());
        let long = format!("#!/usr/bin/env -S {}sh\n", " ".repeat(LENGTH));
        for (content, expected) in [
            ("#!/bin/sh\necho", names("/bin/sh")),
            ("#! /bin/sh -e\n", names("/bin/sh")),
            ("#!/bin/sh", names("/bin/sh")),
            ("#!/usr/bin/perl -w\r\n", names("/usr/bin/perl")),
            ("#!/usr/bin/env python3\n", names("python3")),
            ("#!/usr/bin/env -S python3 -u\n", names("python3")),
            ("#!/usr/bin/env -Spython3 -u\n", names("python3")),
            ("#!/usr/bin/env -S python3 -u \r\n", names("python3")),
            ("#!/usr/bin/env -S python3\r\n", names("python3")),
            ("#!/usr/bin/env -S \"/bin/sh\" -e\n", FirstLine::Usable),
            ("#!/usr/bin/env -S /bin/sh\\_-e\n", FirstLine::Usable),
            ("#!/usr/bin/env -S ${SHELL} -e\n", FirstLine::Usable),
            ("#!/usr/bin/env -i sh\n", FirstLine::Usable),
            ("#!/usr/bin/env -S -i sh\n", FirstLine::Usable),
            ("#!/usr/bin/env X=1 sh\n", FirstLine::Usable),
            ("#!venv/bin/python\n", names("venv/bin/python")),
            ("#!python\n", names("./python")),
            ("#!/bin/sh\r\necho\r\n", FirstLine::Windows),
            ("#!/usr/bin/env bash\r\n", FirstLine::Windows),
            ("#!/usr/bin/env\r\n", FirstLine::Windows),
            ("echo\r\n", FirstLine::Usable),
            ("\u{7f}ELF", FirstLine::Usable),
            ("#!\n", FirstLine::Usable),
            ("#!/usr/bin/env\n", FirstLine::Usable),
            (&long, FirstLine::Usable),
        ] {
            assert_eq!(parse(content.as_bytes()), expected, "{content:?}");
        }
    }
}
