//! The system user and group that the application belongs to, and the users of this program's own. Starts `useradd`,
//! `systemd-sysusers` and `userdel`.

use std::fs;

use crate::error::{Context as _, Failure, Outcome};
use crate::process::{Owner, Program, Runner};
use crate::settings::environment;
use crate::units::users;

use super::{Host, Look, Measure, SERVICE_USER};

/// The dedicated user, who cannot log in.
pub(super) struct ServiceUser;

impl Measure for ServiceUser {
    fn look(&self, _host: &Host) -> Outcome<Look> {
        Ok(match Owner::named(SERVICE_USER)? {
            Some(user) if user.uid == 0 => {
                return Err(Failure::new(format!("the user {SERVICE_USER} is root by another name"))
                    .hint(format!("getent passwd {SERVICE_USER}")));
            }
            Some(user) => Look::Fits(format!("left the user {SERVICE_USER} (uid {}) as it is", user.uid)),
            None => Look::Needed(format!("make the system user and group {SERVICE_USER}, who cannot log in")),
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let useradd = environment::find_program("useradd", true)
            .ok_or_else(|| Failure::new("there is no useradd").hint("apt-get install passwd"))?;
        let home = host.layout.home();
        let mut program = Program::new(useradd).args(["--system", "--no-create-home", "--shell"]);
        program = program.arg("/usr/sbin/nologin").arg("--home-dir").arg(home);
        // A group of that name may be there already, and then is the one that is meant.
        program = if group_is_there()? {
            program.args(["--gid", SERVICE_USER])
        } else {
            program.arg("--user-group")
        };
        host.runner
            .run(&program.arg(SERVICE_USER))?
            .ok(|| format!("cannot make the system user {SERVICE_USER}"))?;
        let user = super::service_user()?;
        Ok(format!("made the system user {SERVICE_USER} (uid {}, gid {})", user.uid, user.gid))
    }
}

/// The users of this program's own, by name.
pub(super) const OWN_USERS: [&str; 2] = [users::BUILDER, users::STAGING];

/// The users of this program's own.
pub(super) struct OwnUsers;

impl OwnUsers {
    /// Returns those that are missing.
    fn missing() -> Outcome<Vec<&'static str>> {
        let mut missing = Vec::new();
        for name in OWN_USERS {
            if Owner::named(name)?.is_none() {
                missing.push(name);
            }
        }
        Ok(missing)
    }

    /// Makes those that are missing, and returns them.
    ///
    /// # Errors
    /// They cannot be made.
    pub(super) fn make(runner: &Runner) -> Outcome<Vec<&'static str>> {
        let missing = Self::missing()?;
        if !missing.is_empty() {
            let sysusers = environment::find_program("systemd-sysusers", true)
                .ok_or_else(|| Failure::new("systemd-sysusers is missing").hint("apt-get install systemd"))?;
            let program = Program::new(sysusers).arg("-").input(users::sysusers().into_bytes());
            runner.run(&program)?.ok(|| format!("cannot make the system users {}", missing.join(", ")))?;
        }
        Ok(missing)
    }

    /// Removes them with their groups, and returns those that were there.
    ///
    /// # Errors
    /// One of them cannot be removed.
    pub(super) fn remove(runner: &Runner) -> Outcome<Vec<&'static str>> {
        let mut removed = Vec::new();
        for name in OWN_USERS {
            if Owner::named(name)?.is_none() {
                continue;
            }
            let userdel = environment::find_program("userdel", true)
                .ok_or_else(|| Failure::new("userdel is missing").hint("apt-get install passwd"))?;
            runner
                .run(&Program::new(userdel).arg(name))?
                .ok(|| format!("cannot remove the system user {name}"))?;
            removed.push(name);
        }
        Ok(removed)
    }
}

impl Measure for OwnUsers {
    fn look(&self, _host: &Host) -> Outcome<Look> {
        let missing = Self::missing()?;
        Ok(if missing.is_empty() {
            Look::Fits(format!("left the system users {} as they are", OWN_USERS.join(", ")))
        } else {
            Look::Needed(format!("make the system users {}, who cannot log in", missing.join(", ")))
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        Ok(format!("made the system users {}, who cannot log in", Self::make(&host.runner)?.join(", ")))
    }
}

fn group_is_there() -> Outcome<bool> {
    let groups = fs::read("/etc/group").context(|| "cannot read /etc/group".to_owned())?;
    let name = format!("{SERVICE_USER}:");
    Ok(String::from_utf8_lossy(&groups).lines().any(|line| line.starts_with(&name)))
}

/// Returns the shell that the service user could log in with, where there is one. Source: passwd(5).
pub(super) fn login_shell() -> Option<String> {
    let text = fs::read("/etc/passwd").ok()?;
    shell_in(&String::from_utf8_lossy(&text))
}

fn shell_in(passwd: &str) -> Option<String> {
    let name = format!("{SERVICE_USER}:");
    let line = passwd.lines().find(|line| line.starts_with(&name))?;
    let shell = line.split(':').nth(6).filter(|shell| !shell.is_empty()).unwrap_or("/bin/sh");
    let program = shell.rsplit('/').next().unwrap_or_default();
    (!["nologin", "false", "true", "sync"].contains(&program)).then(|| shell.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_that_lets_nobody_in_is_none() {
        let line = |shell: &str| format!("root:x:0:0:root:/root:/bin/bash\nladylinux:x:99:99::/x:{shell}\n");
        assert_eq!(shell_in(&line("/usr/sbin/nologin")), None);
        assert_eq!(shell_in(&line("/bin/false")), None);
        assert_eq!(shell_in(&line("/bin/bash")).as_deref(), Some("/bin/bash"));
        assert_eq!(shell_in(&line("")).as_deref(), Some("/bin/sh"), "an empty field is the usual shell");
    }
}
