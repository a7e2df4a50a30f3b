//! `verify`: whether what lies on the disk is what it should be: the models, or the environment.

mod environment;
mod models;

use crate::cli::VerifyArgs;
use crate::exit::{Ended, Error};
use crate::settings::layout::Layout;

use super::{lock, open, refuse, settings};

/// Verifies what was asked for.
pub(super) fn verify(layout: &Layout, args: &VerifyArgs) -> Result<Ended, Error> {
    if args.environment { environment::verify(layout, args) } else { models::verify(layout, args) }
}
