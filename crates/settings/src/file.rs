//! The two files of settings as they are written: their tables and keys.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::names::BranchName;
use super::{Hook, IgnoredFiles, Models, Probe, Python, Remote, Security, Service};

/// The name of the application's file, at the root of the tree.
pub const APPLICATION_FILE: &str = "refresh.toml";

/// The host's file as written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostFile {
    pub(super) branch: Option<BranchName>,
    pub(super) allowed_branches: Vec<BranchName>,
    pub(super) strict_order: bool,
    pub(super) preserve: Vec<String>,
    pub(super) ignored: IgnoredFiles,
    pub(super) keep: Option<usize>,
    pub(super) store: Option<PathBuf>,
    pub(super) remote: Remote,
    /// How environments are built.
    pub python: Python,
    pub(super) service: Service,
    pub(super) probe: Probe,
    pub(super) models: Models,
    pub(super) security: Security,
    pub(super) hook: Vec<Hook>,
}

/// The application's file as written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApplicationFile {
    /// The patterns of the dependency definitions.
    pub definitions: Option<Vec<String>>,
    /// The extras.
    pub extras: Option<Vec<String>>,
    /// The dependency groups.
    pub groups: Option<Vec<String>>,
    pub(super) probe: ApplicationProbe,
    pub(super) hook: Vec<Hook>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ApplicationProbe {
    pub(super) path: Option<String>,
}

/// The author of a file, who decides which keys it may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// People, on the host.
    Host,
    /// Everyone who can push to the branch.
    Application,
}
