//! Notes beside a result, on standard error: standard output is for the result, which programs may read.

use refresh_events::event::{Event, Subscriber};
use refresh_system::text::harmless;

use refresh_system::screen::{self, print_to_stderr};

/// Prints the notes of a command; it prints no other event.
#[derive(Debug)]
pub struct StderrNotes;

impl Subscriber for StderrNotes {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Note { .. } if screen::is_quiet() => {}
            Event::Note { message, .. } => print_to_stderr(&harmless(message)),
            Event::Warning { message, .. } => print_to_stderr(&format!("warning: {}", harmless(message))),
            _ => {}
        }
    }
}
