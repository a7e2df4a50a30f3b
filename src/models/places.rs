//! Where models lie on this machine: the folder of the deployment contract, and wherever the manifest, the host's settings,
//! the service's environment file and Ollama's unit say.
//!
//! Paths that files name are those of the machine; with `--root` they all lie below that.

use std::path::{Component, Path, PathBuf};

use crate::disk;
use crate::service::envfile::{self, EnvFile};
use crate::settings::layout::Layout;
use crate::systemd::file::UnitFile;

/// A folder in which models may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub path: PathBuf,
    /// Who says so.
    pub named: Named,
}

/// Who names a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// The manifest, or the deployment contract where it names none.
    Base,
    /// `models.stores`, or the command line: it has to be there.
    Host,
    /// A variable of the service's environment file or of Ollama's unit.
    Variable(&'static str),
    /// The packaged service of Ollama.
    Package,
}

impl Named {
    /// Says it in words.
    pub fn in_words(self) -> String {
        match self {
            Self::Base => "models".to_owned(),
            Self::Host => "named by the host".to_owned(),
            Self::Variable(name) => format!("named by {name}"),
            Self::Package => "Ollama's own".to_owned(),
        }
    }
}

/// The variables that name places.
pub(super) const VARIABLES: [&str; 3] = [OLLAMA, "HF_HUB_CACHE", "HF_HOME"];
/// The variable by which Ollama is told where its store is.
const OLLAMA: &str = "OLLAMA_MODELS";
/// Where the packaged service of Ollama keeps its store.
const PACKAGED: &str = "/usr/share/ollama/.ollama/models";
/// The unit of the packaged service.
const UNIT: &str = "ollama.service";

/// Returns the folders in which models may lie, beside the base: `stores` are those that the host names, where they really are.
pub fn others(layout: &Layout, env_file: &EnvFile, stores: &[PathBuf]) -> Vec<Place> {
    let mut places: Vec<Place> =
        stores.iter().map(|path| Place { path: path.clone(), named: Named::Host }).collect();
    let mut variable = |name: &'static str, value: Option<&str>, more: &str| {
        if let Some(value) = value.filter(|value| value.starts_with('/')) {
            let path = below(layout, &Path::new(value).join(more));
            places.push(Place { path, named: Named::Variable(name) });
        }
    };
    variable(OLLAMA, env_file.value(OLLAMA), "");
    variable(OLLAMA, of_unit(layout).as_deref(), "");
    variable("HF_HUB_CACHE", env_file.value("HF_HUB_CACHE"), "");
    variable("HF_HOME", env_file.value("HF_HOME"), "hub");
    places.push(Place { path: below(layout, Path::new(PACKAGED)), named: Named::Package });
    places
}

/// Moves a path of the machine below the root.
pub fn below(layout: &Layout, path: &Path) -> PathBuf {
    if layout.is_real() || !path.is_absolute() || path.starts_with(layout.root()) {
        return path.to_path_buf();
    }
    layout.root().join(path.strip_prefix("/").unwrap_or(path))
}

/// Tells why a folder cannot be one of models: it holds much more than that.
pub fn refusal(layout: &Layout, path: &Path) -> Option<String> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Some("it is no absolute path without '..'".to_owned());
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let neighbours =
        [layout.home(), layout.app(), layout.etc(), layout.persistent(), layout.state(), layout.store()];
    let is_wide = neighbours.iter().any(|folder| {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        folder.starts_with(&real)
    });
    let is_of_the_kernel = ["/proc", "/sys", "/dev"].iter().any(|folder| real.starts_with(folder));
    (is_wide || is_of_the_kernel).then(|| "it holds much more than models".to_owned())
}

/// What Ollama's unit and its drop-ins set.
fn of_unit(layout: &Layout) -> Option<String> {
    let mut unit = UnitFile::default();
    let folders = layout.unit_folders();
    let main = folders.iter().map(|folder| folder.join(UNIT)).find_map(|path| read(&path));
    unit.extend(main.unwrap_or_default());
    for folder in folders.iter().rev() {
        let listed = std::fs::read_dir(folder.join(format!("{UNIT}.d"))).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = listed.map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|ending| ending == "conf"));
        files.sort_unstable();
        files.iter().filter_map(|path| read(path)).for_each(|drop_in| unit.extend(drop_in));
    }
    let assignments = unit.list("Service", "Environment");
    assignments.iter().rev().find_map(|text| assigned(text))
}

/// The value in `OLLAMA_MODELS=/srv`, `"OLLAMA_MODELS=/a b"`, or among other assignments; of several the last.
fn assigned(text: &str) -> Option<String> {
    words(text).iter().rev().find_map(|word| match word.split_once('=') {
        Some((OLLAMA, value)) => Some(value.to_owned()),
        _ => None,
    })
}

/// Takes a text apart as systemd does: quotes hold blanks together, and what comes after a backslash means itself.
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

fn read(path: &Path) -> Option<UnitFile> {
    disk::read_at_most(path, envfile::LIMIT).ok().flatten().map(|bytes| UnitFile::parse(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_moves_below_the_root_once() {
        let layout = Layout::below("/trial");
        let env_file = EnvFile::parse(b"OLLAMA_MODELS=/srv/ollama\nHF_HOME=/srv/hf\nHF_HUB_CACHE=relative\n");
        let places = others(&layout, &env_file, &[PathBuf::from("/trial/mine"), PathBuf::from("/other")]);
        let paths: Vec<_> = places.iter().map(|place| place.path.to_str().unwrap()).collect();
        let expected = [
            "/trial/mine",
            "/other",
            "/trial/srv/ollama",
            "/trial/srv/hf/hub",
            "/trial/usr/share/ollama/.ollama/models",
        ];
        assert_eq!(paths, expected);
        assert_eq!(below(&layout, Path::new("/trial/mine")), Path::new("/trial/mine"));
        assert_eq!(below(&Layout::below("/"), Path::new("/srv")), Path::new("/srv"));
    }

    #[test]
    fn a_variable_of_a_unit_is_found_however_it_is_quoted() {
        for (text, value) in [
            ("OLLAMA_MODELS=/srv/m", "/srv/m"),
            ("\"OLLAMA_MODELS=/srv/my models\"", "/srv/my models"),
            ("A=b 'OLLAMA_MODELS=/m' C=d", "/m"),
            ("OLLAMA_HOST=x OLLAMA_MODELS=/m OLLAMA_DEBUG=1", "/m"),
            ("\"OLLAMA_MODELS_BACKUP=/y\" \"OLLAMA_MODELS=/srv/o\"", "/srv/o"),
            ("OLD_OLLAMA_MODELS=/y A='b OLLAMA_MODELS=/z' OLLAMA_MODELS='/m n'/o\\ p", "/m n/o p"),
            ("OLLAMA_MODELS=/first OLLAMA_MODELS=/last", "/last"),
        ] {
            assert_eq!(assigned(text).as_deref(), Some(value), "{text}");
        }
        for none in
            ["OLLAMA_HOST=x", "OLD_OLLAMA_MODELS=/x", "OLLAMA_MODELS_BACKUP=/x", "A='OLLAMA_MODELS=/x'", ""]
        {
            assert_eq!(assigned(none), None, "{none}");
        }
    }

    #[test]
    fn a_folder_that_holds_the_installation_is_none_of_models() {
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
