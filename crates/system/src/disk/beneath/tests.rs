//! Tests of access below a directory.

use std::os::unix::fs::MetadataExt as _;

use crate::disk;

use super::*;

const OTHER: Owner = Owner { uid: 61_874, gid: 61_875 };

/// Returns whether files can be given to other users here. If not, a line past the test runner names the tests left
/// out.
fn as_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"LEFT OUT: needs root\n");
    }
    root
}

#[test]
fn a_tree_changes_its_owner_and_the_targets_of_its_links_do_not() {
    if !as_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("top");
    disk::make_directory(&top.join("a/b"), 0o755).unwrap();
    disk::write_atomic(&place.path().join("kept"), b"x", 0o600).unwrap();
    disk::point_link(&top.join("a/link"), &place.path().join("kept")).unwrap();
    disk::point_link(&top.join("out"), place.path()).unwrap();
    disk::set_mode(&top.join("a"), 0o555).unwrap();
    give_all(&top, OTHER).unwrap();
    for path in ["", "a", "a/b", "a/link", "out"] {
        assert_eq!(Owner::of(&top.join(path)).unwrap(), OTHER, "{path}");
    }
    assert_eq!(top.join("a").metadata().unwrap().mode() & 0o7777, 0o555);
    for path in ["kept", ""] {
        assert_eq!(Owner::of(&place.path().join(path)).unwrap().uid, 0, "a link was followed");
    }
}

#[test]
fn a_tree_of_any_depth_modes_and_links_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let outside = place.path().join("outside");
    disk::make_directory(&outside.join("kept"), 0o755).unwrap();
    let mut deep = place.path().join("parent/tree");
    for _ in 0..350 {
        deep.push("d");
    }
    disk::make_directory(&deep, 0o755).unwrap();
    disk::write_unsynced(&deep.join("file"), b"x", 0o600).unwrap();
    disk::point_link(&place.path().join("parent/tree/link"), &outside).unwrap();
    disk::make_directory(&place.path().join("parent/tree/closed/in"), 0o755).unwrap();
    disk::set_mode(&place.path().join("parent/tree/closed"), 0o500).unwrap();
    let parent = Directory::open(place.path(), Path::new("parent")).unwrap();
    parent.remove(OsStr::new("tree")).unwrap();
    assert_eq!(parent.entries().unwrap(), []);
    assert!(outside.join("kept").exists(), "a link was followed");
    parent.remove(OsStr::new("tree")).unwrap();
}

#[test]
fn a_link_on_the_way_to_a_file_is_never_followed() {
    let temporary = tempfile::tempdir().unwrap();
    let top = temporary.path().canonicalize().unwrap();
    disk::make_directory(&top.join("dir"), 0o755).unwrap();
    disk::write_atomic(&top.join("dir/file"), b"x", 0o600).unwrap();
    disk::point_link(&top.join("way"), &top.join("dir")).unwrap();
    disk::point_link(&top.join("dir/link"), &top.join("dir/file")).unwrap();
    assert!(open_without_links(&top.join("dir/file")).is_ok());
    for refused in ["way/file", "dir/link", "dir", "dir/none"] {
        assert!(open_without_links(&top.join(refused)).is_err(), "{refused}");
    }
    assert!(open_without_links(Path::new("relative")).is_err());
}

#[test]
fn a_file_with_a_second_name_is_refused() {
    if !as_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("top");
    disk::make_directory(&top, 0o755).unwrap();
    disk::write_atomic(&place.path().join("one"), b"x", 0o600).unwrap();
    std::fs::hard_link(place.path().join("one"), top.join("two")).unwrap();
    let failure = give_all(&top, OTHER).unwrap_err();
    assert!(failure.chain().join(": ").contains("second name (hard link)"));
    assert_eq!(Owner::of(&place.path().join("one")).unwrap().uid, 0);
}

#[test]
fn a_move_to_another_file_system_is_refused_with_the_command_that_copies() {
    let here = tempfile::tempdir().unwrap();
    let there = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
    if here.path().metadata().unwrap().dev() == there.path().metadata().unwrap().dev() {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"LEFT OUT: needs two file systems\n");
        return;
    }
    disk::make_directory(&here.path().join("a"), 0o755).unwrap();
    disk::make_directory(&there.path().join("full/x"), 0o755).unwrap();
    let [from, to] = [&here, &there].map(|it| Directory::open(it.path(), Path::new("")).unwrap());
    let failure = from.move_new(OsStr::new("a"), &to, OsStr::new("b")).unwrap_err();
    let hint = failure.hint_texts().remove(0);
    assert!(hint.contains("mv -T ") && hint.contains("/a ") && hint.contains("/b"), "{hint}");
    assert!(from.has_border(OsStr::new("a"), &to, OsStr::new("full")));
    assert!(!to.has_border(OsStr::new("full"), &to.enter(Path::new("full")).unwrap(), OsStr::new("x")));
    assert!(here.path().join("a").is_dir(), "nothing moves");
}
