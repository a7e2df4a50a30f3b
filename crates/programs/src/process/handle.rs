//! A handle of one process, which a reuse of its pid cannot affect (pidfd, Linux 5.3).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use refresh_system::clock;
use refresh_system::error::{Failure, Outcome};

use super::identity::ProcessId;

/// A handle of a process: signals reach this process or none.
#[derive(Debug)]
pub struct Handle {
    id: ProcessId,
    fd: OwnedFd,
}

impl Handle {
    /// Opens a handle of a process; `None` if it has ended already.
    pub fn open(id: ProcessId) -> Option<Self> {
        let fd = pidfd_open(Pid::from_raw(id.pid)?, PidfdFlags::empty()).ok()?;
        // Checked after the opening: the process that has the pid now is the one of the descriptor.
        id.is_alive().then_some(Self { id, fd })
    }

    /// Returns the identity of the process.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Sends a signal. It is not an error if the process has ended meanwhile.
    ///
    /// # Errors
    /// The process belongs to another user.
    pub fn signal(&self, signal: Signal) -> Outcome<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Failure::new(format!(
                "cannot send {signal:?} to process {} ({})",
                self.id.pid,
                self.id.command()
            ))
            .because(error)),
        }
    }

    /// Waits until the process has ended, at most for `limit`; returns whether it has. Interrupts do not cut it short.
    pub fn wait(&self, limit: Duration) -> bool {
        let end = clock::monotonic() + limit;
        loop {
            let left = end.saturating_duration_since(clock::monotonic());
            let timeout = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return true,
                Err(_) => return !self.id.is_alive(),
            }
        }
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_not_mistaken_for_the_former_process() {
        let own = ProcessId::own();
        assert!(Handle::open(own).is_some());
        assert!(Handle::open(ProcessId { started: own.started + 1, ..own }).is_none());
    }

    #[test]
    fn waiting_for_a_living_process_ends_at_the_limit() {
        let handle = Handle::open(ProcessId::own()).unwrap();
        assert!(!handle.wait(Duration::from_millis(1)));
    }
}
