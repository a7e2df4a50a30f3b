//! `answer-requests`: removes the requests of the application and refreshes the branch to follow. A path unit starts
//! this command.

use std::time::Duration;

use crate::cli::{Format, LockArgs, ReportArgs, RunArgs, RunOptions};
use refresh_events::run_report::{Phase, Report};
use refresh_host::host::presence;
use refresh_host::requests;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::history;
use refresh_installation::status_file;
use refresh_installation::status_file::{LastRequest, RequestOutcome};
use refresh_programs::process::Runner;
use refresh_programs::units::Units;
use refresh_run::relay::spool::Spool;
use refresh_settings::layers::Overrides;
use refresh_settings::layout::Layout;
use refresh_settings::names::BranchName;
use refresh_settings::users::SERVICE_USER;
use refresh_system::clock;
use refresh_system::disk::Owner;
use refresh_system::error::{Failure, Outcome};
use refresh_system::screen::{print_line, print_to_stderr};
use refresh_system::text::quoted_path;

use super::{run, run_process, settings};

/// The time limit for a request to wait for the end of another run.
const LOCK_TIMEOUT: Duration = Duration::from_secs(900);
/// The shortest duration of one start on a real machine. With it, the start limit of the unit stops the answers if the
/// application sends requests continuously, or if the directory cannot be emptied.
const AT_LEAST: Duration = Duration::from_secs(1);

/// Answers the requests of the application, which count as one request.
pub(super) fn answer_requests(layout: &Layout) -> Result<Success, Error> {
    let start = clock::monotonic();
    let answered = answer(layout);
    if layout.is_real() {
        let left = AT_LEAST.saturating_sub(clock::monotonic().duration_since(start));
        // An interruption ends only this pause.
        let _ = clock::pause(left);
    }
    answered
}

fn answer(layout: &Layout) -> Result<Success, Error> {
    let directory = layout.requests();
    let runner = Runner::silent();
    // The requests are removed before anything else can fail: a remaining request starts this program until systemd's
    // start limit.
    let taken = presence::check_there(layout)
        .and_then(|()| Owner::of(&directory))
        .and_then(|owner| not_roots(layout, owner))
        .and_then(|owner| requests::take(&Units::new(layout, &runner, owner), owner, &directory))
        .map_err(|failure| Refusal::of("answer-requests", failure))?;
    if taken.count > 0 {
        refresh(layout)?;
    }
    let Some(stuck) = taken.stuck else { return Ok(Success::Done) };
    let failure = Failure::new(format!("cannot empty {}: {stuck}", directory.display()))
        .hint(format!("check its content, then remove it as root: ls -la {}", quoted_path(&directory)));
    Err(Refusal::of("answer-requests", failure))
}

/// Refreshes the branch of the settings, or else the deployed branch, if the settings allow requests of the
/// application.
fn refresh(layout: &Layout) -> Result<(), Error> {
    let settings = settings(layout, Overrides::default())
        .and_then(|layers| layers.resolve().map_err(Error::Usage))
        .inspect_err(|_| refuse(layout, None, "the settings of this host cannot be used"))?;
    let deployed = status_file::read(layout).deployed.map(|pair| pair.branch);
    let branch = settings.branch_to_follow(deployed);
    if settings.allowed_branches.contains(&branch) {
        return run_for_request(layout, &branch);
    }
    let why =
        format!("the settings of this host do not allow it: allowed_branches does not contain {branch}");
    refuse(layout, Some(&branch), &why);
    Ok(())
}

fn refuse(layout: &Layout, branch: Option<&BranchName>, why: &str) {
    print_to_stderr(&format!("refused the request of the application: {why}"));
    let (branch, why) = (branch.map(ToString::to_string), Some(why.to_owned()));
    let outcome = RequestOutcome::Refused;
    write_down(layout, &LastRequest { at: clock::now(), branch, outcome, why, run: None });
}

/// Refuses a directory of root: its entries would be removed with root's rights. A `--root` directory belongs to its
/// user.
fn not_roots(layout: &Layout, owner: Owner) -> Outcome<Owner> {
    if owner.uid != 0 || !layout.is_real() {
        return Ok(owner);
    }
    let directory = layout.requests();
    Err(Failure::new(format!("{} belongs to root, not to the service user", directory.display()))
        .command("chown", &[&format!("{SERVICE_USER}:"), &directory]))
}

/// Runs a refresh in the same way as a command in a shell, and records its outcome.
fn run_for_request(layout: &Layout, branch: &BranchName) -> Result<(), Error> {
    let id = run_process::new_name();
    let mut request = LastRequest {
        at: clock::now(),
        branch: Some(branch.to_string()),
        outcome: RequestOutcome::Started,
        why: None,
        run: Some(id.clone()),
    };
    print_line(&format!("the application requests a refresh of {branch}: run {id}"));
    write_down(layout, &request);
    let args = RunArgs {
        options: RunOptions { branch: Some(branch.to_string()), ..RunOptions::default() },
        report: ReportArgs { format: Some(Format::Human), ..ReportArgs::default() },
        lock: LockArgs { wait: LOCK_TIMEOUT },
        unattended: true,
        ..RunArgs::default()
    };
    match run::run(layout, args, id) {
        Ok(_) => {
            let report = request.run.as_ref().and_then(|run| Spool::of(layout, run).report());
            let held = report.and_then(|report| report.held_back);
            request.outcome = if held.is_some() { RequestOutcome::Refused } else { RequestOutcome::Done };
            request.why = held.map(|held| format!("{} is held back: {}", held.commit.short(), held.cause()));
        }
        // The run continues without this program, and records its own outcome.
        Err(error @ Error::Detached { .. }) => return Err(error),
        Err(error) => {
            super::print_unless_reported(layout, &error);
            request.outcome = RequestOutcome::Failed;
            request.why = Some(why(layout, &request, &error));
        }
    }
    write_down(layout, &request);
    Ok(())
}

/// Returns why a run did not succeed, in a sentence.
fn why(layout: &Layout, request: &LastRequest, error: &Error) -> String {
    // The spool also contains the output of hooks, which is not public; a run that preflight refused has none.
    let in_preflight =
        |report: &Report| report.error.as_ref().is_some_and(|why| why.phase == Phase::Preflight);
    let report = request.run.as_ref().and_then(|run| {
        let kept = history::one(layout, run).ok().and_then(|past| past.report);
        kept.or_else(|| Spool::of(layout, run).report().filter(in_preflight))
    });
    match report.and_then(|report| report.why()) {
        Some(why) => why,
        None if error.code() == 4 => "another run was in progress all the time".to_owned(),
        None => format!("the run ended with exit code {}", error.code()),
    }
}

/// Records a request in the status file. A failure is only printed: the rest must still be done.
fn write_down(layout: &Layout, request: &LastRequest) {
    if let Err(failure) = status_file::set_last_request(layout, request) {
        print_to_stderr(&format!("the status cannot be written: {}", failure.chain().join(": ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_directory_of_root_is_refused_on_a_real_machine() {
        let (roots, own) = (Owner { uid: 0, gid: 0 }, Owner { uid: 998, gid: 997 });
        let real = Layout::below("/");
        assert_eq!(not_roots(&real, own).unwrap(), own);
        let refused = not_roots(&real, roots).unwrap_err();
        assert_eq!(refused.hint_texts(), ["chown ladylinux: /run/ladylinux-refresh/request"]);
        assert_eq!(not_roots(&Layout::below("/trial"), roots).unwrap(), roots);
    }
}
