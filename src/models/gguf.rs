//! The header of a GGUF file: how long the file has to be at least to hold all of its tensors.
//!
//! Source: the GGUF specification (`docs/gguf.md` of ggml), versions 2 and 3. Whoever wrote the file may have meant harm or
//! may have been cut short, so no number in it decides how much is allocated, how deep is recursed or how long is read: all
//! of it happens within [`HEADER_LIMIT`].

use std::io::{BufReader, ErrorKind, Read, Seek};

use crate::process::interrupt;

/// How long a header may be. Those of large vocabularies have about 20 MiB.
pub const HEADER_LIMIT: u64 = 256 << 20;

const MAGIC: [u8; 4] = *b"GGUF";
const USUAL_ALIGNMENT: u64 = 32;
const ALIGNMENT_KEY: &[u8] = b"general.alignment";
/// `GGML_MAX_DIMS`
const DIMENSIONS: u32 = 4;
/// The specification has no use for arrays in arrays at all.
const NESTING: u32 = 4;

/// What a header tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The file is long enough.
    Fits {
        /// How many bytes the header and all tensors need.
        needs: u64,
    },
    /// The file ends too early.
    TooShort {
        /// How many bytes are needed, at least.
        needs: u64,
    },
    /// The file does not begin as a GGUF file does.
    NotGguf,
    /// A kind of GGUF that is not known here.
    Unsupported(String),
    /// The header contradicts itself.
    Broken(String),
    /// The file cannot be read.
    Unreadable(String),
    /// Whoever waits for this asked for a halt.
    Interrupted,
}

/// Reads the header of a file that has `length` bytes.
pub fn examine(file: impl Read + Seek, length: u64) -> Told {
    let mut header = Header { file: BufReader::with_capacity(64 << 10, file), at: 0, length };
    match header.read() {
        Ok(needs) if needs <= length => Told::Fits { needs },
        Ok(needs) => Told::TooShort { needs },
        Err(told) => told,
    }
}

struct Header<R> {
    file: BufReader<R>,
    at: u64,
    length: u64,
}

impl<R: Read + Seek> Header<R> {
    /// Returns how many bytes the file needs.
    fn read(&mut self) -> Result<u64, Told> {
        let there = usize::try_from(self.length.min(4)).unwrap_or(4);
        let mut magic = [0; 4];
        self.fill(&mut magic[..there])?;
        if magic[..there] != MAGIC[..there] {
            return Err(Told::NotGguf);
        }
        self.ensure(4 - there as u64)?;
        self.check_version()?;
        let (tensors, pairs) = (self.u64()?, self.u64()?);
        // The shortest tensor has 24 bytes in the header, the shortest pair 13.
        for (what, count, shortest) in [("tensors", tensors, 24), ("metadata pairs", pairs, 13)] {
            if count.checked_mul(shortest).is_none_or(|bytes| bytes > HEADER_LIMIT) {
                return Err(Told::Broken(format!("its header claims {count} {what}")));
            }
        }
        let mut alignment = USUAL_ALIGNMENT;
        for _ in 0..pairs {
            self.pair(&mut alignment)?;
        }
        let mut end_of_data = 0;
        for _ in 0..tensors {
            end_of_data = end_of_data.max(self.tensor()?);
        }
        if tensors == 0 {
            return Ok(self.at);
        }
        let start = self.at.next_multiple_of(alignment);
        start.checked_add(end_of_data).ok_or_else(|| Told::Broken("a tensor ends beyond any file".to_owned()))
    }

    fn check_version(&mut self) -> Result<(), Told> {
        match self.u32()? {
            2 | 3 => Ok(()),
            // Version 1 counted with 32 bits; nobody has written it since 2023.
            version if version.swap_bytes() < 0x1_0000 && version >= 0x1_0000 => {
                Err(Told::Unsupported("it is a GGUF file for big-endian machines".to_owned()))
            }
            version => {
                Err(Told::Unsupported(format!("it is GGUF version {version}; known here are 2 and 3")))
            }
        }
    }

    fn pair(&mut self, alignment: &mut u64) -> Result<(), Told> {
        let length = self.u64()?;
        let is_alignment = length == ALIGNMENT_KEY.len() as u64 && {
            let mut key = [0; ALIGNMENT_KEY.len()];
            self.fill(&mut key)?;
            key == ALIGNMENT_KEY
        };
        if length != ALIGNMENT_KEY.len() as u64 {
            self.skip(length)?;
        }
        let kind = self.u32()?;
        if is_alignment {
            if kind != 4 {
                return Err(Told::Broken("general.alignment is no 32-bit number".to_owned()));
            }
            *alignment = u64::from(self.u32()?);
            if !alignment.is_power_of_two() {
                return Err(Told::Broken(format!("its alignment is {alignment}")));
            }
            return Ok(());
        }
        self.skip_value(kind, 0)
    }

    fn skip_value(&mut self, kind: u32, depth: u32) -> Result<(), Told> {
        match kind {
            8 => {
                let length = self.u64()?;
                self.skip(length)
            }
            9 => self.skip_array(depth),
            _ => {
                let width = width(kind)?;
                self.skip(width)
            }
        }
    }

    fn skip_array(&mut self, depth: u32) -> Result<(), Told> {
        if depth == NESTING {
            return Err(Told::Broken("it has arrays in arrays in arrays".to_owned()));
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if matches!(kind, 8 | 9) {
            // Each element moves on by eight bytes at least, so the limit of the header ends this.
            for _ in 0..count {
                self.skip_value(kind, depth + 1)?;
            }
            return Ok(());
        }
        let bytes = width(kind)?.saturating_mul(count);
        self.skip(bytes)
    }

    /// Returns where a tensor ends, from the beginning of the data.
    fn tensor(&mut self) -> Result<u64, Told> {
        let name = self.u64()?;
        self.skip(name)?;
        let dimensions = self.u32()?;
        if dimensions > DIMENSIONS {
            return Err(Told::Broken(format!("a tensor has {dimensions} dimensions")));
        }
        let mut elements: u64 = 1;
        for _ in 0..dimensions {
            elements = self
                .u64()?
                .checked_mul(elements)
                .ok_or_else(|| Told::Broken("a tensor is larger than any file".to_owned()))?;
        }
        let (kind, offset) = (self.u32()?, self.u64()?);
        let bytes = match block(kind) {
            Some((per_block, bytes)) => elements.div_ceil(per_block).checked_mul(bytes),
            // Of a kind that came later, at least the beginning has to be there.
            None => Some(0),
        };
        bytes
            .and_then(|bytes| offset.checked_add(bytes))
            .ok_or_else(|| Told::Broken("a tensor ends beyond any file".to_owned()))
    }

    fn u32(&mut self) -> Result<u32, Told> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, Told> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes).map(|()| u64::from_le_bytes(bytes))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Told> {
        self.ensure(bytes.len() as u64)?;
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            // It was longer when it was looked at.
            ErrorKind::UnexpectedEof => Told::Unreadable("it became shorter while it was read".to_owned()),
            _ => Told::Unreadable(error.to_string()),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Told> {
        self.ensure(bytes)?;
        let signed = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.file.seek_relative(signed).map_err(|error| Told::Unreadable(error.to_string()))?;
        self.at += bytes;
        Ok(())
    }

    /// Refuses what leads beyond the limit of a header or the end of the file.
    fn ensure(&self, bytes: u64) -> Result<(), Told> {
        if self.at & 0xffff < 64 && interrupt::check().is_err() {
            return Err(Told::Interrupted);
        }
        match self.at.checked_add(bytes) {
            Some(end) if end <= HEADER_LIMIT => {
                if end <= self.length {
                    Ok(())
                } else {
                    Err(Told::TooShort { needs: end })
                }
            }
            _ => Err(Told::Broken(format!("its header has more than {HEADER_LIMIT} bytes"))),
        }
    }
}

/// The width of a metadata value in bytes.
fn width(kind: u32) -> Result<u64, Told> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(Told::Broken(format!("it has metadata of the unknown type {kind}"))),
    }
}

/// The elements in a block of a tensor type, and the bytes of such a block (`ggml_type` of ggml.h).
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 | 22 => (256, if kind == 10 { 84 } else { 82 }),
        11 | 21 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 | 35 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        23 => (256, 136),
        24 => (1, 1),
        27 | 28 => (1, 8),
        29 => (256, 56),
        41 => (128, 18),
        34 => (256, 54),
        39 => (32, 17),
        40 => (64, 36),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn text(bytes: &mut Vec<u8>, text: &[u8]) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text);
    }

    /// A header with some metadata and one tensor of eight 32-bit numbers.
    fn header(version: u32, alignment: u32) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(3_u64.to_le_bytes());
        text(&mut bytes, b"general.alignment");
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend(alignment.to_le_bytes());
        text(&mut bytes, b"tokens");
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        text(&mut bytes, b"<s>");
        text(&mut bytes, b"</s>");
        text(&mut bytes, b"name");
        bytes.extend(8_u32.to_le_bytes());
        text(&mut bytes, b"small");
        text(&mut bytes, b"weights");
        bytes.extend(2_u32.to_le_bytes());
        bytes.extend(4_u64.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes
    }

    fn whole(version: u32, alignment: u32) -> Vec<u8> {
        let mut bytes = header(version, alignment);
        let start = bytes.len().next_multiple_of(alignment as usize);
        bytes.resize(start + 32, 7);
        bytes
    }

    fn told(bytes: &[u8]) -> Told {
        examine(Cursor::new(bytes), bytes.len() as u64)
    }

    #[test]
    fn a_whole_file_fits_and_every_shorter_one_is_told_to_be_too_short() {
        for (version, alignment) in [(2, 32), (3, 64)] {
            let bytes = whole(version, alignment);
            let needs = bytes.len() as u64;
            assert_eq!(told(&bytes), Told::Fits { needs });
            for end in 0..bytes.len() {
                let short = told(&bytes[..end]);
                assert!(
                    matches!(short, Told::TooShort { needs } if needs > end as u64),
                    "cut at {end}: {short:?}"
                );
            }
        }
    }

    #[test]
    fn other_files_other_versions_and_the_other_byte_order_are_named() {
        assert_eq!(told(b"GGML and more"), Told::NotGguf);
        assert_eq!(told(&[0; 64]), Told::NotGguf);
        let of = |version: [u8; 4]| told(&[&MAGIC[..], &version, &[0; 16]].concat());
        assert!(matches!(of([1, 0, 0, 0]), Told::Unsupported(why) if why.contains("version 1")));
        assert!(matches!(of([0, 0, 0, 3]), Told::Unsupported(why) if why.contains("big-endian")));
        assert_eq!(of([3, 0, 0, 0]), Told::Fits { needs: 24 });
    }

    #[test]
    fn numbers_that_no_file_can_hold_are_refused_before_anything_is_done_with_them() {
        let with = |tensors: u64, pairs: u64| {
            let counts = [tensors.to_le_bytes(), pairs.to_le_bytes()].concat();
            told(&[&MAGIC[..], &3_u32.to_le_bytes(), &counts].concat())
        };
        assert!(matches!(with(u64::MAX, 0), Told::Broken(_)));
        assert!(matches!(with(0, u64::MAX / 2), Told::Broken(_)));
        assert!(matches!(with(0, 1), Told::TooShort { needs: 32 }));
        let mut bytes = whole(3, 32);
        // The length of the first key.
        bytes[24..32].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        assert!(matches!(told(&bytes), Told::Broken(_)));
        let mut bytes = whole(3, 32);
        let at = header(3, 32).len();
        bytes[at - 8..at].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(told(&bytes), Told::Broken(_)));
        assert!(matches!(told(&whole(3, 48)), Told::Broken(why) if why.contains("alignment")));
    }

    #[test]
    fn arrays_in_arrays_end() {
        let mut bytes =
            [&MAGIC[..], &3_u32.to_le_bytes(), &0_u64.to_le_bytes(), &1_u64.to_le_bytes()].concat();
        text(&mut bytes, b"k");
        bytes.extend(9_u32.to_le_bytes());
        for _ in 0..100_000 {
            bytes.extend(9_u32.to_le_bytes());
            bytes.extend(1_u64.to_le_bytes());
        }
        assert!(matches!(told(&bytes), Told::Broken(why) if why.contains("arrays")));
    }
}
