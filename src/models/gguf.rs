//! The header of a GGUF file: whether it can be read within the file, and which part of a split model the file is.
//!
//! Source: the GGUF specification (`docs/gguf.md` of ggml), versions 2 and 3; `llama_split_path` of llama.cpp. The header
//! may be hostile: no number in it decides how much is allocated or how deep this recurses, and all of it is read within
//! [`HEADER_LIMIT`].

use std::io::{BufReader, ErrorKind, Read, Seek};
use std::path::Path;

use crate::process::interrupt;

use super::Finding;

/// How many bytes a header may have. Those of large vocabularies have about 20 MiB.
pub const HEADER_LIMIT: u64 = 256 << 20;

/// How many parts of a split model are looked for.
const MOST_PARTS: u32 = 1000;

/// The specification has no use for arrays in arrays at all.
const DEEPEST_ARRAY: u32 = 4;

/// One part of a split model, by its file name: `<prefix>-00001-of-00003.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    prefix: String,
    /// The number of this part, from 1.
    pub number: u32,
    /// How many parts there are.
    pub count: u32,
}

impl Part {
    /// Reads the file name of a part; returns `None` for another name.
    pub fn of_name(path: &Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| (text.len() == 5).then(|| text.parse::<u32>().ok())?;
        let (number, count) = (digits(number)?, digits(count)?);
        (1..=count.min(MOST_PARTS)).contains(&number).then(|| Self {
            prefix: prefix.to_owned(),
            number,
            count: count.min(MOST_PARTS),
        })
    }

    /// Returns the file name of another part of this model.
    pub fn name(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

/// Examines the header of the GGUF file at `path`, which has `length` bytes. A split model must be named as llama.cpp
/// looks for its parts; a file without the ending `.gguf` is looked for in another way.
///
/// # Errors
/// The finding: the file is truncated, is no GGUF file, contradicts itself or its name, or cannot be read.
pub fn check(file: impl Read + Seek, length: u64, path: &Path) -> Result<(), Finding> {
    let mut header = Header { file: BufReader::with_capacity(64 << 10, file), at: 0, length };
    let split = header.read()?;
    let is_named = path.extension().is_some_and(|extension| extension == "gguf");
    let named = Part::of_name(path).map(|part| (u64::from(part.number), u64::from(part.count)));
    if !is_named || split.count < 2 || named == Some((split.number + 1, split.count)) {
        return Ok(());
    }
    let (number, count) = (split.number + 1, split.count);
    Err(invalid(format!("its header makes it part {number} of {count}, and its name does not")))
}

fn invalid(why: impl Into<String>) -> Finding {
    Finding::Inconsistent(why.into())
}

/// The keys `split.no` (from 0) and `split.count`.
#[derive(Debug, Default)]
struct Split {
    number: u64,
    count: u64,
}

struct Header<R> {
    file: BufReader<R>,
    at: u64,
    length: u64,
}

impl<R: Read + Seek> Header<R> {
    fn read(&mut self) -> Result<Split, Finding> {
        let mut magic = [0; 4];
        let there = usize::try_from(self.length.min(4)).unwrap_or(4);
        self.fill(&mut magic[..there])?;
        if magic[..there] != b"GGUF"[..there] {
            return Err(invalid("it is no GGUF file"));
        }
        self.reserve(4 - there as u64)?;
        match self.u32()? {
            2 | 3 => {}
            version if version.swap_bytes() == 3 => {
                return Err(Finding::Unsupported("it is a GGUF file for big-endian machines".to_owned()));
            }
            version => {
                return Err(Finding::Unsupported(format!("GGUF version {version} is not supported")));
            }
        }
        let (tensors, pairs) = (self.u64()?, self.u64()?);
        // The shortest tensor has 24 bytes in the header, the shortest pair 13.
        for (what, count, shortest) in [("tensors", tensors, 24), ("metadata pairs", pairs, 13)] {
            if count.checked_mul(shortest).is_none_or(|bytes| bytes > HEADER_LIMIT) {
                return Err(invalid(format!("its GGUF header claims {count} {what}")));
            }
        }
        let mut split = Split::default();
        for _ in 0..pairs {
            self.pair(&mut split)?;
        }
        let mut last_offset = 0;
        for _ in 0..tensors {
            last_offset = self.tensor()?.max(last_offset);
        }
        // How long a tensor is depends on its type. Here it counts that the last one begins within the file.
        let needs = self.at.saturating_add(last_offset).saturating_add(u64::from(tensors > 0));
        if needs > self.length { Err(self.truncated(needs)) } else { Ok(split) }
    }

    fn pair(&mut self, split: &mut Split) -> Result<(), Finding> {
        let mut key = [0; 11];
        let length = self.u64()?;
        match usize::try_from(length) {
            Ok(short) if short <= key.len() => self.fill(&mut key[..short])?,
            _ => self.skip(length)?,
        }
        let kind = self.u32()?;
        match (&key[..usize::try_from(length).unwrap_or(0).min(key.len())], kind) {
            (b"split.no", 2) => split.number = self.u16()?,
            (b"split.count", 2) => split.count = self.u16()?,
            _ => self.skip_value(kind, 0)?,
        }
        Ok(())
    }

    fn skip_value(&mut self, kind: u32, depth: u32) -> Result<(), Finding> {
        let bytes = match kind {
            8 => self.u64()?,
            9 => return self.skip_array(depth),
            _ => width(kind)?,
        };
        self.skip(bytes)
    }

    fn skip_array(&mut self, depth: u32) -> Result<(), Finding> {
        if depth == DEEPEST_ARRAY {
            return Err(invalid("its GGUF header nests arrays too deep"));
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if !matches!(kind, 8 | 9) {
            return self.skip(width(kind)?.saturating_mul(count));
        }
        // Each element has eight bytes at least, so the limit of the header ends this.
        for _ in 0..count {
            self.skip_value(kind, depth + 1)?;
        }
        Ok(())
    }

    /// Returns the offset of the tensor's data.
    fn tensor(&mut self) -> Result<u64, Finding> {
        let name = self.u64()?;
        self.skip(name)?;
        let dimensions = self.u32()?;
        self.skip(u64::from(dimensions) * 8 + 4)?;
        self.u64()
    }

    fn u16(&mut self) -> Result<u64, Finding> {
        let mut bytes = [0; 2];
        self.fill(&mut bytes).map(|()| u64::from(u16::from_le_bytes(bytes)))
    }

    fn u32(&mut self) -> Result<u32, Finding> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, Finding> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes).map(|()| u64::from_le_bytes(bytes))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Finding> {
        self.reserve(bytes.len() as u64)?;
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Finding::Changing,
            _ => Finding::Unreadable(error.to_string()),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Finding> {
        self.reserve(bytes)?;
        let signed = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.file.seek_relative(signed).map_err(|error| Finding::Unreadable(error.to_string()))?;
        self.at += bytes;
        Ok(())
    }

    /// Refuses to go beyond the limit of a header or the end of the file.
    fn reserve(&self, bytes: u64) -> Result<(), Finding> {
        if self.at & 0xffff < 64 && interrupt::check().is_err() {
            return Err(Finding::Unreadable("interrupted".to_owned()));
        }
        match self.at.checked_add(bytes) {
            Some(end) if end > HEADER_LIMIT => {
                Err(invalid(format!("its GGUF header has more than {HEADER_LIMIT} bytes")))
            }
            Some(end) if end > self.length => Err(self.truncated(end)),
            Some(_) => Ok(()),
            None => Err(invalid("a length in its GGUF header is beyond any file")),
        }
    }

    fn truncated(&self, needs: u64) -> Finding {
        Finding::Truncated { needs, found: self.length }
    }
}

/// Returns the width of a metadata value in bytes.
fn width(kind: u32) -> Result<u64, Finding> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(invalid(format!("its GGUF header has metadata of the unknown type {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A model of one tensor, the part `number` (from 0) of `count`.
    fn model(number: u16, count: u16) -> Vec<u8> {
        let key =
            |name: &str, value: u16| [&text(name)[..], &2_u32.to_le_bytes(), &value.to_le_bytes()].concat();
        let words = [&text("words")[..], &9_u32.to_le_bytes(), &8_u32.to_le_bytes(), &2_u64.to_le_bytes()];
        let mut bytes =
            [&b"GGUF"[..], &3_u32.to_le_bytes(), &1_u64.to_le_bytes(), &3_u64.to_le_bytes()].concat();
        bytes.extend([words.concat(), text("<s>"), text("</s>")].concat());
        bytes.extend([key("split.no", number), key("split.count", count), text("w")].concat());
        bytes.extend([&1_u32.to_le_bytes()[..], &8_u64.to_le_bytes(), &0_u32.to_le_bytes()].concat());
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend([7; 32]);
        bytes
    }

    fn checked(bytes: &[u8], name: &str) -> Result<(), Finding> {
        check(Cursor::new(bytes), bytes.len() as u64, Path::new(name))
    }

    #[test]
    fn a_header_that_ends_early_is_truncated_wherever_it_is_cut() {
        let bytes = model(0, 0);
        assert_eq!(checked(&bytes, "a.gguf"), Ok(()));
        for end in 0..=bytes.len() - 32 {
            let cut = checked(&bytes[..end], "a.gguf");
            let found = end as u64;
            assert!(
                matches!(cut, Err(Finding::Truncated { needs, found: is }) if needs > found && is == found),
                "cut at {end}: {cut:?}"
            );
        }
    }

    #[test]
    fn a_part_has_the_name_that_its_header_says() {
        let bytes = model(1, 3);
        assert_eq!(checked(&bytes, "toy-00002-of-00003.gguf"), Ok(()));
        assert_eq!(checked(&bytes, "sha256-0123"), Ok(()));
        for other in ["toy.gguf", "toy-00001-of-00003.gguf", "toy-00002-of-00004.gguf"] {
            let refused = checked(&bytes, other);
            assert!(matches!(&refused, Err(Finding::Inconsistent(why)) if why.contains("part 2 of 3")));
        }
        let part = Part::of_name(Path::new("dir/toy-00002-of-00003.gguf")).unwrap();
        assert_eq!((part.number, part.count, part.name(1).as_str()), (2, 3, "toy-00001-of-00003.gguf"));
        for other in ["a-1-of-2.gguf", "a-00004-of-00003.gguf", "a-00000-of-00003.gguf", "a.gguf"] {
            assert_eq!(Part::of_name(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn other_formats_and_impossible_numbers_are_refused_before_anything_is_allocated() {
        let after_magic = |rest: &[&[u8]]| checked(&[b"GGUF", &rest.concat()[..]].concat(), "a.gguf");
        let (three, zero, huge) = (3_u32.to_le_bytes(), 0_u64.to_le_bytes(), (1_u64 << 60).to_le_bytes());
        assert_eq!(checked(b"GGML and more", "a.gguf"), Err(invalid("it is no GGUF file")));
        assert_eq!(after_magic(&[&three, &zero, &zero]), Ok(()));
        for version in [1_u32.to_le_bytes(), [0, 0, 0, 3]] {
            assert!(matches!(after_magic(&[&version, &zero, &zero]), Err(Finding::Unsupported(_))));
        }
        let one = 1_u64.to_le_bytes();
        let nested = [9_u32.to_le_bytes().to_vec(), one.to_vec()].concat().repeat(1000);
        let array = [&three[..], &zero, &one, &text("k"), &9_u32.to_le_bytes(), &nested];
        for refused in [
            after_magic(&[&three, &huge, &zero]),
            after_magic(&[&three, &zero, &huge]),
            after_magic(&[&three, &zero, &one, &huge, &[0; 16]]),
            after_magic(&array),
        ] {
            assert!(matches!(refused, Err(Finding::Inconsistent(_))), "{refused:?}");
        }
    }
}
