//! One run: [`plan`] observes and decides, [`refresh`] performs the six steps, [`relay`] lets commands follow the run.
//!
//! It stops and starts the service, exchanges the working tree and switches the environment, each through the crate
//! that owns it. It parses nothing of the application.

pub mod plan;
pub mod refresh;
pub mod relay;
