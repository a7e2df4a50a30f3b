//! `unfence`: a person decides that the service may start although the last refresh failed.

use crate::cli::UnfenceArgs;
use refresh_installation::exit::{Error, Success};
use refresh_installation::journal::recover;
use refresh_installation::journal::recover::Exchanges as _;
use refresh_run::refresh::socket;
use refresh_service::fence;
use refresh_settings::layout::Layout;
use refresh_source::exchange::Exchanges;
use refresh_system::screen::print_line;
use refresh_system::text::harmless_line;

use super::{lock, open, refuse, with_command_to_repeat};

/// Lowers the fence; starts nothing.
pub(super) fn unfence(layout: &Layout, args: &UnfenceArgs) -> Result<Success, Error> {
    let on = open(layout, "unfence")?;
    let _lock = lock(layout, "unfence", None, &args.lock)
        .map_err(|error| with_command_to_repeat(error, "ladylinux-refresh unfence"))?;
    let context = |failure| refuse(&on, "unfence", failure, "ladylinux-refresh status");
    let Some(standing) = fence::read(layout).map_err(context)? else {
        print_line("the service is not fenced");
        return Ok(Success::Done);
    };
    // A killed run may have left two versions in app/.
    for run in recover::all(&layout.runs()).map_err(context)? {
        Exchanges::of(&on).complete(&run).map_err(context)?;
    }
    if let Some(warning) = socket::open_left(&on) {
        print_line(&format!("warning: {}", harmless_line(&warning)));
    }
    fence::lower(layout).map_err(context)?;
    // It would end by itself within a second, but until then visitors would still see the page of the fence.
    on.service.end_page().map_err(context)?;
    if let Some(record) = standing.record() {
        print_line(&format!("the fence of run {} is down", record.run));
    } else {
        print_line("the fence is down");
    }
    print_line(
        "the state that the failed refresh left has not passed a health check; the last report describes it",
    );
    print_line(&format!("start it:        {}", on.as_typed("ladylinux-refresh service start")));
    print_line(&format!("or go back:      {}", on.as_typed("ladylinux-refresh rollback")));
    Ok(Success::Done)
}
