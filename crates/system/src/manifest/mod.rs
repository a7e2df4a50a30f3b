//! Sets of files as values: what lies below a directory, and what differs between two such sets.
//!
//! Used for the record of a generation, for what was added to or changed in it since, and for the inventory of
//! protected paths. The module only reads. It never follows a link, not even one that is put in place while it looks
//! (every step down is an `openat` with `O_NOFOLLOW`), reads file contents in small pieces, and keeps at most
//! [`Scan::at_most`] entries: what lies beyond is folded into one digest, which still shows whether anything changed.

mod compare;
pub mod contamination;
mod entry;
mod format;
mod scan;

pub use entry::{Entry, Kind, Manifest};
pub use scan::Scan;

use entry::Rest;
