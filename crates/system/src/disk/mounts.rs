//! The mounts of a mount namespace, mostly that of this process, read from the kernel's table.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Context as _, Outcome};

/// A line of the kernel's table of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The file system: its device numbers, as text.
    pub device: String,
    /// The part of the file system that is mounted: `/` for all of it, a directory for a bind mount.
    pub part: PathBuf,
}

/// Returns all mounts, an upper one after those that it covers.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn all() -> Outcome<Vec<Mount>> {
    let table = fs::read("/proc/self/mountinfo").context(|| "cannot read the table of mounts".to_owned())?;
    Ok(parse(&table))
}

/// The largest table of another process that is read: any user can make a long one in a separate namespace.
const LARGEST_TABLE: u64 = 1 << 20;

/// Returns the mounts that another process sees; `None` if they cannot be read, or are too many.
pub fn of_process(pid: i32) -> Option<Vec<Mount>> {
    let path = format!("/proc/{pid}/mountinfo");
    super::read_at_most(Path::new(&path), LARGEST_TABLE).ok()?.map(|table| parse(&table))
}

/// Returns the mount points at or below `directory`.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn below(directory: &Path) -> Outcome<Vec<PathBuf>> {
    let real = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_path_buf());
    Ok(all()?.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(&real)).collect())
}

/// Returns the mount that a real path is on: the one with the longest mount point, and the uppermost of several at one
/// point.
pub fn of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let over = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    // If several are equal, the last one counts: it covers the others.
    over.max_by_key(|mount| mount.point.components().count())
}

/// Returns the place of a real path on disk, independent of its mount point: the file system and the path in it.
pub fn place_on_disk(mounts: &[Mount], path: &Path) -> Option<(String, PathBuf)> {
    let mount = of(mounts, path)?;
    Some((mount.device.clone(), mount.part.join(path.strip_prefix(&mount.point).ok()?)))
}

/// Reads the table of mounts. Source: proc(5).
fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            Some(Mount {
                device: String::from_utf8_lossy(words.get(2)?).into_owned(),
                part: unescaped(words.get(3)?),
                point: unescaped(words.get(4)?),
            })
        })
        .collect()
}

/// Reads a path of the table, in which spaces and similar characters are written in octal.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut parts = word.split(|byte| *byte == b'\\');
    let mut bytes = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let digits = part.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part[3..]);
            }
            // The kernel writes no other backslash.
            None => bytes.extend([b"\\", part].concat()),
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_spaces_are_read() {
        let table = b"36 35 98:0 /a /mnt\\040two rw - ext4 /dev/x rw\n1 2 0:1 / / rw - t t rw\n";
        let points: Vec<PathBuf> = parse(table).into_iter().map(|mount| mount.point).collect();
        assert_eq!(points, [PathBuf::from("/mnt two"), PathBuf::from("/")]);
    }

    #[test]
    fn a_bind_mount_is_recognized_by_its_place_on_disk() {
        let table = b"1 0 8:1 / / rw - ext4 d rw\n2 1 8:1 /srv/app/m /models rw - ext4 d rw\n3 1 0:9 / /x rw - tmpfs t rw\n4 1 0:8 / /x rw - tmpfs t rw\n";
        let mounts = parse(table);
        let place = |path: &str| place_on_disk(&mounts, Path::new(path)).unwrap();
        assert_eq!(place("/models/big"), ("8:1".to_owned(), PathBuf::from("/srv/app/m/big")));
        assert_eq!(place("/srv/app"), ("8:1".to_owned(), PathBuf::from("/srv/app")));
        assert_eq!(place("/x").0, "0:8");
    }
}
