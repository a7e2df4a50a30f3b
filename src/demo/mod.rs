//! The demo: a real application, refreshed for real, told as it happens.
//!
//! It makes a Git repository of the application that ships with the program (`demo/` in the source), serves it on
//! the loopback interface and then uses this very program as a person would: as a command, on a world below a folder
//! of its own ([`crate::settings::layout`]). It writes below that folder only.

mod ground;
mod narrate;
mod repository;
mod server;
mod story;
mod visitor;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk;
use crate::error::{Failure, Outcome};
use crate::event::Events;
use crate::process::Runner;
use crate::settings::environment;

use ground::Ground;
use narrate::Narrator;

/// What a demo is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Show everything from the start; what an earlier demo left in the folder is ended and removed first.
    Show {
        /// The port of the service; a free one where it is `None`.
        port: Option<u16>,
    },
    /// End the service and the server that an earlier demo left running.
    Stop,
}

/// A demo: where and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoOptions {
    /// The folder of the demo, which it makes where it is missing.
    pub folder: PathBuf,
    /// What to do there.
    pub intent: Intent,
}

/// Returns the folder that a demo uses where none is named: one for each user, in the folder for temporary files.
pub fn default_folder() -> PathBuf {
    let temporary = environment::variable("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    temporary.join(format!("ladylinux-demo-{}", rustix::process::geteuid().as_raw()))
}

/// Shows or stops a demo, writing the story to `screen` (whose errors are nobody's concern).
///
/// # Errors
/// The folder is not fit, a program that the demo needs is missing, or something did not go as the story says; what
/// runs by then is left running for a look, and [`Intent::Stop`] ends it.
pub fn run(options: &DemoOptions, screen: Box<dyn Write + Send>) -> Outcome<()> {
    if options.intent == Intent::Stop && !disk::is_folder(&options.folder)? {
        return Err(Failure::new(format!("there is no demo in {}", options.folder.display())));
    }
    let narrator = Narrator::new(screen);
    let runner = Runner::new(Arc::new(Events::new(vec![narrator.listener()])));
    let ground = Ground::claim(&options.folder)?;
    match options.intent {
        Intent::Show { port } => {
            ground.clear(&runner)?;
            story::tell(&ground, port, &runner, narrator).map_err(|failure| {
                failure.hint(format!("{} ends what is left running", ground.stop_command()))
            })
        }
        Intent::Stop => {
            let ended = ground.end_everything(&runner)?;
            narrator.stopped(&ground, &ended);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_that_is_not_there_is_not_stopped_and_nothing_is_made() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("mistyped");
        let options = DemoOptions { folder: folder.clone(), intent: Intent::Stop };
        let failure = run(&options, Box::new(std::io::sink())).unwrap_err();
        assert!(failure.summary().contains("there is no demo in "), "{failure}");
        assert!(!folder.exists());
    }
}
