//! Models: who says what about which file, and whether it is so (RW-6.2).
//!
//! Read-only by construction: nothing in this room writes, moves, deletes or re-chmods anything, starts no program and opens
//! no connection (RW-6.1). What is to be kept (the cache of what was read before) it hands back as a value.
//!
//! Two halves: who says something (the sources of truth) gives [`Claim`]s; what the bytes say gives one [`Verdict`] for each.

pub mod cache;
mod digest;
pub mod engine;
pub mod gguf;
pub mod progress;
mod reading;
mod work;

use std::fmt;
use std::path::PathBuf;

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
    /// What its beginning is compared with. Looked at by [`gguf`] after the bytes were: the engine does not care.
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

    /// Returns how many hexadecimal digits it gives.
    pub fn digits(self) -> usize {
        match self {
            Self::Sha256 | Self::Blake3 => 64,
            Self::Sha512 => 128,
            Self::GitBlobSha1 => 40,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.word(), self.hex)
    }
}

/// What was found about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Where it is.
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
