//! The header of a GGUF file: whether it can be read within the file, and which part of a split model the file is.
//!
//! Source: the GGUF specification (`docs/gguf.md` of ggml), versions 2 and 3; `llama_split_path` of llama.cpp. The
//! header may be hostile: no number in it decides how much is allocated or how deep this recurses, and all of it is
//! read within [`HEADER_LIMIT`].

use std::io::{self, BufReader, ErrorKind, Read, Seek};
use std::path::Path;

use super::Finding;

/// How many bytes a header may have. Those of large vocabularies have about 20 MiB.
pub(crate) const HEADER_LIMIT: u64 = 64 << 20;

/// How many parts of a split model are searched for.
const MOST_PARTS: u32 = 1000;

/// One part of a split model, by its file name: `<prefix>-00001-of-00003.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    prefix: String,
    /// The number of this part, from 1.
    pub number: u32,
    /// How many parts there are.
    pub count: u32,
}

impl Part {
    /// Reads the file name of a part; returns `None` for another name.
    pub(crate) fn of_name(path: &Path) -> Option<Self> {
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
    pub(crate) fn name(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

/// Examines the header of the GGUF file at `path`, which has `length` bytes. The parts of a split model must have the
/// names that llama.cpp expects. A file without the ending `.gguf` needs no such name.
///
/// # Errors
/// The finding: the file is truncated, is not a GGUF file, contradicts itself or its name, or cannot be read.
pub(crate) fn check(file: impl Read + Seek, length: u64, path: &Path) -> Result<(), Finding> {
    let mut header = Header { file: BufReader::with_capacity(64 << 10, file), at: 0, length };
    let split = header.read().map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => Finding::Truncated { needs: header.at, found: length },
        ErrorKind::InvalidData => Finding::Inconsistent(error.to_string()),
        ErrorKind::Unsupported => Finding::Unsupported(error.to_string()),
        _ => Finding::Unreadable(error.to_string()),
    })?;
    let is_named = path.extension().is_some_and(|extension| extension == "gguf");
    let named = Part::of_name(path).map(|part| (part.number, part.count));
    let (number, count) = (u32::from(split.number) + 1, u32::from(split.count));
    if !is_named || count < 2 || named == Some((number, count)) {
        return Ok(());
    }
    Err(Finding::Inconsistent(format!("its header makes it part {number} of {count}, and its name does not")))
}

/// The keys `split.no` (from 0) and `split.count`.
#[derive(Debug, Default)]
struct Split {
    number: u16,
    count: u16,
}

struct Header<R> {
    file: BufReader<R>,
    at: u64,
    length: u64,
}

impl<R: Read + Seek> Header<R> {
    fn read(&mut self) -> io::Result<Split> {
        if &self.bytes::<4>()? != b"GGUF" {
            return Err(invalid("it is no GGUF file"));
        }
        let version = self.u32()?;
        if !matches!(version, 2 | 3) {
            // In another byte order the version is a large number.
            let why = format!("GGUF version {version:#x} is not supported");
            return Err(io::Error::new(ErrorKind::Unsupported, why));
        }
        let (tensors, pairs) = (self.u64()?, self.u64()?);
        let mut split = Split::default();
        for _ in 0..pairs {
            self.pair(&mut split)?;
        }
        let mut last_offset = 0;
        for _ in 0..tensors {
            last_offset = self.tensor()?.max(last_offset);
        }
        // The length of a tensor depends on its type. This checks only that the last one begins within the file.
        self.at = self.at.saturating_add(last_offset).saturating_add(u64::from(tensors > 0));
        if self.at > self.length { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(split) }
    }

    fn pair(&mut self, split: &mut Split) -> io::Result<()> {
        let length = self.u64()?;
        let key = match length {
            8 => self.bytes::<8>()?.to_vec(),
            11 => self.bytes::<11>()?.to_vec(),
            _ => self.skip(length).map(|()| Vec::new())?,
        };
        match (&key[..], self.u32()?) {
            (b"split.no", 2) => split.number = self.bytes().map(u16::from_le_bytes)?,
            (b"split.count", 2) => split.count = self.bytes().map(u16::from_le_bytes)?,
            (_, kind) => self.skip_value(kind)?,
        }
        Ok(())
    }

    fn skip_value(&mut self, kind: u32) -> io::Result<()> {
        let (kind, count) = if kind == 9 { (self.u32()?, self.u64()?) } else { (kind, 1) };
        if kind != 8 {
            // The specification does not use arrays in arrays.
            return self.skip(width(kind)?.saturating_mul(count));
        }
        // Each text has at least eight bytes, so the limit of the header ends this loop.
        for _ in 0..count {
            let length = self.u64()?;
            self.skip(length)?;
        }
        Ok(())
    }

    /// Returns the offset of the tensor's data.
    fn tensor(&mut self) -> io::Result<u64> {
        let name = self.u64()?;
        self.skip(name)?;
        let dimensions = self.u32()?;
        self.skip(u64::from(dimensions) * 8 + 4)?;
        self.u64()
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.advance(N as u64)?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.advance(bytes)?;
        self.file.seek_relative(i64::try_from(bytes).unwrap_or(i64::MAX))
    }

    /// Refuses to go beyond the limit of a header or the end of the file.
    fn advance(&mut self, bytes: u64) -> io::Result<()> {
        let end = self.at.saturating_add(bytes);
        if end > HEADER_LIMIT {
            return Err(invalid(format!("its GGUF header has more than {HEADER_LIMIT} bytes")));
        }
        self.at = end;
        if end > self.length { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.into())
}

/// Returns the width of a metadata value in bytes.
fn width(kind: u32) -> io::Result<u64> {
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
    fn a_part_has_the_name_that_its_header_gives() {
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
        assert!(matches!(checked(b"GGML and more", "a.gguf"), Err(Finding::Inconsistent(_))));
        assert_eq!(after_magic(&[&three, &zero, &zero]), Ok(()));
        for version in [1_u32.to_le_bytes(), [0, 0, 0, 3]] {
            assert!(matches!(after_magic(&[&version, &zero, &zero]), Err(Finding::Unsupported(_))));
        }
        let one = 1_u64.to_le_bytes();
        let nested = [9_u32.to_le_bytes().to_vec(), one.to_vec()].concat().repeat(1000);
        let array = [&three[..], &zero, &one, &text("k"), &9_u32.to_le_bytes(), &nested];
        // However many tensors or pairs a header claims, it ends with the file.
        for counts in [[&three[..], &huge, &zero], [&three[..], &zero, &huge]] {
            assert!(matches!(after_magic(&counts), Err(Finding::Truncated { .. })));
        }
        for refused in [after_magic(&[&three, &zero, &one, &huge, &[0; 16]]), after_magic(&array)] {
            assert!(matches!(refused, Err(Finding::Inconsistent(_))), "{refused:?}");
        }
    }
}
