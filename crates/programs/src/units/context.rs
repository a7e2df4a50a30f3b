//! The values that each unit needs: the paths, the runner and the owner of `app/`.

use std::path::PathBuf;

use super::options::UnitOptions;
use super::table::Role;
use super::{program, users};
use crate::process::Runner;
use crate::systemd as manager;
use refresh_settings::layout::Layout;
use refresh_system::clock;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Failure, Outcome};

/// The values that units of one installation are started with.
#[derive(Debug, Clone)]
pub(super) struct UnitContext {
    pub(super) layout: Layout,
    pub(super) runner: Runner,
    /// The owner of `app/`.
    pub(super) service: Owner,
}

impl UnitContext {
    /// Returns the name of a role's user, for messages.
    pub(super) fn user_name(&self, role: Role) -> String {
        let Ok(user) = self.user_of(role) else { return role.to_string() };
        user.name().unwrap_or_else(|| user.uid.to_string())
    }

    /// Returns the failure that each unit for `operation` was ended before it could answer. It names the users who can
    /// have done that.
    pub(super) fn ended_by_others(&self, options: &UnitOptions, operation: &str, times: usize) -> Failure {
        let user = self.user_name(options.role);
        let cause = format!(
            "only root, the kernel for want of memory, or a process of {user} can do that: the service, or one that \
             its user started elsewhere"
        );
        Failure::new(format!("the unit for {operation} was ended by a signal {times} times"))
            .because(Failure::new(cause))
            .command("ps -o pid,unit,args -u", &[&user])
    }

    /// Returns the user of a unit of this role.
    ///
    /// # Errors
    /// The user does not exist on this machine.
    pub(super) fn user_of(&self, role: Role) -> Outcome<Owner> {
        users::resolve(&self.layout, role.user(), self.service)
    }

    /// Returns whether systemd runs the units here.
    pub(super) fn in_systemd(&self) -> bool {
        self.layout.is_real() && manager::is_booted() && rustix::process::geteuid().is_root()
    }

    /// Returns the file that a unit of `user` executes: if that is another user, a file that this user cannot read.
    pub(super) fn program_for(&self, user: Owner) -> Outcome<PathBuf> {
        let (own, program) = (rustix::process::geteuid(), self.runner.own_program());
        if own.is_root() && own.as_raw() != user.uid && self.layout.state().is_dir() {
            return program::ensure(&self.layout, program);
        }
        Ok(program.to_path_buf())
    }

    /// Returns the file that a unit of systemd executes: the copy in the state, or this program's own file before the
    /// state exists.
    pub(super) fn program_of_unit(&self) -> Outcome<PathBuf> {
        let own = self.runner.own_program();
        if self.layout.state().is_dir() {
            return program::ensure(&self.layout, own);
        }
        own.canonicalize().context(|| format!("cannot find the file of {}", own.display()))
    }

    /// Makes a directory for `user` below `/run/ladylinux-refresh` that no other process uses.
    pub(super) fn make_own_directory(&self, name: &str, user: Owner) -> Outcome<PathBuf> {
        let above = self.layout.volatile();
        disk::make_directory(&above, 0o755)?;
        let directory = above.join(format!("{name}-{}", unique()));
        disk::make_owned_directory(&directory, 0o700, &user)?;
        Ok(directory)
    }
}

/// Returns a word that is unique among the units of this machine.
pub(super) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let own = rustix::process::getpid().as_raw_nonzero();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{own:x}-{count:x}", clock::now().as_nanosecond())
}
