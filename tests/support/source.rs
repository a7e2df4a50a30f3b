//! The source part of a refresh, on a world of `git.rs`: prepare, move in, compare the previous tree.
#![expect(clippy::disallowed_methods, reason = "tests create the input of the program")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use refresh_events::event::Events;
use refresh_installation::installation::Installation;
use refresh_programs::process::Runner;
use refresh_settings::layers::{Layers, Overrides};
use refresh_source::aligner::Aligner;
use refresh_source::compare;
use refresh_source::local::LocalChanges;
use refresh_source::move_in;
use refresh_source::prepared_tree;
use refresh_source::stash;
use refresh_source::stash::StashRecord;
use refresh_system::disk::Owner;

use crate::git::{World, branch, message, run};

pub fn installation(world: &World) -> Installation {
    let settings = format!(
        "preserve = {:?}\n[remote]\nurl = \"file://{}\"\nallow = [\"file\"]\n",
        world.preserve,
        world.upstream().display()
    );
    let layers = Layers::of_text(&world.layout, &settings, Overrides::default()).unwrap();
    let worker = PathBuf::from(env!("CARGO_BIN_EXE_ladylinux-refresh"));
    Installation::open(layers, Runner::new(Arc::new(Events::silent())).with_worker(worker)).unwrap()
}

/// A world whose `app/` equals the remote, deployed for `owner`.
pub fn deployed(owner: Owner, files: &[(&str, &str)]) -> World {
    let mut world = World::owned_by(owner);
    world.commit(files);
    let on = installation(&world);
    let commit = on.mirror.ensure(&run("init"), &branch("main")).unwrap();
    prepared_tree::deploy_first(&on, &run("init"), &branch("main"), &commit)
        .unwrap_or_else(|failure| panic!("{}", message(&failure)));
    world.deployed = vec![commit];
    world
}

/// Refreshes the tree as a run does. Returns the part that the stash keeps of it.
#[track_caller]
pub fn refresh(world: &mut World, id: &str) -> Vec<StashRecord> {
    refresh_to(world, id, "main")
}

/// Like [`refresh`], to another branch. Afterwards `app/` is on that branch.
#[track_caller]
pub fn refresh_to(world: &mut World, id: &str, name: &str) -> Vec<StashRecord> {
    let (on, id, name) = (installation(world), run(id), branch(name));
    let commit = on.mirror.ensure(&id, &name).unwrap();
    prepared_tree::prepare(&on, &id, &name, &commit, None)
        .unwrap_or_else(|failure| panic!("{}", message(&failure)));
    fs::create_dir_all(on.layout.run(&id)).unwrap();
    let aligner = Aligner::start(&on).unwrap();
    move_in::move_in(&on, &id, &commit, &world.deployed, aligner)
        .unwrap_or_else(|failure| panic!("{}", message(&failure)));
    let (kept, failures) = stash::settle(&on, &world.deployed).unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(world.app_git(&["rev-parse", "HEAD"]), commit.as_str());
    assert_eq!(world.app_git(&["symbolic-ref", "--short", "HEAD"]), name.as_str());
    world.deployed = vec![commit];
    kept
}

/// The part of the current tree that a refresh would keep.
pub fn local(world: &World) -> LocalChanges {
    compare::app(&installation(world), &world.deployed, None)
}

/// The changes with their kinds, and a star at preserved ones.
pub fn listed(changes: &LocalChanges) -> Vec<String> {
    let items = changes.items.iter();
    items
        .map(|item| format!("{} {}{}", item.kind, item.path, if item.preserved { "*" } else { "" }))
        .collect()
}

pub fn kept_tree(world: &World, id: &str) -> PathBuf {
    world.layout.stash(&run(id))
}
