//! The host's file and the environment file of the service, if they are missing. An existing one is never overwritten.
#![expect(clippy::unnecessary_wraps, reason = "every step answers in the same way")]

use std::path::PathBuf;

use refresh_settings::layout::Layout;
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
    disk::write_atomic(&written_host_file(&host.layout), host.input.text.as_bytes(), 0o644)?;
    disk::write_atomic(&path, host.input.text.as_bytes(), 0o644)?;
    Ok(format!("wrote {}", path.display()))
}

/// Returns the copy of the host's file as `init` wrote it: `init --undo` leaves a file that people have changed.
pub(super) fn written_host_file(layout: &Layout) -> PathBuf {
    layout.state().join("refresh.toml")
}

pub(super) fn check_env_file(host: &Host) -> Outcome<Need> {
    let path = host.layout.env_file();
    Ok(if path.symlink_metadata().is_ok() {
        Need::Fits(format!("left {} as it is", path.display()))
    } else {
        Need::Needed(format!("write {}", path.display()))
    })
}

/// Writes the environment file. It belongs to the service user: the application writes its tokens into it, and only
/// processes of that user (the service and the hooks) get its content. Other users cannot read it.
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
