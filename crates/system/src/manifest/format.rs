//! Manifests as text: one JSON value per line, the first of which names the version. Paths are written as
//! [`TreePath`]s, which loses nothing.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::disk::encoded_path::TreePath;
use crate::error::{Context as _, Failure, Outcome};

use super::{Entry, Manifest, Rest};

const SCHEMA: u32 = 1;

/// The first line; every other one is an [`Entry`].
#[derive(Serialize, Deserialize)]
struct Head {
    manifest: u32,
    rest: Option<Rest>,
    unreadable: Vec<TreePath>,
}

impl Manifest {
    /// Reads the manifest at `path`; `None` if the file does not exist.
    ///
    /// # Errors
    /// The file cannot be read, or is not a manifest.
    pub fn read(path: &Path) -> Outcome<Option<Self>> {
        disk::read_if_there(path)?
            .map(|bytes| Self::from_bytes(&bytes))
            .transpose()
            .context(|| format!("{} is not a manifest", path.display()))
    }

    /// Returns the manifest as text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let unreadable = self.unreadable.iter().map(|path| path.as_path().into()).collect();
        let head = Head { manifest: SCHEMA, rest: self.rest.clone(), unreadable };
        let mut bytes = line(&head);
        self.entries.iter().for_each(|entry| bytes.extend(line(entry)));
        bytes
    }

    /// Reads the text that [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// The text is cut off, of another version, or not a manifest.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Outcome<Self> {
        let context = || "a line is not part of a manifest".to_owned();
        let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let head: Head = serde_json::from_slice(lines.next().unwrap_or_default()).context(context)?;
        if head.manifest != SCHEMA {
            return Err(Failure::new(format!("manifests of version {} are unknown", head.manifest)));
        }
        let entries = lines.map(|line| serde_json::from_slice::<Entry>(line).context(context));
        let unreadable = head.unreadable.iter().map(|path| path.as_path().to_path_buf()).collect();
        Ok(Self { entries: entries.collect::<Outcome<_>>()?, rest: head.rest, unreadable })
    }
}

/// Writes one value as one line.
pub(super) fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    use std::path::PathBuf;

    use super::super::Kind;
    use super::*;

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
