//! How far the reading of model files is: a bar on a terminal, words anywhere else.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::screen::{self, count, size};
use crate::models::progress::{Progress, Reached};

/// The speed is that of so much time: long enough to be steady, short enough to follow the next file to another disk.
const WINDOW: Duration = Duration::from_secs(10);

/// Before so much time has passed, a speed is not worth telling.
const FIRST: Duration = Duration::from_millis(500);

/// A bar, where standard output is a terminal; else nothing.
#[derive(Debug)]
pub struct Bar {
    label: String,
    shown: RefCell<Option<ProgressBar>>,
    pace: RefCell<Pace>,
}

impl Bar {
    /// Makes a bar that shows once something is read.
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), shown: RefCell::default(), pace: RefCell::default() }
    }

    /// Takes it away.
    pub fn end(&self) {
        if let Some(bar) = self.shown.take() {
            bar.finish_and_clear();
        }
    }

    fn begin(&self) -> ProgressBar {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:24}] {wide_msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(self.label.clone());
        bar
    }
}

impl Progress for Bar {
    fn take(&self, reached: &Reached) {
        if !screen::is_terminal() {
            return;
        }
        let mut bar = self.shown.borrow_mut();
        let bar = bar.get_or_insert_with(|| self.begin());
        let (of, at) = match reached.of_bytes {
            0 => (reached.of_files as u64, reached.files as u64),
            of_bytes => (of_bytes, reached.bytes),
        };
        bar.set_length(of);
        bar.set_position(at);
        bar.set_message(self.pace.borrow_mut().words(reached));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}

/// What it takes to tell a speed: how far it was lately.
#[derive(Debug, Default)]
pub struct Pace {
    lately: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// Says how far it is, how fast, and how long it will take: `1.5 GiB of 4.0 GiB, 3 of 8 files, 1.61 GB/s, 2 s left`.
    pub fn words(&mut self, reached: &Reached) -> String {
        self.lately.push_back((reached.elapsed, reached.bytes));
        while self.lately.get(1).is_some_and(|(then, _)| *then + WINDOW <= reached.elapsed) {
            self.lately.pop_front();
        }
        let files = format!("{} of {}", reached.files, count(reached.of_files, "file"));
        // Nobody knows how much of them is read where only their headers are.
        if reached.of_bytes == 0 {
            return files;
        }
        let words = format!("{} of {}, {files}", size(reached.bytes), size(reached.of_bytes));
        match self.per_second(reached) {
            Some(speed) if speed > 0 => {
                let to_go = left(reached.of_bytes.saturating_sub(reached.bytes).div_ceil(speed));
                format!("{words}, {}.{:02} GB/s, {to_go} left", speed / GIGA, speed % GIGA / (GIGA / 100))
            }
            Some(_) => format!("{words}, waiting for the disk"),
            None => words,
        }
    }

    fn per_second(&self, reached: &Reached) -> Option<u64> {
        let (then, bytes) = self.lately.front()?;
        let time = reached.elapsed.saturating_sub(*then);
        if time < FIRST {
            return None;
        }
        // A file that has to be read again takes some back.
        let bytes = u128::from(reached.bytes.saturating_sub(*bytes));
        u64::try_from(bytes * 1000 / time.as_millis()).ok()
    }
}

const GIGA: u64 = 1_000_000_000;

fn left(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64, gigabytes: f64) -> Reached {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
        let bytes = (gigabytes * 1e9).round() as u64;
        let elapsed = Duration::from_secs_f64(seconds);
        Reached { files: 3, of_files: 12, bytes, of_bytes: 40 << 30, elapsed }
    }

    #[test]
    fn the_speed_and_the_time_left_come_with_the_first_half_second() {
        let mut pace = Pace::default();
        assert_eq!(pace.words(&at(0.0, 0.0)), "0 B of 40.0 GiB, 3 of 12 files");
        assert_eq!(pace.words(&at(0.4, 1.0)), "953.6 MiB of 40.0 GiB, 3 of 12 files");
        assert_eq!(pace.words(&at(1.0, 1.61)), "1.4 GiB of 40.0 GiB, 3 of 12 files, 1.61 GB/s, 26 s left");
    }

    #[test]
    fn the_speed_is_that_of_the_last_seconds() {
        let mut pace = Pace::default();
        for second in 0..=20 {
            pace.words(&at(f64::from(second), f64::from(second) * 0.5));
        }
        // From here on another disk, of a tenth of the speed.
        for second in 21..=40 {
            pace.words(&at(f64::from(second), 10.0 + f64::from(second - 20) * 0.05));
        }
        assert!(pace.words(&at(41.0, 11.05)).ends_with(" 0.05 GB/s, 10 min 38 s left"));
        assert!(pace.lately.len() < 15);
    }

    #[test]
    fn a_disk_that_gives_nothing_and_a_file_that_is_read_again_are_no_speed() {
        let mut pace = Pace::default();
        pace.words(&at(0.0, 1.0));
        assert!(pace.words(&at(20.0, 1.0)).ends_with("files, waiting for the disk"));
        assert!(pace.words(&at(30.0, 0.5)).ends_with("files, waiting for the disk"));
        let none = Reached { of_files: 1, elapsed: Duration::from_secs(1), ..Reached::default() };
        assert_eq!(Pace::default().words(&none), "0 of 1 file");
    }

    #[test]
    fn long_times_are_told_in_minutes_and_hours() {
        assert_eq!([left(0), left(59), left(61), left(7_260)], ["0 s", "59 s", "1 min 01 s", "2 h 01 min"]);
    }
}
