//! The users that units run as, and the file from which systemd creates them (sysusers.d(5)). The module reads
//! `/etc/passwd`.

use super::table::User;
use refresh_settings::layout::Layout;
use refresh_settings::users::{BUILDER, STAGING};
use refresh_system::disk::Owner;
use refresh_system::error::{Failure, Outcome};

/// Returns the text of `/usr/lib/sysusers.d/ladylinux-refresh.conf`, which creates both users, each with a group.
pub fn sysusers() -> String {
    format!(
        "# Written by ladylinux-refresh init.\n\
         u {BUILDER} - \"LadyLinux refresh, mirror and environments\" /opt/ladylinux-refresh /usr/sbin/nologin\n\
         u {STAGING} - \"LadyLinux refresh, rehearsals\" / /usr/sbin/nologin\n"
    )
}

/// Returns the user and group of a unit of `user`. `service` is the owner of `app/`. With `--root` the tool's own work
/// belongs to the caller.
///
/// # Errors
/// The user does not exist on this machine.
pub(crate) fn resolve(layout: &Layout, user: User, service: Owner) -> Outcome<Owner> {
    let name = match user {
        User::Service => return Ok(service),
        User::Staging if !layout.is_real() => return Ok(service),
        User::Builder if !layout.is_real() => return Ok(Owner::own()),
        User::Builder => BUILDER,
        User::Staging => STAGING,
    };
    Owner::named(name)?.ok_or_else(|| {
        Failure::new(format!("this machine has no user {name}")).command("ladylinux-refresh init", &[])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_a_root_no_user_has_to_exist() {
        let (layout, service) = (Layout::below("/trial"), Owner { uid: 7, gid: 8 });
        assert_eq!(resolve(&layout, User::Service, service).unwrap(), service);
        assert_eq!(resolve(&layout, User::Staging, service).unwrap(), service);
        assert_eq!(resolve(&layout, User::Builder, service).unwrap(), Owner::own());
    }

    #[test]
    fn both_users_are_made_without_a_shell() {
        let text = sysusers();
        let users: Vec<&str> = text.lines().filter(|line| line.starts_with("u ")).collect();
        assert_eq!(users.len(), 2);
        assert!(users.iter().all(|line| line.ends_with(" /usr/sbin/nologin")), "{text}");
    }
}
