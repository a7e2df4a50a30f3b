//! The last request of a person to start the service that failed. systemd does not record a start that it could not even
//! begin, so to it the service is down because of the stop before. The person has decided otherwise.

use jiff::Timestamp;

use refresh_settings::layout::Layout;
use refresh_system::error::Outcome;
use refresh_system::{clock, disk};

/// Records that a person has requested a start now, and that it failed.
///
/// # Errors
/// The state cannot be written.
pub(super) fn record(layout: &Layout) -> Outcome<()> {
    disk::write_json(&layout.failed_start(), &clock::now(), 0o644)
}

/// Removes the record, if there is one.
///
/// # Errors
/// The state cannot be written.
pub(super) fn forget(layout: &Layout) -> Outcome<()> {
    disk::remove_file_if_there(&layout.failed_start())
}

/// Returns whether a person has requested a start after `stop`. An unreadable record counts as none.
pub(super) fn came_after(layout: &Layout, stop: Timestamp) -> bool {
    disk::read_json::<Timestamp>(&layout.failed_start()).ok().flatten().is_some_and(|start| start >= stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_overrules_the_stop_before_it_and_no_later_one() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.state(), 0o755).unwrap();
        let before = clock::now();
        assert!(!came_after(&layout, before));
        record(&layout).unwrap();
        assert!(came_after(&layout, before));
        let later = before.checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
        assert!(!came_after(&layout, later));
        disk::write_atomic(&layout.failed_start(), b"[", 0o644).unwrap();
        assert!(!came_after(&layout, before));
        forget(&layout).unwrap();
        forget(&layout).unwrap();
        assert!(!layout.failed_start().exists());
    }
}
