//! Checks that only root controls the files that root trusts: the host's file, the tool's state and store.
//!
//! A user who can change one of them, or exchange a directory on the way to one, decides what root does. So before root
//! uses them, it checks the path to each, from the outermost directory inwards. Once only root controls a directory, no
//! other user can exchange its entries, and the result of the check stays true. With `--root DIR` the way begins at
//! DIR.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refresh_system::disk;
use refresh_system::error::{Context as _, Outcome};
use refresh_system::text::{quoted, quoted_path};

use super::layout::Layout;
use super::own_state::{self, Untrusted, refuse_root};

/// Fails if the caller is root and users other than root control one of the paths. Other callers pass. The
/// application's own places do not count: root trusts nothing in them.
///
/// # Errors
/// The paths that not only root controls, each with its command.
pub fn check(layout: &Layout) -> Outcome<()> {
    refuse_root(|| loose(layout))?;
    own_state::check(layout)
}

/// Which of the two places of the host's settings counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostFiles {
    /// The file that counts, whether or not it exists.
    pub(crate) counts: PathBuf,
    /// The other one, if it exists.
    pub(crate) ignored: Option<Ignored>,
}

/// A file of settings that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// The file.
    pub path: PathBuf,
    /// Why it does not count.
    pub(crate) why: String,
}

impl std::fmt::Display for Ignored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} does not count: {}", self.path.display(), self.why)
    }
}

/// Finds out which file of settings counts. It is the one in `/etc/ladylinux` if only root can have written or
/// exchanged it; else the one beside that directory. Below a root directory of another user the first one counts.
///
/// # Errors
/// A part of the way cannot be read.
pub(crate) fn host_files(layout: &Layout) -> Outcome<HostFiles> {
    let [first, second] = layout.host_files();
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    let is_enforced = layout.is_real() || rustix::process::geteuid().is_root();
    let against = if is_enforced { on_the_way(layout.root(), &first)?.into_iter().next() } else { None };
    Ok(match against {
        Some(part) => HostFiles {
            ignored: is_there(&first).then_some(Ignored { path: first, why: part.what }),
            counts: second,
        },
        None if is_there(&second) && is_there(&first) => HostFiles {
            ignored: Some(Ignored { path: second, why: format!("{} does", first.display()) }),
            counts: first,
        },
        None if is_there(&second) => HostFiles { counts: second, ignored: None },
        None => HostFiles { counts: first, ignored: None },
    })
}

/// Returns the file of settings that exists and does not count.
pub fn ignored(layout: &Layout) -> Option<Ignored> {
    host_files(layout).ok().and_then(|files| files.ignored)
}

/// Reads the host's file; `None` if it does not exist. Root accepts it, or its absence, only if no other user controls
/// that.
///
/// # Errors
/// It cannot be read or cannot be trusted.
pub fn host_file(layout: &Layout) -> Outcome<Option<Vec<u8>>> {
    let path = layout.host_file();
    refuse_root(|| on_the_way(layout.root(), &path))?;
    disk::read_if_there(&path)
}

/// Returns the paths that users other than root control.
///
/// # Errors
/// A part of a path cannot be examined.
pub fn loose(layout: &Layout) -> Outcome<Vec<Untrusted>> {
    on_the_ways(layout.root(), &[layout.host_file(), layout.state(), layout.store()])
}

fn on_the_ways(root: &Path, paths: &[PathBuf]) -> Outcome<Vec<Untrusted>> {
    let mut found: Vec<Untrusted> = Vec::new();
    for path in paths {
        for part in on_the_way(root, path)? {
            if !found.contains(&part) {
                found.push(part);
            }
        }
    }
    Ok(found)
}

/// Checks every existing part of a path from `root` on. A link that root owns is followed, and its target is checked in
/// the same way.
fn on_the_way(root: &Path, path: &Path) -> Outcome<Vec<Untrusted>> {
    let mut parts: Vec<&Path> = path.ancestors().take_while(|part| part.starts_with(root)).collect();
    parts.reverse();
    let mut loose = Vec::new();
    for part in parts {
        let found = match part.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            found => found.context(|| format!("cannot read {}", part.display()))?,
        };
        let shown = part.display();
        let make_roots = format!("chown root {0} && chmod go-w {0}", quoted_path(part));
        if found.is_symlink() {
            match part.canonicalize() {
                Ok(target) if found.uid() == 0 => {
                    let from = if target.starts_with(root) { root } else { Path::new("/") };
                    loose.extend(on_the_way(from, &target)?);
                }
                target => {
                    let target = target.or_else(|_| part.read_link()).unwrap_or_default();
                    loose.push(Untrusted {
                        what: format!("{shown} is a symbolic link to {}", target.display()),
                        repair: without_link(part, &target),
                    });
                    break;
                }
            }
        } else if found.uid() != 0 {
            loose.push(Untrusted {
                what: format!("{shown} belongs to uid {}", found.uid()),
                repair: make_roots,
            });
        } else if found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0 {
            // In a directory with the sticky bit no other user can exchange root's entries.
            loose.push(Untrusted {
                what: format!("others than its owner can change {shown}"),
                repair: make_roots,
            });
        }
    }
    Ok(loose)
}

/// Returns the command that replaces a link by its target, and changes nothing in a directory.
fn without_link(link: &Path, target: &Path) -> String {
    let path = quoted_path(link);
    if target.is_dir() {
        // Mounted at every boot, since the fence may be there.
        let mount = quoted(&format!("{} {} none bind 0 0", target.display(), link.display()));
        format!("rm {path} && mkdir {path} && echo {mount} >>/etc/fstab && mount {path}")
    } else {
        format!("cp --remove-destination {} {path}", quoted_path(target))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out what is looked at")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    /// A user that owns nothing else.
    const OTHER: u32 = 61_876;

    /// Returns an installation that root owns; `None` if the tests are not run by root.
    fn world() -> Option<(tempfile::TempDir, Layout)> {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path().canonicalize().unwrap());
        for path in [layout.store(), layout.etc(), layout.state()] {
            disk::make_directory(&path, 0o755).unwrap();
        }
        fs::write(layout.host_file(), "").unwrap();
        rustix::process::geteuid().is_root().then_some((directory, layout))
    }

    #[test]
    fn rw_7_1a_root_trusts_nothing_that_others_can_change_or_replace() {
        let Some((_directory, layout)) = world() else { return };
        check(&layout).unwrap();
        let all = [
            layout.root().to_path_buf(),
            layout.root().join("var/lib"),
            layout.state(),
            layout.root().join("opt"),
            layout.store(),
            layout.etc(),
            layout.host_file(),
        ];
        for path in all {
            let mode = path.metadata().unwrap().permissions();
            chown(&path, Some(OTHER), None).unwrap();
            let shown = path.display();
            let found = loose(&layout).unwrap();
            assert_eq!(found.len(), 1, "{shown}");
            assert_eq!(found[0].what, format!("{shown} belongs to uid {OTHER}"));
            assert_eq!(found[0].repair, format!("chown root {shown} && chmod go-w {shown}"));
            assert!(check(&layout).is_err(), "{shown}");
            chown(&path, Some(0), None).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o775)).unwrap();
            assert_eq!(loose(&layout).unwrap().len(), 1, "{shown} can be written by its group");
            assert!(check(&layout).is_err(), "{shown}");
            fs::set_permissions(&path, mode).unwrap();
            assert_eq!(loose(&layout).unwrap(), []);
        }
    }

    #[test]
    fn settings_count_only_if_root_alone_can_have_written_or_replaced_them() {
        let Some((_directory, layout)) = world() else { return };
        let [first, second] = layout.host_files();
        let counts = |path: &Path| HostFiles { counts: path.to_path_buf(), ignored: None };
        let ignored = |counts: &Path, path: &Path, why: String| HostFiles {
            counts: counts.to_path_buf(),
            ignored: Some(Ignored { path: path.to_path_buf(), why }),
        };
        assert_eq!(host_files(&layout).unwrap(), counts(&first));
        // The directory or the file belongs to the service user: root's settings are beside the directory.
        for path in [layout.etc(), first.clone()] {
            chown(&path, Some(OTHER), None).unwrap();
            let why = format!("{} belongs to uid {OTHER}", path.display());
            assert_eq!(host_files(&layout).unwrap(), ignored(&second, &first, why));
            chown(&path, Some(0), None).unwrap();
        }
        fs::write(&second, "").unwrap();
        let why = format!("{} does", first.display());
        assert_eq!(host_files(&layout).unwrap(), ignored(&first, &second, why));
        fs::remove_file(&first).unwrap();
        assert_eq!(host_files(&layout).unwrap(), counts(&second));
        fs::remove_file(&second).unwrap();
        assert_eq!(host_files(&layout).unwrap(), counts(&first));
        chown(layout.etc(), Some(OTHER), None).unwrap();
        assert_eq!(host_files(&layout).unwrap(), counts(&second));
    }

    #[test]
    fn a_file_of_the_service_user_is_never_read_for_settings() {
        let Some((_directory, layout)) = world() else { return };
        let [first, second] = layout.host_files();
        fs::write(&first, "keep = 7\nstore = \"/srv/theirs\"\n").unwrap();
        fs::write(&second, "keep = 5\n").unwrap();
        chown(layout.etc(), Some(OTHER), None).unwrap();
        let located = crate::layers::Layers::located(layout.clone());
        assert_eq!((located.host_file(), located.store()), (second, layout.store()));
        assert_eq!(host_file(&located).unwrap().unwrap(), b"keep = 5\n");
        check(&located).unwrap();
    }

    #[test]
    fn the_directories_of_the_application_may_belong_to_any_user() {
        let Some((_directory, layout)) = world() else { return };
        for path in [layout.home(), layout.persistent()] {
            disk::make_directory(&path, 0o755).unwrap();
            chown(&path, Some(OTHER), None).unwrap();
        }
        check(&layout).unwrap();
        assert_eq!(loose(&layout).unwrap(), []);
    }

    #[test]
    fn rw_7_1a_only_links_of_root_are_followed_and_their_targets_count() {
        let Some((_directory, layout)) = world() else { return };
        for path in [layout.state(), layout.store(), layout.host_file()] {
            let away = layout.root().join("away");
            fs::rename(&path, &away).unwrap();
            symlink(&away, &path).unwrap();
            check(&layout).unwrap();
            chown(&away, Some(OTHER), None).unwrap();
            assert!(check(&layout).unwrap_err().summary().contains("away belongs to uid"));
            chown(&away, Some(0), None).unwrap();
            std::os::unix::fs::lchown(&path, Some(OTHER), None).unwrap();
            let failure = check(&layout).unwrap_err();
            assert!(failure.summary().contains("is a symbolic link to"), "{failure}");
            let kind = if away.is_dir() {
                "none bind 0 0' >>/etc/fstab && mount /"
            } else {
                "cp --remove-destination"
            };
            assert!(failure.hint_texts()[0].contains(kind), "{failure}");
            fs::remove_file(&path).unwrap();
            fs::rename(&away, &path).unwrap();
        }
        check(&layout).unwrap();
    }

    #[test]
    fn root_accepts_a_missing_host_file_only_if_no_other_user_could_have_removed_it() {
        let Some((_directory, layout)) = world() else { return };
        fs::remove_file(layout.host_file()).unwrap();
        assert_eq!(host_file(&layout).unwrap(), None);
        chown(layout.etc(), Some(OTHER), None).unwrap();
        assert!(host_file(&layout).unwrap_err().summary().contains("belongs to uid"));
        // Paths that do not lead to the file do not matter.
        chown(layout.etc(), Some(0), None).unwrap();
        chown(layout.state(), Some(OTHER), None).unwrap();
        assert_eq!(host_file(&layout).unwrap(), None);
    }
}
