//! The steps in their order.

use ladylinux_refresh::exit::Error;
use ladylinux_refresh::refresh::{Planned, Refresh};

fn every_step_once(planned: Refresh<'_, Planned>) -> Result<(), Error> {
    planned.stop()?.sync()?.environment()?.prepare()?.restart()?.status();
    Ok(())
}

fn main() {}
