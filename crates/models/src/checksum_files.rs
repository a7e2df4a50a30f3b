//! Files named `SHA256SUMS`, as `sha256sum` writes them, with and without `--tag`. The module reads nothing itself.
//!
//! A line of another form, a path that leaves the directory and a malformed digest are problems with their line number;
//! the other lines count. A name with a backslash or a line feed, which `sha256sum` escapes, is a problem too.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::{Expected, Format, Problems, Sha256Hex, is_inside};

/// How many bytes such a file may have.
pub(crate) const LIMIT: u64 = 16 << 20;

/// The name of such a file.
pub(crate) const NAME: &str = "SHA256SUMS";

/// The content of a checksum file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ChecksumFile {
    /// Paths relative to its directory, and their digests.
    pub entries: Vec<(PathBuf, Sha256Hex)>,
    /// The lines that cannot be used.
    pub problems: Problems,
}

impl ChecksumFile {
    /// Returns the expectations of the checksum file at `path`. Publishers of models list every file, and a machine
    /// needs only some.
    pub(crate) fn claims(self, path: &Path, from: &str) -> Vec<(PathBuf, Expected)> {
        let expected = |name: &Path, digest| Expected {
            digest: Some(digest),
            format: Format::of_name(name),
            ..Expected::optional(from)
        };
        let entries = self.entries.into_iter();
        entries.map(|(name, digest)| (path.with_file_name(&name), expected(&name, digest))).collect()
    }
}

/// Parses a checksum file.
pub(crate) fn parse(bytes: &[u8]) -> ChecksumFile {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut file = ChecksumFile::default();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() || line.starts_with(b"#") {
            continue;
        }
        match entry(line) {
            Ok(entry) => file.entries.push(entry),
            Err(why) => file.problems.push(|| format!("line {}: {why}", index + 1)),
        }
    }
    file
}

fn entry(line: &[u8]) -> Result<(PathBuf, Sha256Hex), String> {
    let (hex, name) = untagged(line).or_else(|| tagged(line)).ok_or("it is not a sha256 and a file name")?;
    let digest = Sha256Hex::parse(&String::from_utf8_lossy(hex))?;
    let path = PathBuf::from(OsStr::from_bytes(name));
    if !is_inside(&path) {
        return Err("its path leaves the directory".to_owned());
    }
    // `./weights.gguf` and `weights.gguf` are one file.
    Ok((path.components().filter(|part| *part != Component::CurDir).collect(), digest))
}

/// `<digits>  <name>`, or `<digits> *<name>`
fn untagged(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (hex, rest) = line.split_at(line.iter().position(|byte| *byte == b' ')?);
    let name = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *"))?;
    (!name.is_empty()).then_some((hex, name))
}

/// `SHA256 (<name>) = <digits>`
fn tagged(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = line.strip_prefix(b"SHA256 (")?;
    let close = rest.len().checked_sub(64 + 4)?;
    let (name, end) = rest.split_at(close);
    Some((end.strip_prefix(b") = ")?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn both_forms_and_every_spelling_of_a_name_are_read() {
        let upper = HEX.to_uppercase();
        let text = format!(
            "# note\n{HEX}  a.gguf\n{HEX} *b.gguf\r\n\n{upper}  ./with blank\nSHA256 (c (1).gguf) = {HEX}\n\
             {HEX}  a (x) = b\n"
        );
        let file = parse(&[text.as_bytes(), HEX.as_bytes(), b"  \xff\xfe.gguf\n"].concat());
        assert_eq!(file.problems, Problems::default());
        assert!(file.entries.iter().all(|(_, digest)| digest.as_str() == HEX));
        let names: Vec<&[u8]> = file.entries.iter().map(|(path, _)| path.as_os_str().as_bytes()).collect();
        let expected: [&[u8]; 6] =
            [b"a.gguf", b"b.gguf", b"with blank", b"c (1).gguf", b"a (x) = b", b"\xff\xfe.gguf"];
        assert_eq!(names, expected);
    }

    #[test]
    fn rw_6_2b_a_line_that_cannot_be_used_is_named_and_the_others_count() {
        let text = format!(
            "{HEX}  ../out\n{HEX}  /etc/passwd\nabc  short\n{HEX}\nrubbish\nMD5 (c) = abc\n\\{HEX}  a\\x\n{HEX}  good\n"
        );
        let file = parse(text.as_bytes());
        assert_eq!(file.entries.len(), 1);
        let lines: Vec<String> = file.problems.sentences().map(|problem| problem[..7].to_owned()).collect();
        let expected: Vec<String> = (1..8).map(|number| format!("line {number}:")).collect();
        assert_eq!(lines, expected);
    }
}
