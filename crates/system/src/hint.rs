//! Hints: the actions that a person can take after a failure. The module touches nothing.

use std::ffi::OsStr;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::quoted;

/// How every command line of this program begins.
const PROGRAM: &str = "ladylinux-refresh ";

/// An action that a person can take after a failure: type a command, or follow a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// A line for a shell, to type unchanged.
    Command {
        /// The purpose of the command, if it is not obvious.
        purpose: Option<String>,
        /// The line, each word of it quoted.
        line: String,
    },
    /// A sentence that names a setting, a file or a choice.
    Text(String),
}

impl Hint {
    /// Returns the command `fixed` with further words, each of them quoted. A name from outside remains one word.
    pub fn command(fixed: &'static str, words: &[&dyn AsRef<OsStr>]) -> Self {
        Self::Command { purpose: None, line: command_line(fixed, words) }
    }

    /// Returns a line of several commands, in which the caller has quoted each word from outside.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::Command { purpose: None, line: line.into() }
    }

    /// Returns the same command with its purpose.
    #[must_use]
    pub fn with_purpose(self, purpose: &str) -> Self {
        match self {
            Self::Command { line, .. } => Self::Command { purpose: Some(purpose.to_owned()), line },
            text @ Self::Text(_) => text,
        }
    }

    /// Returns the command line of this program that the hint is; `None` for other commands and for sentences.
    pub fn own_command(&self) -> Option<&str> {
        match self {
            Self::Command { purpose: None, line } => {
                Some(line.as_str()).filter(|line| line.starts_with(PROGRAM))
            }
            Self::Command { .. } | Self::Text(_) => None,
        }
    }

    /// Returns the hint with another command line, made from this one.
    #[must_use]
    pub fn map_line(self, change: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Command { purpose, line } => Self::Command { purpose, line: change(&line) },
            text @ Self::Text(_) => text,
        }
    }
}

/// Returns a line for a shell: `fixed` as it is, and each further word quoted.
pub fn command_line(fixed: &'static str, words: &[&dyn AsRef<OsStr>]) -> String {
    words.iter().fold(fixed.to_owned(), |line, word| {
        let word: &OsStr = (*word).as_ref();
        format!("{line} {}", quoted(&word.to_string_lossy()))
    })
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { purpose: Some(purpose), line } => write!(f, "{purpose}: {line}"),
            Self::Command { purpose: None, line } | Self::Text(line) => f.write_str(line),
        }
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Hint {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_of_a_command_is_quoted() {
        let hint =
            Hint::command("systemctl status", &[&r"web-a\x2db.service", &std::path::Path::new("/a b")]);
        assert_eq!(hint.to_string(), r"systemctl status 'web-a\x2db.service' '/a b'");
        assert_eq!(
            hint.with_purpose("check it").to_string(),
            r"check it: systemctl status 'web-a\x2db.service' '/a b'"
        );
    }

    #[test]
    fn a_command_of_this_program_is_recognized() {
        let run = Hint::command("ladylinux-refresh run", &[&"main"]);
        assert_eq!(run.own_command(), Some("ladylinux-refresh run main"));
        assert_eq!(run.with_purpose("then").own_command(), None);
        assert_eq!(Hint::command("systemctl status", &[]).own_command(), None);
        assert_eq!(Hint::from("ladylinux-refresh stopped").own_command(), None);
    }
}
