//! Which directories hold models on this machine. It reads the files of Ollama's unit.
//!
//! Paths in files are those of the machine; with `--root` they all lie below it.

use std::path::{Component, Path, PathBuf};

use crate::disk;
use crate::service::envfile::{self, EnvFile};
use crate::settings::layout::Layout;
use crate::systemd::file::UnitFile;

/// A directory that may hold models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The path.
    pub path: PathBuf,
    /// What names it.
    pub named_by: NamedBy,
}

/// What names a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedBy {
    /// The manifest, or the deployment contract if it names none.
    Manifest,
    /// `models.stores` or the command line: it has to be there.
    Host,
    /// `OLLAMA_MODELS` in the service's environment file or in Ollama's unit.
    Ollama,
    /// The package of Ollama.
    Package,
}

impl NamedBy {
    /// Returns the source of a verdict about the location.
    pub fn source(self) -> &'static str {
        match self {
            Self::Manifest => "models",
            Self::Host => "models.stores",
            Self::Ollama => OLLAMA,
            Self::Package => "package of Ollama",
        }
    }
}

/// The variable that names Ollama's store.
pub(super) const OLLAMA: &str = "OLLAMA_MODELS";
/// The store of the packaged service.
const PACKAGED: &str = "/usr/share/ollama/.ollama/models";
/// The unit of the packaged service.
const UNIT: &str = "ollama.service";

/// Returns the locations beside that of the manifest; `stores` are those that the host names.
pub fn others(layout: &Layout, env_file: &EnvFile, stores: &[PathBuf]) -> Vec<Location> {
    let host = stores.iter().map(|path| Location { path: path.clone(), named_by: NamedBy::Host });
    let variables = [env_file.value(OLLAMA).map(str::to_owned), of_unit(layout)];
    let variables = variables.into_iter().flatten().filter(|value| value.starts_with('/'));
    let ollama =
        variables.map(|value| Location { path: below(layout, Path::new(&value)), named_by: NamedBy::Ollama });
    let packaged = Location { path: below(layout, Path::new(PACKAGED)), named_by: NamedBy::Package };
    host.chain(ollama).chain([packaged]).collect()
}

/// Returns a path of the machine below the root.
pub fn below(layout: &Layout, path: &Path) -> PathBuf {
    if layout.is_real() || !path.is_absolute() || path.starts_with(layout.root()) {
        return path.to_path_buf();
    }
    layout.root().join(path.strip_prefix("/").unwrap_or(path))
}

/// Returns why a directory cannot be a location of models: it holds much more.
pub fn refusal(layout: &Layout, path: &Path) -> Option<String> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Some("it is no absolute path without '..'".to_owned());
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let neighbours =
        [layout.home(), layout.app(), layout.etc(), layout.persistent(), layout.state(), layout.store()];
    let is_wide = neighbours.iter().any(|other| {
        let other = other.canonicalize().unwrap_or_else(|_| other.clone());
        other.starts_with(&real)
    });
    let is_of_kernel = ["/proc", "/sys", "/dev"].iter().any(|other| real.starts_with(other));
    (is_wide || is_of_kernel).then(|| "it holds much more than models".to_owned())
}

/// Returns the value that Ollama's unit and its drop-ins set.
fn of_unit(layout: &Layout) -> Option<String> {
    let mut unit = UnitFile::default();
    let dirs = layout.unit_folders();
    unit.extend(dirs.iter().find_map(|dir| read(&dir.join(UNIT))).unwrap_or_default());
    for dir in dirs.iter().rev() {
        let listed = std::fs::read_dir(dir.join(format!("{UNIT}.d"))).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = listed.map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        files.sort_unstable();
        files.iter().filter_map(|path| read(path)).for_each(|drop_in| unit.extend(drop_in));
    }
    unit.list("Service", "Environment").iter().rev().find_map(|text| assigned(text))
}

fn read(path: &Path) -> Option<UnitFile> {
    disk::read_at_most(path, envfile::LIMIT).ok().flatten().map(|bytes| UnitFile::parse(&bytes))
}

/// Returns the value of the last assignment to `OLLAMA_MODELS` in a line of `Environment=`.
fn assigned(text: &str) -> Option<String> {
    words(text).iter().rev().find_map(|word| match word.split_once('=') {
        Some((OLLAMA, value)) => Some(value.to_owned()),
        _ => None,
    })
}

/// Splits a text as systemd does: quotes hold blanks together, and a backslash takes the next character as it is.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_with(String::new);
        match c {
            '\\' => word.extend(chars.next()),
            '"' | '\'' if quote.is_none() => quote = Some(c),
            _ if quote == Some(c) => quote = None,
            _ => word.push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_location_moves_below_the_root_once() {
        let layout = Layout::below("/trial");
        let env_file = EnvFile::parse(b"OLLAMA_MODELS=/srv/ollama\n");
        let locations = others(&layout, &env_file, &[PathBuf::from("/trial/mine"), PathBuf::from("/other")]);
        let paths: Vec<_> = locations.iter().map(|location| location.path.to_str().unwrap()).collect();
        let packaged = "/trial/usr/share/ollama/.ollama/models";
        assert_eq!(paths, ["/trial/mine", "/other", "/trial/srv/ollama", packaged]);
        assert_eq!(below(&layout, Path::new("/trial/mine")), Path::new("/trial/mine"));
        assert_eq!(below(&Layout::below("/"), Path::new("/srv")), Path::new("/srv"));
    }

    #[test]
    fn a_variable_of_a_unit_is_found_however_it_is_quoted() {
        for (text, value) in [
            ("OLLAMA_MODELS=/srv/m", Some("/srv/m")),
            ("\"OLLAMA_MODELS=/srv/my models\"", Some("/srv/my models")),
            ("OLLAMA_HOST=x 'OLLAMA_MODELS=/m' OLLAMA_DEBUG=1", Some("/m")),
            ("OLD_OLLAMA_MODELS=/y A='b OLLAMA_MODELS=/z' OLLAMA_MODELS='/m n'/o\\ p", Some("/m n/o p")),
            ("OLLAMA_MODELS=/first OLLAMA_MODELS=/last", Some("/last")),
            ("OLD_OLLAMA_MODELS=/x OLLAMA_MODELS_BACKUP=/x A='OLLAMA_MODELS=/x'", None),
        ] {
            assert_eq!(assigned(text).as_deref(), value, "{text}");
        }
    }

    #[test]
    fn a_directory_that_holds_the_installation_is_no_location() {
        let layout = Layout::below("/trial");
        for bad in
            ["/trial", "/", "/trial/opt/ladylinux", "/trial/etc", "/proc/1", "relative", "/trial/m/../etc"]
        {
            assert!(refusal(&layout, Path::new(bad)).is_some(), "{bad}");
        }
        for good in ["/trial/opt/ladylinux/models", "/srv/models"] {
            assert_eq!(refusal(&layout, Path::new(good)), None);
        }
    }
}
