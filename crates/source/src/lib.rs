//! The source tree: fetched into the mirror, prepared before the stop, and moved into `app/` after it.
//!
//! [`prepared_tree`] checks a commit out into a directory that no other user reaches, and [`proof`] verifies it there.
//! [`exchange`] swaps the entries of `app/` for it, [`align`] runs the normative git commands, which find nothing to
//! do, and [`carry`] moves preserved and git-ignored files across. After the restart [`compare`] finds the local
//! changes in the previous tree, and [`stash`] keeps or removes it. [`work_tree`] reads the state of `app/`. Code here
//! that runs in the conductor renames entries, changes owners and copies one index; it starts git and Python only
//! inside operations ([`answer`]).

pub(crate) mod align;
pub mod aligner;
pub mod carry;
pub mod compare;
mod differences;
pub mod exchange;
pub mod hook_outputs;
mod hook_record;
mod ignore_rules;
pub mod kept;
pub(crate) mod kept_beforehand;
pub mod kept_path;
pub mod local;
pub mod move_in;
pub mod operation_request;
pub mod own_objects;
mod own_repository;
pub(crate) mod paths;
pub mod prepared_tree;
pub mod proof;
mod repository_obstacles;
pub mod staged_assets;
pub mod stash;
pub(crate) mod stash_record;
pub mod stash_restore;
pub mod stash_show;
mod untracked;
pub mod work_tree;
mod writers;

use refresh_git::path::TreePath;
use refresh_programs::process::worker;
use refresh_system::clock::FileTime;

/// Performs an operation of this crate; returns `None` if `operation` is not one of them.
pub fn answer(operation: &str, request: &[u8]) -> Option<Vec<u8>> {
    Some(match operation {
        work_tree::OPERATION => worker::answer(request, |request| work_tree::handle(&request)),
        own_objects::OPERATION => worker::answer(request, |request| own_objects::handle(&request)),
        prepared_tree::OPERATION => worker::answer(request, |request| prepared_tree::handle(&request)),
        proof::OPERATION => worker::answer(request, |request| proof::handle(&request)),
        kept_beforehand::OPERATION => worker::answer(request, |request| kept_beforehand::handle(&request)),
        align::OPERATION => worker::answer(request, |request| align::handle(&request)),
        compare::OPERATION => worker::answer(request, |request| compare::handle(&request)),
        hook_outputs::OPERATION => worker::answer(request, |request| hook_outputs::handle(&request)),
        staged_assets::KEEP => worker::answer(request, |(tree, since): (TreePath, FileTime)| {
            staged_assets::keep_below(tree.as_path(), since)
        }),
        staged_assets::PLACE => worker::answer(request, |(products, tree): (TreePath, TreePath)| {
            staged_assets::place_below(products.as_path(), tree.as_path())
        }),
        stash_show::OPERATION => worker::answer(request, |request| stash_show::handle(&request)),
        stash_restore::OPERATION => worker::answer(request, |request| stash_restore::handle(&request)),
        _ => return None,
    })
}
