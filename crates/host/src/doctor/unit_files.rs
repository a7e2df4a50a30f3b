//! A unit for the checks: its files, and their combined text. It queries systemd and changes nothing.

use std::path::{Path, PathBuf};

use refresh_programs::systemd::Bus;
use refresh_programs::systemd::file::{UnitFile, drop_ins};
use refresh_programs::systemd::unit::{LoadState, UnitFacts};
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use refresh_system::error::Outcome;

/// A unit: its files and their combined content.
pub(crate) struct Unit {
    /// Its name.
    pub(super) name: UnitName,
    /// Its own file, if it has one.
    pub(super) fragment: Option<PathBuf>,
    /// Its drop-ins, in the order in which they are read.
    pub(super) drop_ins: Vec<PathBuf>,
    /// The combined content of all of them.
    pub(super) file: UnitFile,
    /// The information of systemd about it, if systemd runs.
    pub(super) facts: Option<UnitFacts>,
}

impl Unit {
    /// Returns the unit `name`; `None` if there is none. If `is_in_systemd`, systemd names its files.
    ///
    /// # Errors
    /// systemd cannot be queried, or a file cannot be read.
    pub(super) fn find(layout: &Layout, name: &UnitName, is_in_systemd: bool) -> Outcome<Option<Self>> {
        let name = name.clone();
        let (fragment, drop_ins, facts) = if is_in_systemd {
            let facts = Bus::connect()?.unit(name.as_str())?;
            if facts.load != LoadState::Loaded {
                return Ok(None);
            }
            (facts.fragment.clone(), facts.drop_ins.clone(), Some(facts))
        } else {
            let directories = layout.unit_directories();
            let Some(fragment) =
                directories.iter().map(|directory| directory.join(name.as_str())).find(|path| path.is_file())
            else {
                return Ok(None);
            };
            (Some(fragment), drop_ins(&directories, name.as_str()), None)
        };
        let file = UnitFile::read(fragment.iter().chain(&drop_ins))?;
        Ok(Some(Self { name, fragment, drop_ins, file, facts }))
    }

    /// Returns the command that opens the unit in an editor and reloads it in systemd afterwards.
    pub(super) fn edit(&self) -> String {
        format!("systemctl edit --full {}", self.name)
    }
}

/// Returns a path in the spelling of the unit: that of the contract, even if the installation is below a root.
pub(super) fn spelled(layout: &Layout, path: &Path) -> PathBuf {
    path.strip_prefix(layout.root()).map_or_else(|_| path.to_path_buf(), |path| Path::new("/").join(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_system::disk;

    #[test]
    fn of_drop_ins_with_one_name_the_first_directory_counts() {
        let root = tempfile::tempdir().unwrap();
        let directories = ["etc", "lib"].map(|name| root.path().join(name));
        for (directory, name) in [(0, "50-a.conf"), (1, "50-a.conf"), (1, "10-b.conf"), (1, "note.txt")] {
            let place = directories[directory].join("x.service.d");
            disk::make_directory(&place, 0o755).unwrap();
            disk::write_atomic(&place.join(name), b"", 0o644).unwrap();
        }
        let found = drop_ins(&directories, "x.service");
        assert_eq!(
            found,
            [directories[1].join("x.service.d/10-b.conf"), directories[0].join("x.service.d/50-a.conf")]
        );
    }
}
