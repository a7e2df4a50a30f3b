//! The system user and group that own the application, and this program's own users. Starts `useradd`,
//! `systemd-sysusers` and `userdel`.

use std::fs;

use refresh_programs::process::{Program, Runner};
use refresh_programs::units::users;
use refresh_settings::users::SERVICE_USER;
use refresh_system::disk::Owner;
use refresh_system::environment;
use refresh_system::error::{Context as _, Failure, Outcome};

use super::{Host, Need};
use refresh_settings::users::{BUILDER, STAGING};

pub(super) fn check_service_user(_: &Host) -> Outcome<Need> {
    Ok(match Owner::named(SERVICE_USER)? {
        Some(user) if user.uid == 0 => {
            return Err(Failure::new(format!("the user {SERVICE_USER} is root by another name"))
                .hint(format!("getent passwd {SERVICE_USER}")));
        }
        Some(user) => Need::Fits(format!("left the user {SERVICE_USER} (uid {}) as it is", user.uid)),
        None => Need::Needed(format!("create the system user and group {SERVICE_USER}, which cannot log in")),
    })
}

pub(super) fn apply_service_user(host: &Host) -> Outcome<String> {
    let useradd = environment::find_program("useradd", true)
        .ok_or_else(|| Failure::new("useradd is missing").command("apt-get install passwd", &[]))?;
    let home = host.layout.home();
    let mut program = Program::new(useradd).args(["--system", "--no-create-home", "--shell"]);
    program = program.arg("/usr/sbin/nologin").arg("--home-dir").arg(home);
    // If a group of that name exists already, it is used.
    program =
        if group_is_there()? { program.args(["--gid", SERVICE_USER]) } else { program.arg("--user-group") };
    host.runner
        .run(&program.arg(SERVICE_USER))?
        .ok(|| format!("cannot make the system user {SERVICE_USER}"))?;
    let user = super::service_user()?;
    Ok(format!("created the system user {SERVICE_USER} (uid {}, gid {})", user.uid, user.gid))
}

/// This program's own users, by name.
pub(super) const OWN_USERS: [&str; 2] = [BUILDER, STAGING];

/// Returns the own users that exist, or those that do not.
fn own_users(exist: bool) -> Outcome<Vec<&'static str>> {
    let mut found = Vec::new();
    for name in OWN_USERS {
        if Owner::named(name)?.is_some() == exist {
            found.push(name);
        }
    }
    Ok(found)
}

/// Creates the own users that do not exist, and returns them.
///
/// # Errors
/// They cannot be created.
pub(super) fn create_own_users(runner: &Runner) -> Outcome<Vec<&'static str>> {
    let missing = own_users(false)?;
    if !missing.is_empty() {
        let sysusers = environment::find_program("systemd-sysusers", true).ok_or_else(|| {
            Failure::new("systemd-sysusers is missing").command("apt-get install systemd", &[])
        })?;
        let program = Program::new(sysusers).arg("-").input(users::sysusers().into_bytes());
        runner.run(&program)?.ok(|| format!("cannot make the system users {}", missing.join(", ")))?;
    }
    Ok(missing)
}

/// Removes the own users with their groups.
///
/// # Errors
/// One of them cannot be removed.
pub(super) fn remove_own_users(runner: &Runner) -> Outcome<()> {
    for name in own_users(true)? {
        let userdel = environment::find_program("userdel", true)
            .ok_or_else(|| Failure::new("userdel is missing").command("apt-get install passwd", &[]))?;
        runner
            .run(&Program::new(userdel).arg(name))?
            .ok(|| format!("cannot remove the system user {name}"))?;
    }
    Ok(())
}

pub(super) fn check_own_users(_: &Host) -> Outcome<Need> {
    let missing = own_users(false)?;
    Ok(if missing.is_empty() {
        Need::Fits(format!("left the system users {} as they are", OWN_USERS.join(", ")))
    } else {
        Need::Needed(format!("create the system users {}, which cannot log in", missing.join(", ")))
    })
}

pub(super) fn apply_own_users(host: &Host) -> Outcome<String> {
    Ok(format!(
        "created the system users {}, which cannot log in",
        create_own_users(&host.runner)?.join(", ")
    ))
}

fn group_is_there() -> Outcome<bool> {
    let groups = fs::read("/etc/group").context(|| "cannot read /etc/group".to_owned())?;
    let name = format!("{SERVICE_USER}:");
    Ok(String::from_utf8_lossy(&groups).lines().any(|line| line.starts_with(&name)))
}
