//! The next tree is prepared beside the running one, verified, and moved in by renames (RW-5.2).
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests lay out files and start programs")]

mod checkout;
mod moving_in;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::git::{World, branch, message, run};
use refresh_events::event::Events;
use refresh_installation::installation::Installation;
use refresh_programs::process::Runner;
use refresh_settings::layers::{Layers, Overrides};
use refresh_settings::names::{CommitId, RunId};
use refresh_source::aligner::Aligner;
use refresh_source::carry::Carried;
use refresh_source::move_in;
use refresh_source::prepared_tree;
use refresh_source::prepared_tree::PreparedTree;
use refresh_system::disk::Owner;
use refresh_system::error::Outcome;

/// Another user, if the test may become one.
fn service_user() -> Owner {
    if rustix::process::geteuid().is_root() { Owner { uid: 61_874, gid: 61_874 } } else { Owner::own() }
}

/// The installation of a world, with more settings of the host.
fn installation(world: &World, settings: &str) -> Installation {
    let remote = format!(
        "{settings}\n[remote]\nurl = \"file://{}\"\nallow = [\"file\"]\n",
        world.upstream().display()
    );
    let layers = Layers::of_text(&world.layout, &remote, Overrides::default()).unwrap();
    let worker = PathBuf::from(env!("CARGO_BIN_EXE_ladylinux-refresh"));
    Installation::open(layers, Runner::new(Arc::new(Events::silent())).with_worker(worker)).unwrap()
}

/// Fetches and prepares what a branch has.
fn prepare(on: &Installation, id: &RunId, name: &str) -> Outcome<PreparedTree> {
    let commit = on.mirror.ensure(id, &branch(name))?;
    on.mirror.check_supported(&commit)?;
    prepared_tree::prepare(on, id, &branch(name), &commit, Some(&python()))
}

/// The result of moving a tree in.
struct Moved {
    carried: Carried,
    /// Returns the number of files of the prepared tree that have another inode, time or size in `app/`.
    rewritten: usize,
}

/// Fetches, prepares and moves in; afterwards `app/` must be a clean checkout.
#[track_caller]
fn deploy(world: &World, on: &Installation, id: &str, known: &[CommitId]) -> (CommitId, Moved) {
    let id = run(id);
    let tree = prepare(on, &id, "main").unwrap_or_else(|failure| panic!("{}", message(&failure)));
    fs::create_dir_all(on.layout.run(&id)).unwrap();
    let prepared = stamps(&on.layout.tree(&id));
    let mut aligner = Aligner::start(on).unwrap();
    aligner.list_beforehand(on, &tree.commit, known);
    let carried = move_in::move_in(on, &id, &tree.commit, known, aligner)
        .unwrap_or_else(|failure| panic!("{}", message(&failure)));
    assert_eq!(world.app_git(&["rev-parse", "HEAD"]), tree.commit.as_str());
    assert!(!on.layout.tree(&id).exists(), "the prepared tree is left");
    let now = stamps(&world.app());
    let rewritten = prepared.iter().filter(|(path, stamp)| now.get(*path) != Some(stamp)).count();
    (tree.commit, Moved { carried, rewritten })
}

fn previous(on: &Installation, id: &str) -> PathBuf {
    on.layout.previous_tree(&run(id))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn python() -> PathBuf {
    PathBuf::from("/usr/bin/python3")
}

/// The inode, time and size of every file below a directory, without its repository.
fn stamps(top: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, u64)> {
    let mut stamps = BTreeMap::new();
    let mut directories = vec![top.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let (path, found) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            if !found.is_dir() {
                let stamp = (found.ino(), found.mtime(), found.mtime_nsec(), found.size());
                stamps.insert(path.strip_prefix(top).unwrap().to_path_buf(), stamp);
            } else if !path.ends_with(".git") {
                directories.push(path);
            }
        }
    }
    stamps
}
