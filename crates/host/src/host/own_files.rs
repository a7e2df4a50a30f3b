//! This program's own files outside its state and its store: units, drop-in, users, entries for each boot, the hook of
//! apt. Only writes and removes them.

use std::path::{Path, PathBuf};

use refresh_programs::systemd::sandbox;
use refresh_programs::units::users;
use refresh_run::relay::places;
use refresh_service::systemd::dropin;
use refresh_settings::Service;
use refresh_settings::layout::Layout;
use refresh_settings::users::SERVICE_USER;
use refresh_system::disk;
use refresh_system::error::Outcome;

/// The unit that waits for requests.
pub(super) const REQUESTS: &str = "ladylinux-refresh-request.path";

/// The timer, which is off until people enable it.
pub(super) const TIMER: &str = "ladylinux-refresh.timer";

/// The units, by name.
pub(super) const UNIT_NAMES: [&str; 4] =
    [REQUESTS, "ladylinux-refresh-request.service", TIMER, "ladylinux-refresh.service"];

/// Their texts, with `@PROGRAM@` for the program's path and `@SANDBOX@` for its restrictions by the kernel.
const UNIT_TEXTS: [&str; 4] = [
    include_str!("units/ladylinux-refresh-request.path"),
    include_str!("units/ladylinux-refresh-request.service"),
    include_str!("units/ladylinux-refresh.timer"),
    include_str!("units/ladylinux-refresh.service"),
];

/// A file of this program, which is updated whenever necessary.
#[derive(Debug, Clone)]
pub(super) struct OwnFile {
    /// Its path.
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// The state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It exists with the right text.
    Right,
    /// It has a different text.
    Other,
    /// It does not exist.
    Missing,
}

impl OwnFile {
    /// Reads its state.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn state(&self) -> Outcome<State> {
        Ok(match disk::read_if_there(&self.path)? {
            Some(bytes) if bytes == self.text.as_bytes() => State::Right,
            Some(_) => State::Other,
            None => State::Missing,
        })
    }

    /// Writes it, atomically.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self) -> Outcome<()> {
        if let Some(directory) = self.path.parent() {
            disk::make_directory(directory, 0o755)?;
        }
        disk::write_atomic(&self.path, self.text.as_bytes(), 0o644)
    }
}

/// Returns all files for the units of the `service` and the `program` that root's units run.
pub(super) fn all(layout: &Layout, service: &Service, program: &Path) -> Vec<OwnFile> {
    let program = program.display().to_string();
    let own_tmp = !places::is_below_tmp(&program);
    let kept_from = sandbox::lines(&places::of_refresh(layout, own_tmp));
    let mut files = vec![
        OwnFile { path: layout.sysusers(), text: users::sysusers() },
        OwnFile { path: layout.tmpfiles(), text: tmpfiles(layout) },
    ];
    // The same fence blocks units that are stopped and started with the service.
    let kept_down = [&service.unit].into_iter().chain(&service.also);
    files.extend(
        kept_down.map(|unit| OwnFile { path: layout.drop_in(unit), text: dropin::text(layout, unit) }),
    );
    files.extend(UNIT_NAMES.into_iter().zip(UNIT_TEXTS).map(|(name, text)| OwnFile {
        path: layout.package_units().join(name),
        text: text.replace("@PROGRAM@", &program).replace("@SANDBOX@\n", &kept_from),
    }));
    if has_apt(layout) {
        files.push(OwnFile { path: layout.apt_hook(), text: apt_hook(&program) });
    }
    files
}

/// Returns whether apt manages the packages of the machine.
pub(crate) fn has_apt(layout: &Layout) -> bool {
    layout.apt_hook().parent().is_some_and(Path::is_dir)
}

/// Returns the entry that makes apt report a replaced Python after each change of packages (apt.conf(5)). It changes
/// nothing, and neither a missing program nor a failure or a delay of it hinders apt.
fn apt_hook(program: &str) -> String {
    format!(
        "// Written by ladylinux-refresh; changes are overwritten.\n\
         DPkg::Post-Invoke {{ \"if test -x {program}; then timeout -k 5 20 {program} status --if-python-changed \
         </dev/null 2>/dev/null || true; fi\"; }};\n"
    )
}

/// Returns the entry for every boot: the directory in which the application puts its requests (tmpfiles.d(5)).
fn tmpfiles(layout: &Layout) -> String {
    format!(
        "# Written by ladylinux-refresh; changes are overwritten.\n\
         d {} 0755 root root -\n\
         d {} 0700 {SERVICE_USER} {SERVICE_USER} -\n",
        layout.volatile().display(),
        layout.requests().display()
    )
}
