//! The drop-in that gives a unit the sockets of socket units. systemd accepts `Sockets=` only from files, not over the
//! bus (systemd.service(5)). The module writes this one file below `/run` and removes it again.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use super::HeldSockets;
use refresh_settings::layout::Layout;
use refresh_system::error::Outcome;
use refresh_system::{checkpoint, disk};

/// How the names of units with sockets begin ([`super::systemd`] names them after their role).
const PREFIX: &str = "ladylinux-refresh-hold-";

/// The directory of the drop-in of one unit. Dropping it removes it: systemd needs it when it reads the unit, that is
/// at the unit's start, and at every reload of all units while it runs.
#[derive(Debug)]
pub(super) struct SocketDropIn(PathBuf);

impl SocketDropIn {
    /// Writes the drop-in of `unit`.
    ///
    /// # Errors
    /// The drop-in cannot be written.
    pub(super) fn write(layout: &Layout, unit: &str, sockets: &HeldSockets) -> Outcome<Self> {
        sweep(layout);
        let directory = layout.volatile_units().join(format!("{unit}.d"));
        disk::make_directory(&directory, 0o755)?;
        let drop_in = Self(directory);
        let non_blocking = if sockets.non_blocking { "yes" } else { "no" };
        let text = format!("[Service]\nSockets={}\nNonBlocking={non_blocking}\n", sockets.units.join(" "));
        checkpoint::reach("socket:drop-in-directory");
        disk::write_volatile(&drop_in.0.join("sockets.conf"), text.as_bytes(), 0o644)?;
        checkpoint::reach("socket:drop-in");
        Ok(drop_in)
    }
}

/// Removes the drop-ins of killed runs: only one run exists at a time, and a run has one such unit.
fn sweep(layout: &Layout) {
    for directory in left(layout) {
        let _ = disk::remove_tree(&directory);
    }
}

/// Returns the directories of such drop-ins. If no run is in progress, a killed one has left them.
pub(super) fn left(layout: &Layout) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(layout.volatile_units()) else { return Vec::new() };
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(".service.d"))
    };
    entries.flatten().map(|entry| entry.path()).filter(is_one).collect()
}

impl Drop for SocketDropIn {
    fn drop(&mut self) {
        // A drop-in that cannot be removed names a unit that no other run has, and disappears with the next boot.
        let _ = disk::remove_tree(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_in_names_the_sockets_and_is_removed_with_the_unit() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        let unit = format!("{PREFIX}2.service");
        let left = layout.volatile_units().join(format!("{PREFIX}1.service.d"));
        disk::make_directory(&left, 0o755).unwrap();
        let units = vec!["a.socket".to_owned(), "b.socket".to_owned()];
        let drop_in =
            SocketDropIn::write(&layout, &unit, &HeldSockets { units, non_blocking: true }).unwrap();
        let path = layout.volatile_units().join(format!("{unit}.d/sockets.conf"));
        let text = String::from_utf8(disk::read_if_there(&path).unwrap().unwrap()).unwrap();
        assert_eq!(text, "[Service]\nSockets=a.socket b.socket\nNonBlocking=yes\n");
        assert!(!left.exists(), "what a killed run left is removed");
        assert_eq!(super::left(&layout), [path.parent().unwrap()]);
        drop(drop_in);
        assert!(!path.parent().unwrap().exists());
    }
}
