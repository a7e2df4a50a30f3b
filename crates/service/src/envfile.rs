//! The service's environment file, read in the same way as systemd reads an `EnvironmentFile=`.
//!
//! Source: systemd.exec(5). It has only names and values: nothing is expanded and nothing is executed. A byte order
//! mark and CRLF, which some editors add, are ignored. A line that sets nothing is reported with its number.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use refresh_programs::process::Runner;
use refresh_programs::units::{Role, UnitOptions, Units};
use refresh_settings::layout::Layout;
use refresh_settings::users::owner_of_app;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::Outcome;

/// The largest size of an environment file, in bytes. The user of the service writes it, so its size is not limited
/// otherwise.
pub const LIMIT: u64 = 1 << 20;

/// The limit for reading one.
const DEADLINE: Duration = Duration::from_secs(30);

/// The worker's operation.
pub const OPERATION: &str = "read-env-file";

/// The request to read a file.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadEnvFileRequest {
    path: PathBuf,
}

/// Performs the worker's side of [`OPERATION`].
///
/// # Errors
/// As [`EnvFile::read`].
pub fn handle(request: &ReadEnvFileRequest) -> Outcome<EnvFile> {
    EnvFile::read(&request.path)
}

/// The content of an environment file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvFile {
    /// The variables; if one is set twice, the last value.
    pub variables: BTreeMap<String, String>,
    /// The lines that set nothing and are not comments.
    pub problems: Vec<Problem>,
    /// The marks of editors of other systems in the text.
    pub blemish: Option<String>,
}

/// Returns the name of a mark that editors of other systems leave in a text; `None` if there is no such mark.
pub fn blemish(bytes: &[u8]) -> Option<&'static str> {
    let mark = bytes.starts_with(b"\xef\xbb\xbf");
    let carriage = bytes.windows(2).any(|pair| pair == b"\r\n");
    match (mark, carriage) {
        (true, true) => Some("a byte order mark and Windows line endings"),
        (true, false) => Some("a byte order mark"),
        (false, true) => Some("Windows line endings"),
        (false, false) => None,
    }
}

/// A line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its number, from 1.
    pub line: usize,
    /// The problem; never contains a value, which may be a secret.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl EnvFile {
    /// Reads the file at `path`; a missing file sets nothing.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn read(path: &Path) -> Outcome<Self> {
        Ok(disk::read_at_most(path, LIMIT)?.map(|bytes| Self::parse(&bytes)).unwrap_or_default())
    }

    /// Reads the environment file at `path` in a unit with the rights of `owner`, the user of the service. Root itself
    /// reads a file that belongs to root: `owner` may have no permission to read it.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_as(units: &Units, owner: Owner, path: &Path) -> Outcome<Self> {
        if !rustix::process::geteuid().is_root() || owner.uid == 0 {
            return Self::read(path);
        }
        if let Some(bytes) = disk::read_if_roots(path, LIMIT)? {
            return Ok(Self::parse(&bytes));
        }
        let options = UnitOptions::new(Role::Inspect, DEADLINE);
        units.call_as(&options, owner, OPERATION, &ReadEnvFileRequest { path: path.to_path_buf() })
    }

    /// Reads the environment file of an installation that is not opened yet, with the rights of the owner of `app/`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_at(layout: &Layout, runner: &Runner) -> Outcome<Self> {
        let owner = owner_of_app(layout)?;
        Self::read_as(&Units::new(layout, runner, owner), owner, &layout.env_file())
    }

    /// Reads the text of an environment file.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut file = Self { blemish: blemish(bytes).map(str::to_owned), ..Self::default() };
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut scanner = Scanner { bytes, at: 0, line: 1 };
        while let Some(entry) = scanner.entry() {
            match entry {
                Ok((name, value)) => {
                    file.variables.insert(name, value);
                }
                Err(problem) => file.problems.push(problem),
            }
        }
        file
    }

    /// Returns the value of a variable.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl Scanner<'_> {
    /// Returns the next byte, with CRLF read as LF.
    fn next(&mut self) -> Option<u8> {
        if self.bytes[self.at..].starts_with(b"\r\n") {
            self.at += 1;
        }
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        if byte == b'\n' {
            self.line += 1;
        }
        Some(byte)
    }

    /// Returns the next entry; skips blank lines and comments.
    fn entry(&mut self) -> Option<Result<(String, String), Problem>> {
        loop {
            let line = self.line;
            let first = self.next()?;
            match first {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                b'#' | b';' => self.comment(),
                _ => return Some(self.assignment(first, line)),
            }
        }
    }

    /// Skips a comment; one that ends in a backslash continues in the next line.
    fn comment(&mut self) {
        while let Some(byte) = self.next() {
            match byte {
                b'\n' => return,
                b'\\' => {
                    self.next();
                }
                _ => {}
            }
        }
    }

    fn assignment(&mut self, first: u8, line: usize) -> Result<(String, String), Problem> {
        let problem = |what: &str| Problem { line, what: what.to_owned() };
        let mut name = vec![first];
        loop {
            if name.last() == Some(&b'=') {
                name.pop();
                break;
            }
            match self.next() {
                None | Some(b'\n') => return Err(problem("it has no '='")),
                Some(byte) => name.push(byte),
            }
        }
        let value = self.value();
        let name = name.trim_ascii_end();
        let right = name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        if !right {
            return Err(problem(if name.starts_with(b"export ") {
                "'export' is of the shell and does not belong here"
            } else {
                "the text before the '=' is not the name of a variable"
            }));
        }
        let value = value.ok_or_else(|| problem("a quote is not closed"))?;
        let name = String::from_utf8_lossy(name).into_owned();
        let value =
            String::from_utf8(value).map_err(|_| problem(&format!("the value of {name} is not UTF-8")))?;
        if value.contains('\0') {
            return Err(problem(&format!("the value of {name} holds a zero byte")));
        }
        Ok((name, value))
    }

    /// Reads a value: quoted parts and then, to the end of the line, plain text; `None` if a quote is not closed.
    fn value(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        loop {
            match self.next() {
                None | Some(b'\n') => return Some(value),
                Some(b' ' | b'\t') => {}
                Some(b'\'') => loop {
                    match self.next()? {
                        b'\'' => break,
                        byte => value.push(byte),
                    }
                },
                Some(b'"') => self.double_quoted(&mut value)?,
                Some(byte) => {
                    self.plain(byte, &mut value);
                    return Some(value);
                }
            }
        }
    }

    fn double_quoted(&mut self, value: &mut Vec<u8>) -> Option<()> {
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => match self.next()? {
                    b'\n' => {}
                    byte @ (b'"' | b'\\' | b'`' | b'$') => value.push(byte),
                    byte => value.extend([b'\\', byte]),
                },
                byte => value.push(byte),
            }
        }
    }

    /// Reads unquoted text to the end of the line, without the blanks before it.
    fn plain(&mut self, first: u8, value: &mut Vec<u8>) {
        let mut kept = value.len();
        let mut next = Some(first);
        while let Some(byte) = next {
            match byte {
                b'\n' => break,
                b'\\' => {
                    match self.next() {
                        None | Some(b'\n') => {}
                        Some(escaped) => value.push(escaped),
                    }
                    kept = value.len();
                }
                b' ' | b'\t' => value.push(byte),
                _ => {
                    value.push(byte);
                    kept = value.len();
                }
            }
            next = self.next();
        }
        value.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<(String, String)> {
        let file = EnvFile::parse(text.as_bytes());
        assert_eq!(file.problems, [], "{text:?}");
        file.variables.into_iter().collect()
    }

    fn one(text: &str) -> String {
        values(text).remove(0).1
    }

    #[test]
    fn plain_quoted_and_empty_values_are_read() {
        assert_eq!(one("A=b"), "b");
        assert_eq!(one("A=  b c  "), "b c");
        assert_eq!(one("A="), "");
        assert_eq!(one("A='b  \"c\" $D '"), "b  \"c\" $D ");
        assert_eq!(one("A=\"b \\\" \\$ \\n\""), "b \" $ \\n");
        assert_eq!(one("A='b''c'd"), "bcd");
        assert_eq!(one("A=b'c'"), "b'c'");
        assert_eq!(one("A=b#c"), "b#c");
        assert_eq!(one("A =b"), "b");
    }

    #[test]
    fn lines_go_on_after_a_backslash_and_inside_quotes() {
        assert_eq!(one("A=b\\\nc"), "bc");
        assert_eq!(one("A=\"b\\\nc\nd\""), "bc\nd");
    }

    #[test]
    fn comments_blank_lines_a_byte_order_mark_and_crlf_are_passed_over() {
        let text = "\u{feff}# a\r\n; b\r\n\r\n  A=b\r\nC='d'\r\n";
        assert_eq!(values(text), [("A".into(), "b".into()), ("C".into(), "d".into())]);
    }

    #[test]
    fn nothing_is_expanded_and_the_last_value_wins() {
        assert_eq!(one("A=${B:-1}\nA=$(id)"), "$(id)");
    }

    #[test]
    fn a_line_that_sets_nothing_is_reported_with_its_number_and_without_its_value() {
        let file = EnvFile::parse(b"A=1\nhello\nexport B=secret\n1C=2\nD='open");
        assert_eq!(file.value("A"), Some("1"));
        let lines: Vec<usize> = file.problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
        assert!(file.problems.iter().all(|problem| !problem.what.contains("secret")));
    }

    #[test]
    fn no_bytes_make_the_reader_fail() {
        for seed in 0..=u8::MAX {
            let bytes: Vec<u8> = (0..64u8).map(|n| seed.wrapping_mul(n ^ 0x5a).wrapping_add(n)).collect();
            EnvFile::parse(&bytes);
        }
    }
}
