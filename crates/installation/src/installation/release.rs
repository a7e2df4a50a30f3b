//! A release: a commit, its settings and its dependency definitions. The module touches nothing.

use refresh_environments::definitions::Definitions;
use refresh_settings::Settings;
use refresh_settings::names::CommitId;

/// A commit, its settings and its dependency definitions.
#[derive(Debug, Clone)]
pub struct Release {
    /// The commit.
    pub commit: CommitId,
    /// The settings, with the application's layer.
    pub settings: Settings,
    /// The dependency definitions.
    pub definitions: Definitions,
}
