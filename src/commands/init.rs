//! `init`: sets up a directory, or an existing installation. Never overwrites.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::{InitArgs, LockArgs, words};
use crate::report::human::Human;
use crate::report::outcome::Detail;
use refresh_events::event::Events;
use refresh_host::doctor;
use refresh_host::doctor::{DoctorFinding, Examined};
use refresh_host::host;
use refresh_host::host::{Host, InitInput, InitOptions, Need, migration};
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::installation::as_typed;
use refresh_programs::process::Runner;
use refresh_settings::layers::Overrides;
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, RunId};
use refresh_settings::{RemoteUrl, Transport, trust};
use refresh_system::error::{Failure, Outcome};
use refresh_system::screen;
use refresh_system::screen::{Tone, paint, print_line};
use refresh_system::text::{count, harmless_line};
use refresh_system::{clock, disk};

use super::run_request::again;
use super::{for_other_branch, lock, undo};

/// Sets up an installation, or removes it. After a refusal the same command continues; a mistyped branch is replaced in
/// it.
pub(super) fn init(layout: &Layout, args: &InitArgs) -> Result<Success, Error> {
    set_up(layout, args).map_err(|error| match error {
        Error::Refused(refusal) if refusal.during == INIT => {
            let again = |args| words::of(INIT, args).map_or_else(|_| HELP.to_owned(), |words| again(&words));
            let args = &without_secret(args);
            let without_branch = InitArgs { branch: None, ..args.clone() };
            let (failure, next) = for_other_branch(refusal.failure, |branch| {
                format!("{} --branch {branch}", again(&without_branch))
            });
            Refusal::with_next(INIT, failure, &next.unwrap_or_else(|| again(args)))
        }
        other => other,
    })
}

/// Returns arguments to be printed: a URL that is not valid as a setting may contain a secret, and gives way to a
/// placeholder.
fn without_secret(args: &InitArgs) -> InitArgs {
    let any = [Transport::Http, Transport::Git, Transport::File];
    let is_valid = |url: &String| RemoteUrl::parse(url, &any).is_ok();
    let repo = args.repo.clone().map(|url| if is_valid(&url) { url } else { "URL".to_owned() });
    InitArgs { repo, ..args.clone() }
}

/// Creates the missing parts, and reports existing files as unchanged. All input is checked first, including the remote
/// and its branch: a mistake leaves nothing behind.
fn set_up(layout: &Layout, args: &InitArgs) -> Result<Success, Error> {
    if args.dry_run && migration::is_needed(layout).map_err(refusal)? {
        for line in migration::plan(layout) {
            print_line(&format!("would {}", harmless_line(&line)));
        }
    } else {
        super::migrate(layout, &mut |line| print_line(&harmless_line(line)))?;
    }
    trust::check(layout).map_err(refusal)?;
    if args.undo {
        return undo::undo(layout, args.dry_run);
    }
    let run = RunId::new(clock::now(), std::process::id());
    let runner = Runner::new(Arc::new(Events::new(vec![Box::new(Human::new(Detail::Brief))])));
    let overrides = Overrides::default();
    let options = options(args).map_err(|failure| Error::Usage(failure.command(HELP, &[])))?;
    let input = InitInput::new(layout, &options, overrides, &runner).map_err(Error::Usage)?;
    if args.dry_run {
        let host = Host::new(layout, input, run, runner).map_err(refusal)?;
        show(&host, layout).map_err(refusal)?;
        return Ok(Success::Done);
    }
    // Its processes are marked like those of a run: the next command can end the processes of a killed init.
    let runner = runner.for_run(run.clone());
    let host = Host::new(layout, input, run.clone(), runner).map_err(refusal)?;
    // The check of the remote may take long, and other users could exchange the checked files meanwhile.
    trust::check(layout).map_err(refusal)?;
    let _lock = locked(layout, &run)?;
    let found = apply(&host).and_then(|()| manual_steps(&host, layout));
    let released = host.release();
    let found = found.map_err(refusal)?;
    released.map_err(refusal)?;
    print_manual_steps(&found);
    print_line(&format!("ready; refresh it with: {}", as_typed(layout, "ladylinux-refresh run")));
    Ok(Success::Done)
}

/// The name of the command in errors.
const INIT: &str = "init";
/// The command that prints its options.
const HELP: &str = "ladylinux-refresh init --help";

fn refusal(failure: Failure) -> Error {
    Refusal::with_next(INIT, failure, HELP)
}

fn options(args: &InitArgs) -> Outcome<InitOptions> {
    Ok(InitOptions {
        repo: args.repo.clone(),
        branch: args.branch.as_deref().map(BranchName::parse).transpose()?,
        allow: transports(&args.allow)?,
        port: args.port,
        has_socket: args.socket,
        has_page: args.page,
        is_dry_run: args.dry_run,
    })
}

fn transports(names: &[String]) -> Outcome<Vec<Transport>> {
    names
        .iter()
        .map(|name| {
            toml::Value::String(name.clone())
                .try_into()
                // The message of the parser also lists transports that need no permission.
                .map_err(|_| {
                    Failure::new(format!("{name:?} is not a transport that can be allowed: http, git, file"))
                })
        })
        .collect()
}

/// Takes the run lock, which is in the tool's own directory.
fn locked(layout: &Layout, run: &RunId) -> Result<refresh_installation::journal::run_lock::RunLock, Error> {
    disk::make_directory(&layout.state(), 0o755).map_err(refusal)?;
    lock(layout, INIT, Some(run), &LockArgs { wait: Duration::ZERO })
}

/// Applies every step that is needed.
fn apply(host: &Host) -> Outcome<()> {
    for step in host::steps(host) {
        let line = match (step.check)(host)? {
            Need::Fits(sentence) => sentence,
            Need::Needed(_) => (step.apply)(host)?,
        };
        if !screen::is_quiet() {
            print_line(&harmless_line(&line));
        }
    }
    Ok(())
}

/// Returns the doctor's findings that `init` does not repair.
fn manual_steps(host: &Host, layout: &Layout) -> Outcome<Vec<DoctorFinding>> {
    let input = &host.input;
    let examined = Examined::of_init(layout, input.layers.clone(), input.branch.clone(), host.tree()?)?;
    doctor::examine_manual(&examined)
}

fn print_manual_steps(found: &[DoctorFinding]) {
    if found.is_empty() {
        return;
    }
    print_line("");
    print_line(&paint(Tone::Strong, &format!("not changed by init ({}):", count(found.len(), "finding"))));
    for (number, one) in (1..).zip(found) {
        print_line(&format!("{number:>3}. {}", harmless_line(&one.what)));
        print_line(&format!("     why   {}", harmless_line(&one.why)));
        print_line(&format!("     do    {}", paint(Tone::Strong, &harmless_line(&one.repair))));
    }
    print_line("");
}

/// Shows the effects of [`apply`].
fn show(host: &Host, layout: &Layout) -> Outcome<()> {
    let mut needed = 0;
    for step in host::steps(host) {
        match (step.check)(host)? {
            Need::Fits(sentence) => print_line(&match sentence.strip_prefix("left ") {
                Some(unchanged) => format!("leaves {unchanged}"),
                None => sentence,
            }),
            Need::Needed(what) => {
                needed += 1;
                print_line(&format!("would {}", harmless_line(&what)));
            }
        }
    }
    print_manual_steps(&manual_steps(host, layout)?);
    print_line(match needed {
        0 => "no changes are needed",
        _ => "dry run: no changes were made",
    });
    Ok(())
}
