//! Sets of files as values: the entries below a directory, and the differences between two such sets.
//!
//! Used for the record of an environment, for later additions and changes to it, and for the inventory of protected
//! paths. The module only reads. It never follows a link, not even one that is created during the scan (every step down
//! is an `openat` with `O_NOFOLLOW`). It reads file contents in small pieces, and keeps at most [`Scan::at_most`]
//! entries. The entries beyond that limit are folded into one digest, which still shows whether anything changed.

mod compare;
pub mod contamination;
mod entry;
mod format;
mod scan;

pub use entry::{Entry, Kind, Manifest};
pub use scan::Scan;

use entry::Rest;
