//! The result of a command: its exit code and its output.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]

use std::process::Output;

/// The result of a command.
#[derive(Debug)]
pub struct Ran {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Returns the result of a program.
    pub fn of(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        Self {
            code: status.code(),
            out: String::from_utf8_lossy(&stdout).into_owned(),
            err: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Returns all of its output.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code\n--- stdout\n{}\n--- stderr\n{}", self.out, self.err);
        self
    }

    /// Asserts that it has printed a text.
    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(self.all().contains(text), "{text:?} is missing in\n{}", self.all());
        self
    }
}
