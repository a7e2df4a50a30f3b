//! Prepares every child before its program starts: its own session, no descriptors except its three streams, and then
//! the ids of its user.
//!
//! A process that shares the caller's session can open the caller's terminal as `/dev/tty` and type into it (`TIOCSTI`)
//! or read its input. So no child of a root program may share it. The module touches the command that is about to be
//! spawned, and the flags of this process' own descriptors.

use std::ffi::CString;
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::process::{Gid, Uid};

use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Outcome};

/// Makes the child of `command` the leader of a new session and of a new process group, both with the child's pid as
/// their number, without a controlling terminal. `kill_process_group` with that pid ends the child and its descendants.
///
/// If root starts it for an `owner`, the child takes the ids of that user afterwards, without supplementary groups: no
/// process of that user has the caller's terminal at any instant. The standard library would take the ids first. The
/// working directory is entered last, with the rights of that user, who may have put a link in its place.
///
/// Every command in `process` uses this function. A command must not request a process group as well: a group leader
/// cannot make a session, and the spawn would fail.
pub(super) fn isolate(command: &mut Command, owner: Option<Owner>, directory: &Path) -> Outcome<()> {
    seal_descriptors();
    let directory = CString::new(directory.as_os_str().as_bytes())
        .context(|| format!("{} is no path", directory.display()))?;
    let owner = owner.filter(|_| rustix::process::geteuid().is_root());
    #[expect(unsafe_code, reason = "the standard library has no safe call that starts a child in a session")]
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe calls are allowed.
    // These are: rustix makes the system calls directly, takes no lock and allocates nothing, and the conversion of an
    // error is a plain number. The child has one thread, so the ids of the thread are those of the process.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            if let Some(owner) = owner {
                rustix::thread::set_thread_groups(&[])?;
                rustix::thread::set_thread_gid(Gid::from_raw(owner.gid))?;
                rustix::thread::set_thread_uid(Uid::from_raw(owner.uid))?;
            }
            rustix::process::chdir(directory.as_c_str())?;
            Ok(())
        });
    }
    Ok(())
}

/// Marks every descriptor above standard error as not inherited. The program's own descriptors are marked when they are
/// opened. Those that the caller left open (a terminal, a lock, a log of CI) are not, and a child would keep them open.
fn seal_descriptors() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| *number > 2) {
        #[expect(
            unsafe_code,
            reason = "the standard library offers no other way to name a descriptor by number"
        )]
        // SAFETY: the number was open a moment ago and is borrowed for two fcntl calls, which neither close it nor
        // change what it refers to; if another thread has closed it meanwhile, they fail or mark a descriptor of ours
        // that is marked already.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if let Ok(flags) = fcntl_getfd(descriptor)
            && !flags.contains(FdFlags::CLOEXEC)
        {
            let _ = fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC);
        }
    }
}

/// Gives a command only the environment that every program has.
pub(super) fn base_environment(command: &mut Command) {
    command.env_clear().env("PATH", refresh_system::environment::SEARCH_PATH);
    command.env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
}
