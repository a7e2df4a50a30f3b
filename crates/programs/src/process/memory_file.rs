//! Files in memory, which pass input to a program.

use std::fs::File;
use std::io::{Seek as _, Write as _};

use refresh_system::error::{Context as _, Outcome};

/// Returns a file that exists in memory only, with `bytes`, positioned at its start.
pub(crate) fn memory_file(bytes: &[u8]) -> Outcome<File> {
    let context = || "cannot pass input to a program".to_owned();
    let fd = rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC).context(context)?;
    let mut file = File::from(fd);
    file.write_all(bytes).and_then(|()| file.rewind()).context(context)?;
    Ok(file)
}
