//! How far the reading of model files is, as a bar on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use super::screen;
use crate::models::progress::Progress;

/// A bar, where standard output is a terminal; nothing elsewhere.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// Makes a bar that appears with the first progress.
    pub fn new(label: &'static str) -> Self {
        let bar = if screen::is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let template = "{prefix} [{bar:24}] {wide_msg} {binary_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(label);
        Self(bar)
    }

    /// Shows how far the reading is.
    pub fn show(&self, progress: &Progress) {
        self.0.set_length(progress.of_bytes);
        self.0.set_position(progress.bytes);
        self.0.set_message(progress.to_string());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
