//! The unit of the service: that it is there, that it is the repository's, that it knows the fence. What its lines say
//! is looked at in [`words`].
//!
//! Where systemd runs, it is asked which files it goes by; below a root they are looked for where systemd would.

mod beside;
mod words;

pub(super) use beside::{also, reached, untied};
pub(super) use words::{kill_mode, paths, requirements, stop, user, variables};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::Outcome;
use crate::host;
use crate::report::shell::quoted;
use crate::service::systemd::dropin;
use crate::settings::layout::Layout;
use crate::settings::names::UnitName;
use crate::systemd::Bus;
use crate::systemd::file::UnitFile;
use crate::systemd::unit::{LoadState, UnitFacts};

use super::{Examined, Findings, Found, blemish, cleaning, some_of};

/// A unit: its files and what they say together.
pub struct Unit {
    /// Its name.
    name: UnitName,
    /// Its own file, where it has one.
    fragment: Option<PathBuf>,
    /// Its drop-ins, in the order in which they are read.
    drop_ins: Vec<PathBuf>,
    /// What all of them say.
    file: UnitFile,
    /// What systemd knows of it, where systemd runs.
    facts: Option<UnitFacts>,
}

impl Unit {
    /// Finds the unit of the service; `None` where there is none.
    ///
    /// # Errors
    /// systemd cannot be asked, or a file cannot be read.
    pub(super) fn find(examined: &Examined) -> Outcome<Option<Self>> {
        let name = examined.settings.service.unit.clone();
        let (fragment, drop_ins, facts) = if examined.is_kept_by_systemd() {
            let facts = Bus::connect()?.unit(name.as_str())?;
            if facts.load != LoadState::Loaded {
                return Ok(None);
            }
            (facts.fragment.clone(), facts.drop_ins.clone(), Some(facts))
        } else {
            let directories = examined.layout.unit_directories();
            let Some(fragment) =
                directories.iter().map(|directory| directory.join(name.as_str())).find(|path| path.is_file())
            else {
                return Ok(None);
            };
            (Some(fragment), drop_ins(&directories, &name), None)
        };
        let mut file = UnitFile::default();
        for path in fragment.iter().chain(&drop_ins) {
            file.extend(UnitFile::parse(&disk::read_if_there(path)?.unwrap_or_default()));
        }
        Ok(Some(Self { name, fragment, drop_ins, file, facts }))
    }

    /// The command that opens the unit in an editor and has systemd read it afterwards.
    fn edit(&self) -> String {
        format!("systemctl edit --full {}", self.name)
    }
}

/// The drop-ins of a unit: of equal names that in the first directory counts, and they are read in the order of their names.
fn drop_ins(directories: &[PathBuf], name: &UnitName) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in directories {
        for entry in std::fs::read_dir(directory.join(format!("{name}.d"))).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_new = !found.iter().any(|other| other.file_name() == path.file_name());
            if is_new && path.extension().is_some_and(|ending| ending == "conf") {
                found.push(path);
            }
        }
    }
    found.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
    found
}

/// systemd has the unit and can start it.
pub(super) fn there(examined: &Examined) -> Findings {
    if !examined.is_kept_by_systemd() {
        return Ok(Vec::new());
    }
    let name = &examined.settings.service.unit;
    let facts = Bus::connect()?.unit(name.as_str())?;
    let why = "the service is kept by systemd, so without a unit that can be used nothing starts it";
    Ok(match facts.load {
        LoadState::NotFound => {
            vec![Found::problem(format!("there is no unit {name}"), why, examined.init())]
        }
        LoadState::Masked => {
            vec![Found::problem(format!("{name} is masked"), why, format!("systemctl unmask {name}"))]
        }
        LoadState::Bad => {
            let error = facts.load_error.unwrap_or_default();
            let what = format!("systemd cannot use {name}: {error}");
            vec![Found::problem(what, why, format!("systemctl edit --full {name}"))]
        }
        LoadState::Loaded if facts.needs_reload => vec![Found::problem(
            format!("the files of {name} have changed since systemd read them"),
            "systemd still goes by what they said before, until the next boot brings a surprise",
            "systemctl daemon-reload",
        )],
        LoadState::Loaded => Vec::new(),
    })
}

/// The unit goes by the fence.
pub(super) fn fence(examined: &Examined, unit: &Unit) -> Findings {
    let Some(facts) = &unit.facts else { return Ok(Vec::new()) };
    super::refused(
        dropin::check(&examined.layout, &unit.name, facts),
        "after a failed refresh a reboot or a person would start the half-updated application; a run is refused until then",
    )
}

/// Its files hold nothing that systemd or people stumble over.
pub(super) fn text(_: &Examined, unit: &Unit) -> Findings {
    let mut flawed = Vec::new();
    let mut told = Vec::new();
    for path in unit.fragment.iter().chain(&unit.drop_ins) {
        let bytes = disk::read_if_there(path)?.unwrap_or_default();
        if let Some(what) = blemish(&bytes) {
            flawed.push(path.display().to_string());
            told.push(format!("{} has {what}", path.display()));
        }
    }
    if flawed.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Found::problem(
        some_of(&told),
        "systemd passes over them, other programs do not: a path that is cut out of the unit ends in a carriage return",
        format!("{} && systemctl daemon-reload", cleaning(&flawed)),
    )])
}

/// The installed unit says what the one in the repository says.
pub(super) fn drift(examined: &Examined, unit: &Unit) -> Findings {
    let (Some(fragment), Some(commit)) = (&unit.fragment, examined.commit()?) else { return Ok(Vec::new()) };
    let mirror = &examined.opened()?.mirror;
    let brought = match host::unit::of_commit(mirror, &commit, &unit.name) {
        Ok(None) => return Ok(Vec::new()),
        Ok(Some(brought)) => brought,
        Err(failure) => {
            // Without a hint the mirror could not be read.
            let Some(by_hand) = failure.hints().pop() else { return Err(failure) };
            let why = "nobody can tell which of them is meant, so the installed one is compared with none";
            return Ok(vec![Found::note(failure.chain().join(": "), why, by_hand)]);
        }
    };
    let path = &brought.path;
    let theirs = UnitFile::parse(brought.text.as_bytes());
    let installed = UnitFile::parse(&disk::read_if_there(fragment)?.unwrap_or_default());
    let different = differences(&installed, &theirs);
    if different.is_empty() {
        return Ok(Vec::new());
    }
    let mut what = format!(
        "{} differs from {} of {} in {}",
        fragment.display(),
        path.display(),
        commit.short(),
        some_of(&different)
    );
    let mut repair = format!(
        "git --git-dir={} show {}:{}",
        quoted(&mirror.path().display().to_string()),
        commit.short(),
        quoted(&path.display().to_string())
    );
    // What `init` would not install nobody is told to install.
    if let Some(first) = brought.not_accepted().first() {
        what = format!("{what}; the repository's is not to be installed, since {first}");
    } else {
        let fragment = quoted(&fragment.display().to_string());
        repair = format!("{repair} >{fragment} && systemctl daemon-reload");
    }
    let why = "the unit in the repository is what the application was tried with; no refresh installs it";
    Ok(vec![Found::problem(what, why, repair)])
}

/// The keys that two unit files do not say the same of.
fn differences(one: &UnitFile, other: &UnitFile) -> Vec<String> {
    let keys: BTreeSet<(&str, &str)> = one
        .assignments
        .iter()
        .chain(&other.assignments)
        .map(|it| (it.section.as_str(), it.key.as_str()))
        .collect();
    let words = |file: &UnitFile, section: &str, key: &str| -> Vec<Vec<String>> {
        let values = file.list(section, key).into_iter();
        values.map(|value| value.split_whitespace().map(str::to_owned).collect()).collect()
    };
    keys.into_iter()
        .filter(|(section, key)| words(one, section, key) != words(other, section, key))
        .map(|(section, key)| format!("{key}= of [{section}]"))
        .collect()
}

/// What people changed by drop-ins is told.
#[expect(clippy::unnecessary_wraps, reason = "every check answers in the same way")]
pub(super) fn drop_ins_of_people(examined: &Examined, unit: &Unit) -> Findings {
    let ours = examined.layout.drop_in(&unit.name);
    let theirs: Vec<String> =
        unit.drop_ins.iter().filter(|path| **path != ours).map(|path| path.display().to_string()).collect();
    if theirs.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Found::note(
        format!("{} is changed by {}", unit.name, some_of(&theirs)),
        "what the unit's own file says, and what the repository says, is not all that counts",
        format!("systemctl cat {}", unit.name),
    )])
}

/// A path as the unit spells it: the contract's, also where the installation lies below a root.
fn spelled(layout: &Layout, path: &Path) -> PathBuf {
    path.strip_prefix(layout.root()).map_or_else(|_| path.to_path_buf(), |path| Path::new("/").join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_spacing_are_no_differences_and_values_are() {
        let one = UnitFile::parse(b"# old\n[Service]\nExecStart=/a  --b \\\n --c\nUser=u\n");
        let other = UnitFile::parse(b"[Service]\nExecStart = /a --b --c\nUser=v\nRestart=always\n");
        assert_eq!(differences(&one, &other), ["Restart= of [Service]", "User= of [Service]"]);
    }

    #[test]
    fn of_drop_ins_with_one_name_the_first_folder_counts() {
        let root = tempfile::tempdir().unwrap();
        let directories = ["etc", "lib"].map(|name| root.path().join(name));
        for (directory, name) in [(0, "50-a.conf"), (1, "50-a.conf"), (1, "10-b.conf"), (1, "note.txt")] {
            let place = directories[directory].join("x.service.d");
            disk::make_directory(&place, 0o755).unwrap();
            disk::write_atomic(&place.join(name), b"", 0o644).unwrap();
        }
        let found = drop_ins(&directories, &UnitName::parse("x.service").unwrap());
        assert_eq!(
            found,
            [directories[1].join("x.service.d/10-b.conf"), directories[0].join("x.service.d/50-a.conf")]
        );
    }
}
