//! Events for programs: one JSON object per line on standard output.

use super::screen;
use crate::event::{Event, Subscriber};

/// Writes every event as a line of JSON.
#[derive(Debug, Default)]
pub struct Json;

impl Subscriber for Json {
    fn take(&mut self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            screen::say(&line);
        }
    }
}
