//! The host's file and the service's env file, where they are missing. Neither is ever written a second time.
#![expect(clippy::unnecessary_wraps, reason = "every step answers in the same way")]

use refresh_system::disk;
use refresh_system::error::Outcome;

use super::{Host, Need};

pub(super) fn check_host_file(host: &Host) -> Outcome<Need> {
    let path = host.layout.host_file();
    Ok(if path.exists() {
        Need::Fits(format!("left {} as it is", path.display()))
    } else {
        Need::Needed(format!("write {}", path.display()))
    })
}

pub(super) fn apply_host_file(host: &Host) -> Outcome<String> {
    let path = host.layout.host_file();
    disk::write_atomic(&path, host.input.text.as_bytes(), 0o644)?;
    Ok(format!("wrote {}", path.display()))
}

pub(super) fn check_env_file(host: &Host) -> Outcome<Need> {
    let path = host.layout.env_file();
    Ok(if path.symlink_metadata().is_ok() {
        Need::Fits(format!("left {} as it is", path.display()))
    } else {
        Need::Needed(format!("write {}", path.display()))
    })
}

/// Writes the env file. It belongs to the service user: the application writes its tokens into it, and its content reaches
/// only processes of that same user (the service and the hooks). Others cannot read it.
pub(super) fn apply_env_file(host: &Host) -> Outcome<String> {
    let path = host.layout.env_file();
    let text = format!(
        "# Runtime configuration of the service; no refresh ever writes here.\nLADYLINUX_PORT={}\n\
         LADYLINUX_DATA=\"{}\"\n",
        host.input.port,
        host.layout.data()[0].display()
    );
    disk::write_atomic(&path, text.as_bytes(), 0o640)?;
    disk::give(&path, &host.owner()?)?;
    Ok(format!("wrote {}", path.display()))
}
