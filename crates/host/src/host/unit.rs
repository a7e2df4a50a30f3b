//! The unit of the service: found in the repository, or made by the deployment contract. An installed one is never
//! overwritten.

use std::path::{Path, PathBuf};

use refresh_git::history::EntryKind;
use refresh_git::mirror::Mirror;
use refresh_service::systemd::elsewhere::{self, Elsewhere};
use refresh_settings::Settings;
use refresh_settings::layout::Layout;
use refresh_settings::names::{CommitId, UnitName};
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};
use refresh_system::text::{quoted, quoted_path};

use super::{Host, Need, unit_text};

pub(super) fn check_unit(host: &Host) -> Outcome<Need> {
    let unit = &host.input.settings.service.unit;
    Ok(match (installed(&host.layout, unit), template_of(unit)) {
        (Some(path), _) => Need::Fits(format!("left {} as it is", path.display())),
        // A complete unit with the name of an instance would take precedence over the template, from which other
        // instances are made.
        (None, Some(template)) => {
            let what = format!("{unit} is an instance of {template}, which does not exist");
            let units = host.layout.host_units();
            return Err(Failure::new(what).hint(format!("install {template} in {}", units.display())));
        }
        (None, None) => match elsewhere::find(&host.layout, unit, &host.input.settings.service.also) {
            Some(found) => return Err(of_another_name(&host.layout, unit, found)),
            None => Need::Needed(format!("install {unit}, generated from the settings")),
        },
    })
}

/// Returns the failure that the application has a unit with another name: a second unit would start it twice, on one
/// port.
fn of_another_name(layout: &Layout, unit: &UnitName, found: Elsewhere) -> Failure {
    Failure::new(format!("{unit} does not exist, and the application has another unit"))
        .because(Failure::new(found.what))
        .hint(found.repair)
        .hint(format!(
            "or, if it is another part of the application, add it to `also` under [service] in {}",
            quoted_path(&layout.host_file())
        ))
}

pub(super) fn apply_unit(host: &Host) -> Outcome<String> {
    let path = host.layout.package_units().join(host.input.settings.service.unit.as_str());
    disk::make_directory(&host.layout.package_units(), 0o755)?;
    disk::write_atomic(&path, unit_text::default_unit(&host.input.settings).as_bytes(), 0o644)?;
    Ok(format!("installed {}, generated from the settings; you can change it", path.display()))
}

/// Returns the file of an installed unit, or the template that it is an instance of: the one that systemd uses, if
/// there are several. A masked unit counts as installed. Source: systemd.unit(5), the unit search path.
pub(crate) fn installed(layout: &Layout, unit: &UnitName) -> Option<PathBuf> {
    let more = ["run/systemd/system", "usr/local/lib/systemd/system", "lib/systemd/system"];
    let [run, local, lib] = more.map(|directory| layout.root().join(directory));
    let directories = [layout.host_units(), run, local, layout.package_units(), lib];
    let names = std::iter::once(unit.to_string()).chain(template_of(unit));
    let mut places = names.flat_map(|name| directories.each_ref().map(|directory| directory.join(&name)));
    places.find(|path| path.symlink_metadata().is_ok())
}

/// Returns the template that an instance is made from: `x@.service` for `x@1.service`.
fn template_of(unit: &UnitName) -> Option<String> {
    let (stem, _) = unit.as_str().split_once('@')?;
    Some(format!("{stem}@.service"))
}

/// A unit in a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommittedUnit {
    /// Its path in the tree.
    pub(crate) path: PathBuf,
    /// Its text, as it would be installed.
    pub(crate) text: String,
}

/// Reads the unit from a commit; `None` if it has none.
///
/// # Errors
/// The commit has several, or one that is not a regular file.
pub(crate) fn of_commit(
    mirror: &Mirror,
    commit: &CommitId,
    unit: &UnitName,
) -> Outcome<Option<CommittedUnit>> {
    let files = mirror.files(commit)?;
    let mut named = files
        .iter()
        .filter(|entry| entry.path.file_name().is_some_and(|name| name == unit.as_str()))
        .filter(|entry| matches!(entry.kind, EntryKind::Regular | EntryKind::Executable));
    let Some(entry) = named.next() else { return Ok(None) };
    if let Some(second) = named.next() {
        return Err(Failure::new(format!(
            "{} brings {unit} more than once: {} and {}",
            commit.short(),
            entry.path.display(),
            second.path.display()
        ))
        .hint("choose one, then install it yourself:")
        .hint(by_hand(mirror.path(), commit, &entry.path, unit)));
    }
    let bytes = mirror.read(commit, &entry.path)?.unwrap_or_default();
    Ok(Some(CommittedUnit { path: entry.path.clone(), text: unit_text::normalize(&bytes) }))
}

impl CommittedUnit {
    /// Returns the parts of it that are not accepted, because they give more rights than the application needs; an
    /// empty list if it can be installed.
    pub(crate) fn not_accepted(&self) -> Vec<String> {
        unit_text::not_accepted(&self.text)
    }
}

/// Returns the command with which people install a unit of the repository themselves.
fn by_hand(mirror: &Path, commit: &CommitId, path: &Path, unit: &UnitName) -> String {
    format!(
        "git --git-dir={} show {} >{}",
        quoted_path(mirror),
        quoted(&format!("{}:{}", commit.short(), path.display())),
        quoted_path(&Path::new("/etc/systemd/system").join(unit.as_str()))
    )
}

/// Compares a unit that `init` made with the one that it would make now; `None` if they are the same or people wrote
/// it.
pub(crate) fn drift(installed: &Path, settings: &Settings) -> Outcome<Option<String>> {
    let Some(bytes) = disk::read_if_there(installed)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let is_same = text.trim_end() == unit_text::default_unit(settings).trim_end();
    let is_made = text.starts_with(unit_text::SIGNATURE);
    Ok((is_made && !is_same).then(|| format!("{} is not what init would write now", installed.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_unit_stays_one_word_of_the_command_that_installs_it() {
        let commit = CommitId::parse(&"0123456789".repeat(4)).unwrap();
        let path = Path::new("a';touch /tmp/x;'/ladylinux-api.service");
        assert_eq!(
            by_hand(Path::new("/var/lib/m.git"), &commit, path, &UnitName::usual()),
            r"git --git-dir=/var/lib/m.git show '0123456789:a'\'';touch /tmp/x;'\''/ladylinux-api.service' \
              >/etc/systemd/system/ladylinux-api.service"
                .replace("\\\n              ", "")
        );
    }

    #[test]
    fn an_instance_is_installed_beside_its_template_and_gets_no_separate_unit() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        let unit = UnitName::parse("lady@1.service").unwrap();
        assert_eq!(template_of(&unit).as_deref(), Some("lady@.service"));
        assert_eq!(installed(&layout, &unit), None);
        let template = layout.host_units().join("lady@.service");
        disk::make_directory(&layout.host_units(), 0o755).unwrap();
        disk::write_atomic(&template, b"[Service]\nExecStart=/bin/true\n", 0o644).unwrap();
        assert_eq!(installed(&layout, &unit), Some(template));
        assert_eq!(template_of(&UnitName::usual()), None);
    }
}
