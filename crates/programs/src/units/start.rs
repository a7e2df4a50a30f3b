//! The start of a unit, as a service of systemd or as a process that confines itself.

use super::context::UnitContext;
use super::credentials::{CREDENTIALS, Copies};
use super::inside::{COMMAND, Setup, Work};
use super::launcher::{self, Confinement};
use super::options::UnitOptions;
use super::running::Running;
use super::systemd;
use crate::process::Program;
use crate::process::child::Input;
use crate::process::memory_file::memory_file;
use crate::systemd::process_unit::Stdin;
use refresh_system::checkpoint;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Outcome};

/// Starts a unit. It reads its setup and `request`, or its setup and later requests.
pub(super) fn start(
    context: &UnitContext,
    options: &UnitOptions,
    name: &str,
    work: Work,
    request: Option<&[u8]>,
) -> Outcome<Running> {
    let context_of = || format!("cannot start a unit for {name}");
    let user = context.user_of(options.role)?;
    let in_systemd = context.in_systemd();
    let confinement = (!in_systemd).then(|| Confinement {
        writable: launcher::that_exist(&options.writable).into_iter().chain(checkpoint::trace()).collect(),
        gives_way: options.role.gives_way() && !options.brief,
    });
    let mut input = serde_json::to_vec(&Setup::new(work, confinement, in_systemd)).context(context_of)?;
    input.push(b'\n');
    input.extend_from_slice(request.unwrap_or_default());
    let file = request.is_some().then_some(&input);
    let mut running = if in_systemd {
        let stdin = match file {
            Some(bytes) => Stdin::File(memory_file(bytes)?),
            None => Stdin::Pipe,
        };
        systemd::start(context, options, name, user, stdin)?
    } else {
        launch(context, options, name, user, file)?
    };
    if let Some(stdin) = &mut running.started.stdin {
        match std::io::Write::write_all(stdin, &input) {
            // The process has already ended: the caller that watches it finds out how.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.context(context_of)?,
        }
    }
    Ok(running)
}

/// Starts a process that answers `request` with all rights of `owner`.
pub(super) fn start_unconfined(
    context: &UnitContext,
    options: &UnitOptions,
    name: &str,
    owner: Owner,
    work: Work,
    request: &[u8],
) -> Outcome<Running> {
    let mut input = serde_json::to_vec(&Setup::new(work, None, false))
        .context(|| format!("cannot start a process for {name}"))?;
    input.push(b'\n');
    input.extend_from_slice(request);
    launch(context, options, name, owner, Some(&input))
}

/// Starts this program as the process of a unit, without systemd.
fn launch(
    context: &UnitContext,
    options: &UnitOptions,
    name: &str,
    user: Owner,
    input: Option<&Vec<u8>>,
) -> Outcome<Running> {
    let mut program = Program::new(context.program_for(user)?).arg(COMMAND).arg(name).owner(user);
    for (variable, value) in checkpoint::for_worker() {
        program = program.env(variable, value);
    }
    let copies =
        (!options.credentials.is_empty()).then(|| Copies::make(context, options, user)).transpose()?;
    if let Some(copies) = &copies {
        program = program.env(CREDENTIALS, copies.directory());
    }
    let started = match input {
        Some(bytes) => context.runner.start(&program.input(bytes.clone()), Input::Bytes)?,
        None => context.runner.start(&program, Input::Open)?,
    };
    Ok(Running { started, unit: None, _copies: copies, _sockets: None })
}
