//! A step is done before its predecessor, or the run goes back.

use refresh_installation::exit::Error;
use refresh_run::refresh::{Planned, Refresh, Running, Stopped};

fn environment_before_sync(stopped: Refresh<'_, Stopped>) -> Result<(), Error> {
    stopped.environment()?.sync()?; // E0599
    Ok(())
}

fn restart_at_once(planned: Refresh<'_, Planned>) -> Result<(), Error> {
    planned.restart()?; // E0599
    Ok(())
}

fn back_to_the_stop(running: Refresh<'_, Running>) -> Result<(), Error> {
    running.stop()?; // E0599
    Ok(())
}

fn main() {}
