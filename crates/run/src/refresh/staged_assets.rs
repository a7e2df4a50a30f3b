//! The products of staged `assets` hooks. Pure.

use refresh_settings::names::CommitId;
use refresh_settings::{Hook, HookKind};

/// The products of staged `assets` hooks.
#[derive(Debug)]
pub(crate) struct StagedAssets {
    pub(super) commit: CommitId,
    pub(super) is_placed: bool,
}

impl StagedAssets {
    /// Returns whether the products include those of a hook for a commit.
    pub(crate) fn cover(&self, hook: &Hook, commit: &CommitId) -> bool {
        is_staged_asset(hook) && self.commit == *commit
    }
}

pub(super) fn is_staged_asset(hook: &Hook) -> bool {
    hook.stage && hook.kind == HookKind::Assets
}
