//! What is told besides a result, on standard error: standard output is the result's, which programs may read.

use super::screen::{complain, harmless};
use crate::event::{Event, Subscriber};

/// Returns what a command notes on its way; nothing else of its events is for anybody.
#[derive(Debug)]
pub struct Aside;

impl Subscriber for Aside {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Note { message, .. } => complain(&harmless(message)),
            Event::Warning { message, .. } => complain(&format!("warning: {}", harmless(message))),
            _ => {}
        }
    }
}
