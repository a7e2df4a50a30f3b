//! Locks on the side of the caller: known ones are read, others are requested, once per definition.
//!
//! A known lock is never resolved again. The resolution itself is an operation ([`super::lock_operation`]).

use refresh_system::checkpoint;
use refresh_system::error::{Context as _, Failure, Outcome};

use super::Site;
use super::lock::Lock;
use super::lock_operation::{LockRequest, OPERATION};
use super::record::Record;
use super::recorded_environments::{EnvironmentSpec, Environments, RecordedEnvironment};
use super::resolution_checks;

impl Environments<'_> {
    /// Returns the lock of the specification, if it is known. Only reads.
    ///
    /// # Errors
    /// The file of the lock cannot be read.
    pub fn known_lock(&self, wanted: &EnvironmentSpec) -> Outcome<Option<Lock>> {
        Lock::read(self.site.layout, wanted.key())
    }

    /// Returns the lock that an environment was built from; `None` if it is no longer kept.
    ///
    /// # Errors
    /// The file of the lock cannot be read.
    pub fn lock_of(&self, environment: &RecordedEnvironment) -> Outcome<Option<Lock>> {
        self.lock_in(&environment.record)
    }

    /// Returns the same from the record of the environment.
    pub(super) fn lock_in(&self, record: &Record) -> Outcome<Option<Lock>> {
        let Some(built) = record.built() else { return Ok(None) };
        let is_its = |lock: &Lock| lock.digest() == built.parts.lock;
        // The lock in force has the best information about its origin; its content is the same.
        let in_force = Lock::read(self.site.layout, &built.parts.key())?.filter(is_its);
        Ok(in_force.or_else(|| built.kept.clone().filter(is_its)))
    }

    /// Refuses a definition without a lock of the application if the host requires one.
    ///
    /// # Errors
    /// The application has no lock.
    pub fn check_strict(&self, wanted: &EnvironmentSpec) -> Outcome<()> {
        let definitions = &wanted.definitions;
        if !self.site.python.strict || definitions.own_lock.is_some() || definitions.is_empty() {
            return Ok(());
        }
        let files: Vec<String> = definitions.files().map(|file| file.display().to_string()).collect();
        Err(Failure::new(format!(
            "the application has no lockfile (in {}), and this host requires one",
            files.join(", ")
        ))
        .command("ladylinux-refresh lock --format requirements", &[])
        .hint("commit what that prints as the application's requirements; or leave --strict (python.strict) out"))
    }

    /// Returns the lock of the specification. If it is not known yet, resolves the definition and keeps the result.
    ///
    /// # Errors
    /// The definition does not resolve, or the application's own lock cannot be used.
    pub fn lock(&self, wanted: &EnvironmentSpec) -> Outcome<Lock> {
        if let Some(known) = self.known_lock(wanted)? {
            // An earlier version may have read it without this check.
            if let Some(own) = wanted.definitions.own_lock.as_ref().filter(|_| wanted.definitions.is_locked())
            {
                resolution_checks::refuse_unfit_lock(&wanted.definitions, own, &known)?;
            }
            return Ok(known);
        }
        let events = self.site.runner.events();
        wanted.definitions.notes.iter().for_each(|note| events.note(note));
        match &wanted.definitions.own_lock {
            Some(own) => {
                events.note(&format!("the application's {} selects the packages", own.file().display()));
            }
            None => events.note("resolving the requirements"),
        }
        let lock = self.site.ask_for_lock(wanted, false)?;
        if let Some(why) = lock.summary().not_reproducible {
            events.note(&format!("another machine may resolve the requirements in another way: {why}"));
        }
        lock.write(self.site.layout)?;
        checkpoint::reach("python:locked");
        Ok(lock)
    }

    /// Resolves a definition again with all releases until now, and keeps the result as its lock. If the result is the
    /// same, the lock stays unchanged: other machines get it without this command.
    ///
    /// # Errors
    /// The application has its own lock, which is binding; or the definition does not resolve.
    pub fn upgrade(&self, wanted: &EnvironmentSpec) -> Outcome<Lock> {
        if let Some(own) = &wanted.definitions.own_lock {
            let file = own.file().display();
            return Err(Failure::new(format!(
                "the application's {file} is the lockfile, and a refresh does not write it"
            ))
            .hint(format!("update {file} in the application's repository, and commit it")));
        }
        let lock = self.site.ask_for_lock(wanted, true)?;
        if let Some(before) = self.known_lock(wanted)?.filter(|before| before.digest() == lock.digest()) {
            return Ok(before);
        }
        lock.write(self.site.layout)?;
        Ok(lock)
    }
}

impl Site<'_> {
    /// Requests the lock from the operation; with `upgrade`, from all releases until now.
    pub(super) fn ask_for_lock(&self, wanted: &EnvironmentSpec, upgrade: bool) -> Outcome<Lock> {
        self.ensure_uv(&wanted.interpreter)?;
        let request = LockRequest {
            setup: self.setup()?,
            key: wanted.key().to_owned(),
            definitions: wanted.definitions.clone(),
            interpreter: wanted.interpreter.clone(),
            cutoff: wanted.cutoff,
            upgrade,
        };
        let lock: Lock = self.call(OPERATION, &request)?;
        // The answer of an operation is trusted only if its words have the required form.
        lock.check().context(|| "the answer of the resolution cannot be used".to_owned())?;
        Ok(lock)
    }
}
