//! Confinement without systemd: on hosts without it, and for installations with `--root`. The launcher is this same
//! program: the process to confine gives up its own rights, then answers or becomes another program. The module touches
//! the process that it runs in, and nothing else.
//!
//! [`super::Units`] has started it in its own session, without descriptors of the caller, and with the ids of its user
//! if the caller is root.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, path_beneath_rules,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use serde::{Deserialize, Serialize};

use refresh_settings::layout::Layout;
use refresh_system::error::{Context as _, Outcome};

/// The version of Landlock whose rights are given up: with it (Linux 6.2) files can be neither written nor truncated,
/// and renames between writable directories still work. Older kernels (5.13) remove the rights that they support.
const LANDLOCK: ABI = ABI::V3;

/// Devices that every program may write to.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm"];

/// The restrictions of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Confinement {
    /// The directories and files that remain writable; the rest of the file system becomes read-only.
    pub(super) writable: Vec<PathBuf>,
    /// Whether it gives way to other processes.
    pub(super) gives_way: bool,
}

/// Gives up the rights of this process, for itself and for all processes that it starts. Must be called before any
/// thread is started.
///
/// # Errors
/// The kernel refuses to set `no_new_privs`.
pub(super) fn confine(confinement: &Confinement) -> Outcome<()> {
    rustix::thread::set_no_new_privs(true).context(|| "cannot give up new privileges".to_owned())?;
    if confinement.gives_way {
        // Not essential: the kernel may refuse.
        let _ = rustix::process::nice(10);
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    restrict(&confinement.writable).context(|| "Landlock refuses the writable directories".to_owned())?;
    // After all accesses to /proc/self: it belongs to root from here on.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    Ok(())
}

/// Makes everything except `writable` and a few devices read-only, as far as the kernel can.
fn restrict(writable: &[PathBuf]) -> Result<RulesetStatus, landlock::RulesetError> {
    let rights = AccessFs::from_write(LANDLOCK);
    let devices = DEVICES.map(PathBuf::from);
    let status = Ruleset::default()
        .handle_access(rights)?
        .create()?
        .add_rules(path_beneath_rules(writable.iter().chain(&devices), rights))?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// Returns whether this kernel has the Landlock version that [`confine`] needs. The check restricts nothing.
pub(super) fn is_landlock_here() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(LANDLOCK))
        .and_then(Ruleset::create)
        .is_ok()
}

/// Returns the existing paths of `paths`.
pub(super) fn that_exist(paths: &[PathBuf]) -> Vec<PathBuf> {
    paths.iter().filter(|path| Path::exists(path)).cloned().collect()
}

/// Returns the restrictions that are not in force without systemd, a sentence each.
pub(super) fn missing(layout: &Layout) -> Vec<String> {
    let why = if layout.is_real() { "without systemd" } else { "below --root" };
    let mut all = vec![
        format!("{why} units share the network, the processes and the limits of the caller"),
        format!("{why} units can change the mode and the times of every file of their user"),
    ];
    if !is_landlock_here() {
        all.push("this kernel has no Landlock: units write wherever their user may".to_owned());
    }
    all
}
