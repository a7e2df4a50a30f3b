//! A caller's choices for a unit: its role, the paths that it may write to and see, its secrets and its limits. The
//! module touches nothing.

use std::path::PathBuf;
use std::time::Duration;

use super::Role;
use crate::systemd::process_unit::Bind;

/// The permissions and limits of a unit: everything that the caller decides about it.
#[derive(Debug, Clone)]
pub struct UnitOptions {
    /// Its role, which decides user and confinement.
    pub role: Role,
    /// The directories and files that it may write to. Missing ones are left out.
    pub writable: Vec<PathBuf>,
    /// Directories and files that it sees at other paths. Only systemd can do that.
    pub binds: Vec<Bind>,
    /// Sockets that it has in addition to its streams. Only systemd can do that.
    pub sockets: Option<HeldSockets>,
    /// Secrets that only this unit reads, with [`super::credential`].
    pub credentials: Vec<Credential>,
    /// How long it may take; for a waiting unit, each request.
    pub deadline: Duration,
    /// The name under which its lines on standard error become events.
    pub narrate: Option<String>,
    /// How many bytes a response may have.
    pub output: usize,
    /// Whether it is so short that a caller waits for it: then it does not give way to other work on the machine.
    pub brief: bool,
}

/// The sockets of socket units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSockets {
    /// The socket units.
    pub units: Vec<String>,
    /// Whether the sockets do not block. systemd sets this when it starts a process with them, and it counts for every
    /// process that has them: a running service that finds its socket changed would hang in `accept`.
    pub non_blocking: bool,
}

/// A secret for one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The name that the unit requests ([`super::credential`]).
    pub name: String,
    /// The file that contains it, which the unit's user need not be able to read.
    pub source: PathBuf,
}

impl UnitOptions {
    /// Makes the options of a unit that may write nothing, with a response of at most 64 MiB.
    pub fn new(role: Role, deadline: Duration) -> Self {
        Self {
            role,
            writable: Vec::new(),
            binds: Vec::new(),
            sockets: None,
            credentials: Vec::new(),
            deadline,
            narrate: None,
            output: 64 << 20,
            brief: false,
        }
    }

    /// Lets it write to a directory or file.
    #[must_use]
    pub fn writes(mut self, path: impl Into<PathBuf>) -> Self {
        self.writable.push(path.into());
        self
    }

    /// Gives it the same share of the machine as its caller.
    #[must_use]
    pub fn brief(mut self) -> Self {
        self.brief = true;
        self
    }

    /// Shows it a directory or file at another path.
    #[must_use]
    pub fn sees(mut self, bind: Bind) -> Self {
        self.binds.push(bind);
        self
    }

    /// Passes it the sockets of socket units, which stay open while the unit lives.
    #[must_use]
    pub fn holds(mut self, sockets: HeldSockets) -> Self {
        self.sockets = Some(sockets);
        self
    }

    /// Turns its progress into events under this name.
    #[must_use]
    pub fn narrated(mut self, name: impl Into<String>) -> Self {
        self.narrate = Some(name.into());
        self
    }
}
