//! Provides an environment: reuses a good one, or builds one in a new directory at its final path and records it.

use refresh_events::run_report::Overlap;
use refresh_settings::Strategy;
use refresh_settings::names::{EnvironmentName, RunId};
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::manifest::contamination::Contamination;
use refresh_system::{checkpoint, clock, disk, interrupt};

use super::compare::By;
use super::construct::{BuildRequest, BuildResponse, OPERATION};
use super::lock::Lock;
use super::record::{self, Built, ImportChecks, Origin, Record};
use super::recorded_environments::{EnvironmentSpec, Environments, RecordedEnvironment};

/// A good environment that fits the specification.
#[derive(Debug, Clone)]
pub struct Ensured {
    /// The environment.
    pub environment: RecordedEnvironment,
    /// Whether it had to be built.
    pub made: BuildOutcome,
    /// Why it was built or reused.
    pub why: String,
    /// Changed environments: the live one, and those that would have been reused.
    pub contaminated: Vec<Contaminated>,
}

/// An environment that was changed, and the change found in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contaminated {
    /// The environment.
    pub name: EnvironmentName,
    /// The change.
    pub found: Contamination,
}

/// How an environment was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildOutcome {
    /// It was built in this call.
    Built,
    /// It existed already.
    Reused,
}

impl Environments<'_> {
    /// Returns a good environment of the specification (RW-5.3). With [`Strategy::Always`] (RW-5.3a) an environment is
    /// built again unless the run `run` has built it already; with [`Strategy::WhenChanged`] (RW-5.3b) the newest good
    /// one is reused. Unfinished environments of an interrupted run are discarded first.
    ///
    /// # Errors
    /// The build fails; nothing of it remains. The reason is the message of the installer.
    pub fn ensure(&self, wanted: &EnvironmentSpec, strategy: Strategy, run: &RunId) -> Outcome<Ensured> {
        self.check_strict(wanted)?;
        self.ensure_from(wanted, None, strategy, run)
    }

    /// Returns a good environment with the content of an earlier one. If that is no longer good, it is built again from
    /// the lock that it was built from.
    ///
    /// # Errors
    /// No lock is recorded from which it could be built, or the build fails.
    pub fn rebuild_from_lock(
        &self,
        wanted: &EnvironmentSpec,
        name: &EnvironmentName,
        strategy: Strategy,
        run: &RunId,
    ) -> Outcome<Ensured> {
        let record = Record::read(self.site.layout, name)?;
        let is_changed = record.as_ref().is_some_and(|record| !record.is_good());
        let why = if is_changed { "was changed manually" } else { "or its interpreter does not exist" };
        let lock = match &record {
            Some(record) => self.lock_in(record)?,
            // The environment was pruned, and its record with it. Its definition gives the same result, unless it may
            // have been resolved in another way then.
            None => self.known_lock(wanted)?.filter(|lock| lock.summary().not_reproducible.is_none()),
        };
        let Some(mut lock) = lock else {
            return Err(Failure::new(format!(
                "the environment {name} {why}, and no lock is kept from which the same could be built"
            ))
            .command("ladylinux-refresh history", &[])
            .command("ladylinux-refresh run", &[]));
        };
        // The lock of the definition may differ by now; it stays as it is.
        lock.key = format!("{}-{}", wanted.key(), &lock.digest()[..16]);
        let mut ensured = self.ensure_from(wanted, Some(lock), strategy, run)?;
        ensured.why = match ensured.made {
            BuildOutcome::Built => format!("the environment {name} {why}: built again from its lock"),
            BuildOutcome::Reused => format!("the environment {name} {why}; this one is of the same lock"),
        };
        Ok(ensured)
    }

    /// Returns a good environment, built from this lock or from that of the definition.
    fn ensure_from(
        &self,
        wanted: &EnvironmentSpec,
        lock: Option<Lock>,
        strategy: Strategy,
        run: &RunId,
    ) -> Outcome<Ensured> {
        self.discard_incomplete()?;
        let mut contaminated = Vec::new();
        let mut unchanged = None;
        if let Some(live) = self.current()?.recorded() {
            match self.examine(live)? {
                Some(found) => contaminated.push(found),
                None => unchanged = Some(live.name.clone()),
            }
        }
        let is_of_this_run = |environment: &RecordedEnvironment| {
            environment.record.built().is_some_and(|built| built.run == *run)
        };
        let lock = lock.map_or_else(|| self.lock(wanted), Ok)?;
        // The best one last: the one that this run has built, else the newest.
        let mut of_this = self.of_fingerprint(&wanted.parts(&lock).fingerprint())?;
        of_this.retain(|environment| strategy == Strategy::WhenChanged || is_of_this_run(environment));
        of_this.sort_by_key(is_of_this_run);
        while let Some(environment) = of_this.pop() {
            let is_examined = unchanged.as_ref() == Some(&environment.name);
            if !is_examined && let Some(found) = self.examine(&environment)? {
                contaminated.push(found);
                continue;
            }
            let environment = self.recheck_imports(environment)?;
            let why = if is_of_this_run(&environment) {
                "this run has built it already"
            } else {
                "requirements unchanged"
            };
            return Ok(Ensured {
                environment,
                made: BuildOutcome::Reused,
                why: why.to_owned(),
                contaminated,
            });
        }
        let why = self.reason_to_build(wanted, strategy)?.unwrap_or_default();
        let environment = self.build(wanted, &lock, run)?;
        Ok(Ensured { environment, made: BuildOutcome::Built, why, contaminated })
    }

    /// Tries the imports of an environment that was verified for a different use: the host now declares other modules, or
    /// starts its service with another command.
    fn recheck_imports(&self, mut environment: RecordedEnvironment) -> Outcome<RecordedEnvironment> {
        let checks = ImportChecks::of(self.site.python);
        if environment.record.built().is_none_or(|built| built.tried_for.as_ref() == Some(&checks)) {
            return Ok(environment);
        }
        self.site
            .try_imports(environment.path.clone())
            .context(|| format!("the environment {} does not serve any more", environment.name))?;
        environment.record = environment.record.tried_for(checks);
        environment.record.write(self.site.layout)?;
        Ok(environment)
    }

    /// Checks whether an environment was changed. If it was, the change is recorded, and the environment is never used
    /// again.
    ///
    /// # Errors
    /// The environment cannot be read, or its record cannot be written.
    pub fn examine(&self, environment: &RecordedEnvironment) -> Outcome<Option<Contaminated>> {
        let Some(found) = self.compare(environment, By::Metadata)? else { return Ok(None) };
        self.mark_contaminated(environment, &found)?;
        Ok(Some(Contaminated { name: environment.name.clone(), found }))
    }

    fn build(&self, wanted: &EnvironmentSpec, lock: &Lock, run: &RunId) -> Outcome<RecordedEnvironment> {
        let layout = self.site.layout;
        self.site.ensure_uv(&wanted.interpreter)?;
        let name = self.next_name(&wanted.parts(lock).fingerprint())?;
        self.site.runner.events().note(&format!("building the environment {name}"));
        let built = self.build_as(&name, wanted, lock, run);
        let tidied = interrupt::shielded(|| {
            if built.is_err() {
                Record::remove(layout, &name)?;
                disk::remove_tree(&layout.environment(&name))?;
            }
            Ok(())
        });
        let environment = built.context(|| format!("cannot build the environment {name}"))?;
        tidied?;
        Ok(environment)
    }

    /// The steps of a build. The record comes last: without it the environment is not finished.
    fn build_as(
        &self,
        name: &EnvironmentName,
        wanted: &EnvironmentSpec,
        lock: &Lock,
        run: &RunId,
    ) -> Outcome<RecordedEnvironment> {
        let site = self.site;
        let start = clock::monotonic();
        let directory = site.layout.environment(name);
        let request = BuildRequest {
            setup: site.setup()?,
            interpreter: wanted.interpreter.clone(),
            lock: lock.clone(),
            directory: directory.clone(),
            cache: None,
        };
        let made: BuildResponse = site.call(OPERATION, &request)?;
        site.try_imports(directory.clone())?;
        made.overlaps.iter().map(Overlap::in_words).for_each(|words| site.runner.events().note(&words));
        disk::make_directory(&site.layout.environment_records(), 0o755)?;
        disk::write_atomic(&record::manifest_file(site.layout, name), made.manifest.as_bytes(), 0o644)?;
        checkpoint::reach("python:manifest written");
        let took = clock::monotonic().duration_since(start).as_millis();
        let built = Built {
            run: run.clone(),
            fingerprint: wanted.parts(lock).fingerprint(),
            parts: wanted.parts(lock),
            kept: Some(lock.clone()),
            tried_for: Some(ImportChecks::of(site.python)),
            interpreter: wanted.interpreter.clone(),
            overlaps: made.overlaps,
            from_source: made.from_source,
            duration_ms: u64::try_from(took).unwrap_or(u64::MAX),
        };
        let origin = Origin::Built(Box::new(built));
        let record = Record::new(name.clone(), origin, made.packages, made.size, Some(made.digest));
        record.write(site.layout)?;
        checkpoint::reach("python:recorded");
        Ok(RecordedEnvironment { name: name.clone(), path: directory, record })
    }
}
