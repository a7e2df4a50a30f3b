//! `rollback`: the same six steps, to an earlier good commit and environment.

use crate::cli::RollbackArgs;
use refresh_installation::exit::{Error, Success};
use refresh_settings::layout::Layout;

use super::run_request::RunRequest;
use super::{rollback_plan, run_id, run_process};

/// Returns to an earlier good pair.
pub(super) fn rollback(layout: &Layout, args: &RollbackArgs) -> Result<Success, Error> {
    let run = args.run.as_deref().map(|text| run_id::resolve(layout, "rollback", text)).transpose()?;
    if args.dry_run {
        return rollback_plan::show(layout, args, run.as_ref());
    }
    let request = RunRequest::of_rollback(args, run).map_err(Error::Usage)?;
    run_process::carry_out(layout, &request, run_process::new_name(), &args.place, &args.report)
}
