//! The progress of reading model files, as a line on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use refresh_system::screen;

/// A line that changes in place if standard output is a terminal; otherwise nothing.
#[derive(Debug)]
pub struct ProgressLine(ProgressBar);

impl ProgressLine {
    /// Returns the line, which appears with the first progress.
    pub fn new(label: &'static str) -> Self {
        let bar = if screen::is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_prefix(label);
        Self(bar)
    }

    /// Shows the progress of the reading.
    pub fn show(&self, progress: &str) {
        self.0.set_message(progress.to_owned());
        self.0.tick();
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
