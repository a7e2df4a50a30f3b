//! The unit of the service: it exists, it equals the one of the repository, and it has the fence. [`words`] checks its
//! lines.
//!
//! If systemd runs, it reports the files of the unit; below a root, they are searched in the directories of systemd.

mod beside;
mod words;

pub(super) use beside::{also, reached, untied};
pub(super) use words::{kill_mode, paths, requirements, stop, user, variables};

use std::collections::BTreeSet;

use crate::host;
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::file::UnitFile;
use refresh_programs::systemd::unit::LoadState;
use refresh_service::systemd::{dropin, elsewhere};
use refresh_system::disk;
use refresh_system::text::quoted_path;

use super::unit_files::Unit;
use super::{DoctorFinding, Examined, Findings, blemish, cleaning, some_of};

/// Checks that systemd has the unit and can start it.
pub(super) fn there(examined: &Examined) -> Findings {
    if !examined.is_kept_by_systemd() {
        return Ok(Vec::new());
    }
    let name = &examined.settings.service.unit;
    let facts = Bus::connect()?.unit(name.as_str())?;
    let why = "systemd runs the service, so without a usable unit it does not start";
    Ok(match facts.load {
        LoadState::NotFound => {
            let what = format!("the unit {name} does not exist");
            let found = elsewhere::find(&examined.layout, name, &examined.settings.service.also);
            vec![match found {
                Some(found) => {
                    let repair = format!("{}, then: {}", found.repair, examined.init());
                    DoctorFinding::problem(format!("{what}; {}", found.what), why, repair)
                }
                None => DoctorFinding::problem(what, why, examined.init()),
            }]
        }
        LoadState::Masked => {
            vec![DoctorFinding::problem(format!("{name} is masked"), why, format!("systemctl unmask {name}"))]
        }
        LoadState::Bad => {
            let error = facts.load_error.unwrap_or_default();
            let what = format!("systemd cannot use {name}: {error}");
            vec![DoctorFinding::problem(what, why, format!("systemctl edit --full {name}"))]
        }
        LoadState::Loaded if facts.needs_reload => vec![DoctorFinding::problem(
            format!("the files of {name} have changed since systemd read them"),
            "systemd still uses their former content, and the next boot uses the new one",
            "systemctl daemon-reload",
        )],
        LoadState::Loaded => Vec::new(),
    })
}

/// Checks that the unit respects the fence.
pub(super) fn fence(examined: &Examined, unit: &Unit) -> Findings {
    let Some(facts) = &unit.facts else { return Ok(Vec::new()) };
    super::refused(
        dropin::check(&examined.layout, &unit.name, facts),
        "after a failed refresh a reboot or a person would start the half-updated application; a run is refused until then",
    )
}

/// Checks that its files contain nothing that systemd or people misread.
pub(super) fn text(_: &Examined, unit: &Unit) -> Findings {
    let mut flawed = Vec::new();
    let mut shown = Vec::new();
    for path in unit.fragment.iter().chain(&unit.drop_ins) {
        let bytes = disk::read_if_there(path)?.unwrap_or_default();
        if let Some(what) = blemish(&bytes) {
            flawed.push(path.display().to_string());
            shown.push(format!("{} has {what}", path.display()));
        }
    }
    if flawed.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![DoctorFinding::problem(
        some_of(&shown),
        "systemd passes over them, other programs do not: a path that is cut out of the unit ends in a carriage return",
        format!("{} && systemctl daemon-reload", cleaning(&flawed)),
    )])
}

/// Checks that the installed unit equals the one in the repository.
pub(super) fn drift(examined: &Examined, unit: &Unit) -> Findings {
    let (Some(fragment), Some(commit)) = (&unit.fragment, examined.commit()?) else { return Ok(Vec::new()) };
    let mirror = &examined.opened()?.mirror;
    let brought = match host::unit::of_commit(mirror, &commit, &unit.name) {
        Ok(None) => return Ok(Vec::new()),
        Ok(Some(brought)) => brought,
        Err(failure) => {
            // If there is no hint, the mirror could not be read.
            let Some(by_hand) = failure.hints().pop() else { return Err(failure) };
            let why = "the right one is unknown, so the installed one is compared with none";
            return Ok(vec![DoctorFinding::note(failure.chain().join(": "), why, by_hand.to_string())]);
        }
    };
    let path = &brought.path;
    let theirs = UnitFile::parse(brought.text.as_bytes());
    let installed = UnitFile::read([fragment])?;
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
    let mut repair =
        format!("git --git-dir={} show {}:{}", quoted_path(mirror.path()), commit.short(), quoted_path(path));
    // A unit that `init` would not install is not recommended.
    if let Some(first) = brought.not_accepted().first() {
        what = format!("{what}; the repository's is not to be installed, since {first}");
    } else {
        let fragment = quoted_path(fragment);
        repair = format!("{repair} >{fragment} && systemctl daemon-reload");
    }
    let why = "the unit in the repository is what the application was tried with; no refresh installs it";
    Ok(vec![DoctorFinding::problem(what, why, repair)])
}

/// Checks that a unit that `init` generated matches the present settings.
pub(super) fn settings(examined: &Examined, unit: &Unit) -> Findings {
    // This reads the file itself: systemd may not have read it yet.
    let Some(path) = host::unit::installed(&examined.layout, &unit.name) else { return Ok(Vec::new()) };
    let note = |what: String| {
        DoctorFinding::note(
            what,
            "an installed unit is yours and is never overwritten; the settings or this program have changed since",
            format!("rm {} && ladylinux-refresh init", quoted_path(&path)),
        )
    };
    Ok(host::unit::drift(&path, &examined.settings)?.map(note).into_iter().collect())
}

/// Returns the keys with different values in two unit files.
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

/// Reports drop-ins of users.
#[expect(clippy::unnecessary_wraps, reason = "every check answers in the same way")]
pub(super) fn drop_ins_of_people(examined: &Examined, unit: &Unit) -> Findings {
    let ours = examined.layout.drop_in(&unit.name);
    let theirs: Vec<String> =
        unit.drop_ins.iter().filter(|path| **path != ours).map(|path| path.display().to_string()).collect();
    if theirs.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![DoctorFinding::note(
        format!("{} is changed by {}", unit.name, some_of(&theirs)),
        "they override the file of the unit",
        format!("systemctl cat {}", unit.name),
    )])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_spacing_are_ignored_and_values_are_compared() {
        let one = UnitFile::parse(b"# old\n[Service]\nExecStart=/a  --b \\\n --c\nUser=u\n");
        let other = UnitFile::parse(b"[Service]\nExecStart = /a --b --c\nUser=v\nRestart=always\n");
        assert_eq!(differences(&one, &other), ["Restart= of [Service]", "User= of [Service]"]);
    }
}
