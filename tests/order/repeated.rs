//! A step is done twice: on its result, and on the state that it consumed.

use refresh_installation::exit::Error;
use refresh_run::refresh::{Planned, Prepared, Refresh};

fn twice_in_a_row(planned: Refresh<'_, Planned>) -> Result<(), Error> {
    planned.stop()?.stop()?; // E0599
    Ok(())
}

fn from_the_same_state(prepared: Refresh<'_, Prepared>) -> Result<(), Error> {
    prepared.restart()?;
    prepared.restart()?; // E0382
    Ok(())
}

fn main() {}
