//! `rollback`: the same six steps, to an earlier good commit and environment.

use crate::cli::RollbackArgs;
use crate::exit::{Ended, Error};
use crate::history::{self, Now};
use crate::refresh::Target;
use crate::refresh::begin::TargetState;
use crate::settings::layers::Overrides;
use crate::settings::layout::Layout;

use super::place::{self, Wanted};
use super::run::{When, Wish, again, refresh, with_patience};
use super::run_id;

/// Returns to an earlier good pair.
pub(super) fn rollback(layout: &Layout, args: &RollbackArgs) -> Result<Ended, Error> {
    let run = args.run.as_deref().map(|text| run_id::resolve(layout, "rollback", text)).transpose()?;
    let arguments: Vec<String> =
        ["rollback".to_owned()].into_iter().chain(run.iter().map(|run| run.as_str().to_owned())).collect();
    let wish = Wish {
        overrides: Overrides::default(),
        when: When::Always,
        lock: args.lock.clone(),
        command: "rollback",
        again: again(&arguments),
        bundle: None,
    };
    let wanted = Wanted {
        layout,
        run: None,
        place: &args.place,
        report: &args.report,
        overrides: &wish.overrides,
        arguments: with_patience(arguments, &args.lock),
    };
    place::place(wanted, |seat| {
        refresh(layout, &wish, seat, |on| {
            let now = Now { fenced: on.is_fenced(), commit: on.tree_state()?.commit, generation: on.live() };
            let pair = history::rollback_target(&on.layout, run.as_ref(), &now)?;
            on.runner.events().note(&format!("returning to run {} ({})", pair.run, pair.commit.short()));
            let state = TargetState::Earlier { commit: pair.commit, generation: pair.generation };
            Ok(Target { branch: pair.branch, state })
        })
    })
}
