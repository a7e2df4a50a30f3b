//! Models: who says what about which file, and whether it is so (RW-6.2).
//!
//! Read-only by construction: nothing in this room writes, moves, deletes or re-chmods anything, starts no program and opens
//! no connection (RW-6.1). What is to be kept (the cache of what was read before) it hands back as a value.
//!
//! Two halves: who says something (the sources of truth) gives [`Claim`]s; what the bytes say gives one [`Verdict`] for each.

pub mod cache;
mod digest;
pub mod engine;
pub mod examine;
pub mod gguf;
mod headers;
pub mod huggingface;
pub mod manifest;
pub mod ollama;
pub mod places;
mod plain;
pub mod progress;
mod reading;
pub mod store;
pub mod sums;
pub mod verify;
mod whole;
mod work;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Outcome;
use crate::git::path::plain as plain_path;
use crate::process::interrupt;
use crate::report::screen::harmless_line;

/// How many things one source may say, and all of them together: whoever may write a line must not fill the memory of root
/// with verdicts about lines. As many as a scan keeps entries.
const AT_MOST: usize = 200_000;

/// How many complaints about one source are told one by one.
const COMPLAINTS: usize = 100;

/// One file that somebody says something about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Where it is: absolute, below the store's base, and no link.
    pub path: PathBuf,
    /// Its name for people: relative to its store, lossy UTF-8, harmless.
    pub shown: String,
    /// Whether it has to be there.
    pub need: Need,
    /// Its length in bytes, where that is said.
    pub size: Option<u64>,
    /// Its digest, where one is said.
    pub digest: Option<Digest>,
    /// Who says so: `manifest: mistral-7b`, `SHA256SUMS`, `ollama: mistral:latest layer 2`.
    pub from: String,
    /// What its beginning is compared with, once the bytes were looked at: the engine does not care.
    pub header: Header,
}

/// Whether a file has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Without it something does not work.
    Required,
    /// It may be missing.
    Optional,
}

/// What the beginning of a file tells about its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The tensors that a GGUF header lists have to fit into the file.
    Gguf,
    /// Nothing.
    None,
}

/// A digest that somebody names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest {
    /// How it is computed.
    pub algorithm: Algorithm,
    /// Lower-case hexadecimal digits, as many as the algorithm gives.
    pub hex: String,
}

/// How a digest is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256
    Sha256,
    /// SHA-512
    Sha512,
    /// BLAKE3, 256 bits
    Blake3,
    /// The id that git gives a file: SHA-1 over `blob <length>\0` and the content.
    GitBlobSha1,
}

impl Algorithm {
    /// Returns its name, as manifests and JSON spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
            Self::GitBlobSha1 => "git-blob-sha1",
        }
    }

    /// Reads the name of an algorithm that anybody may use for a file: `sha256`, `SHA-512`, `BLAKE3`.
    ///
    /// # Errors
    /// Another name.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().replace('-', "").as_str() {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            "blake3" => Ok(Self::Blake3),
            _ => Err(format!("unknown algorithm {text:?}: known are sha256, sha512 and blake3")),
        }
    }

    /// Returns how many hexadecimal digits it gives.
    pub fn digits(self) -> usize {
        match self {
            Self::Sha256 | Self::Blake3 => 64,
            Self::Sha512 => 128,
            Self::GitBlobSha1 => 40,
        }
    }
}

impl Digest {
    /// Checks the digits of a digest.
    ///
    /// # Errors
    /// They are too many, too few, or no digits.
    pub fn parse(algorithm: Algorithm, hex: &str) -> Result<Self, String> {
        let hex = hex.trim();
        if hex.len() != algorithm.digits() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let (digits, word) = (algorithm.digits(), algorithm.word());
            return Err(format!("its digest is malformed: {word} has {digits} hexadecimal digits"));
        }
        Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.word(), self.hex)
    }
}

/// What was found about one file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Its digest is the one that is said.
    Verified,
    /// It is there, of the right length where one is said; nobody says a digest, or only presence was asked for.
    Present,
    /// It has to be there and is not.
    MissingRequired,
    /// It may be missing and is.
    MissingOptional,
    /// Its length is not the one that is said.
    SizeMismatch {
        /// What is said, in bytes.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// Its digest is not the one that is said.
    DigestMismatch {
        /// What is said, as hexadecimal digits.
        expected: String,
        /// What it has.
        found: String,
    },
    /// It ends before what its own header lists.
    Truncated {
        /// How many bytes the header needs, at least.
        needs: u64,
        /// How many there are.
        found: u64,
    },
    /// It cannot be read, and why.
    Unreadable(String),
    /// Nobody says anything about it.
    Unexpected,
    /// A blob that nothing refers to.
    Orphaned,
    /// What is said about it cannot be so, and why.
    Inconsistent(String),
    /// It changed while it was read, twice.
    Changing,
    /// A download that did not end.
    Partial,
    /// Something that this program cannot look at, and why.
    Unsupported(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified => f.write_str("verified"),
            Self::Present => f.write_str("present"),
            Self::MissingRequired => f.write_str("missing, and required"),
            Self::MissingOptional => f.write_str("missing, not required"),
            Self::SizeMismatch { expected, found } => {
                write!(f, "has {found} bytes where {expected} are said")
            }
            Self::DigestMismatch { expected, found } => {
                write!(f, "has the digest {found} where {expected} is said")
            }
            Self::Truncated { needs, found } => {
                write!(f, "truncated: has {found} bytes, its header needs {needs}")
            }
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::Unexpected => f.write_str("nobody says anything about it"),
            Self::Orphaned => f.write_str("no model refers to it"),
            Self::Inconsistent(why) | Self::Unsupported(why) => f.write_str(why),
            Self::Changing => f.write_str("changed while it was read, twice"),
            Self::Partial => f.write_str("a download that did not end"),
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Good,
    /// Worth knowing, nothing to repair.
    Note,
    /// Something is wrong: exit 5.
    Problem,
}

impl Finding {
    /// Returns how bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Verified | Self::Present => Severity::Good,
            Self::MissingOptional
            | Self::Unexpected
            | Self::Orphaned
            | Self::Partial
            | Self::Unsupported(_) => Severity::Note,
            Self::MissingRequired
            | Self::SizeMismatch { .. }
            | Self::DigestMismatch { .. }
            | Self::Truncated { .. }
            | Self::Unreadable(_)
            | Self::Inconsistent(_)
            | Self::Changing => Severity::Problem,
        }
    }

    /// Returns its name, as JSON spells it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Present => "present",
            Self::MissingRequired => "missing-required",
            Self::MissingOptional => "missing-optional",
            Self::SizeMismatch { .. } => "size-mismatch",
            Self::DigestMismatch { .. } => "digest-mismatch",
            Self::Truncated { .. } => "truncated",
            Self::Unreadable(_) => "unreadable",
            Self::Unexpected => "unexpected",
            Self::Orphaned => "orphaned",
            Self::Inconsistent(_) => "inconsistent",
            Self::Changing => "changing",
            Self::Partial => "partial",
            Self::Unsupported(_) => "unsupported",
        }
    }
}

/// What was found about one file, and who said something about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Where it is.
    #[serde(with = "plain_path")]
    pub path: PathBuf,
    /// Its name for people, as in [`Claim::shown`].
    pub shown: String,
    /// Who says something about it, as in [`Claim::from`].
    pub from: String,
    /// What was found.
    pub finding: Finding,
    /// How many bytes were read for it.
    pub bytes_read: u64,
    /// Whether the digest is known from an earlier reading.
    pub cached: bool,
}

impl Claim {
    /// Makes the verdict about this claim.
    pub fn verdict(&self, finding: Finding) -> Verdict {
        Verdict {
            path: self.path.clone(),
            shown: self.shown.clone(),
            from: self.from.clone(),
            finding,
            bytes_read: 0,
            cached: false,
        }
    }
}

/// What the sources of truth say: claims to be looked at, and what needs no look any more.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// What has to be looked at.
    pub claims: Vec<Claim>,
    /// What is settled already.
    pub verdicts: Vec<Verdict>,
}

impl Said {
    /// Tells whether so much is said that the rest is not listened to.
    fn is_full(&self) -> bool {
        self.claims.len() + self.verdicts.len() >= AT_MOST
    }

    /// Returns every path about which something is said.
    fn paths(&self) -> HashSet<PathBuf> {
        let claims = self.claims.iter().map(|claim| &claim.path);
        claims.chain(self.verdicts.iter().map(|verdict| &verdict.path)).cloned().collect()
    }

    /// Makes one claim out of all those that say the same of a file; contradictions stay side by side, up to a number.
    ///
    /// # Errors
    /// The interruption.
    pub fn united(self) -> Outcome<Self> {
        let mut claims: Vec<Claim> = Vec::with_capacity(self.claims.len());
        let mut verdicts = self.verdicts;
        let mut by_path: HashMap<PathBuf, Vec<usize>> = HashMap::new();
        let mut crowded: HashSet<PathBuf> = HashSet::new();
        for claim in self.claims {
            interrupt::check()?;
            let known = by_path.entry(claim.path.clone()).or_default();
            if let Some(index) = known.iter().find(|index| claims[**index].agrees(&claim)) {
                claims[*index].unite(claim);
            } else if known.len() < CONTRADICTIONS {
                known.push(claims.len());
                claims.push(claim);
            } else if crowded.insert(claim.path.clone()) {
                let why = format!("more than {CONTRADICTIONS} different things are said about it");
                verdicts.push(claim.verdict(Finding::Inconsistent(why)));
            }
        }
        Ok(Self { claims, verdicts })
    }
}

/// How many different things may be said about one file: the length, and each algorithm, told by several.
const CONTRADICTIONS: usize = 16;

/// How many of those who say the same are named.
const NAMED: usize = 3;

impl Claim {
    fn agrees(&self, other: &Self) -> bool {
        let same_size = self.size.is_none() || other.size.is_none() || self.size == other.size;
        let same_digest = self.digest.is_none() || other.digest.is_none() || self.digest == other.digest;
        same_size && same_digest
    }

    fn unite(&mut self, other: Self) {
        self.size = self.size.or(other.size);
        self.digest = self.digest.take().or(other.digest);
        if other.need == Need::Required {
            self.need = Need::Required;
        }
        if other.header == Header::Gguf {
            self.header = Header::Gguf;
        }
        let named = self.from.matches(", ").count() + 1;
        if named < NAMED {
            self.from = format!("{}, {}", self.from, other.from);
        } else if !self.from.ends_with(" …") {
            self.from.push_str(" …");
        }
    }
}

/// Tells whether a relative path stays where it starts, whatever is there.
fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        && path.components().any(|part| matches!(part, Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().contains(&0)
}

/// Tells whether a name is that of a GGUF file.
fn is_gguf_name(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

/// Makes text from elsewhere safe to show, on one line, and not too long.
fn told_short(text: &str) -> String {
    const LONG: usize = 200;
    let safe = harmless_line(text);
    if safe.chars().count() <= LONG {
        return safe;
    }
    safe.chars().take(LONG).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(from: &str, digest: Option<&str>) -> Claim {
        let digest = digest.map(|digit| Digest::parse(Algorithm::Sha256, &digit.repeat(64)).unwrap());
        Claim {
            path: PathBuf::from("/m/a"),
            shown: "a".into(),
            need: Need::Optional,
            size: None,
            digest,
            from: from.into(),
            header: Header::None,
        }
    }

    #[test]
    fn those_who_say_the_same_are_named_together_and_contradictions_stay() {
        let required = Claim { need: Need::Required, ..claim("manifest: a", None) };
        let claims = vec![claim("SHA256SUMS", Some("a")), required, claim("other", Some("b"))];
        let said = Said { claims, verdicts: vec![] }.united().unwrap();
        assert_eq!(said.claims.len(), 2);
        assert_eq!(said.claims[0].from, "SHA256SUMS, manifest: a");
        assert_eq!(said.claims[0].need, Need::Required);
        assert_eq!(said.claims[1].from, "other");
        let many = (0..10).map(|number| claim(&format!("m{number}"), None)).collect();
        assert_eq!(Said { claims: many, verdicts: vec![] }.united().unwrap().claims[0].from, "m0, m1, m2 …");
    }

    #[test]
    fn rw_6_2c_of_a_file_about_which_everything_is_said_some_is_looked_at_and_that_is_told() {
        let other = |number: usize| {
            let digest = Digest::parse(Algorithm::Sha256, &format!("{number:064x}")).ok();
            Claim { digest, ..claim("SHA256SUMS", None) }
        };
        let claims = (0..CONTRADICTIONS + 5).chain(0..CONTRADICTIONS).map(other).collect();
        let said = Said { claims, verdicts: vec![] }.united().unwrap();
        assert_eq!(said.claims.len(), CONTRADICTIONS);
        let [verdict] = &said.verdicts[..] else { panic!("{:?}", said.verdicts) };
        assert_eq!(verdict.finding.severity(), Severity::Problem);
    }

    #[test]
    fn a_digest_is_checked_and_its_digits_become_small() {
        assert_eq!(Digest::parse(Algorithm::Sha256, &"A".repeat(64)).unwrap().hex, "a".repeat(64));
        for bad in ["", "abc", &"g".repeat(64), &"a".repeat(63)] {
            assert!(Digest::parse(Algorithm::Sha256, bad).is_err(), "{bad:?}");
        }
        assert!(Algorithm::parse("md5").is_err());
        assert_eq!(Algorithm::parse("SHA-256"), Ok(Algorithm::Sha256));
    }

    #[test]
    fn only_a_path_that_stays_inside_is_inside() {
        for good in ["a", "./a", "a/b", "a/./b"] {
            assert!(is_inside(Path::new(good)), "{good}");
        }
        for bad in ["", ".", "./", "/a", "..", "a/../b", "a\0b"] {
            assert!(!is_inside(Path::new(bad)), "{bad}");
        }
    }
}
