//! Paths that survive JSON: any bytes that a file name can contain, as text.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Outcome};

/// A path that is written to JSON without loss: bytes that are not UTF-8, control characters and the percent sign
/// become `%XX`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreePath(PathBuf);

impl TreePath {
    /// Returns the path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Returns the path as one line of text from which it can be read back.
    pub fn encoded(&self) -> String {
        let mut text = String::new();
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            for letter in chunk.valid().chars() {
                if letter == '%' || letter.is_control() {
                    let mut buffer = [0; 4];
                    letter.encode_utf8(&mut buffer).bytes().for_each(|byte| push_byte(&mut text, byte));
                } else {
                    text.push(letter);
                }
            }
            chunk.invalid().iter().for_each(|byte| push_byte(&mut text, *byte));
        }
        text
    }

    /// Reads a path that [`TreePath::encoded`] wrote.
    ///
    /// # Errors
    /// A percent sign is not followed by two hexadecimal digits.
    pub(crate) fn decode(text: &str) -> Outcome<Self> {
        let wrong = || Failure::new(format!("{text:?} is not an encoded path"));
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let (digits, plain) = part.split_at_checked(2).ok_or_else(wrong)?;
            bytes.extend(hex::decode(digits).map_err(|_| wrong())?);
            bytes.extend_from_slice(plain.as_bytes());
        }
        Ok(Self(PathBuf::from(OsString::from_vec(bytes))))
    }
}

fn push_byte(text: &mut String, byte: u8) {
    use fmt::Write as _;
    let _ = write!(text, "%{byte:02X}");
}

/// How a plain path is written to JSON: as a [`TreePath`] is.
pub mod plain {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::TreePath;

    /// Writes a path as its encoded text.
    ///
    /// # Errors
    /// The serializer fails.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        TreePath::from(path).serialize(serializer)
    }

    /// Reads a path from its encoded text.
    ///
    /// # Errors
    /// The text is not an encoded path.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        TreePath::deserialize(deserializer).map(|path| path.as_path().to_path_buf())
    }
}

impl From<PathBuf> for TreePath {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl From<&Path> for TreePath {
    fn from(path: &Path) -> Self {
        Self(path.to_path_buf())
    }
}

impl TryFrom<String> for TreePath {
    type Error = Failure;
    fn try_from(text: String) -> Outcome<Self> {
        Self::decode(&text)
    }
}

impl From<TreePath> for String {
    fn from(path: TreePath) -> Self {
        path.encoded()
    }
}

impl AsRef<Path> for TreePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encoded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_survives_json() {
        for bytes in [&b"plain/name"[..], b"100%", b"\xff\xfe/x", b"new\nline", "ä€".as_bytes(), b"%41"] {
            let path = TreePath(PathBuf::from(OsString::from_vec(bytes.to_vec())));
            let json = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<TreePath>(&json).unwrap(), path, "{json}");
        }
        assert!(TreePath::decode("%4").is_err());
    }
}
