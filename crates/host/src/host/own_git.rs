//! Git without an installation: with a configuration that exists only for one piece of work.

use std::path::PathBuf;

use refresh_git::Git;
use refresh_programs::process::Runner;
use refresh_programs::units::Units;
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_source::work_tree;
use refresh_source::work_tree::TreeState;
use refresh_system::disk::Owner;
use refresh_system::error::Outcome;
use refresh_system::{clock, disk};

/// Returns the state of `app/`, which belongs to `owner` and may not be part of an installation yet.
///
/// # Errors
/// It cannot be read.
pub(super) fn tree_of(layout: &Layout, runner: &Runner, owner: Owner) -> Outcome<TreeState> {
    let units = Units::new(layout, runner, owner);
    with_git(runner, |git, _| work_tree::read(layout, git, &units))
}

/// Performs `work` with a git whose configuration is in a separate directory, which is removed afterwards.
pub(super) fn with_git<T>(runner: &Runner, work: impl FnOnce(&Git, &Layout) -> Outcome<T>) -> Outcome<T> {
    let name = RunId::new(clock::now(), std::process::id());
    let scratch = PathBuf::from(format!("/tmp/ladylinux-refresh-init-{name}"));
    disk::make_new_directory(&scratch, 0o755)?;
    let world = Layout::below(scratch);
    let done = Git::new(runner, &world).and_then(|git| work(&git, &world));
    let removed = disk::remove_tree(world.root());
    let done = done?;
    removed.map(|()| done)
}
