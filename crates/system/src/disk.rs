//! The only module that writes files. It syncs the files and directories that must be durable.
//!
//! Names: *atomic* means that a reader, or a machine after a power cut, sees the old state or the new one; *durable*
//! means that the new state is on the disk when the function returns. Source: rename(2), fsync(2), syncfs(2).
#![expect(clippy::disallowed_methods, reason = "this module writes files")]

pub mod beneath;
mod directory;
pub mod encoded_path;
mod file_version;
mod listing;
pub mod mounts;
mod own;
mod owner;
mod reading;
mod removal;
mod rename;
mod sync;
mod taking;
mod write;

pub use beneath::open_without_links;
pub use directory::{give, make_directory, make_new_directory, make_owned_directory, set_mode};
pub use file_version::FileVersion;
pub use listing::{Usage, names, usage};
pub use own::{Depth, Foreign, foreign, open_own, read_if_roots, read_own, read_own_json};
pub use owner::Owner;
pub use reading::{is_directory, open_with, read_at_most, read_if_there, read_json, read_last_line};
pub use removal::{remove_file_durably, remove_file_if_there, remove_if_empty, remove_tree};
pub use rename::{copy_new, exchange, move_new, move_over, point_link, same_device};
pub use sync::{sync_file_system, sync_parent};
pub use taking::{Content, Digested, open_regular, take_copy};
pub use write::{
    append_own, open_append, open_lock, order, replace_file, replace_json, sweep_unwritten, write_atomic,
    write_by, write_json, write_unsynced, write_volatile,
};
