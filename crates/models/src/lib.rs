//! Models: which files are expected, and whether they exist and are unchanged (RW-6.2).
//!
//! This crate only reads: it writes, moves, deletes and downloads nothing, and starts no program (RW-6.1). The digests
//! of files that it has read are a value ([`cache::DigestCache`]), which a caller may keep.
//!
//! Sources ([`manifest`], [`checksum_files`], [`ollama`], [`safetensors`]) make [`Claim`]s about files below the model
//! directories ([`locations`], [`model_dirs`]). [`verify_files`] reads the files and makes one [`Verdict`] for each
//! claim.

pub mod cache;
pub(crate) mod checksum_files;
mod claim;
pub mod examine;
mod gather;
pub(crate) mod gguf;
pub(crate) mod locations;
pub mod manifest;
mod model_dirs;
pub(crate) mod ollama;
pub(crate) mod safetensors;
pub mod verify;
mod verify_files;

pub(crate) use claim::{Claim, Expected, Format, Problems, Sha256Hex};
pub use claim::{Finding, Severity, Verdict};

use claim::{is_inside, shortened};
