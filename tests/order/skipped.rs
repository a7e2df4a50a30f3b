//! Steps are left out: every step, once each.

use refresh_installation::exit::Error;
use refresh_run::refresh::{Built, Planned, Prepared, Refresh, Stopped, Synced};

fn without_stop(planned: Refresh<'_, Planned>) -> Result<(), Error> {
    planned.sync()?; // E0599
    Ok(())
}

fn without_sync(stopped: Refresh<'_, Stopped>) -> Result<(), Error> {
    stopped.environment()?; // E0599
    Ok(())
}

fn without_environment(synced: Refresh<'_, Synced>) -> Result<(), Error> {
    synced.prepare()?; // E0599
    Ok(())
}

fn without_prepare(built: Refresh<'_, Built>) -> Result<(), Error> {
    built.restart()?; // E0599
    Ok(())
}

fn without_restart(prepared: Refresh<'_, Prepared>) -> Result<(), Error> {
    prepared.status()?; // E0599
    Ok(())
}

fn main() {}
