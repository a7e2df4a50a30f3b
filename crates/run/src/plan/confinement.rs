//! Checks that the table of units is in force on this host, if the settings of the host require that. Read-only: it
//! reads the version of systemd and the Landlock support of the kernel.

use refresh_events::run_report::Enforcement;
use refresh_installation::installation::Installation;
use refresh_system::error::{Failure, Outcome};

/// Refuses a host that does not enforce the entire table of units, if `security.require` is set. Starts no unit.
///
/// # Errors
/// Something is missing, or systemd cannot be queried.
pub fn check(on: &Installation) -> Outcome<()> {
    if !on.settings.security.require {
        return Ok(());
    }
    let Enforcement::Missing(missing) = on.units.enforcement()? else { return Ok(()) };
    let file = on.layout.host_file();
    let failure = Failure::new("this host does not confine units as security.require asks for")
        .because(Failure::new(missing.join("; ")));
    let failure = if on.layout.is_real() {
        failure.command("systemctl --version", &[])
    } else {
        failure.hint("refresh the installation of a machine with systemd, without --root, as root")
    };
    Err(failure.hint(format!(
        "or accept the missing parts: set `require = false` under [security] in {}",
        file.display()
    )))
}
