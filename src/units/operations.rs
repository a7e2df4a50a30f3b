//! The one list of operations: what our own program does inside a unit. It touches nothing itself.

use serde::{Deserialize, Serialize};

use crate::event::{Event, Subscriber};
use crate::git::mirror_unit;
use crate::host::{by_hand, relocate};
use crate::models::examine;
use crate::process::Owner;
use crate::process::worker;
use crate::python;
use crate::refresh::{entry, release};
use crate::report::screen::complain;
use crate::requests;
use crate::service::{envfile, gate};
use crate::source;

use super::sessions::AnyRequest;

/// The operation that only shows that a unit works.
pub const READY: &str = "ready";

/// The operation of a session: each request names the operation that it is for.
pub(super) const ANY: &str = "any";

/// Asks whether a unit works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyRequest {}

/// A unit works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Who it runs as.
    pub user: Owner,
}

/// Writes what happens inside a unit to standard error, a line each: the conductor makes events of it.
#[derive(Debug)]
pub struct Progress;

impl Subscriber for Progress {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Output { line, .. } => complain(line),
            Event::Note { message, .. } => complain(message),
            Event::Warning { message, .. } => complain(&format!("warning: {message}")),
            _ => {}
        }
    }
}

/// Answers a request of `operation` with the JSON of its response; `None` where there is no such operation.
pub fn answer(operation: &str, request: &[u8]) -> Option<Vec<u8>> {
    match operation {
        ANY => {
            let any: AnyRequest<'_> = serde_json::from_slice(request).ok()?;
            if any.operation == ANY { None } else { answer(&any.operation, any.request.get().as_bytes()) }
        }
        READY => Some(worker::answer(request, |_: ReadyRequest| Ok(Ready { user: Owner::own() }))),
        relocate::OPERATION => Some(worker::answer(request, |request| relocate::handle(&request))),
        by_hand::OPERATION => Some(worker::answer(request, |request| Ok(by_hand::handle(&request)))),
        envfile::OPERATION => Some(worker::answer(request, |request| envfile::handle(&request))),
        gate::OPERATION => Some(worker::answer(request, gate::handle)),
        examine::OPERATION => Some(worker::answer(request, examine::handle)),
        mirror_unit::OPERATION => Some(worker::answer(request, mirror_unit::handle)),
        requests::OPERATION => Some(requests::answer(request)),
        entry::OPERATION => Some(worker::answer(request, |request| entry::handle(&request))),
        release::OPERATION => Some(release::answer(request)),
        other => source::answer(other, request).or_else(|| python::answer(other, request)),
    }
}
