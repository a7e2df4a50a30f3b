//! A release: a commit and what it states about itself. It touches nothing.

use refresh_environments::definitions::Definitions;
use refresh_settings::Settings;
use refresh_settings::names::CommitId;

/// A commit, and what it says of itself.
#[derive(Debug, Clone)]
pub struct Release {
    /// The commit.
    pub commit: CommitId,
    /// The settings, with the application's layer.
    pub settings: Settings,
    /// The dependency definitions.
    pub definitions: Definitions,
}
