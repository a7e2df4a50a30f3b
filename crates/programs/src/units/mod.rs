//! Units: sandboxed processes that do all work on content of others; root only coordinates them.
//!
//! A unit does an operation of ours ([`Units::call`]), runs a program of others ([`Units::run`]), or waits and answers
//! later ([`Units::wait_in_unit`]). On a machine with systemd it is a transient unit with its own control group;
//! elsewhere a process that this program confines by itself ([`launcher`]). [`table`] defines the user of each role and
//! the resources that it may reach. This module starts processes and copies this program to the file that they execute;
//! it changes nothing else.

mod context;
mod credentials;
pub mod gate;
mod inside;
mod launcher;
pub mod listener;
pub mod operations;
mod options;
mod program;
mod run_unit;
mod running;
mod sessions;
mod socket_drop_in;
mod start;
mod systemd;
pub(crate) mod table;
pub mod users;
mod waiting;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::process::watch::Limits;
use crate::process::worker::Answer;
use crate::process::{ChildEnd, Finished, Keep, Program, Runner};
use crate::systemd::Bus;
use refresh_events::run_report::Enforcement;
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Failure, Outcome};

pub use crate::systemd::process_unit::{Access, Bind};
pub use credentials::credential;
pub use inside::{COMMAND, work};
pub use options::{Credential, HeldSockets, UnitOptions};
pub use run_unit::{is_inside, unit_of};
pub use table::Role;
pub use waiting::Waiting;

use context::UnitContext;
use inside::Work;
use sessions::Sessions;

/// How often a unit that only reads is started if others end it.
const ATTEMPTS: usize = 3;

/// Starts units for one installation.
#[derive(Debug, Clone)]
pub struct Units {
    context: UnitContext,
    /// `None` if each request has its own unit.
    sessions: Option<Sessions>,
}

impl Units {
    /// Makes the value that starts units; nothing is started yet. `service` is the owner of `app/`.
    pub fn new(layout: &Layout, runner: &Runner, service: Owner) -> Self {
        let context = UnitContext { layout: layout.clone(), runner: runner.clone(), service };
        Self { context, sessions: None }
    }

    /// Answers requests that need the same rights in one unit, one after the other ([`sessions`]).
    #[must_use]
    pub fn with_sessions(mut self) -> Self {
        self.sessions = Some(Sessions::default());
        self
    }

    /// Starts the unit that answers requests of a role which writes nothing, in the background, if systemd runs the
    /// units.
    pub fn start_beforehand(&self, role: Role) {
        if let Some(sessions) = self.sessions_of_systemd() {
            sessions.start_beforehand(&self.context, role);
        }
    }

    /// Starts a unit that answers requests of a role which writes nothing, if systemd runs the units and no such unit
    /// is alive.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn keep_ready(&self, role: Role) -> Outcome<()> {
        self.sessions_of_systemd().map_or(Ok(()), |sessions| sessions.keep_ready(&self.context, role))
    }

    /// Ends the units that wait for further requests, except those of the role `kept`.
    pub fn end_sessions(&self, kept: Option<Role>) {
        if let Some(sessions) = &self.sessions {
            // A plain process would count as one that a hook left running: it has the mark of the run.
            sessions.end(kept.filter(|_| self.context.in_systemd()));
        }
    }

    fn sessions_of_systemd(&self) -> Option<&Sessions> {
        self.sessions.as_ref().filter(|_| self.context.in_systemd())
    }

    /// Does an operation of ours in a unit and returns its response.
    ///
    /// # Errors
    /// The unit cannot be started or was ended; or the operation's own failure, with its causes and hints as text.
    pub fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        options: &UnitOptions,
        operation: &str,
        request: &Q,
    ) -> Outcome<A> {
        let context = || format!("cannot ask a unit for {operation}");
        let request = serde_json::to_vec(request).context(context)?;
        if let Some(sessions) = &self.sessions
            && let Some(answered) = sessions.ask(&self.context, options, operation, request.clone())
        {
            return Answer::read(&answered?, operation);
        }
        let attempts = if self.may_be_ended_by_others(options)? { ATTEMPTS } else { 1 };
        for attempt in 1..=attempts {
            let work = Work::Answer(operation.to_owned());
            let finished = self.finish(options, operation, work, &request, &limits_of(options, operation))?;
            match finished.ended {
                ChildEnd::Exited(0) => return Answer::read(&finished.stdout, operation),
                ChildEnd::Signalled(_) if attempt < attempts => {}
                ChildEnd::Signalled(_) if attempts > 1 => break,
                _ => return Err(finished.failure(&format!("the unit for {operation} failed"))),
            }
        }
        Err(self.context.ended_by_others(options, operation, attempts))
    }

    /// Returns `true` if processes of others can signal a unit that only reads. Then starting it again can help.
    fn may_be_ended_by_others(&self, options: &UnitOptions) -> Outcome<bool> {
        let own = rustix::process::geteuid().as_raw();
        Ok(options.role == Role::Inspect && self.context.user_of(options.role)?.uid != own)
    }

    /// Does an operation of ours in a unit on a machine; elsewhere, where no user of the table exists, in a process with
    /// the rights of `owner`. A root process that follows paths inside a tree which another user can write to may be led
    /// anywhere, so it leaves all work on files in `app/` to such a process.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_as<Q: Serialize, A: DeserializeOwned>(
        &self,
        options: &UnitOptions,
        owner: Owner,
        operation: &str,
        request: &Q,
    ) -> Outcome<A> {
        let is_machine = self.context.layout.is_real() && rustix::process::geteuid().is_root();
        if is_machine && self.context.user_of(options.role).is_ok() {
            return self.call(options, operation, request);
        }
        let request =
            serde_json::to_vec(request).context(|| format!("cannot ask the worker for {operation}"))?;
        let work = Work::Answer(operation.to_owned());
        let mut running = start::start_unconfined(&self.context, options, operation, owner, work, &request)?;
        let finished = self.context.runner.finish(&mut running.started, &limits_of(options, operation))?;
        match finished.ended {
            ChildEnd::Exited(0) => Answer::read(&finished.stdout, operation),
            _ => Err(finished.failure(&format!("the worker for {operation} failed"))),
        }
    }

    /// Runs a program of others in a unit and returns its result. The deadline in the options counts, and its narration if
    /// it has one. All other values of the program count too, except its owner.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn run(&self, options: &UnitOptions, program: &Program) -> Outcome<Finished> {
        let name = program.name();
        let mut limits = Limits { deadline: options.deadline, ..program.limits() };
        if let Some(narrate) = &options.narrate {
            limits.keep = Keep::Narrated(narrate.clone());
        }
        let mark = self.context.runner.run_id();
        let work = |program: Program| Work::Become(Box::new(program.into_replacement(mark)));
        if self.context.in_systemd() {
            return self.finish(options, &name, work(program.clone()), b"", &limits);
        }
        // The equivalent of PrivateTmp in a unit of systemd.
        let own_tmp = self.context.make_own_directory("tmp", self.context.user_of(options.role)?)?;
        let program = program.clone().env("TMPDIR", &own_tmp);
        let finished = self.finish(&options.clone().writes(&own_tmp), &name, work(program), b"", &limits);
        let removed = disk::remove_tree(&own_tmp);
        let finished = finished?;
        removed.map(|()| finished)
    }

    /// Starts a unit that waits for requests of `operation`. It gets the request `first` immediately, whose response is
    /// dropped: the response shows that the unit works. `first` should contain nothing that others must not learn
    /// before the unit is needed.
    ///
    /// # Errors
    /// The unit cannot be started, or fails to answer `first`.
    pub fn wait_in_unit<Q: Serialize>(
        &self,
        options: &UnitOptions,
        operation: &str,
        first: &Q,
    ) -> Outcome<Waiting> {
        let context = || format!("cannot ask a unit for {operation}");
        let first = serde_json::to_vec(first).context(context)?;
        Waiting::start(&self.context, options, operation, first)
    }

    /// Returns the user of a unit of this role.
    ///
    /// # Errors
    /// The user does not exist on this machine.
    pub fn user_of(&self, role: Role) -> Outcome<Owner> {
        self.context.user_of(role)
    }

    /// Returns how far the table is in force here.
    ///
    /// # Errors
    /// systemd cannot be queried, or the caller is not root, whose units these are.
    pub fn enforcement(&self) -> Outcome<Enforcement> {
        let layout = &self.context.layout;
        let missing = if self.context.in_systemd() {
            systemd::missing(&Bus::connect()?)?
        } else if layout.is_real() && crate::systemd::is_booted() {
            return Err(Failure::new("only root can find out"));
        } else {
            launcher::missing(layout)
        };
        Ok(if missing.is_empty() { Enforcement::Enforced } else { Enforcement::Missing(missing) })
    }

    /// Prepares options for a tree that the unit's user cannot reach by its path; returns the options and the path at which
    /// the unit sees the tree.
    ///
    /// # Errors
    /// The directory at which the unit sees the tree cannot be created.
    pub fn with_tree(
        &self,
        options: &UnitOptions,
        tree: &Path,
        access: Access,
    ) -> Outcome<(UnitOptions, PathBuf)> {
        if !self.can_bind() {
            let options =
                if access == Access::ReadWrite { options.clone().writes(tree) } else { options.clone() };
            return Ok((options, tree.to_path_buf()));
        }
        let destination = self.context.layout.state().join("tree");
        disk::make_directory(&destination, 0o755)?;
        let bind = Bind { source: tree.to_path_buf(), destination: destination.clone(), access };
        Ok((options.clone().sees(bind), destination))
    }

    /// Returns whether a unit can see directories at other paths ([`UnitOptions::binds`]).
    pub fn can_bind(&self) -> bool {
        self.context.in_systemd()
    }

    /// Returns whether a unit that had the sockets of the service was killed together with its run: it may have left
    /// them with their gate closed ([`crate::units::gate`]).
    pub fn have_left_sockets(&self) -> bool {
        !socket_drop_in::left(&self.context.layout).is_empty()
    }

    /// Starts a unit, watches it to its end and collects it.
    fn finish(
        &self,
        options: &UnitOptions,
        name: &str,
        work: Work,
        request: &[u8],
        limits: &Limits,
    ) -> Outcome<Finished> {
        let mut running = start::start(&self.context, options, name, work, Some(request))?;
        self.context.runner.finish(&mut running.started, limits)
    }
}

fn limits_of(options: &UnitOptions, operation: &str) -> Limits {
    Limits {
        name: operation.to_owned(),
        deadline: options.deadline,
        stall: None,
        keep: Keep::Response { limit: options.output, narrate: options.narrate.clone() },
    }
}
