//! The steps in their order.

use refresh_installation::exit::Error;
use refresh_run::refresh::{Planned, Refresh};

fn every_step_once(planned: Refresh<'_, Planned>) -> Result<(), Error> {
    planned.stop()?.sync()?.environment()?.prepare()?.restart()?.status();
    Ok(())
}

fn main() {}
