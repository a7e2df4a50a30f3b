//! Units that answer many requests, one after the other: a unit of systemd takes 20 to 100 ms to start, a request to a
//! started unit does not.
//!
//! Only requests that need the same rights share a session, and only those without a secret and without directories at
//! other paths. A session ends when the installation is closed, when [`super::Units::end_sessions`] is called, or with
//! its unit. Outside of systemd a unit is an ordinary process, which starts in a few milliseconds: there each request
//! has its own, except for those of the health check, which follow one another while the service is down.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;

use super::context::UnitContext;
use super::operations::{self, AnyRequest};
use super::{Role, UnitOptions, Waiting};
use refresh_system::disk;
use refresh_system::error::{Context as _, Outcome};

/// How long a unit lives at most, independent of its requests.
const LIFE: Duration = Duration::from_secs(3600);

/// How many bytes a response may have.
const OUTPUT: usize = 256 << 20;
/// How many bytes a response of the health check may have.
const VERDICT: usize = 1 << 20;

/// Returns the role of a session that can serve these options: one that reads, and writes only to scratch directories. Those
/// belong to the user that they were made for; a session sees their parent directory.
fn role_of(units: &UnitContext, options: &UnitOptions) -> Option<Role> {
    let scratch = units.layout.scratch();
    let is_plain = options.credentials.is_empty()
        && options.binds.is_empty()
        && options.sockets.is_none()
        && options.narrate.is_none()
        && options.writable.iter().all(|path| options.role != Role::Probe && path.starts_with(&scratch));
    let has_session = match options.role {
        Role::Build | Role::Inspect => units.in_systemd(),
        Role::Probe => true,
        _ => false,
    };
    (is_plain && has_session).then_some(options.role)
}

/// The sessions of one installation. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    has_changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Those that no request uses at the moment.
    free: Vec<(Role, Waiting)>,
    /// The roles of those that are being started in advance.
    starting: Vec<Role>,
}

impl Sessions {
    /// Sends a request to a session with the rights that the options name; starts one if none is free; `None` if the options cannot
    /// have one.
    ///
    /// # Errors
    /// The unit cannot be started, is ended again and again, or does not answer within the deadline of the unit.
    pub(super) fn ask(
        &self,
        units: &UnitContext,
        options: &UnitOptions,
        operation: &str,
        request: Vec<u8>,
    ) -> Option<Outcome<Vec<u8>>> {
        let role = role_of(units, options)?;
        Some(line_of(operation, request).and_then(|line| {
            let mut session = self.take(role).map_or_else(|| start(units, role), Ok)?;
            let answered = session.ask_line(operation, &line, options.deadline);
            if answered.is_ok() {
                self.state().free.push((role, session));
            }
            answered
        }))
    }

    /// Starts a session in the background; the next request waits for it. If it cannot be started, that request reports
    /// it.
    pub(super) fn start_beforehand(&self, units: &UnitContext, role: Role) {
        self.state().starting.push(role);
        let (sessions, units) = (self.clone(), units.clone());
        std::thread::spawn(move || {
            let started = start(&units, role);
            let mut state = sessions.state();
            if let Some(place) = state.starting.iter().position(|its| *its == role) {
                state.starting.swap_remove(place);
                state.free.extend(started.map(|session| (role, session)));
            }
            sessions.0.has_changed.notify_all();
        });
    }

    /// Starts a session if none of this role is alive that a request could use.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn keep_ready(&self, units: &UnitContext, role: Role) -> Outcome<()> {
        let session = match self.take(role) {
            Some(session) if session.is_alive() => session,
            _ => start(units, role)?,
        };
        self.state().free.push((role, session));
        Ok(())
    }

    /// Ends all sessions that no request uses, except those of the role `kept`.
    pub(super) fn end(&self, kept: Option<Role>) {
        let ended = {
            let mut state = self.state();
            state.starting.clear();
            let (free, ended) =
                std::mem::take(&mut state.free).into_iter().partition(|(role, _)| Some(*role) == kept);
            state.free = free;
            ended
        };
        let ended: Vec<(Role, Waiting)> = ended;
        for (_, session) in ended {
            session.end();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, role: Role) -> Option<Waiting> {
        let mut state = self.state();
        loop {
            if let Some(place) = state.free.iter().position(|(its, _)| *its == role) {
                return Some(state.free.swap_remove(place).1);
            }
            if !state.starting.contains(&role) {
                return None;
            }
            state = self.0.has_changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // A command that is done need not wait for systemd.
        for (_, session) in state.free.drain(..) {
            session.leave();
        }
    }
}

/// Returns the line that requests an operation from a session.
fn line_of(operation: &str, request: Vec<u8>) -> Outcome<Vec<u8>> {
    let context = || format!("the request of {operation} cannot be written");
    let request = RawValue::from_string(String::from_utf8(request).context(context)?).context(context)?;
    serde_json::to_vec(&AnyRequest { operation: operation.to_owned(), request: &request }).context(context)
}

fn start(units: &UnitContext, role: Role) -> Outcome<Waiting> {
    let mut options = UnitOptions::new(role, LIFE);
    if role == Role::Probe {
        options.output = VERDICT;
    } else {
        let scratch = units.layout.scratch();
        // The unit cannot write to a directory that is missing when it starts.
        disk::make_directory(&scratch, 0o755)?;
        options = options.writes(scratch);
        options.output = OUTPUT;
    }
    let ready =
        RawValue::from_string("{}".to_owned()).context(|| "a request cannot be written".to_owned())?;
    let first = AnyRequest { operation: operations::READY.to_owned(), request: &ready };
    let first = serde_json::to_vec(&first).context(|| "a request cannot be written".to_owned())?;
    // The unit's context has no sessions itself: one that shared them would keep itself alive.
    Waiting::start(units, &options, operations::ANY, first)
}
