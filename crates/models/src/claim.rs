//! Claims about files of models, and the verdicts on them. The module touches nothing.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_git::path::plain as plain_path;
use refresh_system::text::harmless_line;

/// How many problems of one source are listed; the others are counted.
const LISTED_PROBLEMS: usize = 100;

/// An expectation about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The absolute path of the file, without links.
    pub path: PathBuf,
    /// The path for people: relative to its model directory, and safe to print.
    pub shown: String,
    /// The expectation about the file.
    pub expected: Expected,
}

/// The expectation of a source about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The source: `manifest: mistral-7b`, `SHA256SUMS`, `ollama: mistral:latest layer 2`.
    pub from: String,
    /// Whether a missing file is a problem.
    pub is_required: bool,
    /// The length in bytes.
    pub size: Option<u64>,
    /// The digest.
    pub digest: Option<Sha256Hex>,
    /// The format of the file, whose header is then examined.
    pub format: Option<Format>,
}

impl Expected {
    /// Returns the expectation of `from` about a file that may be missing.
    pub(crate) fn optional(from: impl Into<String>) -> Self {
        Self { from: from.into(), is_required: false, size: None, digest: None, format: None }
    }

    /// Returns the finding that the file is missing.
    pub(super) fn missing(&self) -> Finding {
        if self.is_required { Finding::MissingRequired } else { Finding::MissingOptional }
    }
}

/// A file format whose header shows that a file is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// [`super::gguf`]
    Gguf,
    /// [`super::safetensors`]
    Safetensors,
}

impl Format {
    /// Returns the format that a file name indicates.
    pub(crate) fn of_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "gguf" => Some(Self::Gguf),
            "safetensors" => Some(Self::Safetensors),
            _ => None,
        }
    }
}

/// A SHA-256 digest as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Sha256Hex(pub(super) String);

impl Sha256Hex {
    /// Parses 64 hexadecimal digits of either case.
    ///
    /// # Errors
    /// The text has another form.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("the digest is malformed: sha256 has 64 hexadecimal digits".to_owned());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// Returns the digits.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The result for one file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, strum::AsRefStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "kebab-case")]
pub enum Finding {
    /// The digest is the expected one.
    Verified,
    /// The file exists and has the expected length; no digest was compared.
    Present,
    /// The file is missing and required.
    MissingRequired,
    /// The file is missing and not required.
    MissingOptional,
    /// The length differs.
    SizeMismatch {
        /// The expected length in bytes.
        expected: u64,
        /// The length of the file in bytes.
        found: u64,
    },
    /// The digest differs.
    DigestMismatch {
        /// The expected digest.
        expected: String,
        /// The digest of the file.
        found: String,
    },
    /// The file ends before the data that its header lists.
    Truncated {
        /// How many bytes the header needs, at least.
        needs: u64,
        /// The length of the file in bytes.
        found: u64,
    },
    /// The file cannot be read, with the reason.
    Unreadable(String),
    /// No source lists the file.
    Unexpected,
    /// A source or a file contradicts itself or its format, with the reason.
    Inconsistent(String),
    /// The file changed while it was read.
    Changing,
    /// Something that cannot be examined here, with the reason.
    Unsupported(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified => f.write_str("verified"),
            Self::Present => f.write_str("present"),
            Self::MissingRequired => f.write_str("missing, and required"),
            Self::MissingOptional => f.write_str("missing, not required"),
            Self::SizeMismatch { expected, found } => write!(f, "has {found} bytes, expected {expected}"),
            Self::DigestMismatch { expected, found } => {
                write!(f, "has the sha256 {found}, expected {expected}")
            }
            Self::Truncated { needs, found } => {
                write!(f, "truncated: has {found} bytes, its header needs at least {needs}")
            }
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::Unexpected => f.write_str("not listed by any source"),
            Self::Inconsistent(why) => f.write_str(why),
            Self::Unsupported(why) => write!(f, "not verified: {why}"),
            Self::Changing => f.write_str("changed while it was read"),
        }
    }
}

/// How severe a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As expected.
    Good,
    /// Worth knowing; nothing to repair.
    Note,
    /// Something is wrong: exit code 5.
    Problem,
}

impl Finding {
    /// Returns the severity.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Verified | Self::Present => Severity::Good,
            Self::MissingOptional | Self::Unexpected | Self::Unsupported(_) => Severity::Note,
            _ => Severity::Problem,
        }
    }
}

/// A finding about one file and the source that expects it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The absolute path.
    #[serde(with = "plain_path")]
    pub path: PathBuf,
    /// The path for people, as in [`Claim::shown`].
    pub shown: String,
    /// The source, as in [`Expected::from`].
    pub from: String,
    /// The finding.
    pub finding: Finding,
    /// How many bytes were read for it.
    pub bytes_read: u64,
    /// Whether the digest is known from an earlier run.
    pub cached: bool,
}

impl Verdict {
    /// Makes a verdict for which no file was read.
    pub(crate) fn unread(path: &Path, shown: &str, from: &str, finding: Finding) -> Self {
        let (shown, from) = (shown.to_owned(), from.to_owned());
        Self { path: path.to_path_buf(), shown, from, finding, bytes_read: 0, cached: false }
    }
}

/// The problems of one source: the first are listed, the others counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Problems {
    listed: Vec<String>,
    more: usize,
}

impl Problems {
    /// Adds one.
    pub(crate) fn push(&mut self, problem: impl FnOnce() -> String) {
        if self.listed.len() < LISTED_PROBLEMS { self.listed.push(problem()) } else { self.more += 1 }
    }

    /// Returns them as sentences.
    pub(crate) fn sentences(&self) -> impl Iterator<Item = String> {
        let more = (self.more > 0).then(|| format!("{} more problems", self.more));
        self.listed.iter().cloned().chain(more)
    }
}

/// Returns `true` if a relative path names something below its start, without `..`.
pub(super) fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        && path.components().any(|part| matches!(part, Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().contains(&0)
}

/// Makes text from elsewhere safe to print on one line, and shortens it.
pub(super) fn shortened(text: &str) -> String {
    const LONGEST: usize = 200;
    let safe = harmless_line(text);
    if safe.chars().count() <= LONGEST {
        return safe;
    }
    safe.chars().take(LONGEST).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_64_digits_in_upper_or_lower_case() {
        assert_eq!(Sha256Hex::parse(&"A".repeat(64)).unwrap().as_str(), "a".repeat(64));
        for bad in ["", "abc", &"g".repeat(64), &"a".repeat(63)] {
            assert!(Sha256Hex::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_a_path_without_dot_dot_is_inside() {
        for good in ["a", "./a", "a/b", "a/./b"] {
            assert!(is_inside(Path::new(good)), "{good}");
        }
        for bad in ["", ".", "./", "/a", "..", "a/../b", "a\0b"] {
            assert!(!is_inside(Path::new(bad)), "{bad}");
        }
    }

    #[test]
    fn a_hundred_problems_are_listed_and_the_others_counted() {
        let mut problems = Problems::default();
        (0..107).for_each(|number| problems.push(|| number.to_string()));
        assert_eq!(problems.sentences().count(), 101);
        assert_eq!(problems.sentences().last().as_deref(), Some("7 more problems"));
    }
}
