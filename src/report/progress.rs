//! How far the reading of model files is, as a line on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use refresh_system::screen;

/// A line that changes in place, where standard output is a terminal; nothing elsewhere.
#[derive(Debug)]
pub struct ProgressLine(ProgressBar);

impl ProgressLine {
    /// Makes the line, which appears with the first progress.
    pub fn new(label: &'static str) -> Self {
        let bar = if screen::is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_prefix(label);
        Self(bar)
    }

    /// Shows how far the reading is.
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
