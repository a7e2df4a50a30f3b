//! Shows one saved change: its patch, its content, or what a saved folder holds.
//!
//! A saved place can be written by the owner of the tree, so it is read with the owner's rights, and no link in it is
//! followed.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Context as _, Failure, Outcome};

use super::path::TreePath;
use super::saved::{self, SavedIndex, SavedItem, SavedKind};

/// The worker's operation.
pub const OPERATION: &str = "git-show";

/// How many bytes one answer carries at most.
const PART: usize = 4 << 20;

/// What a worker is asked to show.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The saved place.
    pub saved: TreePath,
    /// A path in the work tree.
    pub path: TreePath,
    /// How many bytes of it were shown before.
    pub offset: u64,
}

/// What was saved at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// The next bytes of a patch or of a file; none at its end.
    Bytes(Vec<u8>),
    /// What lies in a folder, by name; folders end with a slash.
    Folder(Vec<TreePath>),
    /// A symbolic link to this.
    Link(TreePath),
    /// It had been deleted.
    Deleted,
    /// It is described and does not lie here: a preserved file that was put back, or a save that was cut short.
    Absent,
    /// A pipe, a socket or a device.
    Special,
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// Nothing is saved at that path, or it cannot be read.
pub fn handle(request: &Request) -> Outcome<Shown> {
    let (place, path) = (request.saved.as_path(), request.path.as_path());
    let index = saved::read(place)?.ok_or_else(|| saved::nothing_under(place))?;
    let nothing = || {
        Failure::new(format!("run {} saved nothing at {}", index.run, path.display()))
            .hint(format!("ladylinux-refresh drift show {}", index.run))
    };
    if path.as_os_str().is_empty() || path.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(nothing());
    }
    let Some(item) = index.items.iter().find(|item| path.starts_with(item.path.as_path())) else {
        return listed(&index, path).ok_or_else(nothing);
    };
    if item.kind == SavedKind::Deleted {
        return if item.path.as_path() == path { Ok(Shown::Deleted) } else { Err(nothing()) };
    }
    if let Some(patch) = patch_of(place, item, path)? {
        let from = usize::try_from(request.offset).unwrap_or(usize::MAX).min(patch.len());
        let part = patch[from..].iter().copied().take(PART);
        return Ok(Shown::Bytes(part.collect()));
    }
    let Some(stored) = item.stored.as_ref() else { return Ok(Shown::Absent) };
    let inside = path.strip_prefix(item.path.as_path()).unwrap_or(Path::new(""));
    // Joined only where there is something to join: a slash at the end would follow a link.
    let stored = stored.as_path().components().chain(inside.components()).collect::<PathBuf>();
    match content(index.vault.as_path(), &stored, request.offset)? {
        None if inside.as_os_str().is_empty() => Ok(Shown::Absent),
        None => Err(nothing()),
        Some(shown) => Ok(shown),
    }
}

/// The saved items below a folder that was not saved as one.
fn listed(index: &SavedIndex, folder: &Path) -> Option<Shown> {
    let below = index.items.iter().map(|item| item.path.as_path()).filter(|path| path.starts_with(folder));
    let mut names: Vec<TreePath> = below.map(TreePath::from).collect();
    names.sort();
    (!names.is_empty()).then_some(Shown::Folder(names))
}

/// The saved patch of a tracked file, where there is one.
fn patch_of(place: &Path, item: &SavedItem, path: &Path) -> Outcome<Option<Vec<u8>>> {
    let tracked = matches!(item.kind, SavedKind::Modified | SavedKind::Mode | SavedKind::Preserved);
    let file = place.join("worktree.patch");
    if !tracked || item.path.as_path() != path || !fs::symlink_metadata(&file).is_ok_and(|it| it.is_file()) {
        return Ok(None);
    }
    let found = part_of_patch(&disk::read_if_there(&file)?.unwrap_or_default(), path);
    Ok((!found.is_empty()).then_some(found))
}

/// Reads what lies at `stored` in the vault; `None` where nothing does.
fn content(vault: &Path, stored: &Path, offset: u64) -> Outcome<Option<Shown>> {
    let mut file = vault.to_path_buf();
    let mut parts = stored.components().peekable();
    while let Some(part) = parts.next() {
        file.push(part);
        let told = || format!("cannot look at {}", file.display());
        let found = match fs::symlink_metadata(&file) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::new(told()).because(error)),
        };
        if parts.peek().is_some() {
            if !found.is_dir() {
                return Ok(None);
            }
        } else if found.is_symlink() {
            return Ok(Some(Shown::Link(fs::read_link(&file).context(told)?.into())));
        } else if found.is_dir() {
            return folder(&file).map(Some);
        } else if !found.is_file() {
            return Ok(Some(Shown::Special));
        }
    }
    let told = || format!("cannot read {}", file.display());
    // Should it have become a link or a pipe meanwhile, it is neither followed nor waited for.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let mut open = OpenOptions::new().read(true).custom_flags(flags).open(&file).context(told)?;
    open.seek(SeekFrom::Start(offset)).context(told)?;
    let mut bytes = Vec::new();
    open.take(PART as u64).read_to_end(&mut bytes).context(told)?;
    Ok(Some(Shown::Bytes(bytes)))
}

fn folder(folder: &Path) -> Outcome<Shown> {
    let told = || format!("cannot read {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).context(told)? {
        let entry = entry.context(told)?;
        let mut name = entry.file_name();
        if entry.file_type().context(told)?.is_dir() {
            name.push("/");
        }
        names.push(TreePath::from(PathBuf::from(name)));
    }
    names.sort();
    Ok(Shown::Folder(names))
}

/// Takes what concerns `path` out of a patch of many files; there are two parts where a file became a link.
fn part_of_patch(whole: &[u8], path: &Path) -> Vec<u8> {
    let (old, new) = (quoted("a/", path), quoted("b/", path));
    let head = [b"diff --git ", old.as_slice(), b" ", new.as_slice(), b"\n"].concat();
    let mut wanted = false;
    let mut found = Vec::new();
    for line in whole.split_inclusive(|byte| *byte == b'\n') {
        // No line of a change begins so: each has a sign before its text.
        if line.starts_with(b"diff --git ") {
            wanted = line == head;
        }
        if wanted {
            found.extend_from_slice(line);
        }
    }
    found
}

/// A name as the head of a patch spells it: in quotes where it holds anything unusual.
fn quoted(prefix: &str, path: &Path) -> Vec<u8> {
    let bytes = [prefix.as_bytes(), path.as_os_str().as_bytes()].concat();
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        return bytes;
    }
    let mut text = vec![b'"'];
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend([b'\\', byte]),
            b' '..=b'~' => text.push(byte),
            0x07..=0x0d => text.extend([b'\\', b"abtnvfr"[usize::from(byte - 7)]]),
            _ => text.extend(format!("\\{byte:03o}").bytes()),
        }
    }
    text.push(b'"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_taken_apart_by_file() {
        let part = |name: &str, text: &str| format!("diff --git {name}\n@@ -1 +1 @@\n{text}\n");
        let plain = part("a/x b/x", "-diff --git a/y b/y");
        let odd = part(r#""a/\303\244\n\"" "b/\303\244\n\"""#, "+2");
        let patch = [plain.clone(), odd.clone(), part("a/z b/z", "+3"), plain.clone()].concat();
        assert_eq!(
            part_of_patch(patch.as_bytes(), Path::new("x")),
            [plain.clone(), plain].concat().as_bytes()
        );
        assert_eq!(part_of_patch(patch.as_bytes(), Path::new("ä\n\"")), odd.as_bytes());
        assert_eq!(part_of_patch(patch.as_bytes(), Path::new("y")), b"");
    }
}
