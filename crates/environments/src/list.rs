//! The existing environments, each with its standing, and whether one is still as built. Only reads.

use serde::Serialize;

use refresh_settings::Python;
use refresh_settings::names::EnvironmentName;
use refresh_system::error::Outcome;
use refresh_system::manifest::contamination::Contamination;

use super::Site;
use super::interpreter::Interpreter;
use super::record::{self, Record};
use super::recorded_environments::{Environments, RecordedEnvironment};

/// An environment in the list of all.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub name: EnvironmentName,
    /// Its standing.
    pub standing: Standing,
    /// Its record.
    pub record: Option<Record>,
    /// The manual change in it.
    pub contamination: Option<Contamination>,
}

/// The standing of an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::AsRefStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Standing {
    /// It was built and verified, and may be used.
    Good,
    /// It was changed; it is not used again.
    Contaminated,
    /// It existed before the tool; it serves as a rollback target.
    Adopted,
    /// It was not finished, or a part of it is missing; the next run removes it.
    Incomplete,
}

impl Environments<'_> {
    /// Lists all environments, the newest first.
    ///
    /// # Errors
    /// The records or an environment cannot be read.
    pub fn overview(&self) -> Outcome<Vec<Listed>> {
        let mut all = Vec::new();
        for name in record::known_names(self.site.layout)? {
            let Some(environment) = self.known(&name)? else {
                let record = Record::read(self.site.layout, &name)?;
                if record.is_some() {
                    // Only the record from which it can be built again remains.
                    continue;
                }
                all.push(Listed { name, standing: Standing::Incomplete, record, contamination: None });
                continue;
            };
            let contamination = self.contamination(&environment)?;
            let standing = match (&contamination, environment.record.built()) {
                (Some(_), _) => Standing::Contaminated,
                (None, None) => Standing::Adopted,
                (None, Some(_)) => Standing::Good,
            };
            all.push(Listed { name, standing, record: Some(environment.record), contamination });
        }
        all.sort_by_key(|listed| std::cmp::Reverse(listed.record.as_ref().map(|record| record.recorded_at)));
        Ok(all)
    }

    /// Returns the problem of the interpreter that an environment links to. `None` if it still is the one of the build,
    /// and for an adopted directory.
    ///
    /// # Errors
    /// The run was interrupted.
    pub fn interpreter_problem(&self, environment: &RecordedEnvironment) -> Outcome<Option<String>> {
        let Some(built) = environment.record.built() else { return Ok(None) };
        let recorded = &built.interpreter;
        let leads_to = environment.path.join("bin/python").canonicalize().ok();
        if leads_to.as_ref() != Some(&recorded.path) {
            let now = leads_to.map_or("nothing".to_owned(), |path| path.display().to_string());
            return Ok(Some(format!("it leads to {now} instead of {}", recorded.path.display())));
        }
        let python = Python { interpreter: recorded.path.display().to_string(), ..self.site.python.clone() };
        match Interpreter::find(Site { python: &python, ..self.site }) {
            Ok(now) if now.identity() == recorded.identity() => Ok(None),
            Ok(now) => Ok(Some(format!("it is {} now and was {}", now.version, recorded.version))),
            Err(failure) if failure.interrupted_by().is_some() => Err(failure),
            Err(failure) => Ok(Some(failure.chain().join(": "))),
        }
    }
}
