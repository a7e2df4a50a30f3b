//! The form of the file: a tar archive (ustar) of plain files, which leaves nothing to choose. Pure.
//!
//! From the names and sizes of its members every byte of it follows but their content, so a reader need not understand
//! archives: it compares. What differs is only looked at to say how. Source: POSIX.1-2017, pax, "ustar Interchange
//! Format".

/// The unit of an archive, in bytes.
pub(super) const BLOCK: usize = 512;

/// The blocks of zeros that end an archive, in bytes.
pub(super) const END: u64 = 2 * BLOCK as u64;

/// The largest member that the form can name, in bytes.
pub(super) const LARGEST: u64 = (1 << 33) - 1;

/// One block.
pub(super) type Block = [u8; BLOCK];

/// Makes the block that stands before a member. `name` has at most 100 bytes, `size` is at most [`LARGEST`].
pub(super) fn head(name: &str, size: u64) -> Block {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    put(265, "root");
    put(297, "root");
    put(329, "0000000\0");
    put(337, "0000000\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Returns how many zeros follow a member of `size` bytes.
pub(super) fn padding(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

/// Returns what a member takes in the file, in bytes; `None` where no file could be that large.
pub(super) fn room(size: u64) -> Option<u64> {
    (BLOCK as u64).checked_add(size)?.checked_add(padding(size))
}

/// Reads the size that a block names; `None` where it names none.
pub(super) fn size_in(block: &Block) -> Option<u64> {
    let digits = std::str::from_utf8(&block[124..135]).ok()?;
    u64::from_str_radix(digits, 8).ok()
}

/// Says what stands in a block that is not the one expected.
pub(super) fn describe(block: &Block) -> String {
    if block.iter().all(|byte| *byte == 0) {
        return "the end".to_owned();
    }
    if &block[257..262] != b"ustar" {
        return "something that is no member".to_owned();
    }
    let name = format!("{:?}", String::from_utf8_lossy(text(&block[..100])));
    match block[156] {
        b'0' | 0 => name,
        b'1' => format!("{name}, a hard link"),
        b'2' => format!("{name}, a symbolic link"),
        b'3' | b'4' => format!("{name}, a device"),
        b'5' => format!("{name}, a directory"),
        b'6' => format!("{name}, a pipe"),
        b'g' | b'x' | b'K' | b'L' | b'S' => format!("{name}, an extension of the form"),
        _ => format!("{name}, of an unknown kind"),
    }
}

/// What stands before the first zero.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_names_its_member_and_carries_its_own_sum() {
        let block = head("lock.json", 0o1234);
        assert_eq!(size_in(&block), Some(0o1234));
        assert_eq!(describe(&block), "\"lock.json\"");
        let mut summed = block;
        summed[148..156].fill(b' ');
        let sum: u32 = summed.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(&block[148..156], format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(size_in(&head("a", LARGEST)), Some(LARGEST));
    }

    #[test]
    fn members_take_whole_blocks() {
        assert_eq!((padding(0), padding(1), padding(512), padding(513)), (0, 511, 0, 511));
        assert_eq!((room(0), room(1), room(513)), (Some(512), Some(1024), Some(1536)));
        assert_eq!(room(u64::MAX), None);
    }

    #[test]
    fn what_is_no_plain_file_is_called_by_its_kind() {
        for (kind, word) in
            [(b'2', "symbolic link"), (b'1', "hard link"), (b'3', "device"), (b'L', "extension")]
        {
            let mut block = head("x", 0);
            block[156] = kind;
            assert!(describe(&block).contains(word), "{}", describe(&block));
        }
        assert_eq!(describe(&[0; BLOCK]), "the end");
        assert_eq!(describe(&[7; BLOCK]), "something that is no member");
    }
}
