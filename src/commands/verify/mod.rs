//! `verify`: whether what lies on the disk is what it should be: the models, or the environment.

mod environment;
mod models;

use crate::cli::VerifyArgs;
use crate::exit::{Ended, Error, Refusal};
use crate::installation::check_anything;
use crate::settings::layout::Layout;

use super::{lock, open, refuse, settings};

/// Verifies what was asked for.
pub(super) fn verify(layout: &Layout, args: &VerifyArgs) -> Result<Ended, Error> {
    // Models lie where there is no installation, too; where there is nothing, nothing was looked at.
    if args.store.is_empty() {
        check_anything(layout).map_err(|failure| Refusal::of("verify", failure))?;
    }
    if args.environment { environment::verify(layout, args) } else { models::verify(layout, args) }
}
