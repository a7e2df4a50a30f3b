//! Finds the directories that contain models on this machine. It reads the files of Ollama's unit.
//!
//! Paths in files are those of the machine; with `--root DIR` they are all below DIR.

use std::path::{Path, PathBuf};

use refresh_programs::systemd::file::{UnitFile, drop_ins};
use refresh_service::envfile;
use refresh_settings::layout::Layout;
use refresh_settings::model_stores::below;
use refresh_system::disk;

use super::Finding;

/// A directory that may contain models.
#[derive(Debug)]
pub(crate) struct Location {
    /// The path.
    pub path: PathBuf,
    /// The source of a verdict about it.
    pub from: &'static str,
    /// The finding if it is missing.
    pub missing: Option<Finding>,
    /// Makes the finding if it cannot be read.
    pub closed: fn(String) -> Finding,
}

/// The variable that names Ollama's store.
pub(super) const OLLAMA: &str = "OLLAMA_MODELS";
/// The store of the packaged service.
const PACKAGED: &str = "/usr/share/ollama/.ollama/models";
/// The unit of the packaged service.
const UNIT: &str = "ollama.service";

/// Returns all locations, first the one at `base`. `ollama` is the store that the environment file names, `stores` are
/// those that the host names: they must exist.
pub(crate) fn all(
    layout: &Layout,
    base: PathBuf,
    ollama: Option<String>,
    stores: Vec<PathBuf>,
) -> Vec<Location> {
    let base = Location { path: base, from: "models", missing: None, closed: Finding::Unreadable };
    let host = stores.into_iter().map(|path| {
        let missing = Some(Finding::MissingRequired);
        Location { path, from: "models.stores", missing, closed: Finding::Unreadable }
    });
    // The user of Ollama can make its store unreadable for others.
    let of_ollama = |path: &str, from, missing| Location {
        path: below(layout, Path::new(path)),
        from,
        missing,
        closed: Finding::Unsupported,
    };
    let variables = [ollama, of_unit(layout)].into_iter().flatten().filter(|value| value.starts_with('/'));
    // A store may be on a disk that is not mounted.
    let variables = variables.map(|value| of_ollama(&value, OLLAMA, Some(Finding::MissingOptional)));
    let packaged = of_ollama(PACKAGED, "package of Ollama", None);
    [base].into_iter().chain(host).chain(variables).chain([packaged]).collect()
}

/// Returns the value that Ollama's unit and its drop-ins set.
fn of_unit(layout: &Layout) -> Option<String> {
    let mut unit = UnitFile::default();
    let dirs = layout.unit_directories();
    unit.extend(dirs.iter().find_map(|dir| read(&dir.join(UNIT))).unwrap_or_default());
    drop_ins(&dirs, UNIT).iter().filter_map(|path| read(path)).for_each(|drop_in| unit.extend(drop_in));
    unit.list("Service", "Environment").iter().rev().find_map(|text| assigned(text))
}

fn read(path: &Path) -> Option<UnitFile> {
    disk::read_at_most(path, envfile::LIMIT).ok().flatten().map(|bytes| UnitFile::parse(&bytes))
}

/// Returns the value of the last assignment to `OLLAMA_MODELS` in a line of `Environment=`. Text in quotes may contain
/// blanks.
fn assigned(text: &str) -> Option<String> {
    let (mut value, mut before) = (None, "");
    for (number, piece) in text.split(['"', '\'']).enumerate() {
        let words = match number % 2 {
            0 => piece.split_whitespace().collect(),
            // Quotes within a word contain the value of another variable.
            _ if before.is_empty() || before.ends_with(char::is_whitespace) => vec![piece],
            _ => Vec::new(),
        };
        let mut values = words.into_iter().filter_map(|word| word.strip_prefix(OLLAMA)?.strip_prefix('='));
        value = values.next_back().or(value);
        before = piece;
    }
    value.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_location_moves_below_the_root_once() {
        let layout = Layout::below("/trial");
        let stores = vec![PathBuf::from("/trial/mine"), PathBuf::from("/other")];
        let locations = all(&layout, layout.models(), Some("/srv/ollama".to_owned()), stores);
        let paths: Vec<_> = locations.iter().map(|location| location.path.to_str().unwrap()).collect();
        let packaged = "/trial/usr/share/ollama/.ollama/models";
        let base = "/trial/opt/ladylinux/models";
        assert_eq!(paths, [base, "/trial/mine", "/other", "/trial/srv/ollama", packaged]);
    }

    #[test]
    fn a_variable_of_a_unit_is_found_however_it_is_quoted() {
        for (text, value) in [
            ("OLLAMA_MODELS=/srv/m", Some("/srv/m")),
            ("\"OLLAMA_MODELS=/srv/my models\"", Some("/srv/my models")),
            ("OLLAMA_HOST=x 'OLLAMA_MODELS=/m' OLLAMA_DEBUG=1", Some("/m")),
            ("OLD_OLLAMA_MODELS=/y A='b OLLAMA_MODELS=/z' OLLAMA_MODELS=/m", Some("/m")),
            ("OLLAMA_MODELS=/first OLLAMA_MODELS=/last", Some("/last")),
            ("OLD_OLLAMA_MODELS=/x OLLAMA_MODELS_BACKUP=/x A='OLLAMA_MODELS=/x'", None),
        ] {
            assert_eq!(assigned(text).as_deref(), value, "{text}");
        }
    }
}
