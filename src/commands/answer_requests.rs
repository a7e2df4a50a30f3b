//! `answer-requests`: takes what the application asked for, and does what it may ask for. A path unit starts it.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::{BundleArgs, Format, LockArgs, PlaceArgs, ReportArgs, RunArgs};
use crate::clock;
use crate::error::{Failure, Outcome};
use crate::event::{Events, Phase};
use crate::exit::{Ended, Error, Refusal};
use crate::history;
use crate::host::SERVICE_USER;
use crate::installation;
use crate::process::{Owner, Runner};
use crate::relay::spool::Spool;
use crate::report::Report;
use crate::report::screen::{complain, harmless_line, say};
use crate::report::shell::quoted_path;
use crate::requests;
use crate::settings::layers::Overrides;
use crate::settings::layout::Layout;
use crate::settings::names::BranchName;
use crate::status_file::{self, LastRequest, RequestOutcome};
use crate::units::Units;

use super::{place, run, settings};

/// How long a request waits for another run to end, in seconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(900);
/// How long one start takes at least on a real machine: with that the start limit of the unit tells an application that
/// asks all the time, and a folder that cannot be emptied, from one that asks now and then.
const AT_LEAST: Duration = Duration::from_secs(1);

/// Answers everything that lies in the folder.
pub(super) fn answer_requests(layout: &Layout) -> Result<Ended, Error> {
    let start = clock::monotonic();
    let answered = answer(layout);
    if layout.is_real() {
        let left = AT_LEAST.saturating_sub(clock::monotonic().duration_since(start));
        // An interrupt ends the waiting, and that is all there is to end.
        let _ = clock::pause(left);
    }
    answered
}

fn answer(layout: &Layout) -> Result<Ended, Error> {
    let folder = layout.requests();
    let runner = Runner::new(Arc::new(Events::silent()));
    // Taken before anything else can go wrong: what stays there starts this again and again, and in the end nothing does.
    let taken = installation::check_there(layout)
        .and_then(|()| Owner::of(&folder))
        .and_then(|owner| not_roots(layout, owner))
        .and_then(|owner| requests::take(&Units::new(layout, &runner, owner), owner, &folder))
        .map_err(|failure| Refusal::of("answer-requests", failure))?;
    for unread in &taken.unread {
        complain(&format!("removed without being read: {}", harmless_line(unread)));
    }
    let allowed = settings(layout, Overrides::default())
        .and_then(|layers| layers.resolve().map_err(Error::Usage))
        .map(|settings| settings.allowed_branches);
    let (granted, denied) = match &allowed {
        Ok(allowed) => requests::judge(&taken.texts, allowed),
        Err(_) => (Vec::new(), requests::turn_down(&taken.texts, "the settings of this host cannot be used")),
    };
    for no in denied {
        let branch = no.branch.as_deref().unwrap_or("no branch");
        complain(&format!("refused the request for {branch}: {}", no.why));
        write_down(
            layout,
            &LastRequest {
                at: clock::now(),
                branch: no.branch,
                outcome: RequestOutcome::Refused,
                why: Some(no.why),
                run: None,
            },
        );
    }
    allowed?;
    let mut granted = granted.into_iter();
    while let Some(branch) = granted.next() {
        if let Err(error) = grant(layout, &branch) {
            for branch in granted {
                give_up(layout, &branch);
            }
            return Err(error);
        }
    }
    if taken.stuck.is_empty() {
        return Ok(Ended::Done);
    }
    let failure =
        Failure::new(format!("{} cannot be emptied:\n{}", folder.display(), taken.stuck.join("\n")))
            .hint(format!("look what is in it, then remove it as root: ls -la {}", folder.display()));
    Err(Refusal::of("answer-requests", failure))
}

/// Refuses a folder of root's: what the application puts there would be handled with root's rights. Below a root everything
/// belongs to whoever made the world.
fn not_roots(layout: &Layout, owner: Owner) -> Outcome<Owner> {
    if owner.uid != 0 || !layout.is_real() {
        return Ok(owner);
    }
    let folder = layout.requests();
    Err(Failure::new(format!("{} belongs to root, and not to the service's user", folder.display()))
        .hint(format!("chown {SERVICE_USER}: {}", quoted_path(&folder))))
}

/// Tells of a request whose turn does not come any more.
fn give_up(layout: &Layout, branch: &BranchName) {
    let why = "the host stopped answering before its turn came";
    complain(&format!("dropped the request for {branch}: {why}"));
    let (branch, why) = (Some(branch.to_string()), Some(why.to_owned()));
    let outcome = RequestOutcome::Failed;
    write_down(layout, &LastRequest { at: clock::now(), branch, outcome, why, run: None });
}

/// Does what was asked for, as somebody at a shell would, and writes down what became of it.
fn grant(layout: &Layout, branch: &BranchName) -> Result<(), Error> {
    let id = place::new_name();
    let mut request = LastRequest {
        at: clock::now(),
        branch: Some(branch.to_string()),
        outcome: RequestOutcome::Started,
        why: None,
        run: Some(id.clone()),
    };
    say(&format!("the application asks for {branch}: run {id}"));
    write_down(layout, &request);
    let args = RunArgs {
        branch_option: None,
        branch: Some(branch.to_string()),
        if_changed: false,
        dry_run: false,
        no_stage: false,
        always_rebuild_venv: false,
        verify_models: None,
        bundle: BundleArgs::default(),
        strict: false,
        report: ReportArgs { format: Some(Format::Human), json: false, verbose: false },
        place: PlaceArgs::default(),
        lock: LockArgs { wait: LOCK_TIMEOUT },
    };
    match run::run_as(layout, &args, Some(id.clone())) {
        Ok(_) => request.outcome = RequestOutcome::Done,
        // The run goes on without this one; its own end is told by the status.
        Err(error @ Error::Detached { .. }) => return Err(error),
        Err(error) => {
            super::tell_unless_reported(layout, &error);
            request.outcome = RequestOutcome::Failed;
            request.why = Some(why(layout, &request, &error));
        }
    }
    write_down(layout, &request);
    Ok(())
}

/// Why a run did not succeed, in a sentence.
fn why(layout: &Layout, request: &LastRequest, error: &Error) -> String {
    // What a hook wrote is in the spool too, and is not for everybody; a run that preflight refused had none.
    let in_preflight =
        |report: &Report| report.error.as_ref().is_some_and(|why| why.phase == Phase::Preflight);
    let report = request.run.as_ref().and_then(|run| {
        let kept = history::one(layout, run).ok().and_then(|past| past.report);
        kept.or_else(|| Spool::of(layout, run).report().filter(in_preflight))
    });
    match report.and_then(|report| report.why()) {
        Some(why) => why,
        None if error.code() == 4 => "another run was under way all the time".to_owned(),
        None => format!("the run ended with exit code {}", error.code()),
    }
}

/// A status that cannot be written is no reason to leave the rest undone.
fn write_down(layout: &Layout, request: &LastRequest) {
    if let Err(failure) = status_file::set_last_request(layout, request) {
        complain(&format!("the status cannot be written: {}", failure.chain().join(": ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_requests_that_is_roots_is_refused_on_a_real_machine() {
        let (roots, own) = (Owner { uid: 0, gid: 0 }, Owner { uid: 998, gid: 997 });
        let real = Layout::below("/");
        assert_eq!(not_roots(&real, own).unwrap(), own);
        let refused = not_roots(&real, roots).unwrap_err();
        assert_eq!(refused.hints(), ["chown ladylinux: /run/ladylinux-refresh/request"]);
        assert_eq!(not_roots(&Layout::below("/trial"), roots).unwrap(), roots);
    }
}
