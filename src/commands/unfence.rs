//! `unfence`: a person decides that the service may start although the last refresh failed.

use crate::cli::UnfenceArgs;
use crate::exit::{Ended, Error};
use crate::journal::recover::{self, Exchanges as _};
use crate::refresh::socket;
use crate::report::screen::{harmless_line, say};
use crate::service::fence;
use crate::settings::layout::Layout;

use super::{lock, open, refuse, to_type_again};

/// Lowers the fence; starts nothing.
pub(super) fn unfence(layout: &Layout, args: &UnfenceArgs) -> Result<Ended, Error> {
    let on = open(layout, "unfence")?;
    let _lock = lock(layout, "unfence", None, &args.lock)
        .map_err(|error| to_type_again(layout, error, "ladylinux-refresh unfence"))?;
    let context = |failure| refuse(&on, "unfence", failure, "ladylinux-refresh status");
    let Some(standing) = fence::read(layout).map_err(context)? else {
        say("the service is not fenced");
        return Ok(Ended::Done);
    };
    // A run that was killed may have left two versions in app/.
    for run in recover::all(&layout.runs()).map_err(context)? {
        on.exchanges().complete(&run).map_err(context)?;
    }
    if let Some(warning) = socket::open_left(&on) {
        say(&format!("warning: {}", harmless_line(&warning)));
    }
    fence::lower(layout).map_err(context)?;
    // It would end by itself within a second; until then visitors would still read of the fence.
    on.service.end_page().map_err(context)?;
    if let Some(record) = standing.record() {
        say(&format!("the fence of run {} is down", record.run));
    } else {
        say("the fence is down");
    }
    say("what the failed refresh left has not been proved to work; it is as the last report says");
    say(&format!("start it:        {}", on.as_typed("ladylinux-refresh service start")));
    say(&format!("or go back:      {}", on.as_typed("ladylinux-refresh rollback")));
    Ok(Ended::Done)
}
