//! `demo`: everything, on a small real application.

use crate::cli::DemoArgs;
use crate::demo::{self, DemoOptions, Intent};
use crate::exit::{Ended, Error, Refusal};

use super::absolute;

/// Shows the program by using it, or ends what an earlier demo left running.
pub(super) fn demo(args: &DemoArgs) -> Result<Ended, Error> {
    let folder = args.dir.as_deref().map_or_else(demo::default_folder, absolute);
    let intent = if args.stop { Intent::Stop } else { Intent::Show { port: args.port } };
    demo::run(&DemoOptions { folder, intent }, Box::new(std::io::stdout()))
        .map_err(|failure| Refusal::with_next("demo", failure, "ladylinux-refresh demo --dir DIR"))?;
    Ok(Ended::Done)
}
