//! `init`: brings a directory, or an existing installation, to the deployment contract. Never overwrites.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::{InitArgs, LockArgs};
use crate::clock;
use crate::disk;
use crate::doctor::{self, Examined};
use crate::error::{Failure, Outcome};
use crate::event::Events;
use crate::exit::{Ended, Error, Refusal};
use crate::host::{self, Given, Host, Look, Wish, by_hand, migration};
use crate::installation::as_typed;
use crate::journal::recover;
use crate::process::Runner;
use crate::report::human::{Detail, Human};
use crate::report::screen::{harmless_line, say};
use crate::settings::Transport;
use crate::settings::layers::Overrides;
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, RunId};
use crate::settings::trust;

use super::{lock, undo};

/// Makes what is missing; tells of what is there that it was left as it is. Everything that was given is checked first,
/// the remote and its branch included, so that a mistake leaves nothing behind.
pub(super) fn init(layout: &Layout, args: &InitArgs) -> Result<Ended, Error> {
    if args.dry_run && migration::is_needed(layout).map_err(told)? {
        for line in migration::plan(layout) {
            say(&format!("would {}", harmless_line(&line)));
        }
    } else {
        super::migrate(layout, &mut |line| say(&harmless_line(line)))?;
    }
    trust::check(layout).map_err(told)?;
    if args.undo {
        return undo::undo(layout, args.dry_run);
    }
    let run = RunId::new(clock::now(), std::process::id());
    let runner = Runner::new(Arc::new(Events::new(vec![Box::new(Human::new(Detail::Brief))])));
    let overrides = Overrides::default();
    let wish = wish(args).map_err(|failure| Error::Usage(failure.hint("ladylinux-refresh init --help")))?;
    let given = Given::settle(layout, &wish, overrides, &runner).map_err(Error::Usage)?;
    if args.dry_run {
        let host = Host::look(layout, given, run, runner).map_err(told)?;
        show(&host, layout).map_err(told)?;
        return Ok(Ended::Done);
    }
    // Marked like a run's, so that whoever comes next can end what a killed init left.
    let runner = runner.for_run(run.clone(), layout.run(&run).join(recover::CHILDREN));
    let host = Host::look(layout, given, run.clone(), runner).map_err(told)?;
    // The remote took its time, in which others could exchange what was checked.
    trust::check(layout).map_err(told)?;
    let _lock = locked(layout, &run)?;
    let done = carry_out(&host);
    let notes = done.and_then(|()| notes(&host, layout));
    let released = host.release();
    let notes = notes.map_err(told)?;
    released.map_err(told)?;
    by_hand::tell(&host, &notes);
    say(&format!("ready; refresh it with: {}", as_typed(layout, "ladylinux-refresh run")));
    Ok(Ended::Done)
}

fn told(failure: Failure) -> Error {
    Refusal::with_next("init", failure, "ladylinux-refresh init --help")
}

fn wish(args: &InitArgs) -> Outcome<Wish> {
    Ok(Wish {
        repo: args.repo.clone(),
        branch: args.branch.as_deref().map(BranchName::parse).transpose()?,
        allow: transports(&args.allow)?,
        port: args.port,
        has_socket: args.socket,
        has_page: args.page,
    })
}

fn transports(names: &[String]) -> Outcome<Vec<Transport>> {
    names
        .iter()
        .map(|name| {
            toml::Value::String(name.clone())
                .try_into()
                // What the parser says lists those too that need no leave.
                .map_err(|_| {
                    Failure::new(format!("{name:?} is not a transport that can be allowed: http, git, file"))
                })
        })
        .collect()
}

/// Takes the lock of the runs, which lies in the tool's own directory.
fn locked(layout: &Layout, run: &RunId) -> Result<crate::journal::run_lock::RunLock, Error> {
    disk::make_directory(&layout.state(), 0o755).map_err(told)?;
    lock(layout, "init", Some(run), &LockArgs { wait: Duration::ZERO })
}

/// Takes every measure that is needed.
fn carry_out(host: &Host) -> Outcome<()> {
    for measure in host::measures(host) {
        let line = match measure.look(host)? {
            Look::Fits(sentence) => sentence,
            Look::Needed(_) => measure.carry_out(host)?,
        };
        say(&harmless_line(&line));
    }
    Ok(())
}

/// Returns what is left to people: findings of the doctor, and what only `init` knows.
fn notes(host: &Host, layout: &Layout) -> Outcome<Vec<by_hand::Note>> {
    let mut notes = by_hand::notes(host)?;
    if layout.is_real() {
        let found = doctor::examine_adoption(&Examined::open(layout)?)?;
        notes.extend(found.into_iter().map(|it| by_hand::Note::new(it.what, it.why, it.repair)));
    }
    Ok(notes)
}

/// Shows what [`carry_out`] would do.
fn show(host: &Host, layout: &Layout) -> Outcome<()> {
    let mut needed = 0;
    for measure in host::measures(host) {
        match measure.look(host)? {
            Look::Fits(sentence) => say(&sentence),
            Look::Needed(what) => {
                needed += 1;
                say(&format!("would {}", harmless_line(&what)));
            }
        }
    }
    by_hand::tell(host, &notes(host, layout)?);
    say(match needed {
        0 => "nothing has to be done",
        _ => "nothing was changed; without --dry-run it is done",
    });
    Ok(())
}
