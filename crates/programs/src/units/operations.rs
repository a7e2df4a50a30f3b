//! The operations of this crate, and access to those of other crates. The module touches nothing itself.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::gate;
use crate::process::worker;
use refresh_events::event::{Event, Subscriber};
use refresh_system::disk::Owner;
use refresh_system::screen::print_to_stderr;

/// Returns the JSON of the response to a request of an operation; `None` if the operation does not exist. It is a
/// parameter, because the crates above this one have the operations.
pub(crate) type Operations = fn(&str, &[u8]) -> Option<Vec<u8>>;

/// The operation that only shows that a unit works.
pub const READY: &str = "ready";

/// The operation of a session: each request names the operation that it is for.
pub(super) const ANY: &str = "any";

/// The request whether a unit works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyRequest {}

/// The response that a unit works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The user that it runs as.
    pub user: Owner,
}

/// Writes the events inside a unit to standard error, one line each: the conductor turns them into events.
#[derive(Debug)]
pub struct Progress;

impl Subscriber for Progress {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Output { line, .. } => print_to_stderr(line),
            Event::Note { message, .. } => print_to_stderr(message),
            Event::Warning { message, .. } => print_to_stderr(&format!("warning: {message}")),
            _ => {}
        }
    }
}

/// A request to a session: any operation.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AnyRequest<'a> {
    /// The operation.
    pub(super) operation: String,
    /// Its own request, as JSON.
    #[serde(borrow)]
    pub(super) request: &'a RawValue,
}

/// Returns the JSON of the response to a request of `operation`, which is one of this crate or of `others`; `None` if
/// the operation does not exist.
pub fn answer(operation: &str, request: &[u8], others: Operations) -> Option<Vec<u8>> {
    match operation {
        ANY => {
            let any: AnyRequest<'_> = serde_json::from_slice(request).ok()?;
            if any.operation == ANY {
                None
            } else {
                answer(&any.operation, any.request.get().as_bytes(), others)
            }
        }
        READY => Some(worker::answer(request, |_: ReadyRequest| Ok(Ready { user: Owner::own() }))),
        gate::OPERATION => Some(worker::answer(request, gate::handle)),
        other => others(other, request),
    }
}
