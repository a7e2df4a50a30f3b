//! Manifests as text: one JSON value per line, the first of which tells the version.
//!
//! Paths are bytes, JSON is not: a byte that is not part of valid UTF-8 is written as `\xNN` and a backslash as `\\`,
//! so that every path comes back as it was.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Entry, Kind, Manifest, Rest};
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};

const SCHEMA: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    manifest: u32,
    rest: Option<Rest>,
    unreadable: Vec<String>,
}

/// Every other line.
#[derive(Serialize, Deserialize)]
struct Line {
    path: String,
    kind: String,
    mode: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    modified: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    touched: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    inode: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl Manifest {
    /// Writes the manifest to `path`, atomically and durably.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Outcome<()> {
        disk::write_atomic(path, &self.to_bytes(), 0o644)
    }

    /// Reads the manifest at `path`; `None` where there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn read(path: &Path) -> Outcome<Option<Self>> {
        disk::read_if_there(path)?
            .map(|bytes| Self::from_bytes(&bytes))
            .transpose()
            .context(|| format!("{} holds no manifest", path.display()))
    }

    /// Returns the manifest as text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = Head {
            manifest: SCHEMA,
            rest: self.rest.clone(),
            unreadable: self.unreadable.iter().map(|path| encode(path)).collect(),
        };
        let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
        bytes.push(b'\n');
        for entry in &self.entries {
            bytes.extend_from_slice(&line(entry));
        }
        bytes
    }

    /// Reads what [`Self::to_bytes`] made.
    ///
    /// # Errors
    /// The text is cut off, of another version, or something else altogether.
    pub fn from_bytes(bytes: &[u8]) -> Outcome<Self> {
        let context = || "a line is not part of a manifest".to_owned();
        let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let head: Head = serde_json::from_slice(lines.next().unwrap_or_default()).context(context)?;
        if head.manifest != SCHEMA {
            return Err(Failure::new(format!("manifests of version {} are unknown", head.manifest)));
        }
        let entries = lines
            .map(|line| serde_json::from_slice::<Line>(line).context(context).and_then(entry))
            .collect::<Outcome<_>>()?;
        let unreadable = head.unreadable.iter().map(|path| decode(path)).collect::<Outcome<_>>()?;
        Ok(Self { entries, rest: head.rest, unreadable })
    }
}

/// Writes one entry as one line.
pub(super) fn line(entry: &Entry) -> Vec<u8> {
    let (kind, target) = match &entry.kind {
        Kind::File => ("file", None),
        Kind::Folder => ("folder", None),
        Kind::Link(target) => ("link", Some(encode(target))),
        Kind::Other => ("other", None),
    };
    let line = Line {
        path: encode(&entry.path),
        kind: kind.to_owned(),
        mode: entry.mode,
        target,
        size: entry.size,
        modified: entry.modified,
        touched: entry.touched,
        inode: entry.inode,
        sha256: entry.digest.clone(),
    };
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn entry(line: Line) -> Outcome<Entry> {
    let kind = match (line.kind.as_str(), &line.target) {
        ("file", None) => Kind::File,
        ("folder", None) => Kind::Folder,
        ("link", Some(target)) => Kind::Link(decode(target)?),
        ("other", None) => Kind::Other,
        (kind, _) => return Err(Failure::new(format!("{kind:?} is no kind of entry"))),
    };
    let path = decode(&line.path)?;
    Ok(Entry {
        path,
        kind,
        mode: line.mode,
        size: line.size,
        modified: line.modified,
        touched: line.touched,
        inode: line.inode,
        digest: line.sha256,
    })
}

fn encode(path: &Path) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', r"\\"));
        for byte in chunk.invalid() {
            let _ = write!(text, r"\x{byte:02x}");
        }
    }
    text
}

fn decode(text: &str) -> Outcome<PathBuf> {
    let wrong = || Failure::new(format!("{text:?} is not a path as manifests write it"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        if let Some(after) = after.strip_prefix('\\') {
            bytes.push(b'\\');
            rest = after;
        } else {
            let digits = after.strip_prefix('x').and_then(|after| after.get(..2)).ok_or_else(wrong)?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
            rest = &after[3..];
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_comes_back_as_it_was() {
        for bytes in [&b"plain"[..], b"a\\xffb", b"\xff\xfe", b"new\nline", b"\\", "ä\u{fffd}".as_bytes()] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            assert_eq!(decode(&encode(&path)).unwrap(), path);
        }
        for wrong in [r"\", r"\x", r"\xz", r"\q", r"\xß"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let link = Entry {
            path: PathBuf::from(OsString::from_vec(b"l\xff".to_vec())),
            kind: Kind::Link("t".into()),
            mode: 0o777,
            size: 0,
            modified: 0,
            touched: 0,
            inode: 0,
            digest: None,
        };
        let file = Entry {
            path: "m".into(),
            kind: Kind::File,
            mode: 0o444,
            size: 3,
            modified: -5,
            touched: 7,
            inode: u64::MAX,
            digest: Some("ab".into()),
        };
        let manifest = Manifest {
            entries: vec![link, file],
            rest: Some(Rest { entries: 2, digest: "cd".into() }),
            unreadable: vec!["closed".into()],
        };
        assert_eq!(Manifest::from_bytes(&manifest.to_bytes()).unwrap(), manifest);
        assert!(Manifest::from_bytes(b"{\"manifest\":9,\"unreadable\":[]}\n").is_err());
        assert!(Manifest::from_bytes(b"").is_err());
    }
}
