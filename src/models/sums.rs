//! Files of checksums beside weights: `SHA256SUMS` and its kin, in the form of GNU coreutils or of BSD.
//!
//! Source: the output of `sha256sum`, `sha256sum --tag`, `b3sum`. Lines that are neither, a path that leaves the folder and a
//! digest that is none are told with their numbers; the others count.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{AT_MOST, Algorithm, COMPLAINTS, Digest, is_inside};

/// How many bytes such a file may have.
pub const LIMIT: u64 = 64 << 20;

/// Which names such files have, and what their lines are where these do not say it.
const NAMES: [(&str, Algorithm); 3] =
    [("SHA256SUMS", Algorithm::Sha256), ("SHA512SUMS", Algorithm::Sha512), ("B3SUMS", Algorithm::Blake3)];

/// What a file of checksums says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Paths relative to its folder, and their digests.
    pub entries: Vec<(PathBuf, Digest)>,
    /// What cannot be used, by line; no more than some.
    pub complaints: Vec<String>,
    /// How many lines beyond these cannot be used.
    pub more: usize,
}

/// Returns the algorithm of a file of checksums by the file's name; `None` where it is no such file.
pub fn algorithm(name: &OsStr) -> Option<Algorithm> {
    NAMES.iter().find(|(known, _)| name == *known).map(|(_, algorithm)| *algorithm)
}

/// Reads the text of a file of checksums.
pub fn parse(bytes: &[u8], usual: Algorithm) -> Sums {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut sums = Sums::default();
    let mut said = 0;
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() || line.starts_with(b"#") {
            continue;
        }
        if said == AT_MOST {
            let why = format!(
                "line {}: it has more than {AT_MOST} lines; this and later ones do not count",
                index + 1
            );
            sums.complaints.push(why);
            break;
        }
        said += 1;
        match entry(line, usual) {
            Ok(entry) => sums.entries.push(entry),
            Err(why) if sums.complaints.len() < COMPLAINTS => {
                sums.complaints.push(format!("line {}: {why}", index + 1));
            }
            Err(_) => sums.more += 1,
        }
    }
    sums
}

fn entry(line: &[u8], usual: Algorithm) -> Result<(PathBuf, Digest), String> {
    let (escaped, line) = match line.strip_prefix(b"\\") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    // A name may look like a tag, but no tag like a digest.
    let (name, algorithm, hex) = match plain(line, usual) {
        Ok(parts) if is_digest(parts) => parts,
        plain => tagged(line).unwrap_or(plain)?,
    };
    let name = if escaped { unescape(name)? } else { name.to_vec() };
    let path = PathBuf::from(OsStr::from_bytes(&name));
    if !is_inside(&path) {
        return Err("its path leaves the folder".to_owned());
    }
    let digest = Digest::parse(algorithm, &String::from_utf8_lossy(hex))?;
    // `./weights.gguf` and `weights.gguf` are one file.
    Ok((path.components().filter(|part| *part != std::path::Component::CurDir).collect(), digest))
}

type Parts<'a> = (&'a [u8], Algorithm, &'a [u8]);

/// `<digits>  <name>`, or `<digits> *<name>`.
fn plain(line: &[u8], usual: Algorithm) -> Result<Parts<'_>, String> {
    let none = || "it is no digest and a name".to_owned();
    let end = line.iter().position(|byte| *byte == b' ').ok_or_else(none)?;
    let (hex, rest) = line.split_at(end);
    let name = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *")).ok_or_else(none)?;
    if name.is_empty() { Err(none()) } else { Ok((name, usual, hex)) }
}

/// `SHA256 (<name>) = <digits>`
fn tagged(line: &[u8]) -> Option<Result<Parts<'_>, String>> {
    let open = line.windows(2).position(|pair| pair == b" (")?;
    let word = std::str::from_utf8(&line[..open]).ok()?;
    if !word.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return None;
    }
    let rest = &line[open + 2..];
    let close = (0..rest.len()).rev().find(|at| rest[*at..].starts_with(b") = "))?;
    let (name, hex) = (&rest[..close], &rest[close + 4..]);
    Some(Algorithm::parse(word).map(|algorithm| (name, algorithm, hex)))
}

fn is_digest((_, algorithm, hex): Parts<'_>) -> bool {
    hex.len() == algorithm.digits() && hex.iter().all(u8::is_ascii_hexdigit)
}

fn unescape(name: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        plain.push(match (byte, if *byte == b'\\' { bytes.next() } else { None }) {
            (b'\\', Some(b'n')) => b'\n',
            (b'\\', Some(b'r')) => b'\r',
            (b'\\', Some(b'\\')) => b'\\',
            (b'\\', _) => return Err("its name has a backslash that escapes nothing".to_owned()),
            (other, _) => *other,
        });
    }
    Ok(plain)
}

/// Tells whether a path is the one of a file of checksums.
pub fn is_sums(path: &Path) -> bool {
    path.file_name().is_some_and(|name| algorithm(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn names(text: &str) -> Vec<String> {
        let sums = parse(text.as_bytes(), Algorithm::Sha256);
        assert_eq!(sums.complaints, Vec::<String>::new());
        assert!(sums.entries.iter().all(|(_, digest)| digest.hex == HEX));
        sums.entries.iter().map(|(path, _)| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn both_forms_and_their_ways_to_write_a_name_are_read() {
        let upper = HEX.to_uppercase();
        let text = format!(
            "# made by hand\n{HEX}  a.gguf\n{HEX} *b.gguf\r\n\n{upper}  ./with blank\nSHA256 (c (1).gguf) = {HEX}\n\\{HEX}  new\\nline\\\\\n"
        );
        assert_eq!(names(&text), ["a.gguf", "b.gguf", "with blank", "c (1).gguf", "new\nline\\"]);
    }

    #[test]
    fn rw_6_2b_a_name_that_looks_like_a_tag_is_a_name() {
        assert_eq!(
            names(&format!("{HEX}  a (x) = b\n{HEX} *SHA256 (c) = d\n")),
            ["a (x) = b", "SHA256 (c) = d"]
        );
    }

    #[test]
    fn a_tag_names_its_algorithm() {
        let text = format!("BLAKE3 (a) = {HEX}\nSHA512 (b) = {HEX}{HEX}\nMD5 (c) = abc\n");
        let sums = parse(text.as_bytes(), Algorithm::Sha256);
        let algorithms: Vec<_> = sums.entries.iter().map(|(_, digest)| digest.algorithm).collect();
        assert_eq!(algorithms, [Algorithm::Blake3, Algorithm::Sha512]);
        assert_eq!(sums.complaints.len(), 1);
        assert!(sums.complaints[0].starts_with("line 3: unknown algorithm \"MD5\""), "{:?}", sums.complaints);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_line_and_the_rest_counts() {
        let text = format!("{HEX}  ../out\n{HEX}  /etc/passwd\nabc  short\n{HEX}\nrubbish\n{HEX}  good\n");
        let sums = parse(text.as_bytes(), Algorithm::Sha256);
        assert_eq!(sums.entries.len(), 1);
        let lines: Vec<&str> = sums.complaints.iter().map(|said| &said[..7]).collect();
        assert_eq!(lines, ["line 1:", "line 2:", "line 3:", "line 4:", "line 5:"]);
    }

    #[test]
    fn a_file_of_rubbish_gives_some_complaints_and_the_number_of_the_others() {
        let sums = parse(&b"x\n".repeat(COMPLAINTS + 7), Algorithm::Sha256);
        assert_eq!((sums.complaints.len(), sums.more), (COMPLAINTS, 7));
        let sums = parse(&b"x\n".repeat(AT_MOST + 7), Algorithm::Sha256);
        assert_eq!((sums.complaints.len(), sums.more), (COMPLAINTS + 1, AT_MOST - COMPLAINTS));
        assert!(sums.complaints[COMPLAINTS].starts_with("line 200001: it has more than 200000 lines"));
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_a_name() {
        let line = [HEX.as_bytes(), b"  \xff\xfe.gguf\n"].concat();
        let sums = parse(&line, Algorithm::Sha256);
        assert_eq!(sums.entries[0].0.as_os_str().as_bytes(), b"\xff\xfe.gguf");
    }
}
