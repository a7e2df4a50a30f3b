//! The text of a unit file, read as systemd reads it. Source: systemd.syntax(7).
//!
//! The module keeps the text of each line. In systemd's properties the words of a command are separated, and resets are
//! missing.

use std::path::PathBuf;

use refresh_system::disk;
use refresh_system::error::Outcome;

/// The characters that systemd treats as blanks. Other blanks of Unicode are part of a key: if they were removed, this
/// reader would find a setting that systemd does not.
const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The section, without its brackets.
    pub section: String,
    /// The key.
    pub key: String,
    /// The value, its continuation lines joined by spaces.
    pub value: String,
}

/// The content of one unit file, or of a unit file and its drop-ins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFile {
    /// The assignments in their order.
    pub assignments: Vec<Assignment>,
}

impl UnitFile {
    /// Reads the text of a unit file; lines without an assignment are ignored, as in systemd.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).into_owned();
        let mut file = Self::default();
        let mut section = String::new();
        let mut joined = String::new();
        // The last line may end with a continuation.
        for line in lines(&text).into_iter().chain([""]) {
            let line = line.trim_start_matches(BLANKS);
            if line.starts_with(['#', ';']) {
                continue;
            }
            joined.push_str(line);
            if goes_on(&joined) {
                joined.pop();
                joined.push(' ');
                continue;
            }
            let whole = std::mem::take(&mut joined);
            let whole = whole.trim_matches(BLANKS);
            if let Some(name) = whole.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.clone_into(&mut section);
            } else if let Some((key, value)) = whole.split_once('=') {
                file.assignments.push(Assignment {
                    section: section.clone(),
                    key: key.trim_end_matches(BLANKS).to_owned(),
                    value: value.trim_start_matches(BLANKS).to_owned(),
                });
            }
        }
        file
    }

    /// Reads a unit file and its drop-ins; a missing one counts as empty.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn read<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Outcome<Self> {
        let mut file = Self::default();
        for path in paths {
            file.extend(Self::parse(&disk::read_if_there(path)?.unwrap_or_default()));
        }
        Ok(file)
    }

    /// Adds the assignments of a later drop-in.
    pub fn extend(&mut self, later: Self) {
        self.assignments.extend(later.assignments);
    }

    /// Returns the values of a key that is a list; an empty assignment empties it.
    pub fn list(&self, section: &str, key: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for value in self.values(section, key) {
            if value.is_empty() { values.clear() } else { values.push(value) }
        }
        values
    }

    /// Returns the words of all values of a key that is a list of words.
    pub fn words(&self, section: &str, key: &str) -> Vec<&str> {
        self.list(section, key).into_iter().flat_map(str::split_whitespace).collect()
    }

    /// Returns the value of a key with a single value: the last one counts, an empty one counts as none.
    pub fn value(&self, section: &str, key: &str) -> Option<&str> {
        self.values(section, key).last().filter(|value| !value.is_empty())
    }

    fn values(&self, section: &str, key: &str) -> impl Iterator<Item = &str> {
        let of = move |it: &&Assignment| it.section == section && it.key == key;
        self.assignments.iter().filter(of).map(|it| it.value.as_str())
    }
}

/// Returns the drop-ins of a unit in the order of their names. If several have the same name, the one in the first
/// directory counts.
pub fn drop_ins(directories: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in directories {
        for entry in std::fs::read_dir(directory.join(format!("{name}.d"))).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_new = !found.iter().any(|other| other.file_name() == path.file_name());
            if is_new && path.extension().is_some_and(|ending| ending == "conf") {
                found.push(path);
            }
        }
    }
    found.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
    found
}

/// Splits a text at the same places as systemd: at a line feed, a carriage return, both in either order, or a NUL. A
/// reader with fewer lines than systemd would miss settings.
fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\n', '\r', '\0']) {
        lines.push(&rest[..at]);
        let pair = rest[at..].starts_with("\r\n") || rest[at..].starts_with("\n\r");
        rest = &rest[at + if pair { 2 } else { 1 }..];
    }
    lines.push(rest);
    lines
}

/// Returns whether a line continues in the next one: its last character is a backslash that is not itself escaped.
fn goes_on(line: &str) -> bool {
    line.chars().fold(false, |escaped, c| !escaped && c == '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_comments_in_between_are_left_out() {
        let text = "# c\n[Unit]\nAfter = a b\n[Service]\nExecStart=/bin/x \\\n  # not this\n; nor this\n  --port 1 \\\n\nUser=u";
        let file = UnitFile::parse(text.as_bytes());
        assert_eq!(file.value("Unit", "After"), Some("a b"));
        assert_eq!(file.words("Service", "ExecStart"), ["/bin/x", "--port", "1"]);
        assert_eq!(file.value("Service", "User"), Some("u"));
        assert_eq!(file.value("Unit", "User"), None);
    }

    #[test]
    fn an_empty_assignment_resets_a_list_and_a_drop_in_comes_after() {
        let mut file =
            UnitFile::parse(b"[Service]\nExecStart=/a\nUser=one\nEnvironment=A=1\nEnvironment=B=2\n");
        assert_eq!(file.list("Service", "Environment"), ["A=1", "B=2"]);
        file.extend(UnitFile::parse(b"[Service]\nExecStart=\nExecStart=/b\nUser=\n"));
        assert_eq!(file.list("Service", "ExecStart"), ["/b"]);
        assert_eq!(file.value("Service", "User"), None);
    }

    #[test]
    fn additions_of_editors_of_other_systems_hide_no_line() {
        let file =
            UnitFile::parse(b"\xef\xbb\xbf[Service]\r\nExecStart=/a \\\r\n --b\r\nnonsense\r\nUser=u\r\n");
        assert_eq!(file.words("Service", "ExecStart"), ["/a", "--b"]);
        assert_eq!(file.value("Service", "User"), Some("u"));
        assert_eq!(UnitFile::parse(b"[Service]\nExecStart=/a \\").words("Service", "ExecStart"), ["/a"]);
    }

    #[test]
    fn a_blank_of_unicode_is_part_of_a_key() {
        for line in ["User\u{a0}=one", "\u{a0}User=one", "\u{c}User=one", "\u{2003}User=one"] {
            let file = UnitFile::parse(format!("[Service]\n{line}\n").as_bytes());
            assert_eq!(file.value("Service", "User"), None, "{line:?}");
        }
    }

    #[test]
    fn no_line_that_systemd_reads_is_hidden_in_another() {
        for end in ["\\ \n", "\\\t\n", "\\\\\n", "\r", "\0", "\n\r", "\\\n\n", "\\\n# \\\n\n"] {
            let text = format!("[Service]\nUser=one\nEnvironment=A=b{end}User=root\n");
            let file = UnitFile::parse(text.as_bytes());
            assert_eq!(file.value("Service", "User"), Some("root"), "{text:?}");
        }
    }
}
