//! The host's file and the service's env file, where they are missing. Neither is ever written a second time.

use crate::disk;
use crate::error::Outcome;

use super::{Host, Look, Measure};

/// `/etc/ladylinux/refresh.toml`
pub(super) struct HostFile;

impl Measure for HostFile {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let path = host.layout.host_file();
        Ok(if path.exists() {
            Look::Fits(format!("left {} as it is", path.display()))
        } else {
            Look::Needed(format!("write {}", path.display()))
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let path = host.layout.host_file();
        disk::write_atomic(&path, host.given.text.as_bytes(), 0o644)?;
        Ok(format!("wrote {}", path.display()))
    }
}

/// `/etc/ladylinux/ladylinux.env`
///
/// A new one belongs to the service user: the application writes its tokens into it, and what stands in it reaches
/// nothing but processes of that same user (the service and the hooks). Others cannot read it.
pub(super) struct EnvFile;

impl Measure for EnvFile {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let path = host.layout.env_file();
        Ok(if path.symlink_metadata().is_ok() {
            Look::Fits(format!("left {} as it is", path.display()))
        } else {
            Look::Needed(format!("write {}", path.display()))
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let path = host.layout.env_file();
        let text = format!(
            "# Runtime configuration of the service; no refresh ever writes here.\nLADYLINUX_PORT={}\n\
             LADYLINUX_DATA=\"{}\"\n",
            host.given.port,
            host.layout.data()[0].display()
        );
        disk::write_atomic(&path, text.as_bytes(), 0o640)?;
        disk::give(&path, &host.owner()?)?;
        Ok(format!("wrote {}", path.display()))
    }
}
