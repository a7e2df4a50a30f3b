//! Units: sandboxed processes that do all work on content of others, so that root only conducts.
//!
//! A unit does an operation of ours ([`Units::call`]), runs a program of others ([`Units::run`]), or waits and answers
//! later ([`Units::wait_in_unit`]). On a machine with systemd it is a transient unit with a control group of its own;
//! elsewhere a process that this program confines by itself ([`launcher`]). [`table`] says as whom each role runs and what
//! it may reach. This room starts processes and copies this program to the file that they execute; it changes nothing
//! else.

mod credentials;
mod inside;
mod job;
mod launcher;
pub mod operations;
mod program;
mod sessions;
mod socket_drop_in;
mod systemd;
pub mod table;
pub mod users;
mod waiting;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::child::{Input, memory_file};
use crate::process::watch::{Limits, Started};
use crate::process::worker::{self, Answer};
use crate::process::{Ended, Finished, Keep, Owner, Program, Runner};
use crate::report::shell::quoted;
use crate::settings::layout::Layout;
use crate::systemd::process_unit::Stdin;
use crate::systemd::{self as manager, Bus};

pub use credentials::credential;
pub use inside::{COMMAND, work};
pub use job::{Access, Bind, Credential, HeldSockets, Job};
pub use table::Role;
pub use waiting::Waiting;

use credentials::{CREDENTIALS, Copies};
use inside::{Setup, Work};
use launcher::Confinement;
use sessions::Sessions;
use socket_drop_in::SocketDropIn;

/// How often a unit that only reads is started where others end it.
const ATTEMPTS: usize = 3;

fn program_for(layout: &Layout, runner: &Runner, user: Owner) -> Outcome<PathBuf> {
    let own = rustix::process::geteuid();
    if own.is_root() && own.as_raw() != user.uid && layout.state().is_dir() {
        return program::ensure(layout, runner.own_program());
    }
    Ok(runner.own_program().to_path_buf())
}

/// How far the table of units is put into force here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "missing", rename_all = "snake_case")]
pub enum Enforcement {
    /// All of it.
    Enforced,
    /// All but this, a sentence each.
    Missing(Vec<String>),
}

/// The process of a unit, and what exists as long as it.
#[derive(Debug)]
struct Running {
    started: Started,
    /// The name of its unit, where that is systemd's.
    unit: Option<String>,
    _copies: Option<Copies>,
    _sockets: Option<SocketDropIn>,
}

/// Starts units for one installation. Clones share the connection to systemd.
#[derive(Debug, Clone)]
pub struct Units {
    layout: Layout,
    runner: Runner,
    service: Owner,
    bus: Arc<Mutex<Option<Bus>>>,
    /// `None` where each request has a unit to itself.
    sessions: Option<Sessions>,
}

impl Units {
    /// Makes the door to units; nothing is started. `service` is the owner of `app/`.
    pub fn new(layout: &Layout, runner: &Runner, service: Owner) -> Self {
        Self { layout: layout.clone(), runner: runner.clone(), service, bus: Arc::default(), sessions: None }
    }

    /// Answers requests that need the same rights in one unit, one after the other, where units are systemd's.
    #[must_use]
    pub fn with_sessions(mut self) -> Self {
        self.sessions = self.in_systemd().then(Sessions::default);
        self
    }

    /// Starts the unit that answers requests of a role which writes nothing, in the background.
    pub fn start_beforehand(&self, role: Role) {
        if let Some(sessions) = &self.sessions {
            sessions.start_beforehand(self, role);
        }
    }

    /// Ends the units that wait for further requests.
    pub fn end_sessions(&self) {
        if let Some(sessions) = &self.sessions {
            sessions.end();
        }
    }

    /// Does an operation of ours in a unit and returns its response.
    ///
    /// # Errors
    /// The unit cannot be started or was ended; or the operation's own failure, with its causes and hints as text.
    pub fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        job: &Job,
        operation: &str,
        request: &Q,
    ) -> Outcome<A> {
        let context = || format!("cannot ask a unit for {operation}");
        let request = serde_json::to_vec(request).context(context)?;
        if let Some(sessions) = &self.sessions
            && let Some(answered) = sessions.ask(self, job, operation, request.clone())
        {
            return Answer::read(&answered?, operation);
        }
        let attempts = if self.may_be_ended_by_others(job)? { ATTEMPTS } else { 1 };
        for attempt in 1..=attempts {
            let work = Work::Answer(operation.to_owned());
            let finished = self.finish(job, operation, work, &request, &job_limits(job, operation))?;
            match finished.ended {
                Ended::Exited(0) => return Answer::read(&finished.stdout, operation),
                Ended::Signalled(_) if attempt < attempts => {}
                Ended::Signalled(_) if attempts > 1 => break,
                _ => return Err(finished.failure(&format!("the unit for {operation} failed"))),
            }
        }
        Err(self.ended_by_others(job, operation, attempts))
    }

    /// Returns `true` if processes of others may signal a unit that only reads, so that it is worth starting it again.
    fn may_be_ended_by_others(&self, job: &Job) -> Outcome<bool> {
        let own = rustix::process::geteuid().as_raw();
        Ok(job.role == Role::Inspect && self.user_of(job.role)?.uid != own)
    }

    /// Reports that each unit for `operation` was ended before it could answer: names who can have done that.
    fn ended_by_others(&self, job: &Job, operation: &str, times: usize) -> Failure {
        let user = self.user_name(job.role);
        let cause = format!(
            "only root, the kernel for want of memory, or a process of {user} can do that: the service, or one that \
             its user started elsewhere"
        );
        Failure::new(format!("the unit for {operation} was ended by a signal {times} times"))
            .because(Failure::new(cause))
            .hint(format!("ps -o pid,unit,args -u {}", quoted(&user)))
    }

    /// Names the user of a role, for messages.
    fn user_name(&self, role: Role) -> String {
        let Ok(user) = self.user_of(role) else { return role.word().to_owned() };
        user.name().unwrap_or_else(|| user.uid.to_string())
    }

    /// Does an operation of ours in a unit on a machine; elsewhere, where no user of the table exists, as `owner`.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_as<Q: Serialize, A: DeserializeOwned>(
        &self,
        job: &Job,
        owner: Owner,
        operation: &str,
        request: &Q,
    ) -> Outcome<A> {
        let is_machine = self.layout.is_real() && rustix::process::geteuid().is_root();
        if is_machine && self.user_of(job.role).is_ok() {
            return self.call(job, operation, request);
        }
        let runner = self.runner.clone().with_worker(self.program_for(owner)?);
        worker::ask(&runner, owner, operation, request, &job_limits(job, operation))
    }

    /// Runs a program of others in a unit and returns what it left. The deadline of the job counts, and its narration
    /// where it has one; what else the program says of itself counts too, but its owner.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn run(&self, job: &Job, program: &Program) -> Outcome<Finished> {
        let name = program.name();
        let mut limits = Limits { deadline: job.deadline, ..program.limits() };
        if let Some(narrate) = &job.narrate {
            limits.keep = Keep::Narrated(narrate.clone());
        }
        let mark = self.runner.run_id();
        let work = |program: Program| Work::Become(Box::new(program.into_replacement(mark)));
        if self.in_systemd() {
            return self.finish(job, &name, work(program.clone()), b"", &limits);
        }
        // What PrivateTmp is to a unit of systemd.
        let own_tmp = self.make_own_directory("tmp", self.user_of(job.role)?)?;
        let program = program.clone().env("TMPDIR", &own_tmp);
        let finished = self.finish(&job.clone().writes(&own_tmp), &name, work(program), b"", &limits);
        let removed = disk::remove_tree(&own_tmp);
        let finished = finished?;
        removed.map(|()| finished)
    }

    /// Starts a unit that waits for requests of `operation`. It is asked `first` at once, whose response is dropped: it
    /// shows that the unit works, and should hold nothing that others must not learn before the unit is needed.
    ///
    /// # Errors
    /// The unit cannot be started, or fails to answer `first`.
    pub fn wait_in_unit<Q: Serialize>(&self, job: &Job, operation: &str, first: &Q) -> Outcome<Waiting> {
        let told = || format!("cannot ask a unit for {operation}");
        let first = serde_json::to_vec(first).context(told)?;
        Waiting::start(self, job, operation, first)
    }

    /// Returns who a unit of this role runs as.
    ///
    /// # Errors
    /// The user does not exist on this machine.
    pub fn user_of(&self, role: Role) -> Outcome<Owner> {
        users::resolve(&self.layout, role.user(), self.service)
    }

    /// Returns how far the table is put into force here.
    ///
    /// # Errors
    /// systemd cannot be asked.
    pub fn enforcement(&self) -> Outcome<Enforcement> {
        let missing =
            if self.in_systemd() { systemd::missing(&self.bus()?)? } else { launcher::missing(&self.layout) };
        Ok(if missing.is_empty() { Enforcement::Enforced } else { Enforcement::Missing(missing) })
    }

    /// Lets a unit work on a tree that its user cannot reach by its path; returns the job and the path at which the unit
    /// sees the tree.
    ///
    /// # Errors
    /// The directory that the tree is shown at cannot be made.
    pub fn with_tree(&self, job: &Job, tree: &Path, access: Access) -> Outcome<(Job, PathBuf)> {
        if !self.can_bind() {
            let job = if access == Access::ReadWrite { job.clone().writes(tree) } else { job.clone() };
            return Ok((job, tree.to_path_buf()));
        }
        let destination = self.layout.state().join("tree");
        disk::make_directory(&destination, 0o755)?;
        let bind = Bind { source: tree.to_path_buf(), destination: destination.clone(), access };
        Ok((job.clone().sees(bind), destination))
    }

    /// Returns whether a unit can see something at another path ([`Job::binds`]).
    pub fn can_bind(&self) -> bool {
        self.in_systemd()
    }

    /// Returns whether a unit that had the sockets of the service was killed together with its run: it may have left them with
    /// their gate closed ([`crate::service::gate`]).
    pub fn have_left_sockets(&self) -> bool {
        !socket_drop_in::left(&self.layout).is_empty()
    }

    /// Returns whether units are systemd's here.
    fn in_systemd(&self) -> bool {
        self.layout.is_real() && manager::is_booted() && rustix::process::geteuid().is_root()
    }

    fn bus(&self) -> Outcome<Bus> {
        let mut kept = self.bus.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_ref().filter(|bus| !bus.is_lost()) {
            Some(bus) => Ok(bus.clone()),
            None => Ok(kept.insert(Bus::connect()?).clone()),
        }
    }

    /// Starts a unit, watches it to its end and collects it.
    fn finish(
        &self,
        job: &Job,
        name: &str,
        work: Work,
        request: &[u8],
        limits: &Limits,
    ) -> Outcome<Finished> {
        let mut running = self.start(job, name, work, Some(request))?;
        self.runner.finish(&mut running.started, limits)
    }

    /// Starts a unit whose input stays open.
    fn start_waiting(&self, job: &Job, name: &str, work: Work) -> Outcome<Running> {
        self.start(job, name, work, None)
    }

    /// Starts a unit. It reads its setup and `request`, or its setup and what is written later.
    fn start(&self, job: &Job, name: &str, work: Work, request: Option<&[u8]>) -> Outcome<Running> {
        let told = || format!("cannot start a unit for {name}");
        let user = self.user_of(job.role)?;
        let in_systemd = self.in_systemd();
        let confinement = (!in_systemd).then(|| Confinement {
            writable: launcher::that_exist(&job.writable).into_iter().chain(checkpoint::trace()).collect(),
            gives_way: job.role.gives_way() && !job.brief,
        });
        let mut input = serde_json::to_vec(&Setup::new(work, confinement, in_systemd)).context(told)?;
        input.push(b'\n');
        input.extend_from_slice(request.unwrap_or_default());
        let file = request.is_some().then_some(&input);
        let mut running = if in_systemd {
            let stdin = match file {
                Some(bytes) => Stdin::File(memory_file(bytes)?),
                None => Stdin::Pipe,
            };
            systemd::start(self, job, name, user, stdin)?
        } else {
            self.launch(job, name, user, file)?
        };
        if let Some(stdin) = &mut running.started.stdin {
            match std::io::Write::write_all(stdin, &input) {
                // Its end has been reached before: the caller that watches it finds out how.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                written => written.context(told)?,
            }
        }
        Ok(running)
    }

    /// Starts this program as the process of a unit, without systemd.
    fn launch(&self, job: &Job, name: &str, user: Owner, input: Option<&Vec<u8>>) -> Outcome<Running> {
        let mut program = Program::new(self.program_for(user)?).arg(COMMAND).arg(name).owner(user);
        for (variable, value) in checkpoint::for_worker() {
            program = program.env(variable, value);
        }
        let copies = (!job.credentials.is_empty()).then(|| Copies::make(self, job, user)).transpose()?;
        if let Some(copies) = &copies {
            program = program.env(CREDENTIALS, copies.directory());
        }
        let started = match input {
            Some(bytes) => self.runner.start(&program.input(bytes.clone()), Input::Given)?,
            None => self.runner.start(&program, Input::Open)?,
        };
        Ok(Running { started, unit: None, _copies: copies, _sockets: None })
    }

    /// Returns the file that a unit of `user` executes: one that the user cannot read, where it is another user.
    fn program_for(&self, user: Owner) -> Outcome<PathBuf> {
        program_for(&self.layout, &self.runner, user)
    }

    /// Returns the file that a unit of systemd executes: the copy in the state, or this program's own file before there is
    /// a state.
    fn program_of_unit(&self) -> Outcome<PathBuf> {
        let own = self.runner.own_program();
        if self.layout.state().is_dir() {
            return program::ensure(&self.layout, own);
        }
        own.canonicalize().context(|| format!("cannot find the file of {}", own.display()))
    }

    /// Makes a directory of `user` below `/run/ladylinux-refresh` that no other process uses.
    fn make_own_directory(&self, name: &str, user: Owner) -> Outcome<PathBuf> {
        let above = self.layout.volatile();
        disk::make_directory(&above, 0o755)?;
        let directory = above.join(format!("{name}-{}", unique()));
        disk::make_owned_directory(&directory, 0o700, &user)?;
        Ok(directory)
    }
}

fn job_limits(job: &Job, operation: &str) -> Limits {
    Limits {
        name: operation.to_owned(),
        deadline: job.deadline,
        stall: job.stall,
        keep: Keep::Response { limit: job.output, narrate: job.narrate.clone() },
    }
}

/// Returns a word that no other unit of this machine has.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let own = rustix::process::getpid().as_raw_nonzero();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{own:x}-{count:x}", clock::now().as_nanosecond())
}
